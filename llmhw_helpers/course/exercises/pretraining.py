"""Exercises on training a language model from nothing (notebook 05)."""

import itertools
import math

import numpy as np

from ...costs.training import six_n, training_flops
from ...llm.markov import MarkovSource
from ...specs.accelerators import accelerator
from ...specs.architectures import Model
from ...specs.models import model
from ..grading import Exercise, Mistake

LEAVING = [(0.3, 0.1), (0.05, 0.6), (0.5, 0.25)]
SHAPES = {
    (m.parameters()["attention"] + m.parameters()["mlp"] + m.vocab_size * m.d_model, *sizes): m
    for m, sizes in (
        (Model("x", 3, 24, 4, 2, 10, 40, 30, False, 64, 1e4, "made up"), (3, 4, 10, 50)),
        *((m, (m.n_layers, m.n_heads, m.head_dim, 4096)) for m in map(model, ("SmolLM2-135M", "Llama-2-7B"))),
    )
}
SMOL, LLAMA = model("SmolLM2-135M"), model("Llama-2-7B")
A100, H100 = (accelerator(name).peak("bf16").known() for name in ("A100-40GB", "H100"))
RUNS = [
    (SMOL.n_params, 2e12, 64, H100, 0.4),
    (LLAMA.n_params, 2e12, 1000, A100, 0.5),
    (SMOL.n_params, 1e10, 1, A100, 0.3),
]
SIX_N = {each.n_params: six_n(each) for each in (SMOL, LLAMA)}
BATCHES = [(4_000_000, 64, 4, 4096), (1_000_000, 8, 2, 2048), (500_000, 1, 8, 1024), (2**20, 4, 4, 1024)]
LOADERS = [(65_536, 0.25, 40_000), (1_000_000, 1.5, 150_000), (4096, 0.1, 1_000_000), (60_000, 0.5, 40_000)]
DAY = 24 * 60 * 60


def _coin(a: float, b: float) -> MarkovSource:
    return MarkovSource(np.array([[1 - a, a], [b, 1 - b]]))


def _uncertainty(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def _leaving(p: float) -> float:
    return -p * math.log(p)


def _work(n_multiplied: int, n_layers: int, n_heads: int, head_dim: int, seq_len: int) -> float:
    spec = SHAPES[n_multiplied, n_layers, n_heads, head_dim, seq_len]
    return sum(training_flops(spec, 1, seq_len).values()) / seq_len


def _days(n: int, tokens: float, n_gpus: int, peak: float, share: float) -> float:
    return SIX_N[n] * tokens / (n_gpus * peak * share) / DAY


def _micro_batches(target: int, n_gpus: int, batch_size: int, seq_len: int) -> int:
    return next(n for n in itertools.count(1) if n * n_gpus * batch_size * seq_len >= target)


def _workers(batch_tokens: int, step_seconds: float, rate: float) -> int:
    return next(n for n in itertools.count(1) if n * rate * step_seconds >= batch_tokens)


EXERCISES = [
    Exercise(
        name="two_symbol_floor",
        cases=LEAVING,
        right=lambda a, b: _coin(a, b).floor(),
        mistakes=[
            Mistake(
                "That is the uncertainty of who knows the frequencies only; after a symbol is seen there is less.",
                lambda a, b: _coin(a, b).floor(0),
            ),
            Mistake(
                "The two are not seen equally often: weight each by its share of the time.",
                lambda a, b: (_uncertainty(a) + _uncertainty(b)) / 2,
            ),
            Mistake(
                "The wrong way round: who rarely leaves A is mostly at A, so A weighs leave_b / (leave_a + leave_b).",
                lambda a, b: (a * _uncertainty(a) + b * _uncertainty(b)) / (a + b),
            ),
            Mistake(
                "That is in bits. A loss is in nats: take the natural logarithm.",
                lambda a, b: _coin(a, b).floor() / math.log(2),
            ),
            Mistake(
                "Staying is an outcome, too, and each place weighs by its share of the time.",
                lambda a, b: _leaving(a) + _leaving(b),
            ),
            Mistake(
                "At each place two things can come: it leaves, or it stays where it is.",
                lambda a, b: (b * _leaving(a) + a * _leaving(b)) / (a + b),
            ),
        ],
    ),
    Exercise(
        name="training_work",
        cases=list(SHAPES),
        right=_work,
        mistakes=[
            Mistake("That is the forward pass alone; the backward pass does twice as much.", lambda *c: _work(*c) / 3),
            Mistake("Comparing tokens is missing: no parameter stands for it.", lambda n, *_: 6 * n),
            Mistake("That is for a whole text; one token of it is asked for.", lambda *c: _work(*c) * c[-1]),
            Mistake(
                "Comparing tokens has a backward pass, too: three times its forward operations, not once.",
                lambda n, layers, heads, size, length: 6 * n + 4 * layers * heads * size * length,
            ),
            Mistake(
                "The parameters have a backward pass, too: three times their forward operations, not once.",
                lambda n, layers, heads, size, length: 2 * n + 12 * layers * heads * size * length,
            ),
            Mistake(
                "Comparing tokens grows with the text: each token is compared with seq_len of them.",
                lambda n, layers, heads, size, length: 6 * n + 12 * layers * heads * size,
            ),
            Mistake(
                "One token is asked for: the operations of its comparisons have seq_len in them once, not twice.",
                lambda n, layers, heads, size, length: 6 * n + 12 * layers * heads * size * length**2,
            ),
            Mistake(
                "A parameter does a multiply *and* an add: 2 operations forward.",
                lambda n, layers, heads, size, length: 3 * n + 12 * layers * heads * size * length,
            ),
            Mistake(
                "That is twice the forward pass. The backward pass alone is that: add the forward pass.",
                lambda *c: 2 * _work(*c) / 3,
            ),
        ],
    ),
    Exercise(
        name="gpu_days",
        cases=RUNS,
        right=_days,
        mistakes=[
            Mistake("2 N is the forward pass; training takes 6 N a token.", lambda *c: _days(*c) / 3),
            Mistake("Those are hours; days are asked for.", lambda *c: 24 * _days(*c)),
            Mistake("Those are seconds; days are asked for.", lambda *c: DAY * _days(*c)),
            Mistake(
                "Nobody runs at the peak: divide by the utilization.",
                lambda n, t, g, peak, share: _days(n, t, g, peak, 1.0),
            ),
            Mistake(
                "The utilization is in the wrong place: less of it takes longer.",
                lambda n, t, g, peak, share: _days(n, t, g, peak, 1 / share),
            ),
            Mistake("The GPUs share the work.", lambda n, t, g, peak, share: _days(n, t, 1, peak, share)),
        ],
    ),
    Exercise(
        name="micro_batches",
        cases=BATCHES,
        right=_micro_batches,
        mistakes=[
            Mistake("Round up: one too few and the target is missed.", lambda t, g, b, s: t // (g * b * s)),
            Mistake(
                "Rounded to the nearest, a step may fall short: round up.", lambda t, g, b, s: round(t / (g * b * s))
            ),
            Mistake(
                "One too many where the division leaves no rest.",
                lambda t, g, b, s: t // (g * b * s) + 1,
            ),
            Mistake("There is no part of a micro-batch: round up.", lambda t, g, b, s: t / (g * b * s)),
            Mistake("All GPUs add to the same step: divide by n_gpus, too.", lambda t, g, b, s: math.ceil(t / (b * s))),
            Mistake(
                "A micro-batch has batch_size sequences: divide by batch_size, too.",
                lambda t, g, b, s: math.ceil(t / (g * s)),
            ),
            Mistake("The target counts tokens: each sequence has seq_len.", lambda t, g, b, s: math.ceil(t / (g * b))),
            Mistake(
                "All GPUs add to the same step, and a target is reached by rounding up.",
                lambda t, g, b, s: t // (b * s),
            ),
        ],
    ),
    Exercise(
        name="workers_needed",
        cases=LOADERS,
        right=_workers,
        mistakes=[
            Mistake("Round up: the last worker is needed for the rest.", lambda n, s, rate: max(1, int(n / s / rate))),
            Mistake(
                "Rounded down, the workers fall short; and where one is more than enough, none is left.",
                lambda n, s, rate: n // s // rate,
            ),
            Mistake(
                "One too many where the division leaves no rest.",
                lambda n, s, rate: int(n / s / rate) + 1,
            ),
            Mistake(
                "A short step asks for more workers: divide by step_seconds.",
                lambda n, s, rate: math.ceil(n * s / rate),
            ),
            Mistake(
                "A batch is needed every step_seconds: the rate asked for is batch_tokens / step_seconds.",
                lambda n, s, rate: math.ceil(n / rate),
            ),
            Mistake(
                "Tokens asked for a second, divided by those of one worker; not the other way round.",
                lambda n, s, rate: math.ceil(rate * s / n),
            ),
            Mistake("There are no parts of workers: round up.", lambda n, s, rate: n / s / rate),
        ],
    ),
]
