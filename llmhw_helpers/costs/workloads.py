"""The course's own work as jobs for a card, and their floors: read a prompt, write for one or many, tune, train."""

from dataclasses import dataclass

from ..specs.accelerators import Accelerator
from ..specs.architectures import Model
from .flops import Work
from .inference import decode_work, kv_bytes, prefill_work, weights_read
from .lora import ALL_LINEAR, LoRA, finetuning_bytes, finetuning_flops
from .memory import Recipe, peak
from .operations import Pass
from .roofline import Floor, Roof
from .training import training_flops

BATCHES = (1, 16, 128)  # of decode
SEQ_LEN = 2048
ADAPTER = LoRA(16, ALL_LINEAR)


@dataclass(frozen=True)
class Job:
    """Something to do with a model in 16 bits.

    Attributes:
        n_tokens: read, written or trained on.
        work: operations, and least traffic with memory.
        memory_bytes: that has to fit, without what the program itself takes.
    """

    name: str
    n_tokens: int
    work: Work
    memory_bytes: float


@dataclass(frozen=True)
class Result:
    """A job on a card: its floor, the most tokens a second that follow, and whether it fits."""

    floor: Floor
    tokens_per_s: float
    fits: bool


def jobs(model: Model, seq_len: int = SEQ_LEN) -> dict[str, Job]:
    """``"prefill"`` of one prompt, ``"decode 1"``, 16 and 128 with full caches, ``"LoRA"`` and ``"training"``, by name.

    The last two are steps on one sequence in which the blocks are run a second time in the backward pass. Adapters of
    rank 16 stand beside every matrix: the frozen weights are read forwards and backwards. Training is by AdamW in mixed
    precision: all 16 bytes of a parameter are read and written once.

    Raises:
        NoFormula: a model that is not built like Llama.

    >>> from llmhw_helpers.specs.models import model
    >>> {name: round(job.memory_bytes / 1e9) for name, job in jobs(model("Llama-3.1-8B")).items()}
    {'prefill': 16, 'decode 1': 16, 'decode 16': 20, 'decode 128': 50, 'LoRA': 20, 'training': 129}
    """
    weights, cache = 2 * model.n_params, kv_bytes(model, seq_len)
    made = [Job("prefill", seq_len, prefill_work(model, 1, seq_len), weights + cache)]
    for n in BATCHES:
        made.append(Job(f"decode {n}", n, decode_work(model, n, seq_len), weights + n * cache))
    run = Pass(1, seq_len, recompute="full")
    whole = training_flops(model, 1, seq_len, "full")
    flops = sum(finetuning_flops(model, 1, seq_len, seq_len, ADAPTER).values()) + whole["recomputed"]
    held = sum(finetuning_bytes(model, run, ADAPTER, seq_len).values())
    made.append(Job("LoRA", seq_len, Work(flops, 2 * weights_read(model)), held))
    states = 2 * 16 * model.n_params
    made.append(
        Job(
            "training",
            seq_len,
            Work(sum(whole.values()), states),
            peak(model, run, Recipe(implementation="fused")).bytes,
        )
    )
    return {job.name: job for job in made}


def half(card: Accelerator) -> str:
    """The 16-bit format that a card multiplies: bf16 where it has it, else fp16."""
    return "bf16" if "bf16" in card.dtypes else "fp16"


def run_on(card: Accelerator, job: Job) -> Result:
    """The job on one card, by its data sheet.

    Raises:
        UnknownFigure: no source says how fast the card is in 16 bits.

    >>> from llmhw_helpers.specs.accelerators import accelerator
    >>> from llmhw_helpers.specs.models import model
    >>> found = run_on(accelerator("A100-80GB"), jobs(model("Llama-3.1-8B"))["decode 16"])
    >>> round(found.tokens_per_s), found.floor.bound, found.fits
    (1690, 'memory', True)
    """
    floor = Roof.of(card).floor(job.work, half(card))
    room = card.visible_bytes.value or card.memory_bytes.known()
    return Result(floor, job.n_tokens / floor.seconds, job.memory_bytes <= room)
