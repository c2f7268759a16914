"""The exercise on saving of notebook 15 against usual wrong answers and different right ones."""

import math

from llmhw_helpers.course.exercises import EXERCISES, checkpoints


def young(n_params, bytes_per_s, gpu_mtbf, n_gpus, per_param=14, factor=2):
    return math.sqrt(factor * (per_param * n_params / bytes_per_s) * gpu_mtbf / n_gpus)


def by_powers(n_params, bytes_per_s, gpu_mtbf, n_gpus):
    failures_per_s = n_gpus / gpu_mtbf
    saves_per_s = bytes_per_s / (n_params * 2 + n_params * 3 * 4)
    return (failures_per_s * saves_per_s / 2) ** -0.5


RIGHT = {"save_every": [young, by_powers]}
WRONG = {
    "save_every": [
        (lambda p, rate, gpu, n: young(p, rate, gpu, 1), "n times as often"),
        (lambda *a: young(*a, per_param=2), "optimizer's state"),
        (lambda *a: young(*a, factor=1), "no 2 under your root"),
        (lambda p, rate, gpu, n: 2 * 14 * p / rate * gpu / n, "take its square root"),
        (lambda p, rate, gpu, n: young(p, rate, gpu * n, 1), "so divide"),
        (lambda p, rate, gpu, n: (2 + 12) * p / rate, "seconds of one save"),
        (lambda *a: young(*a) / 60, "returned minutes"),
        (lambda p, rate, gpu, n: young(p, rate / 8, gpu, n), "not in bits"),
    ]
}


def test_checkpoints(confront):
    confront(checkpoints.EXERCISES, RIGHT, WRONG)


def test_it_is_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in checkpoints.EXERCISES)
