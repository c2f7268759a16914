"""The machine's report: sentences that follow from the figures, worked out by hand."""

from pathlib import Path

import pytest

from llmhw_helpers.course.ledger import Ledger
from llmhw_helpers.course.report import NOTEBOOKS, Compared, MachineReport, compared, machine_report

ROOT = Path(__file__).parents[2]


def times(*ratios, predicted=0.01, bound="compute", notebook="00_your_machine"):
    return [
        Compared(notebook, f"time {i} {bound}", "s", predicted, ratio * predicted, None, bound)
        for i, ratio in enumerate(ratios)
    ]


def report(*entries):
    return MachineReport("a machine", tuple(entries))


def test_the_notebooks_are_those_of_the_course_in_order():
    there = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert there == [name for name in NOTEBOOKS if name in there]
    assert len(there) >= 16


@pytest.mark.parametrize(
    ("predicted", "measured", "ratio", "factor", "near"),
    [
        (2.0, 3.0, 1.5, 1.5, False),
        (2.0, 1.0, 0.5, 2.0, False),
        (2.0, 2.1, 1.05, 1.05, True),
        (2.0, None, None, None, False),
        (0.0, 1.0, None, None, False),
        (2.0, 0.0, None, None, False),
        (-2.0, 1.0, -0.5, None, False),
    ],
)
def test_how_far_off_in_either_direction(predicted, measured, ratio, factor, near):
    each = Compared("00_your_machine", "a", "s", predicted, measured)
    assert (each.ratio, each.factor, each.is_near) == (ratio, factor, near)


def test_the_summary_counts():
    found = report(*times(1.05, 1.5, 3.0, 0.95), Compared("00_your_machine", "b", "s", 1.0))
    assert found.summary() == (
        "5 predictions, 4 of them measured: 2 within 10% of their prediction, 3 within a factor of two."
    )


def test_what_holds_is_said_in_three_sentences():
    sizes = [Compared("02_training", f"bytes {i}", "B", 1e6, m * 1e6) for i, m in enumerate((1.0, 1.01, 1.2))]
    found = report(*times(1.04, 1.08, 1.3), *times(4, 5, 6, bound="memory"), *sizes).holds()
    assert found == [
        "Of 3 numbers of bytes, the one in the middle was 1.01 times its prediction; 2 of them came within 10%.",
        "Of 3 times bound by the multiplier, the one in the middle was 1.08 times its prediction; "
        "2 of them came within 10%.",
        "The time that came nearest is time 0 compute (notebook 00): 10.4 ms measured, 10 ms predicted.",
    ]


def test_what_does_not_hold_is_said_in_three_sentences():
    short = times(3, 4, 8, predicted=1e-4, bound="memory", notebook="07_prefill_decode")
    found = report(*times(1.0, 1.1, 1.5, 0.5), *short).fails()
    assert found == [
        "Of 3 times bound by memory, the one in the middle was 4 times its prediction; none of them came within 10%.",
        "Farthest off, by a factor of 8, is time 2 memory (notebook 07): 800 µs measured, 100 µs predicted.",
        "Short work is farther off than long: the middle of 3 times below 1 ms was 4 times its prediction, the middle "
        "of 4 longer ones 1.05 times. To start something takes time, and no roof knows of it.",
    ]


def test_times_shorter_than_their_floor_are_said():
    found = report(*times(1.0, 1.02, 0.5, 0.8)).fails()
    assert found[0].startswith("Farthest off, by a factor of 2, is time 2 compute")
    assert found[1].startswith("2 times were shorter than predicted by more than a tenth; the first of them is time 2")


def test_where_there_is_too_little_it_is_said_and_nothing_invented():
    empty = report()
    assert empty.summary().startswith("0 predictions, 0 of them measured")
    assert empty.holds() == ["Nothing else that was measured came near."]
    assert empty.fails() == ["Nothing else that was measured was far off."]
    assert empty.missing() == list(NOTEBOOKS)
    perfect = report(*times(1.0, 1.0))
    assert perfect.fails() == ["Nothing else that was measured was far off."]
    hopeless = report(*times(9.0, 9.0, 9.0))
    assert hopeless.holds() == ["Nothing else that was measured came near."]


def test_missing_notebooks_are_named_and_others_kept():
    found = report(*times(1.0), *times(1.0, notebook="my_own"))
    assert "00_your_machine" not in found.missing()
    assert len(found.missing()) == len(NOTEBOOKS) - 1
    assert list(found.by_notebook())[-1] == "my_own"


def test_it_is_made_from_this_machines_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))
    assert machine_report().entries == ()
    Ledger("15_network_storage").predict("b", 2e-3, bound="network", guess=1e-3)
    Ledger("00_your_machine").predict("a", 5.0, unit="B")
    Ledger("00_your_machine").measure("a", 6.0)
    found = machine_report()
    assert found.entries == (
        Compared("00_your_machine", "a", "B", 5.0, 6.0),
        Compared("15_network_storage", "b", "s", 2e-3, None, 1e-3, "network"),
    )
    assert found.roofs == ()


def test_the_order_is_the_courses_and_the_rest_comes_last():
    entry = {"predicted": 1.0, "unit": "s", "bound": ""}
    rows = compared({"a_job": {"x": entry}, "11_quantization": {"y": entry}, "02_training": {"z": entry}})
    assert [row.notebook for row in rows] == ["02_training", "11_quantization", "a_job"]
