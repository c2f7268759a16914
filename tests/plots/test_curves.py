"""Curves lie on their points and are told apart without colours."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.curves import plot_curves


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


CURVES = {"one": ([1, 2], [3.0, 4.0]), "other": ([1, 10, 100], [1.0, 2.0, 3.0])}


def test_each_curve_has_its_points_and_its_name():
    ax = plot_curves(CURVES, "batch size", "loss")
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines] == list(CURVES.values())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "other"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("batch size", "loss")


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_the_axes_named_are_logarithmic(log):
    ax = plot_curves(CURVES, "x", "y", log)
    assert (ax.get_xscale(), ax.get_yscale()) == tuple("log" if axis in log else "linear" for axis in "xy")


def test_curves_differ_in_more_than_their_colour():
    dashed, marked = plot_curves(CURVES, "x", "y").lines, plot_curves(CURVES, "x", "y", marked=True).lines
    assert len({line.get_linestyle() for line in dashed}) == 2
    assert {line.get_marker() for line in dashed} == {"None"}
    assert len({line.get_marker() for line in marked}) == 2
    assert {line.get_linestyle() for line in marked} == {"-"}
