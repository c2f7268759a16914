"""What a job's form says: how prediction and measurement compare, and by which figures they differ.

Every sentence is made of figures that the job, or the scheduler, has written down; of what no figure explains, it says
how much that is.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from ..course.ledger import Ledger
from ..measure.timers import measured
from .directives import BadJob
from .forms import BadForm, Form, form_path, read_form
from .job_states import JobState
from .predictions import JOB, MEMORY, SENT, STEP, WORK
from .runs import NotSubmitted, job_in

LAST_LINES = 3  # of a job's output, where it has no form
WHY = {
    "TIMEOUT": "its time was up",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "NODE_FAIL": "a node of it failed",
    "CANCELLED": "it was cancelled",
    "FAILED": "its script failed",
    "PREEMPTED": "another job took its place",
}


@dataclass(frozen=True)
class JobReport:
    """What is known of a job.

    Attributes:
        form: what it has filled in; None where it never came to that.
        state: how it stands to the scheduler; None where that knows nothing (any more).
        sentences: by subject, in one order: ``"status"``, and where the job has measured something ``"memory"``,
            ``"speed"``, ``"efficiency"``, ``"energy"``, ``"sending"``, ``"start-up"``, ``"queue"``, ``"cost"``.
    """

    form: Form | None
    state: JobState | None
    sentences: dict[str, str]

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.form is not None and self.form.status == "finished"

    def __str__(self) -> str:
        table = [] if self.form is None else [str(self.form), ""]
        return "\n".join([*table, *(f"{subject}: {said}" for subject, said in self.sentences.items())])

    def to_ledger(self, ledger: Ledger) -> None:
        """Put each line that was predicted and measured into the ledger, by the task and the line's name.

        What the ledger predicts already, as before the job was submitted, stays as it was predicted.
        """
        if self.form is None:
            return
        for name, line in self.form.lines.items():
            if line.predicted is not None and line.measured is not None:
                entry = f"{self.form.task}: {name}"
                known = ledger.entries().get(entry)
                if known is None or known["predicted"] != line.predicted:
                    ledger.predict(entry, line.predicted, line.unit, line.bound)
                ledger.measure(entry, line.measured)


def report(job: str, folder: Path = Path(".")) -> JobReport:
    """The report of a job that was submitted from `folder`.

    Args:
        job: its number, of a task of an array such as ``"17_2"``; or the path of a form.
        folder: where its form is.

    Raises:
        BadForm: there is a form, but it is half-written, of another version or none at all; or there is neither form
            nor job.
    """
    path = Path(job) if job.endswith(".json") else form_path(folder, job)
    folder, number = path.parent, path.stem.removeprefix("job-")
    state = _state(number, folder)
    if not path.exists():
        return JobReport(None, state, {"status": _without_form(number, state, folder)})
    form = read_form(path)
    try:
        return JobReport(form, state, {"status": _status(form, state, folder), **_compared(form, state)})
    except (KeyError, TypeError, ZeroDivisionError) as error:  # a form is open: another program may have filled it in
        raise BadForm(f"{path.name} lacks a figure, or has a zero for it: {error}") from None


def _state(number: str, folder: Path) -> JobState | None:
    try:
        found = job_in(folder, number).states()
    except (NotSubmitted, BadJob, ValueError):
        return None
    if len(found) > 1:
        tasks = ", ".join(state.job for state in found)
        raise BadForm(f"job {number} is an array, and each task has a report of its own: {tasks}")
    return found[0] if found else None


def _without_form(number: str, state: JobState | None, folder: Path) -> str:
    """Why a job has no form."""
    if state is None:
        raise BadForm(f"no form job-{number}.json in {folder}, and no scheduler knows a job {number} of that folder")
    if state.state == "PENDING":
        waited = measured(time.time() - state.submitted_at, "s") if state.submitted_at else "some time"
        return f"job {number} has not started: it has waited {waited}, and the scheduler says {state.reason}"
    if state.started_at is None:
        return f"job {number} never started: {WHY.get(state.state, state.state)}"
    if not state.done:
        return f"job {number} runs, and its ranks have not begun yet"
    said = " | ".join(_last_lines(number, folder)) or "nothing"
    why = WHY.get(state.state, state.state)
    return f"job {number} ended before its ranks began: {why}, with exit code {state.exit_code}; it has printed {said}"


def _last_lines(number: str, folder: Path) -> list[str]:
    lines = [line.strip() for line in job_in(folder, number).output().splitlines() if line.strip()]
    return [line[:200] for line in lines[-LAST_LINES:]]


def _status(form: Form, state: JobState | None, folder: Path) -> str:
    """How far it came."""
    done, n_steps = int(form.facts["steps_done"]), int(form.facts["n_steps"])
    restarts, lost = int(form.facts.get("restarts", 0)), int(form.facts.get("steps_lost", 0))
    times = "once" if restarts == 1 else f"{restarts} times"
    again = f"; started again {times}, and {lost} steps were computed twice" if restarts else ""
    steps = f"{done} of {n_steps} steps"
    if form.status == "finished":
        return f"finished: all {n_steps} steps{again}"
    if form.status == "failed":
        return f"failed after {steps}: {form.words.get('why', 'it has not said why')}{again}"
    saved = _saved(form.job, folder)
    kept = f"step {saved[-1]} is saved, and a job of the same number goes on from there" if saved else ""
    if form.status == "stopped":
        return f"stopped after {steps}, as it was asked to: {kept or 'nothing is saved'}{again}"
    if state is None:
        return f"{steps} when it wrote its form last, and no scheduler knows whether it still runs{again}"
    if not state.done:
        return f"runs: {steps}{again}"
    gone = kept or f"no checkpoint was there yet, so the {done} steps are lost"
    return f"killed after about {steps}: {WHY.get(state.state, state.state)}; {gone}{again}"


def _saved(job: str, folder: Path) -> list[int]:
    """Steps of which there is a whole checkpoint, as `Checkpoints.steps` finds them, without starting PyTorch."""
    names = (path.parent.name for path in (folder / f"checkpoints-{job}").glob("step-*/contents.json"))
    numbers = (name.removeprefix("step-") for name in names)
    return sorted(int(number) for number in numbers if number.isdecimal())


def _compared(form: Form, state: JobState | None) -> dict[str, str]:
    """The sentences on what was measured."""
    said, facts, lines = {}, form.facts, form.lines
    found = {name: line.measured for name, line in lines.items() if line.measured is not None}
    if MEMORY in found:
        said["memory"] = f"the tensors of a rank took {measured(found[MEMORY], 'B')}, {_times(form, MEMORY)}"
        if "process_bytes" in facts:
            rest = measured(facts["process_bytes"] - found[MEMORY], "B")
            said["memory"] += f"; its process held {rest} besides, which counts against --mem as well"
    if STEP in found:
        said["speed"] = _speed(form)
        said["efficiency"] = _efficiency(form)
        said["energy"] = _energy(form)
        said["sending"] = f"all ranks sent {measured(found[SENT], 'B')} in a step, {_times(form, SENT)}"
    if WORK in found:
        job_s = _job_s(form, state)
        saving = measured(facts.get("saving_s", 0.0), "s")
        rest = measured(max(0.0, job_s - found[WORK]), "s")
        said["start-up"] = (
            f"the job took {measured(job_s, 's')}, its work {measured(found[WORK], 's')}: {rest} went to "
        )
        said["start-up"] += f"starting, the first step and checkpoints ({saving})"
    if state and state.submitted_at and state.started_at:
        said["queue"] = f"it waited {measured(max(0.0, state.started_at - state.submitted_at), 's')} in the queue"
    said["cost"] = _cost(form, state)
    return said


def _times(form: Form, name: str) -> str:
    line = form.lines[name]
    if line.predicted:
        return f"{measured(line.measured / line.predicted)} times as predicted"
    return "where none were predicted" if line.measured or line.predicted is None else "as predicted"


def _speed(form: Form) -> str:
    """Where a step's time went: computing, of which the roofline explains a part, and waiting, of which sending."""
    facts, step = form.facts, form.lines[STEP]
    said = f"a step took {measured(step.measured, 's')}, and the roofline allows {measured(step.predicted, 's')}"
    if (computed := facts.get("step_computed_s")) is None:
        return said
    waited = max(0.0, step.measured - computed)
    said += f"; a rank computed for {measured(computed, 's')} of it and waited for {measured(waited, 's')}"
    if sending := facts.get("sending_s"):
        said += f", where what a step sends takes {measured(sending, 's')} by itself"
    now, then = facts["rank_flops_per_s"], facts["rank_flops_per_s_predicted"]
    if step.bound == "compute" and now < then:
        said += f"; the machine multiplied {measured(then / now)} times as slowly as when it was calibrated"
    return said


def _efficiency(form: Form) -> str:
    step, facts = form.lines[STEP], form.facts
    said = f"{measured(100 * step.predicted / step.measured)}% of the speed that the roofline allows"
    if now := facts.get("rank_flops_per_s"):
        then = facts["rank_flops_per_s_predicted"]
        said += f", when a rank multiplied at {measured(now, 'FLOP/s')}; {measured(then, 'FLOP/s')} were calibrated"
    if form.words.get("machine") != form.words.get("predicted_for"):
        said += f"; and that for another machine: {form.words.get('predicted_for')}, not {form.words.get('machine')}"
    return said


def _energy(form: Form) -> str:
    """Of the first node's processors, while the timed steps ran."""
    if (joules := form.facts.get("energy_j")) is None:
        return "nobody may read the processor's counters there, so it is not known"
    return (
        f"the processors of the first node used {measured(joules)} joules while the steps ran, with all else that ran"
    )


def _job_s(form: Form, state: JobState | None) -> float:
    """Seconds from the job's start to its end, by the form, which knows the runs before this one, too."""
    line = form.lines[JOB].measured or 0.0
    if state and state.done and state.started_at and state.ended_at:
        return max(line, state.ended_at - state.started_at)
    return line


def _cost(form: Form, state: JobState | None) -> str:
    """What was paid for: all ranks, from the start to the end."""
    job_s, n_ranks = _job_s(form, state), form.facts["n_ranks"]
    said = f"{n_ranks:.0f} ranks for {measured(job_s, 's')}"
    worked = form.lines[WORK].measured
    if worked:
        said += f", of which {measured(100 * min(1.0, worked / job_s))}% was work"
    price = next((name for name in form.lines if name.startswith("price, ")), None)
    if price and form.lines[price].predicted and form.lines[JOB].measured:
        line = form.lines[price]
        paid = line.measured * job_s / form.lines[JOB].measured
        said += (
            f": {measured(paid)} {price.removeprefix('price, ')}, {measured(paid / line.predicted)} times as predicted"
        )
    return said
