"""Attention over a text that lies spread over ranks: keys and values go round, and every rank sees them all once.

Ring Attention (arXiv:2310.01889): a rank keeps its queries, mixes the values that it holds at the moment, and meanwhile
sends them on to the next rank. What it got from each part of the text is put together by ``llm.flash.merge``. Under a
causal mask the first rank's queries may see one part and the last one's all, so the ranks wait for the last. In the
zigzag order (Llama 3 has it, arXiv:2407.21783, section 3.3.2) the text is cut into twice as many chunks, and a rank has
one from the front and one from the back: all then have the same to do.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from ..llm.flash import attention_with_lse, merge

Group = dist.ProcessGroup | None  # the ranks that share a text; None: all


class Uneven(ValueError):
    """A text that cannot be shared out evenly among the ranks."""


def chunks(rank: int, n_ranks: int, zigzag: bool = False) -> tuple[int, ...]:
    """The chunks of a text that a rank has, counted from the front: of `n_ranks` one, of twice as many two.

    >>> [chunks(rank, 4) for rank in range(4)], [chunks(rank, 4, zigzag=True) for rank in range(4)]
    ([(0,), (1,), (2,), (3,)], [(0, 7), (1, 6), (2, 5), (3, 4)])
    """
    return (rank, 2 * n_ranks - 1 - rank) if zigzag else (rank,)


def positions(seq_len: int, rank: int, n_ranks: int, zigzag: bool = False) -> Int[Tensor, " own_len"]:
    """Where a rank's tokens stand in the text; ``x[..., positions, :]`` is its part of a whole `x`.

    Raises:
        Uneven: the chunks would not be of one length.

    >>> positions(8, rank=0, n_ranks=2), positions(8, rank=0, n_ranks=2, zigzag=True)
    (tensor([0, 1, 2, 3]), tensor([0, 1, 6, 7]))
    """
    n_chunks = n_ranks * (2 if zigzag else 1)
    if seq_len % n_chunks or not seq_len:
        longer = (seq_len // n_chunks + 1) * n_chunks
        raise Uneven(
            f"{seq_len} tokens do not make {n_chunks} equal chunks: fill them up, behind the text, to {longer}"
        )
    size = seq_len // n_chunks
    return torch.cat([torch.arange(size) + chunk * size for chunk in chunks(rank, n_ranks, zigzag)])


def n_seen(seq_len: int, rank: int, n_ranks: int, zigzag: bool = False) -> int:
    """A rank's work: the keys that its queries see, itself included, over all of them.

    >>> [n_seen(8, rank, 2) for rank in range(2)], [n_seen(8, rank, 2, zigzag=True) for rank in range(2)]
    ([10, 26], [18, 18])
    """
    return int((positions(seq_len, rank, n_ranks, zigzag) + 1).sum())


def ring_attention(
    q: Float[Tensor, "batch n_heads own_len head_dim"],
    k: Float[Tensor, "batch n_kv_heads own_len head_dim"],
    v: Float[Tensor, "batch n_kv_heads own_len head_dim"],
    group: Group = None,
    zigzag: bool = False,
) -> Float[Tensor, "batch n_heads own_len head_dim"]:
    """Causal attention of this rank's queries over the whole text, of which each rank has the tokens at `positions`.

    Every rank sends its keys and values, and those of others, ``n_ranks - 1`` times. Differentiable: in the backward
    pass they go round once more, and their gradients with them.

    Raises:
        Uneven: the ranks' parts are of different shapes or types, or an odd number of tokens is to go zigzag.
        ValueError: as ``flash_attention`` does.
    """
    _check_alike(q, k, group, zigzag)
    if zigzag and q.shape[2] % 2:
        raise Uneven(f"zigzag, a rank has two chunks, and {q.shape[2]} tokens are not two equal ones")
    return _Ring.apply(q, torch.stack((k, v)), group, zigzag)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, kv, group, zigzag):
        own = kv
        out = torch.zeros_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
        lse = out.new_full(out.shape[:-1], -torch.inf)  # of no keys so far
        for source, last in _sources(group):
            on_its_way = None if last else _Sending(kv, group)  # while we compute
            for rows, columns, causal in _seen(q.shape[2], source, group, zigzag):
                part, part_lse = attention_with_lse(q[:, :, rows], *kv[:, :, :, columns], causal)
                merged = merge(out[:, :, rows], lse[:, :, rows], part.to(out.dtype), part_lse)
                out[:, :, rows], lse[:, :, rows] = merged
            kv = kv if last else on_its_way.received()
        ctx.save_for_backward(q, own, out, lse)
        ctx.how = group, zigzag
        return out.to(q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):
        q, kv, out, lse = ctx.saved_tensors
        group, zigzag = ctx.how
        dq, d_kv = torch.zeros_like(out), torch.zeros_like(kv, dtype=out.dtype)
        for source, last in _sources(group):
            on_its_way = None if last else _Sending(kv, group)
            for rows, columns, causal in _seen(q.shape[2], source, group, zigzag):
                with torch.enable_grad():
                    leaves = [each.detach().requires_grad_() for each in (q[:, :, rows], *kv[:, :, :, columns])]
                    part, part_lse = attention_with_lse(*leaves, causal)
                # The whole is a mean of the parts, weighted by exp(lse): so much of its slope comes here,
                d_part = (part_lse - lse[:, :, rows]).exp()[..., None] * d_out[:, :, rows]
                # and a part weighs more by how far it lies above the mean.
                d_lse = (d_part * (part - out[:, :, rows])).sum(-1)
                slopes = torch.autograd.grad((part, part_lse), leaves, (d_part.to(part.dtype), d_lse))
                dq[:, :, rows] += slopes[0]
                d_kv[:, :, :, columns] += torch.stack(slopes[1:])
            kv = kv if last else on_its_way.received()
            d_kv = _Sending(d_kv, group).received()  # follows its keys and values, and goes home after the last step
        return dq.to(q.dtype), d_kv.to(kv.dtype), None, None


class _Sending:
    """A tensor on its way to the next rank, and the one of the previous rank on its way here."""

    def __init__(self, x: Tensor, group: Group):
        rank, n_ranks = dist.get_rank(group), dist.get_world_size(group)
        self._sent = x.contiguous()  # must live until it is sent
        self._coming = torch.empty_like(self._sent)
        if n_ranks == 1:
            self._pending, self._coming = [], self._sent
            return
        self._pending = [
            dist.isend(self._sent, group=group, group_dst=(rank + 1) % n_ranks),
            dist.irecv(self._coming, group=group, group_src=(rank - 1) % n_ranks),
        ]

    def received(self) -> Tensor:
        """What came; waits until both are done."""
        for each in self._pending:
            each.wait()
        return self._coming


def _sources(group: Group) -> Iterator[tuple[int, bool]]:
    """The rank whose keys and values are here, step by step, and whether it is the last step."""
    rank, n_ranks = dist.get_rank(group), dist.get_world_size(group)
    for step in range(n_ranks):
        yield (rank - step) % n_ranks, step == n_ranks - 1


def _seen(own_len: int, source: int, group: Group, zigzag: bool) -> Iterator[tuple[slice, slice, bool]]:
    """Which of our queries see which of the keys of `source`: all of a chunk, or (True) those up to their own."""
    rank, n_ranks = dist.get_rank(group), dist.get_world_size(group)
    ours, theirs = chunks(rank, n_ranks, zigzag), chunks(source, n_ranks, zigzag)
    size = own_len // len(ours)
    for i, our in enumerate(ours):
        for j, their in enumerate(theirs):
            if their <= our:
                yield slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size), their == our


def _check_alike(q: Tensor, k: Tensor, group: Group, zigzag: bool) -> None:
    """A rank with a part of its own shape would fill the others' buffers in part, in silence: all tell theirs first."""
    own = torch.tensor([*q.shape, *k.shape, q.element_size(), zigzag], device=q.device)
    all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_of_them, own, group=group)
    for rank, other in enumerate(all_of_them):
        if not torch.equal(own, other):
            *shapes, size, order = other.tolist()
            theirs = f"{shapes[:4]} and {shapes[4:]} of {size} bytes a number, zigzag={bool(order)}"
            ours = f"{list(q.shape)} and {list(k.shape)} of {q.element_size()}, zigzag={zigzag}"
            raise Uneven(
                f"ring attention needs the same of all ranks: q and k here are {ours}, on rank {rank} {theirs}"
            )
