"""Exercises on gradients and what they cost (notebook 01)."""

from itertools import pairwise

import numpy as np

from ...autodiff.functions import cross_entropy
from ...autodiff.tensor import Tensor
from ...costs.flops import mlp_backward_flops, mlp_forward_flops, mlp_kept_bytes
from ..grading import Exercise, Mistake

SIZES = [((64, 128, 10), 1), ((64, 128, 10), 64), ((784, 32, 32, 10), 8), ((5, 3), 2)]
DAY = 86400


def _slopes_of_a_quotient(a: float, b: float) -> tuple[float, float]:
    """By the engine."""
    x, y = Tensor(float(a), requires_grad=True), Tensor(float(b), requires_grad=True)
    (x / y).backward()
    return float(x.grad), float(y.grad)


def _gradient_of_a_repeated(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """By the engine: of an operand of `shape` that was added to something larger."""
    operand = Tensor(np.zeros(shape), requires_grad=True)
    (operand + np.zeros(gradient.shape)).backward(gradient)
    return operand.grad


def _logit_gradient(logits: np.ndarray, label: int) -> np.ndarray:
    """By the engine."""
    x = Tensor(logits, requires_grad=True)
    cross_entropy(x, np.array(label)).backward()
    return x.grad


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


def _overflowing(logits: np.ndarray, label: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(logits)
        return e / e.sum() - _one_hot(logits, label)


def _one_hot(logits: np.ndarray, label: int) -> np.ndarray:
    return np.eye(len(logits))[label]


def _cut(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return gradient[tuple([0] * (gradient.ndim - len(shape)) + [slice(n) for n in shape])]


def _sum_rows(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return gradient.sum(0)


EXERCISES = [
    Exercise(
        name="quotient_slopes",
        cases=[(6.0, 2.0), (-1.5, 4.0), (3.0, -0.5)],
        right=_slopes_of_a_quotient,
        mistakes=[
            Mistake("Those are the slopes of a product.", lambda a, b: (b, a)),
            Mistake("Mind the sign: a larger divisor makes the result smaller.", lambda a, b: (1 / b, a / b**2)),
            Mistake("The slope along b: a / b is a times b to the power -1.", lambda a, b: (1 / b, -a / b)),
            Mistake(
                "Both are right, in the other order: first along a, then along b.", lambda a, b: (-a / b**2, 1 / b)
            ),
            Mistake("As if a were 1: it multiplies the slope along b.", lambda a, b: (1 / b, -1 / b**2)),
        ],
    ),
    Exercise(
        name="unrepeat",
        cases=[
            (np.arange(6.0).reshape(2, 3), (3,)),
            (np.arange(6.0).reshape(2, 3), (2, 1)),
            (np.arange(6.0).reshape(2, 3), (1, 3)),
            (np.arange(24.0).reshape(4, 2, 3), (2, 1)),
            (np.arange(6.0).reshape(2, 3), (2, 3)),
        ],
        right=_gradient_of_a_repeated,
        mistakes=[
            Mistake("An operand that was used several times gets the sum of all its gradients, not one of them.", _cut),
            Mistake(
                "The sum, not the mean: each use of the operand moves the loss by itself.",
                lambda g, shape: _gradient_of_a_repeated(g, shape) * np.prod(shape) / g.size,
            ),
            Mistake("Right where the rows were repeated. Which axes differ in the other cases?", _sum_rows),
            Mistake(
                "The right numbers, in a wrong shape: an axis of length 1 stays.",
                lambda g, shape: _gradient_of_a_repeated(g, shape).squeeze(),
            ),
        ],
    ),
    Exercise(
        name="logit_gradient",
        cases=[
            (np.array([2.0, 1.0, -1.0]), 0),
            (np.array([0.0, 0.0, 0.0, 0.0]), 3),
            (np.array([1.0, -2.0, 0.5]), 1),
            (np.array([1000.0, 0.0, 1.0]), 2),
        ],
        right=_logit_gradient,
        mistakes=[
            Mistake(
                "Those are the probabilities. What of the right answer, which should be 1?", lambda x, k: _softmax(x)
            ),
            Mistake(
                "The other way round: this points to where the loss falls, a gradient to where it rises.",
                lambda x, k: _one_hot(x, k) - _softmax(x),
            ),
            Mistake("Minus 1 at the right answer only: elsewhere nothing is taken away.", lambda x, k: _softmax(x) - 1),
            Mistake(
                "At the right answer it is p - 1, not -1: the sum of exponentials depends on it, too.",
                lambda x, k: np.where(_one_hot(x, k) == 1, -1.0, _softmax(x)),
            ),
            Mistake(
                "The inner derivative: exp(z) has the slope exp(z) along z.",
                lambda x, k: 1 / np.exp(np.minimum(x, 700)).sum() - _one_hot(x, k),
            ),
            Mistake("Logits are no probabilities yet: exp, then divide by the sum.", lambda x, k: x - _one_hot(x, k)),
            Mistake(
                "Right until exp overflows: take the largest logit away from all of them first.",
                _overflowing,
            ),
        ],
    ),
    Exercise(
        name="backward_flops",
        cases=SIZES,
        right=mlp_backward_flops,
        mistakes=[
            Mistake(
                "Almost: nobody asks for the gradient of the data. The first layer needs one product only.",
                lambda sizes, rows: 2 * mlp_forward_flops(sizes, rows),
            ),
            Mistake(
                "That is the forward pass. Going back, how many products does a layer do?",
                lambda sizes, rows: mlp_forward_flops(sizes, rows),
            ),
            Mistake(
                "A multiply and an add are two operations: you are off by a factor of 2.",
                lambda sizes, rows: mlp_backward_flops(sizes, rows) / 2,
            ),
            Mistake(
                "That is forward and backward together.",
                lambda sizes, rows: mlp_forward_flops(sizes, rows) + mlp_backward_flops(sizes, rows),
            ),
            Mistake("Every row of the batch goes back: times rows.", lambda s, rows: mlp_backward_flops(s, 1)),
            Mistake(
                "The first layer is not free: it still needs the gradient of its weights, one product.",
                lambda sizes, rows: 2 * mlp_forward_flops(sizes[1:], rows) if sizes[2:] else 0,
            ),
        ],
    ),
    Exercise(
        name="kept_bytes",
        cases=SIZES,
        right=mlp_kept_bytes,
        mistakes=[
            Mistake("Numbers, not bytes: in fp32 each takes 4.", lambda sizes, rows: rows * sum(sizes[1:])),
            Mistake(
                "The data exist anyway; count what the forward pass makes.", lambda sizes, rows: 4 * rows * sum(sizes)
            ),
            Mistake("Each row of the batch keeps its own: times rows.", lambda sizes, rows: 4 * sum(sizes[1:])),
            Mistake(
                "Those are the weights. They exist anyway; count what the forward pass makes.",
                lambda sizes, rows: 4 * sum(a * b for a, b in pairwise(sizes)),
            ),
            Mistake("The last layer's probabilities are kept, too.", lambda sizes, rows: 4 * rows * sum(sizes[1:-1])),
            Mistake(
                "What goes into relu need not be kept: its result tells where it let pass.",
                lambda sizes, rows: 4 * rows * (2 * sum(sizes[1:-1]) + sizes[-1]),
            ),
            Mistake(
                "No mask of its own for relu: its result tells where it let pass.",
                lambda sizes, rows: rows * (5 * sum(sizes[1:-1]) + 4 * sizes[-1]),
            ),
            Mistake(
                "The data exist anyway, and the last layer's probabilities are missing.",
                lambda sizes, rows: 4 * rows * sum(sizes[:-1]),
            ),
        ],
    ),
    Exercise(
        name="training_days",
        cases=[(7e9, 2e12, 312e12), (1e9, 2e10, 65e12), (7e9, 1e9, 989e12)],
        right=lambda n_params, n_tokens, flops_per_s: 3 * 2 * n_params * n_tokens / flops_per_s / DAY,
        mistakes=[
            Mistake("Forward only: back costs twice as much again.", lambda p, t, f: 2 * p * t / f / DAY),
            Mistake("Backward only: forward comes before it.", lambda p, t, f: 4 * p * t / f / DAY),
            Mistake("Those are seconds.", lambda p, t, f: 6 * p * t / f),
            Mistake("Those are hours.", lambda p, t, f: 6 * p * t / f / 3600),
            Mistake("A multiply and an add for each parameter: 2 operations.", lambda p, t, f: 3 * p * t / f / DAY),
        ],
    ),
]
