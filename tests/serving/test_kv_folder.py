"""A file is what was written, or a miss; and the folder stays within its bytes, whoever writes to it."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from llmhw_helpers.serving.kv_folder import FULL, STALE, KVFolder, NoFolder

KEYS = [bytes([i]) * 16 for i in range(40)]
SHAPES = [(3, 4, 2, 8), (3, 4, 2, 8)]


def block(i, dtype=torch.float32):
    generator = torch.Generator().manual_seed(i)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def empty(dtype=torch.float32):
    return [torch.full(shape, 7, dtype=dtype) for shape in SHAPES]


def filled(folder, n=1, dtype=torch.float32):
    for i in range(n):
        assert folder.write(KEYS[i], block(i, dtype))
    folder.flush()
    return folder


def found(folder, i=0, dtype=torch.float32):
    """Whether block `i` is there, to the bit; if it is not, what was to be filled is as it was."""
    out = empty(dtype)
    there = folder.read(KEYS[i], out)
    for got, written, untouched in zip(out, block(i, dtype), empty(dtype), strict=True):
        assert torch.equal(got, written if there else untouched)
    return there


def file_of(folder, i=0):
    return folder.path / f"{KEYS[i].hex()}.kv"


def size(path):
    return sum(each.stat().st_size for each in path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_is_read_is_what_was_written_to_the_bit(tmp_path, dtype):
    folder = filled(KVFolder(tmp_path / "new" / "folder"), 3, dtype)
    again = KVFolder(folder.path)  # as after a restart
    assert all(found(again, i, dtype) for i in range(3))
    assert not found(again, 3, dtype)
    assert (folder.n_written, again.n_read, again.n_missed, again.n_damaged) == (3, 3, 1, 0)
    content = file_of(folder).read_bytes()
    assert content.startswith(f"llmhw-kv 1 {KEYS[0].hex()} {str(dtype)[6:]}[3,4,2,8] ".encode())
    assert len(content.partition(b"\n")[2]) == 4 + 2 * 192 * dtype.itemsize


def test_strided_tensors_are_kept_as_what_they_show(tmp_path):
    pool = torch.randn(3, 10, 4, 2, 8)
    folder = KVFolder(tmp_path)
    folder.write(KEYS[0], [pool[:, 4], pool[:, 5]])
    folder.flush()
    target = torch.zeros(3, 10, 4, 2, 8)
    assert folder.read(KEYS[0], [target[:, 1], target[:, 7]])
    assert torch.equal(target[:, [1, 7]], pool[:, [4, 5]])
    assert target.count_nonzero() == pool[:, [4, 5]].count_nonzero()


def test_what_waits_to_be_written_is_a_copy_and_found_already(tmp_path):
    folder, begin = KVFolder(tmp_path), threading.Event()
    folder._writer.submit(begin.wait, 20)
    tensors = block(0)
    assert folder.write(KEYS[0], tensors)
    for each in tensors:
        each.zero_()  # given out again
    assert found(folder)
    assert folder.holds(KEYS[0])
    assert list(tmp_path.iterdir()) == []
    begin.set()
    folder.flush()
    assert found(folder)
    assert not folder._pending
    assert folder._backlog == 0


def test_what_does_not_fit_into_the_backlog_is_dropped_and_nobody_waits(tmp_path):
    folder, begin = KVFolder(tmp_path, backlog_bytes=2 * 1536), threading.Event()
    folder._writer.submit(begin.wait, 20)
    assert [folder.write(KEYS[i], block(i)) for i in range(4)] == [True, True, False, False]
    begin.set()
    folder.flush()
    assert (folder.n_written, folder.n_dropped) == (2, 2)
    assert folder.write(KEYS[2], block(2))


def test_a_block_that_waits_already_waits_once(tmp_path):
    folder, begin = KVFolder(tmp_path, backlog_bytes=2 * 1536), threading.Event()
    folder._writer.submit(begin.wait, 20)
    assert all(folder.write(KEYS[0], block(0)) for _ in range(2))
    assert folder.write(KEYS[1], block(1))  # there is room for it
    begin.set()
    folder.flush()
    assert (folder.n_written, folder.n_dropped, folder._backlog) == (2, 0, 0)


def damage(name):
    def bit(path):
        content = bytearray(path.read_bytes())
        content[-100] ^= 4
        path.write_bytes(content)

    def checksum(path):
        content = bytearray(path.read_bytes())
        content[content.index(b"\n") + 1] ^= 1
        path.write_bytes(content)

    def header(path):
        path.write_bytes(path.read_bytes().replace(b"float32", b"float64", 1))

    def version(path):
        path.write_bytes(path.read_bytes().replace(b"llmhw-kv 1", b"llmhw-kv 2", 1))

    def swapped(path):  # a whole file, of another block
        path.write_bytes(file_of(filled(KVFolder(path.parent / "other"), 2), 1).read_bytes())

    return {
        "a bit": bit,
        "its checksum": checksum,
        "its format": header,
        "its version": version,
        "another's name": swapped,
        "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
        "empty": lambda path: os.truncate(path, 0),
        "too long": lambda path: os.truncate(path, path.stat().st_size + 1),
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "text": lambda path: path.write_text("not keys and values"),
    }[name]


@pytest.mark.parametrize(
    "how",
    [
        *("a bit", "its checksum", "its format", "its version", "another's name"),
        *("cut short", "empty", "too long", "zeros", "text"),
    ],
)
def test_a_damaged_file_is_a_miss_and_gone(tmp_path, how):
    folder = filled(KVFolder(tmp_path), 2)
    damage(how)(file_of(folder))
    assert not found(folder)
    assert (folder.n_damaged, folder.n_missed) == (1, 1)
    assert not file_of(folder).exists()
    assert found(folder, 1)
    assert found(filled(folder))  # and may be written again


def test_every_single_byte_counts(tmp_path):
    folder = filled(KVFolder(tmp_path))
    whole = file_of(folder).read_bytes()
    for i in range(0, len(whole), 7):
        file_of(folder).write_bytes(whole[:i] + bytes([whole[i] ^ 128]) + whole[i + 1 :])
        assert not found(folder), i


@pytest.mark.parametrize("out", [[(3, 4, 2, 8)], [(3, 4, 2, 8), (3, 4, 16)], [(3, 4, 2, 8)] * 3])
def test_other_shapes_than_those_asked_for_are_a_miss_even_before_they_are_written(tmp_path, out):
    folder, begin = KVFolder(tmp_path), threading.Event()
    folder._writer.submit(begin.wait, 20)
    folder.write(KEYS[0], block(0))
    assert not folder.read(KEYS[0], [torch.zeros(shape) for shape in out])
    begin.set()
    folder.flush()
    assert not folder.read(KEYS[0], [torch.zeros(shape) for shape in out])


def test_a_file_that_was_cut_is_written_again_though_nobody_read_it(tmp_path):
    folder = filled(KVFolder(tmp_path), 2)
    os.truncate(file_of(folder), 100)
    filled(folder, 2)
    assert found(folder)
    assert (folder.n_written, folder.n_damaged) == (3, 0)


def test_what_is_no_file_is_a_miss_and_nobody_waits_for_it(tmp_path):
    folder = filled(KVFolder(tmp_path), 4)
    for i in range(4):
        file_of(folder, i).rename(tmp_path / f"kept {i}")
    file_of(folder, 0).mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file_of(folder, 1))  # to open a pipe waits for whoever writes to it
    file_of(folder, 2).symlink_to(tmp_path / "kept 2")
    file_of(folder, 3).symlink_to("nowhere")
    begin = time.perf_counter()
    assert not any(found(folder, i) for i in range(4))
    assert time.perf_counter() - begin < 5
    assert (tmp_path / "kept 2").exists()
    filled(folder, 4)  # and stays what it is
    assert folder.failed is None
    folder._make_room(0)


def test_a_file_that_nobody_may_read_is_a_miss(tmp_path, monkeypatch):
    folder = filled(KVFolder(tmp_path))

    def refused(path, flags):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may read all
        patch.setattr(os, "open", refused)
        assert not found(folder)
    assert folder.n_damaged == 1
    assert found(folder)


def test_the_folder_stays_within_its_bytes_and_those_unused_for_longest_go_first(tmp_path):
    one = size(filled(KVFolder(tmp_path / "one")).path)
    limit = 8 * one / FULL + 1
    folder = KVFolder(tmp_path / "many", limit)
    for i in range(15):
        if i == 8:
            assert found(folder, 3)
            folder.touch([KEYS[3]])
        folder.write(KEYS[i], block(i))
        folder.flush()
        assert size(folder.path) <= FULL * limit
    assert [i for i in range(15) if file_of(folder, i).exists()] == [3, *range(8, 15)]
    assert folder.n_deleted == 7
    smaller = KVFolder(folder.path, limit / 2)  # at once, and the same when it starts again
    assert size(folder.path) <= FULL * limit / 2
    assert found(smaller, 14)


def test_of_blocks_that_are_used_together_the_first_goes_last(tmp_path):
    folder = filled(KVFolder(tmp_path), 6)
    folder.touch([KEYS[i] for i in (2, 0, 4)])
    ages = sorted(range(6), key=lambda i: file_of(folder, i).stat().st_mtime_ns)
    assert ages == [1, 3, 5, 4, 0, 2]


def test_what_is_written_again_has_been_used_just_now(tmp_path):
    folder = filled(KVFolder(tmp_path), 2)
    filled(folder)
    assert file_of(folder).stat().st_mtime_ns > file_of(folder, 1).stat().st_mtime_ns
    assert folder.n_written == 2


def test_blocks_are_told_apart_by_time_however_fast_they_are_written(tmp_path, monkeypatch):
    """The system's own clock for files may stand still for some milliseconds."""
    times = iter(range(10**18, 10**18 + 3))
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    folder = filled(KVFolder(tmp_path), 3)
    assert [file_of(folder, i).stat().st_mtime_ns - 10**18 for i in range(3)] == [0, 1, 2]


def test_files_of_others_are_neither_counted_nor_deleted(tmp_path):
    strangers = [tmp_path / name for name in ("thesis.tex", "a.kv", f"{KEYS[0].hex()}.kv.bak", "x.partial")]
    for each in strangers:
        each.write_bytes(bytes(100_000))
    strangers.append(tmp_path / f"{KEYS[39].hex()}.kv")
    strangers[-1].symlink_to("thesis.tex")
    folder = filled(KVFolder(tmp_path, 20_000), 30)
    assert folder.n_deleted > 0
    assert all(each.stat().st_size == 100_000 for each in strangers)


def test_what_a_killed_program_left_is_cleared_away_and_what_another_is_writing_is_not(tmp_path):
    old, new = (tmp_path / f"{key.hex()}.abc_12.partial" for key in KEYS[:2])
    for each in (old, new):
        each.write_bytes(bytes(5000))
    os.utime(old, (time.time() - 2 * STALE,) * 2)
    folder = filled(KVFolder(tmp_path, 12_000), 30)
    assert [old.exists(), new.exists()] == [False, True]
    assert size(tmp_path) <= 12_000
    os.utime(new, (time.time() - 2 * STALE,) * 2)
    KVFolder(tmp_path, 1e9)  # and not only where room is short
    assert not new.exists()
    assert folder.n_written == 30


def two_programs(path, limit):
    code = """if True:
        import sys, torch
        from llmhw_helpers.serving.kv_folder import KVFolder
        folder = KVFolder(sys.argv[1], float(sys.argv[2]))
        for i in range(150):
            key, first = bytes([i % 60]) * 16, torch.full((400,), float(i % 60))
            out = torch.zeros(400)
            if folder.read(key, [out]):
                assert torch.equal(out, first), key
            folder.write(key, [first])
            if i % 5 == 0:
                folder.flush()
        folder.flush()
        assert folder.failed is None, folder.failed
        print(folder.n_written, folder.n_read, folder.n_damaged)
    """
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([sys.executable, "-c", code, path, str(limit)], **how) for _ in range(2)]


def test_two_programs_share_a_folder_and_its_limit(tmp_path):
    limit = 40 * 1700  # of 60 blocks
    programs, most = two_programs(tmp_path, limit), 0
    while any(each.poll() is None for each in programs):
        with contextlib.suppress(OSError):
            most = max(most, size(tmp_path))
        time.sleep(0.01)
    for each in programs:
        out, err = each.communicate(timeout=60)
        assert each.returncode == 0, err
        n_written, _, n_damaged = map(int, out.split())
        assert n_written > 0
        assert n_damaged == 0
    assert 0 < most <= limit
    assert size(tmp_path) <= limit
    assert not list(tmp_path.glob("*.partial"))


def failing(monkeypatch, name, error):
    def fail(*arguments, **how):
        raise error

    monkeypatch.setattr(os, name, fail)


def test_a_full_disk_ends_writing_with_one_line_and_reading_goes_on(tmp_path, capfd):
    resource = pytest.importorskip("resource")
    folder = filled(KVFolder(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # no file may grow beyond: half a block
    try:
        for i in range(1, 5):
            folder.write(KEYS[i], block(i))
        folder.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capfd.readouterr().err
    assert said == f"no more keys and values are written to {tmp_path}: File too large\n" == f"{folder.failed}\n"
    assert [each.name for each in tmp_path.iterdir()] == [file_of(folder).name]  # nothing by halves
    assert found(folder)
    assert not found(folder, 1)
    assert not folder.write(KEYS[1], block(1))
    assert (folder._backlog, folder._pending) == (0, {})


def test_a_folder_that_may_only_be_read_is_read(tmp_path, monkeypatch, capfd):
    filled(KVFolder(tmp_path))
    for name in ("utime", "unlink", "replace"):
        failing(monkeypatch, name, PermissionError(30, "Read-only file system"))
    failing(monkeypatch, "mkdir", FileExistsError(17, "File exists"))
    monkeypatch.setattr("tempfile.mkstemp", os.utime)
    folder = KVFolder(tmp_path)
    assert found(folder)
    folder.touch(KEYS[:1])
    folder.write(KEYS[1], block(1))
    folder.write(KEYS[2], block(2))
    folder.flush()
    assert capfd.readouterr().err == f"no more keys and values are written to {tmp_path}: Read-only file system\n"
    assert found(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_ordinary_user_reads_where_it_may_not_write(tmp_path):
    folder = filled(KVFolder(tmp_path))
    tmp_path.chmod(0o500)
    try:
        folder.write(KEYS[1], block(1))
        folder.flush()
        assert "Permission denied" in folder.failed
        assert found(KVFolder(tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_is_deleted_ends_writing_and_all_is_a_miss(tmp_path, capfd):
    folder = filled(KVFolder(tmp_path / "gone"))
    file_of(folder).unlink()
    folder.path.rmdir()
    assert not found(folder)
    for i in range(2):  # by the second, the thread may have given up already: both answers of `write` are right
        folder.write(KEYS[i], block(i))
    folder.flush()
    assert "No such file" in folder.failed
    assert not found(folder)
    assert capfd.readouterr().err.count("\n") == 1


def test_whatever_else_goes_wrong_in_the_thread_is_told_too(tmp_path, monkeypatch, capfd):
    folder = KVFolder(tmp_path)
    failing(monkeypatch, "scandir", MemoryError("no room"))
    folder._unseen = 1e12
    folder.write(KEYS[0], block(0))
    folder.flush()
    assert capfd.readouterr().err == f"no more keys and values are written to {tmp_path}: MemoryError: no room\n"
    assert not folder._pending


def test_no_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path, limit, words in (
        (tmp_path / "file", 1e9, "File exists"),
        (tmp_path / "file" / "below", 1e9, "Not a directory"),
        (tmp_path, 0, "have to be above 0"),
        (tmp_path, float("nan"), "have to be above 0"),
    ):
        with pytest.raises(NoFolder, match=words) as error:
            KVFolder(path, limit)
        assert "\n" not in str(error.value)
    with pytest.raises(NoFolder, match="have to be above 0"):
        KVFolder(tmp_path, bytes_per_s=0)


def test_files_are_for_this_user_alone(tmp_path):
    folder = filled(KVFolder(tmp_path / "kv"))
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert file_of(folder).stat().st_mode & 0o777 == 0o600


def test_a_slow_storage_can_be_tried(tmp_path):
    filled(KVFolder(tmp_path), 2)
    slow = KVFolder(tmp_path, bytes_per_s=size(tmp_path) / 0.2)
    begin = time.perf_counter()
    assert found(slow)
    assert found(slow, 1)
    assert time.perf_counter() - begin >= 0.2
