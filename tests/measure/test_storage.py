"""Reads of files: each gets every byte, and the kernel's counters say where they came from. No time is asserted."""

import mmap
import os
import sys
import time

import pytest

from llmhw_helpers.measure import storage as room
from llmhw_helpers.measure.storage import (
    CannotMeasure,
    about,
    disk_bytes,
    file_system,
    forget,
    measure_read,
    read_direct,
    read_files,
    read_parallel,
    read_places,
    read_throttled,
    read_whole,
    resident,
    scratch,
    write_file,
    write_files,
)

SIZE = 16 * 2**20 + 123
counted = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what came from the disk")


@pytest.fixture(scope="module")
def path():
    with scratch(2 * SIZE) as folder:
        yield write_file(folder / "one", SIZE)


@pytest.fixture
def cold(path):
    if not forget(path) or resident(path) or disk_bytes() is None or about(path):
        pytest.skip("this system does not drop files from memory, or does not count")
    return path


READS = {
    "whole": read_whole,
    "direct": read_direct,
    "four readers": lambda path: read_parallel(path, 4),
    "seven readers": lambda path: read_parallel(path, 7),
    "as a small file": lambda path: read_files([path]),
}


@pytest.mark.parametrize("name", READS)
def test_every_way_gets_every_byte(name, path):
    try:
        assert READS[name](path) == SIZE
    except CannotMeasure as refused:
        pytest.skip(str(refused))


@counted
@pytest.mark.parametrize("name", READS)
def test_a_cold_read_comes_from_the_disk_and_a_warm_one_does_not(name, cold):
    first, second = (measure_read(lambda: READS[name](cold)) for _ in range(2))
    assert SIZE <= first.disk_bytes <= SIZE + 2**20
    if name == "direct":  # nothing is kept
        assert second.disk_bytes >= SIZE
        assert resident(cold) == 0
    else:
        assert second.disk_bytes == 0
        assert resident(cold) == 1


@counted
def test_read_ahead_brings_what_nobody_asked_for(cold):
    told = measure_read(lambda: read_places(cold, 40, read_ahead=False))
    assert told.disk_bytes == told.n_bytes  # to the page
    assert forget(cold)
    ahead = measure_read(lambda: read_places(cold, 40))
    assert ahead.n_bytes == told.n_bytes < ahead.disk_bytes / 4


def test_a_part_of_a_file(path):
    assert read_whole(path, 100, 1000) == 1000
    assert read_whole(path, SIZE - 10, 10) == 10


def test_random_bytes_are_drawn_from_the_seed(path, tmp_path):

    assert write_file(tmp_path / "a", 3000, 1).read_bytes() != write_file(tmp_path / "b", 3000, 2).read_bytes()
    assert write_file(tmp_path / "c", 3000, 1).read_bytes() == (tmp_path / "a").read_bytes()


def test_small_files(tmp_path):
    paths = write_files(tmp_path, 20, 4096)
    assert len(set(paths)) == 20
    assert read_files(paths) == 20 * 4096
    assert len({path.read_bytes() for path in paths}) == 20


def test_a_throttled_read_holds_its_rate(tmp_path):
    path = write_file(tmp_path / "slow", 30_000)
    start = time.perf_counter()
    assert read_throttled(path, 300_000) == path.read_bytes()
    assert time.perf_counter() - start >= 0.1
    with pytest.raises(ValueError, match="the rate has to be above 0"):
        read_throttled(path, 0)


def test_scratch_is_gone_whatever_happens(tmp_path):
    def interrupted():
        with scratch(10, tmp_path) as folder:
            write_file(folder / "file", 10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(CannotMeasure, match=r"MB free, and twice 1000000000000 MB are asked for$"):
        scratch(10**18, tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_direct_reads_is_one_line(path, monkeypatch):
    def refuse(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(room.os, "preadv", refuse, raising=False)
    with pytest.raises(CannotMeasure, match=r"no reads past the page cache"):
        read_direct(path)


def test_other_systems_say_so(path, monkeypatch):
    monkeypatch.delattr(room.os, "O_DIRECT", raising=False)
    monkeypatch.delattr(room.os, "posix_fadvise", raising=False)
    with pytest.raises(CannotMeasure, match="this system has no reads past"):
        read_direct(path)
    assert forget(path) is False
    monkeypatch.setattr(room.sys, "platform", "darwin")
    monkeypatch.setattr(room, "file_system", lambda _: "apfs")
    assert disk_bytes() is None
    assert about(path) == "this system does not tell what came from the disk: times only"
    assert measure_read(lambda: read_whole(path)).disk_bytes is None


@pytest.mark.parametrize(
    ("kind", "line"), [("tmpfs", "lies in memory"), ("overlay", "the disk lies below"), ("nfs4", "may not count")]
)
def test_what_a_reader_should_know_of_the_place(kind, line, monkeypatch):
    monkeypatch.setattr(room, "file_system", lambda _: kind)
    assert line in about("/somewhere")
    assert "\n" not in about("/somewhere")


@counted
def test_the_nearest_mount_names_the_file_system(monkeypatch):
    parts = [("/", "ext4"), ("/data", "tmpfs"), ("/data/fast", "xfs")]
    told = [type("Part", (), {"mountpoint": at, "fstype": kind}) for at, kind in parts]
    monkeypatch.setattr(room.psutil, "disk_partitions", lambda all: told)
    assert [file_system(at) for at in ("/home", "/data/x", "/data/fast/x", "/database")] == [
        "ext4",
        "tmpfs",
        "xfs",
        "ext4",
    ]


def test_pages_are_the_unit():
    assert room.PAGE == mmap.PAGESIZE == os.sysconf("SC_PAGE_SIZE")
