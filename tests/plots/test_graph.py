"""A drawn graph: every box with its text, operands above results, nothing over anything else."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.plots.graph import plot_graph

BOXES = {"w": "w\n2", "x": "x\n3", "b": "b\n1", "p": "w x\n6", "y": "y\n7"}
ARROWS = [("w", "p"), ("x", "p"), ("p", "y"), ("b", "y")]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def places(ax):
    return {text.get_text(): text.get_position() for text in ax.texts if text.get_text()}


def test_every_box_has_a_place_of_its_own_and_operands_stand_above():
    ax = plot_graph(BOXES, ARROWS)
    at = places(ax)
    assert set(at) == set(BOXES.values())
    assert len(set(at.values())) == len(BOXES)
    for start, end in ARROWS:
        assert at[BOXES[start]][1] < at[BOXES[end]][1]
    assert at["b\n1"][1] == at["w x\n6"][1]  # just above its use, not at the top


def test_no_box_covers_another_and_all_lie_in_the_picture():
    ax = plot_graph(BOXES, ARROWS)
    ax.figure.canvas.draw()
    boxes = [text.get_bbox_patch().get_window_extent() for text in ax.texts if text.get_text()]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert ax.figure.bbox.x0 <= box.x0 < box.x1 <= ax.figure.bbox.x1
        assert ax.figure.bbox.y0 <= box.y0 < box.y1 <= ax.figure.bbox.y1


def test_one_arrow_an_edge_and_marked_boxes_look_different():
    ax = plot_graph(BOXES, ARROWS, marked=["w", "b"])
    assert sum(text.get_text() == "" for text in ax.texts) == len(ARROWS)
    edges = {text.get_text(): text.get_bbox_patch() for text in ax.texts if text.get_text()}
    assert edges["w\n2"].get_edgecolor() != edges["x\n3"].get_edgecolor()
    assert edges["w\n2"].get_linewidth() > edges["x\n3"].get_linewidth()  # also without colours


def test_a_circle_is_refused_and_given_axes_are_used():
    with pytest.raises(ValueError, match="round in a circle"):
        plot_graph({"a": "a", "b": "b"}, [("a", "b"), ("b", "a")])
    ax = plt.subplots()[1]
    assert plot_graph({"a": "alone"}, [], ax=ax) is ax
