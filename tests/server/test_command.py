"""How the command starts. What it does: `test_server`."""

import gc

import pytest

from llmhw_helpers.server import command, server


@pytest.fixture(autouse=True)
def as_before():
    yield
    gc.unfreeze()
    gc.enable()


def test_python_looks_for_rubbish_when_the_server_is_ready_and_not_among_what_was_there_before(monkeypatch, new_engine):
    found, engine = {}, new_engine()

    def load(options):
        found["loading"] = gc.isenabled()
        return engine, "a model"

    async def serve(worker, name, listening, hosts, ready, stopped):
        found["serving"], found["old"] = gc.isenabled(), gc.get_freeze_count() > 1000

    monkeypatch.setattr(server, "_load", load)
    monkeypatch.setattr(server, "_serve", serve)
    monkeypatch.setattr("sys.argv", ["llmhw-serve", "--port", "0"])
    assert command.main() == 0
    assert found == {"loading": False, "serving": True, "old": True}
