"""Questions of the final examination, on training and on many GPUs: each draws a model, a machine and sizes.

What is right comes from `costs`. What a usual slip would give is worked out beside it from the same numbers, so that a
wrong answer can be told what probably happened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...costs.checkpoints import WEIGHT_BYTES, checkpoint_bytes, fleet_mtbf, young_interval
from ...costs.collectives import Wire, seconds
from ...costs.lora import LoRA, n_trainable
from ...costs.memory import Recipe, copies
from ...costs.training import mfu, six_n
from ...specs.accelerators import accelerator
from ...specs.models import model

DAY = 86400
SMALL = ("Llama-3.2-1B", "Llama-3.2-3B", "Mistral-7B-v0.3", "Llama-3.1-8B", "Mistral-Nemo-12B")
LARGE = ("Mistral-Small-24B", "Llama-2-70B", "Llama-3.1-70B", "Mistral-Large-123B")
CARDS = ("A40", "A100-40GB", "A100-80GB", "H100 SXM", "GH200")


@dataclass(frozen=True)
class Question:
    """A question with its numbers; ``question["n_layers"]`` is one of them.

    Attributes:
        topic, notebooks: what it is about, and where that was built.
        text: what is asked.
        given: the numbers that the answer takes, and some that it does not, by name.
        unit: of the answer.
        right: the answer, by `costs`.
        slips: numbers that usual mistakes give, each with its hint.
        rtol: how far off an answer may be, relative.
    """

    topic: str
    notebooks: str
    text: str
    given: Mapping[str, float]
    unit: str
    right: float
    slips: Sequence[tuple[float, str]] = field(repr=False)
    rtol: float = 0.01

    def __getitem__(self, name: str) -> float:
        return self.given[name]


Draw = Callable[..., object]  # one of its arguments


def states(draw: Draw) -> Question:
    """What of weights, gradients and optimizer lies on a GPU, with a stage of ZeRO."""
    name, dp_size, zero = draw(*SMALL), draw(4, 8, 16, 64), draw(1, 2, 3)
    n = model(name).n_params
    held = copies(n, Recipe())
    parts = [held["master"] + held["exp_avg"] + held["exp_avg_sq"], held["gradients"], held["parameters"]]
    by_stage = [sum(parts[:stage]) / dp_size + sum(parts[stage:]) for stage in range(4)]
    hints = {
        0: "You counted every copy whole: ZeRO divides some among the GPUs.",
        1: "You divided the optimizer's part alone, as ZeRO-1 does.",
        2: "You divided optimizer and gradients, as ZeRO-2 does.",
        3: "You divided everything, as ZeRO-3 does.",
    }
    slips = [(by_stage[stage], hint) for stage, hint in hints.items() if stage != zero]
    light = by_stage[zero] - 4 * n / dp_size
    slips.append((light, "You left out the optimizer's own weights in fp32: 4 bytes more a parameter."))
    return Question(
        "memory of training",
        "02 and 13",
        f"{name} is trained on dp_size GPUs with AdamW in mixed precision: weights and gradients in bf16; the "
        f"optimizer has two averages and weights of its own in fp32. With ZeRO-{zero}, how many bytes of all these "
        "lie on one GPU?",
        {"n_params": n, "dp_size": dp_size, "zero": zero},
        "B",
        by_stage[zero],
        slips,
    )


def weights(draw: Draw) -> Question:
    """The number of parameters from a model's sizes."""
    m = model(draw(*SMALL, *LARGE))
    sizes = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size")
    table, mlp = m.vocab_size * m.d_model, m.n_layers * m.d_model * m.d_ff
    narrow = 2 * m.n_layers * m.d_model * m.head_dim * (m.n_heads - m.n_kv_heads)
    return Question(
        "parameters",
        "04",
        f"A Transformer built like Llama has these sizes, and its head is {'the' if m.tied_embeddings else 'not the'} "
        "same matrix as its embedding. How many parameters does it have? (Norms have few: leave them out.)",
        {size: getattr(m, size) for size in sizes} | {"tied": m.tied_embeddings},
        "parameters",
        m.n_params,
        [
            (m.n_params + narrow, "You took n_heads for keys and values: they have n_kv_heads."),
            (
                m.n_params + (table if m.tied_embeddings else -table),
                "Look at embedding and head again: count the matrix once where it is the same, else twice.",
            ),
            (m.n_params - mlp, "You counted two matrices of the MLP: it has three, gate, up and down."),
            (
                m.n_params - m.n_layers * m.d_model * m.n_heads * m.head_dim,
                "You left out a matrix of attention: it has four, for queries, keys, values and the result.",
            ),
        ],
    )


def training(draw: Draw) -> Question:
    """Days of a training run, by six operations a parameter and token."""
    m, card, n_gpus = model(draw(*SMALL)), accelerator(draw(*CARDS)), draw(16, 64, 256)
    n_tokens, used, peak = draw(20e9, 100e9, 300e9), draw(0.3, 0.4, 0.5), card.peak("bf16").known()
    days = six_n(m) * n_tokens / (n_gpus * used * peak) / DAY
    return Question(
        "time of training",
        "05",
        f"{m.name} is trained on n_tokens tokens by n_gpus GPUs {card.name}, which reach an MFU of {used:.0%}. How "
        "many days does it take? (Six operations for each parameter and token; attention is left out.)",
        {"n_params": m.n_params, "n_tokens": n_tokens, "n_gpus": n_gpus, "flops_per_s": peak, "mfu": used},
        "days",
        days,
        [
            (days / 3, "You counted two operations, the forward pass: with the backward pass it is six."),
            (days * used, "You took the whole peak: only a share of it is reached, so divide by the MFU."),
            (days * n_gpus, "You took one GPU: they share the work, so divide by their number."),
            (days * DAY, "You gave seconds: a day has 86,400."),
            (days * 24, "You gave hours: a day has 24."),
        ],
    )


def adapters(draw: Draw) -> Question:
    """Parameters that LoRA trains."""
    m, rank = model(draw("Llama-3.2-3B", "Mistral-7B-v0.3", "Llama-3.1-8B", "Llama-3.1-70B")), draw(4, 8, 16, 64)
    n, q, kv = n_trainable(m, LoRA(rank)), m.q_width, m.n_kv_heads * m.head_dim
    each = m.n_layers * rank
    return Question(
        "adapters",
        "06",
        f"LoRA with adapters of rank {rank} stands beside the matrices for queries and for values in all blocks of "
        f"{m.name}. How many parameters are trained?",
        {"rank": rank}
        | {size: getattr(m, size) for size in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim")},
        "parameters",
        n,
        [
            (
                each * 2 * (m.d_model + q),
                "You gave values the width of the queries: they have n_kv_heads heads, so their matrix is narrower.",
            ),
            (
                each * 2 * m.d_model,
                "You counted one side of each adapter, or one of the two adapters: each has rank * (n_in + n_out).",
            ),
            (
                each * (q + kv),
                "You counted the side of the output alone: an adapter has rank * (n_in + n_out) parameters.",
            ),
            (n / m.n_layers, "You counted one block: each has its own adapters, so times n_layers."),
            (
                m.n_layers * m.d_model * (q + kv),
                "You counted the big matrices: they are frozen, and the thin ones are trained.",
            ),
        ],
    )


def sums(draw: Draw) -> Question:
    """The time of an all-reduce in a ring."""
    n_ranks, n_bytes, bits = draw(4, 8, 32), draw(64e3, 4e6, 250e6), draw(25e9, 100e9, 400e9)
    latency, rate = draw(5e-6, 20e-6), bits / 8
    right = seconds("all-reduce", n_bytes, n_ranks, Wire(latency, rate))
    started, sent = 2 * (n_ranks - 1) * latency, 2 * (n_ranks - 1) / n_ranks * n_bytes / rate
    return Question(
        "an all-reduce",
        "14 and 15",
        "Each of n_ranks ranks has an array of n_bytes bytes, and all want the sum. They stand in a ring; a message "
        "takes latency_s and the time of its bytes at bits_per_s. How long does the all-reduce take?",
        {"n_ranks": n_ranks, "n_bytes": n_bytes, "latency_s": latency, "bits_per_s": bits},
        "s",
        right,
        [
            (started + sent / 8, "You took the bits for bytes: 8 bits make a byte."),
            (sent, "You left out the latency: there are 2 (n - 1) messages, one after the other, and each has one."),
            (latency + sent, "You counted the latency once: every message has it."),
            (right / 2, "You went round once: a ring goes round twice, first to add, then to give the sums to all."),
            (started + sent * n_ranks, "You sent the whole array in each message: a message has 1/n of it."),
        ],
    )


def saves(draw: Draw) -> Question:
    """How often to save, by Young's rule."""
    m, n_gpus = model(draw("Llama-3.1-8B", *LARGE)), draw(64, 256, 1024)
    rate, years = draw(2e9, 10e9, 40e9), draw(3, 5)
    part = years * 365 * DAY
    cost, failing = checkpoint_bytes(m.n_params) / rate, fleet_mtbf(part, n_gpus)
    right = young_interval(cost, failing)
    light = young_interval(WEIGHT_BYTES * m.n_params / rate, failing)
    return Question(
        "checkpoints",
        "15",
        f"{m.name} is trained on n_gpus GPUs, and the run stops when any one fails; one GPU fails every mtbf_s seconds "
        "on average. A checkpoint has 14 bytes for each parameter, is written at bytes_per_s, and the run waits. "
        "By Young's rule, how many seconds should it compute between two checkpoints?",
        {"n_params": m.n_params, "n_gpus": n_gpus, "mtbf_s": part, "bytes_per_s": rate},
        "s",
        right,
        [
            (young_interval(cost, part), "You took one GPU's time between failures: the run's is that over n_gpus."),
            (light, "You saved the weights alone: to go on takes 14 bytes a parameter."),
            (right / 2**0.5, "You left out the 2 under the root of Young's rule."),
            (2 * cost * failing, "You left out the root: Young's rule is sqrt(2 * cost * mtbf)."),
            (cost, "You gave the time of one checkpoint, not the time between two."),
        ],
    )


def busy(draw: Draw) -> Question:
    """MFU from a monitor's figures."""
    m, card, n_gpus = model(draw(*SMALL)), accelerator(draw(*CARDS)), draw(4, 8, 32)
    peak = card.peak("bf16").known()
    rate = round(draw(0.08, 0.19, 0.43) * n_gpus * peak / six_n(m))
    right = mfu(six_n(m), rate, n_gpus * peak)
    return Question(
        "busy or working",
        "05 and 16",
        f"A monitor shows all of n_gpus GPUs {card.name} busy for 100% of the time, and {m.name} training on "
        "tokens_per_s tokens a second, all GPUs together. What is the MFU, as a number between 0 and 1? (Six "
        "operations for each parameter and token.)",
        {"n_params": m.n_params, "tokens_per_s": rate, "n_gpus": n_gpus, "flops_per_s": peak, "busy_percent": 100},
        "parts of 1",
        right,
        [
            (1.0, "Busy means that some kernel ran, not that it used the peak: count operations."),
            (right * n_gpus, "You took the peak of one GPU: times n_gpus."),
            (right / 3, "You counted two operations, the forward pass: training takes six."),
            (right * 100, "You gave percent: a number between 0 and 1 is asked for."),
        ],
    )
