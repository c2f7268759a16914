"""Caches: what the system tells is read, and what an array of any size counts is right."""

import pytest
import torch

from llmhw_helpers.measure import caches as room
from llmhw_helpers.measure.caches import Cache, caches, one_core, working_set_rate


def fake(folder, *rows):
    for i, (level, kind, size) in enumerate(rows):
        (folder / f"index{i}").mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / f"index{i}" / name).write_text(text + "\n")
    return folder


def test_linux_tells_data_caches_smallest_first(tmp_path):
    rows = [("3", "Unified", "32M"), ("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K")]
    assert caches(fake(tmp_path, *rows)) == [Cache(1, 48 * 2**10), Cache(2, 2 * 2**20), Cache(3, 32 * 2**20)]


def test_a_mac_tells_by_sysctl(tmp_path, monkeypatch):
    told = {"hw.perflevel0.l1dcachesize": "131072", "hw.perflevel0.l2cachesize": "12582912"}
    monkeypatch.setattr(room, "command_output", lambda *command: told[command[-1]])
    assert caches(tmp_path) == [Cache(1, 128 * 2**10), Cache(2, 12 * 2**20)]


def test_where_nobody_tells_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "command_output", lambda *command: "")
    assert caches(fake(tmp_path, ("1", "Data", "?"))) == []
    assert caches(tmp_path / "nowhere") == []


@pytest.mark.parametrize("n_bytes", [4, 1000, 4096, 3 * 2**20, 40 * 2**20])
def test_the_bytes_are_those_of_whole_reads_of_the_array(n_bytes):
    moved, timing = working_set_rate(n_bytes, rounds=2)
    numbers = n_bytes // 4 * 4
    assert moved % numbers == 0
    assert max(numbers, 2**24 - numbers) <= moved <= max(numbers, 2**24)
    assert len(timing.rounds) == 2


def test_less_than_a_number_is_refused():
    with pytest.raises(ValueError, match="at least 4 bytes, not 3"):
        working_set_rate(3)


def test_one_core_is_given_back():
    before = torch.get_num_threads()
    with one_core():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
