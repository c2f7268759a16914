"""Parameters of which every rank owns a piece: gathered when they are needed, and their gradients added up by piece."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Unit:
    """Parameters that travel together, such as those of a block.

    Each lies in a row of n pieces of one length, the last one filled up with zeros; rank r owns piece r of each. What
    is sent is a table with a row for every rank.

    Attributes:
        parameters: the model's own.
        pieces: this rank's, one of each; the optimizer's parameters. They are parts of `parameters` in memory, or,
            where `divided`, all that stays of them.
        waiting: parameters without a gradient of this pass.
        here, kept: whether all pieces are in place; whether they stay after the block has computed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], divided: bool, group: dist.ProcessGroup | None = None):
        self.parameters, self.divided, self.group = list(parameters), divided, group
        self.n_ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        self.shapes = [p.shape for p in self.parameters]
        self.rooms = [self._in_rows(p.detach()) for p in self.parameters]
        self.lengths = [room.shape[1] for room in self.rooms]
        self.pieces = [nn.Parameter(room[rank].clone() if divided else room[rank]) for room in self.rooms]
        self.waiting, self.here, self.kept, self.sent = set(self.parameters), True, False, None
        self._point_to_rooms()
        if divided:
            self.drop()

    def gather(self) -> None:
        """All pieces of all ranks in their places: ``(n - 1) / n`` of the parameters come over the wire."""
        if self.here:
            return
        own = torch.cat([piece.detach() for piece in self.pieces])
        rows = own.new_empty(self.n_ranks, len(own))
        dist.all_gather_single(rows, own[None], group=self.group)
        for room, part in zip(self.rooms, rows.split(self.lengths, dim=1), strict=True):
            room.untyped_storage().resize_(room.nbytes)
            room.copy_(part)  # not through the parameter: to autograd, these are the numbers it has always seen
        self._point_to_rooms()
        self.here = True

    def drop(self) -> None:
        """Others may change their pieces from now on. Where parameters are divided: let go of all but the own pieces.

        To read a parameter then is an error. The memory is given back, but its name is kept: what autograd has saved
        of it, it finds again when the pieces have been gathered for the backward pass.
        """
        self.here = self.kept = False
        if self.divided:
            for p, room in zip(self.parameters, self.rooms, strict=True):
                room.untyped_storage().resize_(0)
                p.data = room.new_empty(0)

    def reduce(self) -> None:
        """Begin to add up the gradients of all ranks, each piece at its owner; a missing one counts as zero.

        Each rank sends every other the row that is its own, and adds up what it gets: ``(n - 1) / n`` of the gradients
        go over the wire. Behind them go ones and zeros that say which there are. (NCCL has the two as one,
        ``reduce_scatter_single``; gloo makes it of an all-reduce, which sends twice as much.)
        """
        like = self.pieces[0]
        there = like.new_tensor([p.grad is not None for p in self.parameters]).expand(self.n_ranks, -1)
        gradients = [
            like.new_zeros(self.n_ranks, length) if p.grad is None else self._in_rows(p.grad)
            for p, length in zip(self.parameters, self.lengths, strict=True)
        ]
        rows = torch.cat([*gradients, there], dim=1)
        received = torch.empty_like(rows)
        for p in self.parameters:
            p.grad = None
        self.sent = received, rows, dist.all_to_all_single(received, rows, group=self.group, async_op=True)
        self.waiting = set(self.parameters)

    def settle(self) -> None:
        """Wait for the sum, and add it to the pieces' gradients."""
        received, _, work = self.sent
        work.wait()
        *parts, there = received.sum(dim=0).split([*self.lengths, len(self.pieces)])
        for piece, part, somewhere in zip(self.pieces, parts, there.tolist(), strict=True):
            if somewhere:
                piece.grad = part.clone() if piece.grad is None else piece.grad.add_(part)
        self.sent = None

    def _in_rows(self, x: Tensor) -> Tensor:
        length = -(-x.numel() // self.n_ranks)
        return F.pad(x.flatten(), (0, self.n_ranks * length - x.numel())).view(self.n_ranks, length)

    def _point_to_rooms(self) -> None:
        for p, room, shape in zip(self.parameters, self.rooms, self.shapes, strict=True):
            p.data = room.flatten()[: shape.numel()].view(shape)


def storage_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of memory behind tensors, counted once where they share it."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors) if s.nbytes()}.values())
