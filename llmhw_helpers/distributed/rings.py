"""Collectives by hand from send and receive: the ranks stand in a ring, and each speaks only to its neighbours.

An all-reduce of B bytes: every rank cuts its tensor into n chunks and passes one chunk on in each of 2(n-1) steps.
The first n-1 steps add up (reduce-scatter): after them each rank holds one chunk of the whole sum. The other n-1 steps
hand the sums round (all-gather). Each rank sends 2(n-1)/n B, almost the same for two ranks as for a thousand, and none
sends more than another: no way of summing sends less. Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for
clusters of workstations" (2009).
"""

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def ring_all_reduce(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum of all ranks' `x`, in place on every rank: each sends 2(n-1)/n of its bytes.

    Every rank must hold the same shape. A size that n does not divide makes some chunks longer by one value.

    Raises:
        ValueError: `x` is not contiguous, so that its chunks would be copies.
    """
    chunks = _chunks(x)
    _reduce_scatter(chunks)
    _all_gather(chunks)
    return x


def ring_reduce_scatter(x: Float[Tensor, "..."]) -> Float[Tensor, " chunk"]:
    """This rank's chunk of the sum, number `rank` of n, flat; `x` is overwritten: each sends (n-1)/n of its bytes."""
    chunks = _chunks(x)
    _reduce_scatter(chunks)
    return chunks[dist.get_rank()]


def ring_all_gather(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Every rank's chunk on all ranks, in place: at first only chunk number `rank` of `x` needs to be right.

    Each rank sends (n-1)/n of the bytes of `x`.
    """
    _all_gather(_chunks(x))
    return x


def _chunks(x: Tensor) -> list[Tensor]:
    """Views of `x`, one for each rank."""
    if not x.is_contiguous():
        raise ValueError("the ring works in place on a contiguous tensor: pass x.contiguous()")
    return list(x.view(-1).tensor_split(dist.get_world_size()))


def _reduce_scatter(chunks: list[Tensor]) -> None:
    """Step by step, a chunk's partial sum wanders once round the ring; chunk r ends, whole, on rank r."""
    n, rank = len(chunks), dist.get_rank()
    for step in range(1, n):
        mine, other = chunks[(rank - step) % n], chunks[(rank - step - 1) % n]
        other += _exchange(mine, other.new_empty(other.shape))


def _all_gather(chunks: list[Tensor]) -> None:
    n, rank = len(chunks), dist.get_rank()
    for step in range(n - 1):
        _exchange(chunks[(rank - step) % n], chunks[(rank - step - 1) % n])


def _exchange(outgoing: Tensor, incoming: Tensor) -> Tensor:
    """Send to the next rank while receiving from the one before: all at once, or each would wait for another.

    What we expect is asked for first. Gloo tells the sender that it may begin; among two ranks that word would else
    have to wait behind our own data, on the one connection there is: no longer both ways at once, and twice the time.
    """
    n, rank = dist.get_world_size(), dist.get_rank()
    receiving = dist.irecv(incoming, (rank - 1) % n)
    sending = dist.isend(outgoing, (rank + 1) % n)
    receiving.wait()
    sending.wait()
    return incoming
