"""The exercises of notebook 16 against usual wrong answers and different right ones; and Prometheus itself."""

import itertools
import subprocess
from shutil import which

import numpy as np
import pytest

from llmhw_helpers.course.exercises import EXERCISES, monitoring
from llmhw_helpers.course.grading import grade


def by_half_seconds(flops, n_bytes, seconds, peak_flops_per_s, peak_bytes_per_s):
    """Which of the two would have needed more than half of the time?"""
    compute, memory = flops / peak_flops_per_s, n_bytes / peak_bytes_per_s
    if max(compute, memory) < seconds / 2:
        return "neither"
    return "memory" if memory > compute else "compute"


def by_shares(flops, n_bytes, seconds, peak_flops_per_s, peak_bytes_per_s, least=0.5):
    mfu, share = flops / (seconds * peak_flops_per_s), n_bytes / (seconds * peak_bytes_per_s)
    for name, mine, other in (("compute", mfu, share), ("memory", share, mfu)):
        if mine >= least and mine >= other:
            return name
    return "neither"


def by_steps(readings):
    total, (begin, before) = 0, readings[0]
    for _, value in readings[1:]:
        total += value if value < before else value - before
        before = value
    return total / (readings[-1][0] - begin)


def by_lost(readings):
    """What each restart lost is added to what is left in the end."""
    seconds, values = np.array(readings, float).T
    lost = values[:-1][np.diff(values) < 0].sum()
    return (values[-1] - values[0] + lost) / (seconds[-1] - seconds[0])


def by_merging(events):
    idle, end = 0, None
    for start, duration in sorted(events):
        idle += max(0, start - end) if end is not None else 0
        end = max(end if end is not None else start, start + duration)
    return idle / (end - min(events)[0])


def by_edges(events):
    """Between any two moments at which something starts or ends, does something run?"""
    edges = sorted({edge for start, duration in events for edge in (start, start + duration)})
    idle = 0
    for a, b in itertools.pairwise(edges):
        idle += 0 if any(start <= a and b <= start + duration for start, duration in events) else b - a
    return idle / (edges[-1] - edges[0])


def span(events):
    return max(s + d for s, d in events) - min(s for s, _ in events)


def next_to(events):
    return sum(max(0, b - a - d) for (a, d), (b, _) in itertools.pairwise(events)) / span(events)


def first_to_last(readings):
    return (readings[-1][1] - readings[0][1]) / (readings[-1][0] - readings[0][0])


def positive(readings):
    values = np.array(readings, float)
    return np.diff(values[:, 1]).clip(0).sum() / (values[-1, 0] - values[0, 0])


def mean_of_rates(readings):
    return np.mean([by_steps(readings[i : i + 2]) for i in range(len(readings) - 1)])


RIGHT = {
    "at_work": [by_half_seconds, by_shares],
    "per_second": [by_steps, by_lost],
    "idle_share": [by_merging, by_edges],
}
WRONG = {
    "at_work": [
        (lambda *a: by_shares(*a, least=0), "below one half"),
        (lambda f, b, s, pf, pb: "compute" if f / pf > b / pb else "memory", "below one half"),
        (lambda f, b, *rest: "compute" if f > b else "memory", "operations with bytes"),
        (lambda f, b, s, pf, pb: "compute" if f / s > pf / 2 else "memory", "the arithmetic alone"),
        (lambda f, b, s, pf, pb: by_shares(f, b, 1, pf, pb), "left out the seconds"),
        (lambda *a: "busy", "not right"),
        (lambda *a: 0.7, "a str is asked for"),
    ],
    "per_second": [
        (first_to_last, "last reading less the first"),
        (positive, "count nothing"),
        (
            lambda r: (
                sum(b - a if b >= a else b + a for (_, a), (_, b) in itertools.pairwise(r)) / (r[-1][0] - r[0][0])
            ),
            "add both values",
        ),
        (lambda r: by_steps(r) * (r[-1][0] - r[0][0]) / len(r), "how many readings"),
        (lambda r: by_steps(r) * (r[-1][0] - r[0][0]), "how much it increased"),
        (mean_of_rates, "different lengths"),
        (lambda r: r[-1][1], "times the right answer"),
    ],
    "idle_share": [
        (lambda e: 1 - by_edges(e), "the rest is asked for"),
        (lambda e: 1 - sum(d for _, d in e) / span(e), "counted twice"),
        (lambda e: max(0, 1 - sum(d for _, d in e) / span(e)), "counted twice"),
        (lambda e: next_to(sorted(e)), "latest end so far"),
        (next_to, "sort them first"),
        (lambda e: 1 - (1 - by_edges(e)) * span(e) / max(s + d for s, d in e), "begins at 0"),
    ],
}


def test_monitoring(confront):
    confront(monitoring.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in monitoring.EXERCISES)


def test_at_half_of_both_peaks_the_larger_share_is_named():
    cases = {exercise.name: exercise.cases for exercise in monitoring.EXERCISES}["at_work"]
    assert {by_shares(*case) for case in cases} == {"compute", "memory", "neither"}
    assert any(min(f / s / pf, b / s / pb) >= 0.5 for f, b, s, pf, pb in cases)


@pytest.mark.skipif(not which("promtool"), reason="promtool of Prometheus is not installed")
def test_the_rate_is_prometheus_own(tmp_path):
    """Readings at even times that fill the window, restarts among them: there `rate` has nothing to extrapolate."""
    even = [readings for (readings,) in EXERCISES["per_second"].cases if len({*np.diff([t for t, _ in readings])}) == 1]
    assert any(np.diff([value for _, value in readings]).min() < 0 for readings in even)
    (tmp_path / "rules.yml").write_text("groups: []\n")
    lines = ["rule_files: [rules.yml]", "evaluation_interval: 1s", "tests:"]
    for readings in even:
        step, window = readings[1][0] - readings[0][0], readings[-1][0] - readings[0][0]
        values = " ".join(str(value) for _, value in readings)
        lines += [f"- interval: {step}s", f"  input_series: [{{series: x, values: '{values}'}}]", "  promql_expr_test:"]
        lines += [f"  - expr: round(1000 * rate(x[{window}s]))", f"    eval_time: {window}s"]
        right = EXERCISES["per_second"].right(readings)
        lines += [f"    exp_samples: [{{labels: '{{}}', value: {round(1000 * right)}}}]"]
    (tmp_path / "tests.yml").write_text("\n".join(lines) + "\n")
    run = subprocess.run(["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_whatever_an_answer_does_it_gets_a_line():
    for exercise in monitoring.EXERCISES:
        assert "not answered yet" in grade(lambda *a: None, exercise).line
        assert "raised ZeroDivisionError" in grade(lambda *a: 1 / 0, exercise).line
