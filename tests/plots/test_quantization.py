"""The pictures of notebook 11 show the numbers that they are given."""

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.quantization import plot_outliers, plot_pareto


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_models_are_marked_and_those_that_none_beats_joined():
    models = {"int8": (8.0, 15.2), "nf4": (4.2, 20.0), "int4": (4.2, 28.0), "int3": (3.2, 90.0)}
    ax = plot_pareto(models, 15.1)
    marks = {line.get_label(): line.get_xydata().tolist()[0] for line in ax.lines if line.get_label() in models}
    assert {name: tuple(point) for name, point in marks.items()} == models
    joined = next(line for line in ax.lines if len(line.get_xdata()) == 3)
    assert joined.get_xydata().tolist() == [[3.2, 90.0], [4.2, 20.0], [8.0, 15.2]]
    assert list(ax.lines[0].get_ydata()) == [15.1, 15.1]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["15", "20", "30", "50", "100"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["as in the file", *models]


def test_a_single_model_in_axes_that_are_given():
    _, given = plt.subplots()
    assert plot_pareto({"int8": (8.0, 16.0)}, 15.0, ax=given) is given


def test_outliers_by_layer():
    ax = plot_outliers({"q, k, v": [10, 20], "down": [30, 40000]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[10, 20], [30, 40000]]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1], [0, 1]]
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["q, k, v", "down"]
