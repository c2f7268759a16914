"""Connections: closed when nothing comes or goes, and what is no HTTP is told so in the form of all errors."""

import json
import socket
import time
from contextlib import suppress

import httpx
import pytest

from llmhw_helpers.server import app, connections, server
from llmhw_helpers.server.server import served_at

WAIT = 20  # seconds
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def engine(new_engine):
    return new_engine()


@pytest.fixture(scope="module")
def port(engine):
    with served_at(engine) as url:
        yield int(url.split(":")[2].split("/")[0])


@pytest.fixture
def connect(port):
    opened = []

    def connect(sent=b""):
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=WAIT))
        opened[-1].sendall(sent)
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def all_of(connection):
    """What comes until it ends, perhaps in a reset."""
    said = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(1 << 16):
            said += more
    return said


def until(condition):
    end = time.monotonic() + 3 * WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", HEAD, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET "])
def test_a_client_that_says_nothing_is_let_go(connect, monkeypatch, sent):
    """From the start, in the head of a request, or in the head of its second one."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.2)
    assert all_of(connect(sent)).count(b"HTTP/1.1") == sent.count(b"GET /health")


def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_another(connect, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    connection = connect(HEAD + b"X-Slow: ")

    def is_closed():
        try:
            connection.sendall(b"a")
        except OSError:
            return True
        return False

    until(is_closed)


def test_a_client_that_does_not_read_is_let_go_and_its_answers_end(new_engine, monkeypatch):
    """Two of them, with little room on the way: one whose answers are all written, and one whose answers are not."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    bind, engine = server.bind, new_engine()

    def narrow(host, port):
        listening = bind(host, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # as its clients' will have
        return listening

    monkeypatch.setattr(server, "bind", narrow)
    with served_at(engine) as url:
        address = ("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        for n_new in (70, 500):  # some 200 bytes each: 4 kB and 64 kB may wait here
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                connection.connect(address)
                body = {"prompt": "a", "max_tokens": n_new, "n": 4, "ignore_eos": True, "stream": True}
                body = json.dumps(body).encode()
                connection.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                until(lambda: engine.statistics.n_written > 0)
                until(lambda: httpx.get(url.replace("/v1", "/health")).json()["n_open"] == 0)
                time.sleep(0.5)
                assert b"[DONE]" not in all_of(connection)
    assert engine.blocks.n_free == engine.blocks.n_blocks


def test_whoever_waits_for_an_answer_is_not_let_go(connect, engine, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.1)
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: time.sleep(0.05) or step())
    body = json.dumps({"prompt": "a", "max_tokens": 10, "ignore_eos": True}).encode()
    connection = connect(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")


def test_what_comes_after_an_answer_that_ended_early_gets_no_second_one(connect, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    connection = connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")
    with suppress(OSError):
        connection.sendall(b"zz\r\n")  # no chunk
    assert b"HTTP/1.1" not in all_of(connection)


def test_no_timer_of_a_connection_goes_on_when_it_reads_again_or_has_gone(connect, monkeypatch):
    lost, seen = connections.Connection.connection_lost, []

    def look(self, error):
        self.pause_writing()
        self.resume_writing()
        seen.append(self._unread)
        lost(self, error)
        seen.append(self._idle)

    monkeypatch.setattr(connections.Connection, "connection_lost", look)
    connect(HEAD).close()
    until(lambda: len(seen) == 2)
    assert seen == [None, None]


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (b"\x16\x03\x01\0\xc8\r\n\r\n", 400, "this is no valid HTTP request"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "this is no valid HTTP request"),  # and no Host
        (HEAD + b"Content-Length: -1\r\n\r\n{}", 400, "this is no valid HTTP request"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400, "this is no valid HTTP request"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "this is no valid HTTP request"),
        (HEAD + b"X-A: " + b"a" * 70_000, 431, "the head of the request is too large"),
    ],
)
def test_what_is_no_http_is_told_so_in_openais_form(connect, sent, status, words):
    head, _, body = all_of(connect(sent)).decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/json" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["message"], error["type"]) == (words, "invalid_request_error")
