"""What a run suffers from, by what was sampled while it went on: the course's own answer to notebook 16's exercise."""

from ..measure.series import Series
from .sick_runs import step_parts


def diagnosis(series: Series) -> str:
    """Which of `sick_runs.KINDS` the run is, by comparing it after the change with itself before.

    All thresholds are ratios, half way between nothing and what would be worth repairing: no figure is of one machine.
    """
    change = series.times("change")[0]
    before, after = series.between(series.begin_s, change), series.between(change, series.seconds[-1])

    def ratio(name: str) -> float:
        return after.mean(name) / before.mean(name)

    if len(after.times("checkpoint begins")) > len(after.times("checkpoint ends")):
        return "full disk"
    if after["rss_bytes"][-1] > 1.05 * before["rss_bytes"][-1]:
        return "memory leak"
    if ratio("tokens_per_s") > 0.7:
        return "healthy"
    was, now = step_parts(before), step_parts(after)
    if sum(now.values()) < sum(was.values()):
        return "small batch"  # more steps a second, and fewer tokens
    longer = max(now, key=lambda part: now[part] - was[part])
    if longer in ("batch", "checkpoint"):
        return {"batch": "starved loader", "checkpoint": "checkpoint stalls"}[longer]
    if ratio("cpu_percent") < 1.5 * ratio("tokens_per_s"):
        return "noisy neighbour"  # no more processor time for a token than before, and a longer time for it
    return "straggler" if longer == "slowest rank" else "sync per element"
