"""Why this plan: sentences about what was chosen, and what the next smaller one lacks.

"Smaller" means fewer GPUs of the same card in the same format; "wider" a format with more bits, which loses less.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..specs.serving_flavours import SERVING_FLAVOURS
from .plans import Plan, Rate, Refusal, cost, gb, priced
from .requests import Request


def why(plan: Plan, plans: Sequence[Plan], refusals: Sequence[Refusal]) -> str:
    """Why not fewer GPUs, and why not a wider format."""
    return " ".join(filter(None, (_smaller(plan, plans, refusals), _wider(plan, plans, refusals))))


def _smaller(plan: Plan, plans: Sequence[Plan], refusals: Sequence[Refusal]) -> str:
    if plan.n_gpus == 1:
        return "One GPU is the least there is."
    alike = [each for each in plans if (each.offer, each.format) == (plan.offer, plan.format)]
    fewer = [each for each in alike if each.n_gpus < plan.n_gpus]
    if fewer := [each for each in fewer if each.sure == "yes" or plan.sure != "yes"]:
        return f"Fewer do as well: {_most(fewer).n_gpus} x {plan.offer.card.name}."
    if fewer := [each for each in alike if each.n_gpus < plan.n_gpus]:
        return f"Fewer may do: {_most(fewer).n_gpus} x {plan.offer.card.name}."
    lacking = [each for each in refusals if each.offer == plan.offer and each.format == plan.format]
    lacking = [each for each in lacking if each.n_gpus < plan.n_gpus]
    if not lacking:
        return ""
    n_gpus = max(each.n_gpus for each in lacking)
    return f"Not on {n_gpus}: {_nearest([each for each in lacking if each.n_gpus == n_gpus]).why}."


def _wider(plan: Plan, plans: Sequence[Plan], refusals: Sequence[Refusal]) -> str:
    bits = _bits(plan.format)
    wider = [each for each in plans if each.offer == plan.offer and _bits(each.format) > bits]
    if wider:
        least = min(wider, key=lambda each: (each.n_gpus, -_bits(each.format)))
        if least.n_gpus <= plan.n_gpus:
            return ""
        return f"{_upper(least.format)} needs {least.n_gpus} of them."
    lacking = [each for each in refusals if each.offer == plan.offer and _bits(each.format) > bits and each.n_gpus]
    return f"{_upper(_nearest(lacking).what)}: {_nearest(lacking).why}." if lacking else ""


def reasons(request: Request, plans: Sequence[Plan], refusals: Sequence[Refusal]) -> list[str]:
    """Why the first of the plans is the first."""
    best, by_price = plans[0], priced(plans)
    sure = [plan for plan in plans if plan.sure == "yes"]
    what = "that are sure to do" if sure else "that may do, while none is sure to"
    if (n := len(sure) or len(plans)) == 1:
        said = [f"The only plan that {'is sure to do' if sure else 'may do'}: {_cost(best, by_price)}."]
    else:
        said = [f"Of the {n} plans {what}, none is cheaper: {_cost(best, by_price)}."]
    if because := why(best, plans, refusals):
        said.append(because)
    doubtful = [plan for plan in plans if plan.sure != "yes" and cost(plan, by_price) < cost(best, by_price)]
    if sure and doubtful:
        said.append(f"{_upper(doubtful[0].name)} would be cheaper, but {_doubt(request, doubtful[0])}.")
    if best.trains and (fewest := min(plans, key=lambda plan: plan.n_gpus)).n_gpus < best.n_gpus:
        said.append(f"With the fewest GPUs: {fewest.name}, in {duration(fewest.seconds)}.")
    truer = [plan for plan in plans if plan.sure == best.sure and _lost(plan) < _lost(best)]
    if truer:
        said.append(f"Without the loss of {_lost(best):.1%}, the cheapest is {truer[0].name}.")
    return said


def _doubt(request: Request, plan: Plan) -> str:
    if plan.memory.fits != "yes":
        low, high = plan.memory.reserve
        return f"it fits only if the program keeps {gb(low)} rather than {gb(high)} for itself"
    if not plan.trains and plan.speed.reaches(request.tokens_per_s) != "yes":
        return f"it writes {span(plan.speed)}, and {request.tokens_per_s:g} are wished for"
    if plan.trains and plan.seconds[1] > request.days * 86400 > 0:
        return f"it takes {duration(plan.seconds)}"
    if plan.trains:
        return "fp16 needs a scaled loss, and nobody's measured run stands behind its speed"
    return f"the first token takes {_two_digits(plan.first_token[0])} to {_two_digits(plan.first_token[1])} s"


def headline(request: Request, plans: Sequence[Plan]) -> str:
    """The first plan in one sentence."""
    best = plans[0]
    perhaps = "" if best.sure == "yes" else ", perhaps"
    if best.trains:
        done = "trains" if request.task == "train" else f"is fine-tuned ({request.method})"
        return f"{request.model.name} {done} on {best.name}{perhaps}: {duration(best.seconds)}, {span(best.speed)}."
    users = f" for each of {request.users} users" if request.users > 1 else " for one user"
    return f"{request.model.name} runs on {best.name}{perhaps}: {span(best.speed)}{users}."


def _cost(plan: Plan, by_price: bool) -> str:
    if not by_price:
        return f"{plan.n_gpus} GPU{'s' if plan.n_gpus > 1 else ''}"
    unit = f"{plan.offer.price.unit}s"
    if plan.trains:
        return f"{_two_digits(plan.price[0])} to {_two_digits(plan.price[1])} {unit} for the run"
    return f"{plan.price_per_hour:.3g} {unit} an hour"


def duration(seconds: Sequence[float]) -> str:
    """A range of time in the unit that suits its upper end.

    >>> duration((40.0, 90.0)), duration((3600.0, 9000.0)), duration((2e5, 4e5))
    ('40 to 90 s', '1 to 2.5 hours', '2.3 to 4.6 days')
    """
    unit, n = next(
        (unit, n) for unit, n in (("days", 86400), ("hours", 3600), ("s", 1)) if seconds[1] >= 2 * n or n == 1
    )
    return f"{_two_digits(seconds[0] / n)} to {_two_digits(seconds[1] / n)} {unit}"


def nothing(request: Request, refusals: Sequence[Refusal]) -> str:
    """Why no plan is left, in one line, with what comes nearest."""
    places = dict.fromkeys(each.cluster or f"{each.n_gpus} x {each.card.name}" for each in request.where)
    where = " or ".join(places)
    tried = [each for each in refusals if each.n_gpus]
    if not tried:
        return f"{request.model.name} on {where}: no format does; {refusals[0].what}: {refusals[0].why}"
    nearest = _nearest(tried)
    return f"{request.model.name} on {where}: nothing does, not even {nearest.what}: {nearest.why}"


def grouped(plans: Iterable[Plan], refusals: Iterable[Refusal]) -> list[Refusal]:
    """Of each card and format one refusal: what comes nearest, or where there are plans, just below the smallest.

    Cards on which a format is not weighed at all, for one and the same reason, are named together.
    """
    least: dict[tuple, int] = {}
    for plan in plans:
        key = plan.offer.name, plan.format
        least[key] = min(plan.n_gpus, least.get(key, plan.n_gpus))
    tried: dict[tuple, list[Refusal]] = {}
    untried: dict[tuple, list[Refusal]] = {}
    for each in refusals:
        key = each.offer.name, each.format
        if not each.n_gpus:
            untried.setdefault((each.format, each.why), []).append(each)
        elif key not in least or each.n_gpus < least[key]:
            tried.setdefault(key, []).append(each)
    together = [
        replace(group[0], what=f"{of} on {', '.join(each.offer.card.name for each in group)}")
        for (of, _), group in untried.items()
    ]
    return [_nearest(group) for group in tried.values()] + together


def _nearest(refusals: Sequence[Refusal]) -> Refusal:
    """What holds the model but is too slow; else what lacks least memory."""
    return min(refusals, key=lambda each: (each.bytes_over is not None, each.bytes_over or 0, -each.n_gpus, each.what))


def _most(plans: Sequence[Plan]) -> Plan:
    return max(plans, key=lambda each: each.n_gpus)


def _bits(name: str) -> float:
    return SERVING_FLAVOURS[name].bits or 0 if name in SERVING_FLAVOURS else 0


def _lost(plan: Plan) -> float:
    return 1.0 if plan.loss is None else plan.loss


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def span(speed: Rate) -> str:
    """A range to as many digits as it is worth.

    >>> span(Rate(10.93, 21.4, "tokens/s", 30.0, "made up")), span(Rate(1234.0, 2345.0, "tokens/s", 3e3, "made up"))
    ('11 to 21 tokens/s', '1200 to 2300 tokens/s')
    """
    return f"{_two_digits(speed.low)} to {_two_digits(speed.high)} {speed.unit}"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):.12g}"
