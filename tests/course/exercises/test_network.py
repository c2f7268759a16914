"""The exercise on a message's time of notebook 15 against usual wrong answers and different right ones."""

import numpy as np

from llmhw_helpers.course.exercises import EXERCISES, network


def by_two_points(sizes, seconds):
    beta = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
    return seconds[0] - sizes[0] * beta, beta


def by_least_squares(sizes, seconds):
    matrix = np.stack([np.ones(len(sizes)), sizes], axis=1) / np.array(seconds)[:, None]
    return np.linalg.lstsq(matrix, np.ones(len(sizes)), rcond=None)[0]


def rate(sizes, seconds):
    alpha, beta = by_two_points(sizes, seconds)
    return alpha, 1 / beta


RIGHT = {"alpha_beta": [by_two_points, by_least_squares]}
WRONG = {
    "alpha_beta": [
        (rate, "one over the rate"),
        (lambda sizes, seconds: by_two_points(sizes, seconds)[::-1], "alpha comes first"),
        (lambda sizes, seconds: (by_two_points(sizes, seconds)[0], seconds[-1] / sizes[-1]), "without the start"),
        (lambda sizes, seconds: (seconds[0], by_two_points(sizes, seconds)[1]), "take their time away"),
        (lambda sizes, seconds: (min(seconds), max(seconds) / max(sizes)), "differences of both"),
        (lambda sizes, seconds: (0, np.dot(sizes, seconds) / np.square(sizes).sum()), "begin above"),
    ]
}


def test_network(confront):
    confront(network.EXERCISES, RIGHT, WRONG)


def test_it_is_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in network.EXERCISES)
