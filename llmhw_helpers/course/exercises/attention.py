"""Exercises on attention (notebook 03)."""

import numpy as np
import torch

from ...costs.sequence import attention, crossing
from ..grading import Exercise, Mistake

RNG = np.random.default_rng(0)
LOOKS = [(RNG.normal(size=d), RNG.normal(size=(n, d)), RNG.normal(size=(n, d))) for n, d in ((4, 3), (1, 2), (6, 16))]


def _attend(query, keys, values):
    q, k, v = (torch.tensor(each)[None] for each in (query[None], keys, values))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)[0, 0].numpy()


def _by_scores(query, keys, values, scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum() @ values


EXERCISES = [
    Exercise(
        name="attention_operations",
        cases=[(100, 64), (4096, 256), (1, 8), (1000, 4096)],
        right=lambda seq_len, d_model: attention(seq_len, d_model).work.flops,
        mistakes=[
            Mistake(
                "Two products are of tokens with tokens: q k^T, and the weights with v.", lambda t, d: 8 * t * d**2
            ),
            Mistake("A multiply-add is two operations.", lambda t, d: 4 * t * d**2 + 2 * t**2 * d),
            Mistake(
                "Four products have weights: queries, keys, values, output.", lambda t, d: 6 * t * d**2 + 4 * t**2 * d
            ),
            Mistake(
                "The scores are computed once and used once: two products.", lambda t, d: 8 * t * d**2 + 2 * t**2 * d
            ),
            Mistake("Each of the T x T scores is a sum of d_model terms.", lambda t, d: 8 * t * d**2 + 4 * t**2),
        ],
    ),
    Exercise(
        name="crossing_length",
        cases=[(10e-6, 150e9, 256), (5e-6, 1e12, 64), (2e-5, 3e11, 512)],
        right=crossing,
        mistakes=[
            Mistake(
                "The four products with weights take time, too: 8 d_model^2 operations a token.",
                lambda step, rate, d: step * rate / (4 * d),
            ),
            Mistake(
                "Two products of tokens with tokens: 4 d_model operations a pair.",
                lambda step, rate, d: (step * rate - 8 * d**2) / (2 * d),
            ),
            Mistake(
                "Attention at length T computes 4 T^2 d_model: divide by one T, the RNN waits T times.",
                lambda step, rate, d: ((step * rate - 8 * d**2) / (4 * d)) ** 0.5,
            ),
            Mistake("Bring the 8 d_model^2 to the other side: minus.", lambda s, r, d: (s * r + 8 * d**2) / (4 * d)),
        ],
    ),
    Exercise(
        name="attend",
        cases=LOOKS,
        right=_attend,
        mistakes=[
            Mistake(
                "Divide the scores by the root of the head's width before the softmax.",
                lambda q, k, v: _by_scores(q, k, v, k @ q),
            ),
            Mistake("The root of head_dim, not head_dim itself.", lambda q, k, v: _by_scores(q, k, v, k @ q / len(q))),
            Mistake(
                "Those are weighted keys. The query looks at keys and takes home values.",
                lambda q, k, v: _by_scores(q, k, k, k @ q / len(q) ** 0.5),
            ),
            Mistake(
                "The softmax is missing: weights are positive and sum to 1.", lambda q, k, v: k @ q / len(q) ** 0.5 @ v
            ),
            Mistake("That is the plain mean of the values: where do the scores come in?", lambda q, k, v: v.mean(0)),
        ],
    ),
    Exercise(
        name="visible_pairs",
        cases=[(1,), (2,), (10,), (4096,)],
        right=lambda seq_len: sum(range(1, seq_len + 1)),
        mistakes=[
            Mistake("That is every pair; half of them lie in the future.", lambda t: t**2),
            Mistake("A token sees itself, too: the diagonal belongs to it.", lambda t: t * (t - 1) // 2),
            Mistake("Not quite half: the diagonal is whole.", lambda t: t**2 / 2),
        ],
    ),
    Exercise(
        name="shared_head",
        cases=[(1, 9, 3), (5, 9, 3), (8, 9, 3), (30, 32, 8), (5, 8, 8), (7, 8, 1)],
        right=lambda head, n_heads, n_kv_heads: head * n_kv_heads // n_heads,
        mistakes=[
            Mistake(
                "Neighbours share: heads 0, 1, 2 the first, and so on. That deals them out in turn.",
                lambda h, n, k: h % k,
            ),
            Mistake("Divide by the size of a group, n_heads / n_kv_heads.", lambda h, n, k: h // k),
            Mistake("That is the place within the group. Which group?", lambda h, n, k: h % (n // k)),
        ],
    ),
]
