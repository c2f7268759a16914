"""The form that a job fills in: what was predicted, what it measured, and how far it came. One JSON file for each job.

The program writes it when it starts, at every checkpoint and at its end, each time whole: so a job that was killed has
left a form, too, and it says where the job was.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..files import settled, write_whole
from ..measure.timers import measured
from ..specs.figures import si
from ..specs.json_text import parse_json, read_file
from ..specs.settings import OneLine

KIND, VERSION = "llmhw job", 1
STATUSES = ("running", "stopped", "finished", "failed")
MOST_BYTES = 10_000_000  # of a form: far more than any has


class BadForm(OneLine, ValueError):
    """A form that is not there, half-written, of another program or another version; the message says which."""


@dataclass(frozen=True)
class Line:
    """One line of the form.

    Attributes:
        predicted, measured: in `unit`; None where nobody knows, or has not measured yet.
        bound: what the prediction says is the limit, such as ``"compute"``; empty where nothing is.
    """

    unit: str
    predicted: float | None = None
    measured: float | None = None
    bound: str = ""


@dataclass(frozen=True)
class Form:
    """What a job tells.

    Attributes:
        job: its number; of a task of an array ``"17_2"``.
        plan: the name of the plan that it is a twin of.
        task: ``"serve"``, ``"fine-tune"`` or ``"evaluate"``.
        status: ``"running"`` (or killed), ``"stopped"`` (before its end, with a checkpoint), ``"finished"``,
            ``"failed"``.
        lines: by name.
        facts: further figures, which explain a difference between the two; seconds, bytes or counts, as named.
        words: in the same way what is no number, such as ``"machine"``.
    """

    job: str
    plan: str
    task: str
    status: str
    lines: Mapping[str, Line]
    facts: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write it into `folder`, whole or not at all; the file's path.

        Raises:
            NotSaved: no space, no permission; the form before is as it was.
        """
        path = form_path(folder, self.job)
        content = json.dumps({"kind": KIND, "version": VERSION, **asdict(self)}, indent=1, allow_nan=False)
        write_whole(path, content.encode(), "form")
        return path

    def __str__(self) -> str:
        """A table for people."""
        width = max(map(len, self.lines), default=0)
        rows = [f"job {self.job}: {self.task} as {self.plan}; {self.status}"]
        rows.append(f"{'':{width}}{'predicted':>12}{'measured':>12}{'ratio':>8}")
        for name, line in self.lines.items():
            known = line.measured is not None and line.predicted
            ratio = measured(line.measured / line.predicted) if known else "-"
            cells = "".join(f"{_cell(value, line.unit):>12}" for value in (line.predicted, line.measured))
            rows.append(f"{name:{width}}{cells}{ratio:>8}")
        return "\n".join(rows)


def _cell(value: float | None, unit: str) -> str:
    return "-" if value is None else measured(value, unit)


def form_path(folder: Path, job: str) -> Path:
    """Where the form of a job lies.

    >>> form_path(Path("runs"), "17_2").name
    'job-17_2.json'
    """
    if not re.fullmatch(r"[\w.-]+", job):
        raise BadForm(f"{job!r} is no number of a job, such as 17 or 17_2")
    return Path(folder) / f"job-{job}.json"


def read_form(path: Path) -> Form:
    """The form at `path`.

    Raises:
        BadForm: there is none, it is damaged, no form at all, or of another version.
    """
    path = Path(path)
    try:
        content = settled(lambda: read_file(path), path)
    except OSError as error:
        raise BadForm(f"no form {path.name} in {path.parent} ({error.strerror})") from None
    if len(content) > MOST_BYTES:
        raise BadForm(f"{path.name} is no form of a job: it has {si(len(content), 'B')}")
    try:
        said = parse_json(content)
    except json.JSONDecodeError:
        raise BadForm(f"{path.name} is half-written or damaged: it is no JSON to its end") from None
    except ValueError as error:
        raise BadForm(f"{path.name} is damaged: {error}") from None
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise BadForm(f"{path.name} is JSON, but no form of a job of this course")
    if said.get("version") != VERSION:
        have = f"this program reads version {VERSION}"
        raise BadForm(f"{path.name} is a form of version {said.get('version')!r:.20}, and {have}: use the same on both")
    try:
        form = _form(said)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadForm(f"{path.name} is damaged: {' '.join(str(error).split()):.80}") from None
    if path.name.startswith("job-") and path != form_path(path.parent, form.job):
        raise BadForm(f"{path.name} is the form of job {form.job}: somebody has renamed it")
    return form


def line_of(said: Mapping) -> Line:
    """The line that a file holds, as `dataclasses.asdict` gives it.

    Raises:
        KeyError, TypeError, ValueError: it holds something else; the message says what.
    """
    figures = [said[key] for key in ("predicted", "measured") if said[key] is not None]
    _check(words=(said["unit"], said["bound"]), figures=figures)
    return Line(**said)


def _check(words: Iterable, figures: Iterable) -> None:
    if not all(isinstance(word, str) for word in words):
        raise TypeError("a word is none")
    for figure in figures:
        if type(figure) not in (int, float) or not math.isfinite(figure):
            raise TypeError("a figure is none")
        if figure < 0:
            raise ValueError("a figure is below 0")


def _form(said: dict) -> Form:
    texts = [said[name] for name in ("job", "plan", "task", "status")]
    _check(words=[*texts, *said["words"].values()], figures=said["facts"].values())
    if said["status"] not in STATUSES:
        raise ValueError(f"a status {said['status']!r}")
    lines = {name: line_of(line) for name, line in said["lines"].items()}
    return Form(*texts, lines=lines, facts=said["facts"], words=said["words"])
