"""Timing: warm up, repeat, wait for the GPU, keep every round. And the one way to print a measured figure."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..specs.figures import si


@dataclass(frozen=True)
class Timing:
    """Rounds of the same work, in seconds each."""

    rounds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The fastest round: what the machine can do when nobody disturbs it."""
        return min(self.rounds)

    @property
    def median(self) -> float:
        """The middle round: what one usually gets."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.rounds) - min(self.rounds)) / self.median


def time_call(
    run: Callable[[], object], device: torch.device | str = "cpu", rounds: int = 5, warmup: int = 1
) -> Timing:
    """Time `run` `rounds` times, after `warmup` runs that do not count.

    On a GPU the work is only queued when Python's call returns, so events on the device take the time, not the clock.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    for _ in range(warmup):
        run()
    one_round = _gpu_round if torch.device(device).type == "cuda" else _cpu_round
    return Timing(tuple(one_round(run) for _ in range(rounds)))


def _cpu_round(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _gpu_round(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def measured(value: float | str | bool | None, unit: str = "") -> str:
    """A figure of *this* machine, marked with ``~``: the tests compare everything else, and yours will differ.

    None is what a system does not tell.

    >>> measured(0.00123, "s"), measured(1.4321), measured(184321), measured("memory"), measured(True), measured(None)
    ('~1.23 ms', '~1.43', '~184,000', '~memory', '~yes', '~not told')
    """
    if value is None or isinstance(value, bool):
        value = {True: "yes", False: "no", None: "not told"}[value]
    if isinstance(value, str):
        return f"~{value}"
    if unit:
        return f"~{si(value, unit)}"
    return f"~{float(f'{value:.3g}'):,.0f}" if 999.5 <= abs(value) < 1e9 else f"~{value:.3g}"
