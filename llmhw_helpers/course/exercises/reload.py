"""The exercise on a prefix that lies on a storage: read it back, or compute it again (notebook 15)."""

from ...costs.reload import crossover_tokens
from ...specs.models import model
from ..grading import Exercise, Mistake

SMOL = model("SmolLM2-135M")  # 46,080 bytes a token in fp32
TOKEN_BYTES = 46080
# tokens of the prefix, bytes of each, tokens of prefill per second, bytes per second of the storage, seconds until the
# first byte
CASES = [
    (1000, TOKEN_BYTES, 1000.0, 500e6, 0.0),
    (1000, TOKEN_BYTES, 1000.0, 20e6, 0.0),
    (8192, TOKEN_BYTES, 1000.0, 47e6, 0.05),
    (8192, TOKEN_BYTES, 1000.0, 47e6, 0.5),
    (20, TOKEN_BYTES, 1000.0, 2e9, 0.1),
    (200, TOKEN_BYTES, 1000.0, 2e9, 0.1),
    (4000, TOKEN_BYTES, 50_000.0, 2e9, 0.0),
    (4000, TOKEN_BYTES, 50_000.0, 2.6e9, 0.0),
    (4000, TOKEN_BYTES, 40.0, 2e6, 0.01),
    (10, TOKEN_BYTES, 40.0, 2.5e6, 0.01),
    (300, TOKEN_BYTES, 30_000.0, 2e9, 0.0),
    (3, TOKEN_BYTES, 1000.0, 40e6, 0.0),
]


def _choice(n_tokens, token_bytes, tokens_per_s, bytes_per_s, wait):
    """By the length from which on reading pays."""
    longer = n_tokens > crossover_tokens(SMOL, tokens_per_s, bytes_per_s, "fp32", wait)
    return "reload" if longer else "recompute"


def _by_times(read, computed):
    return "reload" if read < computed else "recompute"


EXERCISES = [
    Exercise(
        name="recompute_or_reload",
        cases=CASES,
        right=_choice,
        mistakes=[
            Mistake(
                "You left out wait: the storage takes that long before its first byte.",
                lambda n, size, speed, rate, wait: _by_times(n * size / rate, n / speed),
            ),
            Mistake(
                "You took the way that takes longer: return the faster one.",
                lambda n, size, speed, rate, wait: _by_times(n / speed, wait + n * size / rate),
            ),
            Mistake(
                "You multiplied the bytes by 8: bytes_per_s counts bytes, not bits.",
                lambda n, size, speed, rate, wait: _by_times(wait + 8 * n * size / rate, n / speed),
            ),
            Mistake(
                "You read the bytes of one token: the prefix has n_tokens * token_bytes.",
                lambda n, size, speed, rate, wait: _by_times(wait + size / rate, n / speed),
            ),
            Mistake(
                "You computed one token: the prefix takes n_tokens / tokens_per_s seconds.",
                lambda n, size, speed, rate, wait: _by_times(wait + n * size / rate, 1 / speed),
            ),
        ],
    ),
]
