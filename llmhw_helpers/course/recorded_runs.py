"""Recorded runs of `sick_runs`, those that a learner looks at and those for the grader, and one of `idle_gpus`.

Made as ``benchmarks/diagnose.py`` makes them, in November 2026, on two cores of an AMD EPYC (virtual machine, Linux)
that were busy with other programs as well: of five runs of a kind three had the cores before those, and two had to
share them. Times are kept to a tenth of a millisecond, numbers to four digits.
"""

import json
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np

from ..files import write_whole
from ..measure.series import NoSeries, Series
from ..specs.figures import look_up
from ..specs.json_text import parse_json, read_file

FOLDER = Path(__file__).parent
PARTS = {"seen": "seen_runs.json", "unseen": "unseen_runs.json", "idle GPU": "idle_gpu_runs.json"}
COLUMNS = ("cpu_percent", "machine_cpu_percent", "rss_bytes", "cpu_pressure", "write_bytes_per_s", "tokens_per_s")
COLUMNS += ("gpu_busy_percent", "gpu_memory_bytes")
MOST_BYTES = 300_000  # of a file: what is packed so close takes fifty times as much
PER_SECOND = 10_000  # times are kept in tenths of a millisecond
Run = tuple[str, Series]


@cache
def recorded_runs(part: str = "seen") -> tuple[Run, ...]:
    """The runs of that part as (kind, series).

    Raises:
        UnknownName: there is no such part.
        NoSeries: its file is damaged.

    >>> {kind for kind, _ in recorded_runs("seen")} == {kind for kind, _ in recorded_runs("unseen")}
    True
    """
    path = FOLDER / look_up(part, PARTS, "part of the recorded runs")
    try:
        content = read_file(path)
        if len(content) > MOST_BYTES:
            raise ValueError(f"{len(content):,} bytes")
        return tuple((str(run["kind"]), _spread(run)) for run in parse_json(content))
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise NoSeries(f"{path.name} holds damaged runs: {type(error).__name__}, {said:.80}") from None


def write_runs(path: Path, runs: Iterable[Run]) -> None:
    """Write runs as `recorded_runs` reads them.

    Raises:
        NotSaved: no space, no permission.
    """
    lines = ",\n".join(json.dumps({"kind": kind} | _packed(series), separators=(",", ":")) for kind, series in runs)
    write_whole(path, f"[\n{lines}\n]\n".encode(), "recorded runs")


def _packed(series: Series) -> dict:
    """Times as steps from one to the next, which are short numbers."""
    names = sorted(series.marks, key=lambda mark: mark[1])
    return {
        "seconds": _steps([series.begin_s, *series.seconds]),
        "units": {name: series.units[name] for name in COLUMNS if name in series},
        "columns": {name: [float(f"{x:.4g}") for x in series[name]] for name in COLUMNS if name in series},
        "marks": {name: _steps([when for when, _ in group]) for name, group in groupby(names, lambda mark: mark[1])},
    }


def _spread(packed: dict) -> Series:
    begin, *seconds = _times(packed["seconds"])
    marks = [(when, name) for name, steps in packed["marks"].items() for when in _times(steps)]
    return Series.of(packed | {"begin_s": begin, "seconds": seconds, "marks": marks})


def _steps(seconds: list[float]) -> list[int]:
    return np.diff(np.round(np.array(seconds) * PER_SECOND).astype(int), prepend=0).tolist()


def _times(steps: list[int]) -> list[float]:
    if not all(type(step) is int for step in steps):
        raise TypeError("a step of time is no whole number")
    return (np.cumsum(steps) / PER_SECOND).tolist()
