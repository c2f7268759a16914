"""Bars are as long as their probabilities, and shares sum to one."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.tokens import plot_next, plot_shares


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_best_is_on_top_and_bars_are_probabilities():
    ax = plot_next([(" the", 0.5), ("\n", 0.25), ("", 0.01)])
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.25, 0.01]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["\u2423the", "\\n", "\u2205"]
    assert ax.yaxis_inverted()
    assert [text.get_text() for text in ax.texts] == [" 50.0%", " 25.0%", " 1.0%"]


def test_the_longest_bar_fills_the_picture_unless_its_axis_is_to_stay():
    assert plot_next([("a", 0.06), ("b", 0.05)]).get_xlim() == (0, pytest.approx(0.069))
    assert plot_next([("a", 0.06)], end=1.08).get_xlim() == (0, 1.08)


def test_a_part_has_one_colour_in_every_picture():
    first = plot_shares({"work": {"table of tokens": 1, "mlp": 2, "output": 1, "qkv": 1}}, "share")
    second = plot_shares({"parameters": {"embedding": 1, "norms": 2, "mlp": 1}}, "share")
    (table, mlp, *_), (embedding, norms, again) = (
        [bar.get_facecolor() for bar in ax.patches] for ax in (first, second)
    )
    assert (table, mlp) == (embedding, again)
    assert len({table, mlp, norms}) == 3


def test_every_column_is_stacked_to_the_whole():
    ax = plot_shares({"small": {"a": 1, "b": 3}, "large": {"a": 9, "c": 1}}, "share")
    tops = {}
    for bar in ax.patches:
        place = round(bar.get_x() + bar.get_width() / 2)
        tops[place] = tops.get(place, 0) + bar.get_height()
    assert tops == {0: pytest.approx(1), 1: pytest.approx(1)}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "c"]
    assert {text.get_text() for text in ax.texts} == {"25%", "75%", "90%", "10%"}
