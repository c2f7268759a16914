"""Files that appear whole or not at all: a full disk, an error at any call, a kill at any moment."""

import os
import resource
import subprocess
import sys

import pytest
from damage import nobody_waits_for

from llmhw_helpers.files import NotSaved, saving, settled, write_whole


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


def test_all_of_each_file_is_forced_to_the_disk_before_any_takes_its_name(tmp_path, monkeypatch):
    """After a power failure, a name would else belong to a file of which a part is missing."""
    fsync, replace, calls = os.fsync, os.replace, []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.fstat(file).st_size) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append(new.name) or replace(old, new))
    with saving("pair", tmp_path / "whole", tmp_path / "part") as (whole, part):
        whole.write(b"12345"), part.write(b"123")
    assert calls == [5, 3, "whole", "part"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_error_at_any_call_keeps_the_one_before(tmp_path, monkeypatch, fails):
    write_whole(tmp_path / "run", b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, refuse)
    with pytest.raises(NotSaved, match="No space left on device") as caught:
        write_whole(tmp_path / "run", b"new")
    assert caught.value.errno == 28
    monkeypatch.undo()
    assert (tmp_path / "run").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


KILLED = """
import os, sys
from pathlib import Path
from llmhw_helpers.files import write_whole
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


PAIR = """
import os, sys
from pathlib import Path
from llmhw_helpers.files import saving
calls, fatal, folder, new = [], int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].encode()

def deadly(function):
    def call(*arguments, **options):
        calls.append(function)
        if len(calls) > fatal:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return call

with saving("pair", folder / "whole", folder / "part") as (whole, part):
    whole.write(new), part.write(new)
    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("fatal", range(6))
def test_two_files_killed_at_any_call_are_never_one_old_and_one_new(tmp_path, fatal):
    with saving("pair", tmp_path / "whole", tmp_path / "part") as (whole, part):
        whole.write(b"old"), part.write(b"old")
    run = subprocess.run([sys.executable, "-c", PAIR, str(fatal), str(tmp_path), "new"], check=False)
    assert run.returncode == -9
    whole, part = (tmp_path / "whole").read_bytes(), tmp_path / "part"
    assert whole == (b"old" if fatal < 4 else b"new")
    assert part.read_bytes() == (b"" if fatal in (3, 4) else whole)
    with saving("pair", tmp_path / "whole", part) as (file, other):
        file.write(b"third"), other.write(b"third")
    assert sorted(os.listdir(tmp_path)) == ["part", "whole"]


def test_an_error_in_the_switch_keeps_both_files(tmp_path, monkeypatch):
    names = tmp_path / "whole", tmp_path / "part"
    with saving("pair", *names) as files:
        [file.write(b"old") for file in files]
    real = os.replace

    def replace(old, new):
        if new == names[0]:
            raise OSError(5, "Input/output error")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    said = "pair not saved .Input/output error.; whole is as it was"
    with pytest.raises(NotSaved, match=said), saving("pair", *names):
        pass
    assert [name.read_bytes() for name in names] == [b"old", b"old"]
    assert sorted(os.listdir(tmp_path)) == ["part", "whole"]


WRITER = """
import sys
from pathlib import Path
from llmhw_helpers.files import write_whole
for _ in range(40):
    write_whole(Path(sys.argv[1]), sys.argv[2].encode() * int(sys.argv[3]))
"""


def test_two_processes_that_save_to_one_name_both_succeed_and_every_read_is_whole(tmp_path):
    path, read = tmp_path / "run", set()
    contents = ("a", 300_000), ("b", 200_000)
    path.write_bytes(b"a" * 300_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), a, str(n)]) for a, n in contents]
    while any(writer.poll() is None for writer in writers):
        read.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert read <= {letter.encode() * n for letter, n in contents}
    assert os.listdir(tmp_path) == ["run"]


def test_what_fails_in_the_clean_up_does_not_hide_why_nothing_was_saved(tmp_path, monkeypatch):
    """As on a file system that turns read-only while it is written to."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    write_whole(tmp_path / "run", b"old")
    for name in ("fsync", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    said = "file not saved .Read-only file system.; run is as it was: choose a folder that can be written"
    with pytest.raises(NotSaved, match=said):
        write_whole(tmp_path / "run", b"new")
    assert (tmp_path / "run").read_bytes() == b"old"


def test_a_place_where_nothing_can_be_is_refused_in_a_line(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(NotSaved, match="there is no earlier one: choose a folder") as caught:
        write_whole(tmp_path / "file" / "folder" / "run", b"new")
    assert "\n" not in str(caught.value)


def test_another_writer_that_holds_the_name_too_long_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("llmhw_helpers.files.LOCK_SECONDS", 0.1)
    said = "another kernel or program has held it for 0.1 s.; there is no earlier one: save again"
    with saving("run", tmp_path / "run"), pytest.raises(NotSaved, match=said):
        write_whole(tmp_path / "run", b"new")


def test_others_files_are_left_alone(tmp_path):
    strangers = ["run.partial", ".run2.ab.partial", ".run.bak", "ru.partial"]
    for name in strangers:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".run.0f.partial").write_text("of a killed writer")
    write_whole(tmp_path / "run", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([*strangers, "run"])
    (tmp_path / ".run[2].0f.partial").write_text("of a killed writer, too")  # brackets are letters here
    write_whole(tmp_path / "run[2]", b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([*strangers, "run", "run[2]"])


def test_a_reader_gets_one_version_of_files_that_it_opens_again_and_again(tmp_path):
    """Even where every look but the last is disturbed, and where what it finds meanwhile makes no sense."""
    names, left = (tmp_path / "whole", tmp_path / "part"), [b"3", b"2", b"1"]

    def save(content):
        with saving("pair", *names) as files:
            [file.write(content) for file in files]

    def read():
        found = [names[0].read_bytes()]
        if left:
            save(left.pop())
        found.append(names[1].read_bytes())
        if found[0] != found[1]:
            raise ValueError("two versions")
        return found

    save(b"0")
    assert settled(read, *names) == [b"3", b"3"]
    with pytest.raises(FileNotFoundError):
        settled((tmp_path / "none").read_bytes, tmp_path / "none")


def test_another_file_is_another_version_though_the_system_gives_it_the_same_number(tmp_path):
    """As file systems do at once, where nobody has the one before open."""
    path, left = tmp_path / "whole", [b"2", b"1"]
    path.write_bytes(b"0")

    def read():
        found = path.read_bytes()
        if left:
            path.unlink()
            path.write_bytes(left.pop())
        return found

    assert settled(read, path) == b"2"


def test_nobody_waits_for_a_pipe_to_learn_its_version(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with nobody_waits_for(tmp_path / "pipe"):
        assert settled(lambda: 3, tmp_path / "pipe") == 3
