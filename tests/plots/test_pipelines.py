"""The picture of a schedule shows each pass where it was, by rank, kind and number."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from llmhw_helpers.costs.pipelines import Event, simulate
from llmhw_helpers.costs.schedules import gpipe, interleaved, one_f_one_b
from llmhw_helpers.plots.pipelines import COLOURS, plot_schedule


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def bars(ax):
    """(rank, start, seconds) of each, with its colour."""
    return {
        (round(bar.get_y() + bar.get_height() / 2), round(bar.get_x(), 6), round(bar.get_width(), 6)): to_hex(
            bar.get_facecolor()
        ).upper()
        for bar in ax.patches
    }


def test_each_pass_is_a_bar_in_its_ranks_row():
    events = simulate(one_f_one_b(3, 4), 1.0, 2.0)
    _, given = plt.subplots()
    ax = plot_schedule(events, given)
    assert ax is given
    drawn = {(event.rank, event.start_s, event.end_s - event.start_s): COLOURS[event.kind] for event in events}
    assert bars(ax) == drawn
    numbers = [(round(text.get_position()[1]), text.get_position()[0], text.get_text()) for text in ax.texts]
    assert numbers == [(e.rank, (e.start_s + e.end_s) / 2, str(e.micro_batch)) for e in events]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["rank 0", "rank 1", "rank 2"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first one on top"
    assert ax.get_xlim() == (0, 18)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["forward", "backward"]


def test_a_real_runs_time_begins_with_its_first_pass():
    events = [Event(1, "forward", 0, 0, 7.25, 7.5), Event(0, "forward", 0, 0, 7.0, 7.25)]
    ax = plot_schedule(events)
    assert set(bars(ax)) == {(0, 0.0, 0.25), (1, 0.25, 0.25)}
    assert ax.get_xlim() == (0, 0.5)


def test_chunks_are_told_apart_by_lightness_and_named():
    ax = plot_schedule(simulate(interleaved(2, 2, 3)))
    assert len(set(bars(ax).values())) == 6
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [f"{kind}, chunk {chunk}" for kind in ("forward", "backward") for chunk in range(3)]


def test_a_number_that_has_no_room_is_left_out():
    few, many = (plot_schedule(simulate(gpipe(2, m))) for m in (4, 50))
    assert len(few.texts) == 16
    assert len(many.texts) == 0


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no events to draw"):
        plot_schedule([])
