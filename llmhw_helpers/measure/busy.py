"""Three programs that keep every core 100% busy, and what they get done: arithmetic, memory traffic, nothing.

On a GPU, too: one multiplies, one reads memory, and in one two threads of ten thousands are at work. All are busy.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..costs.flops import Work, product
from ..costs.roofline import Roof
from .probes import STREAM_BYTES

SIDE = {"cpu": 1536, "cuda": 8192}  # of the square matrices: far more operations than bytes
ROWS = 100_000  # that two threads of a GPU add up, some tens of milliseconds long
SPIN = """
import sys, time
end = time.perf_counter() + float(sys.argv[1])
while time.perf_counter() < end: pass
"""


@dataclass(frozen=True)
class Effort:
    """What a program did, counted, and how long it took.

    Attributes:
        name: of the program.
        work: operations, and bytes to and from memory at least.
        seconds: from the first operation to the end of the last.
        dtype: that it computes in.
    """

    name: str
    work: Work
    seconds: float
    dtype: str = "fp32"

    @property
    def flops_per_s(self) -> float:
        """Operations per second."""
        return self.work.flops / self.seconds

    @property
    def bytes_per_s(self) -> float:
        """Bytes per second, to and from memory."""
        return self.work.bytes / self.seconds

    def mfu(self, roof: Roof) -> float:
        """Share of the machine's operations per second that were used.

        >>> roof = Roof("a machine", {"fp32": 100e9}, bytes_per_s=20e9)
        >>> Effort("half", Work(flops=50e9, bytes=2e9), seconds=1.0).mfu(roof)
        0.5
        """
        return self.flops_per_s / roof.peak(self.dtype)

    def bandwidth_share(self, roof: Roof) -> float:
        """Share of the machine's bytes per second that were used.

        >>> roof = Roof("a machine", {"fp32": 100e9}, bytes_per_s=20e9)
        >>> Effort("a tenth", Work(flops=50e9, bytes=2e9), seconds=1.0).bandwidth_share(roof)
        0.1
        """
        return self.bytes_per_s / roof.bytes_per_s


def multiply(seconds: float = 2.0, device: torch.device | str = "cpu") -> Effort:
    """Multiply large matrices: the machine's arithmetic is what it waits for.

    Args:
        seconds: to go on for, at least; the round that has begun is ended.
        device: ``"cpu"``, where all of torch's threads take part, or a GPU.
    """
    device = torch.device(device)
    n = SIDE[device.type]
    x, weight, y = (torch.randn(n, n, device=device) for _ in range(3))
    return _repeated("multiply", lambda: torch.mm(x, weight.t(), out=y), product(n, n, n), seconds, device)


def stream(seconds: float = 2.0, device: torch.device | str = "cpu") -> Effort:
    """Add up an array that no cache holds: the machine's memory is what it waits for. Arguments as `multiply`'s."""
    device = torch.device(device)
    array, total = torch.ones(STREAM_BYTES // 4, device=device), torch.empty((), device=device)
    work = Work(flops=array.numel() - 1, bytes=array.nbytes)
    return _repeated("stream", lambda: torch.sum(array, dim=0, out=total), work, seconds, device)


def spin(seconds: float = 2.0, device: torch.device | str = "cpu") -> Effort:
    """Do nothing, as fast as possible: look at a clock, as a thread does that waits for another one. As `multiply`.

    On the CPU, as many processes as torch has threads, and none of them computes. On a GPU, running sums down two
    columns: a kernel with a thread for each, which adds number after number while all the others have nothing to do.
    """
    device = torch.device(device)
    if device.type == "cuda":
        columns = torch.ones(ROWS, 2, device=device)
        work = Work(flops=columns.numel(), bytes=2 * columns.nbytes)
        return _repeated("spin", lambda: torch.cumsum(columns, dim=0), work, seconds, device)
    begin = time.perf_counter()
    command = [sys.executable, "-S", "-c", SPIN, str(seconds)]
    children = []
    try:
        for _ in range(torch.get_num_threads()):
            children.append(subprocess.Popen(command))  # one by one: those are ended that were started
        for child in children:
            child.wait()
    finally:  # interrupted: none may go on alone
        for child in children:
            child.kill()
            child.wait()
    return Effort("spin", Work(flops=0, bytes=0), time.perf_counter() - begin)


def _repeated(name: str, run: Callable[[], object], work: Work, seconds: float, device: torch.device) -> Effort:
    """Run it again and again, for `seconds`; the first time does not count."""
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with torch.no_grad():
        run()
        settle()
        n_rounds, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds or not n_rounds:
            run()
            settle()
            n_rounds += 1
    return Effort(name, work * n_rounds, time.perf_counter() - begin)
