"""All plans that serve a model: formats, cards, tensor, pipeline and data parallel sizes, each weighed."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

from ..specs.accelerators import UnsupportedDtype
from ..specs.architectures import Model
from ..specs.figures import Figure, UnknownFigure
from ..specs.flavours import FLAVOURS, MEASURED_FROM_PARAMS, Flavour
from ..specs.serving_support import PUBLISHED, serves
from .parallelism import divides
from .places import Offer
from .plans import SPEEDS, Memory, Plan, Rate, Refusal, gb
from .requests import Request
from .serving_memory import BLOCK, serving_memory
from .speed import Speed, prefill_speed, serving_speed
from .weights import weight_bytes

RUNS = ("hardware", "fits")  # states of support that somebody vouches for
START_UPS = "costs.serving_reserve, held against vLLM's start-up logs in specs/measured.csv"
GAIN = 1.1  # speed of a user with twice as many copies, for which they are worth a plan of their own


def serving_plans(request: Request) -> tuple[list[Plan], list[Refusal]]:
    """Every plan that holds all users at once and may reach the wished speed; and what does not do, with the reason.

    Tensor parallelism stays inside a node, since every layer waits for its sums; stages of a pipeline lie in several
    where the tensor parallel ranks fill each. Of the stages those numbers are weighed that hold a text at all, up to
    twice the least; of copies the least number that holds everybody, and its doubles as long as the wished speed is not
    sure and each user gains by them.
    """
    plans, refusals = [], []
    for offer in request.where:
        for of in request.formats:
            if refused := _refused(request, offer, of):
                source = serves(offer.card, of)[1].source
                refusals.append(Refusal(f"{of.name} on {offer.name}", refused, None, offer, of.name, source=source))
                continue
            try:
                found = list(_layouts(request, offer, of))
            except (UnknownFigure, UnsupportedDtype) as error:
                found = [Refusal(f"{of.name} on {offer.name}", str(error), None, offer, of.name)]
            plans += [each for each in found if isinstance(each, Plan)]
            refusals += [each for each in found if isinstance(each, Refusal)]
    return plans, refusals


def _refused(request: Request, offer: Offer, of: Flavour) -> str:
    """Why a format is not weighed on a card at all; empty where it is."""
    state, runs = serves(offer.card, of)
    if state not in RUNS:
        how = {"no": "does not run there", "trial": "is an experiment there"}.get(state, "may run there or not")
        return f"{how} in vLLM: {runs.why}"
    if of.name == "fp16" and not request.named and serves(offer.card, FLAVOURS["bf16"])[0] in RUNS:
        return "bf16 runs there, and takes the same bytes"
    lost = loss(request.model, of)
    if lost is None:
        unmeasured = f"nobody measured what it loses on a model of {request.model.n_params / 1e9:.2g} billion weights"
        return "" if request.named else unmeasured
    return "" if lost <= request.max_loss else f"loses {lost:.1%} of quality, more than {request.max_loss:.1%}"


def loss(model: Model, of: Flavour) -> float | None:
    """Quality that a format loses, relative; None where nobody has measured it on a model of this size.

    >>> from llmhw_helpers.specs.models import model
    >>> round(loss(model("Llama-3.1-70B"), FLAVOURS["AWQ int4"]), 3), loss(model("SmolLM2-135M"), FLAVOURS["AWQ int4"])
    (0.024, None)
    """
    if of.name in ("bf16", "fp16", "fp32") or PUBLISHED.get(model.name) == of.name:
        return 0.0
    return of.loss.value if model.n_params >= MEASURED_FROM_PARAMS else None


def _layouts(request: Request, offer: Offer, of: Flavour) -> Iterator[Plan | Refusal]:
    """What becomes of one format on one kind of card, over all ways to divide the model."""
    model, in_node = _alike(request.model), min(offer.gpus_per_node, offer.n_gpus)
    tensor = [n for n in range(1, in_node + 1) if divides(model, n)]
    widest = max(n for n in tensor if offer.gpus_per_node % n == 0)
    for tp_size in tensor:
        numbers = _stages(request, offer, of, tp_size, several=tp_size == widest)
        memories = cache(partial(_held, request, offer, of, tp_size))
        # the more stages, the more room: the least number that holds a text, and the one before it, which does not
        first = bisect_left(numbers, True, key=lambda n: _room(request, memories(n, 1))[0] >= 1)
        for pp_size in numbers[max(0, first - 1) :]:
            if first < len(numbers) and pp_size > 2 * numbers[first]:
                break
            found = list(_copies(request, offer, of, tp_size, pp_size, partial(memories, pp_size)))
            yield from found
            held = [each for each in found if isinstance(each, Plan) or each.bytes_over is None]
            if held and held[0].n_gpus == tp_size * pp_size:
                break


def _stages(request: Request, offer: Offer, of: Flavour, tp_size: int, several: bool) -> list[int]:
    """Numbers of stages, from the last one that cannot hold the weights; in one node, or in `several`."""
    most = min(request.model.n_layers, (offer.n_gpus if several else min(offer.gpus_per_node, offer.n_gpus)) // tp_size)
    memory = request.utilisation * (offer.card.visible_bytes.value or offer.card.memory_bytes.known())
    least = int(_all_weights(request.model, of) / tp_size / memory)
    model = _alike(request.model)
    return [n for n in range(max(1, min(least, most)), most + 1) if divides(model, tp_size, n)]


def _alike(model: Model) -> Model:
    """With local layers like the others, as the cache is counted: for the division they are."""
    return replace(model, n_local_layers=0, n_nope_layers=0)


def _copies(
    request: Request, offer: Offer, of: Flavour, tp_size: int, pp_size: int, memory_of: Callable[[int], Memory]
) -> Iterator[Plan | Refusal]:
    """Plans with one way to divide the model, and more and more copies of it.

    What a copy keeps free grows with the texts of its own step: `memory_of` is asked for as many as one copy has.
    """
    n_gpus, users, held = tp_size * pp_size, request.users, memory_of(1)
    what = f"{of.name} on {n_gpus} x {offer.card.name}"
    if _room(request, held)[0] < 1:
        with_one = _with(request, held, 1)
        why = _over(with_one, f"one text of {request.context} tokens")
        yield Refusal(what, why, with_one.over, offer, of.name, n_gpus)
        return
    copies = range(1, min(users, offer.n_gpus // n_gpus) + 1)

    def holds(dp_size: int, which: int) -> bool:
        batch = -(-users // dp_size)
        return _room(request, memory_of(batch))[which] >= batch

    # the least number with the high reserve; where there are too few GPUs for that, with the low one
    least = (1 + bisect_left(copies, True, key=partial(holds, which=which)) for which in (1, 0))
    dp_size = next((n for n in least if n in copies), None)
    if dp_size is None:
        batch = -(-users // len(copies))
        with_all = _with(request, memory_of(batch), batch)
        why = _over(with_all, f"{batch} texts of {request.context} tokens")
        yield Refusal(what, why, with_all.over, offer, of.name, offer.n_gpus // n_gpus * n_gpus)
        return
    sure, fastest = False, 0.0
    while not sure and dp_size in copies and holds(dp_size, 0):
        batch = -(-users // dp_size)
        memory = _with(request, memory_of(batch), batch)
        speed, read = _speed(request, offer, of, tp_size, pp_size, batch)
        if speed.low < GAIN * fastest:
            return
        found = _plan(request, offer, of, (tp_size, pp_size, dp_size), memory, batch, speed, read)
        yield found
        sure, fastest = isinstance(found, Plan) and found.sure == "yes", speed.low
        dp_size *= 2


def _text(request: Request, held: Memory) -> float:
    """Bytes of a text's cache."""
    return -(-request.context // BLOCK) * BLOCK * held.parts["cache"]


def _with(request: Request, held: Memory, batch: int) -> Memory:
    return replace(held, parts=held.parts | {"cache": batch * _text(request, held)})


def _room(request: Request, held: Memory) -> list[float]:
    """Texts that there is room for: most, with the low reserve, and least."""
    return [(held.limit - held.parts["weights"] - reserve) // _text(request, held) for reserve in held.reserve]


def _over(memory: Memory, texts: str) -> str:
    weights = gb(memory.parts["weights"])
    return f"{weights} of weights and {texts} are {gb(memory.over)} more than the {gb(memory.limit)} that a GPU gives"


def _plan(
    request: Request,
    offer: Offer,
    of: Flavour,
    sizes: tuple[int, int, int],
    memory: Memory,
    batch: int,
    speed: Rate,
    read: Rate,
) -> Plan | Refusal:
    tp_size, pp_size, dp_size = sizes
    first_token = request.prompt / read.high, request.prompt / read.low
    reached = [memory.fits, speed.reaches(request.tokens_per_s)]
    if request.first_token_s:
        low, high = first_token
        reached.append(_within(low, high, request.first_token_s))
    plan = Plan(
        offer=offer,
        format=of.name,
        tp_size=tp_size,
        pp_size=pp_size,
        dp_size=dp_size,
        batch_size=batch,
        memory=memory,
        speed=speed,
        seconds=(request.answer / speed.high, request.answer / speed.low),
        loss=loss(request.model, of),
        sure="yes" if set(reached) == {"yes"} else "perhaps",
        sources=_sources(request.model, offer, of),
        first_token=first_token,
        tokens_per_s=(speed.low * request.users, speed.high * request.users),
    )
    if "no" not in reached:
        return plan
    if reached[1] == "no":
        why = f"{speed.high:.3g} tokens/s for each user at most, less than {request.tokens_per_s:g}"
    else:
        why = f"{first_token[0]:.3g} s until the first token at least, more than {request.first_token_s:g}"
    return Refusal(plan.name, why, None, offer, of.name, plan.n_gpus)


def _within(low: float, high: float, most: float) -> str:
    return "yes" if high <= most else "perhaps" if low <= most else "no"


def _sources(model: Model, offer: Offer, of: Flavour) -> tuple[str, ...]:
    card = offer.card
    figures: tuple[Figure, ...] = (card.memory_bytes, card.visible_bytes, card.bytes_per_s, card.tdp_watts, offer.price)
    used = [figure.source for figure in figures if figure.value is not None]
    predicted = [f"reserve: {START_UPS}", f"speed: {SPEEDS}"]
    return tuple(
        dict.fromkeys([model.source, of.source, serves(card, of)[1].source, of.loss.source, *used, *predicted])
    )


@cache
def _all_weights(model: Model, of: Flavour) -> int:
    return weight_bytes(model, of)


def _held(request: Request, offer: Offer, of: Flavour, tp_size: int, pp_size: int, batch: int) -> Memory:
    """Weights, and the cache of one token, of the fullest stage; the reserve has what is not sure of the card."""
    settings = {"utilisation": request.utilisation, "max_model_len": request.context, "max_seqs": batch}
    found = serving_memory(request.model, offer.card, of, tp_size, pp_size, **settings)
    least, limit, most = found.budget
    reserve = max(0, found.reserve.low - (most - limit)), found.reserve.high + (limit - least)
    at = f"stage {found.stage + 1} of {pp_size}" if pp_size > 1 else ""
    parts = {"weights": found.weights, "cache": found.kv_bytes_per_token}
    return Memory(limit, parts, reserve, at, found.reserve.why)


def _speed(request: Request, offer: Offer, of: Flavour, tp_size: int, pp_size: int, batch: int) -> tuple[Rate, Rate]:
    """Tokens per second of each user, waiting for the first one included; and of reading a prompt."""
    settings = (offer.card, request.model, of)
    made = serving_speed(*settings, batch, request.prompt, request.answer, tp_size, pp_size)
    read = prefill_speed(*settings, request.prompt, tp_size, pp_size)
    return _rate(made, batch, "tokens/s"), _rate(read, 1, "tokens/s")


def _rate(speed: Speed, users: int, unit: str) -> Rate:
    return Rate(speed.low / users, speed.high / users, unit, speed.floor / users, speed.share.basis)
