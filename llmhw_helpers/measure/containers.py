"""What a container or a job leaves of the machine: cores' worth of time, and memory (Linux control groups)."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
NAMES = (  # of the limit, of what is used, and of what would be given up first, in version 2 and in version 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def control_groups(controller: str, cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders of the control group of this process and of all above it that limit it; none on other systems.

    Args:
        controller: ``"cpu"`` or ``"memory"``.
        cgroups: where the kernel shows them.
        own: the file that names this process's, in either version: ``4:memory:/job`` or ``0::/job``.
    """
    groups = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, names, inside = line.split(":", 2)
            if not names or controller in names.split(","):
                top = cgroups / names
                group = top / inside.lstrip("/")
                groups += [each for each in (group, *group.parents) if each.is_relative_to(top) and each.is_dir()]
    return groups


def usable_cores(groups: Sequence[Path] | None = None) -> float:
    """Cores' worth of time that this process may use: its affinity, and less where its container has a quota.

    >>> 0 < usable_cores() <= os.cpu_count()
    True
    """
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for group in control_groups("cpu") if groups is None else groups:
        quota, period = _quota(group)
        if quota > 0 and period > 0:
            cores = min(cores, quota / period)
    return cores


def _quota(group: Path) -> tuple[int, int]:
    """Microseconds of CPU time in each period of as many microseconds; -1 without a quota."""
    with contextlib.suppress(OSError, ValueError):  # "max" is no quota
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota), int(period)
    with contextlib.suppress(OSError, ValueError):
        return int((group / "cpu.cfs_quota_us").read_text()), int((group / "cpu.cfs_period_us").read_text())
    return -1, 1


@dataclass(frozen=True)
class MemoryLimit:
    """A control group that may use less memory than the machine has."""

    group: Path
    n_bytes: int
    used: str
    idle: str

    def left(self) -> float:
        """Bytes to the limit. Pages of files that were not used lately are given up first, so they do not count.

        Raises:
            OSError, ValueError: the group is gone.
        """
        about = dict(line.split() for line in (self.group / "memory.stat").read_text().splitlines())
        used = int((self.group / self.used).read_text()) - int(about.get(self.idle, 0))
        return max(0.0, float(self.n_bytes - used))


def memory_limits(groups: Sequence[Path] | None = None) -> list[MemoryLimit]:
    """Those of the container or the job that this process runs in; empty where it may have all of the machine's."""
    limits, total = [], psutil.virtual_memory().total
    for group in control_groups("memory") if groups is None else groups:
        for limit, used, idle in NAMES:
            with contextlib.suppress(OSError, ValueError):  # no limit ("max"), or the other version's name
                if (n_bytes := int((group / limit).read_text())) < total:
                    limits.append(MemoryLimit(group, n_bytes, used, idle))
    return limits


def available_bytes(limits: Sequence[MemoryLimit] = ()) -> float:
    """Memory that this process can still have without swapping: the machine's, or what a limit leaves of it."""
    available = float(psutil.virtual_memory().available)
    for limit in limits:
        with contextlib.suppress(OSError, ValueError):
            available = min(available, limit.left())
    return available
