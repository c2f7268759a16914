"""The command as it starts: whenever it is told to end, it says so in one line, and blames nobody."""

import gc
import os
import signal
import subprocess
import sys

import pytest

from llmhw_helpers.server import cli, server

WAIT = 60  # seconds
ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOLD = """
import builtins, os, signal, sys
before = builtins.__import__

def told(name, *rest):
    if name == "torch":
        try:
            os.kill(os.getpid(), signal.{which})
            sum(range(10**6))
        except BaseException:  # as libraries do with what they try to import
            raise ImportError("half of it is there") from None
    return before(name, *rest)

builtins.__import__ = told
from llmhw_helpers.server.cli import main
sys.exit(main(["--port", "0"]))
"""


@pytest.mark.parametrize("which", [each.name for each in ALL])
def test_told_while_pytorch_is_imported_it_ends_in_one_line(which):
    done = subprocess.run(
        [sys.executable, "-c", TOLD.format(which=which)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in ALL],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Stopped.\n", "")


@pytest.fixture
def told(monkeypatch, new_engine):
    """The process is told to end as the model is loaded; `becomes` is what the library that hears it makes of it."""

    def told(which, becomes):
        def load(options):
            try:
                signal.raise_signal(which)
            except KeyboardInterrupt:
                if becomes is not None:
                    raise becomes("the file is damaged") from None
            return new_engine(), "a model"

        monkeypatch.setattr(server, "_load", load)
        before = {each: signal.signal(each, signal.default_int_handler) for each in ALL}
        try:
            status = cli.main(["--port", "0"])
            assert all(signal.getsignal(each) is signal.default_int_handler for each in ALL)
            return status
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    return told


@pytest.mark.parametrize("which", ALL)
@pytest.mark.parametrize("becomes", [KeyboardInterrupt, server.BadModelFile, ImportError, None])
def test_told_while_it_starts_it_blames_no_file(told, capsys, which, becomes):
    """What a library that is stopped half-way says, is not believed; nor is it, if it says nothing and goes on."""
    assert told(which, becomes) == 0
    assert tuple(capsys.readouterr()) == ("Stopped.\n", "")


SILENT = """
import sys
from llmhw_helpers.server import server
from llmhw_helpers.server.cli import main

async def serve(worker, name, listening, hosts, ready, stopped):
    ready()

server._load = lambda options: (None, "a model")
server.Worker = lambda engine, max_open: type("W", (), {"close": lambda self: None, "n_open": 0})()
server._serve = serve
sys.exit(main(["--port", "0", *sys.argv[1:]]))
"""
FULL = "llmhw-serve: cannot write to the standard output: No space left on device\n"
CLOSED = "llmhw-serve: cannot write to the standard output: it is closed\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("redirection", "said"), [("> /dev/full", FULL), (">&-", CLOSED), ("| exit; exit ${PIPESTATUS[0]}", "")]
)
def test_where_nobody_can_read_its_lines_it_serves_all_the_same(redirection, said, unbuffered):
    command = f'"$0" -c "$1" {redirection}'
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, SILENT], capture_output=True, text=True, timeout=WAIT, env=env
    )
    assert (done.returncode, done.stderr) == (0, said)


@pytest.fixture
def unfrozen():
    yield
    gc.unfreeze()


def test_python_looks_for_rubbish_once_it_serves_and_not_among_what_was_there_before(monkeypatch, new_engine, unfrozen):
    found, engine = {}, new_engine()

    def load(options):
        found["loading"] = gc.isenabled()
        return engine, "a model"

    async def serve(worker, name, listening, hosts, ready, stopped):
        found["serving"], found["old"] = gc.isenabled(), gc.get_freeze_count() > 1000

    monkeypatch.setattr(server, "_load", load)
    monkeypatch.setattr(server, "_serve", serve)
    assert cli.main(["--port", "0"]) == 0
    assert found == {"loading": False, "serving": True, "old": True}
