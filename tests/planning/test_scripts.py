"""Job scripts: clean for shellcheck, run with stand-ins for Slurm and vLLM, with the sizes of the plan."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.planning.scripts import BadPlan, job_script, vllm_command

SHELLCHECK = Path(sys.executable).parent / "shellcheck"
SERVE = {"task": "serve", "tokens_per_s": 0}
KINDS = {
    "one node": SERVE | {"model": "Llama-3.1-70B", "where": "Alvis A100-80GB", "formats": ["bf16"]},
    "several nodes": SERVE | {"model": "Llama-3.1-405B", "where": "Alvis A100-80GB", "formats": ["bf16"]},
    "quantised": SERVE | {"model": "Llama-3.1-70B", "where": "Alvis", "formats": ["int4"]},
    "copies": SERVE | {"model": "Llama-3.1-8B", "where": "Alvis T4", "formats": ["int4"], "users": 400},
    "Arrhenius": SERVE | {"model": "Llama-3.1-405B", "where": "Arrhenius", "formats": ["bf16"]},
    "at home": SERVE | {"model": "Llama-3.1-8B", "where": "A40", "formats": ["bf16"]},
}


def plan_of(request):
    said = answer(request)
    assert said["ok"], said
    return said["plans"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_shellcheck(kind):
    script = job_script(KINDS[kind], plan_of(KINDS[kind]))
    result = subprocess.run([SHELLCHECK, "-s", "bash", "-"], input=script, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout


def directives(script):
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "at home"])
def test_slurm_gives_what_a_copy_takes(kind):
    plan = plan_of(KINDS[kind])
    asked = directives(job_script(KINDS[kind], plan))
    gpus = int(re.search(r"\d+$", asked["gpus-per-node"])[0])
    assert gpus * int(asked["nodes"]) == plan["tp_size"] * plan["pp_size"]
    assert asked["account"] == "PROJECT"
    assert ("array" in asked) == (plan["dp_size"] > 1)


def test_alvis_names_its_cards():
    asked = directives(job_script(KINDS["one node"], plan_of(KINDS["one node"])))
    assert (asked["partition"], asked["gpus-per-node"]) == ("alvis", "A100fat:4")


def test_what_nobody_published_of_arrhenius_is_to_be_filled_in():
    script = job_script(KINDS["Arrhenius"], plan_of(KINDS["Arrhenius"]))
    assert script.count("FILL IN") == 3
    assert "partition" not in directives(script)


STAND_INS = {
    "apptainer": 'while [ "${1##*.}" != sif ]; do shift; done; shift; exec "$@"',
    "vllm": 'printf "%s " "$@" >> "$CALLS"; echo >> "$CALLS"',
    "scontrol": "echo node1; echo node2; echo node3",
    "srun": 'for SLURM_NODEID in $(seq 0 $((SLURM_NNODES - 1))); do export SLURM_NODEID; "$@"; done',
    "hostname": "echo node1",
}


def run(script, tmp_path, **env):
    """The script's status and message, and how vLLM was called."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, body in STAND_INS.items():
        (bin / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin / name).chmod(0o755)
    image, calls = tmp_path / "vllm.sif", tmp_path / "calls"
    image.touch()
    script = re.sub(r"^image=\S*", f"image={image}", script, flags=re.MULTILINE)
    script = re.sub(r"^model= .*", "model=/weights", script, flags=re.MULTILINE)
    script = re.sub(r"^export HF_HOME= .*", "export HF_HOME=/models", script, flags=re.MULTILINE)
    env = {"PATH": f"{bin}:{os.environ['PATH']}", "CALLS": str(calls), "SLURM_JOB_NODELIST": "node[1-3]"} | env
    result = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=30)
    return result, calls.read_text().splitlines() if calls.exists() else []


def test_one_process_on_one_node(tmp_path):
    result, calls = run(job_script(KINDS["one node"], plan_of(KINDS["one node"])), tmp_path)
    assert result.returncode == 0, result.stderr
    assert calls == [
        "serve meta-llama/Llama-3.1-70B --port 8000 --tensor-parallel-size 4 --max-model-len 1300 --max-num-seqs 8"
        " --gpu-memory-utilization 0.9 --dtype bfloat16 "
    ]


def test_one_process_on_each_of_several_nodes(tmp_path):
    plan = plan_of(KINDS["several nodes"])
    result, calls = run(job_script(KINDS["several nodes"], plan), tmp_path, SLURM_NNODES="3")
    assert result.returncode == 0, result.stderr
    assert [f"--nnodes 3 --node-rank {i} --master-addr node1" in call for i, call in enumerate(calls)] == 3 * [True]
    assert ["--headless" in call for call in calls] == [False, True, True]
    assert all(f"--pipeline-parallel-size {plan['pp_size']}" in call for call in calls)


def test_copies_have_a_port_each(tmp_path):
    script = job_script(KINDS["copies"], plan_of(KINDS["copies"]))
    result, calls = run(script, tmp_path, SLURM_ARRAY_TASK_ID="2")
    assert result.returncode == 0, result.stderr
    assert "--port 8002" in calls[0]


def test_a_line_that_is_not_filled_in_is_said(tmp_path):
    script = job_script(KINDS["quantised"], plan_of(KINDS["quantised"]))
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert result.stderr == "llmhw-plan: name the weights in the line model=\n"


def test_the_command_alone():
    command = vllm_command(KINDS["one node"], plan_of(KINDS["one node"]))
    assert command.startswith("vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 ")


def test_no_command_for_several_nodes():
    with pytest.raises(BadPlan, match="several nodes"):
        vllm_command(KINDS["several nodes"], plan_of(KINDS["several nodes"]))
