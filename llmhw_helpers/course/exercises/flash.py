"""Exercises on attention in tiles (notebook 09)."""

import math

import numpy as np
import torch

from ...costs import attention
from ...llm import flash
from ...specs.architectures import Model
from ..grading import Exercise, Mistake

FORMATS = {4: "fp32", 2: "bf16", 1: "int8"}
NOTHING = float("-inf")
# The largest score so far, the sum of exp(score - largest), the next score. In the last case, here and in PARTS, each
# exponential alone is just finite and their sum is not: whoever takes them gets inf and a hint, and no OverflowError.
STEPS = [(2.0, 1.5, 3.0), (3.0, 1.25, -1.0), (0.5, 2.0, 0.5), (NOTHING, 0.0, 4.0), (709.0, 3.0, 709.5)]
# mean and logsumexp of one part of the keys, and of another
PARTS = [(1.0, 1.0, 5.0, 1.0), (1.0, 2.0, -3.0, 0.5), (4.0, -1.0, 0.5, 3.0), (0.5, 709.0, 0.25, 709.5)]


def _model(n_heads: int, head_dim: int) -> Model:
    return Model("x", 1, 8, n_heads, n_heads, head_dim, 8, 2, True, 1, 1e4, "made up")


def _update(top, total, score):
    lse = torch.tensor([top + math.log(total) if total else NOTHING, score], dtype=torch.float64).logsumexp(0).item()
    return max(top, score), math.exp(lse - max(top, score))


def _moved(seq_len, head_dim, block_q):
    return int(attention.tiled(_model(1, head_dim), seq_len, block_q, "fp32", causal=False).bytes / 4)


def _merge(mean_a, lse_a, mean_b, lse_b):
    values = (torch.tensor(each, dtype=torch.float64) for each in ([mean_a], lse_a, [mean_b], lse_b))
    mean, lse = flash.merge(*values)
    return mean.item(), lse.item()


def _lse(lse_a, lse_b):
    return _merge(0.0, lse_a, 0.0, lse_b)[1]


def _mean(mean_a, weight_a, mean_b, weight_b):
    return (mean_a * weight_a + mean_b * weight_b) / (weight_a + weight_b)


def _plainly(top, total, score):
    new = max(top, score)
    return new, (total * math.exp(top) + math.exp(score)) / math.exp(new)


def _upside_down(top, total, score):
    new = max(top, score)
    # At the start that is 0 * inf, nan, which is equal to itself in an array only.
    return np.array([new, total * math.exp(new - top) + math.exp(score - new)])


EXERCISES = [
    Exercise(
        name="scores_bytes",
        cases=[(9, 4096, 4), (1, 1, 2), (32, 131072, 2), (3, 100, 1)],
        right=lambda n, t, b: attention.scores_bytes(_model(n, 64), t, t, FORMATS[b]),
        rtol=1e-9,
        mistakes=[
            Mistake("Every head has a table of its own.", lambda n, t, b: t**2 * b),
            Mistake("A score for each query *and* key: the length enters twice.", lambda n, t, b: n * t * b),
            Mistake("That counts scores; how many bytes has each?", lambda n, t, b: n * t**2),
            Mistake(
                "The naive way computes the whole table, and only then hides the future.",
                lambda n, t, b: n * t * (t + 1) // 2 * b,
            ),
        ],
    ),
    Exercise(
        name="one_more",
        cases=STEPS,
        right=_update,
        rtol=1e-6,
        mistakes=[
            Mistake(
                "The old total was counted from the old top. Where the top rises, multiply it by exp(old - new).",
                lambda top, total, x: (max(top, x), total + math.exp(x - max(top, x))),
            ),
            Mistake(
                "The new score counts from the new top, too: exp(score - new).",
                lambda top, total, x: (max(top, x), total * math.exp(top - max(top, x)) + math.exp(x)),
            ),
            Mistake("A score above the top is the new top.", lambda top, total, x: (top, total + math.exp(x - top))),
            Mistake(
                "Upside down: from a higher top everything looks smaller, so exp(old - new) is at most 1.", _upside_down
            ),
            Mistake("The new score is part of the total.", lambda top, total, x: (max(top, x), total)),
            Mistake(
                "The old total is right now. Add what the new score brings: exp(score - new).",
                lambda top, total, x: (max(top, x), total * math.exp(top - max(top, x))),
            ),
            Mistake(
                "The new score is the top only if it is above the old one.",
                lambda top, total, x: (x, total * math.exp(top - x) + 1),
            ),
            Mistake(
                "A score below the top adds to the total, too: exp(score - top).",
                lambda top, total, x: (x, total * math.exp(top - x) + 1) if x > top else (top, total),
            ),
            Mistake("The total is right. Return the top beside it.", lambda *step: _update(*step)[1]),
            Mistake(
                "On paper that is right. But exp(1000) overflows: take exp of differences only.",
                _plainly,
            ),
        ],
    ),
    Exercise(
        name="skipped",
        cases=[(1,), (2,), (4,), (32,)],
        right=lambda n_blocks: attention.tiles(n_blocks, 1, 1)[1],
        mistakes=[
            Mistake("Tiles on the diagonal are needed: half of each is visible.", lambda n: n * (n + 1) // 2),
            Mistake("Not quite half: the diagonal is not skipped.", lambda n: n**2 / 2),
            Mistake("Those are the tiles that are computed, or all of them. Which are not?", lambda n: n**2),
        ],
    ),
    Exercise(
        name="numbers_moved",
        cases=[(64, 8, 16), (4096, 64, 128), (1024, 128, 1024), (8, 2, 1)],
        right=_moved,
        rtol=1e-9,
        mistakes=[
            Mistake(
                "Each block of queries walks over all keys and values again.",
                lambda t, d, b: 4 * t * d + t,
            ),
            Mistake("Values are fetched as well as keys.", lambda t, d, b: 2 * t * d + t * d * (t // b) + t),
            Mistake(
                "Each row also writes one number: its logsumexp.", lambda t, d, b: 2 * t * d + 2 * t * d * (t // b)
            ),
            Mistake(
                "The queries are read, and the result is written: add both.", lambda t, d, b: 2 * t * d * (t // b) + t
            ),
            Mistake(
                "One of two is missing, queries or result: each moves once.",
                lambda t, d, b: t * d + 2 * t * d * (t // b) + t,
            ),
            Mistake(
                "Each *row* has a logsumexp, not each block of queries.",
                lambda t, d, b: 2 * t * d + 2 * t * d * (t // b) + t // b,
            ),
            Mistake("Those are bytes; how many numbers move?", lambda t, d, b: 4 * _moved(t, d, b)),
            Mistake(
                "Keys are fetched once for a whole block of queries, not once for each query.",
                lambda t, d, b: 2 * t * d + 2 * t * d * t + t,
            ),
            Mistake("No score goes to memory.", lambda t, d, b: 2 * t * d + 2 * t * d * (t // b) + t + t**2),
        ],
    ),
    Exercise(
        name="put_together",
        cases=PARTS,
        right=_merge,
        rtol=1e-6,
        mistakes=[
            Mistake(
                "The part with the larger sum of exponentials counts more: weights exp(lse).",
                lambda a, la, b, lb: ((a + b) / 2, _lse(la, lb)),
            ),
            Mistake(
                "lse is a logarithm: the weights are exp(lse_a) and exp(lse_b).",
                lambda a, la, b, lb: (_mean(a, la, b, lb), _lse(la, lb)),
            ),
            Mistake(
                "The mean is right. Logarithms do not add up, what they are logarithms of does: log(exp + exp).",
                lambda a, la, b, lb: (_merge(a, la, b, lb)[0], la + lb),
            ),
            Mistake(
                "The mean is right. The merged lse is larger than either, as both sums are in it.",
                lambda a, la, b, lb: (_merge(a, la, b, lb)[0], max(la, lb)),
            ),
            Mistake(
                "The mean is right. You subtracted the larger lse first: add it back.",
                lambda a, la, b, lb: (_merge(a, la, b, lb)[0], _lse(la, lb) - max(la, lb)),
            ),
            Mistake(
                "The lse is right. The weights of a mean sum to 1: divide by the sum of both.",
                lambda a, la, b, lb: (
                    a * math.exp(la - max(la, lb)) + b * math.exp(lb - max(la, lb)),
                    _lse(la, lb),
                ),
            ),
            Mistake(
                "On paper that is right. But exp(1000) overflows: subtract the larger of the two from both first.",
                lambda a, la, b, lb: (
                    _mean(a, math.exp(la), b, math.exp(lb)),
                    math.log(math.exp(la) + math.exp(lb)),
                ),
            ),
        ],
    ),
]
