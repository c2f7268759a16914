"""LoRA: a frozen matrix, and beside it the product of two thin ones, which is all that is trained.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685), section 4.1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..specs.figures import look_up
from ..specs.settings import OneLine


class BadAdapter(OneLine, ValueError):
    """An adapter that cannot be: the message says why, and what to do."""


class LoRALinear(nn.Module):
    """A linear layer with an adapter: ``y = x W^T + alpha / rank * (x A^T) B^T``.

    `B` begins as zeros, so that at first nothing is changed, to the bit. `A` is drawn as a new linear layer's weights
    are (after ``torch.manual_seed``). Both are fp32, whatever the layer is, since small steps must add up.

    Args:
        base: the layer; it is frozen.
        rank: rows of A ``[rank, n_in]`` and columns of B ``[n_out, rank]``.
        alpha: the adapter's weight, times `rank`: with it in place, a rank can be changed without a new learning rate.

    Attributes:
        scale: ``alpha / rank``.
        merged: whether the adapter is in the base's weights already.

    Raises:
        BadAdapter: the rank is below 1, or larger than a side of the matrix.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        check_rank(rank, base)
        device = base.weight.device
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        self.scale, self.merged = alpha / rank, False
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """The layer's output, changed by the adapter."""
        y = self.base(x)
        if self.merged:
            return y
        thin = F.linear(x, self.A.to(x.dtype)) * self.scale
        return y.add_(F.linear(thin, self.B.to(x.dtype)))  # in place: nothing else holds this y

    def change(self) -> Float[Tensor, "n_out n_in"]:
        """What the adapter adds to the weights, in fp32."""
        return self.scale * (self.B.detach() @ self.A.detach())

    def merge(self, sign: int = 1) -> None:
        """Add the change to the base's weights, or with -1 take it away again; both round to the weights' format."""
        weight = self.base.weight
        weight.data.copy_(weight.float() + sign * self.change())
        self.merged = sign > 0


def check_rank(rank: int, layer: nn.Linear, name: str = "the layer") -> None:
    """Refuse a rank that no adapter of `layer` can have.

    Raises:
        BadAdapter: it is below 1, or larger than a side of the matrix.
    """
    most = min(layer.weight.shape)
    if not 1 <= rank <= most:
        shape = " x ".join(map(str, layer.weight.shape))
        raise BadAdapter(f"a rank of {rank} does not fit {name}, {shape}: choose 1 to {most}")


def add_lora(
    model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = ("attn_q", "attn_v")
) -> dict[str, LoRALinear]:
    """Freeze `model`, and give an adapter to each linear layer whose name ends in one of `targets`; returns them.

    Raises:
        BadAdapter: the rank does not fit one of them, or there are adapters already.
        UnknownName: there is no such layer; the message names the nearest.
        Nothing is changed then.
    """
    if adapters(model):
        raise BadAdapter("the model has adapters already: take them off first, with remove_lora(model)")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    kinds = {kind: kind for kind in (name.rpartition(".")[2] for name in layers)}
    wanted = {look_up(target, kinds, "linear layer") for target in targets}
    chosen = {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in wanted}
    for name, layer in chosen.items():
        check_rank(rank, layer, name)
    model.requires_grad_(False)
    for name, layer in chosen.items():
        _put(model, name, LoRALinear(layer, rank, alpha))
    return adapters(model)


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers of `model` that have one, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def merge(model: nn.Module) -> None:
    """Put every adapter into its weights: from here on the model is as fast as it was without any."""
    for layer in adapters(model).values():
        if not layer.merged:
            layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take every adapter out of the weights again; these are then what they were, but for rounding."""
    for layer in adapters(model).values():
        if layer.merged:
            layer.merge(-1)


def remove_lora(model: nn.Module) -> None:
    """Leave plain linear layers behind: the old ones to the bit, or with what was merged into them."""
    for name, layer in adapters(model).items():
        _put(model, name, layer.base)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
