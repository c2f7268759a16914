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
# Contrast is looked at for each text, which takes its time: pages that have between them all that a page can have.
COLOURS = [name for name in PAGES if not name.startswith("notebooks/") or name[10:12] in {"00", "12"}]
RUN = """async what => {
  const found = await axe.run(document, { resultTypes: ["violations"], ...what });
  return found.violations
    .filter(each => ["serious", "critical"].includes(each.impact))
    .map(each => `${each.id}: ${each.help}; ${each.nodes.length} times, as in ${each.nodes[0].html.slice(0, 150)}`);
}"""

ALL_BUT_COLOURS = {"rules": {"color-contrast": {"enabled": False}}}


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
    assert page.evaluate(RUN, ALL_BUT_COLOURS) == []


@pytest.mark.parametrize("name", COLOURS or ["none"])
def test_words_stand_out_from_what_is_behind_them(name, book, tab, axe):
    page, _ = tab
    page.set_viewport_size({"width": 1280, "height": 1800})  # what a menu hides below its end cannot be looked at
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.goto(book.address + name, wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    page.evaluate(axe)
    assert page.evaluate(RUN, {"runOnly": ["color-contrast"]}) == []
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.wait_for_function("['dark', undefined].includes(document.documentElement.dataset.theme)")
    assert page.evaluate(RUN, {"runOnly": ["color-contrast"]}) == []


def test_a_page_that_keeps_readers_out_is_found(tab, axe):
    page, _ = tab
    page.set_content("<html><body><main><img src='data:,'><button></button><p style='color: #aaa'>pale</p></main>")
    page.evaluate(axe)
    found = " ".join(page.evaluate(RUN, ALL_BUT_COLOURS))
    assert "image-alt" in found
    assert "button-name" in found
    assert "color-contrast" not in found
    assert "color-contrast" in page.evaluate(RUN, {"runOnly": ["color-contrast"]})[0]
