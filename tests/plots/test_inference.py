"""The pictures of notebook 07 show the numbers that they are given."""

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.inference import plot_per_token, plot_split


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_each_line_is_what_was_measured():
    ax = plot_per_token([64, 512], {"again": [0.1, 0.9], "cached": [0.02, 0.02]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[0.1, 0.9], [0.02, 0.02]]
    assert all(list(line.get_xdata()) == [64, 512] for line in ax.lines)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["again", "cached"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["64", "512"]
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    shown = [tick.label1.get_text() for tick in ax.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert shown == ["20 ms", "50 ms", "100 ms", "200 ms", "500 ms", "1 s"]


def test_parts_are_stacked_to_their_sum():
    _, given = plt.subplots()
    ax = plot_split([10, 100, 1000], {"weights": [5, 5, 5], "cache": [0, 2, 20]}, "seconds", ax=given)
    assert ax is given
    tops = [max(y for _, y in area.get_paths()[0].vertices) for area in ax.collections]
    assert tops == [5, 25]
    assert ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["cache", "weights"]  # as they lie


def test_parts_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="'cache' has 1 values for 2 lengths"):
        plot_split([1, 2], {"cache": [3]}, "bytes")
