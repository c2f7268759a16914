"""Probes: short runs that push one limit of the machine at a time, and count what they moved."""

import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from .machine import Machine
from .timers import Timing, time_call

TORCH = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}

# Far more than the cache of a laptop, of most servers and of a GPU (50 MB on an H100); where a server has several
# hundred MB of it, the rate comes out too high.
STREAM_BYTES = 512 * 2**20
CAN_DROP_PAGES = hasattr(os, "posix_fadvise")
# Square products are doubled in size until one takes this long: long enough to time, short enough for slow formats.
# The sizes are no powers of two: rows that start 2**n bytes apart evict one another from a cache.
SMALLEST = 192
LARGEST = {"cpu": 1536, "cuda": 6144}
PRODUCT_SECONDS = {"cpu": 0.01, "cuda": 0.002}


def product_rate(dtype: str, device: torch.device, rounds: int) -> tuple[float, Timing]:
    """Operations of a square product in `dtype`, of the size that runs at the highest rate, and its times.

    In fp32 on a CPU by each of PyTorch's two libraries, MKL and oneDNN: on x86 from makers other than Intel, MKL may
    have half the rate. The roof is what the processor can do.

    Raises:
        RuntimeError: torch has no such product on this device.
    """
    ways = [_square_product]
    if dtype == "fp32" and device.type == "cpu" and torch.backends.mkldnn.is_available():
        ways.append(_onednn_product)
    return max((_fastest_size(way, dtype, device, rounds) for way in ways), key=_rate)


def _rate(each: tuple[float, Timing]) -> float:
    return each[0] / each[1].best


def _fastest_size(way, dtype: str, device: torch.device, rounds: int) -> tuple[float, Timing]:
    n, tried, before = SMALLEST, [], math.inf
    while True:
        timing = time_call(way(dtype, device, n), device, rounds)
        # Eight times the work in about the same time is no arithmetic: threads wait for a core that others hold.
        long = timing.best >= PRODUCT_SECONDS[device.type] and timing.best > 3 * before
        done = long or n >= LARGEST[device.type]
        before = timing.best
        if done or timing.best >= PRODUCT_SECONDS[device.type] / 10:
            tried.append((2.0 * n**3, timing))
        if done:
            return max(tried, key=_rate)
        n *= 2


def _square_product(dtype: str, device: torch.device, n: int):
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    if dtype == "int8":
        a, b = (torch.randint(-128, 128, (n, n), dtype=torch.int8, device=device) for _ in range(2))
        return lambda: torch._int_mm(a, b.t())  # the layout that every GPU has a kernel for
    x, weight = (torch.randn(n, n, device=device).to(TORCH[dtype]) for _ in range(2))
    # As every layer multiplies. ``x @ weight`` may be another program, on a CPU without a bf16 unit a fifth as fast.
    return lambda: F.linear(x, weight)


def _onednn_product(dtype: str, device: torch.device, n: int):
    x, weight = (torch.randn(n, n, device=device).to(TORCH[dtype]).to_mkldnn() for _ in range(2))
    return lambda: F.linear(x, weight)


def read_rate(device: torch.device, rounds: int) -> tuple[float, Timing]:
    """Bytes that a sum over a large array reads, and its times."""
    array = torch.ones(STREAM_BYTES // 4, device=device)
    return STREAM_BYTES, time_call(array.sum, device, rounds=rounds)


def copy_rate(device: torch.device, rounds: int) -> tuple[float, Timing]:
    """Bytes that a copy moves, each one read and written once, and its times."""
    source = torch.ones(STREAM_BYTES // 8, device=device)
    target = torch.empty_like(source)
    return STREAM_BYTES, time_call(lambda: target.copy_(source), device, rounds=rounds)


def disk_rate(path: Path, rounds: int) -> tuple[float, Timing]:
    """Bytes of the file at `path` (of the first one, in a snapshot folder), and the times to read it from disk.

    Its pages are dropped from the system's cache before, where the system can do so (Linux).
    """
    path = min(path.glob("*.safetensors")) if path.is_dir() else path
    times = []
    buffer = bytearray(8 * 2**20)
    for _ in range(rounds):
        with open(path, "rb", buffering=0) as file:
            if CAN_DROP_PAGES:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            while file.readinto(buffer):
                pass
            times.append(time.perf_counter() - start)
    return path.stat().st_size, Timing(tuple(times))


def candidates(machine: Machine) -> list[str]:
    """Formats worth trying: tf32 is a mode of Ampere's and newer tensor cores."""
    with_tf32 = machine.capability is not None and machine.capability >= (8, 0)
    return [name for name in TORCH if name != "tf32" or with_tf32]


def in_hardware(dtype: str, machine: Machine) -> bool | None:
    """Whether a GPU multiplies `dtype` itself; None where only the measurement can tell (a CPU)."""
    if machine.capability is None:
        return None
    return {"bf16": machine.capability >= (8, 0), "fp16": machine.capability >= (5, 3)}.get(dtype, True)
