"""The pictures of the chooser and of offloading show the numbers that they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.costs.flavours import Option
from llmhw_helpers.plots import style
from llmhw_helpers.plots.flavours import KINDS, plot_limits, plot_options


def option(flavour, state, rate, refused="", loss=0.01):
    return Option("vLLM", flavour, state, 5e9, 1, rate, loss, refused, "because", "a page")


OPTIONS = [
    option("one", "hardware", 40.0),
    option("two", "fits", 100.0),
    option("three", "fits", 120.0, "loses 9.0%"),
    option("four", "unknown", 0.0, "may run here or not: no source says", loss=None),
]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_a_bar_each_as_long_as_it_is_fast_coloured_by_its_state():
    ax = plot_options(OPTIONS, OPTIONS[1])
    bars = [bar for group in ax.containers for bar in group]
    assert [bar.get_width() for bar in bars] == [40, 100, 120, 0]
    colours = [to_hex(colour) for colour, _ in KINDS.values()]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [colours[0], colours[1], colours[2], colours[2]]
    assert [t.get_text() for t in ax.texts] == ["5 GB, loses 1.0%", "5 GB, loses 1.0%", "loses 9.0%", "unknown"]
    ticks = ax.get_yticklabels()
    assert [tick.get_text() for tick in ticks] == [f"{n} in vLLM" for n in ("one", "two", "three", "four")]
    assert [tick.get_fontweight() for tick in ticks] == ["normal", "bold", "normal", "normal"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first one on top"


def test_nothing_to_draw_is_no_error():
    assert plot_options([option("four", "no", 0.0, "does not run here")]).get_xlim() == (0, 1.35)


def test_limits_are_lines_and_what_was_measured_points():
    _, given = plt.subplots()
    ax = plot_limits({"streamed": [(1e8, 2.0), (4e8, 9.0)], "kept": [(1e8, 1.0), (4e8, 5.0)]}, [(2e8, 3.0)], ax=given)
    assert ax is given
    lines = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]
    assert lines == [
        ("streamed", [1e8, 4e8], [2, 9]),
        ("kept", [1e8, 4e8], [1, 5]),
        ("measured", [2e8], [3]),
    ]
    assert [line.get_color() for line in ax.lines] == list(style.COLOURS[:3])
    assert ax.get_yscale() == "log"
    assert ax.xaxis.get_major_formatter()(4e8, 0) == "400 MB"
