"""The exercises of notebook 05 against usual wrong answers and different right ones."""

import math

from llmhw_helpers.course.exercises import pretraining
from llmhw_helpers.specs.figures import look_up


def h(p):
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


def walked(a, b):
    """The share of the time at A by walking, not by a formula."""
    at_a = 0.5
    for _ in range(2000):
        at_a = at_a * (1 - a) + (1 - at_a) * b
    return at_a * h(a) + (1 - at_a) * h(b)


def counted(target, gpus, batch, length):
    n, seen = 0, 0
    while seen < target:
        n, seen = n + 1, seen + gpus * batch * length
    return n


RIGHT = {
    "two_symbol_floor": [lambda a, b: (b * h(a) + a * h(b)) / (a + b), walked],
    "training_work": [
        lambda n, layers, heads, size, length: 6 * n + 12 * layers * heads * size * length,
        lambda n, layers, heads, size, length: 3 * (2 * n + layers * (2 * heads * size * length) * 2),
    ],
    "gpu_days": [
        lambda n, t, g, peak, share: 6 * n * t / (g * peak * share) / 86400,
        lambda n, t, g, peak, share: t / (g * share * peak / (6 * n)) / 60 / 60 / 24,
    ],
    "micro_batches": [lambda t, g, b, s: math.ceil(t / (g * b * s)), counted],
    "workers_needed": [lambda n, s, rate: math.ceil(n / s / rate), lambda n, s, rate: -int(-(n / (s * rate)) // 1)],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "two_symbol_floor": [
        (lambda a, b: h(a / (a + b)), "frequencies only"),
        (lambda a, b: (h(a) + h(b)) / 2, "equally often"),
        (lambda a, b: (a * h(a) + b * h(b)) / (a + b), "wrong way round"),
        (lambda a, b: walked(a, b) / math.log(2), "in bits"),
        (lambda a, b: -a * math.log(a) - b * math.log(b), "Staying is an outcome"),
        (lambda a, b: -a * b * (math.log(a) + math.log(b)) / (a + b), "two things can come"),
    ],
    "training_work": [
        (lambda n, layers, heads, size, length: 2 * n + 4 * layers * heads * size * length, "forward pass alone"),
        (lambda n, layers, heads, size, length: 6 * n, "no parameter stands"),
        (lambda n, layers, heads, size, length: 6 * n + 4 * layers * heads * size * length, "not once"),
        (lambda n, layers, heads, size, length: length * (6 * n + 12 * layers * heads * size * length), "whole text"),
        (lambda n, layers, heads, size, length: 4 * n + 8 * layers * heads * size * length, "twice the forward"),
        (lambda n, layers, heads, size, length: 2 * n + 12 * layers * heads * size * length, "parameters have"),
        (lambda n, layers, heads, size, length: 6 * n + 12 * layers * heads * size, "grows with the text"),
        (lambda n, layers, heads, size, length: 6 * n + 12 * layers * heads * size * length**2, "not twice"),
        (lambda n, layers, heads, size, length: 3 * n + 12 * layers * heads * size * length, "*and* an add"),
    ],
    "gpu_days": [
        (lambda n, t, g, peak, share: 2 * n * t / (g * peak * share) / 86400, "2 N is"),
        (lambda n, t, g, peak, share: 6 * n * t / (g * peak * share) / 3600, "are hours"),
        (lambda n, t, g, peak, share: 6 * n * t / (g * peak * share), "are seconds"),
        (lambda n, t, g, peak, share: 6 * n * t / (g * peak) / 86400, "at the peak"),
        (lambda n, t, g, peak, share: 6 * n * t * share / (g * peak) / 86400, "wrong place"),
        (lambda n, t, g, peak, share: 6 * n * t / (peak * share) / 86400, "share the work"),
    ],
    "micro_batches": [
        (lambda t, g, b, s: t // (g * b * s), "one too few"),
        (lambda t, g, b, s: math.ceil(t / (b * s)), "same step"),
        (lambda t, g, b, s: math.ceil(t / (g * b)), "counts tokens"),
        (lambda t, g, b, s: round(t / (g * b * s)), "to the nearest"),
        (lambda t, g, b, s: t // (g * b * s) + 1, "leaves no rest"),
        (lambda t, g, b, s: t / (g * b * s), "no part of a micro-batch"),
        (lambda t, g, b, s: t // (b * s), "reached by rounding"),
        (lambda t, g, b, s: math.ceil(t / (g * s)), "by batch_size, too"),
    ],
    "workers_needed": [
        (lambda n, s, rate: max(1, int(n / s / rate)), "the last worker"),
        (lambda n, s, rate: int(n / s) // rate, "fall short"),
        (lambda n, s, rate: n // (s * rate) + 1, "leaves no rest"),
        (lambda n, s, rate: math.ceil(n * s / rate), "by step_seconds"),
        (lambda n, s, rate: math.ceil(n / rate), "every step_seconds"),
        (lambda n, s, rate: math.ceil(rate * s / n), "other way round"),
        (lambda n, s, rate: n / s / rate, "parts of workers"),
    ],
}


def test_pretraining(confront):
    confront(pretraining.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    from llmhw_helpers.course.exercises import EXERCISES

    assert all(look_up(exercise.name, EXERCISES, "exercise") is exercise for exercise in pretraining.EXERCISES)
