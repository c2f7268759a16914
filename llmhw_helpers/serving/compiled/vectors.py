"""Thirty-two small numbers at once, said to the compiler as such: a loop over so few it takes apart, and never joins.

LLVM knows registers of any width, and makes of them what the processor has.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F32, I8, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _load(builder, address, n, kind=I8):
    at = builder.inttoptr(address, ir.VectorType(kind, n).as_pointer())
    return builder.load(at, align=1 if kind == I8 else 4)


def _further(builder, address, n_bytes):
    return builder.add(address, ir.Constant(I64, n_bytes))


def _sum(builder, numbers):
    """Of all of them: the upper half on the lower one, until one is left."""
    nothing, n = ir.Constant(numbers.type, ir.Undefined), numbers.type.count
    while n > 1:
        n //= 2
        low, high = (ir.Constant(ir.VectorType(I32, n), list(range(i, i + n))) for i in (0, n))
        halves = [builder.shuffle_vector(numbers, nothing, half) for half in (low, high)]
        numbers = builder.fadd(*halves)
        nothing = ir.Constant(numbers.type, ir.Undefined)
    return builder.extract_element(numbers, ir.Constant(I32, 0))


def _nibbles(builder, address):
    """The lower halves of 16 bytes, and the upper ones."""
    both = _load(builder, address, 16)
    low = builder.and_(both, ir.Constant(both.type, [15] * 16))
    return low, builder.lshr(both, ir.Constant(both.type, [4] * 16))


def _store(builder, numbers, address):
    builder.store(numbers, builder.inttoptr(address, numbers.type.as_pointer()), align=4)


def _all(builder, number, n):
    """`n` times the same."""
    nothing = ir.Constant(ir.VectorType(number.type, n), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, n), [0] * n))


@intrinsic
def widen_bytes(typingctx, codes, step, out):
    """32 whole numbers of 8 bits at address `codes`, times `step`, as fp32 at address `out`."""

    def code(context, builder, signature, args):
        wide = builder.sitofp(_load(builder, args[0], 32), ir.VectorType(F32, 32))
        _store(builder, builder.fmul(wide, _all(builder, args[1], 32)), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), code


@intrinsic
def widen_nibbles(typingctx, codes, step, least, out):
    """32 codes from 0 to 15, times `step`, plus `least`: those in the lower halves of 16 bytes, then the upper ones."""

    def code(context, builder, signature, args):
        for half, begin in zip(_nibbles(builder, args[0]), (0, 64), strict=True):
            scaled = builder.fmul(builder.uitofp(half, ir.VectorType(F32, 16)), _all(builder, args[1], 16))
            moved = builder.fadd(scaled, _all(builder, args[2], 16))
            _store(builder, moved, _further(builder, args[3], begin))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.float32, types.int64), code


@intrinsic
def dot_bytes(typingctx, codes, x):
    """The sum of 32 whole numbers of 8 bits at address `codes` times as many fp32 numbers at address `x`."""

    def code(context, builder, signature, args):
        wide = builder.sitofp(_load(builder, args[0], 32), ir.VectorType(F32, 32))
        return _sum(builder, builder.fmul(wide, _load(builder, args[1], 32, F32)))

    return types.float32(types.int64, types.int64), code


@intrinsic
def dot_nibbles(typingctx, codes, x):
    """Likewise of 32 codes from 0 to 15: those in the lower halves of 16 bytes, then the upper ones."""

    def code(context, builder, signature, args):
        products = []
        for half, begin in zip(_nibbles(builder, args[0]), (0, 64), strict=True):
            numbers = _load(builder, _further(builder, args[1], begin), 16, F32)
            products.append(builder.fmul(builder.uitofp(half, ir.VectorType(F32, 16)), numbers))
        return _sum(builder, builder.fadd(*products, flags=("contract",)))

    return types.float32(types.int64, types.int64), code
