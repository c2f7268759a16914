"""Caches of this machine's processor: their sizes, as the system tells them, and how fast what fits in them is read."""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from .machine import command_output
from .timers import Timing, time_call

SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
# A call reads so many bytes, over and over where the array is smaller: long beside the call, short beside a time slice
CALL_BYTES = 16 * 2**20
MAC = ("hw.perflevel0.l1dcachesize", "hw.perflevel0.l2cachesize")  # of a fast core; Apple tells of no third one


@dataclass(frozen=True)
class Cache:
    """One level: 1 is the smallest and next to the core."""

    level: int
    n_bytes: int


def caches(sysfs: Path = SYSFS) -> list[Cache]:
    """Caches that hold data, smallest first: from Linux's sysfs or a Mac's sysctl; empty where neither tells.

    A virtual machine may be told more of the last one than it gets: its neighbours use it too.
    """
    found = []
    for folder in sorted(sysfs.glob("index*")):
        try:
            kind, level, size = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        told = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and told and level.isdigit():
            found.append(Cache(int(level), int(told[1]) * UNITS[told[2]]))
    if not found:
        sizes = [command_output("sysctl", "-n", name) for name in MAC]
        found = [Cache(level, int(size)) for level, size in enumerate(sizes, 1) if size.isdigit()]
    return sorted(found, key=lambda cache: cache.n_bytes)


def working_set_rate(n_bytes: int, rounds: int = 15) -> tuple[float, Timing]:
    """Bytes that one core reads when it adds up the same array of `n_bytes` over and over, and the times.

    Raises:
        ValueError: less than one number.
    """
    if n_bytes < 4:
        raise ValueError(f"an array of at least 4 bytes, not {n_bytes}")
    array = torch.ones(n_bytes // 4)
    repeats = max(1, CALL_BYTES // n_bytes)
    again = array.expand(repeats, -1)  # rows that all lie in the same place
    with one_core():
        timing = time_call(lambda: again.sum(1), rounds=rounds)
    return 4.0 * array.numel() * repeats, timing


@contextmanager
def one_core():
    """PyTorch computes with one thread: two cores have two small caches, and would blur every step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
