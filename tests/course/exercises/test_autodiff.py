"""The exercises of notebook 01 against usual wrong answers and different right ones."""

from itertools import pairwise

import numpy as np

from llmhw_helpers.course.exercises import autodiff
from llmhw_helpers.course.grading import grade


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def hot(x, k):
    return np.arange(len(x)) == k


def by_loops(gradient, shape):
    out = np.zeros(shape)
    padded = (1,) * (gradient.ndim - len(shape)) + tuple(shape)
    for at in np.ndindex(gradient.shape):
        where = tuple(0 if n == 1 else i for i, n in zip(at, padded, strict=True))
        out[where[gradient.ndim - len(shape) :]] += gradient[at]
    return out


def by_axes(gradient, shape):
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, n in enumerate(shape):
        if n == 1:
            gradient = gradient.sum(axis=axis, keepdims=True)
    return gradient


def nudged(logits, label):
    loss = lambda x: np.log(np.exp(x - x.max()).sum()) + x.max() - x[label]  # noqa: E731
    return [
        (loss(logits + 1e-5 * hot(logits, i)) - loss(logits - 1e-5 * hot(logits, i))) / 2e-5 for i in range(len(logits))
    ]


def in_place(logits, label):
    logits -= logits.max()
    np.exp(logits, out=logits)
    logits /= logits.sum()
    logits[label] -= 1
    return logits


def naive(x, k):
    with np.errstate(all="ignore"):
        return np.exp(x) / np.exp(x).sum() - hot(x, k)


def layers(sizes):
    return [a * b for a, b in pairwise(sizes)]


RIGHT = {
    "quotient_slopes": [lambda a, b: (1 / b, -a / b**2), lambda a, b: np.array([b**-1, -(a / b) / b])],
    "unrepeat": [by_axes, by_loops],
    "logit_gradient": [lambda x, k: softmax(x) - hot(x, k), in_place],
    "backward_flops": [
        lambda s, r: 4 * r * sum(layers(s)) - 2 * r * s[0] * s[1],
        lambda s, r: sum(2 * r * n * (1 if i == 0 else 2) for i, n in enumerate(layers(s))),
    ],
    "kept_bytes": [lambda s, r: 4 * r * sum(s[1:]), lambda s, r: sum(np.zeros((r, n), "f4").nbytes for n in s[1:])],
    "training_days": [lambda p, t, f: 6 * p * t / f / 86400, lambda p, t, f: (2 * p * t + 4 * p * t) / (f * 24 * 3600)],
}
# name: (wrong answer, a word of the hint that fits it)
WRONG = {
    "quotient_slopes": [
        (lambda a, b: (b, a), "slopes of a product"),
        (lambda a, b: (1 / b, a / b**2), "Mind the sign"),
        (lambda a, b: (1 / b, -a / b), "to the power -1"),
        (lambda a, b: (-a / b**2, 1 / b), "other order"),
        (lambda a, b: (1 / b, -(b**-2)), "As if a were 1"),
        (lambda a, b: 1 / b, "a tuple is asked for"),
    ],
    "unrepeat": [
        (lambda g, shape: by_axes(g, shape) / (g.size / np.prod(shape)), "not the mean"),
        (
            lambda g, shape: g[0] if len(shape) == 1 else g[..., : shape[-1]][..., : shape[-2], :][(0,) * (g.ndim - 2)],
            "not one of them",
        ),
        (lambda g, shape: g.sum(axis=0), "Which axes differ"),
        (lambda g, shape: by_axes(g, shape).squeeze(), "an axis of length 1 stays"),
        (lambda g, shape: g, "gave shape (2, 3); (3,) is asked for"),
        (lambda g, shape: np.zeros(shape), "gave [0.0, 0.0, 0.0], which is not right"),
    ],
    "logit_gradient": [
        (lambda x, k: softmax(x), "Those are the probabilities"),
        (lambda x, k: hot(x, k) - softmax(x), "other way round"),
        (lambda x, k: softmax(x) - 1, "Minus 1 at the right answer only"),
        (lambda x, k: [-1.0 if i == k else p for i, p in enumerate(softmax(x))], "p - 1, not -1"),
        (lambda x, k: 1 / sum(np.exp(np.minimum(x, 700))) - hot(x, k), "inner derivative"),
        (lambda x, k: x - hot(x, k), "no probabilities yet"),
        (naive, "until exp overflows"),
        (lambda x, k: -np.log(softmax(x)[k] + 1e-300), "a ndarray is asked for"),
    ],
    "backward_flops": [
        (lambda s, r: 4 * r * sum(layers(s)), "nobody asks for the gradient of the data"),
        (lambda s, r: 2 * r * sum(layers(s)), "That is the forward pass"),
        (lambda s, r: 2 * r * sum(layers(s)) - r * s[0] * s[1], "factor of 2"),
        (lambda s, r: 6 * r * sum(layers(s)) - 2 * r * s[0] * s[1], "forward and backward together"),
        (lambda s, r: 4 * sum(layers(s)) - 2 * s[0] * s[1], "times rows"),
        (lambda s, r: 4 * r * sum(layers(s)[1:]), "first layer is not free"),
        (lambda s, r: 4 * r * sum(layers(s)) - 2 * r * s[-1] * s[-2], "times the right answer"),
    ],
    "kept_bytes": [
        (lambda s, r: r * sum(s[1:]), "Numbers, not bytes"),
        (lambda s, r: 4 * r * sum(s), "The data exist anyway"),
        (lambda s, r: 4 * sum(s[1:]), "times rows"),
        (lambda s, r: 4 * sum(layers(s)), "Those are the weights"),
        (lambda s, r: 4 * r * sum(s[1:-1]), "probabilities are kept"),
        (lambda s, r: 4 * r * (2 * sum(s[1:-1]) + s[-1]), "What goes into relu"),
        (lambda s, r: r * (5 * sum(s[1:-1]) + 4 * s[-1]), "No mask of its own"),
        (lambda s, r: 4 * r * sum(s[:-1]), "probabilities are missing"),
    ],
    "training_days": [
        (lambda p, t, f: 2 * p * t / f / 86400, "Forward only"),
        (lambda p, t, f: 4 * p * t / f / 86400, "Backward only"),
        (lambda p, t, f: 6 * p * t / f, "seconds"),
        (lambda p, t, f: 6 * p * t / f / 3600, "hours"),
        (lambda p, t, f: 3 * p * t / f / 86400, "2 operations"),
    ],
}


def test_autodiff(confront):
    confront(autodiff.EXERCISES, RIGHT, WRONG)


def test_an_answer_that_overwrites_its_argument_leaves_the_exercise_as_it_was():
    exercise = {exercise.name: exercise for exercise in autodiff.EXERCISES}["logit_gradient"]
    before = [case[0].copy() for case in exercise.cases]
    assert grade(in_place, exercise).right
    for case, array in zip(exercise.cases, before, strict=True):
        np.testing.assert_array_equal(case[0], array)
