"""Every page of the built book in headless Chromium: no error, nothing from elsewhere, readable on a phone."""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.browser

HTML = Path(__file__).resolve().parents[2] / "_build/html"
PAGES = [str(p.relative_to(HTML)) for p in sorted(HTML.rglob("*.html")) if "_static" not in p.relative_to(HTML).parts]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # every other host is out of reach, and tried in vain
]

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
  const nameless = [...document.images].filter(i => !i.alt.trim() || /\.(png|svg|jpe?g|gif)$/i.test(i.alt));
  return {
    raw,
    unset: unset.map(m => m.textContent.slice(0, 60)),
    wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.textContent),
    nameless: nameless.map(i => i.src.slice(0, 80)),
    width: document.scrollingElement.scrollWidth,
  };
}"""


class Book(NamedTuple):
    """A window of the browser and the address of the book."""

    window: object
    address: str


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="module")
def book():
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("no chromium on this machine")
    if not PAGES:
        pytest.skip("the book is not built: make book")
    playwright = pytest.importorskip("playwright.sync_api")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield Book(browser.new_context(), f"http://127.0.0.1:{server.server_port}/")
        browser.close()
    server.shutdown()
    server.server_close()


@pytest.fixture
def tab(book):
    """A fresh tab, and the list of all that went wrong in it."""
    page, faults = book.window.new_page(), []

    def note_request(request):
        if not request.url.startswith((book.address, "data:", "blob:")):
            faults.append(f"asks another host: {request.url}")

    def note_console(message):
        if message.type in {"error", "warning"}:
            faults.append(f"console {message.type}: {message.text}")

    def note_response(response):
        if response.status >= 400:
            faults.append(f"{response.status}: {response.url}")

    def note_failure(request):
        if request.failure != "net::ERR_ABORTED":  # a request given up because the page went on to another
            faults.append(f"failed: {request.url} ({request.failure})")

    page.on("request", note_request)
    page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    page.on("console", note_console)
    page.on("response", note_response)
    page.on("requestfailed", note_failure)
    yield page, faults
    page.close()


def keep_screenshot(page, name, width, scheme):
    if folder := os.environ.get("LLMHW_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"\W+", "-", name.removesuffix(".html"))
        page.screenshot(path=Path(folder) / f"{stem}-{width}-{scheme}.png", full_page=True)


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page(name, book, tab):
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
