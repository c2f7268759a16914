"""A model larger than the fast memory: which layers stay there, and what it costs to stream the others in.

Streaming takes its time once a pass, however many tokens the pass reads: so it is dear for one text, and cheap for a
long prompt or a large batch (FlexGen, arXiv:2303.06865).
"""

import math
from dataclasses import dataclass

from ..specs.architectures import Model
from ..specs.dtypes import dtype as find_dtype
from .inference import time_per_output_token
from .roofline import Roof

WINDOW = 2  # streamed layers in memory at the same time: one at work, and the next on its way
LARGEST = 2**20


class NoRoom(ValueError):
    """A limit below what has to be in memory at any time."""


@dataclass(frozen=True)
class Split:
    """How the layers are divided: the first `n_resident` stay, the others come in for every pass.

    Attributes:
        n_layers, n_resident: of the model; of those that stay.
        layer_bytes: of one layer.
        outside_bytes: of what is in no layer: embedding, last norm, head. It stays.
    """

    n_layers: int
    n_resident: int
    layer_bytes: int
    outside_bytes: int

    @property
    def streamed_bytes(self) -> int:
        """Read from the slow side in every pass."""
        return (self.n_layers - self.n_resident) * self.layer_bytes

    @property
    def resident_bytes(self) -> int:
        """In fast memory all the time."""
        return self.outside_bytes + self.n_resident * self.layer_bytes


def layer_bytes(model: Model, dtype: str = "bf16") -> int:
    """Bytes of one layer: all parameters but embedding, head and last norm, shared out evenly.

    Raises:
        ValueError: layers of different sizes.
    """
    parts = model.parameters()
    inside = model.n_params - parts["embedding"] - parts.get("head", 0) - model.d_model
    if inside % model.n_layers:
        raise ValueError(f"the layers of {model.name} differ in size: no formula")
    return math.ceil(inside // model.n_layers * find_dtype(dtype).bytes)


def split(model: Model, limit_bytes: float, dtype: str = "bf16") -> Split:
    """As many layers in memory as `limit_bytes` has room for, beside the two that are streamed at any time.

    Raises:
        NoRoom: there is none for these two.
        ValueError: layers of different sizes.

    >>> from llmhw_helpers.specs.models import model
    >>> parts = split(model("Llama-3.1-70B"), 40e9)
    >>> parts.n_resident, round(parts.streamed_bytes / 1e9, 1)
    (18, 106.1)
    """
    layer = layer_bytes(model, dtype)
    outside = math.ceil(model.n_params * find_dtype(dtype).bytes) - model.n_layers * layer
    window = min(WINDOW, model.n_layers)
    if outside + model.n_layers * layer <= limit_bytes:
        return Split(model.n_layers, model.n_layers, layer, outside)
    n_resident = int((limit_bytes - outside) // layer) - window
    if n_resident < 0:
        need = (outside + window * layer) / 1e6
        raise NoRoom(
            f"{limit_bytes / 1e6:.1f} MB hold less than {window} layers of {layer / 1e6:.1f} MB beside"
            f" {outside / 1e6:.1f} MB of embedding and head: give at least {need:.1f} MB"
        )
    return Split(model.n_layers, n_resident, layer, outside)


def pass_seconds(parts: Split, slow_bytes_per_s: float, work_seconds: float = 0.0, overlap: bool = False) -> float:
    """Least time of a pass: ``streamed_bytes / slow_bytes_per_s + work_seconds``, or with `overlap` the larger of both.

    Args:
        parts: what is streamed.
        slow_bytes_per_s: of the disk or the bus.
        work_seconds: that the pass takes when all weights lie in memory.
        overlap: the next layer comes in while this one is at work.
    """
    stream = parts.streamed_bytes / slow_bytes_per_s
    return max(stream, work_seconds) if overlap else stream + work_seconds


def break_even_batch(
    parts: Split, slow_bytes_per_s: float, roof: Roof, model: Model, context: int, dtype: str = "bf16"
) -> float:
    """Texts in a batch from which on a decode step works as long as it streams: then streaming is free, if it overlaps.

    Infinite where a million are not enough.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> big, a100 = model("Llama-3.1-70B"), Roof.of(accelerator("A100-40GB"))
    >>> break_even_batch(split(big, 38e9), 31.5e9, a100, big, 128)
    7664
    """

    def works(batch_size: int) -> bool:
        return time_per_output_token(roof, model, batch_size, context, dtype).seconds >= pass_seconds(
            parts, slow_bytes_per_s
        )

    low, high = 0, LARGEST
    if not works(high):
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high
