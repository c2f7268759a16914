"""The planner's job scripts before a real Slurm, with the partitions, nodes and GPUs of the whole cluster."""

import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from llmhw_helpers.cluster.slurm import Slurm
from llmhw_helpers.costs.planner import answer
from llmhw_helpers.planning.scripts import job_script

ONDEMAND = sorted((Path(__file__).resolve().parents[2] / "ondemand").glob("*.slurm"))
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
SERVE, ADAPT = {"task": "serve", "tokens_per_s": 0}, {"task": "fine-tune"}
REQUESTS = {  # few GPUs, since every way to use them is planned
    "serve on one node of Alvis": SERVE | {"model": "Llama-3.1-70B", "where": "Alvis A100-80GB", "n_gpus": 4},
    "serve on two nodes of Alvis": SERVE | {"model": "Llama-3.1-70B", "where": "Alvis V100", "n_gpus": 8},
    "copies on Alvis": SERVE | {"model": "Llama-3.1-8B", "where": "Alvis T4", "n_gpus": 16, "users": 400},
    "serve on several nodes of Arrhenius": SERVE | {"model": "Llama-3.1-405B", "where": "Arrhenius", "n_gpus": 12},
    "copies on Arrhenius": SERVE | {"model": "Llama-3.1-8B", "where": "Arrhenius", "n_gpus": 4, "users": 900},
    "LoRA on Alvis": ADAPT | {"model": "Llama-3.1-8B", "where": "Alvis A40", "n_gpus": 8},
    "QLoRA on Alvis": ADAPT | {"model": "Llama-3.1-70B", "where": "Alvis A100-40GB", "n_gpus": 4, "method": "qlora"},
    "LoRA on Arrhenius": ADAPT | {"model": "Llama-3.1-70B", "where": "Arrhenius", "n_gpus": 8},
    "full on Alvis": ADAPT | {"model": "Qwen2.5-7B", "where": "Alvis A100-80GB", "n_gpus": 8, "method": "full"},
    "full on Arrhenius": ADAPT | {"model": "Qwen2.5-7B", "where": "Arrhenius", "n_gpus": 8, "method": "full"},
    "train on Alvis": {"task": "train", "model": "Llama-3.1-8B", "where": "Alvis A100-40GB", "n_gpus": 32, "days": 0},
    "train on Arrhenius": {"task": "train", "model": "Llama-3.1-70B", "where": "Arrhenius", "n_gpus": 128, "days": 0},
}
for request in REQUESTS.values():
    request |= {"formats": ["fp16"]} if "V100" in request["where"] else {}
    request |= {"formats": ["bf16"]} if "405B" in request["model"] else {}


@cache
def scripts(kind):
    """The first and the last plan's."""
    plans = answer(REQUESTS[kind])["plans"]
    return [job_script(REQUESTS[kind], plan) for plan in {id(plan): plan for plan in (plans[0], plans[-1])}.values()]


@pytest.fixture(scope="module")
def whole(start_cluster):
    """Both clusters on paper, by name."""
    clusters = {}

    def of(name):
        if name not in clusters:
            clusters[name] = start_cluster(name.lower(), count=0)
        return clusters[name]

    return of


@pytest.mark.parametrize("kind", REQUESTS)
def test_slurm_accepts_each_and_shellcheck_finds_nothing(kind, whole):
    cluster = whole("Arrhenius" if "Arrhenius" in REQUESTS[kind]["where"] else "Alvis")
    for script in scripts(kind):
        done = cluster.run("sbatch", "--test-only", input=script)
        assert done.returncode == 0, done.stderr + script
        assert "to start at" in done.stderr
        if SHELLCHECK.exists():  # not on Linux on Arm
            checked = subprocess.run([SHELLCHECK, "-s", "bash", "-"], input=script, capture_output=True, text=True)
            assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", ONDEMAND, ids=lambda path: path.name)
def test_the_courses_own_jobs_are_accepted_too(path, whole):
    done = whole("Alvis").run("sbatch", "--account=NAISS-1", "--test-only", str(path))
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("V100:4", "V10:4"),
        ("V100:4", "V100:8"),
        ("--partition=alvis", "--partition=gpu"),
        ("--nodes=2", "--nodes=12"),
        ("--cpus-per-task=32", "--cpus-per-task=33"),
        ("--time=0-", "--time=9-"),
    ],
)
def test_a_wrong_line_is_refused(right, wrong, whole):
    script = scripts("serve on two nodes of Alvis")[0]
    assert right in script
    assert whole("Alvis").run("sbatch", "--test-only", input=script.replace(right, wrong)).returncode == 1


APPTAINER = """\
#!/bin/bash
while [ "${1##*.}" != sif ]; do shift; done
step=$(scontrol show step "$SLURM_JOB_ID.$SLURM_STEP_ID" | grep -o ' CPUs=[0-9]*')
printf '%s has%s for: ' "$(hostname)" "$step"
printf '%s ' "${@:2}"
echo "at $(getent hosts "$head" | cut -d' ' -f1)"
"""


def test_several_nodes_start_as_the_script_says(start_cluster, tmp_path):
    """The script itself runs on two nodes, each with a network of its own; only the container is a stand-in."""
    cluster = start_cluster("alvis", networks=True)
    (tmp_path / "vllm.sif").touch()
    (tmp_path / "apptainer").write_text(APPTAINER)
    (tmp_path / "apptainer").chmod(0o755)
    script = re.sub(r"^image=.*", f"image={tmp_path}/vllm.sif", scripts("serve on two nodes of Alvis")[0], flags=re.M)
    environment = cluster.environment
    environment["PATH"] = f"{environment['PATH']}:{tmp_path}"
    done = cluster.run("sbatch", "--parsable", f"--chdir={tmp_path}", input=script, env=environment)
    slurm, job_id = Slurm(environment), done.stdout.strip()
    late = time.monotonic() + 60
    while (job := slurm.job(job_id)).is_active and time.monotonic() < late:
        time.sleep(0.2)
    said = Path(job.output).read_text()
    assert job.state == "COMPLETED", said
    assert (job.n_nodes, job.n_cpus, job.n_gpus) == (2, 64, 8)
    first = job.nodes[0]
    served, started = said.splitlines()[0], sorted(line for line in said.splitlines() if " has " in line)
    assert served == f"served at http://{first}:8000/v1"
    for line, name, rank, headless in zip(started, sorted(job.nodes), "01", ("", "--headless "), strict=True):
        assert line.startswith(f"{name} has CPUs=64 for: vllm serve meta-llama/Llama-3.1-70B --port 8000 --nnodes 2 ")
        assert f"--node-rank {rank} --master-addr {first} {headless}--tensor-parallel-size 4" in line
        assert line.endswith(f" at 10.77.0.{first.removeprefix('alvis')}")
