"""The exercise on texts that fit, against usual wrong answers and different right ones."""

import math

from llmhw_helpers.course.exercises import EXERCISES, memory_planning


def counted(limit, weights, reserve, per_token, context):
    """Text by text, as long as there is room."""
    left, texts = limit - weights - reserve, 0
    while left >= (each := math.ceil(context / 16) * 16 * per_token):
        left, texts = left - each, texts + 1
    return texts


def whole(a, w, r, n, c):
    return max(0, int((a - w - r) / (n * 16) / math.ceil(c / 16)))


RIGHT = {"texts_at_once": [counted, whole]}
WRONG = {
    "texts_at_once": [
        (lambda a, w, r, n, c: whole(a, w, 0, n, c), "subtract the reserve"),
        (lambda a, w, r, n, c: whole(a, 0, r, n, c), "subtract them"),
        (lambda a, w, r, n, c: max(0, math.floor((a - w - r) / n / c)), "whole blocks"),
        (lambda a, w, r, n, c: math.floor((a - w - r) / (16 * n)) // math.ceil(c / 16), "Below zero"),
        (lambda a, w, r, n, c: max(0, (a - w - r) / (n * 16 * math.ceil(c / 16))), "round down"),
        (lambda a, w, r, n, c: max(0, (a - w - r) // (16 * n) * 16), "are tokens"),
    ]
}


def test_memory_planning(confront):
    confront(memory_planning.EXERCISES, RIGHT, WRONG)


def test_it_is_registered():
    assert EXERCISES["texts_at_once"] is memory_planning.EXERCISES[0]
