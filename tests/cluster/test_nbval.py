"""The course's own job on real Slurms: it finds project, partition and GPU, and runs, or says what is missing."""

import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from llmhw_helpers.cluster.slurm import Slurm

ONDEMAND = Path(__file__).resolve().parents[2] / "ondemand"
GPU = 'case "$*" in *--loop*) exec sleep 600 ;; esac; echo "GPU 0: stand-in, $CUDA_VISIBLE_DEVICES"'


@pytest.fixture
def course(tmp_path):
    """A clone with a notebook of one cell and, for nodes without a GPU, stand-ins for what asks one."""
    for folder in ("course/ondemand", "course/notebooks", "home", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ONDEMAND.glob("*.s*"):
        (tmp_path / "course/ondemand" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "course/.venv").symlink_to(sys.prefix)
    (tmp_path / "course/torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    (tmp_path / "course/pytest.ini").write_text("[pytest]\n")
    cell = new_code_cell("print(1 + 1)", execution_count=1, outputs=[new_output("stream", name="stdout", text="2\n")])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "course/notebooks/00_tiny.ipynb")
    for name, does in {"nvidia-smi": GPU, "ml": ""}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path / "course"


@pytest.fixture
def by_hand(course):
    """Starts the job's script from another folder, as the portal's terminal would."""

    def by_hand(cluster, **env):
        environment = cluster.environment | {"HOME": str(course.parent / "home"), "SLURM_JOB_ID": ""} | env
        environment["PATH"] = f"{course.parent / 'bin'}:{environment['PATH']}"
        script = str(course / "ondemand/nbval.slurm")
        return cluster.run("bash", script, cwd="/", env=environment)

    return by_hand


def end_of(cluster, submitted):
    slurm, late = Slurm(cluster.environment), time.monotonic() + 120
    while (job := slurm.job(submitted.stdout.split()[-1])).is_active:
        assert time.monotonic() < late
        time.sleep(0.2)
    return job, Path(job.output).read_text()


@pytest.fixture(scope="module")
def alvis(start_cluster):
    return start_cluster("alvis", count=1)


def test_it_runs_notebooks_on_a_node_with_the_gpu_that_it_found(alvis, course, by_hand):
    install = ["bash", str(course / "ondemand/install.sh"), "--project", str(course.parent)]
    alvis.run(*install, env=alvis.environment | {"HOME": str(course.parent / "home")})
    job, said = end_of(alvis, by_hand(alvis))
    assert job.state == "COMPLETED", said
    assert (job.partition, job.n_gpus, job.name) == ("alvis", 1, "llmhw-nbval")
    report = course / "ondemand/results" / job.id
    assert "1 passed" in (report / "pytest.log").read_text()
    assert (report / "nvidia-smi.txt").read_text() == "GPU 0: stand-in, 0\n"  # Slurm's own choice of the four


def test_without_the_runtime_the_job_says_how_to_make_it(alvis, by_hand):
    job, said = end_of(alvis, by_hand(alvis))
    assert (job.state, said.count("\n")) == ("FAILED", 1)
    assert "Make it: ondemand/install.sh --project FOLDER" in said


def test_gpus_without_a_name_are_asked_for_by_number(start_cluster, by_hand):
    shown = by_hand(start_cluster("arrhenius", count=1)).stdout
    assert shown.startswith("sbatch --partition=gpu --gpus-per-node=1 ondemand/nbval.slurm")


def test_what_the_user_names_is_asked_for(alvis, by_hand):
    refused = by_hand(alvis, SBATCH_GPUS_PER_NODE="A41:1", SBATCH_ACCOUNT="MINE")
    assert refused.stdout == "sbatch --partition=alvis ondemand/nbval.slurm \n"
    assert "Requested node configuration is not available" in refused.stderr


def test_a_cluster_without_gpus(plain_cluster, by_hand):
    refused = by_hand(plain_cluster)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("nbval: no partition here has GPUs")


@pytest.mark.parametrize(
    ("accounts", "line"),
    [
        ("", "nbval: you are in no project here. Name one: SBATCH_ACCOUNT=YOUR_PROJECT bash"),
        ("A\nB\n", "nbval: you are in the projects A B. Choose: SBATCH_ACCOUNT=A bash"),
        ("A\nA\n", "sbatch --account=A --partition=alvis --gpus-per-node=A40:1 ondemand/nbval.slurm"),
    ],
)
def test_the_project_where_slurm_wants_one(alvis, course, by_hand, accounts, line):
    """Accounts need a database; what would be asked of it is answered by stand-ins here."""
    stand_ins = {
        "sacctmgr": f"printf '{accounts}'",
        "scontrol": "echo 'AccountingStorageEnforce = associations,limits'",
    }
    for name, does in stand_ins.items():
        (course.parent / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (course.parent / "bin" / name).chmod(0o755)
    done = by_hand(alvis)
    assert (done.stdout + done.stderr).startswith(line)
