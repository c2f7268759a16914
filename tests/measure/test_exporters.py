"""A trainer's page: what it was told, at a port of its own, and away when it is closed."""

import json
import socket
import time

import pytest

from llmhw_helpers.measure.exporters import Exporter, PortTaken
from llmhw_helpers.measure.scrapes import NoAnswer, scrape


def test_a_page_says_what_it_was_told():
    before = time.time()
    with Exporter(rank=3) as exporter:
        assert before <= scrape(exporter.url).total("train_last_step_timestamp_seconds")
        assert not scrape(exporter.url).samples.get("train_loss")  # no step, no loss
        for seconds, waited in ((0.25, 0.125), (0.5, 0.0)):
            exporter.observe_step(seconds, 2048, 3.5, waited_for_data=waited, waited_for_ranks=0.0625)
        exporter.observe_step(0.25, 2)
        page = scrape(exporter.url)
    assert page.by("train_tokens_total", "rank") == {"3": 4098}
    assert page.by("train_step_seconds_count", "rank") == {"3": 3}
    assert page.total("train_step_seconds_sum") == 1.0
    assert page.total("train_busy_seconds_total") == 0.75
    assert page.by("train_waiting_seconds_total", "waits_for") == {"data": 0.125, "ranks": 0.125}
    assert page.total("train_loss") == 3.5
    assert before <= page.total("train_last_step_timestamp_seconds") <= time.time()
    with pytest.raises(NoAnswer, match="Connection refused"):
        scrape(exporter.url)


def test_ranks_have_ports_of_their_own():
    with Exporter(rank=0) as first, Exporter(rank=1) as second:
        assert first.port != second.port
        first.observe_step(1, 10)
        assert scrape(second.url).by("train_tokens_total", "rank") == {"1": 0}


def test_a_port_that_is_taken_is_said_in_one_line_with_a_free_one():
    with Exporter() as exporter, pytest.raises(PortTaken, match="Address already in use; port .* is free") as refused:
        Exporter(port=exporter.port)
    assert "\n" not in str(refused.value)
    with Exporter(port=exporter.port) as again:  # and it may be used again
        assert again.port == exporter.port
    again.close()  # a second time


def test_it_listens_to_this_machine_alone_unless_told_otherwise():
    with Exporter(host="0.0.0.0") as open_to_all, Exporter() as exporter:
        assert open_to_all._server.server_address[0] == "0.0.0.0"
        assert exporter._server.server_address[0] == "127.0.0.1"
        assert scrape(open_to_all.url).total("train_tokens_total") == 0
    with pytest.raises(PortTaken, match="no page at port 0: "):
        Exporter(host="nowhere.invalid")
    with pytest.raises(PortTaken, match="no page at port 70000: .*must be 0-65535"):
        Exporter(port=70000)


@pytest.mark.parametrize(
    ("seconds", "tokens", "waits"),
    [
        *((-1, 5, {}), (1, -5, {}), (float("inf"), 5, {}), (float("nan"), 5, {})),
        *((1, 5, {"waited_for_data": 2}), (1, 5, {"waited_for_data": 2, "waited_for_ranks": -1})),
    ],
)
def test_what_cannot_be_is_refused_and_not_counted(seconds, tokens, waits):
    with Exporter() as exporter:
        with pytest.raises(ValueError, match="none may be below 0"):
            exporter.observe_step(seconds, tokens, **waits)
        assert scrape(exporter.url).total("train_step_seconds_count") == 0


def test_it_is_announced_until_it_is_closed(tmp_path):
    with Exporter(rank=2) as exporter:
        path = exporter.announce(tmp_path / "targets", host="node7", job_id="12")
        assert json.loads(path.read_text()) == [{"targets": [f"node7:{exporter.port}"], "labels": {"job_id": "12"}}]
        assert exporter.announce(tmp_path / "targets") == path
        assert socket.gethostname() in path.read_text()
    assert not path.exists()
