"""A tree of processes: what is lost and found between two readings, played through step by step, and with real ones."""

import subprocess
import sys
import time

import psutil
import pytest

from llmhw_helpers.measure import process_tree
from llmhw_helpers.measure.process_tree import ProcessTree

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
print(child.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def played(monkeypatch):
    """A tree of processes by name, whose figures are told by a list of readings, one after the other."""

    def play(names, readings):
        told = iter(readings)

        def figures(process):
            name, cpu = next(told)
            assert name == process
            if cpu is None:
                raise psutil.NoSuchProcess(1)
            return {"cpu": cpu, "rss_bytes": 1000}

        monkeypatch.setattr(process_tree, "_figures", figures)
        tree = ProcessTree()
        tree._processes, tree._look_again_at = list(names), float("inf")
        return tree

    return play


def test_a_child_that_ends_while_one_reads_is_found_with_its_parent(played):
    first = [("parent", 1.0), ("child", 5.0)]
    torn = [("parent", 1.0), ("child", None), ("parent", 6.5)]  # it handed over its time in between
    tree = played(["parent", "child"], [*first, *torn, ("parent", 6.75)])
    assert tree.read(0.0)["cpu_seconds"] == 0
    assert tree.read(1.0) == {"cpu_seconds": 0.5, "rss_bytes": 1000}
    assert tree.read(2.0)["cpu_seconds"] == 0.75


def test_a_child_that_nobody_waits_for_takes_nothing_back(played):
    tree = played(
        ["parent", "child"], [("parent", 1.0), ("child", 5.0), ("parent", 1.0), ("child", None), *2 * [("parent", 1.5)]]
    )
    assert [tree.read(now)["cpu_seconds"] for now in (0.0, 1.0, 2.0)] == [0, 0, 0]


def test_what_a_child_did_before_it_was_found_is_counted_as_fast_as_cores_can(played, monkeypatch):
    monkeypatch.setattr(process_tree, "CORES", 2)
    tree = played(["parent"], [("parent", 1.0), ("parent", 6.0), ("parent", 6.0), ("parent", 6.0)])
    assert [tree.read(now)["cpu_seconds"] for now in (0.0, 1.0, 2.0, 3.0)] == [0, 2, 4, 5]


def test_a_child_whose_parent_has_ended_belongs_to_the_program_still():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        tree = ProcessTree([parent.pid])
        tree.read(time.perf_counter())
        parent.stdin.close()
        parent.wait(60)
        tree.read(time.perf_counter())
        before, clock = tree.read(time.perf_counter())["cpu_seconds"], child.cpu_times().user
        while child.cpu_times().user < clock + 0.2:
            time.sleep(0.02)
        assert tree.read(time.perf_counter())["cpu_seconds"] >= before + 0.15
    finally:
        child.kill()
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_elsewhere_than_on_linux_children_are_found_among_all_processes(monkeypatch):
    monkeypatch.setattr(process_tree, "LISTS_CHILDREN", False)
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = process_tree._descendants(psutil.Process())
        assert child.pid in found
        monkeypatch.undo()
        assert child.pid in process_tree._descendants(psutil.Process())
        child.communicate(b"\n")


def test_a_process_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no process with the number -1 to watch"):
        ProcessTree([-1])
    with pytest.raises(ValueError, match="no process with the number 1180591620717411303424 to watch"):
        ProcessTree([1180591620717411303424])
