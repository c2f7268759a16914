"""The exercise on sick runs of notebook 16 against usual wrong answers and different right ones."""

from collections import Counter

import numpy as np
import pytest

from llmhw_helpers.course.diagnoses import diagnosis
from llmhw_helpers.course.exercises import EXERCISES
from llmhw_helpers.course.exercises import diagnosis as room
from llmhw_helpers.course.grading import grade
from llmhw_helpers.course.sick_runs import step_parts


def halves(series):
    change = series.times("change")[0]
    return series.between(0, change), series.between(change, 1e9)


def ratio(series, name):
    before, after = halves(series)
    return after.mean(name) / before.mean(name)


def by_gaps(series):
    """Without `step_parts`: each stretch of time belongs to the mark that ends it."""
    _, after = halves(series)
    names = Counter(name for _, name in after.marks)
    if names["checkpoint ends"] < names["checkpoint begins"]:
        return "full disk"
    memory = series["rss_bytes"]
    if np.median(memory[-3:]) > 1.08 * np.median(memory[series.seconds < series.times("change")[0]]):
        return "memory leak"
    if ratio(series, "tokens_per_s") > 0.72:
        return "healthy"
    cost = ratio(series, "cpu_percent") / ratio(series, "tokens_per_s")
    if len(after.times("step")) > 1.5 * len(halves(series)[0].times("step")) and cost > 2:
        return "small batch"
    ends = np.diff([when for when, _ in after.marks])
    share = {
        what: sum(ends[i] for i, (_, name) in enumerate(after.marks[1:]) if name.endswith(what)) / ends.sum()
        for what in ("batch", "ready", "checkpoint ends")
    }
    most = max(share, key=share.get)
    if most != "ready":
        return {"batch": "starved loader", "checkpoint ends": "checkpoint stalls"}[most]
    if cost < 1.45:
        return "noisy neighbour"
    zero, one = (after.times(f"rank {rank} ready") for rank in (0, 1))
    last = np.mean(zero > one)
    return "straggler" if max(last, 1 - last) > 0.85 and cost < 2.5 else "sync per element"


def by_cpu_alone(series):
    """What `htop` shows."""
    cpu = ratio(series, "cpu_percent")
    return "starved loader" if cpu < 0.5 else "noisy neighbour" if cpu < 0.8 else "healthy"


def by_absolute_figures(series):
    """Thresholds that were read off one run of one machine."""
    _, after = halves(series)
    now = step_parts(after)
    if after["rss_bytes"][-1] > 700e6:
        return "memory leak"
    if after.mean("tokens_per_s") > 40_000:
        return "healthy"
    if now["batch"] > 0.04:
        return "starved loader"
    if now["checkpoint"] > 0.04:
        return "checkpoint stalls"
    if now["slowest rank"] > 0.03:
        return "straggler"
    return "noisy neighbour" if after.mean("cpu_percent") < 90 else "sync per element"


def without(kind, instead):
    """One sickness that is never thought of."""
    return lambda series: instead if diagnosis(series) == kind else diagnosis(series)


RIGHT = {"diagnose": [diagnosis, by_gaps]}
WRONG = {
    "diagnose": [
        (by_cpu_alone, "Right of 3 runs of each kind"),
        (lambda series: "healthy", "healthy 3, starved loader 0"),
        (by_absolute_figures, "was taken for"),
        (without("full disk", "healthy"), "Full disk was taken for healthy: do all checkpoints that begin also end?"),
        (without("memory leak", "healthy"), "Memory leak was taken for healthy: how much memory"),
        (without("small batch", "healthy"), "how many tokens come of all the steps?"),
        (without("checkpoint stalls", "starved loader"), "between which marks is the time lost?"),
        (without("sync per element", "noisy neighbour"), "only more time on the clock?"),
        (without("straggler", "sync per element"), "Straggler was taken for sync per element; it shows the same rank"),
        (lambda series: "slow", "'slow', which is none of healthy, starved loader"),
        (lambda series: series["gpu_busy_percent"].mean() and "healthy", "raised UnknownName"),
        (lambda series: "healthy" if len(halves(series)[0]) else None, "healthy 3, starved loader 0"),
    ]
}


def test_diagnosis(confront):
    confront(room.EXERCISES, RIGHT, WRONG)


def test_one_run_of_a_kind_may_be_missed_and_no_more():
    def missing(n):
        missed = iter(range(n))
        return lambda series: (
            "healthy" if diagnosis(series) == "straggler" and next(missed, None) is not None else diagnosis(series)
        )

    exercise = EXERCISES["diagnose"]
    assert grade(missing(1), exercise).right
    line = grade(missing(2), exercise).line
    assert "straggler 1," in line
    assert "healthy 3, starved loader 3" in line


@pytest.mark.parametrize("junk", [(), [], np.zeros(3), {"healthy"}, b"healthy"])
def test_any_answer_gets_a_line(junk):
    line = grade(lambda series: junk, EXERCISES["diagnose"]).line
    assert "none of healthy" in line
    assert "\n" not in line


def test_the_grader_names_no_file():
    lines = [grade(answer, EXERCISES["diagnose"]).line for answer, _ in WRONG["diagnose"]]
    assert not any(".json" in line or "seed" in line for line in lines)


def test_it_is_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in room.EXERCISES)
