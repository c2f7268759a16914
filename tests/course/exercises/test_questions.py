"""Questions of the examination on training and on many GPUs: their references against values worked out by hand."""

import math

import pytest

from llmhw_helpers.course.exercises.questions import adapters, busy, saves, states, sums, training, weights

DAY = 86400


def first(*options):
    """Draws what stands first, whatever is asked."""
    return options[0]


def last(*options):
    return options[-1]


# From data sheets and config.json files, not from the package.
BY_HAND = {
    # Llama-3.2-1B, 1.2358e9 parameters, 4 GPUs, ZeRO-1: 2 + 2 + 12 / 4 = 7 B each
    (states, first): 1.2358e9 * 7,
    # Mistral-Nemo, 12.248e9, 64 GPUs, ZeRO-3: 16 / 64 B each
    (states, last): 12.248e9 / 4,
    (weights, first): 1_235_814_400,  # the model card's 1.23B
    (weights, last): 122.6e9,  # Mistral-Large-Instruct-2407, 123B
    # 6 * 1.2358e9 * 20e9 / (16 * 0.3 * 149.7e12) = 206,387 s
    (training, first): 206_387 / DAY,
    # 6 * 12.248e9 * 300e9 / (256 * 0.5 * 989.4e12) = 174,085 s
    (training, last): 174_085 / DAY,
    # Llama-3.2-3B, 28 layers, 3072: 4 * 28 * (3072 + 3072 + 3072 + 1024)
    (adapters, first): 1_146_880,
    # Llama-3.1-70B, 80 layers, 8192: 64 * 80 * (8192 + 8192 + 8192 + 1024)
    (adapters, last): 131_072_000,
    # 6 messages of 16 kB at 3.125 GB/s: 5.12 us, and 5 us each
    (sums, first): 60.72e-6,
    # 62 messages of 7.8125 MB at 50 GB/s: 156.25 us, and 20 us each
    (sums, last): 10.93e-3,
    # 56.2 s a checkpoint; 3 years over 64: 1.478e6 s
    (saves, first): math.sqrt(2 * 56.2 * 1.478e6),
    # 122.6e9 * 14 / 40e9 = 42.9 s; 5 years over 1024: 153,984 s
    (saves, last): math.sqrt(2 * 42.9 * 153_984),
    (busy, first): 0.08,
    (busy, last): 0.43,
}


@pytest.mark.parametrize(("question", "draw"), BY_HAND, ids=lambda each: each.__name__)
def test_what_is_right_is_what_a_hand_works_out(question, draw):
    assert question(draw).right == pytest.approx(BY_HAND[question, draw], rel=2e-3)
