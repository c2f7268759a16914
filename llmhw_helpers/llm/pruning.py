"""Structured sparsity: of every four weights in a row the two smallest become zero, as sparse tensor cores ask for."""

import copy
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..costs.pruning import KEPT, OF
from .transformer import Transformer


class CannotPrune(ValueError):
    """Rows that are not made of whole groups of four."""


def two_in_four(weight: Float[Tensor, "n_out n_in"]) -> Float[Tensor, "n_out n_in"]:
    """`weight` with the two smallest of every four in a row, by magnitude, set to zero; of equals the later ones.

    Raises:
        CannotPrune: a row's length is no multiple of four.

    >>> two_in_four(torch.tensor([[0.1, -3.0, 2.0, 0.5]]))
    tensor([[ 0., -3.,  2.,  0.]])
    """
    n_out, n_in = weight.shape
    if n_in % OF:
        raise CannotPrune(f"rows of {n_in} weights are not made of groups of {OF}")
    groups = weight.reshape(n_out, n_in // OF, OF)
    sizes = groups.abs().movedim(-1, 0).contiguous()  # to compare columns is five times as fast as to sort fours
    larger = [
        sum((other >= own if j < i else other > own).to(torch.int8) for j, other in enumerate(sizes) if j != i)
        for i, own in enumerate(sizes)
    ]
    return (groups * (torch.stack(larger, -1) < KEPT)).reshape(n_out, n_in)


def prune_model(model: Transformer, parts: Iterable[str] = ("attn", "ffn")) -> Transformer:
    """A copy of the model in which the matrices of all blocks whose names begin with one of `parts` are pruned.

    Table of tokens, head and norms stay as they are, as NVIDIA's recipe leaves them.

    Raises:
        CannotPrune: as `two_in_four`; the message names the matrix.
    """
    pruned, begins = copy.deepcopy(model), tuple(parts)
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.Linear) and name.startswith("blk.") and name.split(".")[2].startswith(begins):
            try:
                layer.weight.data.copy_(two_in_four(layer.weight.data))
            except CannotPrune as error:
                raise CannotPrune(f"{name}: {error}") from None
    return pruned
