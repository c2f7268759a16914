"""The pictures of a trace show each span where it was, in its lane and in the colour of what it is."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.measure.trace_files import Span
from llmhw_helpers.measure.traces import Interval, Tally, Trace
from llmhw_helpers.plots.traces import COLOURS, plot_longest, plot_timeline

MAIN, STREAM = "main thread", "GPU 0, stream 7"
SPANS = (
    Span("step", "user_annotation", MAIN, 0.0, 1.0),
    Span("load", "user_annotation", MAIN, 0.0, 0.2),
    Span("aten::mm", "cpu_op", MAIN, 0.3, 0.5),
    Span("cudaLaunchKernel", "cuda_runtime", MAIN, 0.35, 0.4, 1),
    Span("gemm", "kernel", STREAM, 0.4, 0.8, 1),
    Span("aten::item", "cpu_op", MAIN, 0.6, 0.9),
)
TRACE = Trace(SPANS, (MAIN,), (STREAM,), 0.0, 1.0, {})


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def bars(ax):
    """(row, colour) -> (start, end) of each bar, in the order in which they were drawn."""
    found = {}
    for collection in ax.collections:
        for path in collection.get_paths():
            (left, bottom), (right, top) = path.get_extents().get_points()
            key = round((bottom + top) / 2), to_hex(collection.get_facecolor()[0]).upper()
            found.setdefault(key, []).append((round(left, 6), round(right, 6)))
    return found


def test_each_span_is_in_its_lane_and_colour():
    _, given = plt.subplots()
    ax = plot_timeline(TRACE, given)
    assert ax is given
    grey = COLOURS["named part"].upper()
    assert bars(ax) == {
        (0, grey): [(0.0, 1.0)],
        (1, grey): [(0.0, 0.2)],
        (2, COLOURS["operation"]): [(0.3, 0.5), (0.6, 0.9)],  # the call within aten::mm is a part of it
        (2, COLOURS["waits for data"]): [(0.0, 0.2)],
        (2, COLOURS["waits for the device"]): [(0.6, 0.9)],
        (3, COLOURS["GPU"]): [(0.4, 0.8)],
    }
    assert [label.get_text() for label in ax.get_yticklabels()] == ["", "", MAIN, STREAM]
    assert {text.get_text() for text in ax.texts} == {"step", "load"}
    assert len(ax.get_legend().get_texts()) == len(COLOURS)


def test_a_piece_begins_at_zero():
    ax = plot_timeline(TRACE.within(Interval(0.4, 0.7)))
    assert ax.get_xlim() == pytest.approx((0, 0.3))
    assert bars(ax)[2, COLOURS["GPU"]] == [(0.0, 0.3)]
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["operation", "waits for the device", "GPU", "named part"]


def test_the_longest_are_on_top_with_their_counts():
    long_name = "void kernel_with_a_name_that_nobody_can_read_at_all<float>_backward"
    ax = plot_longest([Tally("aten::mm", 1200, 3.0, 2.5), Tally(long_name, 1, 1.0, 1.0)])
    assert [bar.get_width() for bar in ax.patches] == [2.5, 1.0]
    assert [text.get_text().strip() for text in ax.texts] == ["1,200 x", "1 x"]
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == ["aten::mm", "void kernel_wi…float>_backward"]
    assert ax.yaxis_inverted()


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no operations to draw"):
        plot_longest([])
