"""Curves, floors and laws are drawn where their numbers are."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.training import PowerLaw
from llmhw_helpers.plots.training import plot_law, plot_losses, plot_predicted


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_steps_count_from_one_and_floors_lie_at_their_value_with_their_name():
    ax = plot_losses({"run": [3.0, 2.0, 1.5]}, {"pairs": 1.25, "triples": 1.0})
    curve, *floors = ax.lines
    assert list(curve.get_xdata()) == [1, 2, 3]
    assert list(curve.get_ydata()) == [3.0, 2.0, 1.5]
    assert [line.get_ydata()[0] for line in floors] == [1.25, 1.0]
    assert [text.get_text() for text in ax.texts] == ["pairs: 1.25", "triples: 1.00"]
    assert ax.get_legend() is None
    assert ax.get_xscale() == "log"


def test_several_runs_have_a_legend():
    ax = plot_losses({"a": [1.0], "b": [2.0, 1.0]})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_xlim() == (1, 2)


def test_a_law_goes_through_its_points_and_is_dashed_where_it_predicts():
    law = PowerLaw(8.0, -0.5)
    ax = plot_law(law, [(1, 8.0), (4, 4.0)], [(16, 3.0)], "law")
    inside, outside, fitted, beyond = ax.lines
    assert (inside.get_linestyle(), outside.get_linestyle()) == ("-", "--")
    assert inside.get_xdata()[[0, -1]] == pytest.approx([1, 4])
    assert outside.get_xdata()[[0, -1]] == pytest.approx([4, 16])
    assert outside.get_ydata()[-1] == pytest.approx(2.0)  # what the law says, not what was measured
    assert list(fitted.get_ydata()) == [8.0, 4.0]
    assert list(beyond.get_ydata()) == [3.0]
    assert beyond.get_markerfacecolor() == "white"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "law: predicted",
        "law: fitted",
        "law: the next, measured",
    ]


def test_a_point_of_two_laws_shows_both_marks():
    ax = plot_law(PowerLaw(8.0, -0.5), [(1, 8.0), (4, 4.0)], [], "falling")
    plot_law(PowerLaw(2.0, 0.5), [(1, 2.0), (4, 4.0)], [], "rising", place=1, ax=ax)
    under, over = ax.lines[2], ax.lines[5]
    assert under.get_ydata()[-1] == over.get_ydata()[-1]
    assert under.get_markersize() > over.get_markersize() + 3


def test_a_law_without_points_beyond_draws_none():
    ax = plot_law(PowerLaw(1.0, 1.0), [(1, 1), (2, 2)], [], "law")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["law: fitted"]


def test_marks_have_the_colour_of_their_line():
    said = {"a": lambda x: 1, "b": lambda x: x + 1}
    ax = plot_predicted([1, 2], said, {"a": [1.1, 1.2], "b": [2.2, 3.3]})
    assert [line.get_color() for line in ax.lines[::2]] == [line.get_color() for line in ax.lines[1::2]]
    assert list(ax.lines[3].get_ydata()) == [2.2, 3.3]
    assert ax.lines[2].get_xdata()[[0, -1]] == pytest.approx([1, 2])
    assert [ax.lines[2].get_ydata()[i] for i in (0, -1)] == [2, 3]
    assert ax.get_ylim()[0] == 0


def test_a_corner_between_two_measured_points_is_drawn():
    line = plot_predicted([0, 3], {"a": lambda x: max(1, x)}, {"a": [1, 3]}).lines[0]
    assert min(line.get_ydata()) == 1
    assert max(y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if x <= 1) == 1
