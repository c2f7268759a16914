"""The lecture map names every slide, and says the truth about notebooks and tests."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book/lecture_map.md"
SLIDES = [
    "Overview",
    "Neural networks",
    "Transformer",
    "Training of LLMs",
    "Fine-tuning of LLMs",
    "Inference of LLMs",
    "Optimize caches for inference",
    "Key takeaway",
    "LLM on general computers",
    "HPC clusters",
    "Alvis hardware - compute",
    "Alvis hardware - network & storage",
    "Running LLMs on supercomputers",
    "Tools to gain information",
    "Take home messages",
    "Useful links",
]


def table_rows(text):
    """The body rows of every Markdown table in `text`, as lists of stripped cells."""
    tables, current = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            current.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        elif current:
            tables.append(current)
            current = []
    return [row for table in tables for row in table[2:]]


SECTIONS = re.split(r"^## +", PAGE.read_text(), flags=re.MULTILINE)[1:]
ROWS = [
    pytest.param(section.splitlines()[0], *row, id=row[0][:50]) for section in SECTIONS for row in table_rows(section)
]
VERDICTS = {"reproduced", "corrected", "to come", "no claim"}
LINK = re.compile(r"\[(\d\d_\w+)\]\(\.\./notebooks/(\d\d_\w+)\.ipynb\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
FOLD = re.compile(r"<details><summary>(?:test|(\d+) tests)</summary>(.*)</details>")  # students see the summary alone


def test_every_slide_is_there_in_order():
    assert [section.splitlines()[0] for section in SECTIONS] == SLIDES


@pytest.mark.parametrize("section", SECTIONS, ids=SLIDES[: len(SECTIONS)])
def test_every_slide_has_a_row(section):
    assert table_rows(section)


def test_the_table_of_the_lecture_is_there_number_by_number():
    compute = next(section for section in SECTIONS if section.startswith("Alvis hardware - compute"))
    claims = " ".join(row[0] for row in table_rows(compute))
    figures = "9.7 19.5 0.58 7.8 0.25 37.4 15.7 8.1 156 74.8 312 149.7 125 65 624 299.3 64 130 1248 598.7 260"
    assert set(figures.split()) <= set(re.findall(r"\d+(?:\.\d+)?", claims))


def sources(notebook: str) -> str:
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize(("slide", "claim", "verdict", "where", "found"), ROWS)
def test_row_is_true(slide, claim, verdict, where, found, notebooks, course_map):
    assert claim
    assert verdict in VERDICTS
    if verdict == "no claim":
        assert where == "none"
    elif verdict == "to come":
        assert where in course_map, f"{where!r} is not in the course map"
        assert where not in notebooks, f"{where} has arrived: say what it found"
    else:
        assert found, "say what was found"
        fold = FOLD.search(where)
        links, tests = LINK.findall(where), TEST.findall(fold[2]) if fold else []
        assert len(tests) == (int(fold[1] or 1) if fold else 0), "the fold says how many tests are in it"
        asserted = "asserted there" in where and all("assert " in sources(target) for _, target in links)
        assert tests or (links and asserted), "name the test that holds it, or the notebook that asserts it"
        rest = FOLD.sub(lambda found: TEST.sub("", found[2]), LINK.sub("", where)).replace("asserted there", "")
        assert re.sub(r"[,\s]", "", rest) == "", f"not understood, or not folded: {where}"
        for text, target in links:
            assert text == target
            assert target in notebooks, f"there is no notebook {target}"
        for file, function in tests:
            assert (ROOT / file).is_file(), f"there is no {file}"
            assert not function or f"def {function}(" in (ROOT / file).read_text(), f"no {function} in {file}"
