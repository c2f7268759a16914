"""The exercises of notebook 06 against usual wrong answers and different right ones."""

import numpy as np

from llmhw_helpers.course.exercises import lora
from llmhw_helpers.specs.figures import look_up

OFF = -100


def by_position(prompt, answer):
    tokens = prompt + answer
    return [tokens[i + 1] if i + 1 >= len(prompt) else OFF for i in range(len(tokens) - 1)]


RIGHT = {
    "targets_of": [lambda p, a: [OFF] * (len(p) - 1) + a, by_position],
    "adapter_parameters": [
        lambda n, d, h, kv, hd, r: n * r * (2 * d + h * hd + kv * hd),
        lambda n, d, h, kv, hd, r: sum(r * d + o * hd * r for o in (h, kv)) * n,
    ],
    "layer_flops": [
        lambda t, i, o, frozen: (4 if frozen else 6) * t * i * o,
        lambda t, i, o, frozen: 2 * t * i * o + 2 * t * o * i + (not frozen) * 2 * o * t * i,
    ],
    "merged": [
        lambda w, a, b, s: w + s / a.shape[0] * (b @ a),
        lambda w, a, b, s: w + s / b.shape[1] * np.einsum("or,ri->oi", b, a),
    ],
    "lora_bytes": [
        lambda n, a, bits: n * bits / 8 + 16 * a,
        lambda n, a, bits: n * bits // 8 + 4 * (a + a + a + a),
    ],
}
# name: (wrong answer, words of the hint that fits it)
WRONG = {
    "targets_of": [
        (lambda p, a: [OFF] * len(p) + a[:-1], "Shifted by one"),
        (lambda p, a: [OFF] * len(p) + a, "nothing follows it"),
        (lambda p, a: (p + a)[1:], "trains the questions"),
        (lambda p, a: list(a), "Too short"),
        (lambda p, a: [OFF] * (len(p) - 1) + a + [OFF], "Too long"),
        (lambda p, a: ([OFF] * (len(p) - 1) + p[-1:] + a)[: len(p) + len(a) - 1], "that is *read*"),
    ],
    "adapter_parameters": [
        (lambda n, d, h, kv, hd, r: 2 * n * r * (d + h * hd), "fewer than the queries"),
        (lambda n, d, h, kv, hd, r: r * (2 * d + h * hd + kv * hd), "One layer's"),
        (lambda n, d, h, kv, hd, r: n * r * (h + kv) * hd, "two matrices"),
        (lambda n, d, h, kv, hd, r: n * (r * d + r * h * hd + r * kv * hd), "its own A"),
        (lambda n, d, h, kv, hd, r: n * (2 * r * d + r * h + r * kv), "head_dim numbers wide"),
        (lambda n, d, h, kv, hd, r: n * d * (h + kv) * hd, "frozen matrices themselves"),
        (lambda n, d, h, kv, hd, r: n * r * (2 * d + d + kv * hd), "need not be as wide"),
    ],
    "layer_flops": [
        (lambda t, i, o, frozen: 2 * t * i * o if frozen else 6 * t * i * o, "one product of two vanishes"),
        (lambda t, i, o, frozen: 6 * t * i * o, "Which one does nobody ask for"),
        (lambda t, i, o, frozen: (3 - frozen) * t * i * o, "two operations"),
        (lambda t, i, o, frozen: 2 * t * i * o if frozen else 4 * t * i * o, "backward pass alone"),
    ],
    "merged": [
        (lambda w, a, b, s: w + s * (b @ a), "scale is alpha / rank"),
        (lambda w, a, b, s: w + b @ a, "Without the scale"),
        (lambda w, a, b, s: s / a.shape[0] * (b @ a), "change alone"),
        (lambda w, a, b, s: w + a.shape[0] / s * (b @ a), "Upside down"),
        (lambda w, a, b, s: w + s / b.shape[0] * (b @ a), "B's of columns"),
    ],
    "lora_bytes": [
        (lambda n, a, bits: n * bits + 16 * a, "Bits, not bytes"),
        (lambda n, a, bits: 16 * n + 16 * a, "trains everything"),
        (lambda n, a, bits: n * bits / 8 + 4 * a, "means are missing"),
        (lambda n, a, bits: n * bits / 8 + a * 12, "its gradient and two means"),
        (lambda n, a, bits: n * bits / 8 + a * bits / 2, "16 bytes"),
        (lambda n, a, bits: 16 * a, "in memory all the same"),
    ],
}


def test_lora(confront):
    confront(lora.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    from llmhw_helpers.course.exercises import EXERCISES

    assert all(look_up(exercise.name, EXERCISES, "exercise") is exercise for exercise in lora.EXERCISES)
