"""Exercises on a training step and its memory (notebook 02)."""

import math

from ...costs.activations import Pass, block_activations
from ...costs.memory import Recipe, copies
from ...specs.architectures import Model
from ...specs.models import model
from ..grading import Exercise, Mistake

ADAMW, MOMENTUM, SGD = (len([*copies(1, Recipe(name))]) - 3 for name in ("AdamW", "momentum", "SGD"))
SHAPES = [
    (m.d_model, m.n_heads, m.n_kv_heads, m.head_dim, m.d_ff)
    for m in map(model, ("Llama-3.1-8B", "Llama-2-7B", "SmolLM2-135M"))
]
# First a shape whose widths all differ, so that a mistake's ratio tells; its heads are wider than the residual stream.
SHAPES = [(1024, 16, 4, 128, 3072), *SHAPES]


def _block(h: int, a: int, k: int, d: int, f: int) -> int:
    """One token's bytes by the course's own prediction, which the tests hold against PyTorch."""
    one = Model("exercise", 1, h, a, k, d, f, 2, False, 1, 1e4, "made up")
    return sum(block_activations(one, Pass(1, 1)).values())


def _half_step(weight: float, mantissa_bits: int) -> float:
    """Half the distance from `weight` to the next larger number: 2**exponent * 2**-(mantissa_bits + 1)."""
    return 2.0 ** (math.frexp(weight)[1] - 1 - mantissa_bits - 1)


EXERCISES = [
    Exercise(
        name="batch_for_noise",
        cases=[(8.0, 2.0, 0.1), (3.0, 1.0, 0.5), (100.0, 0.5, 0.25)],
        right=lambda noise, gradient, share: (noise / (share * gradient)) ** 2,
        mistakes=[
            Mistake(
                "Four times the batch only halves the noise: it falls with the *root* of the batch.",
                lambda s, g, share: s / (share * g),
            ),
            Mistake("Compare with share * gradient, not with share alone.", lambda s, g, share: (s / share) ** 2),
            Mistake("That is the batch for a noise as large as the gradient.", lambda s, g, share: (s / g) ** 2),
            Mistake(
                "The share is squared, too: half the noise takes four times the batch.",
                lambda s, g, share: (s / g) ** 2 / share,
            ),
            Mistake("Upside down: more noise takes more samples.", lambda s, g, share: (share * g / s) ** 2),
        ],
    ),
    Exercise(
        name="largest_stable_rate",
        cases=[(10.0, 0.0), (10.0, 0.9), (0.5, 0.5), (123.0, 0.99)],
        right=lambda curvature, momentum: 2 * (1 + momentum) / curvature,
        mistakes=[
            Mistake("That is right without momentum. With it the limit is higher.", lambda c, m: 2 / c),
            Mistake(
                "1 / curvature jumps right into the valley's floor; the cliff comes at twice that.",
                lambda c, m: (1 + m) / c,
            ),
            Mistake(
                "That keeps lr / (1 - momentum), the long-run step, below 2 / curvature. Solve the condition given.",
                lambda c, m: 2 * (1 - m) / c,
            ),
            Mistake(
                "Almost: all of 2 + 2 * momentum is divided by the curvature. Brackets?",
                lambda c, m: 2 + 2 * m / c,
            ),
            Mistake("Upside down: a steeper curve takes smaller steps.", lambda c, m: c / (2 * (1 + m))),
        ],
    ),
    Exercise(
        name="training_bytes",
        cases=[(6_738_415_616, ADAMW, 2, 4), (1_000_000, MOMENTUM, 2, 4), (1_000_000, SGD, 2, 4), (1000, ADAMW, 1, 2)],
        right=lambda n, n_states, low, high: n * (2 * low + (1 + n_states) * high),
        mistakes=[
            Mistake(
                "The master copy is missing: high more bytes for each parameter.",
                lambda n, s, low, high: n * (2 * low + s * high),
            ),
            Mistake(
                "The gradients are missing: one for each parameter, low bytes each.",
                lambda n, s, low, high: n * (low + (1 + s) * high),
            ),
            Mistake(
                "Gradients are left in low precision here, as the parameters are.",
                lambda n, s, low, high: n * (low + (2 + s) * high),
            ),
            Mistake(
                "The optimizer's states are kept in high precision.",
                lambda n, s, low, high: n * ((2 + s) * low + high),
            ),
            Mistake(
                "Those are bytes for one parameter; there are n_params.",
                lambda n, s, low, high: 2 * low + (1 + s) * high,
            ),
        ],
    ),
    Exercise(
        name="bytes_per_token",
        cases=SHAPES,
        right=_block,
        mistakes=[
            Mistake(
                "34 d_model is an older block's formula (with dropout, without a gate). Add up the table above.",
                lambda h, a, k, d, f: 34 * h,
            ),
            Mistake(
                "The numbers in fp32 are missing: one for each query head and one for each norm, 4 bytes each.",
                lambda h, a, k, d, f: 2 * (4 * h + 2 * a * d + 2 * k * d + 4 * f),
            ),
            Mistake(
                "Keys and values have n_kv_heads heads, fewer than the queries.",
                lambda h, a, k, d, f: 2 * (4 * h + 4 * a * d + 4 * f) + 4 * a + 8,
            ),
            Mistake(
                "The MLP keeps four tensors of width d_ff: gate, silu(gate), up and their product.",
                lambda h, a, k, d, f: 2 * (4 * h + 2 * a * d + 2 * k * d + 3 * f) + 4 * a + 8,
            ),
            Mistake(
                "Attention keeps its result, too, as wide as the queries.",
                lambda h, a, k, d, f: 2 * (4 * h + a * d + 2 * k * d + 4 * f) + 4 * a + 8,
            ),
            Mistake(
                "Keys and values: two tensors of n_kv_heads * head_dim.",
                lambda h, a, k, d, f: 2 * (4 * h + 2 * a * d + k * d + 4 * f) + 4 * a + 8,
            ),
            Mistake(
                "The numbers in fp32 take 4 bytes each, not 2.",
                lambda h, a, k, d, f: 2 * (4 * h + 2 * a * d + 2 * k * d + 4 * f) + 2 * a + 4,
            ),
            Mistake(
                "Those are numbers. In bf16 each takes 2 bytes.",
                lambda h, a, k, d, f: 4 * h + 2 * a * d + 2 * k * d + 4 * f + 4 * a + 8,
            ),
            Mistake(
                "The heads together need not be as wide as d_model: queries have n_heads * head_dim numbers.",
                lambda h, a, k, d, f: 2 * (6 * h + 2 * k * d + 4 * f) + 4 * a + 8,
            ),
        ],
    ),
    Exercise(
        name="largest_lost_update",
        cases=[(1.0, 7), (0.02, 7), (3.0, 10), (100.0, 23), (0.75, 7)],
        right=_half_step,
        mistakes=[
            Mistake(
                "That is the whole distance to the next number. Rounding loses up to half of it.",
                lambda w, bits: 2 * _half_step(w, bits),
            ),
            Mistake(
                "Right at 1. Numbers lie closer together near 0: scale with the power of two at or below the weight.",
                lambda w, bits: 2.0 ** -(bits + 1),
            ),
            Mistake(
                "Almost: the distance is the same for all weights between two powers of two.",
                lambda w, bits: w * 2.0 ** -(bits + 1),
            ),
            Mistake(
                "Use the power of two at or below the weight, not the one above it.",
                lambda w, bits: 2.0 ** math.ceil(math.log2(w)) * 2.0 ** -(bits + 1),
            ),
        ],
    ),
]
