"""The sources of the book agree with one another, with the notebooks and with the package."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
HTML = ROOT / "_build/html"


def load_extension():
    spec = importlib.util.spec_from_file_location("api_modules", BOOK / "_ext/api_modules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def toc_files():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def test_toc_lists_exactly_the_notebooks_that_exist_in_order(notebooks):
    assert [name for name in toc_files() if name.startswith("notebooks/")] == [f"notebooks/{n}" for n in notebooks]


def test_toc_lists_every_page_of_the_book_once():
    pages = [name for name in toc_files() if name.startswith("book/")]
    assert sorted(pages) == sorted(f"book/{path.stem}" for path in BOOK.glob("*.md"))


def test_course_map_counts_from_zero_without_a_gap(course_map):
    assert [name[:2] for name in course_map] == [f"{number:02}" for number in range(19)]


def test_course_map_marks_are_true(course_map, notebooks):
    assert set(notebooks) <= set(course_map)
    for name, cell in course_map.items():
        expected = f"[{name}](../notebooks/{name}.ipynb)" if name in notebooks else f"{name} (to come)"
        assert cell == expected


def glossary():
    body = re.search(r"```\{glossary\}\n(.*?)```", (BOOK / "glossary.md").read_text(), re.DOTALL)[1]
    entries = re.split(r"\n(?=\S)", body.strip())
    return [(entry.split("\n")[0], " ".join(entry.split("\n")[1:]).strip()) for entry in entries]


def test_glossary_terms_are_unique_ordered_and_explained():
    terms = [term for term, _ in glossary()]
    assert len(terms) >= 45
    assert len({term.lower() for term in terms}) == len(terms)
    assert terms == sorted(terms, key=in_a_dictionary)
    assert not [term for term, text in glossary() if len(text) < 30]


def test_every_link_to_the_glossary_names_a_term_that_is_there():
    ids = {"term-" + re.sub(r"\W+", "-", term) for term, _ in glossary()}
    pages = [*(ROOT / "notebooks").glob("*.ipynb"), *BOOK.glob("*.md")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    linked = {link for text in texts for link in re.findall(r"glossary\.md#([^)]*)\)", text)}
    assert linked <= ids, linked - ids


def in_a_dictionary(term):
    """FP8 before FP16, and hyphens, spaces and capitals make no difference."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", re.sub(r"\W", "", term.lower()))]


def test_every_citation_is_in_the_bibliography():
    keys = re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys))
    cited = {
        key.strip()
        for page in BOOK.glob("*.md")
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text())
        for key in group.split(",")
    }
    assert cited
    assert cited <= set(keys)


def test_every_bibliography_entry_can_be_found():
    for entry in (BOOK / "references.bib").read_text().split("\n@")[1:]:
        assert re.search(r"\bauthor = ", entry), entry
        assert re.search(r"\byear = \{\d{4}\}", entry), entry
        assert re.search(r"\b(eprint = \{\d{4}\.\d{4,5}\}|doi = |url = )", entry), entry


def test_every_module_has_a_page_and_a_line_in_the_list(tmp_path):
    package = ROOT / "llmhw_helpers"
    files = [path.relative_to(ROOT).with_suffix("") for path in package.rglob("*.py")]
    names = {".".join(file.parts).removesuffix(".__init__") for file in files} - {"llmhw_helpers"}
    names = {name for name in names if not name.startswith("llmhw_helpers.course.exercises")}
    extension = load_extension()
    assert set(extension.modules()) == names
    (tmp_path / "gone.md").write_text("the page of a module that is no more")
    extension.write_pages(tmp_path)
    pages = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(re.findall(r"automodule:: (\S+)", "".join(pages.values()))) == sorted(names)
    assert len(pages) == len(names)
    listed = extension.as_list(extension.modules())
    assert set(re.findall(r"\]\(api/([^)]*)\)", listed)) == set(pages)
    assert "](api/costs-flops.md): " in listed
    assert (BOOK / "api.md").read_text().count(extension.MARK) == 1


@pytest.mark.parametrize("path", sorted((BOOK / "_static").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_say_what_they_show_and_hold_still_when_asked(path):
    picture = ET.parse(path).getroot()
    assert picture.findtext("{http://www.w3.org/2000/svg}title")
    moves = "animation" in path.read_text() or "<animate" in path.read_text()
    assert not moves or "prefers-reduced-motion" in path.read_text()


def test_the_animation_is_small_lasts_ten_seconds_and_its_still_shows_what_matters():
    path, svg = BOOK / "_static/paged_attention.svg", "{http://www.w3.org/2000/svg}"
    picture = ET.parse(path).getroot()
    assert path.stat().st_size < 12 * 1024
    assert len(picture.findtext(f"{svg}desc")) > 100
    always, moving = picture.findtext(f"{svg}style").split("@media (prefers-reduced-motion: no-preference)")
    assert "animation" not in always, "whoever asks for less motion gets none"
    assert "animation: 10s linear infinite" in moving
    groups = [set(each.get("class", "").split()) for each in picture.iter(f"{svg}g")]
    assert "#paged .later { display: none; }" in always
    still = [group for group in groups if "later" not in group]
    assert {letter for letter in "abcd" for group in still if letter in group} == {"a", "b", "c"}
    assert sum("still" in group for group in still) == 1


class External(HTMLParser):
    """Collects what a page would load from elsewhere by itself; links for the reader to follow are fine."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        loads = tag in {"script", "img", "iframe", "source", "video", "audio", "embed", "object", "use"}
        if tag == "link":
            loads = attrs.get("rel") not in {"canonical", "next", "prev", "author", "license", "search", "index"}
        if loads:
            targets = [attrs.get(key) or "" for key in ("src", "href", "srcset", "data", "poster")]
            self.found += [target for target in targets if re.search(r"(^|[\s,])(https?:)?//", target)]
        if re.search(r"url\(\s*['\"]?(https?:)?//", attrs.get("style") or ""):
            self.found.append(attrs["style"])


def built_pages():
    return [path for path in sorted(HTML.rglob("*.html")) if "_static" not in path.relative_to(HTML).parts]


@pytest.mark.skipif(not built_pages(), reason="the book is not built: make book")
def test_built_pages_load_nothing_from_elsewhere():
    found = {}
    for path in built_pages():
        page, text = External(), path.read_text()
        page.feed(text)
        in_code = re.findall(r"(?:@import|url\()\s*['\"]?https?://[^\s'\")]+", "".join(styles_of(text)))
        if page.found or in_code:
            found[path.name] = page.found + in_code
    assert not found


def styles_of(text):
    return re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)


@pytest.mark.skipif(not built_pages(), reason="the book is not built: make book")
def test_style_sheets_load_nothing_from_elsewhere():
    pattern = re.compile(r"(?:@import\s*|url\()\s*['\"]?(?:https?:)?//[^\s'\")]+")
    found = {path.name: pattern.findall(path.read_text()) for path in HTML.rglob("*.css")}
    assert not {name: urls for name, urls in found.items() if urls}
