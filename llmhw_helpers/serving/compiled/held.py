"""A model's weights as the compiled step takes them: where they lie in memory, without a second copy."""

from collections import namedtuple
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...llm.transformer import Transformer
from .numbers import BF16, FP16, FP32

KINDS = {torch.float32: FP32, torch.bfloat16: BF16, torch.float16: FP16}
Q, K, V, OUTPUT, GATE, UP, DOWN = range(7)  # a layer's matrices; after all layers' come the head and the table
NAMES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


class NotCompiled(ValueError):
    """A model that the compiled step is not made for: the message says which part."""


class Held(
    namedtuple("HeldFields", "matrices norms last_norm frequencies factor eps kind n_heads n_kv_heads head_dim")
):
    """What `step.decode_share` is given of a model.

    Attributes:
        matrices: int64 ``[7 * n_layers + 2, 8]``: a row for each matrix, as `products` has it.
        norms: fp32 ``[n_layers, 2, d_model]``, before attention and before the MLP.
        last_norm: fp32 ``[d_model]``.
        frequencies: fp32 ``[head_dim / 2]``; `factor` is what cosines and sines are multiplied by.
        eps: of the norms.
        kind: the format of the table of tokens and of keys and values, as `numbers` has it.
        n_heads, n_kv_heads, head_dim: of attention.
        kept: all that the addresses point to; it lives as long as this does.
    """


def hold(model: Transformer) -> Held:
    """The model's weights, where they lie: what is changed in a matrix later shows in the next step.

    Norms and biases, one number in a thousand, are copied to fp32. Make ``Served(model)`` before this, as that moves
    matrices.

    Raises:
        NotCompiled: a device other than the CPU, a format other than fp32, bf16 and fp16, a layer that is no plain
            matrix, or another activation than SiLU.
    """
    spec, weight = model.spec, model.token_embd.weight
    if weight.device.type != "cpu":
        raise NotCompiled(f"the model is on {weight.device}, and the compiled step is the CPU's")
    if weight.dtype not in KINDS:
        raise NotCompiled(f"the model is in {weight.dtype}: the compiled step takes fp32, bf16 and fp16")
    if spec.activation != "silu":
        raise NotCompiled(f"{spec.name} has the activation {spec.activation}: the compiled step has silu")
    kept: list[Tensor] = []
    matrices = [_matrix(getattr(block, name), name, kept) for block in model.blk for name in NAMES]
    matrices.append(_matrix(model.token_embd if model.output is None else model.output, "the head", kept))
    matrices.append(_plain(model.token_embd, "token_embd", kept))
    held = Held(
        np.array(matrices, np.int64),
        np.stack([np.stack([_copy(b.attn_norm.weight), _copy(b.ffn_norm.weight)]) for b in model.blk]),
        _copy(model.output_norm.weight),
        _copy(model.frequencies),
        float(model.attention_factor),
        float(spec.norm_eps),
        KINDS[weight.dtype],
        spec.n_heads,
        spec.n_kv_heads,
        spec.head_dim,
    )
    held.kept = kept
    return held


def _matrix(layer: nn.Module, name: str, kept: list[Tensor]) -> Sequence[int]:
    """One row of `Held.matrices`."""
    if not isinstance(layer, nn.Linear | nn.Embedding):
        raise NotCompiled(f"{name} is a {type(layer).__name__}: merge(model), then remove_lora(model)")
    return _plain(layer, name, kept)


def _plain(layer: nn.Module, name: str, kept: list[Tensor]) -> Sequence[int]:
    weight, bias = layer.weight.detach(), getattr(layer, "bias", None)
    if weight.dtype not in KINDS or not weight.is_contiguous():
        raise NotCompiled(f"{name} is {weight.dtype}, strides {weight.stride()}: rows of fp32, bf16 or fp16 are read")
    bias = None if bias is None else bias.detach().float().clone()
    kept += [weight] if bias is None else [weight, bias]
    return [KINDS[weight.dtype], *weight.shape, 0, weight.data_ptr(), 0, 0, 0 if bias is None else bias.data_ptr()]


def _copy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().clone().numpy()
