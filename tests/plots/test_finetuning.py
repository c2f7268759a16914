"""Pictures of fine-tuning: what is drawn is what was given."""

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.finetuning import plot_stacks, plot_tradeoff


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_columns_are_as_high_as_the_sum_of_their_parts():
    ax = plot_stacks({"a": {"x": 1.0, "y": 2.0}, "b": {"y": 4.0, "z": 0.5}}, "seconds")
    tops = [max(bar.get_y() + bar.get_height() for bar in ax.patches if round(bar.get_x() + 0.3) == i) for i in (0, 1)]
    assert tops == [3.0, 4.5]
    assert [text.get_text() for text in ax.texts] == ["3", "4.5"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y", "z"]
    assert ax.get_ylabel() == "seconds"


def test_every_run_is_a_point_where_it_belongs():
    runs = {"gentle": (1.01, 0.3), "violent": (900.0, 2.0)}
    ax = plot_tradeoff(runs)
    points = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() != "None"
    }
    assert points == runs
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] == 0


def test_both_draw_where_they_are_told():
    figure, (left, right) = plt.subplots(1, 2)
    assert plot_stacks({"a": {"x": 1.0}}, "s", ax=left) is left
    assert plot_tradeoff({"a": (1.0, 1.0)}, ax=right) is right
    assert plt.get_fignums() == [figure.number]
