"""Training runs that are watched while they fall sick: at a mark named "change", or not at all.

A run is two ranks (or more) that train a small model as `sick_jobs` says, and a `Monitor` beside them. Until the change
every run is healthy, so that each can be compared with itself: the same job, on the same machine, at the same hour.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..distributed.ranks import Ranks
from ..measure.monitors import Monitor
from ..measure.series import Series
from ..specs.figures import look_up
from .sick_jobs import Mark, SickJob, train

WARM_UP_S, HEALTHY_S, SICK_S, INTERVAL_S = 0.2, 1.5, 2.5, 0.1
# One core's work for as long as its parent lives, whatever happens to that.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@dataclass(frozen=True)
class Kind:
    """One way to be sick.

    Attributes:
        done: what is changed in the run.
        shows: what changes in its series.
        alike: the kind that is easily taken for it.
        asks: the question whose answer tells the two apart.
    """

    done: str
    shows: str
    alike: str
    asks: str


KINDS: Mapping[str, Kind] = {
    "healthy": Kind(
        "nothing",
        "nothing: tokens a second, processor and memory go on as before, within what other programs disturb",
        "full disk",
        "do all checkpoints that begin also end?",
    ),
    "starved loader": Kind(
        "each batch comes from a storage that answers late",
        "a long wait before each batch, and an idle processor meanwhile",
        "checkpoint stalls",
        "between which marks is the time lost?",
    ),
    "sync per element": Kind(
        "every gradient of a matrix is looked at by itself, fetched with .item()",
        "each step computes longer, and every token costs more processor time than before",
        "noisy neighbour",
        "does a token cost more processor time, or only more time on the clock?",
    ),
    "small batch": Kind(
        "one sequence a step and rank",
        "more steps a second, and yet fewer tokens; the processor stays busy",
        "healthy",
        "how many tokens come of all the steps?",
    ),
    "memory leak": Kind(
        "every step's logits are kept in a list",
        "memory grows with each step, and nothing else changes until there is none left",
        "healthy",
        "how much memory is taken at the end, against the change?",
    ),
    "noisy neighbour": Kind(
        "other programs compute on the same cores",
        "all ranks take longer for the same, and get less of the processor",
        "sync per element",
        "does a token cost more processor time, or only more time on the clock?",
    ),
    "straggler": Kind(
        "one rank computes three or four times as long as the others",
        "the same rank is always the last one ready, and the others wait for it",
        "noisy neighbour",
        "is it always the same rank that the others wait for, and does a token cost more processor time?",
    ),
    "checkpoint stalls": Kind(
        "the storage takes long for each checkpoint",
        "no step, and an idle processor, from each checkpoint's begin to its end",
        "starved loader",
        "between which marks is the time lost?",
    ),
    "full disk": Kind(
        "the system refuses to write the checkpoint, and the trainer goes on without",
        "checkpoints begin and do not end, and nothing else changes until one is needed",
        "healthy",
        "do all checkpoints that begin also end?",
    ),
}


def sick_run(kind: str, seed: int = 0, ranks: Ranks | None = None) -> Series:
    """Run a training job that is healthy for a while and then has that sickness, and watch it: some four seconds.

    Args:
        kind: one of `KINDS`.
        seed: of the job, and of how strong its sickness is.
        ranks: those that train; without, two that are started for it and ended.

    Returns:
        What a `Monitor` saw of the ranks, with a column "tokens_per_s" and these marks: "change"; "rank 0 batch" and
        "rank 0 ready" when rank 0 has its batch, and its gradients, and so for every rank; "step" when all have taken
        the step; "checkpoint begins" and "checkpoint ends".

    Raises:
        UnknownName: there is no such kind; the message names the nearest.
        ValueError: a straggler of one rank, for which nobody waits.
        RankFailed: a rank did not live through it.
    """
    kind = look_up(kind, {each: each for each in KINDS}, "kind of run")
    if kind == "straggler" and ranks and ranks.n_ranks < 2:
        raise ValueError("nobody waits for a straggler of one rank: take Ranks(2) or more")
    with tempfile.TemporaryDirectory() as folder, contextlib.nullcontext(ranks) if ranks else Ranks(2) as ranks:
        job, path = SickJob.drawn(seed, ranks.n_ranks), Path(folder) / "checkpoint"
        ranks.run(train, job, "healthy", WARM_UP_S, path)  # what is only done once is done before anybody looks
        pids = ranks.run(os.getpid)
        with Monitor(INTERVAL_S, pids) as monitor:
            monitor.mark("begin")
            begin = time.monotonic()
            before = _merged(ranks.run(train, job, "healthy", HEALTHY_S, path))
            step_s = float(np.median(np.diff(_times(before, "step"))))
            change = (time.monotonic(), "change")
            with _neighbours(pids) if kind == "noisy neighbour" else contextlib.nullcontext():
                after = _merged(ranks.run(train, job, kind, SICK_S, path, step_s))
            time.sleep(INTERVAL_S)  # so that no mark is behind the last sample
        series = monitor.series()
        clock = series.times("begin")[0] - begin  # the monitor's, less the one that all processes share
        tokens = {each: job.seq_len * ranks.n_ranks * job.rows(each) for each in ("healthy", kind)}
    done = [(when + clock, tokens["healthy"]) for when in _times(before, "step")]
    done += [(when + clock, tokens[kind]) for when in _times(after, "step")]
    return _with(series, [(when + clock, name) for when, name in (*before, change, *after)], done)


def _merged(marks: Sequence[Sequence[Mark]]) -> list[Mark]:
    return sorted(mark for of_a_rank in marks for mark in of_a_rank)


def _times(marks: Sequence[Mark], name: str) -> list[float]:
    return [when for when, each in marks if each == name]


def _with(series: Series, marks: Sequence[Mark], done: Sequence[tuple[float, int]]) -> Series:
    """The series with these marks, and a column of the tokens that were done at these moments."""
    edges = np.concatenate([[series.begin_s], series.seconds])
    tokens, _ = np.histogram([when for when, _ in done], edges, weights=[n for _, n in done])
    columns = {**series.columns, "tokens_per_s": tokens / series.durations}
    units = {**series.units, "tokens_per_s": "tokens/s"}
    return Series(series.seconds, columns, units, marks, begin_s=series.begin_s)


@contextlib.contextmanager
def _neighbours(pids: Sequence[int]) -> Iterator[None]:
    """Two other programs for each core of these processes: on Linux as many cores as there are processes, else all."""
    cores = list(range(os.cpu_count() or 1))
    before = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if before:
        cores = before[: len(pids)]
        for pid in pids:
            os.sched_setaffinity(pid, cores)
    spinning = []
    try:
        for _ in 2 * cores:
            # Another session, as another user's: Linux shares its cores out by session first.
            spinning.append(subprocess.Popen([sys.executable, "-c", SPIN], start_new_session=True))
            if before:
                os.sched_setaffinity(spinning[-1].pid, cores)
        yield
    finally:
        for each in spinning:
            each.kill()
            each.wait()
        for pid in pids if before else ():
            with contextlib.suppress(ProcessLookupError):  # the rank has died, which is told elsewhere
                os.sched_setaffinity(pid, before)


def step_parts(series: Series) -> dict[str, float]:
    """Where the time of a step goes, in seconds a step: the usual step's, by the marks.

    "batch" until every rank has one, "compute" of the fastest rank, "slowest rank" what the slowest one computes longer
    than that, "exchange" of the gradients, "checkpoint" while one is written, shared out over all steps.

    Args:
        series: of a run, or of a piece of it that begins between two steps, as at the change.

    Raises:
        ValueError: it has no whole step.

    >>> marks = [(1.0, "rank 0 batch"), (1.5, "rank 0 ready"), (1.75, "step")]
    >>> step_parts(Series([2.0], {}, {}, marks))
    {'batch': 1.0, 'compute': 0.5, 'slowest rank': 0.0, 'exchange': 0.25, 'checkpoint': 0.0}
    """
    steps, begins, ends = (series.times(name) for name in ("step", "checkpoint begins", "checkpoint ends"))
    ranks = sorted({name for _, name in series.marks if name.endswith((" batch", " ready"))})
    moments = [series.times(name) for name in ranks]
    n = min(map(len, [steps, *moments]))
    if not n:
        raise ValueError("the series has no whole step: take a longer piece of it")
    batch, ready = (np.array([each[:n] for each in moments[first::2]]) for first in (0, 1))  # in the names' order
    free = np.sort(np.concatenate([[series.begin_s], steps, ends]))  # moments since when the ranks want a batch
    since = free[np.maximum(np.searchsorted(free, batch.max(0)) - 1, 0)]
    compute = np.quantile(ready - batch, 0.25, axis=1)  # other programs only ever add to it
    return {
        "batch": float(np.median(batch.max(0) - since)),
        "compute": float(compute.min()),
        "slowest rank": float(compute.max() - compute.min()),
        "exchange": float(np.median(steps[:n] - ready.max(0))),
        "checkpoint": float(sum(ends - begins[: len(ends)]) / len(steps)),
    }
