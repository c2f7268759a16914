"""Exercises on quantisation (notebook 11)."""

import numpy as np
import torch

from ...costs.flops import Work
from ...costs.roofline import Roof
from ...llm.quantization import Scheme, quantize
from ...specs.blocks import block
from ..grading import Exercise, Mistake

# bits of a number, weights that share, bits of a scale, what a group keeps besides (1: a scale; 2: and a minimum)
STORED = [(4, 32, 16, 1), (4, 32, 16, 2), (8, 64, 32, 1), (3, 128, 16, 1), (2, 16, 8, 2)]
ROWS = [
    (np.array([1.0, -7.0, 2.6, 0.2]), 4),
    (np.array([0.5, 0.3, -0.125, 0.0]), 8),
    (np.array([-12.0, 3.0, 5.5, 7.0, 1.0]), 3),
    (np.array([0.0, 0.0]), 4),
]
# parameters, bits per weight, cache bytes read, bytes per second
RATES = [(8e9, 16, 0, 2e12), (8e9, 4.5, 1e9, 2e12), (135e6, 8.03, 5e6, 25e9), (70e9, 4.25, 2.7e9, 3.35e12)]
MEMORIES = [(24e9, 4.5, 2e9), (80e9, 16, 8e9), (16e9, 8.5, 1e9), (4e9, 4.25, 0.5e9)]
LARGEST = [(22552.0, 8), (7.0, 4), (100.0, 8), (1.0, 2)]


def _stored_bits(bits, group, scale_bits, n_kept):
    if (bits, group, scale_bits) == (4, 32, 16):
        return block("Q4_0" if n_kept == 1 else "Q4_1").bits_per_weight
    return (bits * group + scale_bits * n_kept) / group


def _rounded(weights, bits):
    return quantize(torch.tensor(weights)[None].float(), Scheme(bits, "row")).dequantize()[0].double().numpy()


def _with(top, to_whole=np.round, largest=lambda w: np.abs(w).max(), back=True, zero=1.0):
    def answer(weights, bits):
        scale = largest(weights) / top(bits) or zero
        with np.errstate(invalid="ignore"):
            numbers = to_whole(weights / scale)
        return numbers * scale if back else numbers

    return answer


def _top(bits):
    return 2 ** (bits - 1) - 1


def _rate(n_params, bits, cache_bytes, bytes_per_s):
    return 1 / Roof("x", {"int8": 1.0}, bytes_per_s).floor(Work(0, n_params * bits / 8 + cache_bytes), "int8").seconds


EXERCISES = [
    Exercise(
        name="stored_bits",
        cases=STORED,
        right=_stored_bits,
        rtol=1e-9,
        mistakes=[
            Mistake("The scales are stored, too.", lambda b, g, s, n: b),
            Mistake("A group keeps n_kept numbers, not always one.", lambda b, g, s, n: b + s / g),
            Mistake("The group's numbers are shared by all of its weights.", lambda b, g, s, n: b + s * n),
            Mistake("That is a whole group; for one weight?", lambda b, g, s, n: b * g + s * n),
        ],
    ),
    Exercise(
        name="absmax_round",
        cases=ROWS,
        right=_rounded,
        rtol=1e-5,
        mistakes=[
            Mistake(
                "The scale comes from the largest *magnitude*: mind the negative ones.", _with(_top, largest=np.max)
            ),
            Mistake(
                "With 4 bits the numbers go from -7 to 7, not to 15: half of the codes are negative.",
                _with(lambda bits: 2**bits - 1),
            ),
            Mistake(
                "The largest weight becomes 7 for 4 bits, not 8: one code is left out, so that both sides are alike.",
                _with(lambda bits: 2 ** (bits - 1)),
            ),
            Mistake("A row of zeros has the scale 0, and 0 / 0 is NaN: give it another one.", _with(_top, zero=0.0)),
            Mistake("To the nearest whole number: round, do not cut off.", _with(_top, np.trunc)),
            Mistake("Those are the small numbers: multiply by the scale again.", _with(_top, back=False)),
        ],
    ),
    Exercise(
        name="decode_rate",
        cases=RATES,
        right=_rate,
        rtol=1e-6,
        mistakes=[
            Mistake("Bits, not bytes: 8 make one.", lambda n, b, c, rate: rate / (n * b + c)),
            Mistake("The cache is read in every step, too.", lambda n, b, c, rate: rate / (n * b / 8)),
            Mistake("Tokens per second, not seconds per token.", lambda n, b, c, rate: (n * b / 8 + c) / rate),
            Mistake("The cache is in bytes already, and as it was.", lambda n, b, c, rate: rate / ((n + c) * b / 8)),
        ],
    ),
    Exercise(
        name="vanishes_below",
        cases=LARGEST,
        right=lambda largest, bits: largest * float(0.5 / Scheme(bits).top),
        rtol=1e-6,
        mistakes=[
            Mistake("That is a whole step; up to half of one rounds to 0.", lambda m, b: m / _top(b)),
            Mistake(
                "With 8 bits there are 127 steps from 0 to the largest, not 255: half of the codes are negative.",
                lambda m, b: m / (2**b - 1) / 2,
            ),
            Mistake(
                "With 8 bits there are 127 steps from 0 to the largest, not 128: one code is left out.",
                lambda m, b: m / 2 ** (b - 1) / 2,
            ),
            Mistake(
                "That is a whole step, where half of one rounds to 0; and a step of 128 instead of 127 for 8 bits.",
                lambda m, b: m / 2 ** (b - 1),
            ),
        ],
    ),
    Exercise(
        name="largest_model",
        cases=MEMORIES,
        right=lambda memory, bits, reserved: (memory - reserved) / (bits / 8),
        rtol=1e-6,
        mistakes=[
            Mistake("Something has to be left for the cache and the program.", lambda m, b, r: m / (b / 8)),
            Mistake("Bits per weight: 8 of them are a byte.", lambda m, b, r: (m - r) / b),
            Mistake("How many weights fit, not how many bytes these take.", lambda m, b, r: (m - r) * b / 8),
        ],
    ),
]
