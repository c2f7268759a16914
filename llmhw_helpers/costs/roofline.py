"""The roofline: a computation cannot be faster than its arithmetic, nor than its memory traffic.

``time >= max(flops / peak, bytes / bandwidth)`` (Williams, Waterman and Patterson, 2009). It is a floor, not a
forecast: whoever is above it has something else to explain; nobody is below.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..specs.accelerators import Accelerator, UnsupportedDtype
from ..specs.dtypes import dtype as find_dtype
from ..specs.figures import UnknownFigure
from .flops import Work


@dataclass(frozen=True)
class Floor:
    """The least time that a computation takes on a machine, in seconds, and why."""

    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The larger of the two: arithmetic and traffic overlap at best."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        """Which side binds, ``"compute"`` or ``"memory"``; at the ridge itself, compute."""
        return "memory" if self.memory_seconds > self.compute_seconds else "compute"


@dataclass(frozen=True)
class Roof:
    """A machine reduced to two numbers: operations per second for each format, and bytes per second.

    Attributes:
        unknown: formats that it computes in, at a rate that no source gives.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> a100 = Roof.of(accelerator("A100-40GB"))
    >>> round(a100.ridge("bf16"), 1), a100.floor(Work(flops=312e12, bytes=1555e9), "bf16").seconds
    (200.6, 1.0)
    """

    name: str
    flops_per_s: Mapping[str, float]
    bytes_per_s: float
    unknown: tuple[str, ...] = ()

    def __post_init__(self):
        for what, rate in [("bandwidth", self.bytes_per_s), *self.flops_per_s.items()]:
            if not rate > 0:
                raise ValueError(f"{self.name}: the {what} must be positive, not {rate}")

    @classmethod
    def of(cls, accelerator: Accelerator) -> "Roof":
        """The data sheet's roofline: dense peaks of the faster unit, peak memory bandwidth.

        Raises:
            UnknownFigure: no source gives the bandwidth. Peaks that none gives are left out, and asking for one is
                refused.
        """
        peaks = {name: accelerator.peak(name).value for name in accelerator.dtypes}
        known = {name: peak for name, peak in peaks.items() if peak is not None}
        unknown = tuple(name for name in peaks if name not in known)
        return cls(accelerator.name, known, accelerator.bytes_per_s.known(), unknown)

    def peak(self, dtype: str) -> float:
        """Operations per second in `dtype`.

        Raises:
            UnsupportedDtype: this machine does not compute in the format, or nobody has measured it.
            UnknownFigure: it does, and no source says how fast.
            UnknownName: there is no such format.
        """
        name = find_dtype(dtype).name
        if name in self.unknown:
            raise UnknownFigure(f"{self.name} computes in {name}, and no source says how fast")
        if name not in self.flops_per_s:
            raise UnsupportedDtype(f"{self.name} has no {name} arithmetic; it has {', '.join(self.flops_per_s)}")
        return self.flops_per_s[name]

    def ridge(self, dtype: str) -> float:
        """Intensity (FLOP/B) from which on arithmetic binds."""
        return self.peak(dtype) / self.bytes_per_s

    def attainable(self, dtype: str, intensity: float) -> float:
        """The most operations per second at that intensity: the roofline itself."""
        return min(self.peak(dtype), intensity * self.bytes_per_s)

    def floor(self, work: Work, dtype: str) -> Floor:
        """The least time for `work`."""
        return Floor(work.flops / self.peak(dtype), work.bytes / self.bytes_per_s)
