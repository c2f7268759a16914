"""Exercises on the parts of a Transformer (notebook 04)."""

import math

import numpy as np
import torch

from ...costs.transformer import forward_flops
from ...llm.sampling import probabilities
from ...specs.architectures import Model
from ...specs.models import model
from ..grading import Exercise, Mistake

RNG = np.random.default_rng(0)
ROWS = [(3 * RNG.normal(size=d) + 1, RNG.normal(size=d), eps) for d, eps in ((4, 1e-5), (64, 1e-5), (5, 0.5))]
SPREADS = [np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.05, 0.15, 0.3, 0.5]), np.array([0.2, 0.1, 0.4, 0.06, 0.24])]
# First a shape whose widths all differ, so that a mistake's ratio tells; its heads are wider than the residual stream.
SHAPES = [(1024, 16, 4, 128, 3072)] + [
    (m.d_model, m.n_heads, m.n_kv_heads, m.head_dim, m.d_ff)
    for m in map(model, ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-8B"))
]


def _made_up(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, head_dim: int, d_ff: int) -> Model:
    return Model("x", n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, 2, True, 1, 1e4, "made up")


def _block(d_model, n_heads, n_kv_heads, head_dim, d_ff):
    parts = _made_up(1, d_model, n_heads, n_kv_heads, head_dim, d_ff).parameters()
    return parts["attention"] + parts["mlp"] + parts["norms"] - d_model  # less the last norm of all


def _pairs(n_layers, n_heads, head_dim, seq_len):
    return forward_flops(_made_up(n_layers, 8, n_heads, n_heads, head_dim, 8), 1, seq_len)["attention"]


def _kept(p, top_p):
    return int((probabilities(torch.tensor(p).log(), top_p=top_p) > 0).sum())


def _complex(z: complex) -> np.ndarray:
    return np.array([z.real, z.imag])


def _turned(x: float, y: float, angle: float) -> np.ndarray:
    """By the sines and cosines that a learner writes; what is right comes from complex numbers."""
    return np.array([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)])


EXERCISES = [
    Exercise(
        name="rms_norm",
        cases=ROWS,
        right=lambda x, weight, eps: torch.nn.functional.rms_norm(
            torch.tensor(x), x.shape, torch.tensor(weight), eps
        ).numpy(),
        rtol=1e-5,
        mistakes=[
            Mistake(
                "That takes the mean away first: a LayerNorm. RMSNorm leaves it in.",
                lambda x, w, eps: (x - x.mean()) / np.sqrt(x.var() + eps) * w,
            ),
            Mistake(
                "The root is missing: divide by the root of the mean square.",
                lambda x, w, eps: x / (np.mean(x**2) + eps) * w,
            ),
            Mistake("The *mean* of the squares, not their sum.", lambda x, w, eps: x / np.sqrt(np.sum(x**2) + eps) * w),
            Mistake(
                "The weight is missing: each number is scaled by its own.",
                lambda x, w, eps: x / np.sqrt(np.mean(x**2) + eps),
            ),
            Mistake("eps belongs under the root.", lambda x, w, eps: x / (np.sqrt(np.mean(x**2)) + eps) * w),
            Mistake(
                "eps is missing: it keeps a row of zeros from a division by zero.",
                lambda x, w, eps: x / np.sqrt(np.mean(x**2)) * w,
            ),
        ],
    ),
    Exercise(
        name="turn_pair",
        cases=[(1.0, 0.0, 1, 0.5), (0.3, -2.0, 7, 0.1), (1.0, 1.0, 0, 1.0), (-1.5, 0.5, 100, 0.01)],
        right=lambda x, y, position, frequency: _complex(complex(x, y) * np.exp(1j * position * frequency)),
        rtol=1e-6,
        mistakes=[
            Mistake(
                "Turned the wrong way round: the sine changes its sign.",
                lambda x, y, t, f: _turned(x, y, -t * f),
            ),
            Mistake("The angle is position times frequency.", lambda x, y, t, f: _turned(x, y, t)),
            Mistake(
                "The second number mixes with the first as it was before, not as it has just become.",
                lambda x, y, t, f: [
                    x * math.cos(t * f) - y * math.sin(t * f),
                    y * math.cos(t * f) + (x * math.cos(t * f) - y * math.sin(t * f)) * math.sin(t * f),
                ],
            ),
            Mistake(
                "Each new number is made of both old ones: x and y each come with a cosine and with a sine.",
                lambda x, y, t, f: [x * math.cos(t * f), y * math.sin(t * f)],
            ),
            Mistake(
                "The right two numbers in the wrong order: the new x comes first.",
                lambda x, y, t, f: _turned(x, y, t * f)[::-1],
            ),
            Mistake(
                "The angle is in radians already: `math.cos` takes it as it is.",
                lambda x, y, t, f: _turned(x, y, math.radians(t * f)),
            ),
            Mistake(
                "The sine and the cosine have changed places.",
                lambda x, y, t, f: _turned(x, y, math.pi / 2 - t * f),
            ),
        ],
    ),
    Exercise(
        name="block_parameters",
        cases=SHAPES,
        right=_block,
        rtol=1e-9,
        mistakes=[
            Mistake(
                "The two norms are missing: each has a weight for each of the d_model numbers.",
                lambda h, a, k, d, f: _block(h, a, k, d, f) - 2 * h,
            ),
            Mistake("A block has two norms, not one.", lambda h, a, k, d, f: _block(h, a, k, d, f) - h),
            Mistake(
                "The MLP has three matrices (gate, up and down), not two.",
                lambda h, a, k, d, f: _block(h, a, k, d, f) - h * f,
            ),
            Mistake(
                "The MLP has three matrices (gate, up and down), not one.",
                lambda h, a, k, d, f: _block(h, a, k, d, f) - 2 * h * f,
            ),
            Mistake(
                "Keys and values are n_kv_heads * head_dim wide, fewer than the queries.",
                lambda h, a, k, d, f: 4 * h * a * d + 3 * h * f + 2 * h,
            ),
            Mistake(
                "Queries and output are n_heads * head_dim wide, more than keys and values.",
                lambda h, a, k, d, f: 4 * h * k * d + 3 * h * f + 2 * h,
            ),
            Mistake(
                "Attention has four matrices: one as wide as all query heads is missing, for queries or for output.",
                lambda h, a, k, d, f: _block(h, a, k, d, f) - h * a * d,
            ),
            Mistake(
                "Attention has four matrices: one as wide as all key/value heads is missing, for keys or for values.",
                lambda h, a, k, d, f: _block(h, a, k, d, f) - h * k * d,
            ),
            Mistake(
                "All query heads together are n_heads * head_dim wide, which need not be d_model.",
                lambda h, a, k, d, f: 2 * h * h + 2 * h * k * d + 3 * h * f + 2 * h,
            ),
            Mistake(
                "None of attention's matrices is d_model by d_model: one side is the number of heads times head_dim.",
                lambda h, a, k, d, f: 4 * h * h + 3 * h * f + 2 * h,
            ),
            Mistake(
                "head_dim is the width of one head: multiply by the number of heads.",
                lambda h, a, k, d, f: 4 * h * d + 3 * h * f + 2 * h,
            ),
            Mistake(
                "n_heads counts heads, and each is head_dim wide: multiply the two.",
                lambda h, a, k, d, f: 2 * h * a + 2 * h * k + 3 * h * f + 2 * h,
            ),
        ],
    ),
    Exercise(
        name="pair_operations",
        cases=[(30, 9, 64, 512), (2, 5, 16, 7), (80, 64, 128, 8192)],
        right=_pairs,
        mistakes=[
            Mistake(
                "Half of it: a multiply-add is two operations, and there are two products (scores, mean of values).",
                lambda n, a, d, t: 2 * n * a * d * t**2,
            ),
            Mistake(
                "A quarter of it: a multiply-add is two operations, *and* there are two products.",
                lambda n, a, d, t: n * a * d * t**2,
            ),
            Mistake("That is one layer: all n_layers do it.", lambda n, a, d, t: 4 * a * d * t**2),
            Mistake("That is one head of one layer.", lambda n, a, d, t: 4 * d * t**2),
            Mistake(
                "Count all pairs of tokens, also those that the mask throws away.",
                lambda n, a, d, t: 2 * n * a * d * t * (t + 1),
            ),
            Mistake(
                "Half of the pairs are hidden by the mask, but here all are counted.",
                lambda n, a, d, t: 2 * n * a * d * t * (t - 1),
            ),
            Mistake(
                "head_dim is missing: the product of a query with a key has so many terms.",
                lambda n, a, d, t: 4 * n * a * t**2,
            ),
            Mistake("Every token with every token: seq_len twice.", lambda n, a, d, t: 4 * n * a * d * t),
            Mistake("That is one head in each layer: all n_heads do it.", lambda n, a, d, t: 4 * n * d * t**2),
        ],
    ),
    Exercise(
        name="nucleus",
        cases=[(p, top_p) for p in SPREADS for top_p in (0.1, 0.6, 0.85, 0.97)],
        right=_kept,
        mistakes=[
            Mistake(
                "Sort first: the likeliest tokens go in first.",
                lambda p, top: int(np.searchsorted(np.cumsum(p), top)) + 1,
            ),
            Mistake(
                "The token that reaches top_p is kept, too.",
                lambda p, top: int((np.cumsum(np.sort(p)[::-1]) < top).sum()),
            ),
            Mistake("Not each by itself: their sum has to reach top_p.", lambda p, top: int((p >= top).sum())),
            Mistake(
                "The likeliest first: that starts with the least likely.",
                lambda p, top: int((np.cumsum(np.sort(p)) < top).sum()) + 1,
            ),
        ],
    ),
]
