"""A real Prometheus asks four ranks: who holds up the others, who died, who began anew; and one line where none is."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from llmhw_helpers.measure.exporters import Exporter
from llmhw_helpers.measure.prometheus import Answered, BadQuery, Prometheus
from llmhw_helpers.measure.scrapes import NoAnswer, Scraper, increase

WAIT = 60  # seconds: far longer than anything here takes
BUSY = (0.125, 0.125, 0.375, 0.125)  # seconds of a step in which each rank computes; the others wait for the slowest
STRAGGLER = (
    "sum by (rank) (rate(train_busy_seconds_total[5s])) / sum by (rank) (rate(train_step_seconds_count[5s]))"
    " > 1.5 * scalar(quantile(0.5,"
    " sum by (rank) (rate(train_busy_seconds_total[5s])) / sum by (rank) (rate(train_step_seconds_count[5s]))))"
)


class Ranks:
    """Four ranks that say in a hundredth of a second what would take a step of 0.375 s."""

    def __init__(self):
        self.exporters = [Exporter(rank=rank) for rank in range(4)]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        while not self._done.wait(0.01):
            for exporter, busy in zip(self.exporters, BUSY, strict=True):
                exporter.observe_step(0.375, 512, 2.5, waited_for_ranks=0.375 - busy)

    def close(self):
        self._done.set()
        self._thread.join()
        for exporter in self.exporters:
            exporter.close()


@pytest.fixture(scope="module")
def ranks():
    ranks = Ranks()
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def prometheus(run_prometheus, ranks):
    with run_prometheus({"train": [each.url for each in ranks.exporters]}) as url:
        yield Prometheus(url)


def until(find):
    """What `find` gives as soon as that is something."""
    end = time.monotonic() + WAIT
    while not (found := find()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
    return found


def test_a_straggler_among_four_ranks_is_found_by_a_query(prometheus, ranks):
    def found(query):
        return {each.labels.get("rank"): each.value for each in prometheus.query(query)}

    # A scrape may come between the two counters of a step, and the first ones before there is any.
    until(lambda: found(STRAGGLER) == pytest.approx({"2": 0.375}, rel=0.05))
    steps = "sum by (rank) (rate(train_step_seconds_sum[5s])) / sum by (rank) (rate(train_step_seconds_count[5s]))"
    # All end their steps together: here it is not seen.
    until(lambda: found(steps) == pytest.approx(dict.fromkeys("0123", 0.375), rel=0.05))


def test_the_same_from_pages_in_python(ranks):
    with Scraper([each.url for each in ranks.exporters], interval_s=0.05) as scraper:
        until(
            lambda: scraper.scrapes and min(increase(scraper.scrapes, "train_step_seconds_count", "rank").values()) > 50
        )
    busy, steps = (
        increase(scraper.scrapes, f"train_{name}", "rank") for name in ("busy_seconds_total", "step_seconds_count")
    )
    assert {rank: busy[rank] / steps[rank] for rank in busy} == pytest.approx(
        dict(zip("0123", BUSY, strict=True)), rel=0.1
    )


def test_answers_over_time_are_a_series(prometheus):
    until(lambda: prometheus.query("count(train_loss) == 4"))
    series = prometheus.range("train_loss", last_s=3600, step_s=0.5, label="rank", unit="nats")
    assert sorted(series.columns) == ["0", "1", "2", "3"]
    assert len(series) == 7201
    assert np.isnan(series["2"][0])  # an hour ago there was none
    assert series["2"][-1] == 2.5
    assert series.units["2"] == "nats"
    named = prometheus.range("sum(train_loss)", last_s=1)
    assert list(named.columns) == ["value"]
    (name,) = prometheus.range('train_loss{rank="1"}', last_s=1).columns
    assert name.startswith('train_loss{instance="127.0.0.1:')
    with pytest.raises(ValueError, match="several answers to 'train_waiting_seconds_total' have rank='.'"):
        prometheus.range("train_waiting_seconds_total", last_s=1, label="rank")


def test_scalars_and_nothing(prometheus):
    assert prometheus.query("1 + 1") == [Answered({}, 2.0)]
    assert np.isnan(prometheus.range("vector(1) / 0", last_s=1)["value"]).all()
    for promql, kind in (('"text"', "string"), ("up[1m]", "matrix")):
        with pytest.raises(BadQuery, match=f"gives a {kind}"):
            prometheus.query(promql)
    for last_s, step_s in ((1, 0), (1, -1), (-1, 1), (1, float("nan"))):
        with pytest.raises(ValueError, match="take a step above 0"):
            prometheus.range("up", last_s=last_s, step_s=step_s)
    assert prometheus.query("no_such_number") == []
    assert prometheus.range("no_such_number", last_s=1).columns == {}


def test_what_it_does_not_understand_is_said_in_its_words(prometheus):
    with pytest.raises(BadQuery, match="parse error: unclosed left parenthesis") as refused:
        prometheus.query("sum(")
    assert "\n" not in str(refused.value)
    with pytest.raises(BadQuery, match="exceeded maximum resolution"):
        prometheus.range("train_loss", last_s=1e6, step_s=0.5)


def test_a_rank_that_dies_and_one_that_begins_anew(prometheus, ranks):
    """The last one in this file that uses the ranks."""
    until(lambda: prometheus.query('train_tokens_total{rank="3"} > 0'))
    assert set(prometheus.targets().values()) == {"up"}
    dead = ranks.exporters[3]
    dead.close()
    until(lambda: prometheus.query("count(up == 0) == 1"))
    until(lambda: "connection refused" in prometheus.targets()[dead.url])
    assert sorted(each.labels["rank"] for each in prometheus.query("train_loss")) == ["0", "1", "2"]  # no old ones
    before = prometheus.query('max_over_time(train_tokens_total{rank="3"}[1m])')[0].value
    ranks.exporters[3] = Exporter(port=dead.port, rank=3)  # its counters begin at 0
    until(lambda: prometheus.query('resets(train_tokens_total{rank="3"}[1m]) == 1'))
    until(lambda: prometheus.query(f'train_tokens_total{{rank="3"}} > 0 < {before}'))
    (rate,) = until(lambda: prometheus.query('rate(train_tokens_total{rank="3"}[1m])'))
    assert rate.value > 0  # as a counter, and not as a number that fell


def test_where_there_is_none(prometheus, ranks):
    for url, words in (
        ("http://127.0.0.1:1", "no Prometheus: nobody answers at http://127.0.0.1:1/api/v1/query"),
        ("127.0.0.1:9090", "it begins with http"),
        (ranks.exporters[0].url.removesuffix("/metrics"), "what answers there is something else"),
    ):
        with pytest.raises(NoAnswer, match=words) as refused:
            Prometheus(url).query("up")
        assert "\n" not in str(refused.value)


class Other(BaseHTTPRequestHandler):
    """Something that answers as Prometheus does, almost."""

    def do_GET(self):
        content = self.server.content.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", len(content))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, "<html>"),
        (200, "null"),
        (200, '{"status": "succ'),
        (400, '{"status": "error", "error": null}'),
        (200, '{"status": "success", "data": null}'),
        (200, '{"status": "success", "data": "text"}'),
        (200, '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}'),
        (200, '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [0, "a"]}]}}'),
    ],
)
def test_what_is_almost_a_prometheus_is_one_line(status, content):
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        server.status, server.content = status, content
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        asked = Prometheus(f"http://127.0.0.1:{server.server_port}")
        for question in (lambda: asked.query("up"), lambda: asked.range("up", end=0.0), asked.targets):
            with pytest.raises(NoAnswer, match="what answers there is something else"):
                question()
        server.shutdown()
        thread.join()
