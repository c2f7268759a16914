"""A monitor: samples what a run uses, beside it, from a thread of its own."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .containers import usable_cores
from .energy import PackageEnergy
from .gpus import Gpus
from .process_tree import ProcessTree
from .series import Series
from .system_load import SystemLoad


@dataclass(frozen=True)
class Column:
    """A column of a monitor's series.

    Attributes:
        unit: of its values.
        meaning: of a value.
        counter: whose growth it is, for a rate; empty for what is as it is at the moment.
        per_count: the value of one count a second.
    """

    unit: str
    meaning: str
    counter: str = ""
    per_count: float = 1.0


COLUMNS = {
    "cpu_percent": Column("%", "time on cores, with all children; 100 is one core", "cpu_seconds", 100),
    "machine_cpu_percent": Column("%", "of all processes; 100 is one core", "machine_cpu_seconds", 100),
    "rss_bytes": Column("B", "memory of the processes and their children"),
    "available_bytes": Column("B", "memory that can be had without swapping, in the machine or the container"),
    "cpu_pressure": Column("%", "of the time, some task waited for a core", "cpu_stalled_seconds", 100),
    "memory_pressure": Column("%", "of the time, some task waited for memory", "memory_stalled_seconds", 100),
    "io_pressure": Column("%", "of the time, some task waited for a disk", "io_stalled_seconds", 100),
    "read_bytes_per_s": Column("B/s", "from disks, not from the page cache", "read_bytes"),
    "write_bytes_per_s": Column("B/s", "to disks: pages that were made to be written", "write_bytes"),
    "sent_bytes_per_s": Column("B/s", "of the machine on all its networks, loopback included", "sent_bytes"),
    "received_bytes_per_s": Column("B/s", "of the machine on all its networks, loopback included", "received_bytes"),
    "gpu_busy_percent": Column("%", "of the time, a kernel ran; the mean of the GPUs"),
    "gpu_memory_bytes": Column("B", "taken on all GPUs, by any program"),
    "gpu_watts": Column("W", "drawn by all GPUs"),
    "package_watts": Column("W", "drawn by the processors' packages", "package_joules"),
}


class Monitor:
    """Samples a run while the block lasts: processors, memory, pressure, disks, networks, GPUs, energy.

    A column that this system does not tell is not in the series. The clock never jumps, and a rate is never negative,
    whatever a counter does. What the block raises passes, with a mark, and the samples stay.

    Args:
        interval_s: from one sample to the next. Each costs less than a millisecond, and a kilobyte of memory: take a
            second or more for hours.
        pids: of the processes to watch, with their children; this one without.
        gpus: whether to watch the GPUs.

    Attributes:
        n_cores: cores' worth of time that this process may use: its container or job may leave it fewer than there are.
        cost_seconds: CPU time that sampling has taken so far: what it costs to be watched.

    Raises:
        ValueError: no such interval, or no such process.

    >>> with Monitor(interval_s=0.02, gpus=False) as monitor:
    ...     monitor.mark("sum")
    ...     total = sum(range(3_000_000))
    >>> series = monitor.series()
    >>> [name for _, name in series.marks], bool(np.all(series["cpu_percent"] >= 0))
    (['sum'], True)
    """

    def __init__(self, interval_s: float = 0.1, pids: Sequence[int] | None = None, gpus: bool = True):
        if not 0.001 <= interval_s <= 3600:
            raise ValueError(f"interval_s must be 0.001 to 3600 s, not {interval_s:g}")
        self.interval_s, self.n_cores, self.cost_seconds = interval_s, usable_cores(), 0.0
        self._processes, self._watch_gpus = ProcessTree(pids), gpus
        self._samples: list[tuple[float, dict[str, float]]] = []  # appended to in one step: no lock that a fork
        self._marks: list[tuple[float, str]] = []  # could take into a child while it is held
        self._said: set[str] = set()
        self._done, self._thread, self._pid = threading.Event(), None, os.getpid()

    def __enter__(self) -> "Monitor":
        if self._thread is not None:
            raise RuntimeError("a Monitor watches one block; make another one for another block")
        gpus = [Gpus()] if self._watch_gpus else []
        self._sources = [self._processes, SystemLoad(), PackageEnergy(), *gpus]
        self._start = time.perf_counter()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if os.getpid() != self._pid:  # a child of a fork has a copy of this, and no thread
            return
        if kind is not None:
            self.mark(f"ended by {kind.__name__}")
        self._done.set()
        self._thread.join()
        if len(self._samples) < 2 or self._now() - self._samples[-1][0] > self.interval_s / 2:
            self._sample()
        for source in self._sources:
            getattr(source, "close", lambda: None)()

    def mark(self, name: str) -> None:
        """Give this moment a name, such as ``"step"``.

        Raises:
            RuntimeError: the block has not begun.
        """
        self._begun()
        self._marks.append((self._now(), name))

    def series(self) -> Series:
        """What was sampled so far, or in all.

        Raises:
            RuntimeError: the block has not begun.
        """
        self._begun()
        samples, marks = list(self._samples), list(self._marks)
        seconds = np.array([when for when, _ in samples])
        names = list(dict.fromkeys(name for _, told in samples for name in told))
        told = {name: np.array([values.get(name, np.nan) for _, values in samples]) for name in names}
        columns = {}
        for name, column in COLUMNS.items():
            if column.counter in told:
                columns[name] = column.per_count * np.diff(told[column.counter]) / np.diff(seconds)
            elif name in told:
                columns[name] = told[name][1:]
        columns |= {name: told[name][1:] for name in names if name.startswith("gpu") and name not in COLUMNS}
        units = {name: COLUMNS[name].unit if name in COLUMNS else "%" for name in columns}
        return Series(seconds[1:], columns, units, marks, begin_s=seconds[0])

    def _begun(self) -> None:
        if not self._samples:
            raise RuntimeError("nothing was sampled: use a Monitor as `with Monitor() as monitor:`")

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _run(self) -> None:
        while not self._done.wait(self.interval_s):  # from one to the next: two at once would be all rounding
            self._sample()

    def _sample(self) -> None:
        began = time.thread_time()
        now, told = time.perf_counter(), {}
        for source in self._sources:
            try:
                told |= source.read(now)
            except Exception as error:  # such as too many open files: the run that is watched must not suffer
                self._say_once(
                    f"Not sampled at times: {type(source).__name__} ({type(error).__name__}: {error!s:.80})."
                )
        if not self._samples or now - self._start > self._samples[-1][0]:
            self._samples.append((now - self._start, told))
        self.cost_seconds += time.thread_time() - began

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(line)
