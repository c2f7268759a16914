"""The same functions under torchrun, and what Slurm tells a task."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmhw_helpers.distributed import program

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
COUNT = "llmhw_helpers.distributed.wire:count"
JOB = {
    **{"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_JOB_ID": "4711"},
    **{"SLURM_STEP_ID": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_STEP_NODELIST": "alvis[3-5]"},
}


def run(*command, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_torchrun_runs_a_function_of_the_package():
    done = run(*TORCHRUN, "--nproc-per-node=2", "-m", program.__name__, COUNT, "n_values=50_000")
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert [line[:24] for line in lines] == ["rank 0: all ranks sent 4", "rank 1: all ranks sent 4"]
    assert all(line.endswith("the ring says 400,000") for line in lines)


def test_what_a_rank_raises_is_one_line_and_ends_the_job():
    done = run(*TORCHRUN, "--nproc-per-node=2", "-m", program.__name__, COUNT, "-1")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("rank ")]
    assert said
    assert all("raised RuntimeError in count at wire.py:" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([COUNT], "start this with torchrun or srun: nobody has set RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        (["llmhw_helpers.distributed.wires:count"], "No module named 'llmhw_helpers.distributed.wires'"),
        (["llmhw_helpers.distributed.wire:cuont"], "has no function 'cuont'; it has count, counted"),
        (["llmhw_helpers.distributed.wire"], "has no function ''; it has count, counted"),
    ],
)
def test_what_cannot_be_started_is_one_line(arguments, line, capsys, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert program.main(arguments) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert line in said[0]


def test_a_port_in_use_is_named_with_what_to_do():
    with socket.create_server(("localhost", 0)) as taken:
        port = str(taken.getsockname()[1])
        ranks = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        done = run(sys.executable, "-m", program.__name__, COUNT, **ranks)
    assert done.returncode == 1
    line = f"rank 0: port {port} of localhost is in use by another program: set MASTER_PORT to another number"
    assert done.stderr.splitlines()[-1] == line


def test_slurms_variables_say_the_same_as_torchruns(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames alvis[3-5]" ] && printf "alvis3\\nalvis4\\nalvis5\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    variables = program.from_slurm(JOB)
    assert variables == {
        **{"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "alvis3", "MASTER_PORT": "27113"},
    }
    uneven = program.from_slurm(JOB | {"SLURM_STEP_TASKS_PER_NODE": "3,2,1"})
    assert uneven["LOCAL_WORLD_SIZE"] == "1"


def test_nodes_that_nobody_can_name_are_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OSError, match=r"scontrol does not tell the first of the nodes alvis\[3-5\]: set MASTER_ADDR"):
        program.from_slurm(JOB)


@pytest.mark.skipif(not shutil.which("srun"), reason="there is no Slurm here")
def test_srun_runs_two_ranks():
    done = run("srun", "--ntasks=2", sys.executable, "-m", program.__name__, COUNT, "n_values=50_000")
    if done.returncode and "rank" not in done.stderr:
        pytest.skip(f"srun gets no job here: {done.stderr.strip().splitlines()[-1:]}")
    assert sorted(line[:7] for line in done.stdout.splitlines()) == ["rank 0:", "rank 1:"]
