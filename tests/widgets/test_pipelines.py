"""The pipeline explorer: every setting of its controls draws or says why not."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from llmhw_helpers.widgets import pipelines as room


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_one_setting_says_the_numbers_of_the_formulas(capsys, monkeypatch):
    monkeypatch.setattr(room.plt, "show", lambda: None)
    room.show_pipeline("1F1B", 4, 8, 1)
    assert capsys.readouterr().out.splitlines() == [
        "a rank waits 27% of the step (formula: 27%)",
        "micro-batches held at once, by rank: 4, 3, 2, 1",
    ]
    room.show_pipeline("interleaved", 4, 8, 2)
    assert capsys.readouterr().out.splitlines() == [
        "a rank waits 16% of the step (formula: 16%)",
        "micro-batches held at once, by rank: 5.5, 4.5, 3.5, 2.5",
    ]


def test_the_first_picture_is_that_of_the_controls(monkeypatch):
    monkeypatch.setattr(room.plt, "show", lambda: None)
    name, ranks, micro_batches, chunks = room.explore_pipeline().children[:4]
    assert (name.value, ranks.value, micro_batches.value, chunks.value) == ("1F1B", 4, 8, 1)
    assert name.options == ("GPipe", "1F1B", "interleaved")


def test_every_setting_draws_or_says_why_not(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(room.plt, "show", lambda: drawn.append(plt.close("all")))
    settings = [(n, p, m, v) for n in room.SCHEDULES for p in (1, 4) for m in (3, 4) for v in (1, 2)]
    for setting in settings:
        room.show_pipeline(*setting)
    said = capsys.readouterr().out.splitlines()
    refused = [
        line for line in said if "one chunk a rank" in line or "two chunks a rank" in line or "whole rounds" in line
    ]
    assert len(refused) + len(drawn) == len(settings)
    assert len(said) == len(refused) + 2 * len(drawn)


def test_the_axes_stay_put_and_hold_every_pass(monkeypatch):
    limits, ends = set(), []

    def look():
        limits.add((plt.gca().get_xlim(), plt.gca().get_ylim()))
        ends.append(max(bar.get_x() + bar.get_width() for bar in plt.gca().patches))
        plt.close("all")

    monkeypatch.setattr(room.plt, "show", look)
    name, ranks, micro_batches, chunks = room.explore_pipeline().children[:4]
    for setting in (("GPipe", 1, 1, 1), ("GPipe", 8, 12, 1), ("1F1B", 8, 12, 1), ("interleaved", 4, 12, 4)):
        name.value, ranks.value, micro_batches.value, chunks.value = setting
    assert limits == {((0, room.LONGEST), (7.5, -0.5))}
    assert max(ends) == pytest.approx(room.LONGEST)
