"""Thirty-two small numbers at once, said to the compiler as such: a loop over so few it takes apart, and never joins.

LLVM knows registers of any width, and makes of them what the processor has.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F32, I8, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _load(builder, address, n):
    return builder.load(builder.inttoptr(address, ir.VectorType(I8, n).as_pointer()), align=1)


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
        both = _load(builder, args[0], 16)
        low = builder.and_(both, ir.Constant(both.type, [15] * 16))
        high = builder.lshr(both, ir.Constant(both.type, [4] * 16))
        for half, begin in ((low, 0), (high, 64)):
            scaled = builder.fmul(builder.uitofp(half, ir.VectorType(F32, 16)), _all(builder, args[1], 16))
            moved = builder.fadd(scaled, _all(builder, args[2], 16))
            _store(builder, moved, builder.add(args[3], ir.Constant(I64, begin)))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.float32, types.int64), code
