"""Several numbers side by side, said to the compiler as such, as it makes no such loop of what is short or has parts.

LLVM knows registers of any width, and makes of them what the processor has. What is here writes its instructions down,
while a program is compiled: `builder` is where they go, and a number is a name for what will be there.
"""

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

F32, I8, I16, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def processor_has(feature: str) -> bool:
    """Whether the processor that is compiled for has it."""
    return f"+{feature}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


WIDTH = 16 if processor_has("avx512f") else 8  # fp32 numbers side by side: a register of AVX-512 or AVX2, two of others


def further(builder, address, n_bytes: int):
    """The address so many bytes after this one."""
    return builder.add(address, ir.Constant(I64, n_bytes))


def load(builder, address, n: int, kind=I8):
    """`n` numbers that lie there, at any address."""
    at = builder.inttoptr(address, ir.VectorType(kind, n).as_pointer())
    return builder.load(at, align=4 if kind == F32 else 1)


def store(builder, numbers, address):
    """They lie there, which is a multiple of four bytes."""
    builder.store(numbers, builder.inttoptr(address, numbers.type.as_pointer()), align=4)


def fetch(builder, address, near: int = 2):
    """Let memory send what lies there towards the core, and go on meanwhile; anything is allowed as an address.

    Next to the core (3) is room for some 10,000 numbers; a bit further (2), for more.
    """
    at, flag = I8.as_pointer(), ir.Constant(I32, 1)
    kind = ir.FunctionType(ir.VoidType(), [at, I32, I32, I32])
    function = called(builder, "llvm.prefetch.p0", kind)
    reading, data = ir.Constant(I32, 0), flag
    builder.call(function, [builder.inttoptr(address, at), reading, ir.Constant(I32, near), data])


def called(builder, name: str, kind):
    """One of LLVM's own functions."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def all_of(builder, number, n: int):
    """`n` times the same."""
    nothing = ir.Constant(ir.VectorType(number.type, n), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, n), [0] * n))


def same(numbers, value):
    """As many numbers of that type, all of this value."""
    return ir.Constant(numbers.type, [value] * numbers.type.count)


def neighbours(builder, first, second):
    """Sums of each two neighbours of the one, then of the other."""
    n = first.type.count
    even, odd = (ir.Constant(ir.VectorType(I32, n), list(range(i, 2 * n, 2))) for i in (0, 1))
    return builder.fadd(builder.shuffle_vector(first, second, even), builder.shuffle_vector(first, second, odd))


def multiplied(builder, total, first, second):
    """``total + first * second``; the processor rounds once where it can."""
    product = builder.fmul(first, second, flags=("contract",))
    return builder.fadd(total, product, flags=("contract",))


def nibbles(builder, both):
    """The lower halves of bytes, or of any whole numbers' bytes, and the upper ones."""
    n_bytes = both.type.element.width // 8
    mask = int.from_bytes(bytes([15] * n_bytes))
    low = builder.and_(both, same(both, mask))
    return low, builder.and_(builder.lshr(both, same(both, 4)), same(both, mask))


def from_bf16(builder, bits):
    """bf16 as fp32: the bits are its upper half."""
    wide = builder.zext(bits, ir.VectorType(I32, bits.type.count))
    return builder.bitcast(builder.shl(wide, same(wide, 16)), ir.VectorType(F32, bits.type.count))


def from_fp16(builder, bits):
    """fp16 as fp32, as `numbers.from_fp16` has it: not every processor has an instruction for this."""
    h = builder.zext(bits, ir.VectorType(I32, bits.type.count))
    numbers = ir.VectorType(F32, bits.type.count)
    size = builder.shl(builder.and_(h, same(h, 0x7FFF)), same(h, 13))
    small = ir.Constant(numbers, [2.0**112] * bits.type.count)
    value = builder.bitcast(builder.fmul(builder.bitcast(size, numbers), small), h.type)
    exponent = builder.and_(h, same(h, 0x7C00))
    is_endless = builder.icmp_unsigned("==", exponent, same(h, 0x7C00))
    endless = builder.select(is_endless, same(h, 0x7F800000), same(h, 0))
    sign = builder.shl(builder.and_(h, same(h, 0x8000)), same(h, 16))
    return builder.bitcast(builder.or_(builder.or_(value, endless), sign), numbers)


@intrinsic
def widen_bytes(typingctx, codes, step, out):
    """32 whole numbers of 8 bits at address `codes`, times `step`, as fp32 at address `out`."""

    def code(context, builder, signature, args):
        wide = builder.sitofp(load(builder, args[0], 32), ir.VectorType(F32, 32))
        store(builder, builder.fmul(wide, all_of(builder, args[1], 32)), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64), code


@intrinsic
def widen_nibbles(typingctx, codes, step, least, out):
    """32 codes from 0 to 15, times `step`, plus `least`: those in the lower halves of 16 bytes, then the upper ones."""

    def code(context, builder, signature, args):
        for half, begin in zip(nibbles(builder, load(builder, args[0], 16)), (0, 64), strict=True):
            scaled = builder.fmul(builder.uitofp(half, ir.VectorType(F32, 16)), all_of(builder, args[1], 16))
            moved = builder.fadd(scaled, all_of(builder, args[2], 16))
            store(builder, moved, further(builder, args[3], begin))
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.float32, types.int64), code


@intrinsic
def widen_halves(typingctx, codes, step, low, high):
    """Codes from 0 to 15 in 32 bytes, less 8, times `step`: lower halves as fp32 at address `low`, upper at `high`."""

    def code(context, builder, signature, args):
        codes, step, *places = args
        for half, place in zip(nibbles(builder, load(builder, codes, 32)), places, strict=True):
            whole = builder.sitofp(builder.sub(half, same(half, 8)), ir.VectorType(F32, 32))
            store(builder, builder.fmul(whole, all_of(builder, step, 32)), place)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32, types.int64, types.int64), code
