"""A program as the system sees it: a process with its children, which come and go while one looks."""

import contextlib
import os
import time
from collections.abc import Sequence

import psutil

from .growth import Growth

# Of the time, that looking for children may take: on a node with many processes one look costs milliseconds.
LOOKING = 0.001
TRIES = 3  # to read all of a tree between two ends of processes
CORES = os.cpu_count() or 1
LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


class ProcessTree:
    """Processes and all their descendants, read as one.

    A child that ends hands the time it used and the bytes it read and wrote to the parent that waits for it, so nothing
    is lost and nothing counted twice. What a child did before it was found is counted as fast as the machine's cores
    could have done it. A child that nobody waits for takes with it what it did since the last look.

    Args:
        pids: of the processes; this one without.

    Raises:
        ValueError: one of them is not there.
    """

    def __init__(self, pids: Sequence[int] | None = None):
        try:
            self._roots = [psutil.Process(pid) for pid in ([os.getpid()] if pids is None else dict.fromkeys(pids))]
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            gone = [pid for pid in pids or () if not (0 <= pid < 2**31 and psutil.pid_exists(pid))]
            raise ValueError(f"no process with the number {', '.join(map(str, gone))} to watch") from None
        self._growth, self._processes = Growth(), []
        self._read_at: float | None = None
        self._look_again_at = 0.0

    def read(self, now: float) -> dict[str, float]:
        """CPU seconds, and bytes from and to disks, since the first reading; bytes in memory now.

        Pages that processes share, as after a fork, are counted for each of them.

        Args:
            now: seconds, by a clock that never jumps.
        """
        if now >= self._look_again_at:
            began = time.thread_time()
            self._look()
            self._look_again_at = now + (time.thread_time() - began) / LOOKING
        passed, self._read_at = 0.0 if self._read_at is None else now - self._read_at, now
        sums = self._sums()
        told = {"cpu_seconds": self._growth.add("cpu", sums.pop("cpu"), CORES * passed)}
        told["rss_bytes"] = sums.pop("rss_bytes")
        return told | {name: self._growth.add(name, value) for name, value in sums.items()}

    def _sums(self) -> dict[str, float]:
        """Over all processes that are there; parents are read before their children.

        So one that ends meanwhile is found missing, and is then counted with its parent when all is read again.
        """
        for _ in range(TRIES):
            found, gone = [], []
            for process in self._processes:
                try:
                    found.append(_figures(process))
                except psutil.NoSuchProcess:
                    gone.append(process)
                except psutil.AccessDenied:  # it became another user's
                    gone.append(process)
            self._processes = [process for process in self._processes if process not in gone]
            if not gone:
                break
        names = {"cpu", "rss_bytes"}.union(*found)
        return {name: sum(figures.get(name, 0) for figures in found) for name in names}

    def _look(self) -> None:
        known = {process.pid: process for process in self._processes}
        there = [process for process in [*self._roots, *known.values()] if process.is_running()]
        tree = {process.pid: process for process in there}  # one whose parent has ended belongs to the program still
        for process in there:
            for pid in _descendants(process):
                if pid not in tree:
                    with contextlib.suppress(psutil.Error):  # it has ended
                        tree[pid] = psutil.Process(pid)
        self._processes = [*tree.values()]


def _descendants(process: psutil.Process) -> list[int]:
    """Their numbers, parents first. Linux lists the children of a thread; elsewhere one goes through all processes."""
    if not LISTS_CHILDREN:
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in process.children(recursive=True)]
        return []
    found = [process.pid]
    for pid in found:  # it grows meanwhile
        with contextlib.suppress(OSError):  # it has ended, or a thread of it
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
    return found[1:]


def _figures(process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        figures = {"cpu": sum(process.cpu_times()[:4]), "rss_bytes": process.memory_info().rss}
        if hasattr(process, "io_counters"):  # not on a Mac
            with contextlib.suppress(psutil.AccessDenied):  # another user's
                counters = process.io_counters()
                figures |= {"read_bytes": counters.read_bytes, "write_bytes": counters.write_bytes}
    return figures
