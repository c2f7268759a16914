"""Grading: an answer against an exercise, with a verdict of one line that says what is off and why.

An exercise knows the right answers from `costs` and `specs`, never from the notebook's own solution, and it knows the
usual mistakes by the values they give.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Number

import numpy as np

LISTED = 12  # numbers of an array that a line has room for


@dataclass(frozen=True)
class Mistake:
    """A usual slip: the answer that it leads to, and the hint for whoever gives that answer.

    An answer of ``...`` leaves that case out: there, whatever is given fits.
    """

    hint: str
    answer: Callable


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Attributes:
        name: of the function.
        cases: arguments to try, each a tuple.
        right: the oracle.
        mistakes: what to recognise, first match wins.
        rtol: relative tolerance for numbers.
        rule: where several answers are right: from the answer and the case's arguments the hint at what it breaks,
            empty where it keeps to all. It then decides in place of equality with `right`, which is one right answer.
        judge: where all answers count together: from the answers, in the cases' order, what is off, empty where they
            will do. It then decides.
    """

    name: str
    cases: Sequence[tuple]
    right: Callable
    mistakes: Sequence[Mistake] = ()
    rtol: float = 1e-3
    rule: Callable[..., str] | None = None
    judge: Callable[[Sequence], str] | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and the line to tell."""

    right: bool
    line: str


def grade(answer: Callable, exercise: Exercise) -> Verdict:
    """Try `answer` on every case of `exercise`; whatever it does, the result is a verdict."""
    name, given = exercise.name, []
    for case in exercise.cases:
        try:
            given.append(answer(*copy.deepcopy(case)))  # an answer may change an array that it is given
        except (Exception, SystemExit) as error:  # exit() would end the notebook's cell without a word
            said = " ".join(str(error).split())
            return Verdict(False, f"{name}: {_call(name, case)} raised {type(error).__name__}: {said:.200}")
    if all(value is None or value is Ellipsis for value in given):
        return Verdict(False, f"{name}: not answered yet.")
    if exercise.judge:
        off = exercise.judge(given)
        return Verdict(not off, f"{name}: not yet. {off}" if off else f"{name}: correct.")
    if exercise.rule:
        return _by_rule(given, exercise)
    expected = [exercise.right(*case) for case in exercise.cases]
    wrong = [i for i in range(len(given)) if not _equal(given[i], expected[i], exercise.rtol)]
    if not wrong:
        return Verdict(True, f"{name}: correct.")
    for mistake in exercise.mistakes:
        slips = [mistake.answer(*case) for case in exercise.cases]
        if all(map(_equal, given, slips, [exercise.rtol] * len(given))):
            return Verdict(False, f"{name}: not yet. {mistake.hint}")
    first = wrong[0]
    return Verdict(
        False, f"{name}: not yet. {_call(name, exercise.cases[first])} {_off(given[first], expected[first])}"
    )


def _by_rule(given: Sequence, exercise: Exercise) -> Verdict:
    for value, case in zip(given, exercise.cases, strict=True):
        try:
            broken = exercise.rule(value, *case)
        except (TypeError, ValueError, ArithmeticError):
            broken = "an answer of another kind is asked for"
        if broken:
            line = f"{exercise.name}: not yet. {_call(exercise.name, case)} gave {_plain(value):.60}: {broken}"
            return Verdict(False, line)
    return Verdict(True, f"{exercise.name}: correct.")


def _equal(given: object, expected: object, rtol: float) -> bool:
    try:
        if expected is Ellipsis:
            return True
        if isinstance(expected, bool | str):
            return type(given) is type(expected) and given == expected
        if isinstance(expected, Number):
            return not isinstance(given, bool | str) and math.isclose(
                float(given), expected, rel_tol=rtol, abs_tol=1e-12
            )
        if isinstance(expected, np.ndarray):
            given = np.asarray(given, float)
            return given.shape == expected.shape and np.allclose(given, expected, rtol, 1e-12, equal_nan=True)
        return len(given) == len(expected) and all(_equal(a, b, rtol) for a, b in zip(given, expected, strict=True))
    except (TypeError, ValueError, ArithmeticError):
        return False


def _off(given: object, expected: object) -> str:
    if isinstance(expected, int | float) and not isinstance(expected, bool) and isinstance(given, Number):
        with contextlib.suppress(ArithmeticError, TypeError):
            ratio, beyond = float(given) / expected, float(given) - expected
            if f"{ratio:.4g}" == "1":  # what is wrong is a small term, and rounding would hide it
                more = "more" if beyond > 0 else "less"
                return f"gave {float(given):,.12g}, {abs(beyond):,.4g} {more} than the right answer."
            if ratio == 0:
                return "gave 0, and the right answer is not 0."
            if f"{ratio:.4g}" == "-1":
                return f"gave {float(given):.4g}: only the sign is wrong."
            return f"gave {float(given):.4g}, {ratio:.4g} times the right answer."
    if isinstance(expected, np.ndarray) and isinstance(given, list | tuple):
        with contextlib.suppress(TypeError, ValueError):
            given = np.asarray(given, float)  # as good as an array
    if type(given) is not type(expected):
        kind = type(expected).__name__
        kind = f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
        return f"gave {type(given).__name__} {_plain(given):.60}; {kind} is asked for."
    if isinstance(expected, np.ndarray) and given.shape != expected.shape:
        return f"gave shape {given.shape}; {expected.shape} is asked for."
    return f"gave {_plain(given):.60}, which is not right."


def _call(name: str, case: tuple) -> str:
    return f"{name}({', '.join(map(_plain, case))})"


def _plain(value: object) -> str:
    """On one line, a small array as the list that it is and a larger one by its shape."""
    if isinstance(value, np.ndarray) and value.size > LISTED:
        return f"<{' x '.join(map(str, value.shape))} numbers>"
    return " ".join((repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value)).split())
