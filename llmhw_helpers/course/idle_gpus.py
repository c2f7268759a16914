"""A job that leaves its GPU idle for most of its time, as a monitor sees it; the GPU is played, so any machine will do.

One process is the job. Another one plays the GPU: it takes orders, and for each of them it computes for as long as the
order says, as a GPU runs a kernel, while the job goes on with something else or waits. What counts as busy is what NVML
calls utilization: the share of the time in which a kernel ran.
"""

import os
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from ..distributed.ranks import Ranks
from ..measure.monitors import Monitor
from ..measure.series import Series

KERNEL_S, INTERVAL_S = 0.02, 0.1
HELD_BYTES = 60e9  # what the job takes of a GPU of 80 GB; the process that plays one takes nothing
# seconds of each piece of the job, and for each kernel the seconds that its batch takes to prepare
PHASES = {
    "reads the model": (1.0, None),
    "prepares each batch when it is wanted": (1.5, 3 * KERNEL_S),
    "prepares batches ahead": (1.5, 0.0),
    "evaluates on the CPU": (1.0, None),
    "is left open": (1.5, None),
}
COMPUTES = ("reads the model", "evaluates on the CPU")  # in Python, on one core
Span = tuple[float, float]


def idle_gpu_run(seconds: float = 1.0) -> Series:
    """Run such a job, through all its `PHASES`, and watch it: six and a half seconds, and two to start.

    Args:
        seconds: that a second of the phases takes.

    Returns:
        The job's own columns of a `Monitor`, with "gpu_busy_percent" and "gpu_memory_bytes" of the GPU that was
        played, and a mark at the begin of each phase.

    Raises:
        RankFailed: one of the processes did not live through it.
    """
    with Ranks(2) as ranks:
        ranks.run(_warm_up)
        with Monitor(INTERVAL_S * min(1, seconds), ranks.run(os.getpid)[:1], gpus=False) as monitor:
            monitor.mark("begin")
            begin = time.monotonic()
            marks, kernels = ranks.run(_play, seconds)
    series = monitor.series()
    clock = series.times("begin")[0] - begin
    marks = [(when + clock, name) for when, name in marks]
    edges = np.concatenate([[series.begin_s], series.seconds])
    columns = {
        **series.columns,
        "gpu_busy_percent": 100 * np.diff(_busy_until(edges - clock, kernels)) / series.durations,
        "gpu_memory_bytes": np.where(series.seconds > marks[1][0], HELD_BYTES, 0.0),
    }
    units = {**series.units, "gpu_busy_percent": "%", "gpu_memory_bytes": "B"}
    return Series(series.seconds, columns, units, marks, begin_s=series.begin_s)


def _busy_until(moments: np.ndarray, kernels: Sequence[Span]) -> np.ndarray:
    """Seconds in which a kernel had run until each moment; kernels come one after the other."""
    times = np.array([0.0, *np.array(kernels).flat])
    busy = np.concatenate([[0.0, 0.0], np.cumsum([(end - begin, 0.0) for begin, end in kernels])[:-1]])
    return np.interp(moments, times, busy)


def _warm_up() -> None:
    torch.ones(64, 64) @ torch.ones(64, 64)


def _play(seconds: float) -> list:
    return _job(seconds) if dist.get_rank() == 0 else _gpu()


def _gpu() -> list[Span]:
    """Take orders, each so many seconds of work, until one is negative; when each was begun and done."""
    order, x, kernels = torch.zeros(1, dtype=torch.float64), torch.ones(64, 64), []
    while True:
        dist.recv(order, src=0)
        if order < 0:
            return kernels
        begin = now = time.monotonic()
        while now < begin + order:
            x @ x
            now = time.monotonic()
        kernels.append((begin, now))
        dist.send(order, dst=0)


def _job(seconds: float) -> list[tuple[float, str]]:
    """Go through the phases; when each began."""
    marks, order = [], torch.tensor([KERNEL_S * seconds], dtype=torch.float64)
    for name, (lasts, prepares) in PHASES.items():
        marks.append((time.monotonic(), name))
        end = marks[-1][0] + lasts * seconds
        while time.monotonic() < end:
            if prepares is None:
                _compute(0.01) if name in COMPUTES else time.sleep(0.01)
                continue
            _compute(prepares * seconds)
            dist.send(order, dst=1)
            dist.recv(order.clone(), src=1)
    dist.send(-order, dst=1)
    return marks


def _compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
