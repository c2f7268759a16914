"""The work of one rank of a twin: it learns, reads or answers, together with the others, one step after the other.

Texts are rows of numbers that go up by an even step, another row and step in each text, drawn by the number of the
batch alone: so a run that goes on where it stopped sees the texts that it would have seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from ..distributed.cuts import gather_from_ranks
from ..distributed.data_parallel import DataParallel
from ..distributed.tensor_parallel import TensorParallel
from ..distributed.zero import Zero
from ..llm.lora import add_lora
from ..llm.optimizers import Optimizer
from ..llm.training import next_token_loss
from ..llm.transformer import Transformer, causal_attention
from ..serving.kv_cache import KVCache
from .predictions import ALL_LINEAR, RANK
from .twin import Twin

LR = 1e-3
ALPHA = 16.0


@dataclass(frozen=True)
class Seat:
    """Where this rank sits: ranks of one copy stand side by side, and in it those that share a layer.

    Attributes:
        copy, stage: numbers of the copy of the model, and of its stage, that the rank works for.
        sharing: ranks that divide the same layers.
        alike: ranks with the same part of the model, one of each copy.
        team: all ranks of the copy.
        before, after: the rank that sends to this one, and the one that it sends to.
        last: the first rank of the copy's last stage, which has the logits.
    """

    copy: int
    stage: int
    sharing: dist.ProcessGroup
    alike: dist.ProcessGroup
    team: dist.ProcessGroup
    before: int
    after: int
    last: int

    @classmethod
    def of(cls, twin: Twin) -> "Seat":
        """This rank's; all ranks ask together."""
        rank, n, tp = dist.get_rank(), twin.n_ranks, twin.tp_size
        team_size = tp * twin.pp_size
        stages = [list(range(i, i + tp)) for i in range(0, n, tp)]
        teams = [list(range(i, i + team_size)) for i in range(0, n, team_size)]
        columns = [list(range(i, n, team_size)) for i in range(team_size)]
        own = [_own_group(lists) for lists in (stages, columns, teams)]
        copy, place = divmod(rank, team_size)
        last = copy * team_size + team_size - tp
        return cls(copy, place // tp, *own, rank - tp, rank + tp, last)


def _own_group(lists: list[list[int]]) -> dist.ProcessGroup:
    """Of groups that together are all ranks, this rank's; every rank makes every group, in the same order."""
    groups = [dist.new_group(ranks) for ranks in lists]
    return next(group for group, ranks in zip(groups, lists, strict=True) if dist.get_rank() in ranks)


def batch_of(twin: Twin, i: int, copy: int) -> Int[Tensor, "batch_size seq_len_and_one"]:
    """Texts of step `i` for a copy of the model, each with the token that comes after it."""
    generator = torch.Generator().manual_seed(1_000_003 * i + copy)
    first = torch.randint(twin.model.vocab_size, (twin.batch_size, 1), generator=generator)
    rise = torch.randint(1, 8, (twin.batch_size, 1), generator=generator)
    return (first + rise * torch.arange(twin.seq_len + 1)) % twin.model.vocab_size


class Learning:
    """Steps of AdamW over the texts of all copies."""

    def __init__(self, twin: Twin, seat: Seat):
        self.twin, self.seat = twin, seat
        torch.manual_seed(0)
        model: nn.Module = Transformer(twin.model)
        if twin.method == "lora":
            add_lora(model, RANK, ALPHA, ALL_LINEAR)
        blocks, self.loss = model.blk if isinstance(model, Transformer) else None, next_token_loss
        if twin.tp_size > 1:
            model = TensorParallel(model, seat.sharing)
            blocks, self.loss = model.part.blk, _divided_loss
        self.model = model
        if twin.zero:
            self.parallel = Zero(model, twin.zero, self._optimizer, blocks, seat.alike)
        else:
            self.parallel = DataParallel(model, group=seat.alike)
            self._optimizer([p for p in model.parameters() if p.requires_grad])

    def _optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """AdamW, whose states are there from the beginning: so a checkpoint can be loaded before the first step."""
        self.optimizer = Optimizer("AdamW", parameters, LR)
        for p, state in zip(self.optimizer.parameters, self.optimizer.states, strict=True):
            state |= {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p), "step": 0}
        return self.optimizer

    def step(self, i: int) -> float:
        """One step of the optimizer; the loss before it."""
        loss = self.parallel.backward([batch_of(self.twin, i, self.seat.copy)], self.loss)
        if self.twin.zero:
            self.parallel.step()
        else:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss

    def state(self) -> dict:
        """All that the rest of the run hangs on, as `Checkpoints` takes it; loading fills it in place.

        What only this rank has is its row of a table with a row for each rank.
        """
        own = self.twin.zero or self.twin.tp_size > 1
        kept = _row if own else lambda tensor: tensor
        pairs = enumerate(zip(self.optimizer.parameters, self.optimizer.states, strict=True))
        return {
            f"{i}": {"parameter": kept(p.detach()), **{key: kept(state[key]) for key in ("exp_avg", "exp_avg_sq")}}
            for i, (p, state) in pairs
        }

    def loaded(self, step: int) -> None:
        """After `state` was filled from the checkpoint of `step`."""
        for state in self.optimizer.states:
            state["step"] = step
        if self.twin.zero in (1, 2):
            for unit in self.parallel.units:  # others' pieces have changed, too
                unit.drop()
                unit.gather()


def _row(tensor: Tensor) -> DTensor:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return DTensor.from_local(tensor[None], mesh, [Shard(0)])


def _divided_loss(model: TensorParallel, batch: Tensor) -> Tensor:
    return model.loss(batch[:, :-1], batch[:, 1:])


class Stages:
    """A copy of the model in stages, each divided among ranks: a text goes through all of them in turn."""

    def __init__(self, twin: Twin, seat: Seat):
        self.twin, self.seat = twin, seat
        torch.manual_seed(0)
        self.model = TensorParallel(Transformer(twin.model), seat.sharing)
        part, n = self.model.part, twin.model.n_layers
        first, end = (n * stage // twin.pp_size for stage in (seat.stage, seat.stage + 1))
        part.blk = nn.ModuleList(list(part.blk)[first:end])
        self.spec = replace(part.spec, n_layers=end - first)
        self.is_last = seat.stage == twin.pp_size - 1
        if not self.is_last:
            part.output = None
        if seat.stage > 0 and part.output is not None:
            part.token_embd = None

    def hidden(self, tokens: Int[Tensor, "batch seq_len"], positions=None, attend: Callable | None = None) -> Tensor:
        """What the own stage makes of the stream that comes, sent on; after the last stage's norm, what is read out."""
        part, seat = self.model.part, self.seat
        if seat.stage == 0:
            x = self.model.embed(tokens)
        else:
            x = torch.empty(*tokens.shape, self.spec.d_model)
            dist.recv(x, seat.before)
        positions = torch.arange(tokens.shape[1]) if positions is None else positions
        rotation = part.rotation(x, positions)
        for layer, block in enumerate(part.blk):
            x = block(x, rotation, partial(attend, layer) if attend else causal_attention)
        if self.is_last:
            return part.output_norm(x)
        dist.send(x.contiguous(), seat.after)
        return x

    def logits(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab_size"]:
        """Of the last stage's stream."""
        part = self.model.part
        head = part.token_embd if part.output is None else part.output
        return gather_from_ranks(F.linear(x, head.weight), self.seat.sharing)[..., : self.twin.model.vocab_size]

    def told(self, found: Tensor) -> Tensor:
        """What the last stage has found, on every rank of the copy."""
        dist.broadcast(found, self.seat.last, group=self.seat.team)
        return found

    def state(self) -> dict:
        """Nothing that changes."""
        return {}

    def loaded(self, step: int) -> None:
        """Nothing to do."""


class Reading(Stages):
    """The loss of documents, without learning."""

    @torch.no_grad()
    def step(self, i: int) -> float:
        """A batch of documents for every copy; the mean loss of all."""
        batch = batch_of(self.twin, i, self.seat.copy)
        x, loss = self.hidden(batch[:, :-1]), torch.zeros(())
        if self.is_last:
            loss = F.cross_entropy(self.logits(x).flatten(0, 1), batch[:, 1:].flatten())
        total = self.told(loss)
        dist.all_reduce(total, group=self.seat.alike)
        return total.item() / self.twin.dp_size


class Answering(Stages):
    """Rounds of questions: all prompts are read at once, and answered with the likeliest tokens."""

    @torch.no_grad()
    def step(self, i: int) -> float:
        """One round; the sum of all tokens, by which runs are compared."""
        twin = self.twin
        tokens = batch_of(twin, i, self.seat.copy)[:, :-1]
        cache, total = KVCache(self.spec, twin.batch_size, twin.seq_len + twin.answer), 0
        for _ in range(twin.answer):
            window = cache.window(tokens.shape[1])
            x = self.hidden(tokens, window.positions, window.attend)
            cache.advance(tokens.shape[1])
            tokens = torch.zeros(twin.batch_size, 1, dtype=torch.long)
            if self.is_last:
                tokens = self.logits(x[:, -1]).argmax(-1, keepdim=True)
            total += int(self.told(tokens).sum())
        return float(total)


WORK: dict[str, type] = {"fine-tune": Learning, "evaluate": Reading, "serve": Answering}
