"""The local runner: what `sbatch` does with a job script, on this machine alone, for those who have no Slurm.

It reads the script's ``#SBATCH`` lines, sets Slurm's variables, and runs the script with an `srun` and a `scontrol`
of its own on the path (`local_tools`), so that the same script runs unchanged. Nodes are names of this machine. It
keeps the time limit, sends the signal before it, starts a job again that asks for it, and runs the tasks of an array
one after the other. Who asks for a GPU, an account or a partition gets this machine instead.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from ..files import write_whole
from ..specs.json_text import parse_json, read_file
from . import local_tools
from .directives import BadJob, check, directives, first_command, limit_seconds, signal_of, task_numbers
from .job_states import JobState, state_of

KILL_WAIT_S = 3.0  # from SIGTERM to SIGKILL
POLL_S = 0.05
FOLDER = ".local_jobs"  # of the folder that a job was submitted from


class LocalTask:
    """A job, or one task of an array, in its folder `spool`."""

    def __init__(self, spool: Path, job: str, array: tuple[str, int] | None = None):
        self.spool, self.job, self.array = spool, job, array
        self.script, self.cwd = spool / "script", Path(json.loads((spool / "job.json").read_text())["cwd"])
        self.asked = directives(self.script.read_text())
        submitted_at = (spool / "job.json").stat().st_mtime
        self.state = JobState(job, self.asked.get("job-name", "script"), "PENDING", "Resources", submitted_at)

    def put(self, state: str, reason: str = "None", **changes) -> None:
        """Write down how it stands now."""
        self.state = replace(self.state, state=state, reason=reason, **changes)
        file = _state_file(self.array and self.array[1])
        write_whole(self.spool / file, json.dumps(asdict(self.state)).encode(), "state")

    def run(self) -> None:
        """From start to end, and again as often as the job asks for it."""
        while True:
            self.put("RUNNING", started_at=time.time(), nodes=self._nodes())
            (self.spool / "requeue").unlink(missing_ok=True)
            try:
                ended, code = self._once()
            except OSError as error:  # no such folder for its output, or no such program to run it
                self.put("FAILED", f"{error.strerror}: {error.filename}", ended_at=time.time(), exit_code=1)
                return
            if ended != "REQUEUE":
                reason = {"TIMEOUT": "TimeLimit", "FAILED": "NonZeroExitCode"}.get(ended, "None")
                self.put(ended, reason, ended_at=time.time(), exit_code=code)
                return
            self.put("PENDING", "BeginTime", restarts=self.state.restarts + 1)

    def _once(self) -> tuple[str, int]:
        """One run of the script: how it ended, and its exit code."""
        limit = limit_seconds(self.asked.get("time", "60"))
        warn = signal_of(self.asked["signal"]) if "signal" in self.asked else None
        mode = "ab" if self.asked.get("open-mode") == "append" and self.state.restarts else "wb"
        with open(self.cwd / self._output(), mode) as output:
            how = {"cwd": self.cwd, "env": self._environment(), "stdin": subprocess.DEVNULL}
            script = subprocess.Popen(
                [*_interpreter(self.script), str(self.script)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                **how,
            )
            began, fate = time.monotonic(), ""
            try:
                while script.poll() is None and not fate:
                    passed = time.monotonic() - began
                    if warn and passed >= limit - warn[1]:
                        script.send_signal(warn[0])
                        warn = None
                    if (self.spool / "requeue").exists():
                        fate = "REQUEUE"
                    elif (self.spool / "cancel").exists():
                        fate = "CANCELLED"
                    elif passed >= limit:
                        fate = "TIMEOUT"
                        output.write(f"local runner: job {self.job} is cancelled due to its time limit\n".encode())
                    time.sleep(POLL_S)
            finally:
                _end(script)
        if not fate and (self.spool / "requeue").exists():
            fate = "REQUEUE"
        code = script.returncode if script.returncode >= 0 else 128 - script.returncode
        return fate or ("COMPLETED" if code == 0 else "FAILED"), code

    def _output(self) -> str:
        """Its output's name: ``%j`` is the job's number, ``%A`` and ``%a`` those of array and task."""
        array, task = self.array or (self.job, 0)
        number = str(int(array) + task) if self.array else self.job
        usual = "slurm-%A_%a.out" if self.array else "slurm-%j.out"
        fields = {"%x": self.state.name, "%j": number, "%A": array, "%a": str(task)}
        name = self.asked.get("output", usual)
        for field, value in fields.items():
            name = name.replace(field, value)
        return name

    def _nodes(self) -> str:
        n = int(self.asked.get("nodes", 1))
        return f"{local_tools.NODE}1" if n == 1 else f"{local_tools.NODE}[1-{n}]"

    def _environment(self) -> dict[str, str]:
        """Slurm's variables, as `sbatch` documents them, and the runner's own tools first on the path."""
        n_nodes, per_node = int(self.asked.get("nodes", 1)), int(self.asked.get("ntasks-per-node", 1))
        number = self.job if self.array is None else str(int(self.array[0]) + self.array[1])
        own = {"SLURM_JOB_ID": number, "SLURM_JOB_NAME": self.state.name, "SLURM_JOB_NODELIST": self._nodes()}
        own |= {"SLURM_NNODES": n_nodes, "SLURM_JOB_NUM_NODES": n_nodes, "SLURM_NTASKS": n_nodes * per_node}
        own |= {"SLURM_NTASKS_PER_NODE": per_node, "SLURM_TASKS_PER_NODE": f"{per_node}(x{n_nodes})"}
        own |= {"SLURM_CPUS_PER_TASK": self.asked.get("cpus-per-task", 1), "SLURM_SUBMIT_DIR": self.cwd}
        own |= {"SLURM_NODEID": 0, "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURMD_NODENAME": f"{local_tools.NODE}1"}
        own |= {"SLURM_CLUSTER_NAME": "local", local_tools.SPOOL: self.spool}
        if self.state.restarts:
            own["SLURM_RESTART_COUNT"] = self.state.restarts
        if self.array:
            own |= {"SLURM_ARRAY_JOB_ID": self.array[0], "SLURM_ARRAY_TASK_ID": self.array[1]}
        others = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        path = f"{self.spool / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return others | {name: str(value) for name, value in own.items()} | {"PATH": path}


def _interpreter(script: Path) -> list[str]:
    """What the script's first line names, with its one option."""
    return script.read_text().splitlines()[0].removeprefix("#!").split(maxsplit=1)


def _end(script: subprocess.Popen) -> None:
    """End what is left of a script and of all that it has started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        late = time.monotonic() + KILL_WAIT_S
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses where only dead ones are left
            os.killpg(script.pid, number)
            while time.monotonic() < late:
                script.poll()
                os.killpg(script.pid, 0)  # raises when none is left
                time.sleep(POLL_S)
    script.wait()


def put_in_queue(script: str, cwd: Path, options: Sequence[str] = ()) -> str:
    """Make the spool of a job in `cwd`, and start a runner for it that outlives this process; the job's number.

    `options` are more of ``#SBATCH``'s, which count more than the script's own.

    Raises:
        BadJob: as `directives`.
        NotSaved: no space, no permission.
    """
    lines = script.splitlines()
    lines[first_command(lines) : first_command(lines)] = [f"#SBATCH {option}" for option in options]
    script = "\n".join(lines) + "\n"
    asked = directives(script)
    check(asked)
    tasks = task_numbers(asked["array"]) if "array" in asked else [None]
    number = int(time.time() * 10) % 900_000 + 100_000  # as the job's port depends on it: another one each time
    while (spool := cwd / FOLDER / str(number)).exists():
        number += 1
    write_whole(spool / "script", script.encode(), "job")
    write_whole(spool / "job.json", json.dumps({"cwd": str(cwd.resolve()), "tasks": tasks}).encode(), "job")
    for tool in ("srun", "scontrol"):
        path = spool / "bin" / tool
        line = shlex.join([sys.executable, "-S", "-E", local_tools.__file__, tool])
        write_whole(path, f'#!/bin/sh\nexec {line} "$@"\n'.encode(), "job")
        path.chmod(0o755)
    for task in _tasks(spool):
        task.put("PENDING", "Resources")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with open(spool / "runner.out", "wb") as output:
        command = [sys.executable, "-m", __name__, str(spool.resolve())]
        how = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
        subprocess.run(command, env=environment, check=True, **how)  # it forks, and returns at once
    return str(number)


def local_states(number: str, cwd: Path) -> list[JobState]:
    """How a job that was submitted from `cwd` stands: one state, or one for each task.

    Raises:
        BadJob: no such job was submitted from there, or what the runner keeps of it is damaged.
    """
    spool = cwd / FOLDER / number.partition("_")[0]
    if not os.path.lexists(spool / "job.json"):
        raise BadJob(f"the local runner knows no job {number} of the folder {cwd}")
    alive = _runs(spool)  # asked first: a runner that ends now has written before how its tasks ended
    with _as_kept(spool):
        found = [state_of(parse_json(read_file(spool / _state_file(task)))) for task in _numbers(spool)]
    if not alive:
        found = [each if each.done else replace(each, state="NODE_FAIL", reason="RunnerKilled") for each in found]
    return [state for state in found if state.job == number] if "_" in number else found


def cancel_local(number: str, cwd: Path) -> None:
    """Ask the runner to end a job, with all tasks of an array."""
    (cwd / FOLDER / number / "cancel").touch()


def _runs(spool: Path) -> bool:
    """Whether the job's runner is alive: the process with its number began at that time, and has not ended."""
    try:
        pid, began = parse_json(read_file(spool / "runner.json"))
        process = psutil.Process(pid)
        # In a container often nobody asks how a process ended whose parent is gone: it stays, as a zombie.
        return process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, OverflowError, TypeError, ValueError, psutil.Error):
        return False


@contextlib.contextmanager
def _as_kept(spool: Path) -> Iterator[None]:
    """What the runner keeps of a job is BadJob where it is not as it was written."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadJob(f"what the local runner keeps of job {spool.name} is damaged: {error}") from None


def _numbers(spool: Path) -> list[int | None]:
    """Of a job's tasks; None for a job that is no array."""
    numbers = parse_json(read_file(spool / "job.json"))["tasks"]
    if numbers != [None] and not all(type(number) is int and 0 <= number < 10**9 for number in numbers):
        raise ValueError("job.json names no tasks")
    return numbers


def _state_file(task: int | None) -> str:
    return "state.json" if task is None else f"state-{task}.json"


def _tasks(spool: Path) -> list[LocalTask]:
    number = spool.name
    arrays = [None if task is None else (number, task) for task in _numbers(spool)]
    return [LocalTask(spool, number if array is None else f"{number}_{array[1]}", array) for array in arrays]


def main(spool: Path) -> None:
    """Leave a process behind that runs the tasks of a job, one after the other."""
    if pid := os.fork():
        write_whole(spool / "runner.json", json.dumps([pid, psutil.Process(pid).create_time()]).encode(), "runner")
        return
    for task in _tasks(spool):
        if (spool / "cancel").exists():
            task.put("CANCELLED", "None", ended_at=time.time())
        else:
            task.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
