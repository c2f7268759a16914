"""All plans that train a model, or fine-tune it: cards, numbers of GPUs, and ways to divide, each weighed.

Of each number of GPUs and each tensor and pipeline parallel size one plan is kept: the one that divides and recomputes
least of those that fit, since both cost time.
"""

from collections.abc import Iterator

from ..specs.accelerators import UnsupportedDtype
from ..specs.figures import UnknownFigure
from ..specs.flavours import support
from .layouts import (
    Way,
    adapts,
    bursts,
    half,
    least_bytes,
    limit,
    memory_of,
    sequences,
    speed_of,
    ways,
)
from .parallelism import divides
from .places import Offer
from .plans import Memory, Plan, Rate, Refusal, gb
from .requests import Request
from .training_memory import Layout

STAGES = (2, 4, 8, 16)


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
        texts = "one text" if (n := sequences(request)) == 1 else f"{n} texts"
        why = f"a step of {texts} has no part for each of {ladder[0]} GPUs: ask for larger steps"
        found.append(Refusal(f"{of} on {ladder[0]} x {offer.card.name}", why, None, offer, of))
    return found


def _too_few(request: Request, offer: Offer, of: str) -> Refusal | None:
    """The most GPUs that together do not even hold the weights, and what is trained of them; None where one does."""
    need = least_bytes(request)
    n_gpus = min(offer.n_gpus, int(need // limit(offer)))
    if not n_gpus:
        return None
    held = "weights" if adapts(request) else "weights, gradients and the optimizer's numbers"
    over = need / n_gpus - limit(offer)
    why = f"{gb(need)} of {held}: {gb(over)} more than the {gb(limit(offer))} of each GPU"
    return Refusal(f"{of} on {n_gpus} x {offer.card.name}", why, over, offer, of, n_gpus)


def _format(request: Request, offer: Offer) -> str:
    """Of the weights: 4 bits for QLoRA, else the 16 bits that the card multiplies."""
    if request.method == "qlora":
        return "NF4"
    return half(offer.card)


def _refused(request: Request, offer: Offer) -> str:
    """Why nothing is weighed on a card; empty where it is."""
    if half(offer.card) not in offer.card.dtypes:
        return "no arithmetic in 16 bits is known of it"
    if request.method != "qlora":
        return ""
    capability, runs = offer.card.compute_capability.value, support("transformers", "NF4")
    state = "unknown" if capability is None else runs.state(capability)
    return "" if state == "fits" else f"bitsandbytes' 4 bits: {state} there ({runs.source})"


def _ladder(request: Request, offer: Offer) -> list[int]:
    """Numbers of GPUs to weigh: up to a node its powers of two, then whole nodes, doubled; and all there are."""
    least = -(-least_bytes(request) // limit(offer))
    in_node = [n for n in (1, 2, 4, 8) if n < offer.gpus_per_node] + [offer.gpus_per_node]
    nodes = offer.n_gpus // offer.gpus_per_node
    first = max(1, -(-int(least) // offer.gpus_per_node))
    several = [offer.gpus_per_node * n for n in (*(first * 2**i for i in range(20) if first * 2**i < nodes), nodes)]
    return sorted({n for n in in_node + several if least <= n <= offer.n_gpus})


def _layouts(request: Request, offer: Offer, n_gpus: int) -> Iterator[Layout]:
    """Ways to divide so many GPUs: tensor parallelism inside a node, stages over nodes, the rest copies."""
    most = min(n_gpus, offer.gpus_per_node)
    for tp_size in {1} if adapts(request) else sorted({1, most}):  # what lies between is like both, and takes time
        for pp_size in (1, *STAGES):
            if pp_size > 1 and (adapts(request) or tp_size < offer.gpus_per_node):
                continue
            dp_size = min(n_gpus // (tp_size * pp_size), sequences(request) // pp_size)  # every stage has work
            if 2 * dp_size * tp_size * pp_size <= n_gpus or not divides(request.model, tp_size, pp_size):
                continue  # so few are weighed by themselves
            yield Layout(dp_size, tp_size, pp_size, n_micro_batches=sequences(request) // dp_size)


def _best(request: Request, offer: Offer, of: str, layout: Layout) -> Plan | Refusal:
    """The first way that fits, or else the last one's lack."""
    lacks = []
    for way in ways(request, layout):
        if bursts(request, offer, way):
            continue
        memory = memory_of(request, offer, way)
        if memory.fits != "no":
            return _plan(request, offer, of, way, memory)
        lacks.append(memory)
    n_gpus, what = layout.n_gpus, f"{of} on {layout.n_gpus} x {offer.card.name}"
    if not lacks:
        over = least_bytes(request) / layout.tp_size / layout.pp_size - limit(offer)
        why = f"what it holds is {gb(over)} more than the {gb(limit(offer))} of a GPU"
        return Refusal(what, why, over, offer, of, n_gpus)
    nearest = min(lacks, key=lambda memory: memory.over)
    most = max(nearest.parts, key=nearest.parts.get)
    why = f"{gb(nearest.over)} more than the {gb(nearest.limit)} of a GPU, most of it {most}"
    return Refusal(what, why, nearest.over, offer, of, n_gpus)


def _plan(request: Request, offer: Offer, of: str, way: Way, memory: Memory) -> Plan | Refusal:
    layout = way.layout
    n_gpus, per_gpu = layout.n_gpus, speed_of(request, offer, way)
    rate = (per_gpu.low * n_gpus, per_gpu.high * n_gpus)
    speed = Rate(*rate, "tokens/s", per_gpu.floor * n_gpus, per_gpu.share.basis)
    seconds = (request.n_tokens / speed.high, request.n_tokens / speed.low)
    most = request.days * 86400 if request.days else float("inf")
    in_time = "yes" if seconds[1] <= most else "perhaps" if seconds[0] <= most else "no"
    known = "yes" if half(offer.card) == "bf16" else "perhaps"  # speeds were measured on cards with bf16
    card = offer.card
    figures = (
        card.memory_bytes,
        card.visible_bytes,
        card.peak(half(offer.card)),
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
        batch_size=way.batch_size,
        memory=memory,
        speed=speed,
        seconds=seconds,
        loss=0.0,
        sure="yes" if {memory.fits, in_time, known} == {"yes"} else "perhaps",
        sources=tuple(
            dict.fromkeys([request.model.source, *(each.source for each in figures if each.value is not None)])
        ),
        zero=layout.zero,
        recompute=way.recompute,
        n_micro_batches=layout.n_micro_batches,
        tokens_per_s=rate,
        n_tokens=request.n_tokens,
        trains=True,
    )
    if in_time != "no":
        return plan
    why = f"{seconds[0] / 86400:.3g} days at least, more than {request.days:g}"
    return Refusal(plan.name, why, None, offer, of, n_gpus, reached=most / seconds[0])
