"""The book's search: either spelling of a word finds the same, and the course stands before its package."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/html"
PAIRS = [
    ("colour", "color"),
    ("colours", "colors"),
    ("neighbouring", "neighboring"),
    ("behaviour", "behavior"),
    ("quantise", "quantize"),
    ("quantised", "quantized"),
    ("quantisation", "quantization"),
    ("normalising", "normalizing"),
    ("tokeniser", "tokenizer"),
    ("analyse", "analyze"),
    ("centre", "center"),
    ("metres", "meters"),
    ("modelling", "modeling"),
    ("labelled", "labeled"),
    ("cancellation", "cancelation"),
    ("licence", "license"),
    ("catalogue", "catalog"),
    ("programme", "program"),
    ("grey", "gray"),
    ("artefacts", "artifacts"),
]


@pytest.fixture
def spellings(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    return importlib.import_module("spellings")


@pytest.mark.parametrize(("british", "american"), PAIRS)
def test_both_spellings_have_one_stem(spellings, british, american):
    language = spellings.EitherSpelling({})
    assert language.stem(british) == language.stem(american) == language.stem(american.upper())


@pytest.mark.parametrize(
    "word", ["hour", "four", "source", "course", "disk", "this", "basis", "calling", "filled", "parallel", "reference"]
)
def test_other_words_stay_as_they_are(spellings, word):
    assert spellings.one_spelling(word) == word


@pytest.mark.browser
def test_the_browser_makes_the_same_stems(spellings, book, tab):
    page, faults = tab
    page.goto(book.address + "search.html", wait_until="load")
    words = [word for pair in PAIRS for word in pair] + ["hour", "noise", "exercises", "flavours", "cache"]
    found = page.evaluate("words => words.map(word => new Stemmer().stemWord(word))", words)
    language = spellings.EitherSpelling({})
    assert found == [language.stem(word) for word in words]
    assert not faults


def results(page, address, query):
    """The search's addresses for `query`, in their order."""
    page.goto(f"{address}search.html?q={query}", wait_until="load")
    page.wait_for_function("() => /found|did not match/.test(document.querySelector('.search-summary')?.innerText)")
    return page.locator("ul.search > li > a").evaluate_all("links => links.map(link => link.href)")


@pytest.mark.browser
@pytest.mark.parametrize(("british", "american"), [("quantisation", "quantization"), ("colour", "color")])
def test_either_spelling_finds_the_same_pages(book, tab, british, american):
    found = [{link.split("?")[0] for link in results(tab[0], book.address, word)} for word in (british, american)]
    assert found[0]
    assert {link for link in found[0] if "#" not in link} == {link for link in found[1] if "#" not in link}


@pytest.mark.browser
def test_notebooks_stand_before_the_pages_of_the_package(book, tab):
    found = ["/book/api/" in link for link in results(tab[0], book.address, "roofline")]
    assert True in found
    assert False in found
    assert found == sorted(found)


@pytest.mark.browser
def test_a_question_asked_on_any_page_is_answered_on_the_searchs_own(book, tab):
    page, faults = tab
    page.goto(f"{book.address}notebooks/04_transformer.html", wait_until="load")
    page.keyboard.press("Control+k")
    page.keyboard.type("roofline")
    page.keyboard.press("Enter")
    page.wait_for_function("() => /found/.test(document.querySelector('.search-summary')?.innerText)")
    assert page.locator("ul.search > li > a").count()
    assert not faults
