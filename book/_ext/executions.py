"""When a notebook was executed, how long it takes and what it holds: the figures of the status page."""

import json
import re
import subprocess
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Notebook(NamedTuple):
    """What the status page says of one notebook; `executed` is a date such as 2026-11-29, None where nobody knows."""

    name: str
    title: str
    minutes: int | None
    n_cells: int
    n_exercises: int
    n_compared: int
    executed: str | None


def outputs(text: str) -> list | None:
    """The stored outputs of a notebook's code cells, in their order; None of what is no notebook."""
    try:
        return [cell["outputs"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    except json.JSONDecodeError:  # somebody committed the marks of a conflict
        return None


def git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None: no git here, no repository, nothing of that name."""
    try:
        run = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, encoding="utf-8")
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None


@cache
def executed(path: Path) -> str | None:
    """The day since which the notebook's stored outputs are these: an edit of its words is no execution.

    None without git's memory: in an archive of the files, or in a clone that holds the newest commit alone.
    """
    if git(path.parent, "rev-parse", "--is-shallow-repository") != "false":
        return None
    now, day = outputs(path.read_text(encoding="utf-8")), None
    for line in (git(path.parent, "log", "--format=%H %cs", "--", path.name) or "").splitlines():
        commit, committed = line.split()
        before = git(path.parent, "show", f"{commit}:./{path.name}")
        if before is None or outputs(before) != now:
            break
        day = committed
    return day or date.fromtimestamp(path.stat().st_mtime).isoformat()  # executed, and not committed yet


def notebook(path: Path) -> Notebook:
    """All that is said of the notebook at `path`."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    opening = "".join(cells[0]["source"])
    minutes = re.search(r"(\d+) minutes", opening)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    tags = [set(cell["metadata"].get("tags", [])) for cell in code]
    return Notebook(
        name=path.stem,
        title=opening.splitlines()[0].lstrip("# "),
        minutes=int(minutes[1]) if minutes else None,
        n_cells=len(code),
        n_exercises=sum("exercise" in each for each in tags),
        n_compared=sum(
            bool(cell["outputs"]) and "nbval-ignore-output" not in each for cell, each in zip(code, tags, strict=True)
        ),
        executed=executed(path),
    )
