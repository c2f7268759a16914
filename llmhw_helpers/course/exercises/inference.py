"""Exercises on prefill, decode and the KV cache (notebook 07)."""

from ...costs import inference
from ...costs.flops import Work
from ...costs.roofline import Roof
from ...specs.architectures import Model
from ...specs.models import model
from ..grading import Exercise, Mistake

FORMATS = {4: "fp32", 2: "bf16", 1: "int8"}
# First a shape whose numbers all differ, so that a mistake's ratio tells.
CACHES = [(5, 12, 3, 32, 7, 4)] + [
    (m.n_layers, m.n_heads, m.n_kv_heads, m.head_dim, n_tokens, n_bytes)
    for m, n_tokens, n_bytes in (
        (model("SmolLM2-135M"), 512, 4),
        (model("Llama-2-13B"), 4096, 2),
        (model("Llama-3.1-70B"), 131072, 1),
    )
]
# weight bytes, cache bytes of a token, batch size, tokens in each text, bytes per second
STEPS = [(538e6, 46080, 1, 100, 30e9), (538e6, 46080, 8, 2000, 30e9), (15e9, 131072, 64, 8192, 1555e9)]
MACHINES = [(312e12, 1555e9, 2), (150e9, 40e9, 4), (1979e12, 3350e9, 1), (65e12, 320e9, 2)]
# memory bytes, weight bytes, sequences, cache bytes of a token
FITS = [(40e9, 26e9, 1, 819200), (40e9, 26e9, 7, 819200), (80e9, 16.1e9, 40, 131072), (24e9, 0.54e9, 3, 46080)]


def _kv_bytes(n_layers, n_heads, n_kv_heads, head_dim, n_tokens, bytes_per_number):
    made_up = Model("x", n_layers, 8, n_heads, n_kv_heads, head_dim, 8, 2, True, 1, 1e4, "made up")
    return inference.kv_bytes(made_up, n_tokens, FORMATS[bytes_per_number])


def _floor(weight_bytes, kv_token_bytes, batch_size, n_tokens, bytes_per_s):
    moved = Work(0, weight_bytes + batch_size * n_tokens * kv_token_bytes)
    return Roof("x", {"fp32": 1.0}, bytes_per_s).floor(moved, "fp32").seconds


def _free_batch(flops_per_s, bytes_per_s, bytes_per_number):
    return Roof("x", {"fp32": flops_per_s}, bytes_per_s).ridge("fp32") * bytes_per_number / 2


EXERCISES = [
    Exercise(
        name="token_computations",
        cases=[(1000, 100, False), (1000, 100, True), (5, 1, False), (3, 40, False), (3, 40, True)],
        right=inference.token_computations,
        rtol=1e-9,
        mistakes=[
            Mistake(
                "The last new token is not read by anybody: leave it out.",
                lambda n, m, cached: n + m if cached else n * m + m * (m + 1) // 2,
            ),
            Mistake(
                "With a cache the last new token is not read by anybody either.",
                lambda n, m, cached: n + m if cached else n * m + m * (m - 1) // 2,
            ),
            Mistake(
                "Without a cache the text grows: each new token has one more to read than the one before.",
                lambda n, m, cached: n + m - 1 if cached else n * m,
            ),
            Mistake(
                "With a cache each token is read once, the prompt only at first.",
                lambda n, m, cached: n * m + m * (m - 1) // 2,
            ),
            Mistake("The prompt has to be read, too.", lambda n, m, cached: m if cached else n * m + m * (m - 1) // 2),
        ],
    ),
    Exercise(
        name="kv_bytes",
        cases=CACHES,
        right=_kv_bytes,
        rtol=1e-9,
        mistakes=[
            Mistake("A key *and* a value: the factor 2 is missing.", lambda n, a, k, d, t, b: n * k * d * t * b),
            Mistake(
                "Only keys and values are kept, and these have n_kv_heads heads.",
                lambda n, a, k, d, t, b: 2 * n * a * d * t * b,
            ),
            Mistake("Every layer has its own cache.", lambda n, a, k, d, t, b: 2 * k * d * t * b),
            Mistake("That counts numbers; how many bytes has each?", lambda n, a, k, d, t, b: 2 * n * k * d * t),
            Mistake("Every token keeps its own.", lambda n, a, k, d, t, b: 2 * n * k * d * b),
            Mistake(
                "The queries are not kept: nobody asks for them again.",
                lambda n, a, k, d, t, b: n * (2 * k + a) * d * t * b,
            ),
        ],
    ),
    Exercise(
        name="decode_floor",
        cases=STEPS,
        right=_floor,
        rtol=1e-6,
        mistakes=[
            Mistake(
                "The weights are read once for the whole batch.",
                lambda w, kv, n, t, rate: n * (w + t * kv) / rate,
            ),
            Mistake("Every text has a cache of its own.", lambda w, kv, n, t, rate: (w + t * kv) / rate),
            Mistake(
                "The cache has kv_token_bytes for each of the n_tokens tokens.",
                lambda w, kv, n, t, rate: (w + n * kv) / rate,
            ),
            Mistake("The cache is read, too, in every step.", lambda w, kv, n, t, rate: w / rate),
            Mistake("Seconds: bytes divided by bytes per second.", lambda w, kv, n, t, rate: rate / (w + n * t * kv)),
            Mistake(
                "One step gives a token to every text: its time is not divided among them.",
                lambda w, kv, n, t, rate: (w + n * t * kv) / rate / n,
            ),
            Mistake(
                "kv_token_bytes holds key and value already: no factor 2.",
                lambda w, kv, n, t, rate: (w + 2 * n * t * kv) / rate,
            ),
        ],
    ),
    Exercise(
        name="free_batch",
        cases=MACHINES,
        right=_free_batch,
        rtol=1e-6,
        mistakes=[
            Mistake("A weight does two operations for each text, not one.", lambda f, m, b: f * b / m),
            Mistake(
                "That quotient is the ridge, in FLOP/B: how many bytes has a weight, and how many operations?",
                lambda f, m, b: f / m,
            ),
            Mistake("Almost: that is right for weights of one byte only.", lambda f, m, b: f / (2 * m)),
            Mistake(
                "The more bytes a weight has, the longer it is fetched, and the *more* texts keep up with that.",
                lambda f, m, b: f / (m * b * 2),
            ),
            Mistake("Two operations for each weight and text take *longer* than one.", lambda f, m, b: 2 * f * b / m),
            Mistake("Upside down: which of the two rates is the larger?", lambda f, m, b: 2 * m / (f * b)),
        ],
    ),
    Exercise(
        name="longest_context",
        cases=FITS,
        right=lambda memory, weights, n, kv: int((memory - weights) // (n * kv)),
        rtol=1e-9,
        mistakes=[
            Mistake("The weights have to fit, too.", lambda memory, w, n, kv: int(memory // (n * kv))),
            Mistake(
                "That is for one user: batch_size of them share the memory.",
                lambda memory, w, n, kv: int((memory - w) // kv),
            ),
            Mistake(
                "All users share one copy of the weights.", lambda memory, w, n, kv: int((memory - n * w) // (n * kv))
            ),
            Mistake(
                "Whole tokens: what does not fit does not count, so round down.",
                lambda memory, w, n, kv: (memory - w) / (n * kv),
            ),
            Mistake(
                "Whole tokens that fit: round down, not up.", lambda memory, w, n, kv: int((memory - w) // (n * kv)) + 1
            ),
            Mistake(
                "Whole tokens that fit: round down, not to the nearest.",
                lambda memory, w, n, kv: round((memory - w) / (n * kv)),
            ),
            Mistake(
                "Divided by batch_size twice: each user needs kv_token_bytes a token, whoever else is there.",
                lambda memory, w, n, kv: int((memory - w) // (n * n * kv)),
            ),
        ],
    ),
]
