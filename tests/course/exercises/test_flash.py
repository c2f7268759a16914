"""The exercises of notebook 09 against usual wrong answers and different right ones."""

import math

import numpy as np

from llmhw_helpers.course.exercises import EXERCISES, flash


def from_the_whole(top, total, score):
    new = max(top, score)
    return [new, total * np.exp(np.float64(top) - new) + np.exp(score - new)]


def by_cases(top, total, score):
    if score > top:
        return score, total * math.exp(top - score) + 1
    return top, total + math.exp(score - top)


def from_the_larger(mean_a, lse_a, mean_b, lse_b):
    if lse_b > lse_a:
        return from_the_larger(mean_b, lse_b, mean_a, lse_a)
    weight = math.exp(lse_b - lse_a)
    return (mean_a + weight * mean_b) / (1 + weight), lse_a + math.log1p(weight)


def by_numpy(mean_a, lse_a, mean_b, lse_b):
    lse = np.logaddexp(lse_a, lse_b)
    return [mean_a * np.exp(lse_a - lse) + mean_b * np.exp(lse_b - lse), lse]


def by_walking(seq_len, head_dim, block_q):
    moved = 0
    for _ in range(0, seq_len, block_q):
        moved += block_q * head_dim + 2 * seq_len * head_dim + block_q * head_dim + block_q
    return moved


RIGHT = {
    "scores_bytes": [lambda n, t, b: n * t * t * b, lambda n, t, b: float(b * sum(t * t for _ in range(n)))],
    "one_more": [from_the_whole, by_cases],
    "skipped": [lambda n: n * (n - 1) // 2, lambda n: sum(range(n))],
    "numbers_moved": [lambda t, d, b: 2 * t * d + 2 * t * d * (t / b) + t, by_walking],
    "put_together": [from_the_larger, by_numpy],
}


def through_the_true_sum(top, total, score):
    new = max(top, score)
    return new, (total * math.exp(top) + math.exp(score)) / math.exp(new)


def with_plain_exponentials(mean_a, lse_a, mean_b, lse_b):
    a, b = math.exp(lse_a), math.exp(lse_b)
    return (a * mean_a + b * mean_b) / (a + b), math.log(a + b)


def undivided(mean_a, lse_a, mean_b, lse_b):
    top = max(lse_a, lse_b)
    return math.exp(lse_a - top) * mean_a + math.exp(lse_b - top) * mean_b


def both(lse_a, lse_b):
    return float(np.logaddexp(lse_a, lse_b))


# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "scores_bytes": [
        (lambda n, t, b: t * t * b, "Every head"),
        (lambda n, t, b: n * t * b, "the length enters twice"),
        (lambda n, t, b: n * t * t, "counts scores"),
        (lambda n, t, b: n * b * sum(range(t + 1)), "computes the whole table"),
        (lambda n, t, b: 0, "right answer"),
    ],
    "one_more": [
        (lambda top, s, x: (max(top, x), s + math.exp(x - max(top, x))), "counted from the old top"),
        (lambda top, s, x: (max(top, x), s * math.exp(top - max(top, x)) + math.exp(x)), "counts from the new top"),
        (lambda top, s, x: [max(top, x), s * np.exp(top - max(top, x)) + np.exp(x)], "counts from the new top"),
        (lambda top, s, x: (top, s + math.exp(x - top)), "above the top is the new top"),
        (lambda top, s, x: (top, s + np.exp(x - top)), "above the top is the new top"),
        (lambda top, s, x: (max(top, x), s * math.exp(max(top, x) - top) + math.exp(x - max(top, x))), "Upside down"),
        (lambda top, s, x: (max(top, x), s), "part of the total"),
        (lambda top, s, x: (max(top, x), s * math.exp(top - max(top, x))), "old total is right now"),
        (lambda top, s, x: (x, s * math.exp(top - x) + 1), "only if it is above"),
        (lambda top, s, x: by_cases(top, s, x) if x > top else (top, s), "below the top adds"),
        (lambda top, s, x: by_cases(top, s, x)[1], "Return the top"),
        (lambda top, s, x: (max(top, x), s * math.exp(top - max(top, x)) + 2), "which is not right"),
        (through_the_true_sum, "take exp of differences only"),
        (lambda top, s, x: (max(top, x), math.exp(both(top + math.log(s), x) - max(top, x))), "raised ValueError"),
    ],
    "skipped": [
        (lambda n: n * (n + 1) // 2, "diagonal are needed"),
        (lambda n: n * n / 2, "Not quite half"),
        (lambda n: n * n, "Which are not"),
    ],
    "numbers_moved": [
        (lambda t, d, b: 4 * t * d + t, "walks over all keys"),
        (lambda t, d, b: 2 * t * d + t * d * (t // b) + t, "Values are fetched"),
        (lambda t, d, b: 2 * t * d * (1 + t // b), "its logsumexp"),
        (lambda t, d, b: 2 * t * d * (t // b) + t, "add both"),
        (lambda t, d, b: t * d * (1 + 2 * (t // b)) + t, "One of two is missing"),
        (lambda t, d, b: 2 * t * d * (1 + t // b) + t // b, "not each block of queries"),
        (lambda t, d, b: 4 * by_walking(t, d, b), "Those are bytes"),
        (lambda t, d, b: 2 * t * d * (1 + t) + t, "not once for each query"),
        (lambda t, d, b: 2 * t * d * (1 + t // b) + t + t * t, "No score"),
    ],
    "put_together": [
        (lambda a, la, b, lb: ((a + b) / 2, both(la, lb)), "counts more"),
        (
            lambda a, la, b, lb: ((la * a + lb * b) / (la + lb), both(la, lb)),
            "lse is a logarithm",
        ),
        (lambda a, la, b, lb: (by_numpy(a, la, b, lb)[0], la + lb), "Logarithms do not add up"),
        (lambda a, la, b, lb: (by_numpy(a, la, b, lb)[0], max(la, lb)), "larger than either"),
        (
            lambda a, la, b, lb: (by_numpy(a, la, b, lb)[0], math.log(1 + math.exp(-abs(la - lb)))),
            "add it back",
        ),
        (lambda a, la, b, lb: (undivided(a, la, b, lb), both(la, lb)), "divide by the sum"),
        (with_plain_exponentials, "subtract the larger of the two"),
        (lambda a, la, b, lb: (a + b, both(la, lb)), "which is not right"),
    ],
}


def test_flash(confront):
    confront(flash.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in flash.EXERCISES)
