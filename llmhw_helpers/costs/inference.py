"""What answering costs: the KV cache in bytes, token computations, and the work of prefill and of decode.

A *prefill* reads the prompts in one pass; a *decode step* reads one new token of each sequence, and its cache.
"""

import math

from ..specs.architectures import Model
from ..specs.dtypes import dtype as find_dtype
from .flops import Work
from .roofline import Floor, Roof
from .transformer import forward_flops, pair_flops, visible_pairs


def kv_bytes(model: Model, seq_len: int = 1, dtype: str = "bf16") -> int:
    """Bytes that the cache of one sequence of `seq_len` tokens holds: a key and a value for each KV head and layer.

    ``2 * n_layers * n_kv_heads * head_dim`` numbers a token, or fewer: see `Model.kv_numbers`.

    Raises:
        ValueError: a negative number of tokens.
        UnknownName: there is no such format.

    >>> from llmhw_helpers.specs.models import model
    >>> kv_bytes(model("Llama-2-13B"), dtype="fp16") / 2**20, kv_bytes(model("Llama-2-13B"), 4096, "fp16") / 2**30
    (0.78125, 3.125)
    """
    if seq_len < 0:
        raise ValueError(f"a sequence has no {seq_len} tokens")
    return math.ceil(model.kv_numbers(seq_len) * find_dtype(dtype).bytes)


def token_computations(n_prompt: int, n_new: int, cached: bool) -> int:
    """Tokens that go through the model until `n_new` new ones are there.

    Without a cache every new token has the whole text read again; with one each token is read once, and the last new
    one not at all: nothing comes after it. (Often that one is counted too, as the next question will read it.)

    Raises:
        ValueError: no prompt, or no new token.

    >>> token_computations(1000, 100, cached=False), token_computations(1000, 100, cached=True)
    (104950, 1099)
    """
    if min(n_prompt, n_new) < 1:
        raise ValueError(f"a prompt and at least one new token, not {n_prompt} and {n_new}")
    if cached:
        return n_prompt + n_new - 1
    return n_new * n_prompt + n_new * (n_new - 1) // 2


def weights_read(model: Model, dtype: str = "bf16", n_tokens: float = 1) -> int:
    """Bytes of weights that a pass reads from memory: all but the input embedding, of which it looks up single rows.

    So with learned positions (GPT-2). A tied head *is* the embedding, and so read as a whole. Of E routed experts in a
    layer those that one of the `n_tokens` is sent to, k of them for each: ``E (1 - (1 - k / E) ** n_tokens)`` on
    average, if all are chosen alike often and tokens choose for themselves. Shared experts are always read.

    >>> from llmhw_helpers.specs.models import model
    >>> weights_read(model("SmolLM2-135M"), "fp32"), weights_read(model("Llama-3.1-8B")) / 1e9
    (538060032, 15.009849344)
    >>> [round(weights_read(model("Qwen3-30B-A3B"), "bf16", n) / 1e9, 1) for n in (1, 16, 1024)]
    [6.1, 39.8, 60.4]
    """
    parts = model.parameters()
    n_params = model.n_params - parts.get("positions", 0)
    n_params -= 0 if model.tied_embeddings else parts["embedding"]
    if e := model.experts:
        n_params -= parts["experts"] * e.asleep(n_tokens) / (e.n_experts + e.n_shared_experts)
    return math.ceil(n_params * find_dtype(dtype).bytes)


def prefill_work(model: Model, batch_size: int, seq_len: int, dtype: str = "bf16") -> Work:
    """Least work of reading `batch_size` prompts of `seq_len` tokens, with logits at the last position of each.

    Operations: a token's products, and its comparison with itself and those before it that it sees: half of all pairs,
    in a local layer fewer. Bytes: the weights once, a row of the embedding for each token, and the cache that is
    written. With latent attention every head's keys and values are made from the latent.

    Raises:
        NoFormula: as `forward_flops`.
        ValueError: no tokens.

    >>> from dataclasses import replace
    >>> from llmhw_helpers.specs.models import model
    >>> llama = model("Llama-3.1-8B")
    >>> local = replace(llama, sliding_window=4096, n_local_layers=32)
    >>> [round(prefill_work(each, 1, 32768).flops / 1e12) for each in (llama, local)]
    [739, 523]
    """
    flops = forward_flops(model, batch_size, seq_len, n_logits=1)
    flops["attention"] = batch_size * visible_pairs(model, 0, seq_len) * pair_flops(model)
    cache = batch_size * kv_bytes(model, seq_len, dtype)
    return Work(sum(flops.values()), _weights(model, batch_size * seq_len, dtype) + cache)


def decode_work(model: Model, batch_size: int, context: int, dtype: str = "bf16") -> Work:
    """Least work of one new token for each of `batch_size` sequences, the `context`-th of its text.

    Bytes: the weights once for all (of the experts, those that are chosen), a row of the embedding and the cache for
    each: ``context - 1`` tokens are read, in a local layer no more than its window, and the new one is written. Latent
    attention is absorbed: its heads compare with the latents that the cache holds.

    Raises:
        NoFormula: as `forward_flops`.
        ValueError: no sequences, or no tokens.

    >>> from llmhw_helpers.specs.models import model
    >>> round(decode_work(model("Llama-3.1-8B"), 1, 1024).intensity, 2)
    1.03
    """
    if context < 1:
        raise ValueError(f"the new token is the first of its text at least, not number {context}")
    flops = forward_flops(model, batch_size, 1)
    flops["attention"] = batch_size * visible_pairs(model, context - 1, 1) * pair_flops(model, absorbed=True)
    cache = batch_size * kv_bytes(model, context, dtype)
    return Work(sum(flops.values()), _weights(model, batch_size, dtype) + cache)


def time_to_first_token(roof: Roof, model: Model, batch_size: int, seq_len: int, dtype: str = "bf16") -> Floor:
    """The least time until prompts of `seq_len` tokens are read (TTFT); raises as `prefill_work` and `Roof.floor`."""
    return roof.floor(prefill_work(model, batch_size, seq_len, dtype), dtype)


def time_per_output_token(roof: Roof, model: Model, batch_size: int, context: int, dtype: str = "bf16") -> Floor:
    """The least time of a decode step (TPOT): every sequence gets a token; raises as `decode_work` and `Roof.floor`."""
    return roof.floor(decode_work(model, batch_size, context, dtype), dtype)


def compute_bound_batch(roof: Roof, model: Model, context: int, dtype: str = "bf16") -> float:
    """Sequences from which on a decode step is bound by arithmetic; infinite where it never is.

    One more sequence costs operations and, for its cache, bytes; the weights are there anyway, but for experts that
    nobody chose before. As long as memory binds, it costs only the time to fetch its cache, which in a short text is
    next to nothing.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> a100 = Roof.of(accelerator("A100-40GB"))
    >>> round(compute_bound_batch(a100, model("Llama-3.1-8B"), 1)), compute_bound_batch(a100, model("Llama-2-7B"), 4096)
    (201, inf)
    """
    one = decode_work(model, 1, context, dtype)
    own_bytes = one.bytes - weights_read(model, dtype)  # of a sequence: its cache, and a row of the embedding
    spare = one.flops / roof.peak(dtype) - own_bytes / roof.bytes_per_s
    if spare <= 0:
        return math.inf
    batch_size = math.inf  # of experts that are all awake: too many, and from there downwards
    while (enough := weights_read(model, dtype, batch_size) / roof.bytes_per_s / spare) < batch_size * (1 - 1e-12):
        batch_size = enough
    return batch_size


def largest_batch(
    model: Model, memory_bytes: float, context: int, dtype: str = "bf16", reserved_bytes: float = 0.0
) -> int:
    """Sequences of `context` tokens whose caches fit beside the weights; 0 where not one does.

    Args:
        model: any.
        memory_bytes: of the device.
        context: tokens that each sequence may grow to.
        dtype: of weights and cache.
        reserved_bytes: what else has to fit: the program, activations.

    Raises:
        ValueError: `context` is below 1.

    >>> from llmhw_helpers.specs.models import model
    >>> largest_batch(model("Llama-2-13B"), 40e9, 2048, "fp16", reserved_bytes=2e9)
    7
    """
    if context < 1:
        raise ValueError(f"a sequence has at least one token, not {context}")
    left = memory_bytes - reserved_bytes - math.ceil(model.n_params * find_dtype(dtype).bytes)
    return max(0, int(left // kv_bytes(model, context, dtype)))


def _weights(model: Model, n_tokens: int, dtype: str) -> int:
    """The weights once, and the embedding's rows."""
    return weights_read(model, dtype, n_tokens) + math.ceil(n_tokens * model.d_model * find_dtype(dtype).bytes)
