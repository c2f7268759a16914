"""What a job has used of what it asked for, from the figures that Slurm keeps of its steps."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
TOO_LONG_S = 1e9  # over thirty years: what some releases of sstat print of a step without figures


@dataclass(frozen=True)
class Efficiency:
    """Used of asked, over the whole run.

    Attributes:
        cpu_s: processor seconds that it used; None where nobody has counted.
        memory_used_bytes: at most at once, of all tasks of the step that used most.
        memory_asked_bytes: what it may use.
        gpu_percent: of the time that a GPU ran anything, where the cluster counts it.
        source: the command that knows, ``"sacct"`` or ``"sstat"``; empty where none does.

    >>> half = Efficiency("17", "COMPLETED", 100.0, 4, 200.0, 2**30, 4 * 2**30, None, "sacct")
    >>> half.cpu_share, half.memory_share
    (0.5, 0.25)
    >>> print(half)
    job 17, COMPLETED after 100 s, says sacct
    processors: 200 s used of 4 x 100 s, 50%
    memory: 1.0 GiB used of 4.0 GiB, 25%
    GPU: not counted
    """

    job_id: str
    state: str
    elapsed_s: float | None
    n_cpus: int
    cpu_s: float | None
    memory_used_bytes: int | None
    memory_asked_bytes: int | None
    gpu_percent: float | None
    source: str

    @property
    def cpu_share(self) -> float | None:
        """Processor seconds used of those that the job held, 1 when all were busy all the time."""
        held = (self.elapsed_s or 0) * self.n_cpus
        return self.cpu_s / held if self.cpu_s is not None and held else None

    @property
    def memory_share(self) -> float | None:
        """Of the memory that the job held."""
        known = self.memory_used_bytes is not None and self.memory_asked_bytes
        return self.memory_used_bytes / self.memory_asked_bytes if known else None

    def __str__(self) -> str:
        cpus = memory = gpu = "not counted"
        if self.cpu_share is not None:
            cpus = f"{self.cpu_s:.0f} s used of {self.n_cpus} x {self.elapsed_s:.0f} s, {self.cpu_share:.0%}"
        if self.memory_used_bytes is not None:
            memory = f"{self.memory_used_bytes / 2**30:.1f} GiB used"
        if self.memory_share is not None:
            memory += f" of {self.memory_asked_bytes / 2**30:.1f} GiB, {self.memory_share:.0%}"
        if self.gpu_percent is not None:
            gpu = f"something ran {self.gpu_percent:.0f}% of the time"
        after = "" if self.elapsed_s is None else f" after {self.elapsed_s:.0f} s"
        head = f"job {self.job_id}, {self.state}{after}" + (f", says {self.source}" if self.source else "")
        return f"{head}\nprocessors: {cpus}\nmemory: {memory}\nGPU: {gpu}"


def efficiency_of(
    job_id: str,
    state: str,
    elapsed_s: float | None,
    n_cpus: int,
    memory_bytes: int | None,
    rows: Iterable[Mapping[str, str]],
    source: str,
) -> Efficiency:
    """From the rows of `sacct` or `sstat`, one a step: the job's own row has no step in its number.

    `sacct` tells the processor seconds of the job (TotalCPU), `sstat` those of a step's average task (AveCPU). A
    step's memory is its largest task's, times its tasks, as ``seff`` has it: at least what was used.
    """
    rows = list(rows)
    steps = [row for row in rows if "." in row["JobID"]]
    totals = [seconds_of(row["TotalCPU"]) for row in rows if "TotalCPU" in row and "." not in row["JobID"]]
    for row in steps:
        if "AveCPU" in row and (each := seconds_of(row["AveCPU"])) is not None:
            totals.append(each * int(row["NTasks"] or 1))
    known = [total for total in totals if total is not None]
    sizes = [bytes_of(row["MaxRSS"]) * int(row["NTasks"] or 1) for row in steps if row["MaxRSS"]]
    gpus = [re.search(r"gres/gpuutil=(\d+)", row["TRESUsageInAve"]) for row in steps]
    busy = [float(found[1]) for found in gpus if found]
    return Efficiency(
        *(job_id, state, elapsed_s, n_cpus),
        cpu_s=sum(known) if known else None,
        memory_used_bytes=max(sizes, default=None),
        memory_asked_bytes=memory_bytes,
        gpu_percent=max(busy, default=None),
        source=source if rows else "",
    )


def seconds_of(text: str) -> float | None:
    """A time as Slurm writes it: seconds, or days-hours:minutes:seconds; None for ``UNLIMITED`` and the like.

    >>> seconds_of("1-02:03:04"), seconds_of("02:03.5"), seconds_of("90"), seconds_of("UNLIMITED")
    (93784.0, 123.5, 90.0, None)
    """
    if text.isdigit():
        return float(text)
    if not (found := TIME.fullmatch(text)):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = 86400 * days + 3600 * hours + 60 * minutes + seconds
    return total if total < TOO_LONG_S else None


def bytes_of(text: str) -> int:
    """Memory as Slurm writes it, whose K, M and G are powers of 1024.

    >>> bytes_of("207596K"), bytes_of("1.50G"), bytes_of("8000M")
    (212578304, 1610612736, 8388608000)
    """
    if not (found := re.fullmatch(r"([\d.]+)([KMGTP]?)", text)):
        raise ValueError(f"no amount of memory: {text!r}")
    return round(float(found[1]) * UNITS[found[2]])
