"""What a model is wanted for, and what it runs on: the task, the device, and what the program itself takes of it."""

from dataclasses import dataclass

from ..specs.accelerators import Accelerator
from ..specs.figures import look_up
from .roofline import Roof

RESERVE = 1e9  # bytes that the program itself needs, and activations: an assumption, which every caller can change


@dataclass(frozen=True)
class Task:
    """What the model is wanted for: so many texts at the same time, and tokens that each may grow to."""

    name: str
    batch_size: int
    context: int
    trains: bool = False


TASKS = {
    each.name: each
    for each in (
        Task("chat", batch_size=1, context=4096),
        Task("batch serving", batch_size=64, context=2048),
        Task("long context", batch_size=1, context=32768),
        Task("fine-tuning", batch_size=1, context=1024, trains=True),
    )
}


@dataclass(frozen=True)
class Device:
    """What runs the model: its roofline and its kind.

    Attributes:
        kind: a GPU's `Accelerator.kind`; a CPU's architecture: ``"x86"`` (with AVX-512), ``"x86 AVX2"`` or ``"arm"``.
    """

    roof: Roof
    kind: float | str

    @classmethod
    def of(cls, accelerator: Accelerator) -> "Device":
        """The GPU, by its data sheet."""
        return cls(Roof.of(accelerator), accelerator.kind)

    @classmethod
    def cpu(cls, roof: Roof, kind: str = "x86") -> "Device":
        """A processor by its calibrated roofline; `UnknownName` for an architecture that is neither x86 nor arm."""
        return cls(roof, look_up(kind, {each: each for each in ("x86", "x86 AVX2", "arm")}, "CPU architecture"))

    @property
    def half(self) -> str:
        """What 16-bit weights are multiplied in: the fastest of bf16, fp16 and fp32, and of equals the first.

        A processor may know bf16 and be slower in it than in fp32, to which the weights can be widened. Raises
        `UnknownFigure` where no source gives the rate of one that it knows.
        """
        known = (*self.roof.flops_per_s, *self.roof.unknown)
        return max((name for name in ("bf16", "fp16", "fp32") if name in known), key=self.roof.peak)
