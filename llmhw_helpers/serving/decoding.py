"""Prefill and decode: a prompt in one pass, then a token at a time from the cache."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..llm.sampling import check_prompt, new_generator, tokens_of
from ..llm.tokenizer import Tokenizer
from ..specs.architectures import Model
from .compiled.decoder import Decoder, new_decoder
from .compiled.folder import say
from .kv_cache import KVCache
from .quantized_cache import QuantizedCache
from .sampling import Sampling


@runtime_checkable
class ServedModel(Protocol):
    """What prefill, decode and the engine use of a model: ``weights.Served`` has it, and ``offload.Offloaded``.

    Attributes:
        spec: its architecture.
        dtype, device: what it computes in, and where.
        nbytes: bytes of the weights that it holds in that device's memory.
    """

    spec: Model
    dtype: torch.dtype
    device: torch.device
    nbytes: int

    def forward(
        self,
        tokens: Int[Tensor, "batch n_new"],
        positions: Int[Tensor, "batch n_new"],
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Float[Tensor, "batch n_new d_model"]:
        """The residual stream after the last norm.

        Args:
            tokens: new tokens of each sequence.
            positions: where they stand in their sequence, the first at 0.
            attend: given a layer's number, queries, keys and values, mixes the values: a cache does that.

        Raises:
            TokenError: a number that is no token (in the CPU's memory).
        """

    def head(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch vocab_size"]:
        """Logits from the residual stream at one position of each sequence."""


_DECODERS: WeakKeyDictionary[ServedModel, Decoder | None] = WeakKeyDictionary()


def decoder_of(served: ServedModel) -> Decoder | None:
    """The compiled step of a model that may have one (see ``Served``'s `compiled`), made when first asked for.

    None where it is not wanted, or cannot be: a line says why, and PyTorch decodes.

    Raises:
        NoDecoder: it cannot be, and ``compiled=True`` wants nothing else.
    """
    compiled = getattr(served, "compiled", False)
    if compiled is False:
        return None
    if served not in _DECODERS:
        _DECODERS[served] = (Decoder if compiled else new_decoder)(served.model, served.activations)
    return _DECODERS[served]


def decoder_for(served: ServedModel, cache: KVCache) -> Decoder | None:
    """The compiled step, as `decoder_of`, for what lies in `cache`; None, with a line, if it cannot read that.

    Where there is none, a `KVCache` that was made for it is laid out for PyTorch.
    """
    decoder = decoder_of(served)
    if decoder is None:
        if getattr(served, "compiled", False) is not False and type(cache) is KVCache:
            cache.lay_by_head()
    elif not (type(cache) in (KVCache, QuantizedCache) and cache.by_token):
        say("decoding with PyTorch: the compiled step reads a cache of new_cache, or one with by_token=True")
        return None
    return decoder


def new_cache(served: ServedModel, batch_size: int, capacity: int) -> KVCache:
    """An empty cache in the format and on the device of the weights; raises as `KVCache` does."""
    # In the order in which whoever decodes reads it; whether there can be a compiled step shows at the first one.
    by_token = getattr(served, "compiled", False) is not False and _DECODERS.get(served, True) is not None
    return KVCache(served.spec, batch_size, capacity, served.dtype, served.device, by_token)


@torch.inference_mode()
def prefill(served: ServedModel, prompts: Sequence[Sequence[int]], cache: KVCache) -> Float[Tensor, "batch vocab_size"]:
    """Read a prompt for every sequence, all in one pass, and give the logits of what comes next in each.

    The prompts may differ in length; they may also go on from what the cache holds already.

    Raises:
        TokenError: an empty prompt, or a number that is no token.
        CacheFull: the longest one does not fit.
        ValueError: not as many prompts as the cache has sequences, or weights of another format than the cache's.
    """
    if len(prompts) != cache.batch_size:
        raise ValueError(f"{len(prompts)} prompts for a cache of {cache.batch_size} sequences")
    for prompt in prompts:
        check_prompt(served.spec, prompt)
    lengths = [len(prompt) for prompt in prompts]
    # On the right of a shorter prompt anything may stand: nobody before it sees it, and the next tokens overwrite it.
    padded = [[*prompt, *[0] * (max(lengths) - len(prompt))] for prompt in prompts]
    _check_format(served, cache)
    stream = _read(served, torch.tensor(padded, device=cache.device), cache)
    cache.advance(lengths)
    last = torch.tensor(lengths, device=stream.device) - 1
    return served.head(stream[torch.arange(len(prompts), device=stream.device), last])


@torch.inference_mode()
def decode(served: ServedModel, tokens: Int[Tensor, " batch"], cache: KVCache) -> Float[Tensor, "batch vocab_size"]:
    """One more token in every sequence, and the logits of what comes after it.

    With a compiled step (see `decoder_of`) they are in fp32, whatever the format of the weights.

    Raises:
        TokenError: a number that is no token.
        CacheFull: a sequence has no slot left.
        CannotQuantize: a key or value that a cache of codes cannot hold.
        ValueError: weights of another format than the cache's.
    """
    _check_format(served, cache)
    decoder = decoder_for(served, cache)
    if decoder is not None:
        cache.check_room(1)
        tables = [[i] for i in range(cache.batch_size)]
        logits = decoder.logits(tokens.tolist(), cache.lengths, tables, cache)
        cache.advance(1)
        return logits
    stream = _read(served, tokens[:, None], cache)
    cache.advance(1)
    return served.head(stream[:, -1])


def _check_format(served: ServedModel, cache: KVCache) -> None:
    if served.dtype != cache.dtype:
        raise ValueError(
            f"the weights are {served.dtype} and the cache is {cache.dtype}: make it with new_cache, or with "
            f"dtype={served.dtype}"
        )


def _read(served: ServedModel, tokens: Tensor, cache: KVCache) -> Tensor:
    window = cache.window(tokens.shape[1])
    return served.forward(tokens, window.positions, window.attend)


def generate(
    served: ServedModel,
    tokens: Sequence[int],
    n_new: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Collection[int] = (),
    tokenizer: Tokenizer | None = None,
) -> Iterator[int]:
    """Go on from `tokens`, as ``llm.sampling.generate`` does and with the same tokens, but from a cache.

    Ends after `n_new` tokens, at a token of `stop` (not given out), or when the context is full. With a `tokenizer`
    only tokens that it has are drawn.

    Raises:
        TokenError: no prompt, one that leaves no room in the context, or a number that is no token.
    """
    check_prompt(served.spec, tokens)
    n_new = min(n_new, served.spec.context_length - len(tokens))
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop)
    return _generate(served, tokens, n_new, sampling, tokens_of(tokenizer, served.spec.vocab_size, served.device))


def _generate(served, tokens, n_new, sampling, allowed) -> Iterator[int]:
    if n_new < 1:
        return
    cache = new_cache(served, 1, len(tokens) + n_new - 1)  # the last new token is never read
    generator = new_generator(cache.device, sampling.seed)
    logits = prefill(served, [tokens], cache)
    for i in range(n_new):
        token = sampling.draw(logits, generator, allowed)
        if token.item() in sampling.stop:
            return
        yield token.item()
        if i + 1 < n_new:
            logits = decode(served, token, cache)
