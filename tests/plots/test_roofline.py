"""Plots draw what they are given, on the axes that they are given, and leave the rest alone."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.plots import style
from llmhw_helpers.plots.roofline import Point, plot_roofline, plot_times

ROOFS = [(Roof("one", {"fp32": 1e12, "fp16": 2e12}, 1e11), dtype) for dtype in ("fp32", "fp16")]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_roof_rises_to_its_ridge_and_stays_flat():
    ax = plot_roofline(ROOFS)
    line = ax.get_lines()[0]
    x, y = line.get_data()
    assert line.get_label() == "one, fp32"
    assert max(y) == 1e12
    below = x < 10
    assert all(abs(y[below] / x[below] / 1e11 - 1) < 1e-9)
    assert all(y[~below] == 1e12)


def test_what_binds_is_written_beside_the_ridge_on_its_own_side():
    said = {text.get_text(): text.get_position()[0] for text in plot_roofline(ROOFS).texts}
    assert set(said) == {"memory binds", "arithmetic binds"}
    assert said["memory binds"] < 10 < 20 < said["arithmetic binds"]
    assert [text.get_text() for text in plot_roofline(ROOFS, intensities=(0.1, 5)).texts] == ["memory binds"]


def test_ink_stands_out_on_every_colour_and_a_pale_label_is_found(require_legible):
    for colour in style.COLOURS:
        assert style.contrast(style.ink(colour), colour) >= 4.5
    figure, ax = plt.subplots(layout="constrained", figsize=(5, 3))
    ax.bar([0], [1], color=style.COLOURS[4])
    ax.text(0, 0.5, "pale", color="white", fontsize=11)
    with pytest.raises(AssertionError, match="pale on"):
        require_legible(figure)
    ax.texts[0].set(color="black", fontsize=8)
    with pytest.raises(AssertionError, match="pale"):
        require_legible(figure)
    plt.close(figure)


def test_points_are_drawn_where_they_were_measured_and_named():
    ax = plot_roofline(ROOFS, {"products": [Point(0.5, 1e10), Point(5, 2e11)]})
    (points,) = [line for line in ax.get_lines() if line.get_label() == "products"]
    assert list(points.get_xdata()) == [0.5, 5]
    assert list(points.get_ydata()) == [1e10, 2e11]


def test_times_and_floors_share_a_colour_and_the_axes_are_logarithmic():
    ax = plot_times([1, 4], {"fp32": [1e-4, 2e-4]}, {"fp32": [2e-4, 3e-4]})
    floor, times = ax.get_lines()
    assert floor.get_color() == times.get_color()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert list(times.get_ydata()) == [2e-4, 3e-4]


def test_given_axes_are_used_and_returned():
    ax = plt.subplots()[1]
    assert plot_roofline(ROOFS, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_drawing_changes_no_settings_of_the_readers():
    before = dict(plt.rcParams)
    plot_roofline(ROOFS)
    assert dict(plt.rcParams) == before


def test_the_ground_is_white_on_dark_pages_too_and_no_colour_repeats():
    assert plot_roofline(ROOFS).figure.get_facecolor() == (1, 1, 1, 1)
    assert len(set(style.COLOURS)) == len(style.COLOURS) == len(style.LINES) == len(style.MARKERS)


def test_colours_are_dark_enough_for_white_paper_and_lines_differ_without_them():
    def brightness(colour):
        r, g, b = matplotlib.colors.to_rgb(colour)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    levels = [brightness(colour) for colour in style.COLOURS]
    assert max(levels) < 0.75  # readable on white
    assert len(set(style.LINES)) == len(style.LINES)
