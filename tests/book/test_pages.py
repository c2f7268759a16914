"""Every page of the built book in headless Chromium: no error, nothing from elsewhere, readable on a phone."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

HTML = Path(__file__).resolve().parents[2] / "_build/html"
FILES = [p for p in sorted(HTML.rglob("*.html")) if "_static" not in p.relative_to(HTML).parts and p.name != "404.html"]
# The pages of the package's modules have all one form: the longest stand for them.
PACKAGE = sorted((p for p in FILES if p.parent.name == "api"), key=lambda path: path.stat().st_size)
PAGES = [str(p.relative_to(HTML)) for p in FILES if p not in PACKAGE[:-4]]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")

SETTLED = """async () => {
  if (document.querySelector('.math')) { await window.MathJax.startup.promise; }
  await document.fonts.ready;
}"""
# What the page shows once it has settled; formulas and images are looked at in the text of the page itself.
LOOK = r"""() => {
  const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const raw = [];
  while (text.nextNode()) {
    const where = text.currentNode.parentElement;
    if (where.closest('script, style, pre, code, mjx-container, noscript')) continue;
    if (/\\\(|\\\[|\$\$/.test(text.currentNode.data)) raw.push(text.currentNode.data.trim().slice(0, 60));
  }
  const unset = [...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container'));
  const scrolling = what => [...document.querySelectorAll(what)]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 60));
  const nameless = [...document.images].filter(i => !i.alt.trim() || /\.(png|svg|jpe?g|gif)$/i.test(i.alt));
  return {
    raw,
    unset: unset.map(m => m.textContent.slice(0, 60)),
    wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent),
    nameless: nameless.map(i => i.src.slice(0, 80)),
    width: document.scrollingElement.scrollWidth,
    tables: scrolling('table, .pst-scrollable-table-container, .text_html:has(table)'),
    lines: scrolling('pre, div.math, mjx-container[display]'),
  };
}"""


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page(name, book, tab, keep_screenshot):
    page, faults = tab
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.emulate_media(color_scheme=SCHEMES[0], reduced_motion="reduce")
    page.goto(book.address + name, wait_until="load")
    if name == "index.html":
        page.wait_for_url("**/book/intro.html")
    page.evaluate(SETTLED)
    for width in WIDTHS:  # loaded once, as on a phone, then made wider
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            keep_screenshot(page, name, width, scheme)
            seen = page.evaluate(LOOK)
            assert seen["width"] <= width + 1, f"scrolls sideways at {width} px: {seen['width']} px"
            assert not seen["tables"], "tables that do not fit"
            assert width == WIDTHS[0] or not seen["lines"], "code, outputs or formulas that do not fit"
            assert not seen["raw"], "formulas left raw"
            assert not seen["unset"], "formulas not set"
            assert not seen["wrong"], "formulas with an error"
            assert not seen["nameless"], "images without a text that says what they show"
    assert not faults


@pytest.mark.parametrize("name", NOTEBOOKS or ["none"])
def test_code_can_be_copied_and_solutions_unfold(name, book, tab):
    page, faults = tab
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=book.address)
    page.goto(book.address + name, wait_until="load")
    cell = page.locator(".cell_input .highlight:visible").first
    cell.hover()
    cell.locator("button.copybtn").click()
    code = cell.locator("pre").inner_text()
    assert page.evaluate("navigator.clipboard.readText()").strip() == code.strip()
    for fold in page.locator("details.hide").all():
        assert fold.get_attribute("open") is None
        fold.locator("summary").click()
        assert fold.locator("pre").first.is_visible()
    assert not faults


@pytest.mark.parametrize(("name", "most_mb"), [("book/intro.html", 1.0), ("notebooks/02_training.html", 3.0)])
def test_a_page_asks_for_what_it_shows(name, most_mb, book, tab):
    page, faults = tab
    sizes = {}
    page.on("response", lambda response: sizes.update({response.url: int(response.headers["content-length"])}))
    page.goto(book.address + name, wait_until="networkidle")
    assert not [url for url in sizes if re.search("fontawesome.js|searchindex.js", url)]
    assert sum(sizes.values()) < most_mb * 1e6, sorted(sizes.items(), key=lambda each: -each[1])[:5]
    icon = page.locator(".theme-switch:visible, .theme-switch-button i:visible").first
    assert icon.evaluate("icon => getComputedStyle(icon, '::before').content") not in {"none", "normal", '""'}
    assert page.evaluate("[...document.fonts].some(each => /Awesome/.test(each.family) && each.status === 'loaded')")
    assert not faults


def test_on_paper_all_is_open_and_light_and_nothing_is_cut_off(book, tab):
    page, faults = tab
    page.set_viewport_size({"width": 718, "height": 1040})  # what an A4 page leaves
    page.emulate_media(color_scheme="dark")
    page.goto(book.address + "notebooks/04_transformer.html", wait_until="load")
    page.evaluate(SETTLED)
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    folds = page.locator("details.hide")
    assert folds.count() >= 5
    for fold in folds.all():
        assert fold.locator("pre").first.is_visible()
        assert fold.locator("summary").inner_text().strip() not in {"", "Close"}
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not page.locator(":is(.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header):visible").count()
    seen = page.evaluate(LOOK)
    assert seen["width"] <= 718
    assert not seen["tables"]
    assert not seen["lines"]
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("details.hide:not([open])").count() == folds.count()
    assert not faults


@pytest.mark.parametrize("name", ["no.html", "book/no.html", "notebooks/deep/er/no.html"])
def test_an_address_that_leads_nowhere_shows_the_way_to_pages_that_are_there(name, book, tab):
    page, _ = tab
    assert page.goto(book.address + name).status == 404
    links = page.locator("main a").evaluate_all("links => links.map(link => link.href)")
    assert len(links) >= 3
    for link in links:
        assert link.startswith(book.address)
        assert page.request.get(link).ok, link


def test_the_button_for_jupyterlab_says_what_it_needs(book, tab):
    page, faults = tab
    page.goto(book.address + "notebooks/00_your_machine.html", wait_until="load")
    page.locator(".btn-open-in-lab").click()
    shown = page.get_by_role("dialog")
    assert "make lab" in shown.inner_text()
    shown.get_by_role("button", name="Close").click()
    assert not shown.is_visible()
    assert not faults
