"""Numbers in memory, read as fp32 and written from it. Formats are told apart by a number, and arrays by an address.

So one compiled program serves all formats and all shapes, and a matrix is used where PyTorch has it.
"""

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from .jitting import jit
from .vectors import widen_bytes, widen_nibbles

# Numba makes 64 bits of each whole number that it is not told the type of, and then no loop fills the registers.
F32, I32, I16, U16 = np.float32, np.int32, np.int16, np.uint16
FP32, BF16, FP16, INT8, INT4, Q8_0, Q4_1 = range(7)
BLOCK = 32  # numbers in a block of Q8_0 and Q4_1
ONE, HALF_RANGE = F32(2.0**112), I32(0x7F800000)  # what fp16's exponent is short of; an infinite number's bits


def _pointer_to(kind):
    """A function that makes of an address a pointer to numbers of this kind."""

    @intrinsic
    def pointer(typingctx, address):
        def code(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(kind)))

        return types.CPointer(kind)(types.int64), code

    return pointer


_float32, _uint16, _int8 = _pointer_to(types.float32), _pointer_to(types.uint16), _pointer_to(types.int8)


@jit
def floats(address, n_rows, n):
    """The fp32 numbers ``[n_rows, n]`` that lie there."""
    return carray(_float32(np.int64(address)), (n_rows, n))


@jit
def bits16(address, n_rows, n):
    """The bits of numbers of 16 bits ``[n_rows, n]``."""
    return carray(_uint16(np.int64(address)), (n_rows, n))


@jit
def bytes8(address, n_rows, n):
    """Whole numbers of 8 bits ``[n_rows, n]``."""
    return carray(_int8(np.int64(address)), (n_rows, n))


@jit
def from_bf16(bits):
    """The number whose bf16 bits these are: the upper half of its fp32 bits."""
    return I32(I32(bits) << I32(16)).view(F32)


@jit
def from_fp16(bits):
    """The number whose fp16 bits these are; exact, infinities, NaN and the smallest ones included."""
    h = I32(bits)
    size = I32(I32(h & I32(0x7FFF)) << I32(13))
    endless = HALF_RANGE if I32(h & I32(0x7C00)) == I32(0x7C00) else I32(0)
    sign = I32(I32(h & I32(0x8000)) << I32(16))
    value = F32(size.view(F32) * ONE)
    return I32(I32(value.view(I32) | endless) | sign).view(F32)


@jit
def to_bf16(x):
    """The bits of the nearest bf16 number, of two the even one."""
    if x != x:
        return U16(0x7FC0)
    b = np.int64(F32(x).view(np.uint32))
    return U16((b + 0x7FFF + (b >> 16 & 1)) >> 16)


@jit
def to_fp16(x):
    """The bits of the nearest fp16 number, of two the even one; beyond its range an infinity."""
    b = np.int64(F32(x).view(np.uint32))
    sign, size = b >> 16 & 0x8000, b & 0x7FFFFFFF
    if x != x:
        return U16(sign | 0x7E00)
    if size >= 0x477FF000:  # 65520
        return U16(sign | 0x7C00)
    if size < 0x38800000:  # 2^-14: below, steps are those of numbers from 0.5 to 1 in fp32
        shifted = F32(abs(x) + F32(0.5))
        return U16(sign | (np.int64(shifted.view(np.uint32)) - 0x3F000000))
    return U16(sign | (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13)


@jit
def read(kind, address, first, out):
    """`out` becomes the numbers from number `first` on of those that lie at `address`.

    One loop a format, with nothing else in it: so the compiler widens as many at once as its registers hold. Of a
    GGUF file's blocks, `first` and the size of `out` are multiples of `BLOCK`.
    """
    n = out.size
    if kind == FP32:
        wide = floats(address + 4 * first, 1, n)
        for j in range(n):
            out[j] = wide[0, j]
    elif kind == BF16:
        bits = bits16(address + 2 * first, 1, n)
        for j in range(n):
            out[j] = from_bf16(bits[0, j])
    elif kind == FP16:
        bits = bits16(address + 2 * first, 1, n)
        for j in range(n):
            out[j] = from_fp16(bits[0, j])
    else:
        read_blocks(kind, address, first // BLOCK, n // BLOCK, out.ctypes.data)


@jit
def read_blocks(kind, address, first, n, out):
    """`n` blocks of a GGUF file from block `first` on, as fp32 at address `out`.

    Q8_0 is a scale in fp16 and 32 bytes; Q4_1 is a scale and a minimum, and 32 codes from 0 to 15, two in a byte.
    """
    for i in range(n):
        if kind == Q8_0:
            at = address + 34 * (first + i)
            widen_bytes(at + 2, from_fp16(bits16(at, 1, 1)[0, 0]), out + 4 * BLOCK * i)
        else:
            at = address + 20 * (first + i)
            shared = bits16(at, 1, 2)
            widen_nibbles(at + 4, from_fp16(shared[0, 0]), from_fp16(shared[0, 1]), out + 4 * BLOCK * i)


@jit
def write(kind, address, first, row):
    """The numbers from number `first` on become `row`, rounded to the nearest."""
    n = row.size
    if kind == FP32:
        wide = floats(address + 4 * first, 1, n)
        for j in range(n):
            wide[0, j] = row[j]
        return
    bits = bits16(address + 2 * first, 1, n)
    for j in range(n):
        bits[0, j] = to_bf16(row[j]) if kind == BF16 else to_fp16(row[j])
