"""The planner: on how many of which cards does a model run, in which format, how fast, and for how much?

`answer` takes and gives what JSON can hold: the same face for the command line, a widget and a page.
"""

from dataclasses import dataclass, replace

from ..specs.figures import UnknownFigure, UnknownName, si
from ..specs.flavours import FLAVOURS
from .layouts import ADAPTERS, CONTEXT, FRAGMENTS, network_note
from .places import CARDS_PER_NODE
from .plans import Plan, Refusal, gb, order, pareto
from .reasons import duration, grouped, headline, nothing, reasons, span, why
from .requests import USUAL, BadRequest, Request, read_request
from .serving_plans import serving_plans
from .training_plans import training_plans

SHOWN = 24  # plans in an answer, besides the Pareto set
MOST_GPUS = 4096  # that are tried where nothing does with fewer
MOST_LOSS = 0.1
USUAL_FLAVOURS = tuple(FLAVOURS[name] for name in USUAL)


@dataclass(frozen=True)
class Result:
    """Plans, the best first; those that no other beats; what does not do; and what to know about it all."""

    request: Request
    plans: tuple[Plan, ...]
    pareto: tuple[Plan, ...]
    refusals: tuple[Refusal, ...]


def plan(request: Request) -> Result:
    """All plans for a request.

    Raises:
        NoFormula: a model that is built in a way that a formula would be wrong for.
        UnknownFigure: a card without the figures that it takes.

    >>> found = plan(read_request({"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis", "formats": ["bf16"]}))
    >>> found.plans[0].name
    'bf16 on 2 x A100-80GB, TP 2'
    """
    plans, refusals = (serving_plans if request.task == "serve" else training_plans)(request)
    return Result(request, tuple(order(plans)), tuple(pareto(plans)), tuple(refusals))


def answer(request: object) -> dict:
    """What `request` asks for, in values that JSON can hold; never an exception for a bad one.

    Args:
        request: ``model`` (a name, or the mapping of a config.json), ``task`` (``"serve"``, ``"fine-tune"``,
            ``"train"``), ``where`` (a cluster, a card, or a list of these), and any of `requests.FIELDS`.

    Returns:
        ``{"ok": True, "headline", "reasons", "plans", "refused", "notes"}``, or ``{"ok": False, "error", "nearest"}``,
        each a line.

    >>> answer({"model": "Llama-3.1-8B", "task": "serve", "where": "Arrhenus"})["error"]
    "unknown cluster or card 'Arrhenus'; did you mean Arrhenius?"
    """
    try:
        return _answer(plan(read_request(request)))
    except BadRequest as error:
        return {"ok": False, "error": str(error), "nearest": error.nearest}
    except (UnknownName, UnknownFigure, ValueError) as error:  # of which NoFormula is one
        return {"ok": False, "error": str(error), "nearest": ""}
    except RecursionError:
        return {"ok": False, "error": "the request is nested too deep to be one", "nearest": ""}


def _answer(result: Result) -> dict:
    if not result.plans:
        said = nothing(result.request, result.refusals)
        return {"ok": False, "error": said, "nearest": nearest(result.request)}
    plans, refusals = result.plans, result.refusals
    shown = [each for i, each in enumerate(plans) if i < SHOWN or each in result.pareto]
    return {
        "ok": True,
        "headline": headline(result.request, plans),
        "reasons": reasons(result.request, plans, refusals),
        "plans": [_plan(each, each in result.pareto, why(each, plans, refusals)) for each in shown],
        "refused": [
            {"what": each.what, "why": each.why, "bytes_over": each.bytes_over, "source": each.source}
            for each in grouped(plans, refusals)
        ],
        "notes": _notes(result, len(shown)),
    }


def nearest(request: Request) -> str:
    """Where nothing does: what would, with one wish given up at a time.

    Tried are: any speed, or time; a format that loses more; fewer users; shorter texts; more GPUs.
    """
    if request.task != "serve":
        patient = replace(request, days=0.0)
        late = sorted(plan(patient).plans, key=lambda each: -each.speed.high)
        slower = [f"the fastest is {each.name}, in {duration(each.seconds)}" for each in late[:1]]
        return "; or ".join(slower + _more(request, patient))
    if slow := _slower(request):
        best = max(slow, key=lambda each: (each.speed.high, -each.n_gpus))
        return f"the fastest is {best.name}, with {span(best.speed)}"
    any_format = replace(request, formats=USUAL_FLAVOURS, named=True, max_loss=MOST_LOSS)
    possible = []
    if coarser := plan(any_format).plans or plan(_at_any_speed(any_format)).plans:
        loss = coarser[0].loss
        lost = "an unknown loss" if loss is None else f"a loss of {loss:.1%}" if loss else "no loss"
        possible.append(f"{coarser[0].name}, with {lost} and {span(coarser[0].speed)}")
    possible += _fewer(request) or ([] if possible else _fewer(any_format))
    more = _more(request, _at_any_speed(request)) or _more(any_format, _at_any_speed(any_format))
    possible += [each for each in more if not any(one.startswith(f"{each}, with ") for one in possible)]
    return "; or ".join(possible)


def _slower(request: Request) -> tuple[Plan, ...]:
    """Plans that come nearest to the wished speed; none where it is not speed that lacks."""
    share = 0.99 * max((each.reached for each in plan(request).refusals), default=0.0)
    if not share:
        return ()
    soon = request.first_token_s and request.first_token_s / share
    return plan(replace(request, tokens_per_s=share * request.tokens_per_s, first_token_s=soon)).plans


def _at_any_speed(request: Request) -> Request:
    return replace(request, tokens_per_s=0.0, first_token_s=None)


def _fewer(request: Request) -> list[str]:
    """Fewer users, and where one is too many, shorter texts: halved until they fit."""
    if all(each.bytes_over is None for each in plan(request).refusals):
        return []  # it is not memory that is short
    users = request.users
    while (users := users // 2) >= 1:
        if found := plan(replace(request, users=users)).plans:
            return [f"{users} users at a time, with {found[0].name}"]
    prompt, answered = request.prompt, request.answer
    while (prompt := prompt // 2) + (answered := max(1, answered // 2)) > 16:
        if found := plan(replace(request, users=1, prompt=max(1, prompt), answer=answered)).plans:
            return [f"one user with texts of {prompt + answered} tokens, with {found[0].name}"]
    return []


def _more(request: Request, patient: Request) -> list[str]:
    """The same cards, doubled until they do; where they stay too slow or too late, how they do for the `patient`."""
    n, slow = max(offer.n_gpus for offer in request.where), None
    bits = min((of.bits or 4 for of in request.formats), default=4)
    while (n := 2 * n) <= MOST_GPUS:
        where = tuple(offer.more(n) for offer in request.where)
        if where == request.where or (slow and n > 8 * slow.n_gpus):
            break
        if all(each.n_gpus * (each.card.memory_bytes.value or 0) < request.model.n_params * bits / 8 for each in where):
            continue
        if found := plan(replace(request, where=where)).plans:
            return [found[0].name]
        slow = slow or next(iter(plan(replace(patient, where=where)).plans), None)
    return [f"{slow.name}, with {span(slow.speed)}"] if slow else []


def _notes(result: Result, n_shown: int) -> list[str]:
    request, plans = result.request, result.plans
    notes = [*request.notes, _asked(request)]
    unpriced = dict.fromkeys(each.name for each in request.where if each.price.value is None)
    if unpriced:
        notes.append(f"No price by the hour is known of {', '.join(unpriced)}: plans are compared by their GPUs.")
    if any(each.cluster is None and each.n_gpus > each.gpus_per_node for each in request.where):
        notes.append(f"Cards of your own are taken to stand {CARDS_PER_NODE} in a node.")
    trained = [] if request.task == "serve" else plans
    over_networks = {each.offer.name: network_note(each.offer, each.n_gpus) for each in trained}
    notes += [note for note in dict.fromkeys(over_networks.values()) if note]
    if any(each.card.name.endswith(" GCD") for each in request.where):
        notes.append("A program sees an MI250X as two GPUs: one GPU here is such a half of it, a GCD.")
    if len(request.where) > 1:
        notes.append("A plan has cards of one kind: none mixes them.")
    if n_shown < len(plans):
        notes.append(f"{len(plans)} plans do; shown are the first {SHOWN} and the Pareto set.")
    return notes


def _asked(request: Request) -> str:
    """What was asked for, with all that was taken for granted."""
    if request.task == "serve":
        wish = f", at {request.tokens_per_s:g} tokens/s or more for each" if request.tokens_per_s else ""
        texts = f"prompts of {request.prompt} tokens and answers of {request.answer}"
        return f"Asked for: {request.users} users at a time, {texts}{wish}."
    kind = "" if request.method == "full" else f" of adapters of rank {ADAPTERS.rank} beside every matrix"
    steps = f"{si(request.n_tokens, '')} tokens in texts of {request.seq_len}, {si(request.batch_tokens, '')} in a step"
    wish = f", in {request.days:g} {'day' if request.days == 1 else 'days'} or less" if request.days else ""
    kept = f"{gb(CONTEXT[0])} to {gb(CONTEXT[1])} and {FRAGMENTS:.0%} of a GPU for CUDA and fragments are assumed"
    return f"Asked for: training{kind} on {steps}{wish}; {kept}."


def _plan(plan: Plan, best: bool, why: str) -> dict:
    price, memory, speed = plan.price, plan.memory, plan.speed
    unit = plan.offer.price.unit
    return {
        "name": plan.name,
        "format": plan.format,
        "card": plan.offer.card.name,
        "cluster": plan.offer.cluster,
        "n_gpus": plan.n_gpus,
        "n_nodes": plan.n_nodes,
        "tp_size": plan.tp_size,
        "pp_size": plan.pp_size,
        "dp_size": plan.dp_size,
        "zero": plan.zero,
        "recompute": plan.recompute,
        "batch_size": plan.batch_size,
        "n_micro_batches": plan.n_micro_batches,
        "loss": plan.loss,
        "sure": plan.sure,
        "memory": {
            "limit": memory.limit,
            "parts": dict(memory.parts),
            "reserve": list(memory.reserve),
            "fits": memory.fits,
            "at": memory.at,
            "why": memory.why,
        },
        "speed": {
            "low": speed.low,
            "high": speed.high,
            "unit": speed.unit,
            "floor": speed.floor,
            "basis": speed.basis,
        },
        "seconds": list(plan.seconds),
        "first_token": list(plan.first_token) if plan.first_token else None,
        "price": {"low": price[0], "high": price[1], "unit": unit} if price else None,
        "price_per_hour": plan.price_per_hour,
        "joules": list(plan.joules) if plan.joules else None,
        "n_tokens": plan.n_tokens,
        "pareto": best,
        "why": why,
        "sources": list(plan.sources),
    }
