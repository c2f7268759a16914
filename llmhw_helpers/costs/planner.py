"""The planner: on how many of which cards does a model run, in which format, how fast, and for how much?

`answer` takes and gives what JSON can hold: the same face for the command line, a widget and a page.
"""

from dataclasses import dataclass

from ..specs.architectures import NoFormula
from ..specs.figures import UnknownFigure, UnknownName
from .plans import Plan, Refusal, about, order, pareto
from .requests import BadRequest, Request, read_request
from .serving_plans import serving_plans

SHOWN = 24  # plans in an answer, besides the Pareto set


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
    >>> found.plans[0].n_gpus
    4
    """
    plans, refusals = serving_plans(request)
    return Result(request, tuple(order(plans)), tuple(pareto(plans)), tuple(refusals))


def answer(request: object) -> dict:
    """What `request` asks for, in values that JSON can hold; never an exception for a bad one.

    Args:
        request: ``model`` (a name, or the mapping of a config.json), ``task`` (``"serve"``, ``"fine-tune"``,
            ``"train"``), ``where`` (a cluster, a card, or a list of these), and any of `requests.FIELDS`.

    Returns:
        ``{"ok": True, "headline", "reasons", "plans", "refused", "notes"}``, or ``{"ok": False, "error", "nearest"}``,
        each a line.

    >>> answer({"model": "Llama-3.1-8B", "task": "serve", "where": "T5"})["error"]
    "unknown cluster or card 'T5'; did you mean T4?"
    """
    try:
        result = plan(read_request(request))
    except BadRequest as error:
        return {"ok": False, "error": str(error), "nearest": error.nearest}
    except (UnknownName, UnknownFigure, NoFormula, ValueError) as error:
        return {"ok": False, "error": str(error), "nearest": ""}
    if not result.plans:
        return {"ok": False, "error": _nothing(result), "nearest": ""}
    best = result.plans[0]
    chosen = set(map(id, result.pareto)) | set(map(id, result.plans[:SHOWN]))
    shown = [each for each in result.plans if id(each) in chosen]
    return {
        "ok": True,
        "headline": f"{about(result.request.model)}: {best.name}",
        "reasons": [],
        "plans": [_plan(each, each in result.pareto, "") for each in shown],
        "refused": [{"what": each.what, "why": each.why, "bytes_over": each.bytes_over} for each in result.refusals],
        "notes": list(result.request.notes),
    }


def _nothing(result: Result) -> str:
    nearest = min((each for each in result.refusals if each.bytes_over), key=lambda each: each.bytes_over, default=None)
    refusal = nearest or result.refusals[0]
    return f"nothing does: {refusal.what}: {refusal.why}"


def _plan(plan: Plan, best: bool, why: str) -> dict:
    price, memory, speed = plan.price, plan.memory, plan.speed
    unit = plan.offer.price.unit
    return {
        "name": plan.name,
        "format": plan.format,
        "card": plan.offer.card.name,
        "n_gpus": plan.n_gpus,
        "n_nodes": plan.n_nodes,
        "tp_size": plan.tp_size,
        "pp_size": plan.pp_size,
        "dp_size": plan.dp_size,
        "zero": plan.zero,
        "recompute": plan.recompute,
        "batch_size": plan.batch_size,
        "loss": plan.loss,
        "sure": plan.sure,
        "memory": {
            "limit": memory.limit,
            "parts": dict(memory.parts),
            "reserve": list(memory.reserve),
            "fits": memory.fits,
            "at": memory.at,
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
