"""Int4 times int8 in registers whose lanes are rows: nothing is ever added up across a register.

A word of 32 bits has eight neighbours of one row, two in a byte; a register has such a word of `LANES` rows. Its lower
halves are four codes of each row, its upper ones the next four. AVX-512 with VNNI multiplies all 64 of them with four
numbers of a text, and adds up each row's four products, in one instruction. Other processors do it in 16 bits.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from .vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    WIDTH,
    all_of,
    called,
    from_fp16,
    further,
    load,
    multiplied,
    nibbles,
    processor_has,
    same,
    store,
)

LANES = WIDTH  # rows in a tile
WORDS = 4  # in a block of 32 codes


class Totals(types.Type):
    """Totals of a tile's rows times `n_texts` texts, fp32 ``[n_texts, LANES]``."""

    def __init__(self, n_texts: int):
        self.n_texts = n_texts
        super().__init__(f"Totals({n_texts}, {LANES})")


@register_model(Totals)
class _TotalsInMemory(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(ir.VectorType(F32, LANES), kind.n_texts))


def _no_totals(n_texts):
    @intrinsic
    def zeros(typingctx):
        def code(context, builder, signature, args):
            return ir.Constant(context.get_value_type(signature.return_type), None)

        return Totals(n_texts)(), code

    return zeros


total_of_one, totals_of_eight = _no_totals(1), _no_totals(8)


@intrinsic
def texts_of(typingctx, totals):
    """How many texts there are totals of."""
    return types.int64(totals), lambda *_: ir.Constant(I64, totals.n_texts)


@intrinsic
def add_block(typingctx, totals, words, steps, minima, shared, top, small, text_bytes, sums, scales, block_bytes):
    """The totals, and the products of a block of 32 codes of each row with as many numbers of each text.

    Args:
        totals: `Totals`.
        words: where the block's words lie, ``[WORDS, LANES]``.
        steps, minima: addresses from which it is `shared` bytes to the fp16 numbers of the rows, ``[LANES]``; without
            minima None, and code 8 is 0.
        top: 1 over what a step is divided by.
        small: where the first text's numbers lie, int8 ``[32]``; `text_bytes` from one text to the next.
        sums, scales: where their sum, int32, and their scale, fp32, lie; `block_bytes` from one text to the next.
    """
    centred = isinstance(minima, types.NoneType)

    def code(context, builder, signature, args):
        found, words, steps, minima, shared, top, small, text_bytes, sums, scales, block_bytes = args
        step = builder.fmul(
            from_fp16(builder, load(builder, builder.add(steps, shared), LANES, I16)), all_of(builder, top, LANES)
        )
        least = step if centred else from_fp16(builder, load(builder, builder.add(minima, shared), LANES, I16))
        places = [further(builder, words, 4 * LANES * q) for q in range(WORDS)]
        codes = [half for place in places for half in nibbles(builder, load(builder, place, LANES, I32))]
        for t in range(totals.n_texts):
            eights = [_one(builder, further(builder, small, 4 * q), I32) for q in range(2 * WORDS)]
            sum_, scale = _one(builder, sums, I32), _one(builder, scales, F32)
            start = builder.mul(sum_, ir.Constant(I32, -8)) if centred else ir.Constant(I32, 0)
            whole = builder.sitofp(_dots(builder, all_of(builder, start, LANES), codes, eights), step.type)
            total = builder.extract_value(found, t)
            total = multiplied(builder, total, builder.fmul(whole, all_of(builder, scale, LANES)), step)
            if not centred:
                moved = builder.fmul(builder.sitofp(sum_, F32), scale)
                total = multiplied(builder, total, all_of(builder, moved, LANES), least)
            found = builder.insert_value(found, total, t)
            small = builder.add(small, text_bytes)
            sums, scales = builder.add(sums, block_bytes), builder.add(scales, block_bytes)
        return found

    return totals(totals, words, steps, minima, shared, top, small, text_bytes, sums, scales, block_bytes), code


def _one(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _dots(builder, start, codes, numbers):
    """``start``, and of each row its bytes, from 0 to 15, times those of the text: four in a word of 32 bits each."""
    if LANES == 16 and processor_has("avx512vnni"):
        kind = ir.FunctionType(start.type, [start.type] * 3)
        function = called(builder, "llvm.x86.avx512.vpdpbusd.512", kind)
        for code, number in zip(codes, numbers, strict=True):
            start = builder.call(function, [start, code, all_of(builder, number, LANES)])
        return start
    pairs = [_pairs(builder, code, number) for code, number in zip(codes, numbers, strict=True)]
    total = pairs[0]
    for pair in pairs[1:]:  # 16 products, of 0 to 15 and -127 to 127, fit 16 bits
        total = builder.add(total, pair)
    both = builder.bitcast(total, start.type)
    lower = builder.ashr(builder.shl(both, same(both, 16)), same(both, 16))
    return builder.add(start, builder.add(lower, builder.ashr(both, same(both, 16))))


def _pairs(builder, code, number):
    """Sums of each two neighbouring products, in 16 bits."""
    n = 4 * LANES
    numbers, halves = all_of(builder, number, LANES), ir.VectorType(I16, 2 * LANES)
    name = {32: ("avx2", "llvm.x86.avx2.pmadd.ub.sw"), 64: ("avx512bw", "llvm.x86.avx512.pmaddubs.w.512")}[n]
    if processor_has(name[0]):
        kind = ir.FunctionType(halves, [ir.VectorType(I8, n)] * 2)
        both = [builder.bitcast(each, ir.VectorType(I8, n)) for each in (code, numbers)]
        return builder.call(called(builder, name[1], kind), both)
    code, numbers = builder.bitcast(code, halves), builder.bitcast(numbers, halves)
    eight = same(code, 8)
    low = builder.mul(builder.and_(code, same(code, 255)), builder.ashr(builder.shl(numbers, eight), eight))
    return builder.add(low, builder.mul(builder.lshr(code, eight), builder.ashr(numbers, eight)))


@intrinsic
def put_lanes(typingctx, totals, out):
    """All totals, as fp32 ``[n_texts, LANES]`` at address `out`."""

    def code(context, builder, signature, args):
        for t in range(totals.n_texts):
            store(builder, builder.extract_value(args[0], t), further(builder, args[1], 4 * LANES * t))
        return context.get_dummy_value()

    return types.void(totals, types.int64), code
