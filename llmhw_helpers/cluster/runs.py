"""Runs of job scripts: through Slurm's `sbatch` where there is one, else through the local runner, in the same way."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ..files import write_whole
from ..specs.json_text import parse_json, read_file
from ..specs.settings import OneLine
from . import local_runner
from .forms import BadForm, form_path, read_form
from .job_states import JobState, state_of
from .slurm import NoSlurm, Slurm, SlurmJob, UnknownJob

ASK_S = 30  # for Slurm to answer
PROBE_S = 10  # for it to say that it is there
POLL_S = 0.2


class NotSubmitted(OneLine, RuntimeError):
    """A job that was not taken; the message says why, in the scheduler's words."""


def why_no_slurm() -> str:
    """Why no job can go through Slurm from here, in one line; empty if one can."""
    if not shutil.which("sbatch"):
        return "there is no sbatch on the path: jobs go through the local runner"
    try:
        asked = _slurm("sinfo", "--noheader", "--format=%P", timeout_s=PROBE_S)
    except NotSubmitted as error:
        return f"sbatch is there, but its Slurm does not answer ({error}): jobs go through the local runner"
    return "" if asked.strip() else "Slurm has no partition: jobs go through the local runner"


@dataclass(frozen=True)
class Submission:
    """A job that was submitted.

    Attributes:
        number: as the scheduler counts.
        folder: that it was submitted from, and that its output and its form are in.
        local: it went through the local runner.
    """

    number: str
    folder: Path
    local: bool

    def states(self) -> list[JobState]:
        """How it stands: one state, or one for each task of an array.

        Raises:
            NotSubmitted: Slurm does not know it, or does not answer.
        """
        return (
            local_runner.local_states(self.number, self.folder)
            if self.local
            else _asked_slurm(self.number, self.folder)
        )

    @property
    def done(self) -> bool:
        """Whether nothing more will come of it."""
        return all(state.done for state in self.states())

    def wait(self, timeout_s: float = 600, progress: bool = True) -> list[JobState]:
        """Until it is done; how it ended.

        Args:
            timeout_s: the longest to wait; the job goes on after it.
            progress: show how it stands, and how many steps its form has.

        Raises:
            TimeoutError: it is not done; the message says how it stands.
        """
        late = time.monotonic() + timeout_s
        with tqdm(desc=f"job {self.number}", leave=False, disable=not progress) as bar:
            while True:
                states = self.states()
                bar.set_postfix_str(" ".join(state.state for state in states))
                bar.n = sum(self._steps_done(state.job) for state in states)
                bar.refresh()
                if all(state.done for state in states):
                    return states
                if time.monotonic() > late:
                    stands = ", ".join(f"{state.state} ({state.reason})" for state in states)
                    raise TimeoutError(
                        f"job {self.number} is not done after {timeout_s:g} s: {stands}; wait on, or cancel"
                    )
                time.sleep(POLL_S)

    def _steps_done(self, job: str) -> int:
        try:
            return int(read_form(form_path(self.folder, job)).facts["steps_done"])
        except (BadForm, KeyError):
            return 0

    def cancel(self) -> None:
        """Take it out of the queue, or end it."""
        if self.local:
            local_runner.cancel_local(self.number, self.folder)
        else:
            _slurm("scancel", self.number)

    def output(self) -> str:
        """What its script and ranks have printed so far, of all tasks."""
        number = self.number
        texts = [path.read_text(errors="replace") for path in sorted(self.folder.glob(f"*-{number}*.out"))]
        return "\n".join(texts)


def submit(script: str | Path, folder: Path, local: bool | None = None, options: Sequence[str] = ()) -> Submission:
    """Submit a job script from `folder`.

    Args:
        script: its text, or its path.
        folder: where its output goes, unless the script says otherwise; it is made.
        local: True for the local runner, False for Slurm; without, Slurm where `why_no_slurm` has nothing to say.
        options: of `sbatch`, such as ``"--time=00:01:00"``, which come before those in the script.

    Raises:
        NotSubmitted: Slurm refuses it, and why.
        BadJob: the local runner does not know an option of it.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    text = script.read_text() if isinstance(script, Path) else script
    if local is None:
        local = bool(why_no_slurm())
    if local:
        return Submission(local_runner.put_in_queue(text, folder, options), folder, True)
    path = folder / "job.sh"
    write_whole(path, text.encode(), "job script")
    said = _slurm("sbatch", "--parsable", *options, str(path), cwd=folder)
    return Submission(said.strip().partition(";")[0], folder, False)


def job_in(folder: Path, number: str) -> Submission:
    """The job of that number which was submitted from `folder`, by either way."""
    folder = Path(folder).resolve()
    return Submission(number, folder, (folder / local_runner.FOLDER / number.partition("_")[0]).exists())


def _slurm(*command: str, cwd: Path | None = None, timeout_s: float = ASK_S) -> str:
    """What one of Slurm's commands prints."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise NotSubmitted(f"{command[0]} does not answer within {timeout_s:g} s") from None
    except FileNotFoundError:
        raise NotSubmitted(f"there is no {command[0]} on the path") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotSubmitted(f"{command[0]}: {said[-1].removeprefix(f'{command[0]}: ').removeprefix('error: ')}")
    return done.stdout


def _asked_slurm(number: str, folder: Path) -> list[JobState]:
    """From Slurm; what it has forgotten, minutes after the end, from the last time that somebody asked."""
    kept = folder / f".slurm-{number}.json"
    try:
        found = [_state(job) for job in Slurm().tasks(number)]
    except (NoSlurm, UnknownJob) as error:
        with contextlib.suppress(OSError, TypeError, ValueError):  # none kept, or damaged: then Slurm's own words
            return [state_of(state) for state in parse_json(read_file(kept))]
        raise NotSubmitted(str(error)) from None
    write_whole(kept, json.dumps([asdict(state) for state in found]).encode(), "state")
    return found


def _state(job: SlurmJob) -> JobState:
    times = (job.submitted, job.began if job.state != "PENDING" else None, job.ended)
    stamps = [None if time is None else time.timestamp() for time in times]
    code, restarts = job.exit_code, job.restarts or 0
    return JobState(job.id, job.name, job.state, job.reason, *stamps, code, restarts, ",".join(job.nodes))
