"""What the machine says of itself: how busy its cores are, free memory, who waits for what, bytes on its networks."""

import contextlib
import os
from pathlib import Path

import psutil

from .containers import available_bytes, memory_limits
from .growth import Growth

PRESSURE = Path("/proc/pressure")
CORES = os.cpu_count() or 1
BUSY = ("user", "nice", "system", "irq", "softirq")  # neither idle, nor waiting for a disk, nor stolen by another guest


class SystemLoad:
    """The machine's counters, each since its first reading; what a system does not tell is left out.

    Args:
        pressure: folder of the kernel's pressure files (Linux, since 4.20).
    """

    def __init__(self, pressure: Path = PRESSURE):
        self._limits = memory_limits()
        self._read_at: float | None = None
        self._growth, self._sent, self._received = Growth(), Growth(), Growth()
        self._pressure = [(f"{name}_stalled_seconds", pressure / name) for name in ("cpu", "memory", "io")]

    def read(self, now: float) -> dict[str, float]:
        """CPU seconds of all cores, bytes of memory to be had, seconds that tasks waited, bytes sent and received.

        Args:
            now: seconds, by a clock that never jumps.
        """
        passed, self._read_at = 0.0 if self._read_at is None else now - self._read_at, now
        times = psutil.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in BUSY)
        told = {
            "machine_cpu_seconds": self._growth.add("cpu", busy, CORES * passed),
            "available_bytes": available_bytes(self._limits),
        }
        with contextlib.suppress(OSError):  # a sandbox may hide its networks
            networks = psutil.net_io_counters(pernic=True, nowrap=False)
            told["sent_bytes"] = self._sent.add_all({name: each.bytes_sent for name, each in networks.items()})
            told["received_bytes"] = self._received.add_all({name: each.bytes_recv for name, each in networks.items()})
        for name, path in self._pressure:
            stalled = _stalled_seconds(path)
            if stalled is not None:
                told[name] = self._growth.add(name, stalled, passed)
        return told


def _stalled_seconds(path: Path) -> float | None:
    """Seconds, ever, in which at least one task waited; told in microseconds: ``some avg10=0.00 ... total=12345``."""
    try:
        with open(path) as file:
            first = file.readline()
        return int(first.rpartition("total=")[2]) / 1e6 if first.startswith("some ") else None
    except (OSError, ValueError):  # an older kernel, or one that was told not to count (psi=0)
        return None
