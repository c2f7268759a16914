"""Questions to a Prometheus: its query language goes in, numbers and series come out."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np

from ..specs.json_text import check_lists
from ..specs.settings import OneLine
from .scrapes import NoAnswer, fetch
from .series import Series

LETTERS_A_VALUE = 8  # of a moment and a value at least: [1,"0"],
ERRORS = (400, 422, 503)  # HTTP's numbers under which Prometheus says what is wrong with a question


class BadQuery(OneLine, ValueError):
    """What Prometheus does not understand, in its own words."""


@dataclass(frozen=True)
class Answered:
    """One number of an answer.

    Attributes:
        labels: that tell it from the others.
        value: it.
    """

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """A running Prometheus.

    Args:
        url: of its web page, ``http://HOST:9090``.
        timeout_s: for each question.
    """

    def __init__(self, url: str = "http://127.0.0.1:9090", timeout_s: float = 10.0):
        self.url, self.timeout_s = url.rstrip("/"), timeout_s

    def query(self, promql: str, when: float | None = None) -> list[Answered]:
        """What `promql` says now, or at the ``time.time`` that was `when`; an empty list where nothing fits.

        Raises:
            NoAnswer: no Prometheus is there.
            BadQuery: it does not understand `promql`, or that is no question for numbers of one moment.
        """
        found = self._ask("query", query=promql, **({} if when is None else {"time": when}))
        with self._as_documented():
            kind = found["resultType"]
            if kind == "scalar":
                return [Answered({}, float(found["result"][1]))]
            if kind == "vector":
                return [Answered(_labels(each), float(each["value"][1])) for each in found["result"]]
            if kind not in ("matrix", "string"):
                raise ValueError(kind)
        raise BadQuery(f"{promql!r} gives a {kind}, and no numbers of one moment")

    def range(
        self,
        promql: str,
        last_s: float = 300.0,
        step_s: float = 1.0,
        *,
        end: float | None = None,
        label: str | None = None,
        unit: str = "",
    ) -> Series:
        """What `promql` said over time.

        Args:
            promql: a query whose answers are numbers.
            last_s, end: so many seconds before `end`, which is ``time.time()`` without.
            step_s: from one point to the next.
            label: whose value names a column; without it, all labels do, as Prometheus writes them.
            unit: of the numbers.

        Returns:
            A column for each answer, NaN where there was none, or an infinite one, as of a division by 0; seconds count
            from the first point.

        Raises:
            NoAnswer, BadQuery: as in `query`.
            ValueError: two answers have the same `label`, or there are no such times.
        """
        if not (0 < step_s < math.inf and 0 <= last_s < math.inf):
            raise ValueError(f"points {step_s} s apart over {last_s} s: take a step above 0, and a time of 0 or more")
        end = time.time() if end is None else end
        data = self._ask("query_range", query=promql, start=end - last_s, end=end, step=step_s)
        with self._as_documented():
            pairs = [(_labels(each), each["values"]) for each in data["result"]]
            found = [(labels, [(float(when), float(value)) for when, value in of]) for labels, of in pairs]
            if not all(math.isfinite(when) for _, values in found for when, _ in values):
                raise ValueError("a moment is no number")
        moments = end - last_s + step_s * np.arange(math.floor(last_s / step_s + 1e-9) + 1)
        columns: dict[str, np.ndarray] = {}
        for labels, values in found:
            name = _written(labels) if label is None else labels.get(label, "")
            if name in columns:
                raise ValueError(f"several answers to {promql!r} have {label}={name!r}: leave out label, or sum by it")
            columns[name] = np.full(len(moments), np.nan)
            for when, value in values:
                i = round((when - moments[0]) / step_s)
                if 0 <= i < len(moments) and math.isfinite(value):
                    columns[name][i] = value
        return Series(moments - moments[0], columns, dict.fromkeys(columns, unit))

    def targets(self) -> dict[str, str]:
        """Whom it asks, each with ``"up"`` or why it is not.

        Raises:
            NoAnswer: no Prometheus is there.
        """
        found = self._ask("targets", state="active")
        with self._as_documented():
            return {str(each["scrapeUrl"]): str(each["lastError"] or each["health"]) for each in found["activeTargets"]}

    @contextmanager
    def _as_documented(self) -> Iterator[None]:
        """An answer that has not the form that Prometheus' manual gives it comes from something else."""
        try:
            yield
        except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
            raise NoAnswer(f"no Prometheus at {self.url}: what answers there is something else") from None

    def _ask(self, what: str, **fields: object) -> dict:
        try:
            content = fetch(f"{self.url}/api/v1/{what}?{urlencode(fields)}", self.timeout_s, ERRORS)
        except NoAnswer as error:
            raise NoAnswer(f"no Prometheus: {error}") from None
        with self._as_documented():
            check_lists(content, LETTERS_A_VALUE)
            answer = json.loads(content)
            if answer["status"] == "success":
                return dict(answer["data"])
            said = " ".join(answer["error"].split())
        raise BadQuery(f"{said:.500}")


def _labels(answered: Mapping) -> dict[str, str]:
    labels = dict(answered["metric"])
    if not all(isinstance(value, str) for value in labels.values()):
        raise TypeError("a label is no text")
    return labels


def _written(labels: Mapping[str, str]) -> str:
    """Labels as Prometheus writes them: ``name{rank="0"}``."""
    inside = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()) if key != "__name__")
    name = labels.get("__name__", "")
    return f"{name}{{{inside}}}" if inside else name or "value"
