"""The block-table stepper goes forwards and backwards, and says what has changed."""

from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.serving.snapshots import Snapshot
from llmhw_helpers.widgets.block_tables import show_step, step_through, what_changed

START = Snapshot(
    0,
    4,
    (0,) * 6,
    {"one": (), "other": ()},
    {"one": 0, "other": 0},
    dict.fromkeys(("one", "other"), "waiting"),
    frozenset(),
)
BOTH = replace(
    START,
    step=1,
    ref_count=(2, 2, 0, 0, 0, 0),
    tables={"one": (0, 1), "other": (0, 1)},
    lengths={"one": 5, "other": 5},
    states=dict.fromkeys(("one", "other"), "running"),
)
COPIED = replace(
    BOTH, step=2, ref_count=(2, 1, 1, 0, 0, 0), tables={"one": (0, 2), "other": (0, 1)}, lengths={"one": 6, "other": 6}
)
GROWN = replace(
    COPIED,
    step=3,
    ref_count=(1, 0, 1, 1, 0, 0),
    tables={"one": (0, 2, 3), "other": ()},
    lengths={"one": 9, "other": 0},
    states={"one": "running", "other": "waiting"},
)
ENDED = replace(
    GROWN, step=4, ref_count=(0,) * 6, tables={"one": (), "other": ()}, states={"one": "stop", "other": "waiting"}
)
RUN = [START, BOTH, COPIED, GROWN, ENDED]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        (None, START, "before the first step: 6 blocks of 4 slots, all free"),
        (START, BOTH, "step 1: one begins in [0, 1]; other begins in [0, 1]"),
        (BOTH, COPIED, "step 2: one copies block 1 to 2 and writes there"),
        (COPIED, GROWN, "step 3: one goes on into [3]; other has to wait"),
        (GROWN, ENDED, "step 4: one ends (stop), [0, 2, 3] let go"),
        (ENDED, replace(ENDED, step=5), "step 5: a token more in the same blocks"),
    ],
)
def test_the_line_says_what_has_changed(before, now, line):
    assert what_changed(before, now) == line


def test_slider_and_buttons_move_within_the_run(monkeypatch):
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gca().get_legend().get_texts()[0].get_text()))
    box = step_through(RUN, 1)
    slider, back, on = box.children[0].children
    assert (slider.value, slider.min, slider.max) == (1, 0, 4)
    on.click()
    assert slider.value == 2
    for _ in range(9):
        on.click()
    assert slider.value == 4
    for _ in range(9):
        back.click()
    assert slider.value == 0
    assert drawn[:2] == ["one: 5 tokens in [0, 1]", "one: 6 tokens in [0, 2]"]
    assert drawn[-1] == "one: waiting"


def test_a_step_is_said_and_drawn(monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gcf()))
    show_step(RUN, 2)
    assert capsys.readouterr().out == "step 2: one copies block 1 to 2 and writes there\n"
    assert len(drawn) == 1


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="nothing to step through"):
        step_through([])


def test_the_picture_stays_where_it_is_from_step_to_step(monkeypatch):
    places = set()

    def look():
        plt.gcf().canvas.draw()
        places.add((plt.gca().get_position().bounds, plt.gca().get_xlim(), plt.gca().get_ylim()))

    monkeypatch.setattr(plt, "show", look)
    for step in range(len(RUN)):
        show_step(RUN, step)
    assert len(places) == 1
