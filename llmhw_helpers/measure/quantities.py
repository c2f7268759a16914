"""What a dashboard shows, each said twice from one description: in PromQL for a Prometheus, and from pages in Python.

Both take a window: the time that a rate is a mean over. In it a Prometheus needs two scrapes, and so do these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .scrapes import Scrape, group_of, histogram_quantile, increase


@dataclass(frozen=True)
class Level:
    """A number that goes up and down, summed by `labels`, now.

    >>> Level("train_loss", ("rank",)).promql("1m")
    'sum by (rank) (train_loss)'
    """

    name: str
    labels: tuple[str, ...] = ()

    def promql(self, window: str) -> str:
        """The query."""
        return _sum(self.labels, self.name)

    def of(self, scrapes: Sequence[Scrape]) -> dict[str, float]:
        """The same from the last of `scrapes`, by the values of `labels`."""
        return scrapes[-1].by(self.name, *self.labels) if self.name in scrapes[-1].samples else {}


@dataclass(frozen=True)
class PerSecond:
    """How fast a counter grows, summed by `labels`.

    >>> PerSecond("train_tokens_total").promql("1m")
    'sum(rate(train_tokens_total[1m]))'
    """

    name: str
    labels: tuple[str, ...] = ()

    def promql(self, window: str) -> str:
        """The query."""
        return _sum(self.labels, f"rate({self.name}[{window}])")

    def of(self, scrapes: Sequence[Scrape]) -> dict[str, float]:
        """The same over the time of `scrapes`; empty where fewer than two have the counter."""
        having = [each for each in scrapes if self.name in each.samples]
        if len(having) < 2:
            return {}
        seconds = having[-1].when - having[0].when
        return {key: grown / seconds for key, grown in increase(having, self.name, *self.labels).items()}


@dataclass(frozen=True)
class PerEach:
    """How much one counter grows for each that another grows by: seconds a step, or found tokens of those asked for.

    >>> PerEach("train_busy_seconds_total", "train_step_seconds_count", ("rank",)).promql("1m")
    'sum by (rank) (rate(train_busy_seconds_total[1m])) / sum by (rank) (rate(train_step_seconds_count[1m]))'
    """

    name: str
    each: str
    labels: tuple[str, ...] = ()

    def promql(self, window: str) -> str:
        """The query."""
        return " / ".join(PerSecond(name, self.labels).promql(window) for name in (self.name, self.each))

    def of(self, scrapes: Sequence[Scrape]) -> dict[str, float]:
        """The same over the time of `scrapes`; NaN where neither grew."""
        top, bottom = (PerSecond(name, self.labels).of(scrapes) for name in (self.name, self.each))
        return {key: _over(top[key], bottom[key]) for key in sorted(top.keys() & bottom.keys())}


@dataclass(frozen=True)
class Quantile:
    """What a share `q` of a histogram's new observations is below.

    >>> Quantile(0.95, "train_step_seconds").promql("1m")
    'histogram_quantile(0.95, sum by (le) (rate(train_step_seconds_bucket[1m])))'
    """

    q: float
    name: str

    @property
    def labels(self) -> tuple[str, ...]:
        """None: it is one number."""
        return ()

    def promql(self, window: str) -> str:
        """The query."""
        return f"histogram_quantile({self.q:g}, {PerSecond(f'{self.name}_bucket', ('le',)).promql(window)})"

    def of(self, scrapes: Sequence[Scrape]) -> dict[str, float]:
        """The same over the time of `scrapes`; NaN where nothing was observed."""
        buckets = PerSecond(f"{self.name}_bucket", ("le",)).of(scrapes)
        return {"": histogram_quantile(self.q, buckets)} if buckets else {}


@dataclass(frozen=True)
class Age:
    """Seconds since the latest moment that a gauge says, by `labels`.

    >>> Age("train_last_step_timestamp_seconds", ("rank",)).promql("1m")
    'time() - max by (rank) (train_last_step_timestamp_seconds)'
    """

    name: str
    labels: tuple[str, ...] = ()

    def promql(self, window: str) -> str:
        """The query."""
        return f"time() - {_sum(self.labels, self.name).replace('sum', 'max', 1)}"

    def of(self, scrapes: Sequence[Scrape]) -> dict[str, float]:
        """The same at the last of `scrapes`."""
        latest: dict[str, float] = {}
        for labels, value in scrapes[-1].samples.get(self.name, ()):
            key = group_of(labels, self.labels)
            latest[key] = max(value, latest.get(key, value))
        return {key: scrapes[-1].when - value for key, value in latest.items()}


Quantity = Level | PerSecond | PerEach | Quantile | Age


def _sum(labels: tuple[str, ...], what: str) -> str:
    return f"sum by ({', '.join(labels)}) ({what})" if labels else f"sum({what})"


def _over(a: float, b: float) -> float:
    return a / b if b else math.nan if a == 0 else math.inf
