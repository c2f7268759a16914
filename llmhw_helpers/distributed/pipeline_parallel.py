"""Pipeline parallelism: each rank has some of the layers, and sends what they make of a micro-batch to the next rank.

A stage is another, smaller `Transformer`: ``costs.parallelism.part`` of the model. Forwards it receives the residual
stream from the stage before it, backwards the stream's gradient from the stage behind. In which order a rank takes up
the micro-batches is a schedule, which is data (`costs.schedules`): one loop runs them all.

The gradients are those of the whole model on the whole batch: the loss is a mean over all of the batch's tokens,
however they are spread over the micro-batches. Where embedding and head are the same matrix, first and last stage have
a copy each, whose gradient is the sum of both.
"""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from ..costs.parallelism import layers_by_stage, part
from ..costs.pipelines import Event, simulate
from ..costs.schedules import BACKWARD, FORWARD, Schedule, Work, needs
from ..llm.transformer import Transformer
from ..measure.memory import Kept

IGNORED = -100  # a target that does not count, as in PyTorch's cross_entropy


class Stage(Transformer):
    """Some layers of `model`, with copies of their weights; the first stage embeds, the last one has norm and head.

    Raises:
        Indivisible: more stages than layers.

    >>> from llmhw_helpers.specs.models import model as find_model
    >>> with torch.device("meta"):  # shapes alone
    ...     whole = Transformer(find_model("SmolLM2-135M"))
    >>> last = Stage(whole, n_stages=4, stage=3)
    >>> len(last.blk), last.whole_name("blk.0.attn_q.weight"), last.whole_name("token_embd.weight")
    (7, 'blk.23.attn_q.weight', 'token_embd.weight')
    """

    def __init__(self, model: Transformer, n_stages: int, stage: int):
        with torch.device("meta"):  # neither memory nor random numbers: the weights are copied below
            super().__init__(part(model.spec, pp_size=n_stages, stage=stage))
        self.first, self.last = stage == 0, stage == n_stages - 1
        self.n_layers_before = sum(layers_by_stage(model.spec.n_layers, n_stages)[:stage])
        self.frequencies = model.frequencies
        if not self.last:
            self.output_norm = None
        if not self.first and not self.last:
            self.token_embd = None
        self.head_name = "token_embd.weight" if model.output is None else "output.weight"
        weights = dict(model.named_parameters())
        copies = {name: weights[self.whole_name(name)].detach().clone() for name, _ in self.named_parameters()}
        self.load_state_dict(copies, assign=True)

    def whole_name(self, name: str) -> str:
        """What the parameter `name` of this stage is called in the whole model."""
        if name.startswith("blk."):
            _, layer, rest = name.split(".", 2)
            return f"blk.{int(layer) + self.n_layers_before}.{rest}"
        return name if self.first else name.replace("token_embd.weight", self.head_name)

    def forward(self, x: Tensor) -> Tensor:
        """From tokens, or the stream in front of these layers, to the stream behind them, or logits."""
        x = self.embed(x) if self.first else x
        rotation = self.rotation(x)
        for block in self.blk:
            x = block(x, rotation)
        return self.head(self.output_norm(x)) if self.last else x


@dataclass(frozen=True)
class Step:
    """What a rank has seen of a training step.

    Attributes:
        loss: in nats a token, the mean over the batch; None but on the rank of the last stage.
        events: of this rank, in seconds from rank 0's start on. One clock, if all ranks are on one machine.
        held_bytes: the most bytes of activations at once: what autograd has saved, and each stage's result.
        sent_bytes: to other ranks: streams, their gradients, and that of a tied embedding.
    """

    loss: float | None
    events: list[Event]
    held_bytes: int
    sent_bytes: int


class Pipeline(nn.Module):
    """This rank's stages of a model, trained by a schedule; its parameters are those of the stages.

    Args:
        model: the whole one, on the CPU, with equal weights on all ranks. The stages copy theirs from it.
        schedule: of every rank: chunk `c` of rank `r` is stage ``c * pp_size + r``.
        device_s: seconds that a forward and a backward pass of a stage last at least. The stage computes, and then
            *sleeps* until they are over, as a CPU waits for the GPU that it drives. So a machine with few cores shows
            the schedule of many devices; with (0, 0), as it is without, the times are those of this machine.

    Raises:
        WrongSchedule: work that is missing, doubled or too early, or ranks that would wait for one another for ever.
        ValueError: a schedule for another number of ranks.
        Indivisible: more stages than layers.
    """

    def __init__(self, model: Transformer, schedule: Schedule, device_s: tuple[float, float] = (0.0, 0.0)):
        super().__init__()
        simulate(schedule)  # refused here, by every rank, instead of hanging later
        if len(schedule) != dist.get_world_size():
            raise ValueError(f"a schedule for {len(schedule)} ranks, and {dist.get_world_size()} run it")
        self.rank, self.pp_size, self.works = dist.get_rank(), len(schedule), schedule[dist.get_rank()]
        self.n_micro_batches, self.n_chunks = (1 + max(work[field] for work in self.works) for field in (1, 2))
        n_stages = self.pp_size * self.n_chunks
        self.stages = nn.ModuleList(
            Stage(model, n_stages, chunk * self.pp_size + self.rank) for chunk in range(self.n_chunks)
        )
        self.d_model, self.tied = model.spec.d_model, model.output is None and n_stages > 1
        self.device_s = dict(zip((FORWARD, BACKWARD), device_s, strict=True))

    def step(self, tokens: Int[Tensor, "batch seq_len"], targets: Int[Tensor, "batch seq_len"]) -> Step:
        """Forward and backward pass of a batch, the same on all ranks; each parameter's ``grad`` is there afterwards.

        Gradients of earlier steps are let go: several micro-batches are what accumulates here.

        Args:
            tokens: which the first stage reads.
            targets: which the last one needs: at each position the next token, or `IGNORED`.

        Raises:
            ValueError: fewer sequences than micro-batches, or no target that counts.
        """
        if len(tokens) < self.n_micro_batches:
            raise ValueError(f"{len(tokens)} sequences do not make {self.n_micro_batches} micro-batches: give more")
        if not (targets != IGNORED).any():
            raise ValueError("no target counts: there is nothing to take a loss of")
        self.zero_grad()
        run = _Run(self, tokens, targets)
        run.expect(self.works[0])
        for work, following in zip(self.works, [*self.works[1:], None], strict=True):
            x = run.receive(work)
            run.expect(following)  # it comes in while this one is at work
            run.send(*run.do(work, x))
        run.finish_sending()
        if self.tied:
            run.sum_tied()
        loss = run.loss if self.stages[-1].last else None
        return Step(loss, run.events, run.most_held, run.sent_bytes)


class _Run:
    """One step of a pipeline on one rank. A message is named by the pass that made it: kind, micro-batch, stage."""

    def __init__(self, pipeline: Pipeline, tokens: Tensor, targets: Tensor):
        self.pipeline, self.rank, self.pp_size = pipeline, pipeline.rank, pipeline.pp_size
        self.tokens, self.targets = (each.tensor_split(pipeline.n_micro_batches) for each in (tokens, targets))
        self.n_targets = (targets != IGNORED).sum().item()
        self.inbox: dict[tuple, tuple[Tensor, dist.Work | None]] = {}
        self.sending: list[tuple[dist.Work, Tensor]] = []  # a tensor must stay until it has been sent
        self.held: dict[tuple[int, int], tuple[Tensor | None, Tensor, int]] = {}  # input, result and bytes of a pass
        self.events, self.loss, self.most_held, self.sent_bytes = [], 0.0, 0, 0
        dist.barrier()
        start = torch.tensor([time.perf_counter()], dtype=torch.float64)
        dist.broadcast(start, 0)
        self.start_s = start.item()

    def expect(self, work: Work | None) -> None:
        """Begin to receive what `work` needs, if another rank makes it."""
        name = self._input_name(work)
        if name and name[2] % self.pp_size != self.rank:
            weight = next(self.pipeline.parameters())
            x = torch.empty(*self.tokens[name[1]].shape, self.pipeline.d_model, dtype=weight.dtype)
            self.inbox[name] = x, dist.irecv(x, name[2] % self.pp_size, tag=self._tag(name))

    def receive(self, work: Work) -> Tensor | None:
        """What `work` needs, as soon as it has come; None where it begins with tokens or with the loss."""
        name = self._input_name(work)
        if name is None:
            return None
        x, receiving = self.inbox.pop(name)
        if receiving:
            receiving.wait()
        return x

    def do(self, work: Work, x: Tensor | None) -> tuple[tuple, Tensor | None, int]:
        """Forward or backward pass from `x`: the name of its result, the result, and the stage that it goes to."""
        start_s, stage = self._now(), work.chunk * self.pp_size + self.rank
        if work.kind == FORWARD:
            result, to = self._forward(work, x), stage + 1
        else:
            result, to = self._backward(work, x), stage - 1
        time.sleep(max(0.0, start_s + self.pipeline.device_s[work.kind] - self._now()))
        self.events.append(Event(self.rank, *work, start_s, self._now()))
        return (work.kind, work.micro_batch, stage), result, to

    def _forward(self, work: Work, x: Tensor | None) -> Tensor | None:
        stage, tokens = self.pipeline.stages[work.chunk], self.tokens[work.micro_batch]
        with Kept(stage.parameters()) as kept:
            y = stage(tokens if x is None else x.requires_grad_())
            if stage.last:
                targets = self.targets[work.micro_batch].flatten()
                y = F.cross_entropy(y.flatten(0, 1).float(), targets, reduction="sum", ignore_index=IGNORED)
                y = y / self.n_targets  # a mean over the whole batch, not over this micro-batch
        self.held[work.micro_batch, work.chunk] = x, y, kept.bytes + y.nbytes
        self.most_held = max(self.most_held, sum(n_bytes for *_, n_bytes in self.held.values()))
        self.loss += y.item() if stage.last else 0.0
        return None if stage.last else y.detach()

    def _backward(self, work: Work, slope: Tensor | None) -> Tensor | None:
        x, y, _ = self.held.pop((work.micro_batch, work.chunk))
        y.backward(slope)
        return None if x is None else x.grad

    def send(self, name: tuple, x: Tensor | None, stage: int) -> None:
        """Begin to send `x` to the rank of `stage`, and go on: both neighbours may be sending at the same time."""
        to = stage % self.pp_size
        if x is None:
            return
        if to == self.rank:
            self.inbox[name] = x, None
        else:
            self._isend(x, to, self._tag(name))

    def finish_sending(self) -> None:
        """Wait until all has been taken."""
        for sending, _ in self.sending:
            sending.wait()
        self.sending.clear()

    def sum_tied(self) -> None:
        """Embedding and head are one matrix in two copies: each adds the other's gradient to its own."""
        mine = [stage.token_embd.weight.grad for stage in self.pipeline.stages if stage.first or stage.last]
        if len(mine) == 2:  # both ends of the pipeline are here
            mine[0] += mine[1]
            mine[1].copy_(mine[0])
        elif mine:
            other, end = torch.empty_like(mine[0]), self.pp_size - 1 - self.rank
            receiving = dist.irecv(other, end)
            self._isend(mine[0], end)
            receiving.wait()
            self.finish_sending()
            mine[0] += other

    def _isend(self, x: Tensor, to: int, tag: int = 0) -> None:
        x = x.contiguous()
        self.sending.append((dist.isend(x, to, tag=tag), x))
        self.sent_bytes += x.nbytes

    def _input_name(self, work: Work | None) -> tuple | None:
        """What `work` begins with; None for tokens, and for the loss, which its own stage has."""
        name = work and needs(work, self.rank, self.pp_size, self.pipeline.n_chunks)
        return name if name and (name[0] == work.kind) else None

    def _tag(self, name: tuple) -> int:
        """A number for each message, by which two of one pair of ranks are told apart."""
        kind, micro_batch, stage = name
        return 2 * (stage * len(self.tokens) + micro_batch) + (kind == BACKWARD)

    def _now(self) -> float:
        return time.perf_counter() - self.start_s
