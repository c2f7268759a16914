"""The exercises of notebook 13 against usual wrong answers and different right ones."""

import math

import pytest

from llmhw_helpers.costs.activations import Pass
from llmhw_helpers.costs.training_memory import MIXED, Layout, rank_peak
from llmhw_helpers.course.exercises import EXERCISES, memory_planning
from llmhw_helpers.specs.models import model


def counted(limit, weights, reserve, per_token, context):
    """Text by text, as long as there is room."""
    left, texts = limit - weights - reserve, 0
    while left >= (each := math.ceil(context / 16) * 16 * per_token):
        left, texts = left - each, texts + 1
    return texts


def whole(a, w, r, n, c):
    return max(0, int((a - w - r) / (n * 16) / math.ceil(c / 16)))


def by_layer(layers, n, k, size, tokens):
    """Layer by layer, a key and a value of each head."""
    return sum(2 * size + 2 * size for _ in range(layers) for _ in range(k)) * tokens


RIGHT = {
    "texts_at_once": [counted, whole],
    "cache_bytes": [lambda layers, n, k, size, t: 2 * layers * k * size * 2 * t, by_layer],
    "count_weights": [
        lambda v, d, inside, tied: inside + (1 if tied else 2) * v * d,
        lambda v, d, inside, tied: inside + v * d + (not tied) * v * d,
    ],
    "held_and_read": [
        lambda n, k, each, rest: (2 * (rest + n * each), 2 * (rest + k * each)),
        lambda n, k, each, rest: [2 * rest + 2 * each * some for some in (n, k)],
    ],
    "peak_of_a_step": [
        lambda kept, g, a: max(kept + g, kept + a),
        lambda kept, g, a: kept + (g if g > a else a),
    ],
}
WRONG = {
    "texts_at_once": [
        (lambda a, w, r, n, c: whole(a, w, 0, n, c), "subtract the reserve"),
        (lambda a, w, r, n, c: whole(a, 0, r, n, c), "subtract them"),
        (lambda a, w, r, n, c: max(0, math.floor((a - w - r) / n / c)), "whole blocks"),
        (lambda a, w, r, n, c: (a - w - r) // (n * c), "whole blocks"),
        (lambda a, w, r, n, c: (a - w - r) / (n * c), "part of a block"),
        (lambda a, w, r, n, c: max(0, (a - w - r) // (16 * n * c)), "for each of its tokens"),
        (lambda a, w, r, n, c: max(0, math.floor((a - w - r) / (16 * n)) // math.floor(c / 16)), "round its blocks up"),
        (lambda a, w, r, n, c: max(0, math.floor((a - w - r) / n) // math.ceil(c / 16)), "16 * per_token bytes"),
        (lambda a, w, r, n, c: math.floor((a - w - r) / (16 * n)) // math.ceil(c / 16), "never below 0"),
        (lambda a, w, r, n, c: max(0, (a - w - r) / (n * 16 * math.ceil(c / 16))), "round down"),
        (lambda a, w, r, n, c: max(0, (a - w - r) // (16 * n) * 16), "are tokens"),
    ],
    "cache_bytes": [
        (lambda layers, n, k, size, t: layers * n * size * t * 2, "Both mistakes are still there"),
        (lambda layers, n, k, size, t: layers * k * size * t * 2, "bytes of a number"),
        (lambda layers, n, k, size, t: layers * n * size * t * 4, "count n_kv_heads"),
        (lambda layers, n, k, size, t: layers * k * size * t, "Two factors of 2"),
        (lambda layers, n, k, size, t: 2 * layers * (n + k + k) * size * t, "Queries are not kept"),
        (lambda layers, n, k, size, t: 4 * k * size * t, "one layer's"),
        (lambda layers, n, k, size, t: 4 * layers * k * size, "one token's"),
    ],
    "count_weights": [
        (lambda v, d, inside, tied: 2 * v * d + inside, "counted once"),
        (lambda v, d, inside, tied: v * d + inside, "a matrix of its own"),
        (lambda v, d, inside, tied: inside if tied else inside + 2 * v * d, "still there"),
        (lambda v, d, inside, tied: inside + (not tied) * v * d, "still there"),
        (lambda v, d, inside, tied: inside + (2 if tied else 1) * v * d, "wrong way round"),
    ],
    "held_and_read": [
        (lambda n, k, each, rest: 2 * [2 * rest + 2 * k * each], "lie in memory"),
        (lambda n, k, each, rest: 2 * [2 * rest + 2 * n * each], "not read for it"),
        (lambda n, k, each, rest: [2 * (rest + k * each), 2 * (rest + n * each)], "First what is held"),
        (lambda n, k, each, rest: (2 * n * each, 2 * k * each), "lack the other weights"),
        (lambda n, k, each, rest: (2 * (rest + n * each), 2 * k * each), "as well"),
        (lambda n, k, each, rest: [rest + n * each, rest + k * each], "2 a weight"),
    ],
    "peak_of_a_step": [
        (lambda kept, g, a: kept + g + a, "not a sum"),
        (lambda kept, g, a: kept + a, "few tokens"),
        (lambda kept, g, a: kept + g, "many tokens"),
        (lambda kept, g, a: max(kept + g, a), "at the loss as well"),
        (lambda kept, g, a: kept + min(g, a), "emptier"),
        (lambda kept, g, a: max(kept, g, a), "in every phase"),
    ],
}


def test_memory_planning(confront):
    confront(memory_planning.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in memory_planning.EXERCISES)


def test_the_peak_is_the_packages_where_it_lies_at_the_loss():
    peak = rank_peak(model("Llama-3.2-1B"), Pass(1, 8192), MIXED, Layout())
    kept, gradients, _ = memory_planning.STEPS[0]
    logits = peak.parts["working"] // 2  # at the loss: its input, which the forward pass has as well, and its gradient
    assert peak.at == "loss"
    assert kept + peak.parts["activations"] + logits == pytest.approx(sum(memory_planning.STEPS[0]) - gradients)
