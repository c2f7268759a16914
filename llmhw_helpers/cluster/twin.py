"""A small twin of a plan: the same task, divided in the same ways, but so small that it runs here in seconds.

A plan for sixteen GPUs cannot be tried on a laptop; what can is all that goes wrong besides: the job script, ranks that
find each other, a signal before the time is up, a checkpoint, and the predictions, made before and compared after. The
twin's model has a plain Llama's form with the plan's proportions (queries for a head of keys and values, width of the
MLP), and random weights: what is computed is the same, whatever they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..costs.requests import read_request
from ..specs.architectures import Model
from ..specs.figures import look_up
from ..specs.settings import OneLine

MOST_RANKS = 4
DEFAULTS = {
    "serve": {"seq_len": 64, "answer": 16, "n_steps": 6},
    "fine-tune": {"n_steps": 20},
    "evaluate": {"n_steps": 20},
}
TASKS = {name: name for name in DEFAULTS}


class NoTwin(OneLine, ValueError):
    """A plan, or a wish, that no twin is made of; the message says why, and what to do."""


@dataclass(frozen=True)
class Twin:
    """What runs instead of a plan.

    Attributes:
        task: ``"serve"``: prompts are read and answered; ``"fine-tune"``: steps of an optimizer; ``"evaluate"``: the
            loss of texts, without learning.
        plan: the plan's name.
        model: the small one.
        n_nodes, ranks_per_node: nodes, and ranks of each.
        tp_size, pp_size, dp_size, zero: how the ranks divide the work, as in the plan.
        method: of fine-tuning: ``"full"`` or ``"lora"``.
        batch_size, seq_len, answer: texts at the same time in a copy of the model; tokens of each; new tokens of an
            answer.
        n_steps: optimizer steps; batches of documents; rounds of questions.
        checkpoint_every: steps from one checkpoint to the next.
        gpu_hour, price_unit: what the plan pays for a GPU and hour; None where nobody knows.
        notes: in what it is not like the plan.
    """

    task: str
    plan: str
    model: Model
    n_nodes: int = 2
    ranks_per_node: int = 1
    tp_size: int = 1
    pp_size: int = 1
    dp_size: int = 2
    zero: int = 0
    method: str = "full"
    batch_size: int = 4
    seq_len: int = 128
    answer: int = 1
    n_steps: int = 20
    checkpoint_every: int = 5
    gpu_hour: float | None = None
    price_unit: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        look_up(self.task, TASKS, "task of a twin")
        sizes = (self.n_nodes, self.ranks_per_node, self.tp_size, self.pp_size, self.dp_size, self.batch_size)
        if min(*sizes, self.seq_len, self.answer, self.n_steps, self.checkpoint_every) < 1:
            raise NoTwin(f"sizes and numbers of a twin are at least 1: {self}")
        if self.n_ranks != self.tp_size * self.pp_size * self.dp_size:
            divided = f"TP {self.tp_size}, PP {self.pp_size}, DP {self.dp_size}"
            raise NoTwin(f"{self.n_nodes} nodes of {self.ranks_per_node} ranks do not divide into {divided}")
        if self.task == "fine-tune" and self.pp_size > 1:
            raise NoTwin("no twin trains in a pipeline: choose a plan without PP, or notebook 14 for a pipeline itself")
        if self.task == "fine-tune" and self.method != "full" and self.tp_size > 1:
            raise NoTwin("no twin has adapters on divided matrices: choose a plan without TP, or method full")
        if self.seq_len + self.answer > self.model.context_length:
            raise NoTwin(
                f"{self.seq_len + self.answer} tokens are more than {self.model.name}'s {self.model.context_length}"
            )
        if self.pp_size > self.model.n_layers:
            raise NoTwin(f"{self.pp_size} stages are more than the {self.model.n_layers} layers of {self.model.name}")

    @property
    def n_ranks(self) -> int:
        """Ranks in all."""
        return self.n_nodes * self.ranks_per_node

    @property
    def tokens_per_step(self) -> int:
        """Tokens that a step learns from or reads, or that are new in a round of answers; of all copies."""
        each = self.answer if self.task == "serve" else self.seq_len
        return self.dp_size * self.batch_size * each


def twin_of(
    request: Mapping,
    plan: Mapping,
    task: str | None = None,
    n_nodes: int | None = None,
    model: Model | None = None,
    **settings,
) -> Twin:
    """The twin of a plan: each way of dividing that it uses, it uses with two ranks, as long as these are four at most.

    Where a plan has more ways than four ranks can show, copies (DP) go first, then stages (PP).

    Args:
        request: as `costs.planner.answer` takes it.
        plan: one of those that it gave.
        task: ``"evaluate"`` for a plan that serves, but whose texts are only read; else that of the request.
        n_nodes: 1 or 2; without, as many as the plan has, and 2 where it has more.
        model: another than the small one with the plan's proportions; of Llama's form.
        settings: any other field of `Twin`.

    Raises:
        NoTwin: the plan trains in a pipeline, the ranks do not divide among the nodes, or a setting is none.
        BadRequest: as `read_request`.

    >>> from llmhw_helpers.costs.planner import answer
    >>> asked = {"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis", "users": 40, "formats": ["AWQ int4"]}
    >>> plans = answer(asked)["plans"]
    >>> plan = next(plan for plan in plans if plan["tp_size"] == 4 and plan["pp_size"] == 2)
    >>> twin = twin_of(asked, plan)
    >>> twin.n_nodes, twin.ranks_per_node, twin.tp_size, twin.pp_size, twin.dp_size
    (2, 2, 2, 2, 1)
    """
    asked = read_request(request)
    task = task or ("serve" if asked.task == "serve" else "fine-tune")
    look_up(task, TASKS, "task of a twin")
    if (asked.task == "serve") != (task != "fine-tune"):
        raise NoTwin(f"a plan to {asked.task} has no twin that does {task!r}")
    sizes, notes = _sizes(plan)
    n_ranks = sizes["tp_size"] * sizes["pp_size"] * sizes["dp_size"]
    n_nodes = n_nodes or min(2, plan["n_nodes"], n_ranks)
    if n_ranks % n_nodes:
        raise NoTwin(f"{n_ranks} ranks do not divide among {n_nodes} nodes")
    if asked.method == "qlora" and task == "fine-tune":
        notes.append("its frozen weights are fp32, not 4 bits")
    price = plan["price_per_hour"]
    fields = {
        "task": task,
        "plan": plan["name"],
        "model": model or small_model(asked.model),
        "n_nodes": n_nodes,
        "ranks_per_node": n_ranks // n_nodes,
        "zero": plan["zero"] if sizes["dp_size"] > 1 and asked.method == "full" else 0,
        "method": "full" if asked.method == "full" or task != "fine-tune" else "lora",
        "gpu_hour": None if price is None else price / plan["n_gpus"],
        "price_unit": plan["price"]["unit"] if plan["price"] else "",
        "notes": tuple(notes),
    }
    if strange := set(settings) - set(Twin.__dataclass_fields__):
        look_up(min(strange), {name: name for name in Twin.__dataclass_fields__}, "setting of a twin")
    return Twin(**fields | sizes | DEFAULTS[task] | settings)


def _sizes(plan: Mapping) -> tuple[dict[str, int], list[str]]:
    """TP, PP and DP of the twin, and what was left out."""
    sizes = {name: min(2, plan[name]) for name in ("tp_size", "pp_size", "dp_size")}
    left_out = []
    for name in ("dp_size", "pp_size"):
        if sizes["tp_size"] * sizes["pp_size"] * sizes["dp_size"] > MOST_RANKS:
            sizes[name] = 1
            left_out.append(f"the plan's {name[:2].upper()} {plan[name]} is left out")
    return sizes, left_out


def small_model(model: Model) -> Model:
    """A model of Llama's form with the proportions of `model`, of about five million parameters.

    >>> from llmhw_helpers.specs.models import model
    >>> small = small_model(model("Llama-3.1-70B"))
    >>> small.n_heads, small.n_kv_heads, small.d_model, small.d_ff, small.n_params
    (8, 2, 256, 896, 5507328)
    """
    n_kv_heads = max(2, 8 * model.n_kv_heads // model.n_heads)
    while 8 % n_kv_heads:
        n_kv_heads += 1
    d_ff = max(64, round(256 * model.d_ff / model.d_model / 64) * 64)
    sizes = {"n_layers": 4, "d_model": 256, "n_heads": 8, "n_kv_heads": n_kv_heads, "head_dim": 32, "d_ff": d_ff}
    return Model(
        f"small {model.name}",
        **sizes,
        vocab_size=4096,
        tied_embeddings=model.tied_embeddings,
        context_length=2048,
        rope_theta=1e4,
        source=f"made up, with proportions of {model.name}",
    )
