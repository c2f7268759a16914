"""The pictures of notebook 12 show the numbers that they are given."""

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.cards import plot_cards, plot_ranges, plot_working_sets


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_steps_and_points_and_a_line_for_each_cache():
    sizes = [2**12, 2**15, 2**20]
    ax = plot_working_sets(sizes, [9e9, 8e9, 1e9], [9e9, 9e9, 2e9], {"L1": 2**15})
    predicted, points, cache = ax.lines
    assert list(predicted.get_ydata()) == [9e9, 9e9, 2e9]
    assert list(points.get_ydata()) == [9e9, 8e9, 1e9]
    assert list(cache.get_xdata()) == [2**15] * 2
    assert [text.get_text() for text in ax.texts] == ["L1"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["8 KiB", "64 KiB", "512 KiB"]


def test_a_card_has_filled_marks_where_it_fits_and_none_where_nothing_is_known():
    series = {"decode": [10, 20, None], "training": [1, 2, None]}
    ax = plot_cards(["T4", "A40", "GB10"], series, {"decode": [True] * 3, "training": [False, True, False]}, "tokens/s")
    marks = [line for line in ax.lines if len(line.get_xdata())]
    assert [(float(m.get_xdata()[0]), int(m.get_ydata()[0])) for m in marks] == [(10, 0), (20, 1), (1, 0), (2, 1)]
    assert [m.get_markerfacecolor() == "none" for m in marks] == [False, False, True, False]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["T4", "A40", "GB10"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first card is on top


def test_ranges_are_sorted_and_every_measurement_stands_on_its_own():
    ax = plot_ranges([(10, 20), (1, 2)], [15, 3], ["A40", "T4"], "tokens/s")
    bars = [line for line in ax.lines if line.get_color() == "#bbbbbb"]
    assert [tuple(map(float, bar.get_ydata())) for bar in bars] == [(1, 2), (10, 20)]
    marks = {line.get_label(): (int(line.get_xdata()[0]), line.get_ydata()[0]) for line in ax.lines[2:]}
    assert marks == {"A40": (1, 15), "T4": (0, 3)}
