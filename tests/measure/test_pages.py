"""What a memory map reads, to the page: predicted by a formula, counted by the kernel."""

import mmap
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from llmhw_helpers.costs.files import pages
from llmhw_helpers.measure import pages as room
from llmhw_helpers.measure.pages import FileShrank, MappedFile, count_faults

PAGE = mmap.PAGESIZE
N_PAGES = 600


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file of random bytes that the disk holds."""
    path = tmp_path_factory.mktemp("pages") / "file"
    with open(path, "wb") as file:
        file.write(np.random.default_rng(0).bytes(N_PAGES * PAGE - 100))
        file.flush()
        os.fsync(file.fileno())
    return path


@pytest.fixture
def cold(path):
    with MappedFile(path, read_ahead=False) as mapped:
        if not mapped.forget():
            pytest.skip("this system keeps the file in memory, or does not tell")
        yield mapped


@pytest.mark.parametrize(
    ("offset", "n_bytes"),
    [(0, 1), (PAGE - 1, 2), (PAGE, PAGE), (100 * PAGE + 5, 20 * PAGE), (N_PAGES * PAGE - 200, 100), (7, 300 * PAGE)],
)
def test_cold_and_without_reading_ahead_just_the_predicted_pages_are_read(cold, offset, n_bytes):
    predicted = pages(offset, n_bytes, PAGE)
    faults = count_faults(lambda: cold.touch(offset, n_bytes))
    assert cold.cached_pages() == predicted
    assert cold.mapped_pages() == predicted
    assert predicted <= faults.major <= predicted + 2  # Python may miss a page of its own


def test_the_rest_comes_when_it_is_touched_and_then_nothing_more(cold):
    cold.touch(10 * PAGE, 5 * PAGE)
    assert count_faults(lambda: cold.touch(0, cold.n_bytes)).major >= N_PAGES - 5
    assert cold.cached_pages() == cold.mapped_pages() == cold.n_pages == N_PAGES
    assert count_faults(lambda: cold.touch(0, cold.n_bytes)).major == 0


def test_what_was_read_can_be_forgotten_and_is_read_again(cold):
    cold.touch(0, cold.n_bytes)
    assert cold.forget()
    assert cold.cached_pages() == 0
    cold.touch(3 * PAGE, 1)
    assert cold.cached_pages() == 1


def test_reading_ahead_brings_more_with_fewer_waits(path):
    with MappedFile(path) as mapped:
        if not mapped.forget():
            pytest.skip("this system keeps the file in memory, or does not tell")
        faults = count_faults(lambda: mapped.touch(200 * PAGE, 50 * PAGE))
        assert mapped.cached_pages() >= 50
        assert faults.major < 50


def test_what_is_touched_is_what_the_file_holds(path):
    content = path.read_bytes()
    with MappedFile(path) as mapped:
        assert mapped.touch(12345, 10) == content[12345]
        assert bytes(mapped.bytes[-5:]) == content[-5:]
        assert mapped.n_bytes == len(content)


@pytest.mark.parametrize(("offset", "n_bytes"), [(-1, 5), (0, 0), (0, N_PAGES * PAGE), (N_PAGES * PAGE, 1)])
def test_bytes_that_are_not_there_are_refused(path, offset, n_bytes):
    with MappedFile(path) as mapped, pytest.raises(ValueError, match="in a file of"):
        mapped.touch(offset, n_bytes)


def test_a_file_that_shrinks_under_the_map_is_named_before_it_ends_the_process(tmp_path):
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(10 * PAGE))
    with MappedFile(path) as mapped:
        os.truncate(path, PAGE)
        with pytest.raises(FileShrank, match=f"shrunk from {10 * PAGE} to {PAGE} bytes under its map: open it again"):
            mapped.touch(5 * PAGE, 10)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let a mapped file shrink")
def test_without_that_look_the_process_dies(tmp_path):
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(10 * PAGE))
    script = (
        "import os, sys\nfrom llmhw_helpers.measure.pages import MappedFile\n"
        f"mapped = MappedFile({str(path)!r})\nos.truncate({str(path)!r}, {PAGE})\n"
        f"mapped.bytes[{5 * PAGE}]\nprint('still there')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == -signal.SIGBUS
    assert "still there" not in run.stdout


def test_a_view_may_outlive_the_map(path):
    with MappedFile(path) as mapped:
        view = mapped.bytes[:4]
    assert bytes(view) == path.read_bytes()[:4]


def test_where_nothing_is_told_none_is_said(path, monkeypatch):
    with MappedFile(path) as mapped:
        monkeypatch.setattr(room.sys, "platform", "darwin")
        assert mapped.cached_pages() is None
        monkeypatch.delattr(room.os, "posix_fadvise", raising=False)
        assert not mapped.forget()
        monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
        assert mapped.mapped_pages() is None
    monkeypatch.setattr(room, "resource", None)
    assert count_faults(lambda: None) == room.Faults(None, None)
