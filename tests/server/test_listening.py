"""An address of its own, and clients that are sent away where no files are left for them."""

import errno
import resource
import select
import socket
import time

import httpx
import pytest

from llmhw_helpers.server import listening
from llmhw_helpers.server.listening import Listening, NoPort, bind
from llmhw_helpers.server.server import served_at


@pytest.fixture
def few_files(monkeypatch):
    """So many more connections may be open than there are files now."""

    def allow(n):
        with socket.socket() as probe:
            most = probe.fileno() + n
        monkeypatch.setattr(listening, "KEPT_FREE", 0)
        monkeypatch.setattr(resource, "getrlimit", lambda which: (most, most))

    return allow


def test_the_last_files_are_kept_and_the_server_goes_on(new_engine, few_files, capfd):
    with served_at(new_engine()) as url:
        page, port = f"{url}/models", int(url.split(":")[2].split("/")[0])
        few_files(20)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]  # each takes one file here, too
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.25  # nothing spins
        with pytest.raises((httpx.TransportError, httpx.HTTPStatusError)):
            httpx.get(page).raise_for_status()
        for each in silent:
            each.close()
        end = time.monotonic() + 20
        while True:
            try:
                assert httpx.get(page).raise_for_status().json()
                break
            except (httpx.TransportError, httpx.HTTPStatusError):
                assert time.monotonic() < end, "it does not come back"
    assert capfd.readouterr() == ("", "")


def test_whoever_is_sent_away_is_told(few_files):
    with bind("127.0.0.1", 0) as here:
        here.setblocking(False)
        few_files(0)
        with socket.create_connection(here.getsockname(), timeout=20) as client:
            select.select([here], [], [], 20)
            with pytest.raises(BlockingIOError):
                here.accept()
            said = client.recv(1000)
    assert said.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"too many connections: ask again in a moment" in said


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_where_others_have_all_files_it_waits_and_says_nothing(monkeypatch, number):
    calls = []

    def none_left(self):
        calls.append(1)
        raise OSError(number, "none left")

    monkeypatch.setattr(socket.socket, "accept", none_left)
    with bind("127.0.0.1", 0) as here:
        begin = time.monotonic()
        with pytest.raises(BlockingIOError):
            here.accept()
    assert time.monotonic() - begin > 0.05
    assert calls == [1]


def test_other_errors_are_none_of_its_business(monkeypatch):
    monkeypatch.setattr(socket.socket, "accept", lambda self: 1 / 0)
    with Listening() as here, pytest.raises(ZeroDivisionError):
        here.accept()


def test_an_unlimited_number_of_files_is_no_number(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert listening._is_to_spare(10**6)


def test_of_few_files_clients_have_half(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (20, 20))
    assert [listening._is_to_spare(file) for file in (9, 10)] == [True, False]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 100))
    assert [listening._is_to_spare(file) for file in (83, 84)] == [True, False]


def test_all_who_wait_are_sent_away_at_once(few_files):
    with bind("127.0.0.1", 0) as here:
        here.setblocking(False)
        few_files(0)
        clients = [socket.create_connection(here.getsockname(), timeout=20) for _ in range(5)]
        with pytest.raises(BlockingIOError):
            here.accept()
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 503")
            client.close()


def test_a_port_is_free_as_soon_as_nobody_listens():
    with bind("127.0.0.1", 0) as here:
        port = here.getsockname()[1]
        with socket.create_connection(here.getsockname()) as client:
            here.accept()[0].close()  # the server's side ends first: the system remembers the connection for a while
            assert client.recv(1) == b""
    bind("127.0.0.1", port).close()


def test_nobody_else_listens_there():
    with bind("127.0.0.1", 0) as here, pytest.raises(NoPort, match="Address already in use; port .* is free"):
        bind("127.0.0.1", here.getsockname()[1])
