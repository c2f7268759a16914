"""The pictures of notebook 14 show who holds what."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.plots import style
from llmhw_helpers.plots.parallelism import CUTS, WHOLE, plot_cuts, plot_sent, plot_steps, plot_zero


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def area(ax) -> dict[str, float]:
    """How much of the drawing each colour covers."""
    covered = {}
    for patch in ax.patches:
        if patch.get_hatch() is None:
            colour = to_hex(patch.get_facecolor()).upper()
            covered[colour] = covered.get(colour, 0) + patch.get_width() * patch.get_height()
    return covered


def test_each_way_of_cutting_is_drawn_and_said():
    ax = plot_cuts(2)
    assert {text.get_text() for text in ax.texts} >= {*CUTS, *(cut.sent for cut in CUTS.values()), "X", "W", "Y"}
    covered = area(ax)
    # One rank's share: half of X, W or Y wherever one is cut, with 20, 30 and 24 numbers in them.
    assert covered[style.COLOURS[0]] == pytest.approx((20 + 24 + 30 + 24 + 20 + 30) / 2)
    assert covered[style.COLOURS[0]] == pytest.approx(covered[style.COLOURS[1]])
    assert covered[WHOLE.upper()] == 30 + 20
    assert len([patch for patch in ax.patches if patch.get_hatch()]) == 2, "a sheet of terms for each rank"


def test_the_cuts_are_those_of_a_product():
    """What a product makes of pieces: rows of X give rows of Y, columns of W its columns, and what is summed, terms."""
    made = {("rows", "whole"): "rows", ("whole", "columns"): "columns", ("columns", "rows"): "terms"}
    assert [made[cut.x, cut.w] for cut in CUTS.values()] == [cut.y for cut in CUTS.values()]


def test_each_stage_of_zero_divides_one_more():
    n_ranks = 5
    covered = area(plot_zero(n_ranks))
    whole = 0.86 * 0.8
    parts = 6 * whole + 6 * whole / n_ranks  # of 4 stages with three things each, 3 + 2 + 1 are whole on a rank
    for rank in range(n_ranks):
        assert covered[style.COLOURS[rank]] == pytest.approx(parts)


def test_bars_and_lines_are_the_bytes_given():
    _, given = plt.subplots()
    ax = plot_sent({"data": 1.6e10, "pipeline": 7e7}, {"Ethernet": 3e9}, ax=given)
    assert ax is given
    assert [bar.get_width() for bar in ax.containers[0]] == [1.6e10, 7e7]
    assert [line.get_xdata()[0] for line in ax.lines] == [3e9]
    assert [text.get_text() for text in ax.texts] == ["16 GB", "70 MB"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["data", "pipeline"]
    assert ax.get_xscale() == "log"
    assert ax.get_xlim()[0] < 7e7
    assert plot_sent({"data": 1e10}, {"slow": 1e6, "fast": 1e15}).get_xlim() == pytest.approx((2.5e5, 1.2e16))
    assert ax.get_legend().get_texts()[0].get_text() == "Ethernet, one second: 3 GB"
    assert plot_sent({"data": 2.0}).get_legend() is None


def test_nothing_sent_is_refused():
    with pytest.raises(ValueError, match="tensor sends nothing"):
        plot_sent({"data": 1.0, "tensor": 0})


def test_a_step_is_stacked_of_its_parts():
    ax = plot_steps(
        {"DP 4": {"products": 3.0, "bubble": 0.0, "weights": 1.0}, "PP 4": {"products": 3.0, "bubble": 2.0}}
    )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["products", "weights", "bubble"]
    widths = [[bar.get_width() for bar in group] for group in ax.containers]
    assert widths == [[3.0, 3.0], [1.0, 0.0], [0.0, 2.0]]
    assert [bar.get_x() for group in ax.containers for bar in group] == [0, 0, 3.0, 3.0, 4.0, 3.0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["DP 4", "PP 4"]


def test_more_parts_than_colours_are_refused():
    with pytest.raises(ValueError, match="8 parts, and 7 colours"):
        plot_steps({"one": dict.fromkeys("abcdefgh", 1.0)})
