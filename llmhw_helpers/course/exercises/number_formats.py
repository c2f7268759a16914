"""Exercises on the bits of numbers and the bytes of model files (notebook 10)."""

import math
import struct

import torch

from ...costs import files
from ...llm.number_formats import decode, rounded
from ...specs.blocks import block
from ...specs.dtypes import DTYPES, dtype
from ..grading import Exercise, Mistake

BY_FIELDS = {(form.exponent_bits, form.mantissa_bits): form for form in DTYPES.values()}
# sign, exponent field, mantissa field, exponent bits, mantissa bits; normal and subnormal numbers, no special codes
CODES = [
    *[(0, 15, 512, 5, 10), (1, 128, 80, 8, 7), (0, 130, 0, 8, 23), (1, 9, 5, 4, 3), (0, 29, 3, 5, 2)],
    *[(0, 0, 1, 5, 10), (1, 0, 3, 4, 3), (0, 0, 1, 2, 1), (0, 1, 0, 5, 10), (0, 0, 0, 8, 7)],
]
# a value and mantissa bits: ties towards either side, a carry, negative and small ones
VALUES = [
    *[(257.0, 7), (259.0, 7), (math.pi, 7), (-0.1, 10), (2049.0, 10), (0.3, 2), (100.0, 3), (1.9999, 7), (-3e-3, 10)],
    *[(65519.0, 10), (-1.4375, 3), (1e6, 23)],
]
BY_MANTISSA = {2: "fp8_e5m2", 3: "fp8_e4m3", 7: "bf16", 10: "tf32", 23: "fp32"}
# weights in a block, bits of each, bits of all that the block shares; and the layout that it is
BLOCKS = {
    (32, 4, (16,)): "Q4_0",
    (32, 5, (16, 16)): "Q5_1",
    (256, 4, (16, 16, 96)): "Q4_K",
    (256, 6, (128, 16)): "Q6_K",
    (32, 4, (8,)): "MXFP4",
    (64, 4, (32,)): "NF4",
}
# offset, bytes, page size
PLACES = [(4095, 2, 4096), (0, 4096, 4096), (8192, 12288, 4096), (31866688, 2304, 4096), (100, 200_000, 16384)]
PLACES += [(4096 * 7 + 100, 4096 * 3 - 50, 4096)]
BEGINNINGS = [struct.pack("<Q", length) + b'{"a":{"dtype":"F32",' for length in (512, 87, 70_000, 2**33 + 5)]


def _decode(sign, exponent, mantissa, exponent_bits, mantissa_bits):
    form = BY_FIELDS[exponent_bits, mantissa_bits]
    code = (sign << (form.bits - 1)) | (exponent << mantissa_bits) | mantissa
    return decode(torch.tensor([code]), form).item()


def _round(x, mantissa_bits):
    return rounded(torch.tensor([x], dtype=torch.float64), dtype(BY_MANTISSA[mantissa_bits])).item()


def _decoded(sign, exponent, mantissa, e, m, bias=None, lead=None, least=1, signed=True, parts=None):
    """As `_decode`, with one thing or another done differently."""
    bias = 2 ** (e - 1) - 1 if bias is None else bias(e)
    lead = min(exponent, 1) if lead is None else lead
    value = (lead + mantissa / (parts or 2**m)) * 2.0 ** (max(exponent, least) - bias)
    return -value if sign and signed else value


def _copied(constants, field_0, **changes):
    """An answer with some of FP16's constants left in it: a mistake of its own for each way to treat field 0."""
    fp16 = {
        "15": "15 was FP16's bias: compute it from exponent_bits",
        "1024": "1024 was FP16's: it is 2**mantissa_bits",
    }
    hint = fp16.get(constants, "15 and 1024 were FP16's: compute them from exponent_bits and mantissa_bits")
    if "15" in constants:
        changes["bias"] = lambda e: 15
    if "1024" in constants:
        changes["parts"] = 1024
    return Mistake(f"{hint}{field_0}", lambda *code: _decoded(*code, **changes))


def _step(x, mantissa_bits):
    return 2.0 ** (math.frexp(x)[1] - 1 - mantissa_bits)


def _step_towards_0(x, mantissa_bits):
    return 2.0 ** (int(math.log2(abs(x))) - mantissa_bits)


EXERCISES = [
    Exercise(
        name="decode_bits",
        cases=CODES,
        right=_decode,
        rtol=1e-12,
        mistakes=[
            Mistake("A sign of 1 means minus.", lambda *code: _decoded(*code, signed=False)),
            Mistake(
                "The exponent field has no sign: subtract the bias from it.",
                lambda *code: _decoded(*code, bias=lambda e: 0),
            ),
            Mistake(
                "The bias is one less than half of the codes: 15 for 5 bits.",
                lambda *code: _decoded(*code, bias=lambda e: 2 ** (e - 1)),
            ),
            Mistake(
                "Where the exponent field is 0 there is no leading 1: these are the subnormal numbers.",
                lambda *code: _decoded(*code, lead=1),
            ),
            Mistake(
                "Where the exponent field is 0 there is no leading 1, and the exponent is that of field 1.",
                lambda *code: _decoded(*code, lead=1, least=0),
            ),
            Mistake(
                "Without a leading 1, an exponent field of 0 stands for the same exponent as a field of 1.",
                lambda *code: _decoded(*code, least=0),
            ),
            Mistake(
                "Without a leading 1 the power of two is still there: that of an exponent field of 1.",
                lambda *code: _decoded(*code) if code[1] else _decoded(*code, bias=lambda e: 1),
            ),
            Mistake("A normal number has a leading 1 that is not stored.", lambda *code: _decoded(*code, lead=0)),
            *[_copied(left, "; the rest is right.") for left in ("15 and 1024", "15", "1024")],
            *[
                _copied(left, ". Then see to exponent field 0.", lead=1, least=0)
                for left in ("15 and 1024", "15", "1024")
            ],
        ],
    ),
    Exercise(
        name="round_to_even",
        cases=VALUES,
        right=_round,
        rtol=1e-12,
        mistakes=[
            Mistake(
                "That cuts off, towards 0; the nearest number may be the next one away from 0.",
                lambda x, m: math.trunc(x / _step(x, m)) * _step(x, m),
            ),
            Mistake(
                "That always goes down; the nearest number may be the next one up.",
                lambda x, m: math.floor(x / _step(x, m)) * _step(x, m),
            ),
            Mistake(
                "Of two numbers equally near, the even multiple of the step wins, not always the one away from 0.",
                lambda x, m: math.copysign(math.floor(abs(x) / _step(x, m) + 0.5) * _step(x, m), x),
            ),
            Mistake(
                "Of two numbers equally near, the even multiple of the step wins, not always the larger one.",
                lambda x, m: math.floor(x / _step(x, m) + 0.5) * _step(x, m),
            ),
            Mistake(
                "That is how many steps: times the step it is the number.",
                lambda x, m: round(x / _step(x, m)),
            ),
            Mistake(
                "For numbers below 1 the exponent is negative: round the logarithm down, not towards 0.",
                lambda x, m: round(x / _step_towards_0(x, m)) * _step_towards_0(x, m),
            ),
            Mistake(
                "The step is twice too large: there are 2**m of them from one power of two to the next. "
                "(frexp's own exponent is e + 1.)",
                lambda x, m: round(x / _step(x, m - 1)) * _step(x, m - 1),
            ),
            Mistake(
                "The step grows with the number: it is 2**-m at 1, and twice that at 2.",
                lambda x, m: round(x * 2**m) / 2**m,
            ),
            Mistake("Bits, not decimal places.", lambda x, m: round(x, m)),
        ],
    ),
    Exercise(
        name="counting_stops",
        cases=[(2,), (3,), (7,), (10,), (23,)],
        right=lambda m: 2.0 ** (m + 1),
        rtol=1e-12,
        mistakes=[
            Mistake("At 2**m the step is just 1, so counting goes on: for one more power of two.", lambda m: 2.0**m),
            Mistake(
                "The number before it, 2**(m + 1) - 1, still has a next one: it is the sum that stays.",
                lambda m: 2.0 ** (m + 1) - 1,
            ),
            Mistake(
                "There the step is already 4. It stops where the step is 2 and half a step is a tie.",
                lambda m: 2.0 ** (m + 2),
            ),
        ],
    ),
    Exercise(
        name="block_bits",
        cases=list(BLOCKS),
        right=lambda *layout: block(BLOCKS[layout]).bits_per_weight,
        rtol=1e-9,
        mistakes=[
            Mistake("What the block shares is stored, too.", lambda n, bits, shared: bits),
            Mistake("The block has its scales once, not every weight.", lambda n, bits, shared: bits + sum(shared)),
            Mistake("All that is shared counts, not only the first.", lambda n, bits, shared: bits + shared[0] / n),
            Mistake("Bits were asked for, not bytes.", lambda n, bits, shared: (bits + sum(shared) / n) / 8),
            Mistake("That is the whole block: divide by its weights.", lambda n, bits, shared: n * bits + sum(shared)),
        ],
    ),
    Exercise(
        name="tensors_begin",
        cases=[(first,) for first in BEGINNINGS],
        right=lambda first: struct.unpack_from("<Q", first)[0] + 8,
        rtol=1e-12,
        mistakes=[
            Mistake("The 8 bytes of the length itself come before.", lambda first: int.from_bytes(first[:8], "little")),
            Mistake(
                "The smallest byte comes first: little-endian.", lambda first: int.from_bytes(first[:8], "big") + 8
            ),
            Mistake("The length has 8 bytes.", lambda first: int.from_bytes(first[:4], "little") + 8),
            Mistake("The length has 8 bytes, not one.", lambda first: first[0] + 8),
            Mistake("Only the first 8 bytes are the length.", lambda first: int.from_bytes(first, "little") + 8),
        ],
    ),
    Exercise(
        name="pages_touched",
        cases=PLACES,
        right=files.pages,
        rtol=1e-9,
        mistakes=[
            Mistake(
                "That is right for a tensor that begins with a page. Few do.",
                lambda offset, n, page: -(-n // page),
            ),
            Mistake("A page is read as a whole, or not at all.", lambda offset, n, page: n / page),
            Mistake("The page that is only partly used counts, too.", lambda offset, n, page: n // page),
            Mistake(
                "The byte at offset + n_bytes is not the tensor's any more.",
                lambda offset, n, page: (offset + n) // page - offset // page + 1,
            ),
            Mistake(
                "From page a to page b, both included, are b - a + 1.",
                lambda offset, n, page: (offset + n - 1) // page - offset // page,
            ),
        ],
    ),
]
