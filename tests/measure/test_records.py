"""Records survive what happens to files: no permission, a full disk, damage, two kernels at once, a kill."""

import errno
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from llmhw_helpers.measure import records
from llmhw_helpers.measure.records import Record


def add(record: Record, key: str, value: int = 1) -> dict:
    return record.update(lambda content: content.update({key: value}))


def test_a_change_is_there_for_the_next_kernel(tmp_path):
    add(Record(tmp_path / "a" / "r.json"), "x")
    assert Record(tmp_path / "a" / "r.json").read() == {"x": 1}


def test_nothing_but_the_record_is_left(tmp_path):
    add(Record(tmp_path / "r.json"), "x")
    assert os.listdir(tmp_path) == ["r.json"]


DEEP, HALF_A_CHARACTER = b'{"x":' + b"[" * 100_000, b'{"x": "\\ud800"}'
DAMAGED = [DEEP, HALF_A_CHARACTER, b"{", b"", b"[1]", b"\xff\xfe", b'{"x": 1} trailing']


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_set_aside_and_reported(tmp_path, capsys, damage):
    (tmp_path / "r.json").write_bytes(damage)
    record = Record(tmp_path / "r.json")
    assert add(record, "y") == {"y": 1}
    (aside,) = tmp_path.glob("r.damaged-*.json")
    assert aside.read_bytes() == damage
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "was damaged: set aside as" in said
    assert Record(tmp_path / "r.json").read() == {"y": 1}


def test_without_a_place_to_write_it_lives_on_in_the_kernel_and_says_so_once(tmp_path, capsys):
    (tmp_path / "file").write_text("a file where a folder should be")  # also holds for root, unlike permissions
    record = Record(tmp_path / "file" / "r.json")
    add(record, "x")
    add(record, "y")
    assert record.read() == {"x": 1, "y": 1}
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "Not saved, kept in this kernel only" in said
    assert "LLMHW_HOME" in said


def test_a_full_disk_leaves_the_old_record_whole_and_no_draft_behind(tmp_path, capsys, monkeypatch):
    record = Record(tmp_path / "r.json")
    add(record, "x")
    monkeypatch.setattr(
        records.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    assert add(record, "y") == {"x": 1, "y": 1}
    assert json.loads((tmp_path / "r.json").read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["r.json"]
    assert "No space left on device" in capsys.readouterr().out
    monkeypatch.undo()
    add(record, "z")  # there is space again: nothing of what was kept in the kernel is lost
    assert json.loads((tmp_path / "r.json").read_text()) == {"x": 1, "y": 1, "z": 1}


def test_unsaved_changes_join_what_another_kernel_saved_meanwhile(tmp_path, monkeypatch):
    mine, theirs = Record(tmp_path / "r.json"), Record(tmp_path / "r.json")
    with monkeypatch.context() as broken:
        broken.setattr(
            records.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system"))
        )
        add(mine, "mine")
    add(theirs, "theirs")
    add(mine, "later")
    assert Record(tmp_path / "r.json").read() == {"mine": 1, "theirs": 1, "later": 1}


def test_another_kernel_that_holds_the_lock_too_long_costs_a_line_and_no_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llmhw_helpers.files.LOCK_SECONDS", 0.1)
    with FileLock(tmp_path / ".r.json.lock"):
        record = Record(tmp_path / "r.json")
        assert add(record, "x") == {"x": 1}
    assert "another kernel or program has held it" in capsys.readouterr().out


def _add_many(path, name, count):
    for i in range(count):
        add(Record(path), f"{name}{i}", i)


def test_two_kernels_saving_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    kernels = [context.Process(target=_add_many, args=(tmp_path / "r.json", name, 40)) for name in "ab"]
    for kernel in kernels:
        kernel.start()
    for kernel in kernels:
        kernel.join(timeout=60)
        assert kernel.exitcode == 0
    assert len(Record(tmp_path / "r.json").read()) == 80


def test_a_kill_before_the_replacement_leaves_the_old_record(tmp_path, monkeypatch):
    add(Record(tmp_path / "r.json"), "x")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(records.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        add(Record(tmp_path / "r.json"), "y")
    assert json.loads((tmp_path / "r.json").read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["r.json"]


def test_a_file_that_cannot_be_read_is_never_overwritten(tmp_path, capsys, monkeypatch):
    """As on a network file system that stumbles: nobody knows what is in it, so nobody may replace it."""
    add(Record(tmp_path / "r.json"), "old")
    record = Record(tmp_path / "r.json")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        assert add(record, "new") == {"new": 1}
    assert "Not saved" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text()) == {"old": 1}
    assert add(record, "later") == {"old": 1, "new": 1, "later": 1}


def test_a_change_that_cannot_be_written_does_not_spoil_the_next(tmp_path):
    record = Record(tmp_path / "r.json")
    with pytest.raises(TypeError):
        add(record, "bad", object())
    assert add(record, "good") == {"good": 1}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_dictionary_of_another_form_is_set_aside_too(tmp_path, capsys):
    (tmp_path / "r.json").write_text('{"m": 3}')
    record = Record(tmp_path / "r.json", lambda content: all(isinstance(value, list) for value in content.values()))
    assert record.read() == {}
    assert add(record, "x") == {"x": 1}
    assert len(list(tmp_path.glob("r.damaged-*.json"))) == 1


def test_a_damaged_file_that_cannot_be_set_aside_is_left_alone(tmp_path, capsys, monkeypatch):
    (tmp_path / "r.json").write_bytes(b"{")
    refused = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(records.os, "replace", lambda *_: (_ for _ in ()).throw(refused))
    assert add(Record(tmp_path / "r.json"), "x") == {"x": 1}
    assert "Not saved" in capsys.readouterr().out
    assert (tmp_path / "r.json").read_bytes() == b"{"


def test_two_threads_on_one_record_lose_no_change(tmp_path, monkeypatch):
    """The other's change comes while this one's is forced to the disk, where a save takes long."""
    record, real, threads = Record(tmp_path / "r.json"), os.fsync, []

    def slow(number):
        if not threads:
            threads.append(threading.Thread(target=add, args=(record, "other")))
            threads[0].start()
            threads[0].join(0.3)  # as long as it takes to ask for the change; it cannot be made yet
        real(number)

    monkeypatch.setattr(os, "fsync", slow)
    add(record, "mine")
    threads[0].join(20)
    assert Record(tmp_path / "r.json").read() == {"mine": 1, "other": 1}


def test_what_is_kept_in_the_kernel_is_there_for_every_record_of_that_file(tmp_path, capsys):
    (tmp_path / "file").write_text("a file where a folder should be")
    add(Record(tmp_path / "file" / "r.json"), "x")
    assert "kept in this kernel only" in capsys.readouterr().out
    assert Record(tmp_path / "file" / "r.json").read() == {"x": 1}
    (tmp_path / "file").unlink()
    add(Record(tmp_path / "file" / "r.json"), "y")
    assert json.loads((tmp_path / "file" / "r.json").read_text()) == {"x": 1, "y": 1}


def test_a_relative_name_is_the_same_record(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file where a folder should be")
    add(Record(Path("file") / "r.json"), "x")
    assert Record(tmp_path / "file" / "r.json").read() == {"x": 1}


def test_what_was_saved_is_not_saved_again_over_what_came_later(tmp_path):
    mine = Record(tmp_path / "r.json")
    add(mine, "x", 1)
    (tmp_path / "r.json").write_text('{"x": 2}')  # as another kernel does
    assert add(mine, "y") == {"x": 2, "y": 1}
