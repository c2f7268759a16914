"""Tables of results: HTML and text say the same, the notebooks' tests see the same in both, and nothing breaks out."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbval.plugin import get_sanitize_patterns

from llmhw_helpers.course.tables import STYLE, ResultTable
from llmhw_helpers.measure.timers import measured

SANITIZE = Path(__file__).parents[1] / "nbval_sanitize.cfg"
COLUMNS = ["your guess", "predicted", "ratio", "bound"]
ROWS = {"a step, fp32": ["-", "~1.2 ms", "~1.04 ✓", "~memory"], "b": ["-", "3,000 B", "~2 ↑", "-"]}


def sanitized(text: str) -> str:
    """As nbval compares it."""
    for regex, replace in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(regex, replace, text)
    return text


def parsed(table: ResultTable) -> ET.Element:
    """The table of its HTML, which is well-formed XML as well."""
    return ET.fromstring(table._repr_html_().replace(STYLE, ""))


def html_rows(table: ResultTable) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parsed(table).iter("tr")]


def text_rows(table: ResultTable) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in str(table).splitlines()]


def test_html_says_what_the_text_says_without_the_mark_before_words():
    table = ResultTable(COLUMNS, ROWS, "Of two steps")
    head, *rows, caption = text_rows(table)
    assert html_rows(table) == [["", *head], *[[re.sub(r"^~(?=[a-z])", "", cell) for cell in row] for row in rows]]
    assert caption == ["Of two steps"]
    assert parsed(table).findtext("caption") == "Of two steps"


def test_an_empty_column_is_left_out_and_a_table_without_rows_shows_all():
    assert text_rows(ResultTable(COLUMNS, ROWS))[0] == ["predicted", "ratio", "bound"]
    assert text_rows(ResultTable(COLUMNS, {})) == [COLUMNS]


def test_every_heading_has_its_scope_and_verdicts_differ_by_more_than_colour():
    table = parsed(ResultTable(COLUMNS, ROWS))
    assert [cell.get("scope") for cell in table.iter("th")] == ["col", "col", "col", "row", "row"]
    assert [cell.text for cell in table.iter("td") if cell.get("class") in ("near", "off")] == ["~1.04 ✓", "~2 ↑"]


def test_what_a_cell_holds_is_text():
    nasty = "<script>alert('&')</script>"
    table = ResultTable([nasty, "b"], {nasty: [nasty, "~<b>"]}, nasty)
    assert "<script" not in table._repr_html_()
    assert html_rows(table) == [["", nasty, "b"], [nasty, nasty, "~<b>"]]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 'a' has 1 cells for 2 columns"):
        ResultTable(["x", "y"], {"a": ["1"]})


@given(
    st.lists(st.floats(1e-9, 1e12), min_size=2, max_size=2),
    st.sampled_from(["s", "B/s", "FLOP/s", "B", "FLOP", "W", ""]),
    st.lists(st.sampled_from(["✓", "↑", "↓"]), min_size=2, max_size=2),
    st.lists(st.sampled_from(["memory", "compute", "neither"]), min_size=2, max_size=2),
)
def test_the_notebooks_tests_see_no_difference_between_two_machines(values, unit, verdicts, words):
    tables = [
        ResultTable(["x", "y", "z"], {"a": [measured(value, unit), f"{measured(value)} {verdict}", measured(word)]})
        for value, verdict, word in zip(values, verdicts, words, strict=True)
    ]
    assert len({sanitized(str(table)) for table in tables}) == 1
    assert len({sanitized(table._repr_html_()) for table in tables}) == 1


def test_a_machine_that_tells_nothing_compares_as_one_that_does():
    told, silent = (ResultTable(["x", "y"], {"a": cells}) for cells in (["~1 ms", "~1.2 ↑"], ["~not told", "~no"]))
    assert sanitized(told._repr_html_()) == sanitized(silent._repr_html_())
    assert sanitized(str(told)) == sanitized(str(silent))


@pytest.mark.parametrize(
    "other",
    [
        {"a step, fp16": ["-", "~1.2 ms", "~1.04 ✓", "~memory"], "b": ["-", "3,000 B", "~2 ↑", "-"]},
        {"a step, fp32": ["-", "~1.2 ms", "~1.04 ✓", "~memory"], "b": ["-", "3,001 B", "~2 ↑", "-"]},
        {"a step, fp32": ["-", "~1.2 ms", "~1.04 ✓", "~network"], "b": ["-", "3,000 B", "~2 ↑", "-"]},
        {"a step, fp32": ["~1 s", "~1.2 ms", "~1.04 ✓", "~memory"], "b": ["-", "3,000 B", "~2 ↑", "-"]},
        {"a step, fp32": ["-", "~1.2 ms", "~1.04 ✓", "~memory"], "b": ["-", "3,000 B", "-", "-"]},
    ],
)
def test_the_notebooks_tests_see_every_other_difference(other):
    one, two = ResultTable(COLUMNS, ROWS), ResultTable(COLUMNS, other)
    assert sanitized(one._repr_html_()) != sanitized(two._repr_html_())
    assert sanitized(str(one)) != sanitized(str(two))


def test_a_colour_that_changes_makes_no_notebook_stale():
    changed = STYLE.replace("#1b6e33", "#000000")
    assert changed != STYLE
    assert sanitized(changed) == sanitized(STYLE)
