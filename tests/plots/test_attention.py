"""Every weight is where it belongs, and every token can be read."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from llmhw_helpers.plots.attention import plot_heads, plot_weights


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_rows_look_at_columns():
    weights = np.tril(np.random.default_rng(0).random((4, 4)))
    ax = plot_weights(weights, ["a", " b", "\n", "$c$"])
    assert np.array_equal(ax.images[0].get_array(), weights)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "\u2423b", "\\n", r"\$c\$"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "\u2423b", "\\n", r"\$c\$"]
    assert "looked at" in ax.get_xlabel()
    ax.figure.canvas.draw()


def test_a_column_for_each_layer_and_a_row_for_each_head():
    numbers = np.random.default_rng(0).random((30, 9))
    ax = plot_heads(numbers, "share")
    assert np.array_equal(ax.images[0].get_array(), numbers.T)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "head")


def test_weights_that_do_not_fit_their_tokens_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\) do not fit 2 x 2"):
        plot_weights(np.eye(3), ["a", "b"])
