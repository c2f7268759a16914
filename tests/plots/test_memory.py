"""Pictures of memory draw the bytes that they are given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.costs.memory import Phase
from llmhw_helpers.plots.memory import PARTS, plot_phases, plot_timeline

FORWARD = Phase(
    "forward",
    {"parameters": 2_000_000_000, "activations": 3_000_000_000, "batch": 1_000_000_000, "gradients": 0},
    "loss",
)
STEP = Phase("step", {"parameters": 2_000_000_000, "gradients": 2_000_000_000, "exp_avg": 4_000_000_000}, "foreach")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_columns_are_as_high_as_their_parts_together():
    ax = plot_phases({"forward": FORWARD, "step": STEP})
    tops = [max(bar.get_y() + bar.get_height() for bar in ax.patches if round(bar.get_x() + 0.3) == x) for x in (0, 1)]
    assert tops == pytest.approx([6, 8])
    assert ax.get_ylabel() == "GB"
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {
        "parameters",
        "activations",
        "gradients",
        "exp avg",
        "other",
    }


def test_measurements_and_limits_are_lines_at_their_height():
    ax = plot_phases({"forward": FORWARD}, {"forward": 6.5e9}, {"card": 16e9})
    assert any(list(line.get_ydata()) == [6.5, 6.5] for line in ax.get_lines())
    assert any(list(line.get_ydata()) == [16, 16] for line in ax.get_lines())
    assert "card" in [text.get_text() for text in ax.texts]


def test_a_timeline_names_its_phases_in_order():
    timeline = [("forward", "mm", 10_000), ("forward", "mm", 30_000), ("backward", "mm", 20_000)]
    ax = plot_timeline({"once": timeline, "again": timeline[:2]}, floor=5_000)
    assert [text.get_text() for text in ax.texts] == ["there all the time", "forward", "backward"]
    assert list(ax.get_lines()[0].get_ydata()) == [10, 30, 20]
    assert all(len(line.get_xdata()) == len(line.get_ydata()) for line in ax.get_lines())
    assert ax.get_ylabel() == "alive, kB"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["once", "again"]


def test_given_axes_are_used():
    ax = plt.subplots()[1]
    assert plot_phases({"step": STEP}, ax=ax) is ax
    assert plot_timeline({"once": [("forward", "mm", 1)]}, ax=ax) is ax


def test_parts_that_meet_in_one_column_differ_in_colour():
    together = [name for name in PARTS if name != "momentum_buffer"]
    assert len({PARTS[name] for name in together}) == len(together)
