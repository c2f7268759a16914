"""The flavour chooser: of all formats that a model comes in, the one to take on this device, for this task, and why.

The rule: of those that are known to run here, that fit into the memory and that lose no more than one is ready to
lose, the one with the most predicted tokens per second; where several have as many, the one that loses less, then one
that is multiplied as it is stored, then the smaller one. The predictions are rooflines: kernels come more or less near
to them, and none passes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..specs.architectures import Model
from ..specs.figures import look_up, si
from ..specs.flavours import FLAVOURS, IMPLEMENTATIONS, MEASURED_FROM_PARAMS, STATES, Flavour, flavour, support
from .devices import RESERVE, TASKS, Device, Task
from .inference import decode_work, kv_bytes
from .lora import ALL_LINEAR, LoRA, finetuning_bytes, finetuning_flops
from .operations import Pass
from .transformer import LOCAL, require
from .weights import weight_bytes, weights_read

QLORA = "QLoRA, arXiv:2305.14314, section 4: fine-tuned from NF4 as good as from 16 bits"
REFUSED = {
    "trial": "is an experiment there",
    "unknown": "may run here or not: no source says",
    "no": "does not run here",
}
ADAPTER = LoRA(16, ALL_LINEAR)


@dataclass(frozen=True)
class Option:
    """A flavour in one program: whether it runs, what it takes and gives, and why.

    Attributes:
        state: as in `specs.flavours.Support`.
        bytes: weights, caches (or all that fine-tuning keeps) and the reserve; without caches where it does not run.
        batch_size: texts at the same time; 0 where not one fits, or it does not run.
        tokens_per_s: predicted, of all texts together; 0 where none is written.
        loss: of quality, relative; None where nobody has measured it on a model like this.
        refused: why it is not to be taken; empty where nothing speaks against it.
        why, source: of `state`.
    """

    implementation: str
    flavour: str
    state: str
    bytes: float
    batch_size: int
    tokens_per_s: float
    loss: float | None
    refused: str
    why: str
    source: str

    @property
    def name(self) -> str:
        """Flavour and program."""
        return f"{self.flavour} in {self.implementation}"


@dataclass(frozen=True)
class Choice:
    """All options, the one to take (None where there is none), and the reasons in sentences."""

    options: tuple[Option, ...]
    best: Option | None
    reasons: tuple[str, ...]


def choose(
    device: Device,
    model: Model,
    task: str | Task,
    memory_bytes: float,
    max_loss: float = 0.03,
    implementation: str | None = None,
    losses: Mapping[str, float] | None = None,
    reserve_bytes: float = RESERVE,
) -> Choice:
    """Weigh every flavour in every program.

    Args:
        device: the GPU or CPU.
        model: built like Llama, as llama.cpp's recipes ask; layers may be local.
        task: one of `TASKS`, or your own.
        memory_bytes: left on the device.
        max_loss: quality that one is ready to lose: 0.03 allows the perplexity to rise by 3%.
        implementation: ``"vLLM"``, ``"llama.cpp"`` or ``"transformers"``; all of them without.
        losses: measured on this very model, by flavour; they go before the published ones.
        reserve_bytes: for the program and its activations.

    Raises:
        UnknownName: a task, program or flavour that is not here; the message names the nearest.
        NoFormula: another kind of model.
        ValueError: memory or loss that is negative.
    """
    if min(memory_bytes, max_loss, reserve_bytes) < 0:
        raise ValueError(f"memory {memory_bytes}, loss {max_loss} and reserve {reserve_bytes} cannot be negative")
    require(model, "choice of flavours", (LOCAL, f"the activation {model.activation}"))
    task = task if isinstance(task, Task) else look_up(task, TASKS, "task")
    known = {flavour(name).name: loss for name, loss in (losses or {}).items()}
    programs = IMPLEMENTATIONS
    if implementation is not None:
        programs = (look_up(implementation, {each: each for each in IMPLEMENTATIONS}, "implementation"),)
    options = tuple(
        _option(device, model, task, memory_bytes, max_loss, program, of, known, reserve_bytes)
        for of in FLAVOURS.values()
        for program in sorted(programs, key=lambda each: each != of.home)  # at home first
    )
    allowed = [each for each in options if not each.refused]
    best = max(allowed, key=_rank, default=None)
    return Choice(options, best, _reasons(options, best, device, model, task, memory_bytes, max_loss))


def one_each(options: Iterable[Option]) -> list[Option]:
    """Of each flavour the option that does best: one that nothing speaks against, else the one nearest to that."""
    best: dict[str, Option] = {}
    for option in options:
        if option.flavour not in best or _nearness(option) > _nearness(best[option.flavour]):
            best[option.flavour] = option
    return list(best.values())


def _nearness(option: Option) -> tuple:
    return not option.refused, -STATES.index(option.state)


def _rank(option: Option) -> tuple:
    return option.tokens_per_s, -option.loss, option.state == "hardware", -option.bytes


def _option(device, model, task, memory, max_loss, program, of, known, reserve) -> Option:
    runs = support(program, of.name)
    state, why, source = runs.state(device.kind), runs.why, runs.source
    if task.trains and state != "no" and (program != "transformers" or of.name not in ("bf16", "fp16", "fp32", "NF4")):
        state, why, source = (
            "no",
            "adapters are trained here on 16 or 32 bits, or on NF4 (QLoRA), by transformers",
            QLORA,
        )
    number = _multiplied(device, of, state)
    predict = _finetuning if task.trains else _answering
    nothing = weight_bytes(model, of), 0, 0.0
    n_bytes, batch_size, rate = nothing if state == "no" else predict(device, model, task, memory - reserve, of, number)
    loss = _loss(model, of, task, known)
    refused = REFUSED.get(state, "")
    if not refused and not batch_size:
        refused = f"needs {si(n_bytes + reserve, 'B')}"
    elif not refused and loss is None:
        refused = "may lose anything: nobody measured a model like this"
    elif not refused and loss > max_loss:
        refused = f"loses {loss:.1%}"
    return Option(program, of.name, state, n_bytes + reserve, batch_size, rate, loss, refused, why, source)


def _multiplied(device: Device, of: Flavour, state: str) -> str:
    """The format that products are computed in."""
    if state == "hardware" and of.number in device.roof.flops_per_s:
        return of.number
    return "fp32" if of.name == "fp32" else device.half


def _answering(device: Device, model: Model, task: Task, room: float, of: Flavour, number: str):
    """Bytes, texts at the same time, and tokens per second of them all: the floor of a decode step."""
    context = min(task.context, model.context_length)
    cache, weights = kv_bytes(model, context, "fp32" if of.name == "fp32" else "bf16"), weight_bytes(model, of)
    batch_size = min(task.batch_size, max(0, int((room - weights) // cache)))
    n_bytes = weights + max(1, batch_size) * cache
    if not batch_size:
        return n_bytes, 0, 0.0
    work = decode_work(model, batch_size, context).flops
    moved = weights_read(model, of) + batch_size * cache
    return n_bytes, batch_size, batch_size / max(work / device.roof.peak(number), moved / device.roof.bytes_per_s)


def _finetuning(device: Device, model: Model, task: Task, room: float, of: Flavour, number: str):
    """Bytes, texts in a step and tokens per second of training adapters of rank 16 beside every matrix."""
    context = min(task.context, model.context_length)
    run = Pass(task.batch_size, context, activation_dtype="fp32" if of.name == "fp32" else number, recompute="full")
    base = "nf4" if of.name == "NF4" else of.number if of.name in ("bf16", "fp16", "fp32") else "bf16"
    n_bytes = sum(finetuning_bytes(model, run, ADAPTER, run.n_tokens, base).values())
    if n_bytes > room:
        return n_bytes, 0, 0.0
    parts = finetuning_flops(model, task.batch_size, context, run.n_tokens, ADAPTER)
    work = sum(parts.values()) + parts["forward"]  # once more, as the blocks are recomputed
    return n_bytes, task.batch_size, run.n_tokens * device.roof.peak(number) / work


def _loss(model: Model, of: Flavour, task: Task, known: Mapping[str, float]) -> float | None:
    if of.name in known:
        return known[of.name]
    if task.trains or of.name in ("bf16", "fp16", "fp32"):
        return 0.0
    return of.loss.value if model.n_params >= MEASURED_FROM_PARAMS else None


def _reasons(options, best, device, model, task, memory, max_loss) -> tuple[str, ...]:
    where = f"{model.name} on {device.roof.name}, {task.name}"
    said = [f"{where}: {si(memory, 'B')} are left, and a loss of {max_loss:.1%} is allowed."]
    runs = [each for each in options if each.state in ("hardware", "fits")]
    if best is None:
        said.append("Nothing that is known to run here fits into the memory and keeps the quality.")
        nearest = min((each for each in runs if not each.batch_size), key=lambda each: each.bytes, default=None)
        if nearest:
            said.append(f"The smallest that lacks room, {nearest.name}, {nearest.refused}.")
        return tuple(said)
    how = "its numbers are multiplied as they are" if best.state == "hardware" else "it fits, and is widened on the way"
    said.append(
        f"Take {best.name}: {si(best.bytes, 'B')}, at most {best.tokens_per_s:.3g} tokens/s"
        f" ({best.batch_size} at a time), loss {best.loss:.1%}; {how}."
    )
    said.append(f"{best.why[0].upper()}{best.why[1:]} ({best.source}).")
    faster = one_each(each for each in runs if each.tokens_per_s > best.tokens_per_s)
    said += [f"Not {each.name}, which would be faster: it {each.refused}." for each in faster[:2]]
    wide = next((each for each in runs if each.flavour in ("bf16", "fp16") and not each.batch_size), None)
    if wide:
        said.append(f"Not {wide.name}, unquantised: it {wide.refused}.")
    return tuple(said)
