"""What a twin will need and do, from this machine's roofline, written down before it runs.

Speeds are the roofline's: what nobody passes. How far a program stays below it is what the comparison is to show. Where
all ranks run on one machine they share its cores and its memory, and a rank gets its share of the roof.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..costs import collectives, data_parallel
from ..costs.flops import Work
from ..costs.inference import decode_work, kv_bytes, prefill_work
from ..costs.lora import ALL_LINEAR, LoRA, finetuning_bytes, finetuning_flops, n_trainable
from ..costs.memory import FP32
from ..costs.operations import Pass
from ..costs.parallelism import part
from ..costs.roofline import Floor, Roof
from ..costs.training import training_flops
from ..costs.training_memory import Layout, rank_peak
from ..costs.transformer import forward_flops
from ..files import settled, write_whole
from ..measure.calibration import Calibration
from ..specs.architectures import Model
from ..specs.json_text import parse_json, read_file
from .forms import Line, line_of
from .twin import NoTwin, Twin

KIND, VERSION = "llmhw twin", 1
RANK = 8  # of adapters
WIDE = 4  # bytes of a number: all is computed in fp32
RECIPE = replace(FP32, implementation="loop")  # llm.optimizers goes tensor by tensor
UPDATE_BYTES = 7 * WIDE  # of a parameter: four numbers are read, three are written (AdamW)
MEMORY, SPEED, STEP, WORK, SENT, JOB = (
    "memory of a rank",
    "tokens per second",
    "a step",
    "the work",
    "bytes sent in a step",
    "the job",
)


def predict(twin: Twin, calibration: Calibration, one_machine: bool = True) -> dict[str, Line]:
    """The lines of the twin's form, with what is predicted.

    Lines: what the tensors of the fullest rank take at once; tokens a second, of all ranks; seconds of a step (of
    learning, reading a batch, or a round of answers), of all steps, and of the whole job, which should be no longer;
    bytes that all ranks send in a step; and the price, where the plan has one, as if each rank were a GPU.

    Args:
        twin: what will run.
        calibration: of the machine that it will run on.
        one_machine: all its nodes are this machine, as those of a small cluster, or of the local runner, are.
    """
    floor = step_floor(twin, rank_roof(twin, calibration, one_machine))
    work_s = twin.n_steps * floor.seconds
    lines = {
        MEMORY: Line("B", float(rank_bytes(twin)), bound="memory"),
        SPEED: Line("", twin.tokens_per_step / floor.seconds, bound=floor.bound),
        STEP: Line("s", floor.seconds, bound=floor.bound),
        WORK: Line("s", work_s, bound=floor.bound),
        SENT: Line("B", float(step_sent_bytes(twin)), bound="network"),
        JOB: Line("s", work_s, bound=floor.bound),
    }
    if twin.gpu_hour is not None:
        lines[price_line(twin)] = Line("", twin.n_ranks * twin.gpu_hour * work_s / 3600)
    return lines


def price_line(twin: Twin) -> str:
    """The name of the price's line."""
    return f"price, {twin.price_unit}"


def rank_roof(twin: Twin, calibration: Calibration, one_machine: bool = True) -> Roof:
    """The roof of one rank, with one thread, beside the others that compute at the same time.

    Of a pipeline with one batch in it, one stage computes at a time.
    """
    roof, n_cores = calibration.roof(), calibration.machine.n_cores
    at_once = -(-(twin.n_ranks if one_machine else twin.ranks_per_node) // twin.pp_size)
    share = min(1.0, n_cores / at_once) / n_cores
    return Roof("a rank", {"fp32": share * roof.peak("fp32")}, roof.bytes_per_s / at_once)


def step_floor(twin: Twin, roof: Roof) -> Floor:
    """The least seconds of a step, by what binds; what is sent is not in it."""
    work = step_work(twin)
    return Floor(work.flops / roof.peak("fp32"), work.bytes / roof.bytes_per_s)


def step_work(twin: Twin) -> Work:
    """Operations and bytes of a rank in a step; stages of a pipeline, which work one after the other, added up."""
    model, n, length = twin.model, twin.batch_size, twin.seq_len
    if twin.task == "serve":
        passes = [prefill_work(model, n, length, "fp32")]
        passes += [decode_work(model, n, length + i + 1, "fp32") for i in range(twin.answer - 1)]
        return Work(
            sum(each.flops for each in passes) / twin.tp_size, sum(each.bytes for each in passes) / twin.tp_size
        )
    weights = WIDE * model.n_params / twin.tp_size
    if twin.task == "evaluate":
        return Work(sum(forward_flops(model, n, length).values()) / twin.tp_size, weights)
    if twin.method == "lora":
        lora = LoRA(RANK, ALL_LINEAR)
        flops = sum(finetuning_flops(model, n, length, n * length, lora).values())
        return Work(flops, 2 * weights + UPDATE_BYTES * n_trainable(model, lora))
    flops = sum(training_flops(model, n, length).values()) / twin.tp_size
    own = part(model, twin.tp_size).n_params / (twin.dp_size if twin.zero else 1)
    return Work(flops, 2 * weights + UPDATE_BYTES * own)


def rank_bytes(twin: Twin) -> int:
    """Bytes of tensors in the fullest rank at its fullest moment."""
    n, length = twin.batch_size, twin.seq_len
    run = Pass(n, length, "fp32", norm="composed")
    if twin.task == "fine-tune" and twin.method == "lora":
        lora = LoRA(RANK, ALL_LINEAR)
        held = finetuning_bytes(twin.model, run, lora, n * length, "fp32", RECIPE)
        return sum(held.values()) + WIDE * n_trainable(twin.model, lora)  # gradients on their way
    if twin.task == "fine-tune":
        layout = Layout(twin.dp_size, twin.tp_size, zero=twin.zero, sequence_parallel=False)
        top = rank_peak(twin.model, run, RECIPE, layout)
        sending = 0 if twin.zero else WIDE * part(twin.model, twin.tp_size).n_params  # DataParallel's buckets
        return top.bytes + sending
    return max(_reader_bytes(twin, stage) for stage in {0, twin.pp_size - 1})


def _reader_bytes(twin: Twin, stage: int) -> int:
    """Of a rank that only reads: weights, cache, and the widest moment of its pass over a batch."""
    own = part(twin.model, twin.tp_size, twin.pp_size, stage)
    n, length = twin.batch_size, twin.seq_len
    cache = n * kv_bytes(own, length + twin.answer, "fp32") if twin.task == "serve" else 0
    n_logits = n * length if twin.task == "evaluate" else n
    tokens, last = n * length, stage == twin.pp_size - 1
    mlp = tokens * (2 * own.d_model + 3 * own.d_ff)  # the stream and its norm; gate, its function and up
    # logits twice: in the ranks' pieces and whole, or whole and as logarithms of probabilities
    head = tokens * own.d_model + 2 * n_logits * twin.model.vocab_size if last else 0
    return WIDE * own.n_params + cache + WIDE * max(mlp, head)


def step_sent_bytes(twin: Twin) -> float:
    """Bytes that all ranks together send in a step."""
    model, n_tokens = twin.model, twin.batch_size * twin.seq_len
    if twin.task == "serve":
        n_tokens += twin.batch_size * (twin.answer - 1)
    stream = WIDE * n_tokens * model.d_model
    sums = 1 + 2 * model.n_layers  # after the embedding, and twice in a layer
    if twin.task != "fine-tune":
        n_logits = twin.batch_size * twin.answer if twin.task == "serve" else n_tokens
        inside = sums * collectives.sent_bytes("all-reduce", stream, twin.tp_size)
        inside += collectives.sent_bytes("all-gather", WIDE * n_logits * model.vocab_size, twin.tp_size)
        return twin.dp_size * twin.tp_size * (inside + (twin.pp_size - 1) * stream)
    own = part(model, twin.tp_size)
    n_params = n_trainable(model, LoRA(RANK, ALL_LINEAR)) if twin.method == "lora" else own.n_params
    around = n_params - own.n_layers * _block_params(own)
    settings = {"around_bytes": float(WIDE * around)} if twin.zero == 3 else {}
    each = data_parallel.sent_bytes(WIDE * n_params, twin.dp_size, twin.zero, **settings)
    each += 2 * sums * collectives.sent_bytes("all-reduce", stream, twin.tp_size)  # forward and back
    return twin.n_ranks * each


def _block_params(model: Model) -> int:
    return (model.n_params - replace(model, n_layers=model.n_layers - 1).n_params) if model.n_layers > 1 else 0


@dataclass(frozen=True)
class Prepared:
    """A twin as its job finds it, with what was predicted before.

    Attributes:
        machine: that the predictions are for.
        rank_flops_per_s: the roof of a rank, that they rest on.
    """

    twin: Twin
    lines: Mapping[str, Line]
    machine: str
    rank_flops_per_s: float


def prepare(twin: Twin, path: Path, calibration: Calibration, one_machine: bool = True) -> Prepared:
    """Predict, and write both down in the file that the job's program reads.

    Raises:
        NotSaved: no space, no permission.
    """
    lines = predict(twin, calibration, one_machine)
    peak = rank_roof(twin, calibration, one_machine).peak("fp32")
    prepared = Prepared(twin, lines, str(calibration.machine), peak)
    content = json.dumps({"kind": KIND, "version": VERSION, **asdict(prepared)}, indent=1)
    write_whole(Path(path), content.encode(), "twin")
    return prepared


def read_twin(path: Path) -> Prepared:
    """What `prepare` has written.

    Raises:
        NoTwin: there is none, it is damaged, or of another version.
    """
    path = Path(path)
    try:
        said = parse_json(settled(lambda: read_file(path), path))
        if (said.pop("kind"), said.pop("version")) != (KIND, VERSION):
            raise NoTwin(f"{path.name} is no twin of version {VERSION}: write it again")
        fields = said.pop("twin")
        model = {name: tuple(value) if isinstance(value, list) else value for name, value in fields["model"].items()}
        fields |= {"model": Model(**model), "notes": tuple(fields["notes"])}
        lines = {name: line_of(line) for name, line in said.pop("lines").items()}
        prepared = Prepared(Twin(**fields), lines, **said)
        if not prepared.twin.model.n_params > 0:  # counted from all sizes, which have to be numbers for it
            raise ValueError("a model without parameters")
        return prepared
    except OSError as error:
        raise NoTwin(f"no twin {path} ({error.strerror}): prepare() makes it") from None
    except NoTwin:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise NoTwin(f"{path.name} is damaged ({' '.join(str(error).split()):.60}): write it again") from None
