"""How near one model is to another on a text: perplexity, shared first choices, and the divergence between them."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .transformer import Transformer

PIECE = 32  # positions whose probabilities are compared together: they fit a CPU's cache, and take a fifth of the time


@dataclass(frozen=True)
class Quality:
    """Of a model on a text.

    Attributes:
        perplexity: ``exp`` of the mean of ``-ln p`` of the tokens that came; without a reference, that is all.
        agreement: share of positions where its likeliest token is the reference's; 1 for the reference itself.
        divergence: ``sum p ln(p / q)`` of the reference's probabilities p and its own q, in nats a position.
    """

    perplexity: float
    agreement: float = 1.0
    divergence: float = 0.0


@torch.inference_mode()
def log_probabilities(
    model: Transformer, tokens: Int[Tensor, "batch seq_len"]
) -> Float[Tensor, "batch seq_len vocab_size"]:
    """Of every token at every position, in fp32; a sequence at a time, as the logits are large."""
    return torch.stack([F.log_softmax(model(row[None])[0].float(), dim=-1) for row in tokens])


@torch.inference_mode()
def assess(
    model: Transformer,
    tokens: Int[Tensor, "batch seq_len"],
    reference: Float[Tensor, "sequences n_tokens vocab_size"] | None = None,
) -> Quality:
    """The model on `tokens`, each sequence by itself, beside what `log_probabilities` gave for the reference.

    Raises:
        ValueError: sequences of a single token, or a reference of another shape.
    """
    if tokens.shape[1] < 2:
        raise ValueError("a sequence needs two tokens at least: the first is only read")
    if reference is not None and reference.shape[:2] != tokens.shape:
        raise ValueError(f"the reference is for {tuple(reference.shape[:2])} tokens, not {tuple(tokens.shape)}")
    loss = same = apart = 0.0
    for i, row in enumerate(tokens):
        found = log_probabilities(model, row[None])[0]
        loss -= found[:-1].gather(1, row[1:, None]).sum().item()
        if reference is not None:
            same += (found.argmax(-1) == reference[i].argmax(-1)).sum().item()
            pieces = zip(found.split(PIECE), reference[i].split(PIECE), strict=True)
            apart += sum(F.kl_div(*pair, reduction="sum", log_target=True).item() for pair in pieces)
    perplexity = math.exp(loss / (tokens.numel() - len(tokens)))
    if reference is None:
        return Quality(perplexity)
    return Quality(perplexity, same / tokens.numel(), apart / tokens.numel())
