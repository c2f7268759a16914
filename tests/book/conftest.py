"""The book's parts, and a browser to look at it."""

import functools
import http.server
import importlib.util
import os
import re
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/html"
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


@pytest.fixture(scope="session")
def tool():
    """What loads a program of tools/ by its name."""
    return load_tool


@pytest.fixture(scope="session")
def notebooks():
    """Names of the notebooks that exist."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="session")
def course_map():
    """First cells of the course map on the book's first page, by notebook name."""
    section = (ROOT / "book/intro.md").read_text().split("## The course map")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (\[?\d\d_[^|]*?) \|", section, re.MULTILINE)
    return {re.search(r"\d\d_\w+", cell)[0]: cell for cell in cells}


class Book(NamedTuple):
    """A window of the browser and the address of the book."""

    window: object
    address: str


def load_tool(name):
    """The program tools/NAME.py, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Quiet(load_tool("serve_book").Handler):
    """The book as `make serve` has it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="module")
def book():
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("no chromium on this machine")
    if not (HTML / "index.html").exists():
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


@pytest.fixture
def keep_screenshot():
    """Where a folder is named for them, keeps a picture of the whole page."""

    def keep(page, name, width, scheme):
        if folder := os.environ.get("LLMHW_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            stem = re.sub(r"\W+", "-", name.removesuffix(".html"))
            page.screenshot(path=Path(folder) / f"{stem}-{width}-{scheme}.png", full_page=True)

    return keep
