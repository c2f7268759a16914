"""Limits of a container, from folders laid out as the kernel does in both versions of control groups."""

import os

import psutil
import pytest

from llmhw_helpers.measure.containers import available_bytes, control_groups, memory_limits, usable_cores

GIB = 2**30


@pytest.fixture
def groups(tmp_path):
    """Writes files into folders, and returns the control groups that a process in `inside` has."""

    def make(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return {name: control_groups(name, tmp_path, tmp_path / "own") for name in ("cpu", "memory")}

    return make


V2 = {
    "job/cpu.max": "max 100000\n",
    "job/step/cpu.max": "50000 100000\n",
    "job/memory.max": f"{GIB}\n",
    "job/memory.current": f"{GIB * 3 // 4}\n",
    "job/memory.stat": f"anon {GIB // 2}\ninactive_file {GIB // 8}\n",
    "job/step/memory.max": "max\n",
}
V1 = {
    "cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
    "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "memory/job/memory.limit_in_bytes": f"{GIB}\n",
    "memory/job/memory.usage_in_bytes": f"{GIB * 3 // 4}\n",
    "memory/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB // 8}\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
}


@pytest.mark.parametrize(
    ("own", "files"),
    [("0::/job/step\n", V2), ("5:cpu,cpuacct:/job\n4:memory:/job\n3:cpuset:/\n0::/\n", V1)],
    ids=["version 2", "version 1"],
)
def test_the_nearest_limit_counts(groups, own, files):
    found = groups(own, files)
    assert usable_cores(found["cpu"]) == 0.5
    (limit,) = memory_limits(found["memory"])
    assert limit.n_bytes == GIB
    assert available_bytes([limit]) == min(GIB * 3 // 8, psutil.virtual_memory().available)


def test_without_a_limit_it_is_the_machines(groups):
    found = groups("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"})
    assert usable_cores(found["cpu"]) == usable_cores([])
    assert usable_cores([]) <= os.cpu_count()
    assert memory_limits(found["memory"]) == []
    assert available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def test_files_of_an_unknown_kind_and_groups_that_are_gone_do_no_harm(groups, tmp_path):
    found = groups("0::/job\n", {"job/cpu.max": "soon\n", "job/memory.max": f"{GIB}\n", "job/memory.stat": "?\n"})
    assert usable_cores(found["cpu"]) == usable_cores([])
    (limit,) = memory_limits(found["memory"])
    assert available_bytes([limit]) > 0
    assert control_groups("cpu", tmp_path, tmp_path / "none") == []
