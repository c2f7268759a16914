"""A quantised model served from its small numbers: int8 and int4 matrices, widened in a product or multiplied as such.

What is fetched are the small numbers. Weight-only kernels make weights of them in the registers, right before the
product, so the arithmetic is that of bf16, and dearer than it by the unpacking. Only with small activations, too, can a
unit for small integers do it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..llm.quantization import Quantized, Scheme
from ..llm.transformer import Transformer
from .integers import LARGEST, IntegerMatrix, integer_matrix
from .kernels import (
    TILES,
    Int4Kernel,
    int4_kernel,
    int8_product,
    multiplies_bf16,
    multiplies_integers,
    widened_product,
)
from .weights import FEW_ROWS, Served

INT4_GROUPS = (32, 64, 128, 256)  # that the kernels know
INT4_ROWS = 16  # they want a multiple of so many rows
MANY_ROWS = 128  # from here on int4 is sooner widened and multiplied as bf16 than by its kernel
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
        multiply = int8_product if len(rows) <= FEW_ROWS and rows.device.type == "cpu" else widened_product
        y = multiply(rows, self.codes, self.steps)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(each.nbytes for each in self if each is not None)


@dataclass(frozen=True)
class Int4:
    """Two codes a byte, in the kernel's order, and for each group a step and what the middle code 8 stands for.

    They are made when the kernel is first needed: where the compiled step decodes, that is a prompt of some length.
    """

    parts: Sequence[Quantized]
    bias: Tensor | None
    kernel: Int4Kernel

    @cached_property
    def packed(self) -> Tensor:
        """The codes, as the kernel reads them."""
        codes = torch.cat([part.codes for part in self.parts]).int()
        return self.kernel.order(codes + 8 if self.parts[0].minima is None else codes)

    @cached_property
    def steps_and_middles(self) -> Tensor:
        """Of each group ``[n_groups, n_out, 2]``."""
        steps = torch.cat([part.scales for part in self.parts]) / self.parts[0].scheme.top
        middles = torch.zeros_like(steps)
        if self.parts[0].minima is not None:
            middles = torch.cat([part.minima for part in self.parts]) + 8 * steps
        return torch.stack((steps.T, middles.T), -1).bfloat16().contiguous()

    def widened(self) -> Tensor:
        """The weights in bf16 ``[n_out, n_in]``, made in their place: memory that is new takes longer than the sums."""
        n_rows = [len(part.codes) for part in self.parts]
        weight = torch.empty(sum(n_rows), self.parts[0].codes.shape[1], dtype=torch.bfloat16)
        for part, rows in zip(self.parts, weight.split(n_rows), strict=True):
            groups = rows.copy_(part.codes).view(*part.scales.shape, -1)
            groups.mul_((part.scales / part.scheme.top).bfloat16()[..., None])
            if part.minima is not None:
                groups.add_(part.minima.bfloat16()[..., None])
        return weight

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``; for many rows, on a CPU with products in bf16, the weights are widened first, for once."""
        rows = x.reshape(-1, x.shape[-1]).bfloat16()
        if len(rows) > MANY_ROWS and rows.device.type == "cpu" and multiplies_bf16():
            y = torch.nn.functional.linear(rows, self.widened())
        else:
            y = self.kernel.product(rows, self.packed, self.parts[0].scheme.group, self.steps_and_middles)
        y = y.view(*x.shape[:-1], -1).to(x.dtype)
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes that they take, made or not yet."""
        codes, scales = (sum(getattr(part, name).numel() for part in self.parts) for name in ("codes", "scales"))
        return codes // 2 + 4 * scales + (0 if self.bias is None else self.bias.nbytes)


def serve(model: Transformer, activation_bits: int | None = None, compiled: bool | None = None) -> Served:
    """A model of `quantize_model` or `gptq_model`, with its matrices multiplied from their small numbers.

    What lies between the products (norms, attention, the cache) is in the model's own format. The table of tokens stays
    as it is, for single rows of it are looked up.

    Args:
        model: quantised; in fp32 or bf16 on a CPU, in any format on a GPU, where int4 takes bf16.
        activation_bits: None leaves activations in 16 bits (W8A16, W4A16): made for few rows. 8 and 16 round those of
            each token to so many bits, and multiply int8 weights in the CPU's unit for integers (W8A8): made for
            batches and prompts. Where there is no such unit, a warning says so: the numbers are the same, and slow.
            `compiled`, they are rounded while decoding alone: 8 is for int4, 32 neighbours together, which nothing else
            can do, and int8 matrices beside it have 16; 16 is for int8.
        compiled: decode with one compiled program a step, see `Served`: from int8 where the model has it, and from a
            copy of int4 in an order of its own. Prompts are PyTorch's, with wide activations, but for those of few
            tokens in an engine. None: where that pays and activations are wide.

    Raises:
        NoKernel: a matrix is not quantised, or by another scheme than int8 with a scale a row and int4 in groups of
            32, 64, 128 or 256; or a format, a number of bits or a device that is not named above; or, `compiled`, bits
            that nothing would be rounded to.
    """
    weight, activations = model.token_embd.weight, None
    if compiled is None and activation_bits is not None:
        compiled = activation_bits == 8 and weight.device.type == "cpu" and 4 in _bits(model)
    if compiled is not False:
        activation_bits, activations = None, _activations(model, activation_bits)
    if activation_bits is not None and activation_bits not in LARGEST:
        raise NoKernel(f"activations of {activation_bits} bits: None, 8 and 16 can be multiplied")
    if weight.device.type == "cpu" and weight.dtype not in (torch.float32, torch.bfloat16):
        raise NoKernel(f"the model is {weight.dtype} on {weight.device}: in fp32 or bf16 it can be multiplied there")
    if activation_bits is not None and weight.device.type == "cpu" and not multiplies_integers():
        warnings.warn(
            "no unit for small integers here that PyTorch uses: its products are computed in fp32, right but slow",
            stacklevel=2,
        )
    hold = partial(held, activation_bits=activation_bits)
    return Served(model, hold=hold, compiled=compiled, activations=activations)


def _activations(model: Transformer, bits: int | None) -> str:
    """Those of the compiled step."""
    if bits is None:
        return "wide"
    if bits != (8 if 4 in _bits(model) else 16):
        raise NoKernel(f"activations of {bits} bits, compiled: None, 8 for a model with int4, and 16 for one with int8")
    return "rounded"


def _bits(model: Transformer) -> set[int]:
    return {layer.quantized.scheme.bits for layer in model.modules() if hasattr(layer, "quantized")}


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
    if scheme == Scheme(8, "row"):
        codes = torch.cat([part.codes for part in parts])
        steps = torch.cat([part.scales[:, 0] for part in parts]) / scheme.top
        if activation_bits is None:
            return Int8(codes, steps.to(torch.bfloat16 if weight.device.type == "cpu" else weight.dtype), bias)
        if weight.device.type != "cpu":
            raise NoKernel(f"small activations are multiplied on a CPU, not on {weight.device}: leave them wide there")
        return integer_matrix(codes, steps, bias, activation_bits)
    if activation_bits is not None:
        raise NoKernel(f"{scheme.name}: only int8 with a scale a row is multiplied by small activations")
    n_rows, device = sum(len(part.codes) for part in parts), parts[0].codes.device
    if scheme.bits != 4 or scheme.kind == "nf4" or scheme.group not in INT4_GROUPS or n_rows % INT4_ROWS:
        raise NoKernel(
            f"no kernel for {scheme.name}, {n_rows} rows: int8 by row and int4 in groups of 32, 64, 128 have one"
        )
    if device.type != "cpu":
        _check_gpu(parts[0].codes)
    return Int4(parts, bias, int4_kernel(device.type))


def _check_gpu(codes: Tensor) -> None:
    device, columns = codes.device, 16 * TILES
    if device.type != "cuda" or (torch.cuda.is_available() and torch.cuda.get_device_capability(device) < BF16_SINCE):
        raise NoKernel(f"no int4 kernel on {device}: it takes a CPU, or a GPU with bf16 (A40, A100, ...); int8 has one")
    if codes.shape[1] % columns:
        raise NoKernel(f"no int4 kernel on {device} for rows of {codes.shape[1]} weights: a multiple of {columns} has")


def weights_read(served: Served) -> int:
    """Bytes of all matrices that a pass of a model from `serve` fetches, as `costs.inference.weights_read` predicts.

    The norms are not counted.
    """
    return sum(matrix.nbytes for matrix in served.matrices)


streamed_bytes = weights_read  # its name before; "streamed" is now what comes from a slower memory, as in `offload`
