"""A model's weights as the compiled step takes them: where they lie in memory, without a second copy."""

from collections import namedtuple
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...llm.quantization import Quantized
from ...llm.transformer import Transformer
from ..huge_pages import HugePages
from .codes import LANES
from .multipliers import to_multiply
from .numbers import BF16, BLOCK, FP16, FP32, INT4, INT8, Q4_1, Q8_0
from .pairs import BF16_DOT
from .products import KIND
from .sums import ROWS
from .tiles import int4_tiles

KINDS = {torch.float32: FP32, torch.bfloat16: BF16, torch.float16: FP16}
IN_FILES = {"F32": FP32, "BF16": BF16, "F16": FP16, "Q8_0": Q8_0, "Q4_1": Q4_1}  # as a GGUF file says
Q, K, V, OUTPUT, GATE, UP, DOWN = range(7)  # a layer's matrices; after all layers' come the head and the table
NAMES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


class NotCompiled(ValueError):
    """A model that the compiled step is not made for: the message says which part."""


class Kept(list):
    """What addresses point to. Small weights are copied to fp32, and the copies follow what is changed in the model."""

    def __init__(self):
        super().__init__()
        self.pages = HugePages()
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._changes: list[int] = []

    def copy(self, weight: Tensor, room: Tensor | None = None) -> Tensor:
        """A copy in fp32, in `room` if there is one."""
        room = torch.empty(weight.shape) if room is None else room
        if not weight.is_inference():  # of those PyTorch does not count what writes into them
            self._copies.append((weight, room))
            self._changes.append(weight._version)
        return room.copy_(weight.detach())

    def follow(self) -> None:
        """Copy again what was changed in its place since; not what was changed behind PyTorch's back, in ``.data``."""
        changes = [weight._version for weight, _ in self._copies]  # one loop with nothing else in it: at each step
        if changes != self._changes:
            for (weight, copy), now, before in zip(self._copies, changes, self._changes, strict=True):
                if now != before:
                    copy.copy_(weight.detach())
            self._changes = changes


class Held(
    namedtuple(
        "HeldFields", "matrices norms last_norm frequencies factor eps kind n_heads n_kv_heads head_dim unit woven"
    )
):
    """What `step.decode_share` is given of a model.

    Attributes:
        matrices: int64 ``[7 * n_layers + 2, 10]``: a row for each matrix, as `products` has it.
        norms: fp32 ``[n_layers, 2, d_model]``, before attention and before the MLP.
        last_norm: fp32 ``[d_model]``.
        frequencies: fp32 ``[head_dim / 2]``; `factor` is what cosines and sines are multiplied by.
        eps: of the norms.
        kind: the format of keys and values, as `numbers` has it.
        n_heads, n_kv_heads, head_dim: of attention.
        unit: rows of a matrix that are never divided between workers.
        woven: whether queries and keys come with the two numbers that rotate together side by side.
        kept: all that the addresses point to; it lives as long as this does. Call its `follow` before a step.
    """


def hold(model: Transformer, activations: str | None = None) -> Held:
    """The model's weights, where they lie: what is changed in a matrix later shows in the next step.

    Norms, biases and int8's scales are copied to fp32: one number in a thousand, or one for each group. Codes of int8
    are moved once, for the model, too; those of int4, which it keeps a byte each, are put into `tiles`,
    half a byte each; those of `serving.mapped` stay in their file. Make ``Served(model)`` before this, as that moves
    matrices. Copies of norms and biases follow the model, too, see `Kept`.

    Args:
        model: in a CPU's memory.
        activations: None for the model's matrices as they are, in its format; those in bf16 are multiplied by
            activations in bf16, as PyTorch does, where the processor has an instruction for that, else by fp32 ones.
            Else they are multiplied from their small numbers (``quantize_model``), by activations that stay ``"wide"``,
            which gives what the model itself computes in fp32; or that are ``"rounded"``: for int4 to 8 bits in blocks
            of 32 (`codes.round_blocks`), for int8 to 16 bits by text (`texts.round_to_int16`).

    Raises:
        NotCompiled: a device other than the CPU, a format other than fp32, bf16 and fp16, a layer that is no plain
            matrix, or another activation than SiLU; or small numbers that are wanted and are not there, or not int8
            without minima, or int4 in groups that blocks of 32 divide.
        ValueError: `activations` is another word.
    """
    if activations not in (None, "wide", "rounded"):
        raise ValueError(f"activations={activations!r}: None, 'wide' or 'rounded'")
    spec, weight = model.spec, model.token_embd.weight
    if weight.device.type != "cpu":
        raise NotCompiled(f"the model is on {weight.device}, and the compiled step is the CPU's")
    if weight.dtype not in KINDS:
        raise NotCompiled(f"the model is in {weight.dtype}: the compiled step takes fp32, bf16 and fp16")
    if spec.activation != "silu":
        raise NotCompiled(f"{spec.name} has the activation {spec.activation}: the compiled step has silu")
    kept = Kept()
    matrices = [_matrix(getattr(block, name), name, activations, kept) for block in model.blk for name in NAMES]
    head = model.token_embd if model.output is None else model.output
    matrices.append(_matrix(head, "the head", activations, kept))
    matrices.append(_matrix(model.token_embd, "token_embd", None, kept))
    norms = torch.empty(len(model.blk), 2, spec.d_model)
    for block, rows in zip(model.blk, norms, strict=True):
        for norm, row in zip((block.attn_norm, block.ffn_norm), rows, strict=True):
            kept.copy(norm.weight, row)
    matrices = np.array(matrices, np.int64)
    for matrix in matrices[:-1]:
        to_multiply(matrix)
    held = Held(
        matrices,
        norms.numpy(),
        kept.copy(model.output_norm.weight).numpy(),
        model.frequencies.detach().float().clone().numpy(),
        float(model.attention_factor),
        float(spec.norm_eps),
        KINDS[weight.dtype],
        spec.n_heads,
        spec.n_kv_heads,
        spec.head_dim,
        LANES if (matrices[:, KIND] == INT4).any() else ROWS,
        hasattr(model.blk[0].attn_q, "stored"),
    )
    held.kept = kept
    return held


def _matrix(layer: nn.Module, name: str, activations: str | None, kept: Kept) -> Sequence[int]:
    """One row of `Held.matrices`."""
    if not isinstance(layer, nn.Linear | nn.Embedding):
        raise NotCompiled(f"{name} is a {type(layer).__name__}: merge(model), then remove_lora(model)")
    if hasattr(layer, "stored"):
        return in_file(layer, name, kept)
    if activations is None:
        return _plain(layer, name, kept)
    if not hasattr(layer, "quantized"):
        raise NotCompiled(f"{name} is not quantised: quantize_model(model, scheme) first")
    return _small(layer, name, activations == "rounded", kept)


def _plain(layer: nn.Module, name: str, kept: Kept) -> Sequence[int]:
    weight = layer.weight.detach()
    if weight.dtype not in KINDS or not weight.is_contiguous():
        raise NotCompiled(f"{name} is {weight.dtype}, strides {weight.stride()}: rows of fp32, bf16 or fp16 are read")
    rounded = weight.dtype == torch.bfloat16 and BF16_DOT
    return [KINDS[weight.dtype], *weight.shape, 0, _at(weight, kept), 0, 0, _bias(layer, kept), rounded, 0]


def in_file(layer: nn.Module, name: str, kept: Kept) -> Sequence[int]:
    """The row of a matrix whose numbers are ``layer.stored``, an ``llm.gguf_file.StoredTensor``: where they lie.

    Raises:
        NotCompiled: it is in another format.
    """
    kind, data = layer.stored
    if kind not in IN_FILES or not data.flags.c_contiguous:
        raise NotCompiled(f"{name} is {kind} in the file: the compiled step reads {', '.join(IN_FILES)}")
    kept.append(data)
    return [IN_FILES[kind], *layer.weight.shape, 0, data.ctypes.data, 0, 0, _bias(layer, kept), 0, 0]


def _small(layer: nn.Module, name: str, rounded: bool, kept: Kept) -> Sequence[int]:
    quantized: Quantized = layer.quantized
    scheme, (n_out, n_in) = quantized.scheme, quantized.codes.shape
    group = scheme.group if isinstance(scheme.group, int) else n_in
    shape, bias = (n_out, n_in, group), _bias(layer, kept)
    if scheme.bits == 8 and scheme.kind == "absmax" and quantized.codes.is_contiguous():
        steps = (quantized.scales / scheme.top).expand(n_out, -1).contiguous()
        kept.pages.move(quantized.codes)
        return [INT8, *shape, _at(quantized.codes.detach(), kept), _at(steps, kept), 0, bias, rounded, 0]
    if scheme.bits == 4 and scheme.kind != "nf4" and scheme.group != "tensor" and group % BLOCK == 0:
        return [INT4, *shape, *(_at(part, kept, kept.pages) for part in int4_tiles(quantized, LANES)), bias, rounded, 0]
    raise NotCompiled(
        f"{name} is {scheme.name}, {n_in} weights a row: the compiled step has int8 without minima, and int4 in groups "
        f"of {BLOCK} or a multiple"
    )


def _bias(layer: nn.Module, kept: Kept) -> int:
    bias = getattr(layer, "bias", None)
    return _at(None if bias is None else kept.copy(bias), kept)


def _at(tensor: Tensor | None, kept: Kept, pages: HugePages | None = None) -> int:
    """Where it lies, as long as it is kept; 0 for nothing. It is moved there, where `pages` are given."""
    if tensor is None:
        return 0
    tensor = tensor if pages is None else pages.copy(tensor)
    kept.append(tensor)
    return tensor.data_ptr()
