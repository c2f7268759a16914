"""The ledgers that notebooks show, read back: what a Ledger holds is what comes out."""

import json
import re
from html import unescape
from pathlib import Path

import nbformat
import pytest

from llmhw_helpers.course.ledger import Ledger
from llmhw_helpers.course.report import Compared
from llmhw_helpers.course.stored_ledgers import stored_report
from llmhw_helpers.course.tables import ResultTable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMHW_HOME", str(tmp_path / "home"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def store(folder, name, *shown):
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=each)
        if isinstance(each, str)
        else nbformat.v4.new_output("display_data", {"text/plain": str(each), "text/html": each._repr_html_()})
        for each in shown
    ]
    cells = [nbformat.v4.new_code_cell("display(ledger)", outputs=[output]) for output in outputs]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


ROWS = [
    ("a", 1.23e-3, "s", "memory", 1e-3, 4.56e-3),
    ("a name that is longer than the twenty letters, with a comma", 35_300.0, "B", "", None, 35_300.0),
    ("rate", 1.5e12, "FLOP/s", "compute", None, 1.2e12),
    ("ratio", 184_000.0, "", "", None, 0.0813),
    ("not measured", 2.0, "s", "disk", None, None),
    ("nothing to measure", 300.0, "", "", 250.0, "nothing"),
    ("micro", 5.79e-6, "s", "waiting", None, 71.7e-6),
]


def test_what_a_ledger_shows_is_read_back(folder):
    ledger = Ledger("00_your_machine")
    for name, predicted, unit, bound, guess, found in ROWS:
        ledger.predict(name, predicted, unit, bound, guess)
        if found is not None:
            ledger.measure(name, None if found == "nothing" else found)
    store(folder, "00_your_machine", ledger, "~floors: nothing was clearly faster than its floor\n")
    expected = [
        Compared("00_your_machine", name, unit, predicted, None if found == "nothing" else found, guess, bound)
        for name, predicted, unit, bound, guess, found in ROWS
    ]
    found = stored_report(folder).entries
    for each, right in zip(found, expected, strict=True):
        assert (each.name, each.unit, each.bound) == (right.name, right.unit, right.bound)
        for figure in ("predicted", "measured", "guess"):
            assert getattr(each, figure) == (pytest.approx(getattr(right, figure)) if getattr(right, figure) else None)


def test_of_a_ledger_shown_twice_the_later_figures_count(folder):
    ledger = Ledger("01_autodiff")
    ledger.predict("a", 1.0)
    first = ledger.table()
    ledger.measure("a", 2.0)
    ledger.predict("b", 3.0)
    store(folder, "01_autodiff", first, "words before\n", ledger, "words after, 3 of them\n")
    assert [(each.name, each.measured) for each in stored_report(folder).entries] == [("a", 2.0), ("b", None)]


def test_other_tables_and_notebooks_without_a_ledger_give_nothing(folder):
    other = ResultTable(["predicted", "measured"], {"a": ["~1 ms", "~2 ms"]}, "No ledger")
    store(folder, "02_training", other, Ledger("02_training"), "a                        -      ~1 ms\n")
    found = stored_report(folder)
    assert found.entries == ()
    assert "02_training" in found.missing()
    assert stored_report(folder / "not there").entries == ()


def test_the_machine_is_the_one_that_notebook_00_prints(folder):
    store(folder, "00_your_machine", "~AMD EPYC, 2 cores, 24 GiB of memory, no GPU\n")
    assert stored_report(folder).machine == "AMD EPYC, 2 cores, 24 GiB of memory, no GPU"


def test_the_committed_notebooks_have_figures_and_every_row_shown_is_read():
    found, rows = stored_report(ROOT / "notebooks"), set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", ()):
                page = "".join(output.get("data", {}).get("text/html", ()))
                if "<caption>Ledger of " in page:
                    rows |= {(path.stem, unescape(name)) for name in re.findall(r'<th scope="row">([^<]*)</th>', page)}
    assert len(found.entries) >= 90
    assert {(each.notebook, each.name) for each in found.entries} == rows
    assert len([each for each in found.entries if each.measured is not None]) >= 0.9 * len(found.entries)
    assert "cores" in found.machine
