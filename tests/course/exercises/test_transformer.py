"""The exercises of notebook 04 against usual wrong answers and different right ones."""

import math

import numpy as np

from llmhw_helpers.course.exercises import transformer
from llmhw_helpers.specs.figures import look_up


def one_by_one(p, top_p):
    total, n = 0.0, 0
    for value in sorted(p, reverse=True):
        if total >= top_p:
            break
        total, n = total + value, n + 1
    return n


def turn(x, y, t, f):
    c, s = math.cos(t * f), math.sin(t * f)
    return x * c - y * s, x * s + y * c


RIGHT = {
    "rms_norm": [
        lambda x, w, eps: w * x / np.sqrt((x * x).mean() + eps),
        lambda x, w, eps: [
            wi * xi / math.sqrt(sum(v * v for v in x) / len(x) + eps) for xi, wi in zip(x, w, strict=True)
        ],
    ],
    "turn_pair": [
        turn,
        lambda x, y, t, f: np.array([[math.cos(t * f), -math.sin(t * f)], [math.sin(t * f), math.cos(t * f)]]) @ [x, y],
    ],
    "block_parameters": [
        lambda h, a, k, d, f: h * d * (2 * a + 2 * k) + 3 * h * f + 2 * h,
        lambda h, a, k, d, f: sum([h * a * d, h * k * d, h * k * d, a * d * h, h * f, h * f, f * h, h, h]),
    ],
    "pair_operations": [
        lambda n, a, d, t: 4 * n * a * d * t**2,
        lambda n, a, d, t: n * a * (2 * t * t * d + 2 * t * d * t),
    ],
    "nucleus": [one_by_one, lambda p, top: int((np.cumsum(np.sort(p)[::-1]) < top).sum()) + 1],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "rms_norm": [
        (lambda x, w, eps: w * (x - x.mean()) / (x.var() + eps) ** 0.5, "LayerNorm"),
        (lambda x, w, eps: w * x / ((x * x).mean() + eps), "root is missing"),
        (lambda x, w, eps: w * x / ((x * x).sum() + eps) ** 0.5, "not their sum"),
        (lambda x, w, eps: x / ((x * x).mean() + eps) ** 0.5, "weight is missing"),
        (lambda x, w, eps: w * x / ((x * x).mean() ** 0.5 + eps), "under the root"),
        (lambda x, w, eps: w * x / (x * x).mean() ** 0.5, "eps is missing"),
    ],
    "turn_pair": [
        (lambda x, y, t, f: turn(x, y, -t, f), "wrong way round"),
        (lambda x, y, t, f: turn(x, y, t, 1), "position times frequency"),
        (lambda x, y, t, f: (a := turn(x, y, t, f)[0], y * math.cos(t * f) + a * math.sin(t * f)), "as it was before"),
        (lambda x, y, t, f: (x * math.cos(t * f), y * math.sin(t * f)), "made of both"),
        (lambda x, y, t, f: turn(x, y, t, f)[::-1], "wrong order"),
        (lambda x, y, t, f: turn(x, y, t, math.radians(f)), "in radians already"),
        (lambda x, y, t, f: turn(x, y, 1, math.pi / 2 - t * f), "changed places"),
    ],
    "block_parameters": [
        (lambda h, a, k, d, f: h * d * 2 * (a + k) + 3 * h * f, "norms are missing"),
        (lambda h, a, k, d, f: h * d * 2 * (a + k) + 3 * h * f + h, "two norms, not one"),
        (lambda h, a, k, d, f: h * d * 2 * (a + k) + h * f + 2 * h, "not one"),
        (lambda h, a, k, d, f: 4 * h * k * d + 3 * h * f + 2 * h, "more than keys"),
        (lambda h, a, k, d, f: h * d * (2 * a + k) + 3 * h * f + 2 * h, "for keys or"),
        (lambda h, a, k, d, f: 4 * h * h + 3 * h * f + 2 * h, "d_model by d_model"),
        (lambda h, a, k, d, f: 4 * h * d + 3 * h * f + 2 * h, "of one head"),
        (lambda h, a, k, d, f: 2 * h * (a + k) + 3 * h * f + 2 * h, "multiply the two"),
        (lambda h, a, k, d, f: h * d * 2 * (a + k) + 2 * h * f + 2 * h, "not two"),
        (lambda h, a, k, d, f: 4 * h * a * d + 3 * h * f + 2 * h, "fewer than the queries"),
        (lambda h, a, k, d, f: h * d * (a + 2 * k) + 3 * h * f + 2 * h, "for queries or"),
        (lambda h, a, k, d, f: 2 * h * h + 2 * h * k * d + 3 * h * f + 2 * h, "need not be d_model"),
    ],
    "pair_operations": [
        (lambda n, a, d, t: 2 * n * a * d * t**2, "Half of it"),
        (lambda n, a, d, t: 4 * a * d * t**2, "one layer"),
        (lambda n, a, d, t: n * a * d * t**2, "A quarter"),
        (lambda n, a, d, t: 4 * d * t**2, "one head of one layer"),
        (lambda n, a, d, t: 4 * n * a * d * t * (t + 1) // 2, "also those"),
        (lambda n, a, d, t: 4 * n * a * d * t * (t - 1) // 2, "here all are counted"),
        (lambda n, a, d, t: 4 * n * a * t * t, "so many terms"),
        (lambda n, a, d, t: 4 * n * a * d * t, "seq_len twice"),
        (lambda n, a, d, t: 4 * n * d * t**2, "one head in each"),
    ],
    "nucleus": [
        (lambda p, top: int((np.cumsum(p) < top).sum()) + 1, "Sort first"),
        (lambda p, top: one_by_one(p, top) - 1, "kept, too"),
        (lambda p, top: int((p >= top).sum()), "their sum"),
        (lambda p, top: int((np.cumsum(np.sort(p)) < top).sum()) + 1, "least likely"),
    ],
}


def test_transformer(confront):
    confront(transformer.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    from llmhw_helpers.course.exercises import EXERCISES

    assert all(look_up(exercise.name, EXERCISES, "exercise") is exercise for exercise in transformer.EXERCISES)
