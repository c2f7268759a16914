"""From scores to tokens: temperature, top-k, top-p, and generation one token at a time.

Top-p (nucleus sampling): arXiv:1904.09751.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..specs.architectures import Model
from .transformer import TokenError, Transformer


class NoDistribution(ValueError):
    """Scores that no token can be drawn from."""


def probabilities(
    logits: Float[Tensor, "*batch vocab_size"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "*batch vocab_size"]:
    """The distribution that the next token is drawn from, in fp32.

    Args:
        temperature: divides the logits; below 1 the likely become likelier, and 0 takes the best one (greedy).
        top_k: keep this many tokens, and those as good as the last of them.
        top_p: keep the fewest tokens whose probabilities reach this sum, the best one always.

    Raises:
        ValueError: a setting out of its range.
        NoDistribution: the logits hold NaN or infinity, as an overflow in fp16 leaves them.
    """
    check_settings(temperature, top_k, top_p)
    logits = logits.float()
    if not (logits.amax(-1) < torch.inf).all():  # NaN is the largest of any row that has one, and below nothing
        raise NoDistribution("the logits hold NaN or infinity: did the model overflow its number format?")
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    # The best one at 0: whatever the temperature, nothing overflows.
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-30)
    if top_k is not None:
        last = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < last, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, places = logits.sort(descending=True, stable=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p  # what the better ones sum to; nothing for the best
        logits = logits.scatter(-1, places, ordered.masked_fill(beyond, -torch.inf))
    return logits.softmax(-1)


def check_settings(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuse what is no way to draw a token.

    Raises:
        ValueError: a setting out of its range.
    """
    if not temperature >= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        wrong = f"temperature={temperature}, top_k={top_k}, top_p={top_p}"
        raise ValueError(f"temperature is at least 0, top_k at least 1, top_p in (0, 1]; not {wrong}")


def sample(
    logits: Float[Tensor, "*batch vocab_size"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*batch"]:
    """A token for each row, drawn from `probabilities`; raises as that does."""
    p = probabilities(logits, temperature, top_k, top_p)
    if temperature == 0:
        return p.argmax(-1)
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
) -> Iterator[int]:
    """Go on from `tokens`, one new token at a time, each from the whole sequence again: notebook 07 shows the price.

    Ends after `n_new` tokens, at a token of `stop` (not given out), or when the context is full.

    Raises:
        TokenError: no prompt, one that leaves no room in the context, or a number that is no token.
    """
    check_prompt(model.spec, tokens)
    n_new = min(n_new, model.spec.context_length - len(tokens))
    return _generate(model, tokens, n_new, (temperature, top_k, top_p), seed, stop)


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


def _generate(model, tokens, n_new, how, seed, stop) -> Iterator[int]:
    device = model.token_embd.weight.device
    generator = new_generator(device, seed)
    sequence = torch.tensor([list(tokens)], device=device)
    for _ in range(n_new):
        with torch.inference_mode():
            token = sample(model.head(model.hidden(sequence)[:, -1]), *how, generator=generator)
            sequence = torch.cat((sequence, token[:, None]), dim=1)
        if token.item() in stop:
            return
        yield token.item()
