"""Training: batches in, parameters that predict the next token out, and checkpoints on the way.

All parameters that ask for a gradient are trained; to freeze the others is all that fine-tuning with LoRA adds.

The update is ``torch.optim.AdamW`` in its fused form, one kernel for all parameters: the rule of ``llm.optimizers``,
which notebook 02 derives and the tests hold equal to it.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..measure.exporters import Exporter
from ..measure.ranges import named
from .corpora import Batches, ahead
from .loss import head_loss
from .optimizers import cosine_with_warmup
from .runs import BadCheckpoint, read_run, write_run
from .transformer import Transformer

RECOMPUTE = ("none", "full")
UNLABELLED = -100  # as in PyTorch's cross_entropy
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


class NonFiniteLoss(ValueError):
    """A loss, or a gradient, that is infinite or NaN: the message says at which step. The parameters are untouched."""


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        n_steps, n_warmup: of the learning rate's schedule, up in a line and down half a cosine to a tenth of `lr`.
        lr, weight_decay, betas: of AdamW; matrices decay, the scales of the norms do not.
        max_norm: gradients that are longer together are cut to it.
        n_accumulate: micro-batches whose gradients are added up for one step, which is that of the large batch.
        recompute: ``"none"``, or ``"full"``: keep each block's input only, and run the block again for its backward.
        dtype: ``"fp32"``, or ``"bf16"`` for the products (parameters and their states stay fp32).
    """

    n_steps: int
    n_warmup: int = 0
    lr: float = 3e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_norm: float = 1.0
    n_accumulate: int = 1
    recompute: str = "none"
    dtype: str = "fp32"

    def __post_init__(self):
        if self.recompute not in RECOMPUTE or self.dtype not in DTYPES:
            known = f"recompute {' or '.join(RECOMPUTE)}, dtype {' or '.join(DTYPES)}"
            raise ValueError(f"a plan knows {known}; not {self.recompute!r}, {self.dtype!r}")
        if self.n_accumulate < 1 or not 0 <= self.n_warmup < self.n_steps:
            counts = f"n_accumulate={self.n_accumulate}, n_warmup={self.n_warmup}, n_steps={self.n_steps}"
            raise ValueError(f"a plan needs at least one micro-batch, and a warm-up shorter than the run: {counts}")


def next_token_loss(
    model: Transformer, batch: Int[Tensor, "batch_size seq_len_and_one"], recompute: bool = False
) -> Float[Tensor, ""]:
    """Mean of ``-log p(next token)`` over all positions, in nats, computed in fp32."""
    logits = model.head(model.hidden(batch[:, :-1], recompute))
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def answer_loss(
    model: Transformer, batch: Int[Tensor, "2 batch_size seq_len"], recompute: bool = False
) -> Float[Tensor, ""]:
    """The same mean over the labelled positions alone; the head, a wide product, sees no others.

    ``batch[0]`` are tokens, ``batch[1]`` what comes after each, and `UNLABELLED` where nobody asks.

    Raises:
        ValueError: nothing is labelled, and a mean over nothing is no number.
    """
    tokens, targets = batch
    asked = targets != UNLABELLED
    if not asked.any():
        raise ValueError("no token of the batch is labelled: there is nothing to take a loss of")
    weight = model.token_embd.weight if model.output is None else model.output.weight
    return head_loss(model.hidden(tokens, recompute)[asked], weight, targets[asked])


def n_labelled(batch: Int[Tensor, "batch_size seq_len_and_one"] | Int[Tensor, "2 batch_size seq_len"]) -> int:
    """The tokens that the batch's loss is a mean over: of `next_token_loss` all targets, of `answer_loss` the labelled.

    >>> n_labelled(torch.zeros(4, 17, dtype=torch.long)), n_labelled(pack([([5, 6], [7, 8]), ([5], [7])]))
    (64, 3)
    """
    return batch[:, 1:].numel() if batch.dim() == 2 else int((batch[1] != UNLABELLED).sum())


def pack(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Int[Tensor, "2 batch_size seq_len"]:
    """A batch for `answer_loss` of prompts with their answers; the shorter ones are filled up behind, unlabelled.

    Under a causal mask what is behind changes nothing.

    Raises:
        ValueError: no pairs, or a prompt or an answer without tokens.

    >>> pack([([5, 6], [7, 8]), ([5], [7])]).tolist()
    [[[5, 6, 7], [5, 0, 0]], [[-100, 7, 8], [7, -100, -100]]]
    """
    if not pairs or not all(prompt and answer for prompt, answer in pairs):
        raise ValueError("a batch needs at least one prompt and its answer, each with at least one token")
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    tokens = torch.zeros(len(pairs), longest, dtype=torch.long)
    targets = torch.full_like(tokens, UNLABELLED)
    for row, (prompt, answer) in enumerate(pairs):
        first, end = len(prompt) - 1, len(prompt) + len(answer) - 1
        tokens[row, :end] = torch.tensor([*prompt, *answer[:-1]])
        targets[row, first:end] = torch.tensor(answer)
    return torch.stack((tokens, targets))


class Trainer:
    """A model on its way.

    Args:
        model: is changed in place, where its parameters ask for a gradient; its device is where we train.
        batches: batch number `i`, as `loss` takes it; ``corpora.Batches`` for the loss that is the default.
        plan: how.
        loss: of the model, a batch, and whether to recompute, the mean over the batch's `n_labelled` tokens;
            `next_token_loss` or `answer_loss`.
        exporter: is told of every step, for whoever watches the run.

    The parts of a step have names in a trace (``measure.ranges``): step, load, forward, backward, clip, read the loss,
    optimizer.

    Attributes:
        step: steps done.
        losses: of each of them, in nats a token.

    Raises:
        BadCorpus: the corpus has tokens that the model has not.
        ValueError: every parameter is frozen.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Batches | Callable[[int], Tensor],
        plan: Plan,
        loss: Callable[[Transformer, Tensor, bool], Tensor] = next_token_loss,
        exporter: Exporter | None = None,
    ):
        if isinstance(batches, Batches):
            batches.check_vocabulary(model.spec.vocab_size)
        self.model, self.batches, self.plan, self.loss = model, batches, plan, loss
        self.exporter = exporter
        self.step, self.losses = 0, []
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError("every parameter is frozen: there is nothing to train")
        matrices = [p for p in self.parameters.values() if p.dim() >= 2]
        scales = [p for p in self.parameters.values() if p.dim() < 2]
        groups = [{"params": matrices}, {"params": scales, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, plan.lr, plan.betas, weight_decay=plan.weight_decay, fused=True)

    def run(self, n_steps: int | None = None, depth: int = 2) -> list[float]:
        """Go on for `n_steps`, or the end of the plan, with the batches of `depth` steps fetched ahead; their losses.

        Raises:
            NonFiniteLoss: at which step; everything is as it was after the step before.
        """
        left = self.plan.n_steps - self.step
        n_steps = left if n_steps is None else min(n_steps, left)
        before = len(self.losses)
        with closing(ahead(self._micro_batches, self.step, depth)) as steps:
            for _ in range(n_steps):
                began = time.perf_counter()
                with named("step"):
                    with named("load"):
                        micro_batches = next(steps)
                    loaded = time.perf_counter()
                    self.losses.append(self._step(micro_batches))
                self.step += 1
                if self.exporter is not None:
                    seconds, n = time.perf_counter() - began, sum(map(n_labelled, micro_batches))
                    self.exporter.observe_step(seconds, n, self.losses[-1], waited_for_data=loaded - began)
        return self.losses[before:]

    def _micro_batches(self, step: int) -> list[Tensor]:
        """All of a step at once: the mean over its labelled tokens is no mean of means, so each weighs by its share."""
        n = self.plan.n_accumulate
        return [self.batches(i) for i in range(n * step, n * (step + 1))]

    def _step(self, micro_batches: Sequence[Tensor]) -> float:
        plan, device = self.plan, self.model.frequencies.device
        counts = [n_labelled(batch) for batch in micro_batches]
        if not any(counts):
            what = "no token of its batches is labelled, so its loss is no number"
            raise NonFiniteLoss(f"step {self.step}: {what}; no step was taken: give it answers to learn from")
        self.optimizer.zero_grad()  # what an interrupted step may have left
        total = torch.zeros((), device=device)
        for batch, n in zip(micro_batches, counts, strict=True):
            if not n:
                continue  # it adds nothing to the sum, and a mean over it is no number
            with named("forward"), self._precision(device):
                loss = self.loss(self.model, batch.to(device), plan.recompute == "full")
            loss = loss * (n / sum(counts))  # transformers calls the sum num_items_in_batch
            with named("backward"):
                loss.backward()
            total += loss.detach()
        with named("clip"):
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), plan.max_norm)
        with named("read the loss"):  # on a GPU: wait until all of the above is done
            value, length = total.item(), norm.item()
        if not (math.isfinite(value) and math.isfinite(length)):
            self.optimizer.zero_grad()
            what = f"the loss is {value}, the gradients' length {length}"
            raise NonFiniteLoss(f"step {self.step}: {what}; no step was taken: lower the learning rate, or go back")
        for group in self.optimizer.param_groups:
            group["lr"] = plan.lr * cosine_with_warmup(self.step, plan.n_warmup, plan.n_steps, least=0.1)
        with named("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return value

    def _precision(self, device: torch.device):
        dtype = DTYPES[self.plan.dtype]
        return torch.autocast(device.type, dtype) if dtype else nullcontext()

    def save(self, path: Path) -> None:
        """Write all that the rest of the run depends on, but for what is frozen, in one file, whole or not at all.

        Raises:
            NotSaved: no space, no permission; what was saved before is still there.
        """
        tensors = {f"model.{name}": p for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            tensors |= {f"{key}.{name}": value for key, value in self.optimizer.state[p].items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        write_run(path, tensors, {"step": self.step, "losses": self.losses, "of": self._identity()})

    def resume(self, path: Path) -> bool:
        """Go on from `path`; False where there is none yet, and the run starts at its beginning.

        Raises:
            BadCheckpoint: damaged, or of another model, plan or corpus; nothing was changed.
        """
        found = read_run(path)
        if found is None:
            return False
        tensors, about = found
        name, of, step, losses = Path(path).name, about.get("of"), about.get("step"), about.get("losses")
        if not (isinstance(of, dict) and type(step) is int and step >= 0 and isinstance(losses, list)):
            raise BadCheckpoint(f"{name} is no checkpoint of a Trainer; give it another name")
        if differing := [part for part, value in self._identity().items() if of.get(part) != value]:
            raise BadCheckpoint(f"{name} is of another {' and '.join(differing)}; give it another name")
        states = self._states(tensors, step, name)
        try:
            torch.set_rng_state(tensors.get("rng.cpu"))
        except (RuntimeError, TypeError):
            raise BadCheckpoint(f"{name} lacks the state of the random numbers; it cannot be gone on from") from None
        self.optimizer.state.clear()
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"model.{name}"])
                self.optimizer.state[p] = states[name]
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.step, self.losses = step, losses
        return True

    def _states(self, tensors: dict, step: int, name: str) -> dict[str, dict[str, Tensor]]:
        """AdamW's, by parameter; empty before the first step."""
        keys, parameters = ("step", "exp_avg", "exp_avg_sq") if step else (), self.parameters
        shapes = {f"model.{n}": p.shape for n, p in parameters.items()}
        shapes |= {f"{key}.{n}": () if key == "step" else p.shape for key in keys for n, p in parameters.items()}
        wrong = [each for each, shape in shapes.items() if each not in tensors or tensors[each].shape != shape]
        if wrong:
            raise BadCheckpoint(f"{name} lacks {wrong[0]}, or has it in another shape; it cannot be gone on from")
        return {n: {key: tensors[f"{key}.{n}"].to(p.device) for key in keys} for n, p in parameters.items()}

    def _identity(self) -> dict:
        """What must be equal for the losses to go on as if nothing had happened."""
        batches = self.batches.state() if isinstance(self.batches, Batches) else None
        said = {"model": asdict(self.model.spec), "plan": asdict(self.plan), "corpus or batches": batches}
        return json.loads(json.dumps(said))  # as a file holds it: there, a tuple is a list
