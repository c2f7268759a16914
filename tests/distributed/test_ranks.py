"""Ranks: results, prints and faults come back; whatever happens, no process is left."""

import os
import signal
import time

import psutil
import pytest
import torch
import torch.distributed as dist

from llmhw_helpers.distributed.ranks import RankFailed, Ranks


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3, timeout_s=1) as three:
        yield three


def left_of(ranks):
    """Processes of a failed `Ranks` that still run."""
    assert ranks._pids
    return [pid for pid in ranks._pids.values() if psutil.pid_exists(pid)]


def test_results_come_back_by_rank_and_prints_in_order(ranks, capsys):
    def add(a, b):
        print("of", dist.get_world_size())
        return a + b * dist.get_rank()

    assert ranks.run(add, 10, b=2) == [10, 12, 14]
    assert capsys.readouterr().out == "rank 0: of 3\nrank 1: of 3\nrank 2: of 3\n"


def die():
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


def fail():
    if dist.get_rank() == 1:
        raise ValueError("no such thing")
    dist.barrier()


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (die, "^rank 1 died .SIGKILL.; ranks 0 and 2 stood in all_reduce at test_ranks.py:"),
        (hang, "ranks 0 and 2 .* all_reduce at test_ranks.py:.*; rank 1 had returned"),
        (sleep, r"ranks 0 and 2 .* barrier at test_ranks.py:.*; rank 1 .*time.sleep\(1000\) at test_ranks.py:"),
        (fail, "rank 1 raised ValueError .* no such thing; ranks 0 and 2 .* barrier at test_ranks.py"),
    ],
)
def test_a_fault_is_one_line_and_the_end_of_all_ranks(ranks, fault, line):
    with pytest.raises(RankFailed, match=line) as failed:
        ranks.run(fault)
    assert "\n" not in str(failed.value)
    assert not left_of(ranks)
