"""Checkpoint files: whole or not at all, and nothing believed that is damaged or foreign."""

import os
import pickle
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from llmhw_helpers.llm import runs
from llmhw_helpers.llm.runs import BadCheckpoint, NotSaved, read_run, write_run

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(3.0), "rng": torch.arange(9, dtype=torch.uint8)}


def test_what_is_written_is_read(tmp_path):
    write_run(tmp_path / "run", TENSORS, {"losses": [1.5, 0.1]})
    tensors, about = read_run(tmp_path / "run")
    assert about == {"losses": [1.5, 0.1]}
    assert set(tensors) == set(TENSORS)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_none_yet(tmp_path):
    assert read_run(tmp_path / "run") is None


@given(st.data())
def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("run") / "run"
    write_run(path, TENSORS, {"losses": [1.5, 0.1]})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint) as caught:
        read_run(path)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return os._exit, (3,)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "run").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadCheckpoint, match="no checkpoint"):
        read_run(tmp_path / "run")


def test_another_safetensors_file_is_refused(tmp_path):
    save_file(TENSORS, tmp_path / "run")
    with pytest.raises(BadCheckpoint, match="not a checkpoint of a run here"):
        read_run(tmp_path / "run")


def test_a_full_disk_keeps_the_one_before(tmp_path):
    """A real one as far as the writing goes: the process may write no file larger than 300 kB."""
    write_run(tmp_path / "run", TENSORS, {"n": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(NotSaved, match="run is as it was: make room") as caught:
            write_run(tmp_path / "run", {"a": torch.zeros(100_000)}, {"n": 2})
        with pytest.raises(NotSaved, match="no earlier one"):
            write_run(tmp_path / "first", {"a": torch.zeros(100_000)}, {"n": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert read_run(tmp_path / "run")[1] == {"n": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_error_at_any_call_keeps_the_one_before(tmp_path, monkeypatch, fails):
    write_run(tmp_path / "run", TENSORS, {"n": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, fails, refuse)
    with pytest.raises(NotSaved, match="No space left on device"):
        write_run(tmp_path / "run", TENSORS, {"n": 2})
    monkeypatch.undo()
    assert read_run(tmp_path / "run")[1] == {"n": 1}


KILLED = """
import os, sys, torch
from llmhw_helpers.llm import runs
calls, fatal = [], int(sys.argv[2])

def deadly(function):
    def call(*arguments):
        calls.append(function)
        if len(calls) > fatal:
            os.kill(os.getpid(), 9)  # no handler, no clean-up, no flushing
        return function(*arguments)
    return call

os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
runs.write_run(sys.argv[1], {"a": torch.full((1000,), 2.0)}, {"n": 2})
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("fatal", "left"), [(0, 1), (1, 1), (2, 2)])
def test_killed_before_between_and_after_the_calls_a_whole_file_is_there(tmp_path, fatal, left):
    write_run(tmp_path / "run", TENSORS, {"n": 1})
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), str(fatal)], check=False)
    assert run.returncode == -9
    assert read_run(tmp_path / "run")[1] == {"n": left}
    write_run(tmp_path / "run", TENSORS, {"n": 3})  # and what was left over is in nobody's way
    assert read_run(tmp_path / "run")[1] == {"n": 3}
    assert len(list(tmp_path.iterdir())) == 1
