"""The ledger: prediction first, both kept over kernels and notebooks."""

import json

import numpy as np
import pytest

from llmhw_helpers.course.ledger import Ledger
from llmhw_helpers.measure.machine import this_machine


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path))


def test_prediction_guess_and_measurement_stand_side_by_side():
    ledger = Ledger("00_your_machine")
    ledger.predict("one row", 2e-3, bound="memory", guess=1e-3)
    assert str(ledger).splitlines()[1].split() == ["one", "row", "~1", "ms", "~2", "ms", "~memory"]
    ledger.measure("one row", 3e-3)
    assert str(ledger).splitlines()[1].split() == [
        "one",
        "row",
        "~1",
        "ms",
        "~2",
        "ms",
        "~3",
        "ms",
        "~1.5",
        "↑",
        "~memory",
    ]


def test_a_machine_that_has_nothing_to_measure_says_so_in_the_same_form():
    """Lines cross on one processor and not on another; the tests compare all but what stands behind a ``~``."""
    ledger = Ledger("03_attention")
    ledger.predict("crossing", 300.0, unit="")
    ledger.measure("crossing", None)
    assert str(ledger).splitlines()[1].split() == ["crossing", "~300", "~not", "told", "~no"]


def test_a_measurement_without_a_prediction_is_refused():
    with pytest.raises(ValueError, match="predict 'one row' before you measure it"):
        Ledger("00_your_machine").measure("one row", 1.0)


@pytest.mark.parametrize(
    ("found", "verdict"), [(0.9, "↓"), (0.92, "✓"), (1.0, "✓"), (1.09, "✓"), (1.11, "↑"), (0.0, "↓"), (-1.0, "↓")]
)
def test_a_ratio_has_its_verdict(found, verdict):
    ledger = Ledger("00_your_machine")
    ledger.predict("a", 1.0)
    ledger.measure("a", found)
    assert str(ledger).splitlines()[1].split()[-1] == verdict


def test_a_key_need_not_be_typed_exactly_and_that_is_said(capsys):
    ledger = Ledger("00_your_machine")
    ledger.predict("one row, 512 to read", 1.0)
    ledger.measure("One row 512 to read", 2.0)
    assert capsys.readouterr().out == "'One row 512 to read' is taken for 'one row, 512 to read'\n"
    assert {name: entry["measured"] for name, entry in ledger.entries().items()} == {"one row, 512 to read": 2.0}
    ledger.measure("one row, 512 to read", 3.0)
    assert capsys.readouterr().out == ""


def test_a_key_that_fits_two_predictions_or_none_is_refused_with_the_nearest():
    ledger = Ledger("00_your_machine")
    ledger.predict("1.5 GB", 1.0)
    ledger.predict("15 GB", 1.0)
    for wrong in ("1,5 GB", "16 GB"):
        with pytest.raises(ValueError, match=r"predict '1\S+ GB' before you measure it.*did you mean .*15 GB"):
            ledger.measure(wrong, 2.0)
    assert not any("measured" in entry for entry in ledger.entries().values())


def test_a_guess_waits_for_its_prediction_under_any_spelling():
    ledger = Ledger("00_your_machine")
    ledger.guess("One  Row", np.float32(3))
    ledger.guess("another", 1)
    ledger.guess("another", None)
    ledger.predict("one row", 2.0)
    ledger.predict("another", 2.0)
    assert {name: entry["guess"] for name, entry in ledger.entries().items()} == {"one row": 3.0, "another": None}
    ledger.predict("one row", 2.0, guess=4)
    assert ledger.entries()["one row"]["guess"] == 4.0
    assert "no row" not in str(ledger)


def test_a_guess_that_no_prediction_takes_is_told_with_the_nearest_name():
    ledger = Ledger("00_your_machine")
    ledger.guess("first tokn", 3)
    ledger.predict("first token", 2.0)
    assert "your guess has no row: unknown prediction 'first tokn'; did you mean first token?" in str(ledger)
    assert "first tokn" in ledger._repr_html_()


def test_the_next_kernel_and_the_next_notebook_go_on_with_it():
    Ledger("00_your_machine").predict("a", 1.0)
    again = Ledger("00_your_machine")
    again.measure("a", 2.0)
    other = Ledger("01_autodiff")
    other.predict("b", 5e9, unit="FLOP/s")
    assert list(other.entries()) == ["b"]
    assert "~2 s" in other.everything()
    assert other.everything().index("00_your_machine") < other.everything().index("01_autodiff")


def test_predicting_again_starts_afresh():
    ledger = Ledger("00_your_machine")
    ledger.predict("a", 1.0)
    ledger.measure("a", 2.0)
    ledger.predict("a", 1.5)
    assert ledger.entries()["a"].get("measured") is None
    assert ledger.entries()["a"]["predicted"] == 1.5


def test_a_prediction_that_the_file_has_lost_is_written_again_with_its_measurement(monkeypatch):
    """As where another kernel sets a damaged file aside, between the look and the change."""
    ledger = Ledger("00_your_machine")
    ledger.predict("a", 1.0)
    entries = ledger.entries

    def lose():
        found = entries()
        ledger._record.path.unlink()
        return found

    monkeypatch.setattr(ledger, "entries", lose)
    ledger.measure("a", 2.0)
    assert {name: entries()["a"][name] for name in ("predicted", "measured")} == {"predicted": 1.0, "measured": 2.0}


def test_the_prediction_is_dated_before_the_measurement():
    ledger = Ledger("00_your_machine")
    ledger.predict("a", 1.0)
    ledger.measure("a", 2.0)
    entry = ledger.entries()["a"]
    assert entry["predicted_at"] <= entry["measured_at"]


def test_numbers_of_any_make_are_kept():
    ledger = Ledger("00_your_machine")
    ledger.predict("a", np.float32(1.5), guess=np.float64(2))
    ledger.measure("a", np.float32(3))
    assert ledger.entries()["a"]["measured"] == 3.0


def saved_as(**changes):
    return json.dumps({"m": {"a": {"predicted": 1.0, "unit": "s", "bound": "", "guess": None} | changes}})


WRONG_VALUES = [
    *({"predicted": value} for value in (None, "2", [1], True, {}, 10**400)),
    *({"measured": value} for value in ("2", [1], False, {})),
    *({"unit": 1}, {"unit": None}, {"bound": 1}, {"bound": ["x"]}, {"guess": "1"}, {"measured_at": "now"}),
]


def test_a_ledger_with_right_values_is_kept(tmp_path, capsys):
    path = tmp_path / this_machine().key / "ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text(saved_as(measured=2, measured_at=3.5, more="words"))
    Ledger("other").predict("b", 1.0)
    assert capsys.readouterr().out == ""
    assert "~2 s" in Ledger("other").everything()


@pytest.mark.parametrize(
    "content",
    ['{"m": 3}', '{"m": {"a": 1}}', '{"m": {"a": {"unit": "s"}}}', *(saved_as(**wrong) for wrong in WRONG_VALUES)],
    ids=range(3 + len(WRONG_VALUES)),
)
def test_a_ledger_of_another_form_is_set_aside_and_a_new_one_begun(tmp_path, content, capsys):
    ledger = Ledger("00_your_machine")
    path = tmp_path / this_machine().key / "ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert "your guess" in str(ledger)
    assert "your guess" not in ledger.everything()
    ledger.predict("a", 1.0)
    assert "set aside" in capsys.readouterr().out
    assert list(ledger.entries()) == ["a"]
