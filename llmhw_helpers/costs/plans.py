"""A plan: how a model would run on so many cards, what it takes and gives; and which of many plans to look at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..specs.figures import si
from .places import Offer

Range = tuple[float, float]  # low, high
SPEEDS = "costs.efficiency, fitted to the measured speeds in specs/measured.csv"
SURE = ("yes", "perhaps", "no")


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest GPU.

    Attributes:
        limit: that the program may use.
        parts: what follows from arithmetic, by what it is for.
        reserve: what the program keeps besides, and by what boards of one card differ: low and high.
        at: which rank, or which moment, is the fullest.
        why: what the reserve rests on.
    """

    limit: float
    parts: Mapping[str, float]
    reserve: Range
    at: str = ""
    why: str = ""

    @property
    def fits(self) -> str:
        """Whether it fits: ``"yes"`` with the high reserve, ``"perhaps"`` with the low one alone, or ``"no"``.

        >>> [Memory(10.0, {"weights": 7.0}, reserve).fits for reserve in ((1.0, 3.0), (2.0, 4.0), (4.0, 5.0))]
        ['yes', 'perhaps', 'no']
        """
        held = sum(self.parts.values())
        low, high = self.reserve
        return "yes" if held + high <= self.limit else "perhaps" if held + low <= self.limit else "no"

    @property
    def over(self) -> float:
        """Bytes beyond the limit, with the low reserve; negative where there is room."""
        return sum(self.parts.values()) + self.reserve[0] - self.limit


@dataclass(frozen=True)
class Rate:
    """Tokens per second, as a range; `floor` is what the data sheets promise, which nobody passes."""

    low: float
    high: float
    unit: str
    floor: float
    basis: str

    def reaches(self, wish: float) -> str:
        """Whether it is as fast as wished: ``"yes"``, ``"perhaps"`` (within the range) or ``"no"``."""
        return "yes" if self.low >= wish else "perhaps" if self.high >= wish else "no"


@dataclass(frozen=True)
class Plan:
    """How a model would run: on which cards, divided how, and what comes of it.

    Attributes:
        offer, format: the cards, and the format of the weights.
        tp_size, pp_size, dp_size: GPUs that share a layer, stages of layers, and copies of the model.
        zero, recompute: of training: what ZeRO divides among the copies (stage 0 to 3), and what is computed twice.
        batch_size: texts at the same time in one copy.
        memory, speed: of the fullest GPU; as a range.
        seconds: serving: until an answer is complete; training: of the whole run.
        loss: of quality, relative; None where nobody has measured it.
        sure: ``"yes"`` where memory and speed are enough at the worst of their ranges, else ``"perhaps"``.
        sources: of the figures it rests on.
        first_token: seconds until the first token of an answer; None in training.
        tokens_per_s: of all texts together, low and high.
        n_tokens: that price and energy are told for: a million of answers, or those of the whole run.
        n_micro_batches: of an optimizer step, in training.
        trains: or else it serves.
    """

    offer: Offer
    format: str
    tp_size: int
    pp_size: int
    dp_size: int
    batch_size: int
    memory: Memory
    speed: Rate
    seconds: Range
    loss: float | None
    sure: str
    sources: tuple[str, ...]
    zero: int = 0
    recompute: str = "none"
    first_token: Range | None = None
    tokens_per_s: Range = (0.0, 0.0)
    n_tokens: float = 1e6
    n_micro_batches: int = 1
    trains: bool = False

    @property
    def n_gpus(self) -> int:
        """GPUs in all."""
        return self.tp_size * self.pp_size * self.dp_size

    @property
    def n_nodes(self) -> int:
        """Nodes, each with one copy of the model or several, or a part of one."""
        per_copy = self.tp_size * self.pp_size
        in_node = self.offer.gpus_per_node // per_copy
        return -(-self.dp_size // in_node) if in_node else self.dp_size * self.offer.n_nodes(per_copy)

    @property
    def name(self) -> str:
        """What to call it."""
        sizes = {"TP": self.tp_size, "PP": self.pp_size, "DP": self.dp_size}
        divided = " ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1)
        kept = [f"ZeRO-{self.zero}"] if self.zero else []
        kept += [f"recompute {self.recompute}"] if self.recompute != "none" else []
        return ", ".join(filter(None, [f"{self.format} on {self.n_gpus} x {self.offer.card.name}", divided, *kept]))

    @property
    def price_per_hour(self) -> float | None:
        """Of all its GPUs, in the cluster's own unit; None where it is not known."""
        price = self.offer.price.value
        return None if price is None else price * self.n_gpus

    @property
    def price(self) -> Range | None:
        """Of `n_tokens`, low and high, in the cluster's own unit."""
        hour = self.price_per_hour
        return None if hour is None else _of_rate(hour / 3600, self.n_tokens, self.tokens_per_s)

    @property
    def joules(self) -> Range | None:
        """Energy of `n_tokens`, where each GPU draws what its data sheet allows at most; None where that is unknown."""
        watts = self.offer.card.tdp_watts.value
        return None if watts is None else _of_rate(watts * self.n_gpus, self.n_tokens, self.tokens_per_s)


def _of_rate(per_s: float, n_tokens: float, rate: Range) -> Range:
    low, high = rate
    return per_s * n_tokens / high, per_s * n_tokens / low


@dataclass(frozen=True)
class Refusal:
    """What does not do, and why.

    Attributes:
        what, why: in words.
        bytes_over: of the fullest GPU, beyond what it has; None where memory is not the reason.
        offer, format: the cards, and the format of the weights.
        n_gpus: with so many; 0 where the format is not weighed on the card at all.
        source: of the reason, where it is not arithmetic.
        reached: share of the wished speed or haste that is reached at most; 0 where that is not the reason.
    """

    what: str
    why: str
    bytes_over: float | None
    offer: Offer
    format: str
    n_gpus: int = 0
    source: str = ""
    reached: float = 0.0


def cost(plan: Plan, by_price: bool) -> float:
    """What a plan costs, to compare it with others: a server by the hour, a run as a whole; or the number of GPUs."""
    if plan.trains and by_price:
        return plan.price[1]
    return size(plan, by_price)


def size(plan: Plan, by_price: bool) -> float:
    """What a plan takes at a time: the price of an hour, or the number of GPUs."""
    return plan.price_per_hour if by_price else plan.n_gpus


def priced(plans: Iterable[Plan]) -> bool:
    """Whether all have a price, in one unit: only then prices compare."""
    plans = list(plans)
    return bool(plans) and len({plan.offer.price.unit for plan in plans}) == 1 and plans[0].price_per_hour is not None


def order(plans: Iterable[Plan]) -> list[Plan]:
    """The best first: those that are sure to do, of these the cheapest, then what loses less, is smaller, is faster.

    What costs the same to two digits is as cheap: no prediction knows more. The order is total: it does not hang on
    that of `plans`, and no plan beats the first one (see `pareto`).
    """
    plans = list(plans)
    by_price = priced(plans)

    def key(plan: Plan) -> tuple:
        size_, slowness, lost, unsure = _point(plan, by_price)
        about = float(f"{cost(plan, by_price):.2g}")
        return unsure, about, lost, size_, slowness, plan.offer.card.tdp_watts.value or 0, plan.batch_size, plan.name

    return sorted(plans, key=key)


def pareto(plans: Iterable[Plan]) -> list[Plan]:
    """The plans that no other one beats: at least as small, as fast, as true and as sure, and in one of these better.

    Of several that are alike in all four, the first one in `order` stands for them.
    """
    ordered = order(plans)
    by_price = priced(ordered)
    points = [_point(plan, by_price) for plan in ordered]
    best, seen = [], []
    for plan, point in zip(ordered, points, strict=True):
        if not any(_covers(other, point) for other in seen):
            best = [(p, q) for p, q in best if not _covers(point, q)]
            best.append((plan, point))
            seen = [q for _, q in best]
    return [plan for plan, _ in best]


def _point(plan: Plan, by_price: bool) -> tuple[float, ...]:
    """Where less is better, everywhere."""
    lost = 1.0 if plan.loss is None else plan.loss
    return size(plan, by_price), -plan.speed.low, lost, SURE.index(plan.sure)


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def gb(n_bytes: float) -> str:
    """Bytes as a reader of a data sheet knows them.

    >>> gb(141.1e9)
    '141 GB'
    """
    return si(n_bytes, "B")
