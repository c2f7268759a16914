"""A quantised model served from its small numbers: int8 and int4 matrices times activations in bf16, on a CPU.

What is fetched are the small numbers. PyTorch's kernels make weights of them in the registers, right before the
product, so the arithmetic is that of bf16, and dearer than it by the unpacking.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..llm.quantization import Quantized, Scheme
from ..llm.transformer import Transformer
from .weights import FEW_ROWS, Served

INT4_GROUPS = (32, 64, 128, 256)  # that the kernel knows
INT4_ROWS = 16  # it wants a multiple of so many rows


class NoKernel(ValueError):
    """Nothing here multiplies by such small numbers: the message says what would do."""


class Int8(NamedTuple):
    """Codes ``[n_out, n_in]`` and a scale a row, in bf16."""

    codes: Tensor
    steps: Tensor
    bias: Tensor | None

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``; for many rows the codes are widened first, once for all, and multiplied as bf16 is."""
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        if len(rows) > FEW_ROWS:
            y = F.linear(rows, self.codes.bfloat16()) * self.steps
        else:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.codes, self.steps)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes that a product fetches."""
        return self.codes.nbytes + self.steps.nbytes


class Int4(NamedTuple):
    """Two codes a byte, in the kernel's order, and for each group a step and what the middle code 8 stands for."""

    packed: Tensor
    steps_and_middles: Tensor
    group: int
    bias: Tensor | None

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``."""
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, self.steps_and_middles)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes that a product fetches."""
        return self.packed.nbytes + self.steps_and_middles.nbytes


def serve(model: Transformer) -> Served:
    """A model of `quantize_model` or `gptq_model`, with its matrices multiplied from their small numbers.

    What lies between the products (norms, attention, the cache) is in the model's own format, fp32 or bf16. The table
    of tokens stays as it is, for single rows of it are looked up.

    Raises:
        NoKernel: a matrix is not quantised, or by another scheme than int8 with a scale a row and int4 in groups of
            32, 64, 128 or 256; or the model is not on a CPU, or in another format.
    """
    weight = model.token_embd.weight
    if weight.dtype not in (torch.float32, torch.bfloat16) or weight.device.type != "cpu":
        raise NoKernel(f"the model is {weight.dtype} on {weight.device}: in fp32 or bf16 on a CPU it can be multiplied")
    return Served(model, hold=held)


def held(layers: Sequence[nn.Module]) -> Int8 | Int4:
    """The rows of `layers`, quantised alike, as one matrix; raises as `serve` does."""
    for layer in layers:
        if not hasattr(layer, "quantized"):
            raise NoKernel(
                f"a matrix of {tuple(layer.weight.shape)} is not quantised: quantize_model(model, scheme) first"
            )
    parts = [layer.quantized for layer in layers]
    scheme = parts[0].scheme
    biases = [getattr(layer, "bias", None) for layer in layers]
    bias = None if biases[0] is None else torch.cat(list(biases)).detach()
    if scheme == Scheme(8, "row"):
        steps = torch.cat([part.scales[:, 0] for part in parts]) / scheme.top
        return Int8(torch.cat([part.codes for part in parts]), steps.bfloat16(), bias)
    n_out = sum(len(part.codes) for part in parts)
    if scheme.bits != 4 or scheme.kind == "nf4" or scheme.group not in INT4_GROUPS or n_out % INT4_ROWS:
        raise NoKernel(
            f"no kernel for {scheme.name} with {n_out} rows: int8 by row and int4 in groups of 32, 64, ... have one"
        )
    return _int4(parts, scheme, bias)


def _int4(parts: Sequence[Quantized], scheme: Scheme, bias: Tensor | None) -> Int4:
    codes = torch.cat([part.codes for part in parts]).int()
    steps = torch.cat([part.scales for part in parts]) / scheme.top
    if scheme.kind == "absmax":
        codes, middles = codes + 8, torch.zeros_like(steps)
    else:
        middles = torch.cat([part.minima for part in parts]) + 8 * steps
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return Int4(packed, torch.stack((steps.T, middles.T), -1).bfloat16().contiguous(), scheme.group, bias)


def streamed_bytes(served: Served) -> int:
    """Bytes of all matrices that a pass of a model from `serve` fetches; the norms are not counted."""
    layers = [matrix for layer in served._layers for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    return sum(matrix.nbytes for matrix in [*layers, served._head])
