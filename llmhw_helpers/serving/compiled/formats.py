"""Formats that rows of weights lie in, for the compiler: an address is of a type that says what lies there.

So one function, with the name of none in it, is compiled for each.
"""

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from .jitting import jit
from .numbers import BLOCK
from .pairs import BF16, INT8, PAIRED, Pairs
from .vectors import F32, I16, I64, WIDTH, all_of, from_bf16, from_fp16, further, load, nibbles


class Format(NamedTuple):
    """How numbers lie.

    Attributes:
        n_numbers, n_bytes: of a block, the least that can be read; 1 number where there are none.
        widen: given a builder, an address and `width`: a block's numbers, or so many, in fp32, as vectors of `width`.
        pairs: how they are multiplied two at a time, by rounded activations; None for one by one, by those of fp32.
    """

    n_numbers: int
    n_bytes: int
    widen: Callable
    pairs: Pairs | None = None


def _fp32(builder, address, width):
    return [load(builder, address, width, F32)]


def _bf16(builder, address, width):
    return [from_bf16(builder, load(builder, address, width, I16))]


def _fp16(builder, address, width):
    return [from_fp16(builder, load(builder, address, width, I16))]


def _int8(builder, address, width):
    return [builder.sitofp(load(builder, address, width), ir.VectorType(F32, width))]


def _shared(builder, address, width):
    """`width` times the fp16 number there."""
    one = builder.extract_element(from_fp16(builder, load(builder, address, 1, I16)), ir.Constant(I64, 0))
    return all_of(builder, one, width)


def _q8_0(builder, address, width):
    """A scale in fp16 and 32 bytes."""
    scale, parts = _shared(builder, address, width), range(2, 2 + BLOCK, width)
    return [builder.fmul(_int8(builder, further(builder, address, part), width)[0], scale) for part in parts]


def _q4_1(builder, address, width):
    """A scale and a minimum, and codes from 0 to 15 in the lower halves of 16 bytes, then in the upper ones."""
    scale, least = (_shared(builder, further(builder, address, at), width) for at in (0, 2))
    parts = [load(builder, further(builder, address, part), width) for part in range(4, 4 + BLOCK // 2, width)]
    codes = zip(*(nibbles(builder, part) for part in parts), strict=True)
    wide = [builder.uitofp(each, ir.VectorType(F32, width)) for half in codes for each in half]
    return [builder.fadd(builder.fmul(each, scale, flags=("contract",)), least, flags=("contract",)) for each in wide]


FORMATS = {
    "fp32": Format(1, 4, _fp32),
    "bf16": Format(1, 2, _bf16),
    "fp16": Format(1, 2, _fp16),
    "int8": Format(1, 1, _int8),
    "q8_0": Format(BLOCK, 2 + BLOCK, _q8_0),
    "q4_1": Format(BLOCK, 4 + BLOCK // 2, _q4_1),
    "bf16 in pairs": Format(1, 2, _bf16, BF16),
    "int8 in pairs": Format(1, 1, _int8, INT8),
}


class Weights(types.Type):
    """An address of weights in one of `FORMATS`."""

    def __init__(self, name: str):
        self.format = name
        super().__init__(f"Weights({name})")


@register_model(Weights)
class _WeightsInMemory(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, I64)


def _in_format(name):
    @intrinsic
    def weights(typingctx, address):
        return Weights(name)(types.int64), lambda context, builder, signature, args: args[0]

    return weights


in_fp32, in_bf16, in_fp16, in_int8, in_q8_0, in_q4_1, pairs_bf16, pairs_int8 = (_in_format(name) for name in FORMATS)
if BF16 is None:  # nobody asks for it then, and nothing is compiled for it
    pairs_bf16 = in_bf16


@intrinsic
def in_register(typingctx, weights):
    """How many numbers of a text a register holds, to be multiplied by these."""
    n = WIDTH if FORMATS[weights.format].pairs is None else PAIRED
    return types.int64(weights), lambda *_: ir.Constant(I64, n)


@intrinsic
def in_whole_numbers(typingctx, weights):
    """Whether sums of products with these are whole numbers."""
    is_so = FORMATS[weights.format].pairs is INT8
    return types.boolean(weights), lambda *_: ir.Constant(ir.IntType(1), is_so)


@intrinsic
def bytes_of(typingctx, weights, n_numbers):
    """Bytes that so many numbers take, a multiple of those in a block."""

    def code(context, builder, signature, args):
        of = FORMATS[weights.format]
        n_blocks = builder.udiv(args[1], ir.Constant(I64, of.n_numbers))
        return builder.mul(n_blocks, ir.Constant(I64, of.n_bytes))

    return types.int64(weights, types.int64), code


@intrinsic
def _move(typingctx, weights, n_bytes):
    return weights(weights, types.int64), lambda context, builder, signature, args: builder.add(*args)


@jit
def after(weights, n_numbers):
    """The address so many numbers further."""
    return _move(weights, bytes_of(weights, n_numbers))
