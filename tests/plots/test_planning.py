"""Pictures of plans draw the bytes and ratios that they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots import style
from llmhw_helpers.plots.planning import Held, plot_held, plot_parts


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_columns_are_as_high_as_their_parts_and_limits_are_lines():
    ax = plot_parts(
        {"1 GPU": {"weights": 100e9, "cache": 5e9}, "2 GPUs": {"weights": 50e9, "own": 2e9}}, {"card": 80e9}
    )
    tops = [max(bar.get_y() + bar.get_height() for bar in ax.patches if round(bar.get_x() + 0.3) == x) for x in (0, 1)]
    assert tops == pytest.approx([105, 52])
    assert any(list(line.get_ydata()) == [80, 80] for line in ax.get_lines())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["card: 80 GB", "weights", "cache", "own"]
    assert ax.get_ylim()[1] > 105


def test_a_row_lies_at_its_ratio_and_is_marked_where_it_is_out_of_the_band():
    ax = plot_held([Held("exact", 10, 10, 10), Held("a range", 8, 12, 10), Held("off", 12, 14, 10)], 0.15)
    lines = {line.get_ydata()[0]: line for line in ax.get_lines() if len(line.get_xdata()) == 1}
    assert [lines[y].get_xdata()[0] for y in range(3)] == pytest.approx([1, 1, 1.3])
    assert [lines[y].get_color() for y in range(3)] == [style.COLOURS[0], style.COLOURS[0], style.COLOURS[1]]
    ranges = [list(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_lw() == 3]
    assert ranges[1] == pytest.approx([0.8, 1.2])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["exact", "a range", "off"]


def test_given_axes_are_used():
    ax = plt.subplots()[1]
    assert plot_parts({"a": {"weights": 1e9}}, ax=ax) is ax
    assert plot_held([Held("a", 1, 1, 1)], 0.1, ax) is ax
