"""Products of neighbours, two at a time: weights and activations of 16 bits, of which a register holds twice as many.

One instruction multiplies each two neighbours of a row with those of a text, and adds both products to a sum. So
nothing is widened, and half as many instructions do. Bf16 has that where the processor does, with sums in fp32; int8,
as whole numbers of 16 bits, everywhere. The numbers of texts are rounded before: see `texts`.
"""

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from .vectors import F32, I16, I32, WIDTH, called, from_bf16, load, processor_has

PAIRED = 2 * WIDTH  # numbers in a register
LONGEST = 4096  # numbers of a row and a text whose products surely fit: `LONGEST / WIDTH` times 128 * 32767 is < 2^31
BF16_DOT = WIDTH == 16 and processor_has("avx512bf16")  # whether there is an instruction for pairs of bf16


class Pairs(NamedTuple):
    """How pairs are multiplied.

    Attributes:
        total: what sums are: fp32, or whole numbers of 32 bits.
        weights: given a builder and an address: a register of weights.
        add: given a builder, sums, weights and a text's numbers: the sums with the pairs' products.
        one: given a builder and an address: a text's number, as a vector of one in fp32.
    """

    total: ir.Type
    weights: Callable
    add: Callable
    one: Callable


def _bf16_weights(builder, address):
    return load(builder, address, PAIRED, I16)


def _bf16_add(builder, totals, weights, numbers):
    """Products are exact, and sums fp32. What is smaller than 2^-126, a number or a sum, is 0 to this instruction."""
    return _by_words(builder, "llvm.x86.avx512bf16.dpbf16ps.512", totals, weights, numbers)


def _bf16_one(builder, address):
    return from_bf16(builder, load(builder, address, 1, I16))


def _int8_weights(builder, address):
    return builder.sext(load(builder, address, PAIRED), ir.VectorType(I16, PAIRED))


def _int8_add(builder, totals, weights, numbers):
    """Sums are whole numbers, and exact."""
    for width, feature in ((16, "avx512vnni"), (8, "avxvnni")):
        if width == WIDTH and processor_has(feature):
            return _by_words(builder, f"llvm.x86.avx512.vpdpwssd.{32 * WIDTH}", totals, weights, numbers)
    for width, feature, name in ((16, "avx512bw", "avx512.pmaddw.d.512"), (8, "avx2", "avx2.pmadd.wd")):
        if width == WIDTH and processor_has(feature):
            function = called(builder, f"llvm.x86.{name}", ir.FunctionType(totals.type, [weights.type] * 2))
            return builder.add(totals, builder.call(function, [weights, numbers]))
    wide = ir.VectorType(I32, PAIRED)
    products = builder.mul(builder.sext(weights, wide), builder.sext(numbers, wide))
    for first in (0, WIDTH):  # Arm multiplies half of them, and adds them up, in one instruction
        half = ir.Constant(ir.VectorType(I32, WIDTH), list(range(first, first + WIDTH)))
        totals = builder.add(totals, builder.shuffle_vector(products, products, half))
    return totals


def _int8_one(builder, address):
    return builder.sitofp(load(builder, address, 1, I16), ir.VectorType(F32, 1))


def _by_words(builder, name, totals, weights, numbers):
    """The sums of an instruction to which a pair is a word."""
    words = ir.VectorType(I32, WIDTH)
    function = called(builder, name, ir.FunctionType(totals.type, [totals.type, words, words]))
    return builder.call(function, [totals, builder.bitcast(weights, words), builder.bitcast(numbers, words)])


BF16 = Pairs(F32, _bf16_weights, _bf16_add, _bf16_one) if BF16_DOT else None
INT8 = Pairs(I32, _int8_weights, _int8_add, _int8_one)
