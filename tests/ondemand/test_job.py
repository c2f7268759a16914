"""The Slurm job, as sbatch would run it, on notebooks of one cell."""

import os
import time
import xml.etree.ElementTree as ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

CELL = 'import os\nprint(1 + 1, *os.environ["LLMHW_TEST_HOME"].split("/")[-2:])'
GOOD, BAD = "2 4711 course\n", "3 4711 course\n"


def write_notebook(path, stored):
    cell = new_code_cell(CELL, execution_count=1, outputs=[new_output("stream", name="stdout", text=stored)])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": kernel}), path)


@pytest.fixture
def job(cluster):
    """A clone whose notebooks take a second; its torch sees a GPU unless the test says otherwise."""
    (cluster.course / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n")
    (cluster.course / "pytest.ini").write_text("[pytest]\n")  # no settings from folders above
    cluster.submit = lambda *arguments, **env: cluster.run(
        "sbatch", "-A", "NAISS-1", cluster.course / "ondemand/nbval.slurm", *arguments, **env
    )
    cluster.report = cluster.course / "ondemand/results/4711"
    return cluster


@pytest.mark.parametrize(
    ("variant", "stored", "status"),
    [("container", GOOD, 0), ("modules", BAD, 1)],
    ids=["container, all cells agree", "modules, a cell differs"],
)
def test_runs_notebooks_and_keeps_the_report(job, variant, stored, status):
    job.install("--project", job.project, *(["--image", job.image] if variant == "container" else []))
    write_notebook(job.course / "notebooks/00_tiny.ipynb", stored)
    result = job.submit()
    assert result.returncode == status, result.stdout + result.stderr
    suite = ElementTree.parse(job.report / "junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", str(status))
    log = (job.report / "pytest.log").read_text()
    assert ("1 passed" in log, "1 failed" in log) == (status == 0, status == 1)
    assert log in result.stdout
    assert result.stdout.splitlines()[-1] == f"report: {job.report} (pytest's exit status: {status})"
    assert (job.report / "nvidia-smi.txt").read_text() == "GPU 0: stand-in\n"
    assert (job.report / "gpu.csv").read_text() == "GPU 0: stand-in\n"
    assert len(job.called("apptainer")) == (3 if variant == "container" else 0)
    # the monitor ends with the job
    monitor = int((job.calls / "monitor").read_text())
    for _ in range(50):
        if not is_running(monitor):
            break
        time.sleep(0.1)
    assert not is_running(monitor)


def is_running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_only_the_notebooks_named(job):
    job.install("--project", job.project)
    for name, stored in (("00_good", GOOD), ("01_bad", BAD)):
        write_notebook(job.course / f"notebooks/{name}.ipynb", stored)
    assert job.submit("notebooks/00_good.ipynb").returncode == 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("runtime", "Make it: ondemand/install.sh --project FOLDER"),
        ("notebooks", "submit the job from the course's folder"),
        ("gpu", "Without a GPU: make nbval"),
        ("cuda", "torch does not see this node's GPU"),
        ("nbval", "In a venv: make tools"),
    ],
)
def test_stops_before_any_notebook(job, what, message):
    """A job that cannot use its GPU ends at once."""
    job.install("--project", job.project)
    write_notebook(job.course / "notebooks/00_tiny.ipynb", GOOD)
    env = {}
    match what:
        case "runtime":
            job.installed.unlink()
        case "notebooks":
            (job.course / "notebooks").rename(job.course / "elsewhere")
        case "gpu":
            env = {"NO_GPU": "yes"}
        case "cuda":
            (job.course / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
        case "nbval":
            (job.course / "nbval.py").write_text("raise ModuleNotFoundError\n")
    result = job.submit(**env)
    assert result.returncode == 1
    assert result.stderr.startswith("nbval: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (job.report / "pytest.log").exists()


def test_directives(job):
    """Slurm reads #SBATCH lines only above the first command; the account is the user's to name."""
    lines = (job.course / "ondemand/nbval.slurm").read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line.removeprefix("#SBATCH ") for line in lines[:first_command] if line.startswith("#SBATCH ")]
    assert len(directives) == sum("#SBATCH" in line for line in lines)
    options = dict(directive.removeprefix("--").split("=", 1) for directive in directives)
    assert options.keys() == {"job-name", "partition", "gpus-per-node", "time", "output"}
    assert (options["partition"], options["gpus-per-node"], options["time"]) == ("alvis", "A40:1", "0-01:00:00")
    assert "/" not in options["output"], "Slurm makes no folders: the job would die without a word"
