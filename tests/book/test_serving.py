"""`make serve`: the book on this computer alone, at a port that is free, with a page for what is not there."""

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(tool, tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/intro.html").write_text("the first page")
    (tmp_path / "404.html").write_text("no such page")
    server = tool("serve_book").server(18180, tmp_path)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_answers_this_computer_alone(served):
    assert served.server_address[0] == "127.0.0.1"
    page = urllib.request.urlopen(f"http://127.0.0.1:{served.server_port}/book/intro.html", timeout=30)
    assert page.read() == b"the first page"


def test_what_is_not_there_is_answered_by_the_books_own_page(served, capfd):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://127.0.0.1:{served.server_port}/book/no.html", timeout=30)
    assert error.value.code == 404
    assert error.value.read() == b"no such page"
    assert "/book/no.html" in capfd.readouterr().err


def test_a_port_that_is_taken_is_left_to_whoever_has_it(tool, served):
    module = tool("serve_book")
    with module.server(served.server_port) as another:
        assert another.server_port != served.server_port
    with pytest.raises(OSError, match=r"are taken: name another one"):
        module.server(served.server_port, tries=1)


def test_without_a_book_it_says_so_in_a_line(tool, monkeypatch, capsys, tmp_path):
    module = tool("serve_book")
    monkeypatch.setattr(module, "HTML", tmp_path)
    assert module.main() == 1
    assert capsys.readouterr().err == "The book is not built: `make book` builds it.\n"


@pytest.mark.parametrize("port", ["no number", "70000"])
def test_a_port_that_is_none_is_refused_in_a_line(tool, monkeypatch, capsys, tmp_path, port):
    module = tool("serve_book")
    (tmp_path / "book").mkdir()
    (tmp_path / module.FIRST).write_text("")
    monkeypatch.setattr(module, "HTML", tmp_path)
    monkeypatch.setattr(sys, "argv", ["serve_book.py", port])
    assert module.main() == 1
    assert capsys.readouterr().err.startswith("Cannot serve the book: ")


@pytest.mark.skipif(not (ROOT / "_build/html/book/intro.html").exists(), reason="the book is not built: make book")
def test_started_as_make_starts_it_the_address_that_it_prints_is_the_first_page():
    command = [sys.executable, ROOT / "tools/serve_book.py", "18190"]
    quiet = {"BROWSER": "true %s"}  # a program that does nothing, so that no test opens a window
    with subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        try:
            address = program.stdout.readline().split()[2]
            assert b"LLM and hardware, hands on" in urllib.request.urlopen(address, timeout=30).read()
        finally:
            program.terminate()


def test_the_page_for_what_is_not_there_links_to_pages_that_are(tool):
    sources = {"book/intro.html": "book/intro.md", "book/glossary.html": "book/glossary.md"}
    text = tool("build_book").MISSING
    for page, source in sources.items():
        assert f'href="{page}"' in text
        assert (ROOT / source).exists()
