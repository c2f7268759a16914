"""The exercises of notebook 02 against usual wrong answers and different right ones."""

import math

import torch

from llmhw_helpers.course.exercises import training
from llmhw_helpers.specs.figures import look_up


def rate_by_trying(curvature, momentum):
    """Walk on a parabola with ever larger steps until it gets away."""
    low, high = 0.0, 10 / curvature
    for _ in range(60):
        lr, w, v = (low + high) / 2, 1.0, 0.0
        for _ in range(20_000):
            v = momentum * v + curvature * w
            w -= lr * v
            if abs(w) > 1e6:
                break
        low, high = (low, lr) if abs(w) > 1e6 else (lr, high)
    return low


def half_step_by_torch(weight, mantissa_bits):
    formats = {"bf16": (torch.bfloat16, 7), "fp16": (torch.float16, 10), "fp32": (torch.float32, 23)}
    dtype = next(dtype for dtype, bits in formats.values() if bits == mantissa_bits)
    w = torch.tensor(weight, dtype=dtype)
    return (torch.nextafter(w, torch.tensor(math.inf, dtype=dtype)).double() - w.double()).item() / 2


def by_table(h, a, k, d, f):
    in_bf16 = {"attention norm": h, "its output": h, "q": a * d, "k": k * d, "v": k * d, "attention's output": a * d}
    in_bf16 |= {"MLP norm": h, "its output ": h, "gate": f, "silu": f, "up": f, "product": f}
    return 2 * sum(in_bf16.values()) + 4 * (a + 1 + 1)


RIGHT = {
    "batch_for_noise": [
        lambda s, g, share: (s / (share * g)) ** 2,
        lambda s, g, share: math.exp(2 * (math.log(s) - math.log(share) - math.log(g))),
    ],
    "largest_stable_rate": [lambda c, m: (2 + 2 * m) / c, rate_by_trying],
    "training_bytes": [
        lambda n, s, low, high: 2 * n * low + n * high + n * s * high,
        lambda n, s, low, high: sum([n * low] * 2 + [n * high] * (s + 1)),
    ],
    "bytes_per_token": [lambda h, a, k, d, f: 8 * h + 4 * d * (a + k) + 8 * f + 4 * a + 8, by_table],
    "largest_lost_update": [
        half_step_by_torch,
        lambda w, bits: 2 ** (math.floor(math.log2(w)) - bits) / 2,
    ],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "batch_for_noise": [
        (lambda s, g, share: s / (share * g), "*root* of the batch"),
        (lambda s, g, share: (s / share) ** 2, "not with share alone"),
        (lambda s, g, share: (s / g) ** 2, "as large as the gradient"),
        (lambda s, g, share: (share * g / s) ** 2, "Upside down"),
        (lambda s, g, share: (s / g) ** 2 / share, "share is squared"),
        (lambda s, g, share: 2 * (s / (share * g)) ** 2, "2 times the right answer"),
    ],
    "largest_stable_rate": [
        (lambda c, m: 2 / c, "without momentum"),
        (lambda c, m: (1 + m) / c, "at twice that"),
        (lambda c, m: 2 * (1 - m) / c, "long-run step"),
        (lambda c, m: 2 + 2 * m / c, "Brackets?"),
        (lambda c, m: c / (2 * (1 + m)), "Upside down"),
    ],
    "training_bytes": [
        (lambda n, s, low, high: n * (2 * low + s * high), "master copy"),
        (lambda n, s, low, high: n * (low + (1 + s) * high), "gradients are missing"),
        (lambda n, s, low, high: n * (low + (2 + s) * high), "low precision here"),
        (lambda n, s, low, high: n * ((2 + s) * low + high), "states are kept in high"),
        (lambda n, s, low, high: 2 * low + (1 + s) * high, "n_params"),
        (lambda n, s, low, high: 16 * n, "not yet"),
    ],
    "bytes_per_token": [
        (lambda h, a, k, d, f: 34 * h, "older block"),
        (lambda h, a, k, d, f: 2 * (4 * h + 2 * a * d + 2 * k * d + 4 * f), "numbers in fp32"),
        (lambda h, a, k, d, f: 2 * (4 * h + 4 * a * d + 4 * f) + 4 * a + 8, "n_kv_heads heads"),
        (lambda h, a, k, d, f: by_table(h, a, k, d, f) - 2 * f, "four tensors"),
        (lambda h, a, k, d, f: by_table(h, a, k, d, f) - 2 * a * d, "Attention keeps its result"),
        (lambda h, a, k, d, f: by_table(h, a, k, d, f) - 2 * k * d, "two tensors of n_kv_heads"),
        (lambda h, a, k, d, f: by_table(h, a, k, d, f) - 2 * a - 4, "4 bytes each, not 2"),
        (lambda h, a, k, d, f: 4 * h + 2 * d * (a + k) + 4 * f + 4 * a + 8, "2 bytes"),
        (lambda h, a, k, d, f: 2 * (6 * h + 2 * k * d + 4 * f) + 4 * a + 8, "need not be as wide"),
    ],
    "largest_lost_update": [
        (lambda w, bits: 2 * half_step_by_torch(w, bits), "whole distance"),
        (lambda w, bits: 2 ** -(bits + 1), "Right at 1"),
        (lambda w, bits: w * 2 ** -(bits + 1), "between two powers of two"),
        (lambda w, bits: 2 ** (math.ceil(math.log2(w)) - bits - 1), "not the one above"),
    ],
}


def test_training(confront):
    confront(training.EXERCISES, RIGHT, WRONG)


def test_the_states_of_the_optimizers_are_those_of_the_table():
    assert (training.ADAMW, training.MOMENTUM, training.SGD) == (2, 1, 0)


def test_they_are_registered():
    from llmhw_helpers.course.exercises import EXERCISES

    assert all(look_up(exercise.name, EXERCISES, "exercise") is exercise for exercise in training.EXERCISES)
