"""Pages that are asked for: read by the client library, summed as Prometheus does, and one line for what is none."""

import math
import socket
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from llmhw_helpers.measure.exporters import Exporter
from llmhw_helpers.measure.scrapes import NoAnswer, Scraper, histogram_quantile, increase, read_page, scrape
from llmhw_helpers.specs.figures import UnknownName

PAGE = """# HELP steps_total steps
# TYPE steps_total counter
steps_total{rank="0",node="a"} 10
steps_total{rank="1",node="a"} 12
steps_total{rank="2",node="b"} 3
load 0.5
odd{path="C:\\\\\\"x\\"\\n"} NaN
"""


@pytest.fixture
def at():
    """Serves one answer, and says where."""
    servers = []

    def serve(status, content):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.asked = self.path
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_page_is_summed_by_label():
    page = read_page(PAGE)
    assert page.by("steps_total", "node") == {"a": 22, "b": 3}
    assert page.by("steps_total", "rank", node="a") == {"0": 10, "1": 12}
    assert page.total("steps_total") == 25
    assert page.by("load", "rank") == {"": 0.5}
    assert math.isnan(page.total("odd", path='C:\\"x"\n'))
    with pytest.raises(UnknownName, match="did you mean steps_total"):
        page.total("step_total")


def test_where_a_page_is_looked_for(at):
    url, server = at(200, PAGE.encode())
    for given, asked in (("", "/metrics"), ("/v1", "/metrics"), ("/metrics", "/metrics"), ("/other?x=1", "/other?x=1")):
        before = time.time()
        page = scrape(url + given)
        assert server.asked == asked
        assert before <= page.when <= time.time()
        assert page.total("load") == 0.5


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (404, b"no such\npage", "answers with 404: no such page"),
        (200, b"<html>hello</html>", "no page in Prometheus' format"),
        (200, b'a{b="c', "no page in Prometheus' format"),
        (200, b"\xff\xfe\x00", "no page in Prometheus' format"),
    ],
)
def test_what_is_no_page_is_said_in_one_line(at, status, content, said):
    with pytest.raises(NoAnswer, match=said) as refused:
        scrape(at(status, content)[0])
    assert "\n" not in str(refused.value)


def test_what_is_no_address_is_said():
    with pytest.raises(NoAnswer, match="it begins with http"):
        scrape("file:///etc/passwd")
    with pytest.raises(NoAnswer, match="nobody answers at http://a:b/c"):
        scrape("http://a:b/c")
    with pytest.raises(NoAnswer, match="nobody answers at http://127.0.0.1:1/metrics: Connection refused"):
        scrape("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "Remote end closed connection"),
        (b"no HTTP\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nload 1", "its answer ends in the middle"),
    ],
)
def test_a_program_that_dies_in_the_middle_of_its_answer(sent, said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(sent)

        dying = Thread(target=answer, daemon=True)
        dying.start()
        with pytest.raises(NoAnswer, match=said) as refused:
            scrape(f"http://127.0.0.1:{server.getsockname()[1]}")
        dying.join()
    assert "\n" not in str(refused.value)


def test_a_program_that_does_not_answer_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(NoAnswer, match="timed out"):
        scrape(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.05)


def test_counters_that_begin_anew_are_added_up():
    def page(*values):
        return read_page("\n".join(f'n_total{{rank="{i}"}} {v}' for i, v in enumerate(values) if v is not None) + "\n")

    pages = [page(5, 100), page(8, 110), page(2, None), page(3, 130), page(9, 131)]
    assert increase(pages, "n_total", "rank") == {"0": 3 + 2 + 1 + 6, "1": 31}
    assert increase(pages, "n_total") == {"": 43}
    assert increase(pages, "n_total", "rank", rank="1") == {"1": 31}
    assert increase(pages[:1], "n_total") == {"": 0}
    with pytest.raises(UnknownName):
        increase(pages, "m_total")


def test_quantiles_lie_inside_their_bucket():
    buckets = {"+Inf": 20, "0.1": 5, "0.5": 15, "0.2": 5}
    assert histogram_quantile(0.5, buckets) == pytest.approx(0.2 + 0.3 * 5 / 10)
    assert histogram_quantile(0.25, buckets) == pytest.approx(0.1)
    assert histogram_quantile(0.1, buckets) == pytest.approx(0.04)
    assert histogram_quantile(0.9, buckets) == 0.5  # more than any bound: the last one
    assert math.isnan(histogram_quantile(0.5, {"1": 0, "+Inf": 0}))
    assert math.isnan(histogram_quantile(0.5, {}))


def test_a_scraper_sees_who_dies():
    first, second = Exporter(rank=0), Exporter(rank=1)
    with first, second, Scraper([first.url, second.url], interval_s=0.01) as scraper:
        end = time.monotonic() + 20
        while len(scraper.scrapes) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        second.close()
        first.observe_step(1, 7)
    last = scraper.scrapes[-1]
    names = [f"127.0.0.1:{each.port}" for each in (first, second)]
    assert scraper.scrapes[0].by("up", "instance") == dict.fromkeys(names, 1)
    assert last.by("up", "instance") == {names[0]: 1, names[1]: 0}
    assert last.by("train_tokens_total", "rank", instance=names[0]) == {"0": 7}
    assert increase(scraper.scrapes, "train_tokens_total", "rank") == {"0": 7, "1": 0}


def test_a_page_that_never_ends_has_a_time_limit():
    def drip(server):
        with server.accept()[0] as client:
            client.recv(1000)
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            with suppress(OSError):  # until the other side has had enough
                while True:
                    client.sendall(b"x")
                    time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=drip, args=[server], daemon=True).start()
        with pytest.raises(NoAnswer, match="timed out"):
            scrape(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.3)
