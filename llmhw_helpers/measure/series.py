"""What was sampled while something ran: columns of numbers over time, with the moments that have a name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files import write_whole
from ..specs.figures import look_up
from ..specs.json_text import parse_json, read_file
from ..specs.settings import OneLine

FORMAT = "llmhw series 1"  # the first entry of a file


class NoSeries(OneLine, ValueError):
    """A file that holds no series; the message says in one line what it holds instead."""


@dataclass(frozen=True, eq=False)
class Series:
    """Samples of several columns at the same moments.

    A sample stands for the time since the one before: a rate is the mean over it. So a sampler that came late does no
    harm, and means weigh each sample by its time. Not a number (nan) is what the system did not tell at that moment.

    Attributes:
        seconds: ``[n_samples]``, since the start, growing.
        columns: by name, ``[n_samples]`` each.
        units: of the columns, by name, such as ``"B/s"``.
        marks: what happened when, as (seconds, name), in order.
        begin_s: since when the first sample was taken.

    >>> series = Series([1, 2, 4], {"watts": [50, 100, 10]}, {"watts": "W"}, [(1.5, "step"), (3.0, "step")])
    >>> series.mean("watts"), series.total("watts"), series.times("step")
    (42.5, 170.0, array([1.5, 3. ]))
    >>> series.between(1, 4).mean("watts")
    40.0
    """

    seconds: np.ndarray | Sequence[float]
    columns: Mapping[str, np.ndarray | Sequence[float]]
    units: Mapping[str, str]
    marks: Sequence[tuple[float, str]] = ()
    begin_s: float = field(default=0.0, kw_only=True)

    def __post_init__(self):
        seconds = np.asarray(self.seconds, dtype=float)
        columns = {name: np.asarray(values, dtype=float) for name, values in self.columns.items()}
        odd = [name for name, values in columns.items() if values.shape != seconds.shape]
        if seconds.ndim != 1 or odd:
            raise ValueError(f"{len(seconds)} moments, and not as many samples of {', '.join(odd) or 'time'}")
        if not np.all(np.isfinite([self.begin_s, *seconds])) or np.any(np.diff(seconds, prepend=self.begin_s) < 0):
            raise ValueError("the moments of a series must grow from its begin on")
        endless = [name for name, values in columns.items() if np.any(np.isinf(values))]
        if endless:
            raise ValueError(f"a sample of {', '.join(endless)} is infinite")
        if set(self.units) != set(columns):
            raise ValueError(f"every column needs its unit: {', '.join(sorted(set(columns) ^ set(self.units)))}")
        marks = tuple(sorted(((float(when), name) for when, name in self.marks), key=lambda mark: mark[0]))
        if not np.all(np.isfinite([when for when, _ in marks])):
            raise ValueError("a mark is at no moment")
        for name, value in (("seconds", seconds), ("columns", columns), ("marks", marks)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.seconds)

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of that name."""
        return name in self.columns

    def __getitem__(self, name: str) -> np.ndarray:
        """The column, ``[n_samples]``.

        Raises:
            UnknownName: there is none; the message names the nearest.
        """
        return look_up(name, self.columns, "column")

    def __repr__(self) -> str:
        end = self.seconds[-1] if len(self) else self.begin_s
        return f"Series of {len(self)} samples, {self.begin_s:.3g} to {end:.3g} s: {', '.join(self.columns)}"

    @property
    def durations(self) -> np.ndarray:
        """Seconds that each sample stands for, ``[n_samples]``."""
        return np.diff(self.seconds, prepend=self.begin_s)

    def mean(self, name: str) -> float:
        """The mean over the time of all samples.

        Raises:
            ValueError: there is no sample, or none that was told.
            UnknownName: there is no such column.
        """
        known = self._known(name)
        lasted, values = self.durations[known], self[name][known]
        return float(np.average(values, weights=lasted)) if lasted.sum() > 0 else float(values.mean())

    def total(self, name: str) -> float:
        """The sum of value times seconds: joules of watts, bytes of bytes per second. Raises what `mean` does."""
        known = self._known(name)
        return float(self.durations[known] @ self[name][known])

    def times(self, mark: str) -> np.ndarray:
        """Seconds of the marks of that name; empty where there was none."""
        return np.array([when for when, name in self.marks if name == mark])

    def between(self, begin_s: float, end_s: float) -> "Series":
        """The samples taken after `begin_s`, up to `end_s`, with the marks from then to then; its clock goes on.

        Raises:
            ValueError: the end is before the begin.
        """
        if not begin_s <= end_s:
            raise ValueError(f"no time lies between {begin_s:g} and {end_s:g} s")
        inside = (self.seconds > begin_s) & (self.seconds <= end_s)
        columns = {name: values[inside] for name, values in self.columns.items()}
        marks = [(when, name) for when, name in self.marks if begin_s <= when <= end_s]
        before = self.seconds[self.seconds <= begin_s]  # a sample that began earlier counts from `begin_s`
        begin = max([begin_s, self.begin_s, *before[-1:]])
        return Series(self.seconds[inside], columns, self.units, marks, begin_s=begin)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            NotSaved: no space, or no permission.
        """
        content = {
            "format": FORMAT,
            "begin_s": self.begin_s,
            "seconds": self.seconds.tolist(),
            "columns": {name: _with_null(values) for name, values in self.columns.items()},
            "units": dict(self.units),
            "marks": [list(mark) for mark in self.marks],
        }
        write_whole(Path(path), json.dumps(content).encode(), "series")

    @classmethod
    def read(cls, path: str | Path) -> "Series":
        """A series that `save` wrote.

        Raises:
            NoSeries: the file is damaged, or another one.
            OSError: there is no such file, or it may not be read.
        """
        path = Path(path)
        try:
            content = parse_json(read_file(path))
        except ValueError:
            raise NoSeries(f"{path.name} is no series, or a damaged one: it is not JSON") from None
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise NoSeries(f"{path.name} is no series of this version: its format is {str(found)!r:.60}")
        try:
            return cls.of(content)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise NoSeries(f"{path.name} is a damaged series: {type(error).__name__}, {said:.80}") from None

    @classmethod
    def of(cls, said: Mapping) -> "Series":
        """The series that a file says, with the names that `save` writes; each value is looked at.

        Raises:
            AttributeError, KeyError, OverflowError, TypeError, ValueError: it says something else.
        """
        columns = {name: _numbers(values) for name, values in said["columns"].items()}
        marks = [_mark(*mark) for mark in said["marks"]]
        if not all(isinstance(unit, str) for unit in said["units"].values()):
            raise TypeError("a unit is no text")
        begin = float(_numbers([said["begin_s"]])[0])
        return cls(_numbers(said["seconds"]), columns, said["units"], marks, begin_s=begin)

    def _known(self, name: str) -> np.ndarray:
        known = ~np.isnan(self[name])
        if not known.any():
            raise ValueError(f"no sample of {name} in these {len(self)}")
        return known


def _with_null(values: np.ndarray) -> list[float | None]:
    """JSON has no nan."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def _numbers(values: list) -> np.ndarray:
    if not isinstance(values, list) or not all(value is None or type(value) in (int, float) for value in values):
        raise TypeError("a column is no list of numbers")
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _mark(when: float, name: str) -> tuple[float, str]:
    if type(when) not in (int, float) or not isinstance(name, str):
        raise TypeError("a mark is no moment with a name")
    return float(when), name
