"""Panels as drawn: a line for each column, in the panel's unit."""

import math

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.measure.panels import SERVING, Panel
from llmhw_helpers.measure.quantities import Level
from llmhw_helpers.measure.scrapes import Scrape
from llmhw_helpers.measure.series import Series
from llmhw_helpers.plots.panels import plot_panel, plot_panels

SHARE = Panel("KV cache", "1", {"held": Level("held", ("instance",))})


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_lines_are_the_columns():
    scrapes = [
        Scrape(when, {"held": [({"instance": "a"}, when / 10), ({"instance": "b"}, 0.5)]}) for when in (1.0, 3.0)
    ]
    ax = plot_panel(SHARE, SHARE.series(scrapes))
    assert {line.get_label(): [*line.get_ydata()] for line in ax.lines} == {"held a": [0.1, 0.3], "held b": [0.5, 0.5]}
    assert [*ax.lines[0].get_xdata()] == [0, 2]
    assert ax.get_title(loc="left") == "KV cache"
    assert ax.get_ylim() == (0, 1)
    assert ax.yaxis.get_major_formatter()(0.5, 0) == "50%"
    assert ax.get_legend() is not None


def test_units_are_written_out():
    seconds = Panel("Step", "s", {})
    ax = plot_panel(seconds, Series([0, 1], {"": [0.001, math.nan]}, {"": "s"}))
    assert ax.yaxis.get_major_formatter()(0.002, 0) == "2 ms"
    assert ax.get_legend() is None  # one line that needs no name
    assert ax.lines[0].get_marker() == "o"  # a single point could not be seen else


def test_nothing_yet():
    empty = Series([0.0], {}, {})
    assert [text.get_text() for text in plot_panel(SHARE, empty).texts] == ["nothing to show yet"]


def test_all_of_them_in_one_figure():
    empty = Series([0.0], {}, {})
    figure = plot_panels([(panel, empty) for panel in SERVING[:3]], n_columns=2)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [*(panel.title for panel in SERVING[:3]), ""]
    assert not figure.axes[3].axison
    with pytest.raises(ValueError, match="no panel"):
        plot_panels([])
