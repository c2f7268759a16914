"""The private operations of PyTorch that make serving fast, each with plain PyTorch in its place where it is missing.

PyTorch does not promise to keep them, and not every build has them: so all of them stand in this room, are looked up
once, and give the numbers of what stands in for them, to the rounding of the format that they compute in.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

ZERO = 128  # the byte that stands for 0: the unit for small integers wants activations without a sign
TILES = 4  # of 16 columns, that the GPU's int4 kernel fetches together: so many must divide a row


def _private(library: str, name: str) -> Callable | None:
    """An operation of this PyTorch, or `None` where it has it not, or no more."""
    operation = getattr(getattr(torch.ops, library), name, None)
    return None if operation is None else operation.default


REORDER = _private("mkldnn", "_reorder_linear_weight")
REORDERED_PRODUCT = _private("mkldnn", "_linear_pointwise")
HAS_BF16 = _private("mkldnn", "_is_mkldnn_bf16_supported")
INT8_PRODUCT = _private("aten", "_weight_int8pack_mm")
INT4_ORDER_CPU = _private("aten", "_convert_weight_to_int4pack_for_cpu")
INT4_PRODUCT_CPU = _private("aten", "_weight_int4pack_mm_for_cpu")
INT4_ORDER_GPU = _private("aten", "_convert_weight_to_int4pack")
INT4_PRODUCT_GPU = _private("aten", "_weight_int4pack_mm")
INTEGER_ORDER = _private("onednn", "qlinear_prepack")
INTEGER_PRODUCT = _private("onednn", "qlinear_pointwise")


def reordered(weight: Float[Tensor, "n_out n_in"], n_rows: int) -> Tensor | None:
    """A copy in the order in which oneDNN's products with about `n_rows` rows read it; `None`: there is no such thing.

    `torch.nn.functional.linear` with the weight as it is gives the same products.
    """
    if not torch.backends.mkldnn.is_available() or weight.device.type != "cpu" or None in (REORDER, REORDERED_PRODUCT):
        return None
    if weight.dtype != torch.float32 and not (weight.dtype == torch.bfloat16 and multiplies_bf16()):
        return None
    return REORDER(weight.detach(), n_rows)


def reordered_product(
    x: Float[Tensor, "*rows n_in"], weight: Tensor, bias: Float[Tensor, " n_out"] | None
) -> Float[Tensor, "*rows n_out"]:
    """``x W^T + b`` with what `reordered` made of ``W``."""
    return REORDERED_PRODUCT(x, weight, bias, "none", [], "")


def onednn_product(
    x: Float[Tensor, "*rows n_in"], weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None
) -> Float[Tensor, "*rows n_out"]:
    """``x W^T + b`` in fp32 by oneDNN, from the weight as it lies: blocks of it are reordered as they are used.

    On x86 `torch.nn.functional.linear`, which stands in for it, calls Intel's MKL in fp32; on other makers' processors
    that may take twice as long. There is no derivative: where one may be asked for, PyTorch's own is called, too.
    """
    known = weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if REORDERED_PRODUCT is None or not known or not torch.backends.mkl.is_available() or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return REORDERED_PRODUCT(x, weight, bias, "none", [], "")


@cache
def multiplies_bf16() -> bool:
    """Whether oneDNN has products in bf16 for this processor."""
    return HAS_BF16 is not None and HAS_BF16()


def int8_product(
    x: Float[Tensor, "rows n_in"], codes: Int8[Tensor, "n_out n_in"], steps: Float[Tensor, " n_out"]
) -> Float[Tensor, "rows n_out"]:
    """``x W^T`` on a CPU, where row ``i`` of ``W`` is ``codes[i] * steps[i]``: the codes are widened in registers."""
    return widened_product(x, codes, steps) if INT8_PRODUCT is None else INT8_PRODUCT(x, codes, steps)


def widened_product(
    x: Float[Tensor, "rows n_in"], codes: Int8[Tensor, "n_out n_in"], steps: Float[Tensor, " n_out"]
) -> Float[Tensor, "rows n_out"]:
    """The same in plain PyTorch, on any device: the codes are widened first, and multiplied as weights are."""
    return F.linear(x, codes.to(x.dtype)) * steps


class Int4Kernel(NamedTuple):
    """Products with codes of 4 bits.

    Attributes:
        order: brings codes ``[n_out, n_in]`` from 0 to 15 into the order that `product` reads, two in a byte.
        product: ``x W^T`` of rows in bf16, ordered codes, the group's size, and ``[n_groups, n_out, 2]`` numbers: a
            step for each group, and what the middle code 8 stands for.
    """

    order: Callable[[Tensor], Tensor]
    product: Callable[[Tensor, Tensor, int, Tensor], Tensor]


def int4_kernel(device: str) -> Int4Kernel:
    """The one for a "cpu" or a "cuda" device; plain PyTorch's where this one has none."""
    if device == "cpu" and None not in (INT4_ORDER_CPU, INT4_PRODUCT_CPU):
        return Int4Kernel(lambda codes: INT4_ORDER_CPU(codes.int(), 1), INT4_PRODUCT_CPU)
    if device == "cuda" and None not in (INT4_ORDER_GPU, INT4_PRODUCT_GPU):
        return Int4Kernel(lambda codes: INT4_ORDER_GPU(_pairs(codes), TILES), INT4_PRODUCT_GPU)
    return Int4Kernel(_pairs, _widened_int4_product)


def _pairs(codes: Tensor) -> UInt8[Tensor, "n_out half"]:
    """Neighbours in a byte, the first one in its upper half."""
    even, odd = codes.unflatten(1, (-1, 2)).unbind(2)
    return (even << 4 | odd).to(torch.uint8)


def _widened_int4_product(x: Tensor, pairs: Tensor, group: int, steps_and_middles: Tensor) -> Tensor:
    codes = torch.stack((pairs >> 4, pairs & 15), dim=-1).flatten(1).unflatten(1, (-1, group))
    steps, middles = steps_and_middles.float().transpose(0, 1).unsqueeze(2).unbind(-1)  # [n_out, n_groups, 1]
    return F.linear(x, ((codes.float() - 8) * steps + middles).flatten(1).to(x.dtype))


@cache
def multiplies_integers() -> bool:
    """Whether this CPU has a unit for small integers and PyTorch uses it, rightly: an older one cuts large sums off."""
    has = torch.cpu.get_capabilities()
    if not (has.get("avx512_vnni") or has.get("avx_vnni")) or not torch.backends.mkldnn.is_available():
        return False
    if None in (INTEGER_ORDER, INTEGER_PRODUCT):
        return False
    weights, x = torch.full((16, 64), 127, dtype=torch.int8), torch.full((2, 64), 255, dtype=torch.uint8)
    found = _unit_product(x, INTEGER_ORDER(weights, None), torch.ones(16))
    return bool((found == 127 * 127 * 64).all())


def integer_order(codes: Int8[Tensor, "n_out n_in"]) -> Tensor:
    """The codes in the order in which `integer_product` reads them."""
    return INTEGER_ORDER(codes, None) if multiplies_integers() else codes


def integer_product(
    x: UInt8[Tensor, "rows n_in"], ordered: Tensor, steps: Float[Tensor, " n_out"]
) -> Float[Tensor, "rows n_out"]:
    """``(x - 128) W^T``, times the step of each row of the weights; sums are exact, without the unit up to ``2^24``."""
    if multiplies_integers():
        return _unit_product(x, ordered, steps)
    return F.linear(x.float() - ZERO, ordered.float()) * steps


def _unit_product(x: Tensor, ordered: Tensor, steps: Tensor) -> Tensor:
    return INTEGER_PRODUCT(x, 1.0, ZERO, ordered, steps, _NO_ZEROS, None, 1.0, 0, torch.float32, "none", [], "")


_NO_ZEROS = torch.zeros(1, dtype=torch.int32)
