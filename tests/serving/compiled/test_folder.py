"""Compiled code is made once, and kept where it can be; whatever lies in its place, the numbers are right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmhw_helpers.serving.compiled import folder
from llmhw_helpers.serving.compiled.folder import SUMS, CodeFolder

PROGRAM = """
import importlib.util, sys
from pathlib import Path
from llmhw_helpers.serving.compiled.folder import CodeFolder

kept = CodeFolder(Path(sys.argv[1]))
spec = importlib.util.spec_from_file_location("jitted", sys.argv[2])
jitted = importlib.util.module_from_spec(spec)
with kept.caching():
    spec.loader.exec_module(jitted)
print(kept.first(lambda: jitted.twice(21)), sum(jitted.twice.stats.cache_hits.values()))
from numba import config
print(config.CACHE_DIR or "as before")
"""
JITTED = """
from numba import njit

@njit(cache=True)
def once(x):
    return x

@njit(cache=True)
def twice(x):
    return once(x) + once(x)
"""


@pytest.fixture
def process(tmp_path):
    """Runs code from a folder: what it computed, whether it was found there, and what it said."""
    source = tmp_path / "jitted.py"
    source.write_text(JITTED)

    def run(before="", **environment):
        command = [sys.executable, "-c", before + PROGRAM, str(tmp_path / "kept"), str(source)]
        environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | environment
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        result, found, rest = done.stdout.split(maxsplit=2)
        assert int(result) == 42
        assert rest == "as before\n" or "NUMBA_CACHE_DIR" in environment
        said = [line for line in done.stderr.splitlines() if "compiling the decode step" not in line]  # if it took long
        return int(found), said

    return run


def test_the_second_process_finds_what_the_first_one_compiled(process, tmp_path):
    assert process() == (0, [])
    assert process() == (1, [])
    assert {path.suffix for path in (tmp_path / "kept").rglob("*jitted*.*")} == {".nbi", ".nbc"}


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


def test_another_processor_compiles_for_itself_and_leaves_the_others_code(process):
    process()
    assert process(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == (0, [])
    assert process(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == (1, [])
    assert process() == (1, [])


def test_another_version_of_numba_compiles_again(process, tmp_path):
    process()
    older = "import numba; numba.__version__ = '0.1.2'\n"
    assert process(older) == (0, [])
    before = folder.made_by()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("numba.__version__", "0.1.2")
        assert folder.made_by() != before
        patch.undo()
        assert folder.made_by() == before
        patch.setattr(folder, "SOURCES", tmp_path)  # a function that another one calls has changed
        assert folder.made_by() != before


def test_what_the_user_set_for_numba_stays(process, tmp_path):
    process(NUMBA_CACHE_DIR=str(tmp_path / "theirs"))
    assert list((tmp_path / "theirs").rglob("*.nbc"))
    assert not list((tmp_path / "kept").rglob("*.nbc"))


def test_a_folder_that_cannot_be_written_has_a_temporary_one_in_its_place(process, tmp_path):
    (tmp_path / "kept").write_text("no folder")
    found, said = process()
    assert found == 0
    assert len(said) == 1
    assert "compiled code cannot be kept in" in said[0]
    assert "compiled again at every start" in said[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_full_disk_costs_no_answer(process, tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    found, said = process(full)
    assert found == 0
    assert len(said) == 1
    assert "cannot be kept" in said[0]
    found, said = process()
    assert found == 0  # perhaps after a line on what is unfinished
    assert process() == (1, [])


def test_two_processes_that_begin_together_both_answer(process, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "kept"), str(tmp_path / "jitted.py")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    found = sorted(each.communicate(timeout=120)[0].split()[:2] for each in both)
    assert found == [["42", "0"], ["42", "1"]]  # whoever came second has found it
    assert process() == (1, [])


def test_nothing_is_compiled_or_imported_before_a_step_is():
    code = "import sys, llmhw_helpers.serving.engine, llmhw_helpers.serving.compiled.decoder; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


def test_sums_are_of_all_files(process, tmp_path):
    process()
    sums = json.loads((tmp_path / "kept" / SUMS).read_text())
    assert sorted(sums) == sorted(str(p.relative_to(tmp_path / "kept")) for p in Path(tmp_path / "kept").rglob("*.nb?"))


def test_by_itself_it_lies_in_the_courses_folder():
    assert CodeFolder().path.parent == folder.home()
