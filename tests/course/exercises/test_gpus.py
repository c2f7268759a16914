"""The exercises of notebook 12 against usual wrong answers and different right ones."""

import math

import pytest

from llmhw_helpers.course.exercises import EXERCISES, gpus
from llmhw_helpers.course.grading import grade


def by_list(shares, factor):
    """Every range that begins at a share, the last of the best."""
    best = max(sum(low <= s <= low * factor * (1 + 1e-12) for s in shares) for low in shares)
    low = [low for low in shares if sum(low <= s <= low * factor * (1 + 1e-12) for s in shares) == best][-1]
    return low, low * factor


def from_above(shares, factor):
    """Ranges that end at a share."""
    high = max(shares, key=lambda high: sum(high / factor * (1 - 1e-12) <= s <= high for s in shares))
    return [high / factor, high]


def around_the_mean(shares, factor):
    mean = sum(shares) / len(shares)
    return mean / math.sqrt(factor), mean * math.sqrt(factor)


BY_HAND = {"chat": "A10", "documents": "A100-80", "fine-tuning": "H100 PCIe"}
OTHERS = {"chat": "NVIDIA A10G", "documents": "H100 SXM", "fine-tuning": "h100"}
RIGHT = {
    "cost_of_a_million": [lambda r, p: p * 1e6 / r / 3600, lambda r, p: p / (r * 3600 / 1e6)],
    "bits_kept": [
        lambda bits, kept, of: kept * (bits + math.ceil(math.log2(of))) / of,
        lambda bits, kept, of: bits * kept / of + kept * {2: 1, 4: 2, 6: 3, 8: 3}[of] / of,
    ],
    "best_range": [by_list, from_above],
    "pick_card": [BY_HAND.get, OTHERS.get],
}
WRONG = {
    "cost_of_a_million": [
        (lambda r, p: p * 1e6 / r, "3600 seconds"),
        (lambda r, p: p * 1e6 / r / 60, "not 60"),
        (lambda r, p: p * 3600 * 1e6 / r, "less, not more"),
        (lambda r, p: p / r, "left out two things"),
        (lambda r, p: r * 3600 / p, "turn it over"),
        (lambda r, p: 1e6 / r / 3600, "what do they cost"),
        (lambda r, p: p / r / 3600, "price of one token"),
        (lambda r, p: p * r / 3600 * 1e6, "divide by the speed"),
        (lambda r, p: r * 3600 / 1e6, "how many million tokens"),
    ],
    "bits_kept": [
        (lambda bits, kept, of: bits * kept / of, "bits for its place"),
        (lambda bits, kept, of: bits * kept / of + math.ceil(math.log2(of)), "zeros are not stored"),
        (lambda bits, kept, of: kept / of * (bits + of), "two bits among four"),
        (lambda bits, kept, of: (kept * bits + math.ceil(math.log2(of))) / of, "a place of its own"),
        (lambda bits, kept, of: bits * kept / of + math.log2(of), "zeros are not stored"),
        (lambda bits, kept, of: (kept * bits + of) / of, "a mask"),
        (lambda bits, kept, of: bits + math.ceil(math.log2(of)), "not for each kept weight"),
        (lambda bits, kept, of: kept * (bits + math.ceil(math.log2(of))), "not for each group"),
        (lambda bits, kept, of: kept * (bits + 2) / of, "Two bits name"),
        (lambda bits, kept, of: kept * (bits + math.log2(of)) / of, "a whole number of bits"),
    ],
    "best_range": [
        (lambda shares, factor: (min(shares), max(shares)), "at most 1.3 times low"),
        (around_the_mean, "lie inside;"),
        (lambda shares, factor: (factor * shares[0], shares[0]), "low comes first"),
        (lambda shares, factor: shares[0], "two numbers"),
    ],
    "pick_card": [
        (lambda task: "T4", "16 GB are needed"),
        (lambda task: "L4", "12 tokens a second: too slow"),
        (lambda task: "H100", "an hour costs 4.4 times as much"),
        (lambda task: "RTX 4090", "has no price"),
        (lambda task: "A1000", "did you mean"),
        (lambda task: 7, "the name of a card"),
        (lambda task: "A10", "50 GB are needed"),
        (lambda task: {**BY_HAND, "fine-tuning": "A10"}[task], "a token costs 1.8 times as much"),
    ],
}


def test_gpus(confront):
    confront(gpus.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in gpus.EXERCISES)


@pytest.mark.parametrize("exercise", gpus.EXERCISES, ids=lambda exercise: exercise.name)
def test_the_oracle_keeps_to_its_own_rules(exercise):
    assert grade(exercise.right, exercise).right


def test_a_blank_answer_is_none():
    assert grade(lambda task: ..., EXERCISES["pick_card"]).line == "pick_card: not answered yet."
