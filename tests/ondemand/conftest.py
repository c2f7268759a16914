"""A cluster made of stand-ins: small executables on PATH that write down how they were called."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

if sys.platform != "linux":  # clusters are; a laptop's system may lack GNU's cp, mktemp and realpath
    collect_ignore_glob = ["test_*.py"]

STAND_INS = {
    "ml": "",
    # Runs what follows the image, with the image's programs on PATH, as the container would.
    "apptainer": """
        while [ "${1##*.}" != sif ]; do shift; done
        shift
        PATH=$IMAGE_BIN:$PATH exec "$@"
    """,
    "nvidia-smi": """
        [ -z "$NO_GPU" ] || { echo "No devices were found"; exit 6; }
        echo "GPU 0: stand-in"
        case "$*" in *--loop*) echo $$ > "$CALLS/monitor"; exec sleep 600 ;; esac
    """,
    # As Slurm does: a copy of the script runs, from a spool folder, with its variables set.
    "sbatch": """
        while [ "${1#-}" != "$1" ]; do shift 2; done
        cp "$1" "$CALLS/slurm_script"
        shift
        SLURM_JOB_ID=4711 SLURM_SUBMIT_DIR=$PWD SLURM_CPUS_PER_TASK=2 exec bash "$CALLS/slurm_script" "$@"
    """,
}


@dataclass
class Cluster:
    """A user's home, a project folder and a clone of the course, with the stand-ins' PATH."""

    home: Path
    project: Path
    course: Path
    calls: Path
    env: dict

    @property
    def installed(self) -> Path:
        return self.home / "portal/jupyter/llmhw.sh"

    @property
    def image(self) -> Path:
        return self.project / "llmhw.sif"

    def run(self, *command, **env):
        """Run a command to its end; whatever it leaves behind ends with it when it takes too long."""
        process = subprocess.Popen(
            [str(word) for word in command],
            env=self.env | env,
            cwd=self.course,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"no end after 90 s: {command}\n" + "\n".join(process.communicate()))
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def install(self, *arguments, **env):
        return self.run(self.course / "ondemand/install.sh", *arguments, **env)

    def called(self, name) -> list:
        """One list of arguments for each call of a stand-in."""
        log = self.calls / name
        return [line.split("\x1f")[:-1] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    home, project, bin, calls = (tmp_path / name for name in ("home", "my project", "bin", "calls"))
    course = project / "llmhw"
    for folder in (home, bin, calls, course / "notebooks"):
        folder.mkdir(parents=True)
    for name, body in STAND_INS.items():
        path = bin / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\x1f" "$@" >> "$CALLS/{name}"; echo >> "$CALLS/{name}"\n{body}\n')
        path.chmod(0o755)
    (course / "ondemand").mkdir()
    for file in (REPOSITORY / "ondemand").glob("*.s*"):
        (course / "ondemand" / file.name).write_bytes(file.read_bytes())
        (course / "ondemand" / file.name).chmod(0o755)
    (course / ".venv").symlink_to(sys.prefix)
    (project / "llmhw.sif").touch()
    env = {
        "HOME": str(home),
        "USER": "student",
        "PATH": f"{bin}:/usr/local/bin:/usr/bin:/bin",
        "CALLS": str(calls),
        "IMAGE_BIN": str(Path(sys.executable).parent),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }
    return Cluster(home, project, course, calls, env)
