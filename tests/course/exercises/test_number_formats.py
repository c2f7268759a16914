"""The exercises of notebook 10 against usual wrong answers and different right ones."""

import math
import struct

import numpy as np

from llmhw_helpers.course.exercises import EXERCISES, number_formats


def decoded(sign, exponent, mantissa, e, m, lead=True, subnormal=True, bias=None, signed=True, low=1):
    bias = 2 ** (e - 1) - 1 if bias is None else bias
    if exponent == 0 and subnormal:
        value = mantissa / 2**m * 2.0 ** (low - bias)
    else:
        value = ((1 if lead else 0) + mantissa / 2**m) * 2.0 ** (exponent - bias)
    return -value if sign and signed else value


def by_units(sign, exponent, mantissa, e, m):
    units = mantissa + (2**m if exponent else 0)
    return (-1) ** sign * math.ldexp(units, max(exponent, 1) - (2 ** (e - 1) - 1) - m)


def as_in_fp16(sign, exponent, mantissa, bias=15, parts=1024, handled=False):
    """The notebook's own line for FP16, copied; `handled`: with field 0 as it should be."""
    if handled and exponent == 0:
        return (-1) ** sign * mantissa / parts * 2.0 ** (1 - bias)
    return (-1) ** sign * (1 + mantissa / parts) * 2.0 ** (exponent - bias)


def own(e):
    return 2 ** (e - 1) - 1


def no_power(s, x, f, e, m):
    return decoded(s, x, f, e, m) if x else (-1) ** s * f / 2**m


def step(x, m):
    return 2.0 ** (math.floor(math.log2(abs(x))) - m)


def toward_0(x, m):
    e = int(math.log2(abs(x)))
    return round(x / 2 ** (e - m)) * 2 ** (e - m)


def by_frexp_alone(x, m):
    _, e = math.frexp(x)
    return round(x / 2 ** (e - m)) * 2 ** (e - m)


def by_numpy(x, m):
    bits = np.float64(x).view(np.int64)
    cut = 52 - m
    half, odd = 1 << (cut - 1), int(bits) >> cut & 1
    return float(np.int64((int(bits) + half - 1 + odd) >> cut << cut).view(np.float64))


def by_counting(m):
    total = max(0.0, 2.0 ** (m + 1) - 1000)  # the last thousand steps
    while by_numpy(total + 1, m) != total:
        total = by_numpy(total + 1, m)
    return total


RIGHT = {
    "decode_bits": [decoded, by_units],
    "round_to_even": [lambda x, m: round(x / step(x, m)) * step(x, m), by_numpy],
    "counting_stops": [lambda m: 2 ** (m + 1), by_counting],
    "block_bits": [
        lambda n, bits, shared: bits + sum(shared) / n,
        lambda n, bits, shared: (n * bits + sum(shared)) / n,
    ],
    "tensors_begin": [
        lambda first: 8 + int.from_bytes(first[:8], "little"),
        lambda first: struct.unpack("<Q", first[:8])[0] + 8,
    ],
    "pages_touched": [
        lambda offset, n, page: (offset + n - 1) // page - offset // page + 1,
        lambda offset, n, page: -(-(offset % page + n) // page),
    ],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "decode_bits": [
        (lambda *code: decoded(*code, signed=False), "sign of 1 means minus"),
        (lambda *code: decoded(*code, bias=0), "subtract the bias"),
        (lambda s, x, f, e, m: decoded(s, x, f, e, m, bias=2 ** (e - 1)), "15 for 5 bits"),
        (
            lambda s, x, f, e, m: (-1) ** s * (1 + f / 2**m) * 2.0 ** (max(x, 1) - 2 ** (e - 1) + 1),
            "these are the subnormal",
        ),
        (lambda *code: decoded(*code, subnormal=False), "the exponent is that of field 1"),
        (lambda *code: decoded(*code, low=0), "same exponent as a field of 1"),
        (lambda *code: decoded(*code, lead=False), "leading 1 that is not stored"),
        (no_power, "power of two is still there"),
        (lambda s, x, f, e, m: as_in_fp16(s, x, f), "exponent_bits and mantissa_bits. Then see"),
        (lambda s, x, f, e, m: as_in_fp16(s, x, f, parts=2**m), "FP16's bias: compute it from exponent_bits. Then see"),
        (lambda s, x, f, e, m: as_in_fp16(s, x, f, bias=own(e)), "1024 was FP16's: it is 2**mantissa_bits. Then see"),
        (lambda s, x, f, e, m: as_in_fp16(s, x, f, handled=True), "exponent_bits and mantissa_bits; the rest"),
        (
            lambda s, x, f, e, m: as_in_fp16(s, x, f, parts=2**m, handled=True),
            "15 was FP16's bias: compute it from exponent_bits; the rest",
        ),
        (
            lambda s, x, f, e, m: as_in_fp16(s, x, f, bias=own(e), handled=True),
            "1024 was FP16's: it is 2**mantissa_bits; the rest",
        ),
    ],
    "round_to_even": [
        (lambda x, m: int(x / step(x, m)) * step(x, m), "cuts off"),
        (lambda x, m: math.copysign(int(abs(x) / step(x, m) + 0.5) * step(x, m), x), "not always the one away"),
        (lambda x, m: math.floor(x / step(x, m) + 0.5) * step(x, m), "not always the larger"),
        (lambda x, m: math.floor(x / step(x, m)) * step(x, m), "always goes down"),
        (lambda x, m: round(x / step(x, m)), "how many steps"),
        (toward_0, "not towards 0"),
        (lambda x, m: round(x / step(x, m) / 2) * step(x, m) * 2, "twice too large"),
        (by_frexp_alone, "twice too large"),
        (lambda x, m: round(x * 2**m) / 2**m, "step grows"),
        (lambda x, m: round(x, m), "not decimal places"),
        (lambda x, m: x, "times the right answer"),
    ],
    "counting_stops": [
        (lambda m: 2**m, "counting goes on"),
        (lambda m: 2 ** (m + 1) - 1, "still has a next one"),
        (lambda m: 2 ** (m + 2), "already 4"),
        (lambda m: 65504, "times the right answer"),
    ],
    "block_bits": [
        (lambda n, bits, shared: bits, "is stored, too"),
        (lambda n, bits, shared: bits + sum(shared), "not every weight"),
        (lambda n, bits, shared: bits + shared[0] / n, "not only the first"),
        (lambda n, bits, shared: (n * bits + sum(shared)) / n / 8, "not bytes"),
        (lambda n, bits, shared: n * bits + sum(shared), "divide by its weights"),
    ],
    "tensors_begin": [
        (lambda first: int.from_bytes(first[:8], "little"), "come before"),
        (lambda first: int.from_bytes(first[:8], "big") + 8, "little-endian"),
        (lambda first: struct.unpack("<I", first[:4])[0] + 8, "The length has 8 bytes."),
        (lambda first: first[0] + 8, "not one"),
        (lambda first: int.from_bytes(first, "little") + 8, "Only the first 8"),
    ],
    "pages_touched": [
        (lambda offset, n, page: math.ceil(n / page), "Few do"),
        (lambda offset, n, page: n / page, "as a whole, or not at all"),
        (lambda offset, n, page: n // page, "only partly used"),
        (lambda offset, n, page: (offset + n) // page - offset // page + 1, "is not the tensor's any more"),
        (lambda offset, n, page: (offset + n - 1) // page - offset // page, "both included"),
    ],
}


def test_number_formats(confront):
    confront(number_formats.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in number_formats.EXERCISES)
