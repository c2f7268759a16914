"""Questions to a Prometheus: its query language goes in, numbers and series come out."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np

from .scrapes import NoAnswer, fetch
from .series import Series

ERRORS = (400, 422, 503)  # HTTP's numbers under which Prometheus says what is wrong with a question


class BadQuery(ValueError):
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
            BadQuery: it does not understand `promql`.
        """
        found = self._ask("query", query=promql, **({} if when is None else {"time": when}))
        if found["resultType"] in ("scalar", "string"):
            return [Answered({}, float(found["result"][1]))]
        return [Answered(each["metric"], float(each["value"][1])) for each in found["result"]]

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
            A column for each answer, NaN where there was none; seconds count from the first point.

        Raises:
            NoAnswer, BadQuery: as in `query`.
            ValueError: two answers have the same `label`.
        """
        end = time.time() if end is None else end
        found = self._ask("query_range", query=promql, start=end - last_s, end=end, step=step_s)["result"]
        moments = end - last_s + step_s * np.arange(math.floor(last_s / step_s + 1e-9) + 1)
        columns: dict[str, np.ndarray] = {}
        for each in found:
            name = _written(each["metric"]) if label is None else each["metric"].get(label, "")
            if name in columns:
                raise ValueError(f"several answers to {promql!r} have {label}={name!r}: leave out label, or sum by it")
            columns[name] = np.full(len(moments), np.nan)
            for when, value in each["values"]:
                columns[name][round((when - moments[0]) / step_s)] = float(value)
        return Series(moments - moments[0], columns, dict.fromkeys(columns, unit))

    def targets(self) -> dict[str, str]:
        """Whom it asks, each with ``"up"`` or why it is not.

        Raises:
            NoAnswer: no Prometheus is there.
        """
        active = self._ask("targets", state="active")["activeTargets"]
        return {each["scrapeUrl"]: each["lastError"] or each["health"] for each in active}

    def _ask(self, what: str, **fields: object) -> dict:
        try:
            content = fetch(f"{self.url}/api/v1/{what}?{urlencode(fields)}", self.timeout_s, ERRORS)
        except NoAnswer as error:
            raise NoAnswer(f"no Prometheus: {error}") from None
        try:
            answer = json.loads(content)
            if answer["status"] == "success":
                return answer["data"]
            said = answer["error"]
        except (ValueError, TypeError, KeyError):
            raise NoAnswer(f"no Prometheus at {self.url}: what answers there is something else") from None
        raise BadQuery(" ".join(said.split()))


def _written(labels: Mapping[str, str]) -> str:
    """Labels as Prometheus writes them: ``name{rank="0"}``."""
    inside = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()) if key != "__name__")
    name = labels.get("__name__", "")
    return f"{name}{{{inside}}}" if inside else name or "value"
