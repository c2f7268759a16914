"""The exercise on runs that are sick: which sickness is it, on recorded runs that nobody has seen (notebook 16)."""

from collections import Counter
from collections.abc import Sequence

from ..diagnoses import diagnosis
from ..grading import Exercise
from ..recorded_runs import recorded_runs
from ..sick_runs import KINDS

RUNS = recorded_runs("unseen")
MISSES = 1  # that are let through in each kind: other programs may have disturbed a run


def _judge(given: Sequence) -> str:
    """How many of each kind were right, and a hint at the kind that was missed most."""
    for said in given:
        if not isinstance(said, str) or said not in KINDS:
            return f"An answer was {' '.join(repr(said).split()):.60}, which is none of {', '.join(KINDS)}."
    of = Counter(kind for kind, _ in RUNS)
    missed = Counter(kind for (kind, _), said in zip(RUNS, given, strict=True) if said != kind)
    if not any(n > MISSES for n in missed.values()):
        return ""
    worst, _ = missed.most_common(1)[0]
    told = ", ".join(f"{kind} {of[kind] - missed[kind]}" for kind in KINDS)
    taken_for = Counter(said for (kind, _), said in zip(RUNS, given, strict=True) if kind == worst != said)
    return f"Right of {of[worst]} runs of each kind: {told}. {_hint(worst, taken_for.most_common(1)[0][0])}"


def _hint(kind: str, said: str) -> str:
    """What tells the two apart, where they are alike, and else what the kind shows."""
    for each, other in ((kind, said), (said, kind)):
        if KINDS[each].alike == other:
            return f"{kind.capitalize()} was taken for {said}: {KINDS[each].asks}"
    return f"{kind.capitalize()} was taken for {said}; it shows {KINDS[kind].shows}."


EXERCISES = [Exercise(name="diagnose", cases=[(series,) for _, series in RUNS], right=diagnosis, judge=_judge)]
