"""Compiled code is made once, and kept where it can be; whatever lies in its place, the numbers are right."""

import errno
import gc
import importlib
import io
import json
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from damage import NO_FILES, nobody_waits_for
from numba import config

from llmhw_helpers.serving.compiled import folder, jitting, products, step
from llmhw_helpers.serving.compiled.folder import SUMS, CodeFolder

JITTED = """
from numba import njit

@njit(cache=True)
def once(x):
    return x

@njit(cache=True)
def twice(x):
    return once(x) + once(x)
"""
PROGRAM = """
import sys
from pathlib import Path
from llmhw_helpers.serving.compiled.folder import CodeFolder

kept = CodeFolder(Path("kept").absolute())
with kept.caching():
    import jitted
print(kept.first(lambda: jitted.twice(21)), sum(jitted.twice.stats.cache_hits.values()))
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The folder of a module with functions that numba compiles."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(folder, "SAY_AFTER", 1e6)  # else a slow machine says what it waits for
    (tmp_path / "jitted.py").write_text(JITTED)
    return tmp_path


@pytest.fixture
def process(source, capsys):
    """Meets the functions as a new process does: whether what it wanted was there, and what it said."""

    def run():
        sys.modules.pop("jitted", None)
        folder.say.cache_clear()
        kept = CodeFolder(source / "kept")
        with kept.caching():
            jitted = importlib.import_module("jitted")
        assert kept.first(lambda: jitted.twice(21)) == 42
        out, err = capsys.readouterr()
        assert not out
        return sum(jitted.twice.stats.cache_hits.values()), err.splitlines()

    yield run
    sys.modules.pop("jitted", None)
    folder.say.cache_clear()


def test_the_second_process_finds_what_the_first_one_compiled(process, tmp_path):
    assert process() == (0, [])
    assert process() == (1, [])
    assert {path.suffix for path in (tmp_path / "kept").rglob("*jitted*.*")} == {".nbi", ".nbc"}
    assert config.CACHE_DIR == ""


@pytest.mark.parametrize("kind", [".nbi", ".nbc", SUMS])
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_is_compiled_again_and_never_run(process, tmp_path, kind, damage):
    process()
    for path in (tmp_path / "kept").rglob(f"*{kind}"):
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[:-20], "other": whole[:-50] + bytes(50), "empty": b""}[damage])
    found, said = process()
    assert found == 0
    assert len(said) == 1
    assert "were damaged or unfinished: compiled again" in said[0]
    assert process() == (1, [])


@pytest.mark.parametrize("suffix", [".nbi", ".nbc", ".json"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_compiled_again_and_nobody_waits_for_a_pipe(process, tmp_path, suffix, kind):
    process()
    path = next((tmp_path / "kept").rglob(f"*{suffix}"))
    path.unlink()
    NO_FILES[kind](path)
    with nobody_waits_for(path) if kind == "a pipe" else nullcontext():
        process()
    assert process() == (1, [])


def test_another_processor_compiles_for_itself_and_leaves_the_others_code(process, monkeypatch):
    process()
    with monkeypatch.context() as other:
        other.setattr("numba.core.codegen.JITCPUCodegen._get_host_cpu_name", lambda self: "another")
        assert process() == (0, [])
        assert process() == (1, [])
    assert process() == (1, [])


def test_another_version_compiles_again(process, tmp_path, monkeypatch):
    process()
    before = folder.made_by()
    with monkeypatch.context() as other:
        other.setattr("numba.__version__", "0.1.2")
        assert process() == (0, [])
        assert folder.made_by() != before
    with monkeypatch.context() as other:
        other.setattr(sys, "version", "3.99")
        assert folder.made_by() != before
    assert folder.made_by() == before
    monkeypatch.setattr(folder, "SOURCES", tmp_path)  # a function that another one calls has changed
    assert folder.made_by() != before


def test_where_the_user_wants_numbas_code_it_has_a_folder_of_its_own(process, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert CodeFolder().path == tmp_path / f"compiled-{folder.made_by()}"
    process()
    assert str(tmp_path) == config.CACHE_DIR
    assert list((tmp_path / "kept").rglob("*.nbc"))


def test_a_folder_that_cannot_be_written_has_a_temporary_one_in_its_place(process, tmp_path):
    (tmp_path / "kept").write_text("no folder")
    found, said = process()
    assert found == 0
    assert len(said) == 1
    assert re.match(r"llmhw: compiled code cannot be kept in .*: the next program compiles again", said[0])


def test_a_full_disk_costs_no_answer(process, monkeypatch):
    def full(self, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
        found, said = process()
    assert found == 0
    assert len(said) == 1
    assert "(No space left on device): the next program compiles again" in said[0]
    assert process()[0] == 0
    assert process() == (1, [])


def test_what_was_compiled_before_something_went_wrong_is_kept(process, source, capsys):
    kept = CodeFolder(source / "kept")
    with kept.caching():
        jitted = importlib.import_module("jitted")
    with pytest.raises(ZeroDivisionError):
        kept.first(lambda: jitted.twice(21) / 0)
    assert process() == (1, [])


def test_whoever_waits_for_the_compiler_is_told_what_for(process, monkeypatch, source, capsys):
    monkeypatch.setattr(folder, "SAY_AFTER", 0)
    CodeFolder(source / "kept").first(lambda: time.sleep(0.5))
    assert "compiling the decode step for this processor, kept in" in capsys.readouterr().err


def test_python_looks_for_rubbish_again_afterwards(source):
    kept = CodeFolder(source / "kept")
    assert not kept.first(gc.isenabled)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        kept.first(lambda: 1 / 0)
    assert gc.isenabled()


def test_two_processes_that_begin_together_compile_once(source):
    command = [sys.executable, "-c", PROGRAM]
    how = {"stdout": subprocess.PIPE, "text": True, "cwd": source}
    both = [subprocess.Popen(command, **how) for _ in range(2)]
    found = sorted(each.communicate(timeout=120)[0].split() for each in both)
    assert found == [["42", "0"], ["42", "1"]]


def test_nothing_is_compiled_or_imported_before_a_step_is():
    rooms = "llmhw_helpers.serving.engine, llmhw_helpers.serving.compiled.decoder"
    code = f"import sys, {rooms}; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


def test_sums_are_of_all_files(process, tmp_path):
    process()
    sums = json.loads((tmp_path / "kept" / SUMS).read_text())
    assert sorted(sums) == sorted(str(p.relative_to(tmp_path / "kept")) for p in Path(tmp_path / "kept").rglob("*.nb?"))


def test_by_itself_it_lies_in_the_courses_folder(monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert CodeFolder().path.parent == folder.home()


def test_whoever_imports_a_room_its_code_goes_to_the_courses_folder():
    """Beside its source it would outlive a change in a function that it calls."""
    for program in (step.decode_share, products.multiply_rows, products.widen_rows):
        assert Path(program.stats.cache_path).parent == jitting.KEPT.path


def test_a_line_that_nobody_can_read_stops_nothing(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stderr", Gone())
    assert folder.say("a line that is said here alone") is None
