"""Questions of the examination on one GPU: their references against values worked out by hand."""

import pytest

from llmhw_helpers.course.exercises.serving_questions import decoding, products, quantised, scores, texts


def first(*options):
    """Draws what stands first, whatever is asked."""
    return options[0]


def last(*options):
    return options[-1]


# From data sheets and config.json files, not from the package.
BY_HAND = {
    # A40: 149.7e12, 696e9 B/s; X 8 x 4096: 2 * (2 * 8 * 4096 + 4096 * 4096) B = 33.69e6 B, 268.4e6 operations
    (products, first): 33.69e6 / 696e9,
    # GH200: 989.4e12; 4096 x 8192 x 8192: 2 * 4096 * 8192 ** 2 = 5.498e11 operations
    (products, last): 5.498e11 / 989.4e12,
    # 696e9 / (6.4255e9 + 1024 * 114,688)
    (decoding, first): 106.37,
    # 32 * 4e12 / (2 * (8.0303e9 - 128256 * 4096) + 32 * 8192 * 131,072)
    (decoding, last): 2592.7,
    # 0.9 * 48e9 - 6.4255e9 - 2e9 = 34.775e9; blocks of 16 * 114,688 B: 18,950; 63 blocks a text
    (texts, first): 300,
    # 0.9 * 96e9 - 16.06e9 - 3e9 = 67.34e9; blocks of 16 * 131,072 B: 32,109; 256 blocks a text
    (texts, last): 125,
    # Llama-3.2-3B: 24 heads * 2048 ** 2 * 2 B
    (scores, first): 201_326_592,
    # Mistral-Large: 4 texts * 96 heads * 32768 ** 2 * 2 B
    (scores, last): 824.6e9,
    # Llama-3.2-3B: 28 layers of 100.66e6 weights at 4.15625 bits, and 128256 * 3072 at 2 B
    (quantised, first): 28 * 100.66e6 * 4.15625 / 8 + 2 * 128256 * 3072,
    # 122.6e9 less 2 * 32768 * 12288 in groups
    (quantised, last): 121.8e9 * 4.15625 / 8 + 4 * 32768 * 12288,
}


@pytest.mark.parametrize(("question", "draw"), BY_HAND, ids=lambda each: each.__name__)
def test_what_is_right_is_what_a_hand_works_out(question, draw):
    assert question(draw).right == pytest.approx(BY_HAND[question, draw], rel=2e-3)
