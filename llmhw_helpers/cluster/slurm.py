"""What Slurm says of jobs: `squeue` of those that wait and run, `scontrol` of each of late, `sacct` of all there were.

Asked in the forms that are made for programs and described in the commands' manuals (https://slurm.schedmd.com):
fields with a bar between them, names in full. What a cluster does not keep is None; nothing is guessed.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from ..specs.settings import OneLine
from .slurm_text import exit_of, gpus_in, least_of, moment_of, rows_of
from .usage import Efficiency, bytes_of, efficiency_of, seconds_of

ANSWER_S = 60  # for a command of Slurm; a controller under load may take many seconds
# https://slurm.schedmd.com/job_state_codes.html; every other state waits, runs, or is about to
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
ENDED |= {"REVOKED", "TIMEOUT"}
FREE = re.compile(r"(?:^|(?<= ))(JobName|Comment|Command|WorkDir|StdErr|StdIn|StdOut)=")  # ... what a user has written
JOB_ID = re.compile(r"\d+([_+]\d+)?")  # of a job, of a task of an array, of a part of a heterogeneous job
QUEUE = "%i|%T|%r|%P|%u|%D|%N|%C|%M|%l|%V|%S|%b|%j"
ACCOUNTED = (
    *("JobID", "State", "Reason", "Partition", "User", "NNodes", "NodeList", "AllocCPUS", "ElapsedRaw", "Timelimit"),
    *("Submit", "Start", "End", "AllocTRES", "ExitCode", "TotalCPU", "MaxRSS", "NTasks", "TRESUsageInAve"),
    "JobName",  # the last, since it may hold a bar
)
USED = ("JobID", "AveCPU", "MaxRSS", "NTasks", "TRESUsageInAve")


class NoSlurm(OneLine, OSError):
    """There is no Slurm, or it does not answer; the message says in one line what is the matter."""


class UnknownJob(OneLine, LookupError):
    """Slurm does not know a job of this number, or no longer."""


@dataclass(frozen=True)
class SlurmJob:
    """A job, or one task of an array.

    Attributes:
        id: its number; ``"17_2"`` is task 2 of the array 17.
        state: such as ``"PENDING"``, ``"RUNNING"``, ``"COMPLETED"``, ``"TIMEOUT"``, ``"OUT_OF_MEMORY"``,
            ``"NODE_FAIL"``.
        reason: why it waits, or why it ended so; ``"None"`` where Slurm has none.
        nodes: names of its nodes; empty before it runs.
        n_gpus: of all its nodes; 0 without.
        memory_bytes: that it may use, of all its nodes.
        submitted, began, ended: local times.
        elapsed_s: it has run; without the runs before it was put back into the queue.
        limit_s: it may run; None without limit.
        exit_code, signal: how its script ended.
        restarts: how often it was put back into the queue.
        folder: where it was submitted from.
        output: the file with what it printed.
    """

    id: str
    name: str
    state: str
    reason: str
    partition: str
    user: str
    nodes: tuple[str, ...]
    n_nodes: int
    n_cpus: int
    n_gpus: int
    memory_bytes: int | None
    submitted: datetime | None
    began: datetime | None
    ended: datetime | None
    elapsed_s: float | None
    limit_s: float | None
    exit_code: int | None = None
    signal: int | None = None
    restarts: int | None = None
    folder: str | None = None
    output: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state not in ENDED

    @property
    def waited_s(self) -> float | None:
        """From its submission to its (last) start; None before it has started."""
        if self.submitted is None or self.began is None or self.state == "PENDING":
            return None
        return self.began.timestamp() - self.submitted.timestamp()


class Slurm:
    """Slurm's commands.

    Args:
        environment: of the commands; this process's by default.

    Raises:
        NoSlurm: they are not on the path.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        environment = os.environ if environment is None else environment
        # What a user has set for his own eyes would change what is read here.
        own = {key: value for key, value in environment.items() if not key.startswith(("SQUEUE_", "SACCT_"))}
        self._environment = own | {"SLURM_TIME_FORMAT": "standard"}
        if not shutil.which("squeue", path=environment.get("PATH")):
            raise NoSlurm("no Slurm here (no command squeue): jobs can be run by the local runner alone")

    def queue(self, user: str | None = None) -> list[SlurmJob]:
        """The jobs that wait or run, the tasks of arrays one by one; of one `user`, or of all."""
        asked = ["squeue", "--noheader", "--array", f"--format={QUEUE}", *([f"--user={user}"] if user else [])]
        rows = rows_of(self._ask(*asked))
        with _as_described("squeue"):
            return [self._queued(row) for row in rows]

    def job(self, job_id: int | str) -> SlurmJob:
        """What Slurm knows of one job.

        Raises:
            UnknownJob: no such job, or it ended long ago and the cluster keeps no accounts.
            ValueError: no number of a job, or an array's, whose tasks are jobs of their own.
        """
        found = self.tasks(job_id)
        if len(found) > 1:
            names = f"{', '.join(task.id for task in found[:5]):.200}"
            raise ValueError(f"job {job_id} is an array of {len(found)} tasks: ask for one of {names} ...")
        return found[0]

    def tasks(self, job_id: int | str) -> list[SlurmJob]:
        """The tasks of an array; of another job itself. Raises as `job` does."""
        number = _checked(job_id)
        try:
            shown = self._ask("scontrol", "show", "job", number)
        except NoSlurm as error:
            if "Invalid job id" not in str(error):
                raise
            rows = self._accounts(number)
            with _as_described("sacct"):
                found = [self._accounted(row) for row in rows if "." not in row["JobID"]]
            if not found:
                raise UnknownJob(f"Slurm knows no job {number}, or no longer") from None
            return found
        with _as_described("scontrol"):
            found = [self._shown(block) for block in re.split(r"\n\n(?=JobId=)", shown.strip())]
        return sorted(found, key=lambda task: [int(part) for part in re.findall(r"\d+", task.id)])

    def efficiency(self, job_id: int | str) -> Efficiency:
        """Processors and memory used of those asked for, as ``seff`` counts: from `sacct`, or `sstat` while it runs.

        Without accounts nobody knows what a job has used once it has ended: then it is None.

        Raises:
            UnknownJob, ValueError: as `job` does.
        """
        job = self.job(job_id)
        rows, source = self._accounts(job.id), "sacct"
        if job.state == "RUNNING":  # accounts are written when a step ends
            fields = ["--noheader", "--parsable2", "--allsteps", f"--format={','.join(USED)}"]
            lines = self._ask("sstat", f"--jobs={job.id}", *fields, or_else="").splitlines()
            with _as_described("sstat"):
                rows, source = [dict(zip(USED, line.split("|"), strict=True)) for line in lines], "sstat"
        with _as_described(source):
            return efficiency_of(job.id, job.state, job.elapsed_s, job.n_cpus, job.memory_bytes, rows, source)

    def _ask(self, *command: str, or_else: str | None = None) -> str:
        """What a command prints; where it fails, `or_else`, or NoSlurm with its own last line."""
        try:
            how = {"capture_output": True, "text": True, "errors": "replace", "check": False, "timeout": ANSWER_S}
            done = subprocess.run(command, env=self._environment, stdin=subprocess.DEVNULL, **how)
        except FileNotFoundError:
            wrong = f"no command {command[0]}"
        except subprocess.TimeoutExpired:
            wrong = f"{command[0]} had no answer in {ANSWER_S} s"
        else:
            if done.returncode == 0:
                return done.stdout
            wrong = (done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"])[-1]
        if or_else is None:
            raise NoSlurm(f"Slurm does not answer: {wrong}") from None
        return or_else

    def _accounts(self, number: str) -> list[dict[str, str]]:
        """The rows of `sacct` for a job and its steps; none where no accounts are kept."""
        fields = ["--noheader", "--parsable2", f"--format={','.join(ACCOUNTED)}"]
        rows = rows_of(self._ask("sacct", f"--jobs={number}", *fields, or_else=""))
        with _as_described("sacct"):
            return [dict(zip(ACCOUNTED, row.split("|", len(ACCOUNTED) - 1), strict=True)) for row in rows]

    def _nodes(self, names: str) -> tuple[str, ...]:
        """``alvis[1-2]`` as names; empty where there is none yet."""
        if names in ("", "(null)", "None assigned"):
            return ()
        return tuple(self._ask("scontrol", "show", "hostnames", names).split())

    def _queued(self, line: str) -> SlurmJob:
        number, state, reason, partition, user, n_nodes, nodes, n_cpus, elapsed, limit, *rest = line.split("|", 13)
        submitted, began, gpus, name = rest
        return SlurmJob(
            *(number, name, state, reason, partition, user, self._nodes(nodes), int(n_nodes), int(n_cpus)),
            n_gpus=gpus_in(gpus) * int(n_nodes),
            memory_bytes=None,
            submitted=moment_of(submitted),
            began=moment_of(began),
            ended=None,
            elapsed_s=seconds_of(elapsed),
            limit_s=seconds_of(limit),
        )

    def _shown(self, block: str) -> SlurmJob:
        """A job as `scontrol show job` describes it, several fields a line; what a user may write ends its line.

        Slurm's own lines are indented: any other goes on with what a user has written before.
        """
        lines: list[list[str]] = []
        for line in block.strip().splitlines():
            if lines and not line.startswith("   "):
                lines[-1].append(line)
            else:
                lines.append([line.strip()])
        fields = {}
        for line, *further in lines:
            free = FREE.search(line)
            words = line[: free.start()].split() if free else line.split()
            pairs = [word.partition("=")[::2] for word in words] + ([(free[1], line[free.end() :])] if free else [])
            fields |= pairs
            if further and pairs:
                fields[pairs[-1][0]] = "\n".join([pairs[-1][1], *further])
        number = fields["JobId"]
        if "ArrayTaskId" in fields:
            number = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
        tres = fields.get("AllocTRES", "(null)")
        tres = fields.get("TRES", "") if tres == "(null)" else tres  # the one name until Slurm 22.05, the other since
        n_nodes, n_tasks = least_of(fields["NumNodes"]), least_of(fields.get("NumTasks", "1"))
        gpus = {"TresPerNode": n_nodes, "TresPerTask": n_tasks, "TresPerJob": 1}
        memory = re.search(r"mem=([^,]+)", tres)
        exit_code, signal = exit_of(fields["ExitCode"])
        return SlurmJob(
            number,
            *(fields[key] for key in ("JobName", "JobState", "Reason", "Partition")),
            fields["UserId"].partition("(")[0],
            self._nodes(fields["NodeList"]),
            n_nodes,
            least_of(fields["NumCPUs"]),
            n_gpus=gpus_in(tres) or sum(gpus_in(fields.get(key, "")) * n for key, n in gpus.items()),
            memory_bytes=bytes_of(memory[1]) if memory else None,
            submitted=moment_of(fields["SubmitTime"]),
            began=moment_of(fields["StartTime"]),
            ended=moment_of(fields["EndTime"]) if fields["JobState"] in ENDED else None,
            elapsed_s=seconds_of(fields["RunTime"]),
            limit_s=seconds_of(fields["TimeLimit"]),
            exit_code=exit_code,
            signal=signal,
            restarts=int(fields["Restarts"]),
            folder=fields.get("WorkDir"),
            output=fields.get("StdOut"),
        )

    def _accounted(self, row: Mapping[str, str]) -> SlurmJob:
        memory = re.search(r"mem=([^,]+)", row["AllocTRES"])
        exit_code, signal = exit_of(row["ExitCode"])
        state = row["State"].partition(" ")[0]  # "CANCELLED by 1000"
        return SlurmJob(
            *(row["JobID"], row["JobName"], state, row["Reason"], row["Partition"], row["User"]),
            *(self._nodes(row["NodeList"]), int(row["NNodes"]), int(row["AllocCPUS"])),
            n_gpus=gpus_in(row["AllocTRES"]),
            memory_bytes=bytes_of(memory[1]) if memory else None,
            submitted=moment_of(row["Submit"]),
            began=moment_of(row["Start"]),
            ended=moment_of(row["End"]) if state in ENDED else None,
            elapsed_s=seconds_of(row["ElapsedRaw"]),
            limit_s=seconds_of(row["Timelimit"]),
            exit_code=exit_code,
            signal=signal,
        )


@contextmanager
def _as_described(command: str) -> Iterator[None]:
    """An answer in another form than the manuals describe is NoSlurm."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise NoSlurm(f"{command} answers in a form that is not known here: {said:.80}") from None


def _checked(job_id: int | str) -> str:
    number = str(job_id).strip()
    if not JOB_ID.fullmatch(number):
        raise ValueError(f"{job_id!r} is no number of a job; they look like 17, or 17_2 for task 2 of an array")
    return number
