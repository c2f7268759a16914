"""GPUs through the real nvidia-ml-py, against a stand-in for NVIDIA's library that works, fails or lies."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmhw_helpers.measure.gpus import Gpus

ROOT = Path(__file__).parents[2]
READ = """
import itertools
import json
from llmhw_helpers.measure.gpus import Gpus
gpus = Gpus()
told = [gpus.read(1.0), gpus.read(1e6)]
gpus.close()
print(json.dumps([gpus.n_gpus, *told, gpus.read(2e6)]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no gcc, or no Linux, to build a stand-in for NVML with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def read(folder, fault="", visible=None, code=READ):
    """Lines that are printed, the number of GPUs, and three readings, the last one after the end."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"LD_LIBRARY_PATH": str(folder), "NVML_FAULT": fault, "PYTHONPATH": str(ROOT)}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *lines, told = run.stdout.splitlines()
    return lines, *json.loads(told)


WATCH = """
import json, time
from llmhw_helpers.measure.monitors import Monitor
with Monitor(interval_s=0.01) as monitor:
    while len(monitor.series()) < 4:
        time.sleep(0.01)
series = monitor.series()
told = {name: [str(value) for value in values] for name, values in series.columns.items() if "gpu" in name}
print(json.dumps([series.units, told]))
"""
GIB = 2**30
ALL = {"gpu_busy_percent": 50.0, "gpu_memory_bytes": 3.0 * GIB, "gpu_watts": 340.0}


def test_busy_is_a_mean_with_each_card_beside_it_and_memory_and_watts_are_sums(library):
    expected = ALL | {"gpu0_busy_percent": 100.0, "gpu1_busy_percent": 0.0}
    assert read(library) == ([], 2, expected, expected, {})


@pytest.mark.parametrize(
    ("visible", "n_gpus"),
    [("1", 1), ("1,0", 2), ("1,-1,0", 1), ("GPU-bbbb", 1), ("", 0), ("-1", 0), ("7", 0), ("MIG-1", 2)],
)
def test_those_are_watched_that_the_program_may_use(library, visible, n_gpus):
    lines, found, told, *_ = read(library, visible=visible)
    assert (lines, found) == ([], n_gpus)
    if n_gpus == 1:  # the second card
        assert told == {"gpu_busy_percent": 0.0, "gpu_memory_bytes": 2.0 * GIB, "gpu_watts": 70.0}
    assert (told == {}) == (n_gpus == 0)


def test_what_a_card_does_not_tell_is_left_out_and_said(library):
    lines, _, told, *_ = read(library, "power")
    assert lines == [f"GPU {i} does not tell its watts (Not Supported)." for i in range(2)]
    assert "gpu_watts" not in told
    assert told["gpu_busy_percent"] == 50


def test_a_card_that_is_lost_leaves_a_gap_and_one_line(library):
    lines, _, first, second, _ = read(library, "lost")
    assert lines == ["GPU 1 does not tell its busy percent (GPU is lost)."]
    assert first["gpu0_busy_percent"] == 100
    assert all(value != value for value in (first["gpu_busy_percent"], second["gpu1_busy_percent"]))
    assert second["gpu_watts"] == 340


def test_a_card_of_another_user_leaves_ones_own(library):
    lines, n_gpus, told, *_ = read(library, "hidden")
    assert lines == ["GPU 1 is not watched (Insufficient Permissions)."]
    assert (n_gpus, told["gpu_busy_percent"], told["gpu_watts"]) == (1, 100, 270)


def test_what_cannot_be_true_is_not_believed(library):
    lines, n_gpus, told, *_ = read(library, "lies")
    assert (n_gpus, told) == (2, {})
    assert len(lines) == 6
    assert "GPU 0 tells 4.29497e+09 busy percent, which cannot be: left out." in lines
    assert read(library, "many") == (
        ["NVML does not work here: GPUs are not watched (it counts 4000000000 GPUs)."],
        0,
        {},
        {},
        {},
    )


def test_a_library_that_does_not_work_is_one_line(library, tmp_path):
    lines, *told = read(library, "driver")
    assert (lines, told) == (["NVML does not work here: GPUs are not watched (Driver Not Loaded)."], [0, {}, {}, {}])
    (tmp_path / "other.c").write_text("int nothing(void) { return 0; }")
    subprocess.run(["gcc", "-shared", "-o", tmp_path / "libnvidia-ml.so.1", tmp_path / "other.c"], check=True)
    lines, *told = read(tmp_path)
    assert (lines, told) == (["NVML does not work here: GPUs are not watched (Function Not Found)."], [0, {}, {}, {}])


def test_cards_are_not_asked_more_often_than_asking_is_worth(monkeypatch):
    asked = []
    monkeypatch.setattr(Gpus, "_find", lambda self: {0: "card"})
    monkeypatch.setattr(Gpus, "_ask", lambda self, name, i: float(len(asked)) if asked.append(name) is None else 0.0)
    monkeypatch.setattr("time.thread_time", itertools.count(0, 0.001).__next__)  # each round takes a millisecond
    gpus = Gpus()
    asked.clear()
    told = [gpus.read(now)["gpu_watts"] for now in (1.0, 1.4, 1.6)]
    assert told[0] == told[1] != told[2]
    assert len(asked) == 6


def test_without_a_library_there_is_nothing_to_say(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    lines, *told = read(tmp_path)
    assert (lines, told) == ([], [0, {}, {}, {}])


def test_a_monitor_goes_on_when_a_card_is_lost(library):
    lines, units, told = read(library, "lost", code=WATCH)
    assert lines == ["GPU 1 does not tell its busy percent (GPU is lost)."]
    assert (units["gpu1_busy_percent"], units["gpu_watts"]) == ("%", "W")
    assert set(told["gpu_busy_percent"]) == {"nan"}
    assert set(told["gpu0_busy_percent"]) == {"100.0"}
    assert set(told["gpu_watts"]) == {"340.0"}
