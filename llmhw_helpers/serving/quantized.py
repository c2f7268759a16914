"""A quantised model served from its small numbers: int8 and int4 matrices, widened in a product or multiplied as such.

What is fetched are the small numbers. Weight-only kernels make weights of them in the registers, right before the
product, so the arithmetic is that of bf16, and dearer than it by the unpacking. Only with small activations, too, can a
unit for small integers do it.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..llm.quantization import Quantized, Scheme
from ..llm.transformer import Transformer
from .integers import LARGEST, IntegerMatrix, integer_matrix, multiplies_integers
from .weights import FEW_ROWS, Served

INT4_GROUPS = (32, 64, 128, 256)  # that the kernels know
INT4_ROWS = 16  # they want a multiple of so many rows
TILES = 4  # of 16 columns, that the GPU's kernel fetches together: so many must divide a row
BF16_SINCE = (8, 0)  # compute capability


class NoKernel(ValueError):
    """Nothing here multiplies by such small numbers: the message says what would do."""


class Int8(NamedTuple):
    """Codes ``[n_out, n_in]`` and a step a row, in the format of the products."""

    codes: Tensor
    steps: Tensor
    bias: Tensor | None

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``; for many rows, or on a GPU, the codes are widened first, and multiplied as weights are."""
        rows = x.reshape(-1, x.shape[-1]).to(self.steps.dtype)
        if len(rows) > FEW_ROWS or rows.device.type != "cpu":
            y = F.linear(rows, self.codes.to(rows.dtype)) * self.steps
        else:
            y = torch.ops.aten._weight_int8pack_mm.default(rows, self.codes, self.steps)
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
        y = OPS[rows.device.type][1](rows, self.packed, self.group, self.steps_and_middles)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes that a product fetches."""
        return self.packed.nbytes + self.steps_and_middles.nbytes


ATEN = torch.ops.aten
OPS = {  # that bring codes into the kernel's order, and multiply by them
    "cpu": (ATEN._convert_weight_to_int4pack_for_cpu.default, ATEN._weight_int4pack_mm_for_cpu.default),
    "cuda": (ATEN._convert_weight_to_int4pack.default, ATEN._weight_int4pack_mm.default),
}


def serve(model: Transformer, activation_bits: int | None = None) -> Served:
    """A model of `quantize_model` or `gptq_model`, with its matrices multiplied from their small numbers.

    What lies between the products (norms, attention, the cache) is in the model's own format. The table of tokens stays
    as it is, for single rows of it are looked up.

    Args:
        model: quantised; in fp32 or bf16 on a CPU, in any format on a GPU, where int4 takes bf16.
        activation_bits: None leaves activations in 16 bits (W8A16, W4A16): made for few rows. 8 and 16 round those of
            each token to so many bits, and multiply int8 weights in the CPU's unit for integers (W8A8): made for
            batches and prompts.

    Raises:
        NoKernel: a matrix is not quantised, or by another scheme than int8 with a scale a row and int4 in groups of
            32, 64, 128 or 256; or a format, a number of bits or a device that is not named above.
    """
    weight = model.token_embd.weight
    if activation_bits is not None and activation_bits not in LARGEST:
        raise NoKernel(f"activations of {activation_bits} bits: None, 8 and 16 can be multiplied")
    if weight.device.type == "cpu" and weight.dtype not in (torch.float32, torch.bfloat16):
        raise NoKernel(f"the model is {weight.dtype} on {weight.device}: in fp32 or bf16 it can be multiplied there")
    return Served(model, hold=partial(held, activation_bits=activation_bits))


def held(layers: Sequence[nn.Module], activation_bits: int | None = None) -> Int8 | Int4 | IntegerMatrix:
    """The rows of `layers`, quantised alike, as one matrix; raises as `serve` does."""
    for layer in layers:
        if not hasattr(layer, "quantized"):
            raise NoKernel(
                f"a matrix of {tuple(layer.weight.shape)} is not quantised: quantize_model(model, scheme) first"
            )
    parts = [layer.quantized for layer in layers]
    scheme, weight = parts[0].scheme, layers[0].weight
    biases = [getattr(layer, "bias", None) for layer in layers]
    bias = None if biases[0] is None else torch.cat(list(biases)).detach()
    codes = torch.cat([part.codes for part in parts])
    if scheme == Scheme(8, "row"):
        steps = torch.cat([part.scales[:, 0] for part in parts]) / scheme.top
        if activation_bits is None:
            return Int8(codes, steps.to(torch.bfloat16 if weight.device.type == "cpu" else weight.dtype), bias)
        if weight.device.type != "cpu" or not multiplies_integers():
            raise NoKernel(
                f"no unit for small integers on {weight.device} that PyTorch uses: serve(model) leaves activations wide"
            )
        return integer_matrix(codes, steps, bias, activation_bits)
    if activation_bits is not None:
        raise NoKernel(f"{scheme.name}: only int8 with a scale a row is multiplied by small activations")
    if scheme.bits != 4 or scheme.kind == "nf4" or scheme.group not in INT4_GROUPS or len(codes) % INT4_ROWS:
        raise NoKernel(
            f"no kernel for {scheme.name}, {len(codes)} rows: int8 by row and int4 in groups of 32, 64, 128 have one"
        )
    return _int4(codes, parts, scheme, bias)


def _int4(codes: Tensor, parts: Sequence[Quantized], scheme: Scheme, bias: Tensor | None) -> Int4:
    steps = torch.cat([part.scales for part in parts]) / scheme.top
    if scheme.kind == "absmax":
        codes, middles = codes.int() + 8, torch.zeros_like(steps)
    else:
        codes, middles = codes.int(), torch.cat([part.minima for part in parts]) + 8 * steps
    tiles = 1
    if codes.device.type != "cpu":
        _check_gpu(codes)
        even, odd = codes.unflatten(1, (-1, 2)).unbind(2)
        codes, tiles = (even << 4 | odd).to(torch.uint8), TILES
    packed = OPS[codes.device.type][0](codes, tiles)
    return Int4(packed, torch.stack((steps.T, middles.T), -1).bfloat16().contiguous(), scheme.group, bias)


def _check_gpu(codes: Tensor) -> None:
    device, columns = codes.device, 16 * TILES
    if device.type not in OPS or (torch.cuda.is_available() and torch.cuda.get_device_capability(device) < BF16_SINCE):
        raise NoKernel(f"no int4 kernel on {device}: it takes a CPU, or a GPU with bf16 (A40, A100, ...); int8 has one")
    if codes.shape[1] % columns:
        raise NoKernel(f"no int4 kernel on {device} for rows of {codes.shape[1]} weights: a multiple of {columns} has")


def weights_read(served: Served) -> int:
    """Bytes of all matrices that a pass of a model from `serve` fetches, as `costs.inference.weights_read` predicts.

    The norms are not counted.
    """
    layers = [matrix for layer in served._layers for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    return sum(matrix.nbytes for matrix in [*layers, served._head])


streamed_bytes = weights_read  # its name before; "streamed" is now what comes from a slower memory, as in `offload`
