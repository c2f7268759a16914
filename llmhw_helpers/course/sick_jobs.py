"""A small training job of several ranks that can be made sick on purpose: what `sick_runs` watches.

Each rank computes gradients of its own batches, all are added up, and every rank takes the same step. A sickness is one
change to that loop, the one that its name says. How strong it is goes by the healthy step of the same machine.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from ..files import NotSaved, write_whole
from ..llm.corpora import ahead
from ..llm.markov import MarkovSource
from ..llm.transformer import Transformer
from ..specs.architectures import Model
from ..specs.models import model

SAVE_EVERY = 8  # steps
SEQUENCES = 512  # that batches are drawn from
LEAST_STEPS = 2 * SAVE_EVERY  # however slow the machine is
FULL_AT_BYTES = 4096  # less than a checkpoint
Mark = tuple[float, str]


@dataclass(frozen=True)
class SickJob:
    """What is trained, and how strong its sickness is, all drawn by seed.

    Attributes:
        spec: the model's shape.
        batch_size: sequences of each rank and step.
        seq_len: tokens of each.
        strength: 1.5 to 3: how many healthy steps are lost each time that the sickness costs time.
        slow_rank: the one that a straggler is.
        seed: of weights and batches.
    """

    spec: Model
    batch_size: int
    strength: float
    slow_rank: int
    seed: int
    seq_len: int = 64

    @classmethod
    def drawn(cls, seed: int, n_ranks: int) -> "SickJob":
        """The job of that seed: of one or two layers, and 8 to 16 sequences.

        >>> SickJob.drawn(0, n_ranks=2) == SickJob.drawn(0, n_ranks=2) != SickJob.drawn(1, n_ranks=2)
        True
        """
        rng = np.random.default_rng(seed)
        spec = replace(
            model("SmolLM2-135M"),
            **{"n_layers": int(rng.integers(1, 3)), "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16},
            **{"d_ff": 160, "vocab_size": 256, "context_length": 64},
        )
        return cls(spec, int(rng.integers(8, 17)), float(rng.uniform(1.5, 3)), int(rng.integers(n_ranks)), seed)

    def rows(self, kind: str) -> int:
        """Sequences of each rank in a step, which one of the kinds changes."""
        return 1 if kind == "small batch" else self.batch_size


def train(job: SickJob, kind: str, seconds: float, path: Path, step_s: float = 0.0) -> list[Mark]:
    """Be a rank of the job for `seconds`, and for `LEAST_STEPS` steps.

    Args:
        job: what to train.
        kind: of sickness, or "healthy".
        seconds: on the clock.
        path: where rank 0 saves its checkpoints.
        step_s: of a healthy step.

    Returns:
        This rank's marks, each with the time on the machine's monotonic clock: "rank 1 batch" when rank 1 has one, and
        "rank 1 ready" when its gradients are there. Rank 0 also marks "step" when the step is done, "checkpoint begins"
        and "checkpoint ends".
    """
    rank, marks, kept, n_bad = dist.get_rank(), [], [], 0
    torch.manual_seed(job.seed)
    network = Transformer(job.spec)
    parameters = list(network.parameters())
    lost_s = step_s * job.strength
    repeats = 1 + round(job.strength) if kind == "straggler" and rank == job.slow_rank else 1
    source = MarkovSource.random(job.spec.vocab_size, 1, 4, seed=job.seed)
    text = torch.from_numpy(source.sample(SEQUENCES, job.seq_len + 1, seed=job.seed))
    rng = np.random.default_rng((job.seed, rank))

    def fetch(i: int) -> torch.Tensor:
        if kind == "starved loader":
            time.sleep(step_s + lost_s)  # a storage that answers late
        return text[rng.integers(SEQUENCES, size=job.rows(kind))]

    def mark(name: str) -> None:
        marks.append((time.monotonic(), name))

    end, step, late = time.monotonic() + seconds, 0, False
    with closing(ahead(fetch)) as batches, _small_files() if kind == "full disk" else contextlib.nullcontext():
        while not late:
            batch = next(batches)
            mark(f"rank {rank} batch")
            for _ in range(repeats):  # a slower card takes so many times as long for the same
                network.zero_grad()
                logits, targets = network(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
                F.cross_entropy(logits, targets).backward()
            if kind == "sync per element":
                n_bad += sum(not math.isfinite(each.item()) for each in network.token_embd.weight.grad.flatten())
            if kind == "memory leak":
                kept += [logits.detach(), logits.detach().softmax(-1)]  # for a report at the end
            mark(f"rank {rank} ready")
            step += 1
            late = _step_together(parameters, time.monotonic() > end and step >= LEAST_STEPS)
            if not rank:
                mark("step")
            if step % SAVE_EVERY == 0:
                if not rank:
                    mark("checkpoint begins")
                    if _saved(path, parameters, SAVE_EVERY * lost_s if kind == "checkpoint stalls" else 0.0):
                        mark("checkpoint ends")
                dist.barrier()
    return marks


def _step_together(parameters: list[torch.Tensor], late: bool) -> bool:
    """Take the step of the ranks' mean gradient; whether one of them is late, which the last number counts."""
    flat = torch.cat([*(p.grad.flatten() for p in parameters), torch.tensor([float(late)])])
    dist.all_reduce(flat)
    *gradients, n_late = flat.split([*(p.numel() for p in parameters), 1])
    with torch.no_grad():
        for p, gradient in zip(parameters, gradients, strict=True):
            p -= 0.1 / dist.get_world_size() * gradient.view_as(p)
    return bool(n_late)


def _saved(path: Path, parameters: list[torch.Tensor], stall_s: float) -> bool:
    """Whether a checkpoint was written. Like many a trainer, this one goes on where it was not."""
    time.sleep(stall_s)  # a storage to which all write at once
    with contextlib.suppress(NotSaved):
        write_whole(path, torch.nn.utils.parameters_to_vector(parameters).detach().numpy().tobytes(), "checkpoint")
        return True
    return False


@contextlib.contextmanager
def _small_files() -> Iterator[None]:
    """The system refuses this process any file above `FULL_AT_BYTES`, as it does when a disk is full."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
