"""Pictures of plans draw the bytes that they are given, in the colours that the page of the book has."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.plots.plans import OTHERS, PARTS, plot_memory

BARS = Path(__file__).resolve().parents[2] / "book/_static/planner/bars.mjs"


def plan(name, parts, reserve=(1e9, 3e9), limit=40e9, pareto=False):
    memory = {"limit": limit, "parts": parts, "reserve": list(reserve), "fits": "yes", "at": ""}
    return {"name": name, "memory": memory, "pareto": pareto}


SERVED = plan("one", {"weights": 20e9, "cache": 5e9}, pareto=True)
TRAINED = plan("two", {"parameters": 8e9, "something_else": 2e9}, reserve=(2e9, 2e9), limit=16e9)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def bars(ax):
    """Left ends, widths and colours of a row's bars that can be seen, by row."""
    found = {}
    for patch in ax.patches:
        if patch.get_width():
            row = round(patch.get_y() + patch.get_height() / 2)
            found.setdefault(row, []).append((patch.get_x(), patch.get_width(), to_hex(patch.get_facecolor())))
    return found


def test_a_bar_is_its_parts_and_the_reserve_end_to_end_with_a_line_at_the_limit():
    ax = plot_memory([SERVED, TRAINED])
    rows = bars(ax)
    assert [(left, width) for left, width, _ in rows[0]] == [(0, 20), (20, 5), (25, 1), (26, 2)]
    assert [(left, width) for left, width, _ in rows[1]] == [(0, 8), (8, 2), (10, 2)]
    colours = [colour for *_, colour in rows[0]][:2] + [colour for *_, colour in rows[1]][:2]
    assert colours == [to_hex(c) for c in (PARTS["weights"], PARTS["cache"], PARTS["parameters"], OTHERS)]
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [40, 16]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first one on top"


def test_plans_are_named_and_those_that_no_other_beats_stand_out():
    ax = plot_memory([SERVED, TRAINED])
    assert [(tick.get_text(), tick.get_fontweight()) for tick in ax.get_yticklabels()] == [
        ("one", "bold"),
        ("two", "normal"),
    ]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "limit",
        "weights",
        "cache",
        "parameters",
        "something else",
        "reserve",
        "reserve, perhaps",
    ]


def test_given_axes_are_used():
    ax = plt.subplots()[1]
    assert plot_memory([SERVED], ax=ax) is ax


def test_the_books_page_has_the_same_colours():
    table = re.search(r"const COLOURS = \{(.*?)\}", BARS.read_text(), re.DOTALL)[1]
    page = dict(re.findall(r'"?(\w[\w ]*)"?: "(#\w+)"', table))
    assert page == PARTS


def test_long_names_leave_the_legend_whole_and_the_axis_ends_where_it_is_told_to():
    ax = plot_memory([SERVED | {"name": "INT8 W8A8 on 32 x A100-40GB, TP 4"}, TRAINED], end=88e9)
    assert ax.get_xlim() == (0, 88)
    assert len(ax.get_legend().get_texts()) == 7  # and conftest.py looks whether they are inside the figure
