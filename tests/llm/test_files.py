"""Files that appear whole or not at all: a full disk, an error at any call, a kill at any moment."""

import os
import resource
import subprocess
import sys

import pytest

from llmhw_helpers.llm.files import NotSaved, write_whole


def test_a_full_disk_keeps_the_one_before(tmp_path):
    """A real one as far as the writing goes: the process may write no file larger than 300 kB."""
    write_whole(tmp_path / "run", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(NotSaved, match="checkpoint not saved .*; run is as it was: make room") as caught:
            write_whole(tmp_path / "run", bytes(400_000), "checkpoint")
        with pytest.raises(NotSaved, match="no earlier one"):
            write_whole(tmp_path / "first", bytes(400_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_error_at_any_call_keeps_the_one_before(tmp_path, monkeypatch, fails):
    write_whole(tmp_path / "run", b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(NotSaved, match="No space left on device"):
        write_whole(tmp_path / "run", b"new")
    monkeypatch.undo()
    assert (tmp_path / "run").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


KILLED = """
import os, sys
from pathlib import Path
from llmhw_helpers.llm.files import write_whole
calls, fatal = [], int(sys.argv[2])

def deadly(function):
    def call(*arguments):
        calls.append(function)
        if len(calls) > fatal:
            os.kill(os.getpid(), 9)  # no handler, no clean-up, no flushing
        return function(*arguments)
    return call

os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
write_whole(Path(sys.argv[1]), b"new" * 1000)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("fatal", "left"), [(0, b"old"), (1, b"old"), (2, b"new" * 1000)])
def test_killed_before_between_and_after_the_calls_a_whole_file_is_there(tmp_path, fatal, left):
    write_whole(tmp_path / "run", b"old")
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), str(fatal)], check=False)
    assert run.returncode == -9
    assert (tmp_path / "run").read_bytes() == left
    write_whole(tmp_path / "run", b"third")  # and what was left over is in nobody's way
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
