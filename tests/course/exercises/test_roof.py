"""The exercises of notebook 18 against usual wrong answers and different right ones."""

import numpy as np
import pytest
import torch

from llmhw_helpers.course.exercises import EXERCISES, roof
from llmhw_helpers.course.grading import grade


def split(step_s, n_bytes, bytes_per_s, n_programs, start_s):
    parts = [n_bytes / bytes_per_s, n_programs * start_s]
    return (*parts, step_s - sum(parts))


def as_list(step_s, n_bytes, bytes_per_s, n_programs, start_s):
    rest = step_s
    for part in (n_bytes / bytes_per_s, n_programs * start_s):
        rest -= part
    return [n_bytes / bytes_per_s, n_programs * start_s, rest]


def longer(n_weights, bytes_per_weight, bytes_per_s, add_s, n_sums):
    fetch, add = n_weights * bytes_per_weight / bytes_per_s, n_weights / n_sums * add_s
    return fetch if fetch > add else add


def a_weight_at_a_time(n_weights, bytes_per_weight, bytes_per_s, add_s, n_sums):
    return n_weights * max(bytes_per_weight / bytes_per_s, add_s / n_sums)


def by_torch(w, scales, x):
    w, scales, x = (torch.from_numpy(each) for each in (w, scales, x))
    return ((w.float() @ x) * scales).numpy()


def loops(w, scales, x):
    y = np.zeros(len(w), np.float32)
    for i in range(w.shape[0]):
        s = np.float32(0)
        for j in range(w.shape[1]):
            s += np.float32(w[i, j]) * x[j]
        y[i] = s * scales[i]
    return y


def step_by_step(guess, said):
    kept = [said[0]]
    for wrong, token in zip(guess, said[1:], strict=True):
        if kept[-1] != wrong:
            break
        kept.append(token)
    return kept


def by_count(guess, said):
    right = [a == b for a, b in zip(guess, said[:-1], strict=True)]
    return said[: [*right, False].index(False) + 1]


RIGHT = {
    "parts_of_a_step": [split, as_list],
    "product_seconds": [longer, a_weight_at_a_time],
    "product_int8": [by_torch, loops],
    "kept_tokens": [step_by_step, by_count],
}
WRONG = {
    "parts_of_a_step": [
        (lambda step, n, rate, count, start: (n / rate, count * start, step - n / rate), "take both away"),
        (lambda step, *others: [part / step for part in split(step, *others)], "not a share"),
        (lambda step, n, rate, count, start: (n / rate, start, step - n / rate - start), "as many starts"),
        (
            lambda step, n, rate, count, start: (rate / n, count * start, step - rate / n - count * start),
            "over bytes a second",
        ),
        (lambda step, n, rate, count, start: step - n / rate - count * start, "three parts"),
    ],
    "product_seconds": [
        (lambda n, size, rate, add, sums: n * (size / rate + add / sums), "not their sum"),
        (lambda n, size, rate, add, sums: n * min(size / rate, add / sums), "take the longer"),
        (lambda n, size, rate, add, sums: n * size / rate, "fetching alone"),
        (lambda n, size, rate, add, sums: n * add / sums, "adding alone"),
        (lambda n, size, rate, add, sums: n * max(size / rate, add), "divide by the sums"),
        (lambda n, size, rate, add, sums: n * max(4 / rate, add / sums), "not always 4"),
    ],
    "product_int8": [
        (lambda w, scales, x: w.astype(np.float32) @ x, "multiplied by its scale"),
        (lambda w, scales, x: w.astype(np.float32) @ (np.resize(scales, len(x)) * x), "belongs to the row"),
        (lambda w, scales, x: loops(w, scales, x).astype(int), "whole number"),
        (lambda w, scales, x: loops(w, scales, x.astype(int)), "leave x as it is"),
        (lambda w, scales, x: loops(w.astype(np.uint8), scales, x), "with its sign"),
    ],
    "kept_tokens": [
        (lambda guess, said: said[: len(step_by_step(guess, said)) - 1], "One token more"),
        (
            lambda guess, said: [b for a, b in zip(guess, said, strict=False) if a == b] + said[-1:],
            "nothing counts there",
        ),
        (lambda guess, said: said, "Stop at the first"),
        (lambda guess, said: (guess + said[-1:])[: len(step_by_step(guess, said))], "not the wrong guess"),
    ],
}


def test_roof(confront):
    confront(roof.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in roof.EXERCISES)


def test_an_answer_that_numba_compiled_is_graded_like_others():
    numba = pytest.importorskip("numba")
    exercise = EXERCISES["product_int8"]
    assert grade(numba.njit(loops), exercise).line == "product_int8: correct."
    halved = numba.njit(lambda w, scales, x: scales)
    halved.__name__ = "product_int8"
    assert not grade(halved, exercise).right
