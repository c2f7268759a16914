"""Checkpoints: how large, how long, and how often. To save often costs time, and to save seldom costs what is lost.

A run computes for an interval, saves, and so on. A failure throws it back to the last save: what was computed since is
done again. Failures come without memory, on average one in `mtbf_s` seconds (mean time between failures).
"""

import math
import random
from dataclasses import dataclass

MOST_FAILURES = 1e7  # of a simulated run, about
WEIGHT_BYTES, STATE_BYTES = 2.0, 12.0  # bf16 weights; AdamW's two averages and its own weights, fp32 each


def checkpoint_bytes(n_params: float, weight_bytes: float = WEIGHT_BYTES, state_bytes: float = STATE_BYTES) -> float:
    """Bytes of a checkpoint to go on training from; ``state_bytes=0`` for one that only answers.

    >>> checkpoint_bytes(70e9) / 1e9, checkpoint_bytes(70e9, state_bytes=0) / 1e9
    (980.0, 140.0)
    """
    _positive(n_params=n_params)
    _not_below(weight_bytes=weight_bytes, state_bytes=state_bytes)
    return n_params * (weight_bytes + state_bytes)


def fleet_mtbf(part_mtbf_s: float, n_parts: int) -> float:
    """Seconds between failures of a run that stops when any of its `n_parts` does: ``one part's / n_parts``.

    >>> round(fleet_mtbf(5.8 * 365 * 24, 16384), 1)  # hours; so often were Llama 3's 16,384 GPUs interrupted
    3.1
    """
    _positive(part_mtbf_s=part_mtbf_s, n_parts=n_parts)
    return part_mtbf_s / n_parts


def young_interval(cost_s: float, mtbf_s: float) -> float:
    """Seconds to compute between two saves: ``sqrt(2 * cost * mtbf)``, for a cost far below the `mtbf_s`.

    Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974.

    >>> round(young_interval(cost_s=60, mtbf_s=3 * 3600) / 60, 1)  # minutes
    19.0
    """
    _positive(cost_s=cost_s, mtbf_s=mtbf_s)
    return math.sqrt(2 * cost_s * mtbf_s)


def daly_interval(cost_s: float, mtbf_s: float) -> float:
    """The same of higher order: right within a percent for a cost of up to half of the `mtbf_s`.

    Source: J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future
    Generation Computer Systems 22(3), 2006, equation 37.

    >>> round(daly_interval(cost_s=5, mtbf_s=24 * 60))  # minutes; the paper's figure 3
    117
    """
    _positive(cost_s=cost_s, mtbf_s=mtbf_s)
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    share = cost_s / (2 * mtbf_s)
    return young_interval(cost_s, mtbf_s) * (1 + math.sqrt(share) / 3 + share / 9) - cost_s


def best_interval(cost_s: float, mtbf_s: float) -> float:
    """The interval of the highest `efficiency`, by halving: where ``(t + cost) / mtbf + log(1 - t / mtbf) = 0``.

    >>> round(best_interval(cost_s=60, mtbf_s=3 * 3600) / 60, 1)
    18.3
    """
    _positive(cost_s=cost_s, mtbf_s=mtbf_s)
    low, high = 0.0, 1.0  # of the mtbf: the left side falls from above 0 without end in between
    for _ in range(52):  # as many bits as a number has
        middle = (low + high) / 2
        above = middle + cost_s / mtbf_s + math.log1p(-middle) > 0
        low, high = (middle, high) if above else (low, middle)
    return low * mtbf_s


def efficiency(interval_s: float, cost_s: float, mtbf_s: float, restart_s: float = 0.0) -> float:
    """Share of the time that a run gets on by: the work of an interval over what it takes on average, failures and all.

    ``t / (mtbf * exp(restart / mtbf) * (exp((t + cost) / mtbf) - 1))``, exact for failures without memory (Daly 2006).

    Args:
        interval_s: computed between two saves.
        cost_s: of a save, as long as the run waits for it.
        mtbf_s: mean time between failures of the whole run.
        restart_s: from a failure until it computes again; it may fail in that, too.

    >>> [round(efficiency(60 * minutes, 60, 3 * 3600), 3) for minutes in (2, 18, 120)]
    [0.661, 0.898, 0.695]
    """
    _positive(interval_s=interval_s, mtbf_s=mtbf_s)
    _not_below(cost_s=cost_s, restart_s=restart_s)
    once = (interval_s + cost_s) / mtbf_s
    try:
        return interval_s / (mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(once))
    except OverflowError:  # it never gets that far
        return 0.0


@dataclass(frozen=True)
class Run:
    """A simulated run.

    Attributes:
        seconds: of the whole of it.
        work_s: of work that it finished.
        saved, failed: how often it did.
    """

    seconds: float
    work_s: float
    saved: int
    failed: int

    @property
    def efficiency(self) -> float:
        """Work over time."""
        return self.work_s / self.seconds


def simulate(
    n_intervals: int, interval_s: float, cost_s: float, mtbf_s: float, restart_s: float = 0.0, seed: int = 0
) -> Run:
    """Compute and save `n_intervals` times, with failures drawn at random; the arguments are those of `efficiency`.

    >>> run = simulate(1000, 18 * 60, 60, 3 * 3600)
    >>> run.saved, run.failed, round(run.efficiency, 2)
    (1000, 94, 0.9)
    """
    _positive(n_intervals=n_intervals, interval_s=interval_s, mtbf_s=mtbf_s)
    _not_below(cost_s=cost_s, restart_s=restart_s)
    if math.log(n_intervals) + (restart_s + interval_s + cost_s) / mtbf_s > math.log(MOST_FAILURES):
        raise ValueError(f"with {interval_s} s between saves, and failures each {mtbf_s} s, the run would never end")
    draw = random.Random(seed).expovariate
    seconds, saved, failed, restart = 0.0, 0, 0, 0.0
    until_failure = draw(1 / mtbf_s)
    while saved < n_intervals:
        needed = restart + interval_s + cost_s
        if until_failure < needed:  # all since the last save is lost
            seconds += until_failure
            failed, restart, until_failure = failed + 1, restart_s, draw(1 / mtbf_s)
        else:
            seconds += needed
            saved, restart, until_failure = saved + 1, 0.0, until_failure - needed
    return Run(seconds, n_intervals * interval_s, saved, failed)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is a number above 0, not {value}")


def _not_below(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is a number not below 0, not {value}")
