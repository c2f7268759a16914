"""Every way to lay a model's training out over so many GPUs: what the fullest rank holds, and how long a step takes.

A layout has three sizes, whose product is the number of GPUs: copies of the model (`dp_size`), ranks that share every
layer (`tp_size`), stages of layers (`pp_size`). How it is run is a choice as well: what ZeRO divides among the copies,
what is computed twice, how many sequences go through at once. The fastest that fits is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..specs.accelerators import Accelerator
from ..specs.architectures import Model
from ..specs.links import node_link
from .durations import BOARD_NETWORKS
from .lora import ALL_LINEAR, LoRA
from .memory import FP32, Recipe
from .operations import Pass
from .parallelism import Indivisible, part
from .places import Offer
from .plans import Memory, gb
from .requests import Request, read_request
from .speed import Speed, training_speed
from .training_memory import MIXED, SHARDED, Layout, lora_rank_peak, rank_peak

ADAPTERS = LoRA(16, ALL_LINEAR)
TOKENS_AT_ONCE = 4096  # of a micro-batch, where a text is not longer: a GPU that has less to do waits
MOST_TOKENS = 32768  # of a micro-batch that is tried
CONTEXT = (0.4e9, 1.5e9)  # bytes of CUDA's context and of NCCL's buffers: an assumption
FRAGMENTS = 0.05  # of the memory, lost between blocks at most: an assumption
STATE_BYTES = 16  # of a parameter, when everything is trained: weights, gradients, optimizer
BATCH_TOKENS = 4 * 2**20  # of an optimizer step, as Llama 1 had it (arXiv:2302.13971)


@dataclass(frozen=True)
class Way:
    """How a layout is run.

    Attributes:
        layout: of the ranks, with ZeRO's stage and the micro-batches of a step.
        recipe: formats and optimizer.
        recompute: as `operations.Pass` has it.
        batch_size: sequences of a micro-batch, on each of the ranks of `dp_size`.
    """

    layout: Layout
    recipe: Recipe
    recompute: str
    batch_size: int


@dataclass(frozen=True)
class Row:
    """A layout in the table of `layouts`.

    Attributes:
        layout: with ZeRO's stage and the micro-batches of a step.
        recompute, batch_size: as `Way` has them.
        memory: of the fullest rank; None where the model does not divide so.
        speed: tokens a second of each GPU, with a range; None where it does not fit.
        seconds: of an optimizer step: likely, and from `low` to `high`.
        parts: seconds of it by what they go to: ``"products"``, ``"attention"``, ``"memory"``, ``"all-reduces"`` (of
            tensor parallelism), ``"weights"`` (weights and gradients between copies), ``"stages"``, ``"bubble"``, ...
        refused: why there is no time; empty where there is one.
    """

    layout: Layout
    recompute: str = ""
    batch_size: int = 0
    memory: Memory | None = None
    speed: Speed | None = None
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    parts: Mapping[str, float] | None = None
    refused: str = ""

    @property
    def name(self) -> str:
        """In the field's letters.

        >>> Row(Layout(dp_size=4, tp_size=2, zero=1), "full").name
        'DP 4, TP 2, ZeRO 1, full recompute'
        """
        sizes = {"DP": self.layout.dp_size, "TP": self.layout.tp_size, "PP": self.layout.pp_size}
        said = [f"{letters} {n}" for letters, n in sizes.items() if n > 1] or ["one GPU"]
        said += [f"ZeRO {self.layout.zero}"] if self.layout.zero else []
        return ", ".join(said + ([f"{self.recompute} recompute"] if self.recompute not in ("", "none") else []))


def layouts(
    model: str | Model, cards: str | Offer, n_gpus: int, seq_len: int = 4096, batch_tokens: int = BATCH_TOKENS
) -> tuple[Row, ...]:
    """All layouts of a training on `n_gpus`, the fastest first, and then those that are refused, with the reason.

    Args:
        model: by name, or as it is.
        cards: of one kind: of a cluster (``"Alvis A100-40GB"``), by their name (``"GH200"``), or an offer of `places`.
        n_gpus: that are used, whole nodes where there are several.
        seq_len, batch_tokens: tokens of a sequence, and of an optimizer step on all GPUs.

    Raises:
        UnknownName, BadRequest, ValueError: no such model or cards, or not so many.
        UnknownFigure: of a card whose figures are not known.
        NoFormula: a model of another kind.

    >>> rows = layouts("Llama-3.1-8B", "Alvis A100-40GB", 16)
    >>> rows[0].name, round(rows[0].memory.limit / 1e9, 1), rows[0].memory.fits
    ('DP 8, TP 2, ZeRO 1', 42.5, 'yes')
    >>> layouts("Llama-3.1-8B", "Alvis A40", 8, batch_tokens=4 * 4096)[-1].refused
    '4 sequences of a step are too few: stages of all copies want 8'
    """
    request = asked(model, cards, n_gpus, seq_len, batch_tokens)
    rows = [weigh(request, request.where[0], layout) for layout in _all(n_gpus)]
    return tuple(sorted(rows, key=lambda row: (bool(row.refused), row.seconds or 0.0)))


def asked(model: str | Model, cards: str | Offer, n_gpus: int, seq_len: int, batch_tokens: int) -> Request:
    """A training on all of so many cards of one kind; raises as `layouts`."""
    named, own = isinstance(model, str), isinstance(cards, Offer)
    where = cards.card.name if own else cards
    said = {"model": model if named else "SmolLM2-135M", "where": where, "n_gpus": n_gpus}
    request = read_request(said | {"task": "train", "seq_len": seq_len, "batch_tokens": batch_tokens})
    request = replace(request, model=request.model if named else model, where=(cards,) if own else request.where)
    if len(request.where) != 1:
        raise ValueError(f"cards of one kind are asked for, and {cards!r} has {len(request.where)}")
    if request.where[0].n_gpus < n_gpus:
        raise ValueError(f"{n_gpus} GPUs are asked for, and of {request.where[0].name} there are fewer")
    if n_gpus > request.where[0].gpus_per_node and n_gpus % request.where[0].gpus_per_node:
        raise ValueError(f"{n_gpus} GPUs are no whole nodes of {request.where[0].gpus_per_node}")
    return request


def _all(n_gpus: int) -> Iterator[Layout]:
    """Every product of three sizes."""
    sizes = [n for n in range(1, n_gpus + 1) if n_gpus % n == 0]
    for tp_size in sizes:
        for pp_size in sizes:
            if n_gpus % (tp_size * pp_size) == 0:
                yield Layout(n_gpus // tp_size // pp_size, tp_size, pp_size)


def weigh(request: Request, offer: Offer, layout: Layout) -> Row:
    """The fastest way to run a layout that fits, or why there is none."""
    try:
        for stage in {0, layout.pp_size - 1}:
            part(request.model, layout.tp_size, layout.pp_size, stage)
    except Indivisible as reason:
        return Row(layout, refused=str(reason))
    if sequences(request) < layout.dp_size * layout.pp_size:
        few = f"{sequences(request)} sequences of a step are too few"
        return Row(layout, refused=f"{few}: stages of all copies want {layout.dp_size * layout.pp_size}")
    whole = replace(layout, n_micro_batches=sequences(request) // layout.dp_size)
    found = list(_tried(request, offer, whole))
    fitting = [_timed(request, offer, *each) for each in found if each[1].fits != "no"]
    if fitting:
        return min(fitting, key=lambda row: row.seconds)
    if not found:
        return Row(whole, refused=f"what it holds all the time is more than the {gb(limit(offer))} of a GPU")
    way, memory = min(found, key=lambda each: each[1].over)
    most = max(memory.parts, key=memory.parts.get)
    refused = f"{gb(memory.over)} more than the {gb(memory.limit)} of a GPU, most of it {most}"
    return Row(way.layout, way.recompute, way.batch_size, memory, refused=refused)


def _tried(request: Request, offer: Offer, layout: Layout) -> Iterator[tuple[Way, Memory]]:
    """Ways and their memory; where no pipeline has to be filled, the most sequences at once that fit do."""
    done = set()
    for way in ways(request, layout, MOST_TOKENS):
        same = way.recompute, way.layout.zero
        if same in done or bursts(request, offer, way):
            continue
        memory = memory_of(request, offer, way)
        if memory.fits != "no" and layout.pp_size == 1:
            done.add(same)
        yield way, memory


def _timed(request: Request, offer: Offer, way: Way, memory: Memory) -> Row:
    speed = speed_of(request, offer, way)
    n_tokens = way.layout.dp_size * way.layout.n_micro_batches * way.batch_size * request.seq_len / way.layout.n_gpus
    n_passes = way.layout.n_micro_batches
    return Row(
        way.layout,
        way.recompute,
        way.batch_size,
        memory,
        speed,
        seconds=n_tokens / speed.likely,
        low=n_tokens / speed.high,
        high=n_tokens / speed.low,
        parts={name: n_passes * seconds for name, seconds in speed.seconds.items()},
    )


def sequences(request: Request) -> int:
    """Texts of an optimizer step."""
    return max(1, request.batch_tokens // request.seq_len)


def half(card: Accelerator) -> str:
    """The 16 bits that a card multiplies."""
    return "bf16" if "bf16" in card.dtypes else "fp16"


def limit(offer: Offer) -> float:
    """Bytes that a program sees of a GPU's memory, or nominal ones."""
    return offer.card.visible_bytes.value or offer.card.memory_bytes.known()


def adapts(request: Request) -> bool:
    """Whether adapters are trained beside frozen weights."""
    return request.method != "full"


def least_bytes(request: Request) -> float:
    """What all GPUs together have to hold at least."""
    return request.model.n_params * {"lora": 2, "qlora": 0.5, "full": STATE_BYTES}[request.method]


def ways(request: Request, layout: Layout, most_tokens: int = TOKENS_AT_ONCE) -> Iterator[Way]:
    """How a layout may be run, about the fastest first: what is divided, what recomputed, and texts of a micro-batch.

    `layout` has so many micro-batches as there are texts for each copy; `most_tokens` are those of a micro-batch.
    """
    at_once = max(1, min(most_tokens // request.seq_len, layout.n_micro_batches // layout.pp_size))
    sizes = {at_once, *(2**i for i in range(at_once.bit_length()) if most_tokens > TOKENS_AT_ONCE), 1}
    alone = layout.dp_size == 1
    stages = (0,) if alone else (0, 3) if adapts(request) else (1,) if layout.pp_size > 1 else (1, 2, 3)
    for recompute in ("none", "full"):
        for zero in stages:
            recipe = SHARDED if zero == 3 else MIXED
            for batch_size in sorted(sizes, reverse=True):
                n = max(layout.pp_size, layout.n_micro_batches // batch_size)
                yield Way(replace(layout, zero=zero, n_micro_batches=n), recipe, recompute, batch_size)


def bursts(request: Request, offer: Offer, way: Way) -> bool:
    """Whether what is held all the time is too much already: a quick look before the walk through the model."""
    layout = way.layout
    held = least_bytes(request) / layout.tp_size / layout.pp_size
    undivided = {0: STATE_BYTES, 1: 4, 2: 2, 3: 0}[layout.zero]  # of the bytes of a parameter
    if layout.zero:
        held *= (undivided + (STATE_BYTES - undivided) / layout.dp_size) / STATE_BYTES
    return held > limit(offer)


def memory_of(request: Request, offer: Offer, way: Way) -> Memory:
    """The fullest moment of the fullest rank."""
    number = half(offer.card)
    run = Pass(way.batch_size, request.seq_len, activation_dtype=number, recompute=way.recompute)
    if adapts(request):
        base = "nf4" if request.method == "qlora" else number
        top = lora_rank_peak(request.model, run, ADAPTERS, base, way.layout, recipe=FP32)
    else:
        recipe = way.recipe
        if recipe is MIXED:
            recipe = replace(recipe, parameter_dtype=number, gradient_dtype=number)
        top = rank_peak(request.model, run, recipe, way.layout)
    room = limit(offer)
    parts = {name: n_bytes for name, n_bytes in top.parts.items() if n_bytes}
    return Memory(room, parts, (CONTEXT[0], CONTEXT[1] + FRAGMENTS * room), f"{top.name}, {top.at}")


def speed_of(request: Request, offer: Offer, way: Way) -> Speed:
    """Tokens a second of each GPU; over the network that the offer names, or else what `network_note` says."""
    layout = way.layout
    return training_speed(
        offer.card,
        request.model,
        request.seq_len,
        half(offer.card),
        way.recompute,
        lora=adapts(request),
        batch_size=way.batch_size,
        dp_size=layout.dp_size,
        tp_size=layout.tp_size,
        pp_size=layout.pp_size,
        n_micro_batches=layout.n_micro_batches,
        nodes=offer.n_nodes(layout.n_gpus),
        network=offer.link,
        network_bytes_per_s=offer.network.value and offer.network.value / 8,
        zero=layout.zero,
        packed=request.method == "qlora",
    )


def network_note(offer: Offer, n_gpus: int) -> str:
    """What is assumed of the network between the nodes; empty where it is known, or where there is one node.

    >>> from llmhw_helpers.costs.places import offers
    >>> network_note(offers("Arrhenius")[0], 64)
    'No source gives the network of GH200 on Arrhenius: NDR InfiniBand, an adapter for each GPU, is assumed.'
    """
    if offer.network.value is not None or offer.n_nodes(n_gpus) == 1:
        return ""
    assumed = BOARD_NETWORKS.get(node_link(offer.card.name).name, "10 Gbit Ethernet")
    return f"No source gives the network of {offer.name}: {assumed}, an adapter for each GPU, is assumed."
