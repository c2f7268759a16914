"""From scores to tokens: temperature, top-k, top-p, and generation one token at a time.

Top-p (nucleus sampling): arXiv:1904.09751.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..specs.architectures import Model
from .tokenizer import Tokenizer
from .transformer import TokenError, Transformer

COLDEST, HOTTEST = 1e-30, 1e30  # temperatures that fp32 can divide by


class NoDistribution(ValueError):
    """Scores that no token can be drawn from."""


def probabilities(
    logits: Float[Tensor, "*batch vocab_size"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    allowed: Bool[Tensor, " vocab_size"] | None = None,
) -> Float[Tensor, "*batch vocab_size"]:
    """The distribution that the next token is drawn from, in fp32.

    Args:
        temperature: divides the logits; below 1 the likely become likelier, and 0 takes the best one (greedy).
        top_k: keep this many tokens, and those as good as the last of them.
        top_p: keep the fewest tokens whose probabilities reach this sum, the best one always.
        allowed: the tokens that may be drawn, as `tokens_of` gives them; the others are left out before all else.

    Raises:
        ValueError: a setting out of its range.
        NoDistribution: the logits hold NaN or infinity, as an overflow in fp16 leaves them.
    """
    check_settings(temperature, top_k, top_p)
    logits = _scores(logits, allowed)
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    # The best one at 0: whatever the temperature, nothing overflows. What is left out stays so, however hot it is.
    logits = (logits - logits.amax(-1, keepdim=True)) / min(max(temperature, COLDEST), HOTTEST)
    if top_k is not None:
        last = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < last, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, places = logits.sort(descending=True, stable=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p  # what the better ones sum to
        beyond[..., 0] = False  # nothing for the best, but 0 >= 1e-46 in fp32
        logits = logits.scatter(-1, places, ordered.masked_fill(beyond, -torch.inf))
    return logits.softmax(-1)


def _scores(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Those that a token may be drawn from, in fp32."""
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if not logits.amax(-1).isfinite().all():  # NaN is the largest of any row that has one
        raise NoDistribution("the logits hold NaN or infinity: did the model overflow its number format?")
    return logits


def check_settings(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuse what is no way to draw a token.

    Raises:
        ValueError: a setting out of its range.
    """
    if not temperature >= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        wrong = f"temperature={temperature}, top_k={top_k}, top_p={top_p}"
        raise ValueError(f"temperature is at least 0, top_k at least 1, top_p in (0, 1]; not {wrong}")


def tokens_of(
    tokenizer: Tokenizer | None, n_rows: int, device: torch.device | str = "cpu"
) -> Bool[Tensor, " n_rows"] | None:
    """Which of a model's `n_rows` rows are tokens of its tokenizer; `None` where all are, or nothing is known.

    An embedding may have more rows than there are tokens: they pad it to a size that kernels like, and a model that
    was never trained on them may draw them all the same. Vocabularies have holes, too.
    """
    if tokenizer is None:
        return None
    missing = [*range(tokenizer.vocab_size, n_rows), *(hole for hole in tokenizer.holes if hole < n_rows)]
    if not missing:
        return None
    return torch.ones(n_rows, dtype=torch.bool).index_fill(0, torch.tensor(missing), False).to(device)


def sample(
    logits: Float[Tensor, "*batch vocab_size"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    allowed: Bool[Tensor, " vocab_size"] | None = None,
) -> Int[Tensor, "*batch"]:
    """A token for each row, drawn from `probabilities`; raises as that does."""
    if temperature == 0:
        check_settings(temperature, top_k, top_p)
        return _scores(logits, allowed).argmax(-1)
    p = probabilities(logits, temperature, top_k, top_p, allowed)
    return p.view(-1, p.shape[-1]).multinomial(1, generator=generator).view(p.shape[:-1])


def generate(
    model: Transformer,
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
    """Go on from `tokens`, one new token at a time, each from the whole sequence again: notebook 07 shows the price.

    Ends after `n_new` tokens, at a token of `stop` (not given out), or when the context is full. With a `tokenizer`
    only tokens that it has are drawn: see `tokens_of`.

    Raises:
        TokenError: no prompt, one that leaves no room in the context, or a number that is no token.
    """
    check_prompt(model.spec, tokens)
    n_new = min(n_new, model.spec.context_length - len(tokens))
    return _generate(model, tokens, n_new, (temperature, top_k, top_p), seed, stop, tokenizer)


def check_prompt(spec: Model, tokens: Sequence[int]) -> None:
    """Refuse what a model cannot go on from.

    Raises:
        TokenError: no prompt, one that leaves no room in the context, or a number that is no token.
    """
    limit, last = spec.context_length, spec.vocab_size - 1
    if not tokens:
        raise TokenError("an empty prompt: a model goes on from at least one token")
    if len(tokens) >= limit:
        raise TokenError(f"a prompt of {len(tokens)} tokens leaves no room in the context of {limit}: shorten it")
    if wrong := [token for token in tokens if not 0 <= token <= last]:
        raise TokenError(f"token {wrong[0]} is none of {spec.name}'s, which go from 0 to {last}")


def new_generator(device: torch.device, seed: int | None) -> torch.Generator:
    """A source of random numbers: the same ones again for the same `seed`, others every time without."""
    generator = torch.Generator(device)
    generator.seed() if seed is None else generator.manual_seed(seed)
    return generator


def _generate(model, tokens, n_new, how, seed, stop, tokenizer) -> Iterator[int]:
    device = model.token_embd.weight.device
    generator, allowed = new_generator(device, seed), tokens_of(tokenizer, model.spec.vocab_size, device)
    sequence = torch.tensor([list(tokens)], device=device)
    for _ in range(n_new):
        with torch.inference_mode():
            token = sample(model.head(model.hidden(sequence)[:, -1]), *how, generator, allowed)
            sequence = torch.cat((sequence, token[:, None]), dim=1)
        if token.item() in stop:
            return
        yield token.item()
