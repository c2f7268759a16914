"""Three ways to cut one matrix among ranks, and what each has to send, forward and backward.

A product ``x @ A`` can be cut by the columns of ``A``: each rank makes some of the outputs. By its rows: each reads
some of the inputs, and what they make are parts of a sum. By the batch: each has some of the tokens, and all of ``A``.
First columns, then rows, and nothing has to be sent in between: so Megatron-LM (arXiv:1909.08053, section 3) cuts an
MLP.

PyTorch stores the transpose of ``A``, ``[n_out, n_in]``: its columns are the rows of a weight.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..costs.parallelism import Indivisible

Group = dist.ProcessGroup | None  # the ranks that share a matrix; None: all


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return _summed(slope, ctx.group), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        return _summed(x, group)

    @staticmethod
    def backward(ctx, slope):
        return slope, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _gathered(x, -1, group)

    @staticmethod
    def backward(ctx, slope):
        return own_part(slope, -1, ctx.group), None


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _gathered(x, 1, group)

    @staticmethod
    def backward(ctx, slope):
        return _summed_part(slope, 1, ctx.group), None


class _SumTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _summed_part(x, 1, group)

    @staticmethod
    def backward(ctx, slope):
        return _gathered(slope, 1, ctx.group), None


def _summed(x: Tensor, group: Group) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


def _gathered(x: Tensor, dim: int, group: Group) -> Tensor:
    pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(pieces, x.contiguous(), group=group)
    return torch.cat(pieces, dim)


def _summed_part(x: Tensor, dim: int, group: Group) -> Tensor:
    """The rank's part of the sum: a reduce-scatter."""
    own = torch.empty_like(own_part(x, dim, group), memory_format=torch.contiguous_format)
    dist.reduce_scatter(own, [each.contiguous() for each in x.chunk(dist.get_world_size(group), dim)], group=group)
    return own


def copy_to_ranks(x: Tensor, group: Group = None) -> Tensor:
    """`x`, the same on every rank, where each goes on with its own part: forward nothing, backward a sum.

    Each rank learns how the loss depends on `x` by way of its own part only, and the slopes add up.
    """
    return _Copy.apply(x, group)


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """The sum of every rank's `x`: forward an all-reduce; backward nothing, as all ranks go on alike."""
    return _Sum.apply(x, group)


def gather_from_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Every rank's `x`, side by side along the last dimension: forward an all-gather, backward the rank's own part.

    As in `sum_over_ranks`, what follows must be the same on every rank.
    """
    return _Gather.apply(x, group)


def gather_tokens(x: Float[Tensor, "batch own_len width"], group: Group = None) -> Float[Tensor, "batch seq_len width"]:
    """All tokens, where each rank had some and goes on with its own heads: an all-gather; backward a reduce-scatter.

    With `sum_tokens` in the place of `copy_to_ranks` and `sum_over_ranks` a rank keeps only its own tokens in between:
    sequence parallelism (arXiv:2205.05198, section 4.2.2). It sends as many bytes, as an all-reduce is these two; but
    gloo's reduce-scatter is an all-reduce itself, and on it the bytes are half as many again with three ranks.
    """
    return _GatherTokens.apply(x, group)


def sum_tokens(x: Float[Tensor, "batch seq_len width"], group: Group = None) -> Float[Tensor, "batch own_len width"]:
    """The sum of every rank's `x`, of which each keeps its own tokens: a reduce-scatter; backward an all-gather.

    Raises:
        Indivisible: the tokens do not divide among the ranks.
    """
    return _SumTokens.apply(x, group)


def own_part(x: Tensor, dim: int, group: Group = None) -> Tensor:
    """This rank's part of the whole `x`, cut evenly along `dim`.

    Raises:
        Indivisible: it cannot be.
    """
    n_ranks = dist.get_world_size(group)
    if x.shape[dim] % n_ranks:
        raise Indivisible(f"{list(x.shape)} does not divide among {n_ranks} ranks along dimension {dim}")
    return x.chunk(n_ranks, dim)[dist.get_rank(group)]


def by_columns(
    x: Float[Tensor, "*batch n_in"], own: Float[Tensor, "own_out n_in"], group: Group = None
) -> Float[Tensor, "*batch own_out"]:
    """The rank's part of the outputs, from all of `x` and its own columns; `gather_from_ranks` would make it whole.

    Forward nothing is sent, backward the gradient of `x` is summed.
    """
    return F.linear(copy_to_ranks(x, group), own)


def by_rows(
    own_x: Float[Tensor, "*batch own_in"], own: Float[Tensor, "n_out own_in"], group: Group = None
) -> Float[Tensor, "*batch n_out"]:
    """All outputs, from the rank's part of the inputs (what `by_columns` leaves it with) and its own rows.

    Forward the outputs are summed, backward nothing is sent.
    """
    return sum_over_ranks(F.linear(own_x, own), group)


def by_batch(
    own_x: Float[Tensor, "*own_batch n_in"], weight: Float[Tensor, "n_out n_in"], group: Group = None
) -> Float[Tensor, "*own_batch n_out"]:
    """The outputs of the rank's own tokens, from all of the matrix: data parallelism.

    Forward nothing is sent, backward the gradient of the weight is summed.
    """
    return F.linear(own_x, copy_to_ranks(weight, group))
