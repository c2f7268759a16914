"""Exercises on choosing a GPU (notebook 12). Two are graded by rules: every answer that keeps to them is right."""

import math
from collections.abc import Callable

from ...costs.pruning import sparse_bits
from ...costs.workloads import jobs, run_on
from ...specs.accelerators import accelerator
from ...specs.figures import UnknownName
from ...specs.models import model
from ...specs.prices import RENT, rent
from ..grading import Exercise, Mistake

SHARE = 0.6  # of its roof that a card reaches, for all tasks
CHAT_TOKENS_PER_S = 20  # faster than anybody reads
NEAR = 1.2  # times the price of the cheapest that is as good
JOBS = jobs(model("Llama-3.1-8B"))
TASKS = {"chat": "decode 1", "documents": "decode 128", "fine-tuning": "LoRA"}

MEASURED_SHARES = [
    [0.63, 0.7, 0.74, 0.66, 0.3, 0.9],
    [0.5, 0.45, 0.6, 0.95, 0.2, 0.8, 0.41],
    [0.2, 0.21, 0.4, 0.41, 0.42],
    [0.7],
]
SHARED = [(shares, factor) for shares in MEASURED_SHARES for factor in (1.3, 2)]


def _price(task: str, card: str) -> float:
    """Dollars: of an hour for a chat, where the answer is read while it comes; of 1e6 tokens for the others."""
    hour = rent(card).known()
    speed = SHARE * run_on(accelerator(card), JOBS[TASKS[task]]).tokens_per_s
    return hour if task == "chat" else hour / 3600 / speed * 1e6


def _able(task: str, card: str) -> str:
    """What keeps a card from the task; empty where nothing does."""
    job = JOBS[TASKS[task]]
    found = run_on(accelerator(card), job)
    if not found.fits:
        return f"{job.memory_bytes / 1e9:.0f} GB are needed, more than the card has"
    if task == "chat" and SHARE * found.tokens_per_s < CHAT_TOKENS_PER_S:
        return f"at {SHARE:.0%} of its roof it writes {SHARE * found.tokens_per_s:.0f} tokens a second: too slow"
    return ""


def _cheapest(task: str) -> str:
    return min((card for card in RENT if not _able(task, card)), key=lambda card: _price(task, card))


def _broken(given: object, task: str) -> str:
    """The rule that this card breaks for this task."""
    if not isinstance(given, str):
        return "the name of a card is asked for"
    try:
        card = accelerator(given).name
    except UnknownName as error:
        return str(error)
    if card not in RENT:
        return f"the table has no price for an hour of it: choose from {', '.join(RENT)}"
    if why := _able(task, card):
        return why
    times = _price(task, card) / _price(task, _cheapest(task))
    if times > NEAR:
        what = "an hour" if task == "chat" else "a token"
        return f"it can do it, but {what} costs {times:.2g} times as much as on the cheapest card that can"
    return ""


def _inside(low: float, high: float, shares: list) -> int:
    return sum(low * (1 - 1e-9) <= share <= high * (1 + 1e-9) for share in shares)


def _best_range(shares: list, factor: float) -> tuple[float, float]:
    low = max(shares, key=lambda each: _inside(each, factor * each, shares))
    return low, factor * low


def _range_broken(given: object, shares: list, factor: float) -> str:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError, OverflowError):
        return "two numbers are asked for, low and high"
    if not 0 < low <= high:
        return "low comes first, and both are above 0"
    if high > factor * low * (1 + 1e-6):
        return f"high may be at most {factor} times low"
    best = _inside(*_best_range(shares, factor), shares)
    found = _inside(low, high, shares)
    return f"{found} of {len(shares)} lie inside; {best} can" if found < best else ""


def _of_a_power(answer: Callable) -> Callable:
    """`answer` for groups of 2, 4, 8, ...; for others whatever is given fits, rounded up or not."""
    return lambda bits, kept, of: answer(bits, kept, of) if of & (of - 1) == 0 else ...


EXERCISES = [
    Exercise(
        name="cost_of_a_million",
        cases=[(100.0, 1.0), (1685.0, 2.4984), (20.0, 0.86)],
        right=lambda tokens_per_s, price_per_hour: price_per_hour * 1e6 / tokens_per_s / 3600,
        mistakes=[
            Mistake("An hour has 3600 seconds.", lambda rate, price: price * 1e6 / rate),
            Mistake("An hour has 3600 seconds, not 60.", lambda rate, price: price * 1e6 / rate / 60),
            Mistake(
                "An hour's price is that of 3600 seconds: a second costs less, not more.",
                lambda rate, price: price * 3600 * 1e6 / rate,
            ),
            Mistake(
                "You left out two things: a million tokens are asked for, and an hour has 3600 seconds.",
                lambda r, p: p / r,
            ),
            Mistake(
                "That is how many tokens the price of one hour buys, for 1: turn it over.", lambda r, p: r * 3600 / p
            ),
            Mistake("Those are the hours that it takes: what do they cost?", lambda rate, price: 1e6 / rate / 3600),
            Mistake("That is the price of one token; a million of them are asked for.", lambda r, p: p / r / 3600),
            Mistake(
                "A faster card makes a token cheaper: divide by the speed.",
                lambda rate, price: price * rate / 3600 * 1e6,
            ),
            Mistake("That is how many million tokens come in an hour.", lambda rate, price: rate * 3600 / 1e6),
        ],
    ),
    Exercise(
        name="bits_kept",
        cases=[(16, 2, 4), (8, 2, 4), (16, 4, 8), (4, 1, 2), (8, 1, 4), (8, 3, 6)],
        right=sparse_bits,
        mistakes=[
            Mistake(
                "Where did the kept weights stand? Each one needs bits for its place among the others.",
                lambda bits, kept, of: bits * kept / of,
            ),
            Mistake(
                "Only the weights that are kept need a place: zeros are not stored at all.",
                _of_a_power(lambda bits, kept, of: bits * kept / of + (of - 1).bit_length()),
            ),
            Mistake(
                "A place among `of` takes log2(of) bits, rounded up, and not `of` of them: two bits among four.",
                lambda bits, kept, of: kept / of * (bits + of),
            ),
            Mistake(
                "Two bits name a place among four. Among `of` it takes log2(of) of them, rounded up.",
                lambda bits, kept, of: kept * (bits + 2) / of,
            ),
            Mistake(
                "A place takes a whole number of bits: round log2(of) up.",
                lambda bits, kept, of: kept * (bits + math.log2(of)) / of,
            ),
            Mistake(
                "You store one place for the whole group. Each of the kept weights has a place of its own.",
                _of_a_power(lambda bits, kept, of: (bits * kept + (of - 1).bit_length()) / of),
            ),
            Mistake(
                "You store one bit for each dense weight, a mask. For 2 of 4 that is as much; here each kept weight "
                "stores the number of its place.",
                lambda bits, kept, of: bits * kept / of + 1,
            ),
            Mistake(
                "Bits for each weight of the dense matrix are asked for, not for each kept weight.",
                _of_a_power(lambda bits, kept, of: bits + (of - 1).bit_length()),
            ),
            Mistake(
                "Bits for each weight of the dense matrix are asked for, not for each group.",
                _of_a_power(lambda bits, kept, of: kept * (bits + (of - 1).bit_length())),
            ),
        ],
    ),
    Exercise(name="best_range", cases=SHARED, right=_best_range, rule=_range_broken),
    Exercise(name="pick_card", cases=[(task,) for task in TASKS], right=_cheapest, rule=_broken),
]
