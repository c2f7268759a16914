"""Every page of the built book, looked at by axe-core: nothing that keeps readers out."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

HTML = Path(__file__).resolve().parents[2] / "_build/html"
FILES = [path for path in sorted(HTML.rglob("*.html")) if "_static" not in path.relative_to(HTML).parts]
NAMES = [path.relative_to(HTML).as_posix() for path in FILES]
# Pages of the package have all one form: the longest and the list stand for them.
PACKAGE = sorted((path for path in FILES if path.parent.name == "api"), key=lambda path: path.stat().st_size)[-1:]
PAGES = [name for name in NAMES if not name.startswith("book/api/")] + [f"book/api/{path.name}" for path in PACKAGE]
PAGES = [name for name in PAGES if name not in {"index.html", "genindex.html", "py-modindex.html"}]
COLOURS = ["book/intro.html", "notebooks/00_your_machine.html"]
RUN = """async colours => {
  const rules = { "color-contrast": { enabled: colours } };
  const found = await axe.run(document, { resultTypes: ["violations"], rules });
  return found.violations
    .filter(each => ["serious", "critical"].includes(each.impact))
    .map(each => `${each.id}: ${each.help}; ${each.nodes.length} times, as in ${each.nodes[0].html.slice(0, 150)}`);
}"""


@pytest.fixture(scope="module")
def axe():
    """axe-core as a script."""
    package = pytest.importorskip("axe_playwright_python")
    return Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_no_page_keeps_readers_out(name, book, tab, axe):
    page, _ = tab
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(book.address + name, wait_until="load")
    page.evaluate(axe)
    assert page.evaluate(RUN, False) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", COLOURS)
def test_words_stand_out_from_what_is_behind_them(name, scheme, book, tab, axe):
    page, _ = tab
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto(book.address + name, wait_until="load")
    page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
    page.evaluate(axe)
    assert page.evaluate(RUN, True) == []


def test_a_page_that_keeps_readers_out_is_found(tab, axe):
    page, _ = tab
    page.set_content("<html><body><main><img src='data:,'><button></button></main></body></html>")
    page.evaluate(axe)
    found = " ".join(page.evaluate(RUN, False))
    assert "image-alt" in found
    assert "button-name" in found
