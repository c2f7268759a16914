"""ZeRO: data-parallel ranks hold the same numbers, so each keeps its share and borrows the rest (arXiv:1910.02054).

Of every parameter each of n ranks owns one piece in n, and only its owner updates it: that piece alone needs the
optimizer's states. A rank that updates a piece needs the sum of all ranks' gradients of that piece and of no other (a
reduce-scatter); and before a layer computes, its pieces have to come together (an all-gather). The stages:

1. The optimizer's states are divided. Gradients are added up once, at the step; then the new pieces are gathered.
2. So are the gradients: a block's are added up as soon as they are made, and all but the own piece are dropped.
3. So are the parameters: a block's are gathered before it computes, forward and backward, and dropped after it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..llm.optimizers import NonFiniteGradient
from ..llm.training import n_labelled, next_token_loss
from .data_parallel import labels_of_all, over_ranks, start_equal
from .units import Unit, storage_bytes


class Zero:
    """A model in training whose states, gradients or parameters are divided among the ranks.

    The ranks start with rank 0's parameters, and go on as one process would with the micro-batches of all of them.
    Every rank goes through the same blocks.

    Args:
        model: of the same shape on every rank; all of it is trained.
        stage: 1, 2 or 3, as above.
        optimizer: makes one for the pieces, which come in the order of ``model.parameters()``, such as
            ``lambda pieces: torch.optim.AdamW(pieces, lr=1e-3)``. It has to treat each number by itself.
        blocks: modules that are gathered one after the other; without, ``model.blk``. What is in none of them (at the
            ends of the model) is gathered at stage 3 for the time of `backward`.
        group: the ranks that share; all without.

    Raises:
        ModelsDiffer: as `start_equal`.
        ValueError: another stage, or a frozen parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: int,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        blocks: Sequence[nn.Module] | None = None,
        group: dist.ProcessGroup | None = None,
    ):
        if stage not in (1, 2, 3):
            raise ValueError(f"ZeRO has the stages 1, 2 and 3, not {stage}; DataParallel divides nothing")
        if frozen := [name for name, p in model.named_parameters() if not p.requires_grad]:
            raise ValueError(f"{frozen[0]} is frozen, and Zero divides what is trained: take DataParallel")
        start_equal(model, group)
        self.model, self.stage, self.group = model, stage, group
        blocks = list(model.blk if blocks is None else blocks)
        inside = {p for block in blocks for p in block.parameters()}
        around = [p for p in model.parameters() if p not in inside]
        if stage > 1:
            for p in model.parameters():
                p.register_post_accumulate_grad_hook(self._ready)
        self.blocks = [Unit(list(block.parameters()), stage == 3, group) for block in blocks]
        self.around = [Unit(around, stage == 3, group)] if around else []
        self.units = [*reversed(self.blocks), *self.around]  # as the backward pass is done with them
        self._n_sent = 0
        self._unit_of = {p: unit for unit in self.units for p in unit.parameters}
        of = {p: piece for unit in self.units for p, piece in zip(unit.parameters, unit.pieces, strict=True)}
        self.pieces = [of[p] for p in model.parameters()]
        self.optimizer = optimizer(self.pieces)
        if stage == 3:
            for block, unit in zip(blocks, self.blocks, strict=True):
                self._borrow_for(block, unit)

    def backward(
        self,
        micro_batches: Sequence[Tensor],
        loss: Callable[[nn.Module, Tensor], Tensor] = next_token_loss,
        count: Callable[[Tensor], int] = n_labelled,
    ) -> float:
        """As `DataParallel.backward`: the gradients of one step over the micro-batches of all ranks, and their loss.

        At stage 1 every rank has those of its own micro-batches until `step` adds them up; from stage 2 on its share
        of the sum.
        """
        counted = [(batch, n) for batch in micro_batches if (n := count(batch))]
        n_all = labels_of_all(sum(n for _, n in counted), self._device, self.group)
        n_passes = int(over_ranks(len(counted), self._device, self.group, dist.ReduceOp.MAX))
        total = 0.0
        with self.lent(self.around):
            for i in range(n_passes):
                if i < len(counted):
                    batch, n = counted[i]
                    mean = loss(self.model, batch)
                    (mean * (n / n_all)).backward()
                    total += n * mean.item()
                else:
                    self._pass_on()
                if self.stage > 1:
                    self._settle()
        return over_ranks(total, self._device, self.group) / n_all

    def step(self, max_norm: float | None = None) -> float:
        """Update the own pieces, and at stages 1 and 2 gather everybody's; gradients are gone after it.

        Args:
            max_norm: cut the gradients of all ranks, together, to this length.

        Returns:
            The length that they had.

        Raises:
            NonFiniteGradient: on every rank, before anything is changed.
        """
        if self.stage == 1:
            self._settle()
        gradients = [piece.grad for piece in self.pieces if piece.grad is not None]
        squares = sum(float(torch.linalg.vector_norm(g, dtype=torch.float64)) ** 2 for g in gradients)
        norm = over_ranks(squares, self._device, self.group) ** 0.5
        if not math.isfinite(norm):
            raise NonFiniteGradient(f"the gradients of all ranks have a length of {norm}; no step was taken")
        if max_norm is not None:
            for g in gradients:
                g.mul_(min(1.0, max_norm / (norm + 1e-6)))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.stage < 3:
            for unit in self.units:
                unit.drop()
                unit.gather()
        return norm

    @contextmanager
    def lent(self, units: Sequence[Unit] | None = None) -> Iterator[nn.Module]:
        """The model with the parameters of these units in place, or of all: to evaluate it, or to save it."""
        units = [unit for unit in (self.units if units is None else units) if not unit.here]
        for unit in units:
            unit.gather()
            unit.kept = True
        try:
            yield self.model
        finally:
            for unit in units:
                unit.drop()

    def held(self) -> dict[str, int]:
        """Bytes that this rank holds now, by what they are for: ``weights``, ``gradients`` and ``optimizer``."""
        parameters = [*self.model.parameters(), *self.pieces]
        rooms = [room for unit in self.units for room in unit.rooms]
        states = [x for state in self.optimizer.state.values() for x in state.values() if torch.is_tensor(x)]
        return {
            "weights": storage_bytes([*parameters, *rooms]),
            "gradients": storage_bytes([p.grad for p in parameters if p.grad is not None]),
            "optimizer": storage_bytes(states),
        }

    def _borrow_for(self, block: nn.Module, unit: Unit) -> None:
        """Stage 3: gather a block's parameters when it is about to compute, and drop them when it is done.

        Backward it is done when its gradients are there: `_reduce` drops them. Where a block computes forward again
        within its backward pass (recomputation), it finds them, and leaves them.
        """

        def after(*_):
            if not unit.kept:
                unit.drop()

        def before_backward(*_):
            while self.units[self._n_sent] is not unit:  # on every rank in one order, whatever gradients it has
                self._reduce()
            unit.gather()
            unit.kept = True

        block.register_forward_pre_hook(lambda *_: unit.gather())
        block.register_forward_hook(after)
        block.register_full_backward_pre_hook(before_backward)

    def _ready(self, p: nn.Parameter) -> None:
        """A gradient is complete. Units go in one order on all ranks."""
        waiting = self._unit_of[p].waiting
        if p not in waiting:
            raise RuntimeError("the backward pass before this one was interrupted: start the ranks again")
        waiting.remove(p)
        while self._n_sent < len(self.units) and not self.units[self._n_sent].waiting:
            self._reduce()

    def _reduce(self) -> None:
        """Begin with the next unit's gradients, when those of the unit before are added up: one sum is on its way."""
        if self._n_sent:
            self.units[self._n_sent - 1].settle()
        unit = self.units[self._n_sent]
        unit.reduce()
        if unit in self.blocks:
            unit.drop()
        self._n_sent += 1

    def _settle(self) -> None:
        while self._n_sent < len(self.units):
            self._reduce()
        self.units[-1].settle()
        self._n_sent = 0

    def _pass_on(self) -> None:
        """A pass of the others, for which this rank has nothing to compute: its pieces are asked for all the same."""
        if self.stage == 3:
            for unit in self.blocks:
                unit.gather()
                unit.drop()
            for unit in reversed(self.blocks):
                unit.gather()
                self._reduce()

    @property
    def _device(self) -> torch.device:
        return self.pieces[0].device
