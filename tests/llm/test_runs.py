"""Checkpoint files: whole or not at all, and nothing believed that is damaged or foreign."""

import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from llmhw_helpers.llm.runs import BadCheckpoint, read_run, write_run

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


def test_numbers_that_would_be_read_in_another_format_are_noticed(tmp_path):
    write_run(tmp_path / "run", TENSORS, {})
    content = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(BadCheckpoint, match="its checksum differs"):
        read_run(tmp_path / "run")


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
