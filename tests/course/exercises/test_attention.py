"""The exercises of notebook 03 against usual wrong answers and different right ones."""

import math

import numpy as np

from llmhw_helpers.course.exercises import attention
from llmhw_helpers.specs.figures import look_up


def softly(scores):
    return np.exp(scores) / np.exp(scores).sum()


def by_bisection(step, rate, d):
    low, high = 0.0, 1e12
    for _ in range(200):
        mid = (low + high) / 2
        low, high = (mid, high) if (8 * mid * d**2 + 4 * mid**2 * d) / rate < step * mid else (low, mid)
    return low


RIGHT = {
    "attention_operations": [
        lambda t, d: 8 * t * d**2 + 4 * t**2 * d,
        lambda t, d: 2 * t * d * (3 * d) + 2 * t * t * d + 2 * t * t * d + 2 * t * d * d,
    ],
    "crossing_length": [lambda s, r, d: s * r / 4 / d - 2 * d, by_bisection],
    "attend": [
        lambda q, k, v: softly(k @ q / math.sqrt(len(q))) @ v,
        lambda q, k, v: sum(w * value for w, value in zip(softly(q @ k.T * len(q) ** -0.5), v, strict=True)),
    ],
    "visible_pairs": [
        lambda t: t * (t + 1) // 2,
        lambda t: int(np.tril(np.ones((t, t), dtype=np.int8)).sum(dtype=int)),
    ],
    "shared_head": [
        lambda h, n, k: h // (n // k),
        lambda h, n, k: int(np.repeat(np.arange(k), n // k)[h]),
    ],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "attention_operations": [
        (lambda t, d: 8 * t * d**2, "tokens with tokens"),
        (lambda t, d: 4 * t * d**2 + 2 * t**2 * d, "multiply-add"),
        (lambda t, d: 6 * t * d**2 + 4 * t**2 * d, "Four products"),
        (lambda t, d: 8 * t * d**2 + 2 * t**2 * d, "two products"),
        (lambda t, d: 8 * t * d**2 + 4 * t**2, "sum of d_model terms"),
    ],
    "crossing_length": [
        (lambda s, r, d: s * r / (4 * d), "8 d_model^2 operations a token"),
        (lambda s, r, d: (s * r - 8 * d**2) / (2 * d), "operations a pair"),
        (lambda s, r, d: math.sqrt((s * r - 8 * d**2) / (4 * d)), "divide by one T"),
        (lambda s, r, d: (s * r + 8 * d**2) / (4 * d), "minus"),
    ],
    "attend": [
        (lambda q, k, v: softly(k @ q) @ v, "before the softmax"),
        (lambda q, k, v: softly(k @ q / len(q)) @ v, "not head_dim itself"),
        (lambda q, k, v: softly(k @ q / len(q) ** 0.5) @ k, "takes home values"),
        (lambda q, k, v: (k @ q / len(q) ** 0.5) @ v, "sum to 1"),
        (lambda q, k, v: v.sum(0) / len(v), "plain mean"),
    ],
    "visible_pairs": [
        (lambda t: t * t, "half of them lie in the future"),
        (lambda t: t * (t - 1) / 2, "diagonal belongs"),
        (lambda t: t * t / 2, "diagonal is whole"),
    ],
    "shared_head": [
        (lambda h, n, k: h % k, "in turn"),
        (lambda h, n, k: h // k, "size of a group"),
        (lambda h, n, k: h % (n // k), "Which group?"),
    ],
}


def test_attention(confront):
    confront(attention.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    from llmhw_helpers.course.exercises import EXERCISES

    assert all(look_up(exercise.name, EXERCISES, "exercise") is exercise for exercise in attention.EXERCISES)
