"""Ranks: results, prints and faults come back; whatever happens, no process and no file is left."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from llmhw_helpers.distributed import ranks as room
from llmhw_helpers.distributed.faults import fault_line
from llmhw_helpers.distributed.ranks import RankFailed, Ranks, run_ranks
from llmhw_helpers.distributed.worker import Place, cores_note

ROOT = Path(__file__).parents[2]
LONG_S = 60  # for what takes a second on a machine with nothing else to do


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3, timeout_s=1) as three:
        yield three


@pytest.fixture
def nothing_left(ranks):
    """The processes and the folder of the failed ranks are gone."""
    ranks.run(os.getpid)
    processes = ranks._processes
    launcher = processes._launcher.pid
    yield
    assert not [pid for pid in (launcher, *processes.pids.values()) if psutil.pid_exists(pid)]
    assert not processes.folder.exists()


def gone(pids):
    late = time.monotonic() + LONG_S
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < late:
        time.sleep(0.05)
    return not left


def test_results_come_back_by_rank_and_prints_in_order(ranks, capsys):
    base = torch.arange(3.0)

    def add(a, b):
        print("of", dist.get_world_size())
        print("a warning", file=sys.stderr)
        return a + b * dist.get_rank() + base

    results = ranks.run(add, 10, b=2)
    assert [result.tolist() for result in results] == [[10, 11, 12], [12, 13, 14], [14, 15, 16]]
    said = capsys.readouterr()
    assert said.out == "rank 0: of 3\nrank 1: of 3\nrank 2: of 3\n"
    assert said.err == "rank 0: a warning\nrank 1: a warning\nrank 2: a warning\n"


def test_the_same_processes_serve_every_call(ranks):
    assert ranks.run(os.getpid) == ranks.run(os.getpid)
    assert ranks.run(torch.get_num_threads) == [1, 1, 1]


def die():
    print("here")
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(3))


def hang():
    if dist.get_rank() != 1:
        dist.all_reduce(torch.ones(3))


def sleep():
    if dist.get_rank() == 1:
        time.sleep(1000)
    dist.barrier()


def stop():
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.barrier()


def fail():
    if dist.get_rank() == 1:
        raise ValueError("no such\nthing")
    dist.barrier()


def differ_in_size():
    dist.all_reduce(torch.ones(300_000 + 100_000 * (dist.get_rank() == 1)))


def differ_in_kind():
    if dist.get_rank() == 1:
        dist.broadcast(torch.ones(3), 0)
    else:
        dist.all_reduce(torch.ones(3))


def cannot_be_sent():
    return threading.Lock()


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError


def fail_without_words():
    raise Speechless


def fork():
    return "fork" if dist.get_rank() == 1 and not os.fork() else "rank"


FAULTS = [
    (die, r"^rank 1 died \(SIGKILL\); ranks 0 and 2 stood in all_reduce at test_ranks.py:\d+$"),
    (hang, r"^nothing moved for 1 s: ranks 0 and 2 stood in all_reduce at test_ranks.py:\d+; rank 1 had returned$"),
    (
        sleep,
        r"^nothing moved .* barrier at test_ranks.py:\d+; rank 1 stood in time.sleep\(1000\) at test_ranks.py:\d+$",
    ),
    (stop, r"^nothing moved for 1 s: rank 1 gave no answer; ranks 0 and 2 stood in barrier at test_ranks.py:\d+$"),
    (fail, r"^rank 1 raised ValueError in fail at test_ranks.py:\d+: no such thing; ranks 0 and 2 stood in barrier"),
    (differ_in_kind, r"^nothing moved for 1 s: ranks 0 and 2 stood in all_reduce .*; rank 1 stood in broadcast at"),
    (fail_without_words, r"^ranks 0, 1 and 2 raised Speechless in .*: its message cannot be read: RuntimeError$"),
    (cannot_be_sent, r"^ranks 0, 1 and 2 raised TypeError: its result, a lock, cannot be sent to the notebook: "),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("fault", "line"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_is_one_line_and_the_end_of_all_ranks(ranks, capsys, fault, line):
    with pytest.raises(RankFailed, match=line) as failed:
        ranks.run(fault)
    assert "\n" not in str(failed.value)
    if fault is fail:
        assert 'raise ValueError("no such\\nthing")' in failed.value.details
    if fault is die:
        assert "rank 1: here\n" in capsys.readouterr().out  # what a rank printed before it died


@pytest.mark.usefixtures("nothing_left")
def test_sizes_that_differ_end_in_one_line(ranks):
    """Gloo ends the process of a rank that gets more than it expects: that one, or a neighbour, says what came."""
    with pytest.raises(RankFailed) as failed:
        ranks.run(differ_in_size)
    assert re.search(
        r"rank \d died \(SIGABRT\) in all_reduce at test_ranks.py:\d+: another rank sent \d+ bytes where this"
        r" one expected \d+|nothing moved for 1 s: .*all_reduce at test_ranks.py",
        str(failed.value),
    )


def test_checked_ranks_with_a_module_say_how_collectives_differ():
    with Ranks(2, checked=True, preload=("tabnanny",)) as ranks:
        assert "tabnanny" in ranks.run(lambda: [*sys.modules])[1] or sys.platform != "linux"
        with pytest.raises(RankFailed) as failed:
            ranks.run(differ_in_size)
    line = "rank 1 raised RuntimeError in all_reduce at test_ranks.py:{}: this rank's call differs from the others': "
    assert line.split("{}")[0] in str(failed.value)
    assert "Tensor shapes: 400000 vs 300000" in str(failed.value)


def spin():
    while dist.get_rank() == 1:
        pass


def test_a_rank_that_computes_for_ever_is_ended_later(ranks, monkeypatch):
    monkeypatch.setattr(room, "LIMIT", 2)
    with pytest.raises(
        RankFailed, match=r"^no end after 2 s: rank 1 stood in .* at test_ranks.py:\d+; ranks 0 and 2 had"
    ):
        ranks.run(spin)


def test_what_a_rank_forks_answers_nothing(ranks):
    """Its answer would be taken for that to the next call."""
    assert ranks.run(fork) == ["rank"] * 3
    time.sleep(0.5)
    assert [ranks.run(str, n) for n in range(2)] == [["0"] * 3, ["1"] * 3]


def test_work_that_takes_longer_than_the_time_out_is_no_hang(ranks, monkeypatch):
    """It computes, as its processor time shows: a busy machine makes it slow, not wrong."""

    def work():
        begin = time.process_time()
        while dist.get_rank() == 1 and time.process_time() < begin + 1.5:
            pass
        dist.barrier()
        return "done"

    monkeypatch.setattr(room, "LIMIT", 1000)
    assert ranks.run(work) == ["done"] * 3


@pytest.mark.usefixtures("nothing_left")
def test_the_notebooks_interrupt_ends_the_ranks(ranks):
    pids = list(ranks._processes.pids.values())
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ranks.run(sleep, timeout_s=LONG_S)
    assert gone(pids)


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_launcher_takes_its_ranks_along(ranks):
    pids = list(ranks._processes.pids.values())
    os.kill(ranks._processes._launcher.pid, signal.SIGKILL)
    assert sys.platform != "linux" or gone(pids)  # elsewhere they end with the notebook's socket
    with pytest.raises(RankFailed, match="the process that had started the ranks died"):
        ranks.run(sleep)
    assert gone(pids)


def test_a_kernel_that_is_killed_leaves_no_process_and_no_folder():
    code = """
import os, subprocess, time
from llmhw_helpers.distributed.ranks import Ranks
ranks = Ranks(2)
started = ranks.run(lambda: (os.getpid(), subprocess.Popen(["sleep", "1000"]).pid))
print(*sum(started, ()), ranks._processes._launcher.pid, ranks._processes.folder, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as kernel:
        *pids, folder = kernel.stdout.readline().split()
        assert len(pids) == 5
        kernel.kill()
    assert gone([int(pid) for pid in pids])
    late = time.monotonic() + LONG_S
    while Path(folder).exists() and time.monotonic() < late:
        time.sleep(0.05)
    assert not Path(folder).exists()


def test_a_call_that_cannot_be_sent_leaves_the_ranks_alone(ranks):
    before = ranks.run(os.getpid)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="<lambda> or what it uses cannot be sent to the ranks: cannot pickle"):
        ranks.run(lambda: lock)
    assert ranks.run(os.getpid) == before


def test_a_launcher_that_cannot_start_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RankFailed, match="^the ranks did not start: no answer$"):
        run_ranks(2, os.getpid)


@pytest.mark.parametrize("wrong", [{"n_ranks": 0}, {"n_ranks": 2, "threads": 0}, {"n_ranks": 2, "timeout_s": 0}])
def test_no_ranks_no_threads_and_no_time_are_refused(wrong):
    with pytest.raises(ValueError, match="each must be above zero"):
        Ranks(**wrong)


def test_no_time_for_a_call_is_refused(ranks):
    with pytest.raises(ValueError, match="a time-out of 0 s: it must be above zero"):
        ranks.run(os.getpid, timeout_s=0)


def test_more_ranks_than_cores_are_one_line():
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores_note(n_cores, 1) == ""
    assert f"{n_cores + 1} ranks of 1 thread(s) take turns on {n_cores} core(s): " in cores_note(n_cores + 1, 1)
    assert Ranks(n_cores, threads=2).note in repr(Ranks(n_cores, threads=2))
    assert Ranks(n_cores, threads=2).note


def test_a_signal_without_a_name_is_a_number():
    assert fault_line([("died", -40), ("returned", 1)], ["", ""]) == "rank 0 died (signal 40); rank 1 had returned"


def test_a_line_tells_who_failed_before_who_waited():
    place = Place((("loss.py", 3, "train"),), "barrier")
    answers = [("stands", place), ("died", 3), None, ("raised", "KeyError", "'x'", Place(()), ""), ("died", -11)]
    told = (
        "rank 1 ended (exit code 3)",
        "rank 3 raised KeyError: 'x'",
        "rank 2 gave no answer",
        "rank 0 stood in barrier",
    )
    assert fault_line(answers, [""] * 5) == f"rank 4 died (SIGSEGV); {'; '.join(told)} at loss.py:3"


def test_a_line_names_the_cell_and_where_the_called_function_stands_in_it():
    cell = "/tmp/ipykernel_4711/123456.py"
    place = Place(((cell, 7, "step"), ("/somewhere/llmhw_helpers/distributed/rings.py", 70, "_exchange")), "recv")
    answers = [("stands", place), ("raised", "RuntimeError", "Connection reset by peer", place, ""), ("returned", 1)]
    line = fault_line(answers, ["", "", ""])
    assert line == "ranks 0 and 1 stood in recv at rings.py:70, from cell:7; rank 2 had returned"
