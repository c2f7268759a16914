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
        pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
        dist.all_gather(pieces, x.contiguous(), group=group)
        return torch.cat(pieces, -1)

    @staticmethod
    def backward(ctx, slope):
        return own_part(slope, -1, ctx.group), None


def _summed(x: Tensor, group: Group) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


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


def own_part(x: Tensor, dim: int, group: Group = None) -> Tensor:
    """This rank's part of the whole `x`, cut evenly along `dim`.

    Raises:
        Indivisible: it cannot be.
    """
    n_ranks = dist.get_world_size(group)
    if x.shape[dim] % n_ranks:
        raise Indivisible(f"{x.shape[dim]} rows or columns do not divide among {n_ranks} ranks")
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
