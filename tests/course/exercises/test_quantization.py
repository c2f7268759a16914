"""The exercises of notebook 11 against usual wrong answers and different right ones."""

import numpy as np

from llmhw_helpers.course.exercises import EXERCISES, quantization


def by_search(weights, bits):
    top = 2 ** (bits - 1) - 1
    levels = np.arange(-top, top + 1) / top * np.abs(weights).max()
    return np.array([levels[np.abs(levels - w).argmin()] for w in weights])


def by_rounding(weights, bits):
    top, largest = 2 ** (bits - 1) - 1, np.abs(weights).max()
    return np.round(weights / largest * top) * largest / top if largest else weights


def with_top(top, whole=np.round, largest=lambda w: np.abs(w).max(), back=True):
    def answer(weights, bits):
        scale = largest(weights) / top(bits)
        if scale == 0:
            return weights * 0
        return whole(weights / scale) * (scale if back else 1)

    return answer


def without_a_thought_of_zeros(weights, bits):
    scale = np.abs(weights).max() / (2 ** (bits - 1) - 1)
    with np.errstate(invalid="ignore"):
        return np.round(weights / scale) * scale


def smallest_kept(largest, bits):
    top = 2 ** (bits - 1) - 1
    return (0.5 / top) * largest


RIGHT = {
    "stored_bits": [lambda b, g, s, n: b + n * s / g, lambda b, g, s, n: (b * g + n * s) / g],
    "absmax_round": [by_rounding, by_search],
    "decode_rate": [
        lambda n, b, c, rate: rate / (n * b / 8 + c),
        lambda n, b, c, rate: 1 / (n / 8 * b / rate + c / rate),
    ],
    "vanishes_below": [lambda m, b: m / (2 ** (b - 1) - 1) / 2, smallest_kept],
    "largest_model": [lambda m, b, r: (m - r) * 8 / b, lambda m, b, r: m / b * 8 - r / b * 8],
}
WRONG = {
    "stored_bits": [
        (lambda b, g, s, n: b, "scales are stored"),
        (lambda b, g, s, n: b + s / g, "not always one"),
        (lambda b, g, s, n: b + n * s, "shared by all"),
        (lambda b, g, s, n: b * g + n * s, "a whole group"),
        (lambda b, g, s, n: b / 8, "right answer"),
    ],
    "absmax_round": [
        (with_top(lambda b: 2 ** (b - 1) - 1, largest=np.max), "largest *magnitude*"),
        (with_top(lambda b: 2**b - 1), "not to 15"),
        (with_top(lambda b: 2 ** (b - 1)), "not 8: one code"),
        (without_a_thought_of_zeros, "0 / 0 is NaN"),
        (with_top(lambda b: 2 ** (b - 1) - 1, np.trunc), "do not cut off"),
        (with_top(lambda b: 2 ** (b - 1) - 1, back=False), "multiply by the scale again"),
        (lambda weights, bits: weights, "not right"),
    ],
    "decode_rate": [
        (lambda n, b, c, rate: rate / (n * b + c), "8 make one"),
        (lambda n, b, c, rate: rate / (n * b / 8), "cache is read"),
        (lambda n, b, c, rate: (n * b / 8 + c) / rate, "Tokens per second"),
        (lambda n, b, c, rate: rate / ((n + c) * b / 8), "in bytes already"),
    ],
    "vanishes_below": [
        (lambda m, b: m / (2 ** (b - 1) - 1), "up to half of one"),
        (lambda m, b: m / (2**b - 1) / 2, "not 255"),
        (lambda m, b: m / 2**b, "not 128"),
        (lambda m, b: m / 2 ** (b - 1), "128 instead of 127"),
    ],
    "largest_model": [
        (lambda m, b, r: m * 8 / b, "has to be left"),
        (lambda m, b, r: (m - r) / b, "8 of them are a byte"),
        (lambda m, b, r: (m - r) * b / 8, "How many weights fit"),
    ],
}


def test_quantization(confront):
    confront(quantization.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in quantization.EXERCISES)
