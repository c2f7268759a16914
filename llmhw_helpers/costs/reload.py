"""A prefix whose keys and values lie on a storage: read them back, or compute them again?

To compute them takes time by the token, and to read them takes time by the byte. So one number decides: the storage's
rate against the bytes that a prefill makes in a second.
"""

import math

from ..specs.architectures import Model
from .inference import kv_bytes


def reload_seconds(
    model: Model, n_tokens: int, bytes_per_s: float, dtype: str = "bf16", latency_s: float = 0.0
) -> float:
    """To read the cache of `n_tokens` back: ``latency + n_tokens * bytes of a token / rate``.

    Args:
        bytes_per_s: of the slowest part of the way.
        dtype: of the cache.
        latency_s: until the first byte comes.

    Raises:
        ValueError: a rate that is not above 0, a negative latency or number of tokens.

    >>> from llmhw_helpers.specs.models import model
    >>> round(reload_seconds(model("Llama-2-7B"), 4096, 2e9, "fp16"), 2)
    1.07
    """
    _above_0(bytes_per_s=bytes_per_s)
    if not latency_s >= 0:
        raise ValueError(f"a latency of {latency_s} s: it is 0 at least")
    return latency_s + kv_bytes(model, n_tokens, dtype) / bytes_per_s


def crossover_rate(model: Model, tokens_per_s: float, dtype: str = "bf16") -> float:
    """The storage's bytes per second from which on reading is faster than computing, however long the prefix is.

    ``bytes of a token's keys and values * tokens that prefill reads in a second``: what prefill itself makes of cache.
    A faster processor asks for a faster storage. In long prompts prefill slows down, as attention grows with the
    square, and the crossover falls: take the rate for the length that is meant.

    Args:
        tokens_per_s: of prefill.
        dtype: of the cache.

    Raises:
        ValueError: a rate that is not above 0.

    >>> from llmhw_helpers.costs.speed import prefill_speed
    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> crossover_rate(model("SmolLM2-135M"), 1000, "fp32") / 1e6  # MB/s, on two cores
    46.08
    >>> rates = {}
    >>> for name in ("Llama-2-7B", "Qwen2.5-7B"):  # with as many KV heads as heads, and with a seventh
    ...     speed = prefill_speed(accelerator("A100-80GB"), model(name), prompt=4096).likely
    ...     rates[name] = round(crossover_rate(model(name), speed) / 1e9, 1)  # GB/s
    >>> rates
    {'Llama-2-7B': 8.1, 'Qwen2.5-7B': 0.9}
    """
    _above_0(tokens_per_s=tokens_per_s)
    return kv_bytes(model, 1, dtype) * tokens_per_s


def crossover_tokens(
    model: Model, tokens_per_s: float, bytes_per_s: float, dtype: str = "bf16", latency_s: float = 0.0
) -> float:
    """The length from which on a prefix is faster read than computed: ``latency / (1 / speed - bytes / rate)`` tokens.

    Infinite on a storage below `crossover_rate`. Arguments and errors as there and in `reload_seconds`.

    >>> from llmhw_helpers.specs.models import model
    >>> llama = model("Llama-2-7B")
    >>> [round(crossover_tokens(llama, 8000, rate, "fp16", latency_s=0.01), 1) for rate in (4e9, 5e9, 1e12)]
    [inf, 496.5, 80.3]
    """
    _above_0(tokens_per_s=tokens_per_s)
    saved = 1 / tokens_per_s - reload_seconds(model, 1, bytes_per_s, dtype)  # by each token
    if not latency_s >= 0:
        raise ValueError(f"a latency of {latency_s} s: it is 0 at least")
    return latency_s / saved if saved > 0 else math.inf


def mean_first_token(n_prompts: int, seconds: float) -> float:
    """Mean time to first token of prompts that come together and are read one after the other: ``(n + 1) / 2`` turns.

    The first waits for itself alone, the last for all. So in a queue a prompt that is served 1 s sooner saves the
    average client many seconds, but the *factor* between two ways to serve is the same as without a queue.

    Args:
        n_prompts: that come at the same moment.
        seconds: of each one's turn.

    Raises:
        ValueError: no prompts, or a turn that takes no time.

    >>> mean_first_token(1, 1.0), mean_first_token(50, 1.0)
    (1.0, 25.5)
    """
    if not n_prompts >= 1 or not seconds > 0:
        raise ValueError(f"{n_prompts} prompts of {seconds} s: at least one, which takes some time")
    return (n_prompts + 1) / 2 * seconds


def turn_seconds(n_prompts: int, mean_seconds: float) -> float:
    """What each prompt's turn took, if their mean time to first token is `mean_seconds`: `mean_first_token` reversed.

    LMCache says of an L40 with Qwen2.5-7B and 50 prompts of 8192 tokens: 36.2 s computed, 2.88 s read back. So a turn
    took 1.42 s, and 0.113 s, in which 470 MB of keys and values came at 4.2 GB/s at least:

    >>> from llmhw_helpers.specs.models import model
    >>> qwen = model("Qwen2.5-7B")
    >>> computed, read = (turn_seconds(50, mean) for mean in (36.2, 2.88))
    >>> round(8192 / computed), round(kv_bytes(qwen, 8192) / read / 1e9, 1)  # tokens per second, GB/s
    (5771, 4.2)
    >>> round(kv_bytes(qwen, 8192) / read / crossover_rate(qwen, 8192 / computed), 1)  # the published factor
    12.6
    """
    if not mean_seconds > 0:
        raise ValueError(f"a mean of {mean_seconds} s: it takes some time")
    return mean_seconds / mean_first_token(n_prompts, 1.0)


def _above_0(**rates: float) -> None:
    for name, rate in rates.items():
        if not rate > 0:
            raise ValueError(f"{name} of {rate}: a rate is above 0")
