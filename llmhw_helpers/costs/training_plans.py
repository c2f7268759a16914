"""All plans that train a model, or fine-tune it: cards, numbers of GPUs, and ways to divide, each weighed.

Of each number of GPUs and each tensor and pipeline parallel size one plan is kept: the one that divides and recomputes
least of those that fit, since both cost time.
"""

from collections.abc import Iterator
from dataclasses import replace

from ..specs.accelerators import UnsupportedDtype
from ..specs.figures import UnknownFigure
from ..specs.flavours import support
from .lora import ALL_LINEAR, LoRA
from .memory import FP32, Recipe
from .operations import Pass
from .parallelism import divides
from .places import Offer
from .plans import Memory, Plan, Rate, Refusal, gb
from .requests import Request
from .speed import training_speed
from .training_memory import MIXED, SHARDED, Layout, lora_rank_peak, rank_peak

ADAPTERS = LoRA(16, ALL_LINEAR)
TOKENS_AT_ONCE = 4096  # of a micro-batch, where a text is not longer: a GPU that has less to do waits
CONTEXT = (0.4e9, 1.5e9)  # bytes of CUDA's context and of NCCL's buffers: an assumption
FRAGMENTS = 0.05  # of the memory, lost between blocks at most: an assumption
STAGES = (2, 4, 8, 16)
STATE_BYTES = 16  # of a parameter, when everything is trained: weights, gradients, optimizer


def training_plans(request: Request) -> tuple[list[Plan], list[Refusal]]:
    """Every plan that fits and may be done in time; and what does not do, with the reason.

    Numbers of GPUs are doubled, from the least that could hold the weights (and, where all are trained, their
    gradients and the optimizer's states) to all there are.
    """
    plans, refusals = [], []
    for offer in request.where:
        of = _format(request, offer)
        what = f"{of} on {offer.card.name}"
        if refused := _refused(request, offer):
            refusals.append(Refusal(what, refused, None, offer, of))
            continue
        try:
            found = _of_cards(request, offer, of)
        except (UnknownFigure, UnsupportedDtype) as error:
            found = [Refusal(what, str(error), None, offer, of)]
        plans += [each for each in found if isinstance(each, Plan)]
        refusals += [each for each in found if isinstance(each, Refusal)]
    return plans, refusals


def _of_cards(request: Request, offer: Offer, of: str) -> list[Plan | Refusal]:
    """What becomes of one kind of card, over all numbers of GPUs."""
    short, ladder = _too_few(request, offer, of), _ladder(request, offer)
    layouts = dict.fromkeys(layout for n_gpus in ladder for layout in _layouts(request, offer, n_gpus))
    found = [short] if short else []
    found += [_best(request, offer, of, layout) for layout in layouts]
    if ladder and not layouts:
        texts = "one text" if (n := _sequences(request)) == 1 else f"{n} texts"
        why = f"a step of {texts} has no part for each of {ladder[0]} GPUs: ask for larger steps"
        found.append(Refusal(f"{of} on {ladder[0]} x {offer.card.name}", why, None, offer, of))
    return found


def _too_few(request: Request, offer: Offer, of: str) -> Refusal | None:
    """The most GPUs that together do not even hold the weights, and what is trained of them; None where one does."""
    need = _least_bytes(request)
    n_gpus = min(offer.n_gpus, int(need // _limit(offer)))
    if not n_gpus:
        return None
    held = "weights" if _adapts(request) else "weights, gradients and the optimizer's numbers"
    over = need / n_gpus - _limit(offer)
    why = f"{gb(need)} of {held}: {gb(over)} more than the {gb(_limit(offer))} of each GPU"
    return Refusal(f"{of} on {n_gpus} x {offer.card.name}", why, over, offer, of, n_gpus)


def _adapts(request: Request) -> bool:
    return request.method != "full"


def _format(request: Request, offer: Offer) -> str:
    """Of the weights: 4 bits for QLoRA, else the 16 bits that the card multiplies."""
    if request.method == "qlora":
        return "NF4"
    return _half(offer)


def _half(offer: Offer) -> str:
    return "bf16" if "bf16" in offer.card.dtypes else "fp16"


def _refused(request: Request, offer: Offer) -> str:
    """Why nothing is weighed on a card; empty where it is."""
    if _half(offer) not in offer.card.dtypes:
        return "no arithmetic in 16 bits is known of it"
    if request.method != "qlora":
        return ""
    capability, runs = offer.card.compute_capability.value, support("transformers", "NF4")
    state = "unknown" if capability is None else runs.state(capability)
    return "" if state == "fits" else f"bitsandbytes' 4 bits: {state} there ({runs.source})"


def _limit(offer: Offer) -> float:
    return offer.card.visible_bytes.value or offer.card.memory_bytes.known()


def _least_bytes(request: Request) -> float:
    """What all GPUs together have to hold at least."""
    n = request.model.n_params
    return n * {"lora": 2, "qlora": 0.5, "full": STATE_BYTES}[request.method]


def _sequences(request: Request) -> int:
    """Texts of an optimizer step."""
    return max(1, request.batch_tokens // request.seq_len)


def _ladder(request: Request, offer: Offer) -> list[int]:
    """Numbers of GPUs to weigh: up to a node its powers of two, then whole nodes, doubled; and all there are."""
    least = -(-_least_bytes(request) // _limit(offer))
    in_node = [n for n in (1, 2, 4, 8) if n < offer.gpus_per_node] + [offer.gpus_per_node]
    nodes = offer.n_gpus // offer.gpus_per_node
    first = max(1, -(-int(least) // offer.gpus_per_node))
    several = [offer.gpus_per_node * n for n in (*(first * 2**i for i in range(20) if first * 2**i < nodes), nodes)]
    return sorted({n for n in in_node + several if least <= n <= offer.n_gpus})


def _layouts(request: Request, offer: Offer, n_gpus: int) -> Iterator[Layout]:
    """Ways to divide so many GPUs: tensor parallelism inside a node, stages over nodes, the rest copies."""
    most = min(n_gpus, offer.gpus_per_node)
    for tp_size in {1} if _adapts(request) else sorted({1, most}):  # what lies between is like both, and takes time
        for pp_size in (1, *STAGES):
            if pp_size > 1 and (_adapts(request) or tp_size < offer.gpus_per_node):
                continue
            dp_size = min(n_gpus // (tp_size * pp_size), _sequences(request) // pp_size)  # every stage has work
            if 2 * dp_size * tp_size * pp_size <= n_gpus or not divides(request.model, tp_size, pp_size):
                continue  # so few are weighed by themselves
            yield Layout(dp_size, tp_size, pp_size, n_micro_batches=_sequences(request) // dp_size)


def _ways(request: Request, layout: Layout) -> Iterator[tuple[Layout, Recipe, str, int]]:
    """How a layout may be run, the fastest first: what is divided, what recomputed, and texts of a micro-batch."""
    at_once = max(1, min(TOKENS_AT_ONCE // request.seq_len, layout.n_micro_batches))
    alone = layout.dp_size == 1
    stages = (0,) if alone else (0, 3) if _adapts(request) else (1,) if layout.pp_size > 1 else (1, 3)
    for recompute in ("none", "full"):
        for zero in stages:
            recipe = SHARDED if zero == 3 else MIXED
            for batch_size in sorted({at_once, 1}, reverse=True):
                n = max(layout.pp_size, layout.n_micro_batches // batch_size)
                yield replace(layout, zero=zero, n_micro_batches=n), recipe, recompute, batch_size


def _best(request: Request, offer: Offer, of: str, layout: Layout) -> Plan | Refusal:
    """The first way that fits, or else the last one's lack."""
    lacks = []
    for ways, recipe, recompute, batch_size in _ways(request, layout):
        if _bursts(request, offer, ways):
            continue
        memory = _memory(request, offer, ways, recipe, recompute, batch_size)
        if memory.fits != "no":
            return _plan(request, offer, of, ways, recompute, batch_size, memory)
        lacks.append(memory)
    n_gpus, what = layout.n_gpus, f"{of} on {layout.n_gpus} x {offer.card.name}"
    if not lacks:
        over = _least_bytes(request) / layout.tp_size / layout.pp_size - _limit(offer)
        why = f"what it holds is {gb(over)} more than the {gb(_limit(offer))} of a GPU"
        return Refusal(what, why, over, offer, of, n_gpus)
    nearest = min(lacks, key=lambda memory: memory.over)
    most = max(nearest.parts, key=nearest.parts.get)
    why = f"{gb(nearest.over)} more than the {gb(nearest.limit)} of a GPU, most of it {most}"
    return Refusal(what, why, nearest.over, offer, of, n_gpus)


def _bursts(request: Request, offer: Offer, layout: Layout) -> bool:
    """Whether what is held all the time is too much already: a quick look before the walk through the model."""
    ranks = layout.tp_size * layout.pp_size
    if layout.zero == 3:
        ranks *= layout.dp_size
    held = _least_bytes(request) / ranks
    if layout.zero == 1:  # the optimizer's 12 of 16 bytes are divided
        held *= (4 + 12 / layout.dp_size) / STATE_BYTES
    return held > _limit(offer)


def _memory(request: Request, offer: Offer, layout: Layout, recipe: Recipe, recompute: str, batch_size: int) -> Memory:
    half = _half(offer)
    run = Pass(batch_size, request.seq_len, activation_dtype=half, recompute=recompute)
    if _adapts(request):
        base = "nf4" if request.method == "qlora" else half
        top = lora_rank_peak(request.model, run, ADAPTERS, base, layout, recipe=FP32)
    else:
        if recipe is MIXED:
            recipe = replace(recipe, parameter_dtype=half, gradient_dtype=half)
        top = rank_peak(request.model, run, recipe, layout)
    limit = _limit(offer)
    parts = {name: n_bytes for name, n_bytes in top.parts.items() if n_bytes}
    return Memory(limit, parts, (CONTEXT[0], CONTEXT[1] + FRAGMENTS * limit), f"{top.name}, {top.at}")


def _plan(
    request: Request, offer: Offer, of: str, layout: Layout, recompute: str, batch_size: int, memory: Memory
) -> Plan | Refusal:
    n_gpus = layout.n_gpus
    per_gpu = training_speed(
        offer.card,
        request.model,
        request.seq_len,
        _half(offer),
        recompute,
        lora=_adapts(request),
        batch_size=batch_size,
        dp_size=layout.dp_size,
        tp_size=layout.tp_size,
        pp_size=layout.pp_size,
        n_micro_batches=layout.n_micro_batches,
        nodes=offer.n_nodes(n_gpus),
        network_bytes_per_s=offer.network.value and offer.network.value / 8,
        zero=layout.zero,
        packed=request.method == "qlora",
    )
    rate = (per_gpu.low * n_gpus, per_gpu.high * n_gpus)
    speed = Rate(*rate, "tokens/s", per_gpu.floor * n_gpus, per_gpu.share.basis)
    seconds = (request.n_tokens / speed.high, request.n_tokens / speed.low)
    most = request.days * 86400 if request.days else float("inf")
    in_time = "yes" if seconds[1] <= most else "perhaps" if seconds[0] <= most else "no"
    known = "yes" if _half(offer) == "bf16" else "perhaps"  # speeds were measured on cards with bf16
    card = offer.card
    figures = (
        card.memory_bytes,
        card.visible_bytes,
        card.peak(_half(offer)),
        card.bytes_per_s,
        card.tdp_watts,
        offer.price,
    )
    plan = Plan(
        offer=offer,
        format=of,
        tp_size=layout.tp_size,
        pp_size=layout.pp_size,
        dp_size=layout.dp_size,
        batch_size=batch_size,
        memory=memory,
        speed=speed,
        seconds=seconds,
        loss=0.0,
        sure="yes" if {memory.fits, in_time, known} == {"yes"} else "perhaps",
        sources=tuple(
            dict.fromkeys([request.model.source, *(each.source for each in figures if each.value is not None)])
        ),
        zero=layout.zero,
        recompute=recompute,
        n_micro_batches=layout.n_micro_batches,
        tokens_per_s=rate,
        n_tokens=request.n_tokens,
        trains=True,
    )
    if in_time != "no":
        return plan
    why = f"{seconds[0] / 86400:.3g} days at least, more than {request.days:g}"
    return Refusal(plan.name, why, None, offer, of, n_gpus, reached=most / seconds[0])
