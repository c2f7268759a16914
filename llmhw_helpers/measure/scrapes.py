"""Pages of numbers in Prometheus' text format: asked for once, or again and again, as Prometheus does.

What its query language makes of them is here as a few functions, so that no Prometheus is needed where one program
watches another: `increase` (of counters, those that began anew too), and `histogram_quantile`.
"""

import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from ..specs.figures import look_up
from ..specs.settings import OneLine

MOST_BYTES = 32 << 20  # of a page
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whom we watch is near: no proxy between


class NoAnswer(OneLine, OSError):
    """Nobody answers at an address, or not what was asked for: the message says which."""


@dataclass(frozen=True)
class Scrape:
    """The numbers of one or more pages at one moment.

    Attributes:
        when: as ``time.time``.
        samples: by name, each with its labels.

    >>> page = read_page('steps_total{rank="0"} 10\\nsteps_total{rank="1"} 12')
    >>> page.by("steps_total", "rank"), page.total("steps_total"), page.total("steps_total", rank="1")
    ({'0': 10.0, '1': 12.0}, 22.0, 12.0)
    """

    when: float
    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]

    def by(self, name: str, *by: str, **matching: str) -> dict[str, float]:
        """The sums of `name` for each value of the labels `by`, of those whose labels are as in `matching`.

        Of several labels the values are put together with spaces.

        Raises:
            UnknownName: the page has no such number; the message names the nearest.
        """
        sums: dict[str, float] = {}
        for labels, value in look_up(name, self.samples, "number on the page"):
            if _fits(labels, matching):
                group = group_of(labels, by)
                sums[group] = sums.get(group, 0.0) + value
        return sums

    def total(self, name: str, **matching: str) -> float:
        """The sum of `name` over all labels, of those as in `matching`; raises as `by`."""
        return math.fsum(self.by(name, **matching).values())


def group_of(labels: Mapping[str, str], by: Iterable[str]) -> str:
    """The values of the labels `by`, with spaces between; labels that are missing or empty add nothing."""
    return " ".join(filter(None, (labels.get(each) for each in by)))


def read_page(text: str, when: float = 0.0) -> Scrape:
    """What a page says.

    Raises:
        NoAnswer: it is no page in Prometheus' text format.
    """
    samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    except (ValueError, IndexError, KeyError) as error:  # all of them come from the library, for bad lines
        raise NoAnswer(f"no page in Prometheus' format: {' '.join(str(error).split()):.100}") from None
    return Scrape(when, samples)


def scrape(url: str, timeout_s: float = 5.0) -> Scrape:
    """Ask for the page at `url` now; beside an API (``http://HOST:PORT/v1``) it is ``/metrics``.

    Raises:
        NoAnswer: nobody is there, it takes longer than `timeout_s`, or it is no such page.
    """
    beside = re.fullmatch(r"(https?://[^/]+)(/v1)?/?", url)
    address = f"{beside[1]}/metrics" if beside else url
    return read_page(fetch(address, timeout_s).decode(errors="replace"), time.time())


def fetch(url: str, timeout_s: float, readable: Collection[int] = ()) -> bytes:
    """What is at `url`; `NoAnswer` where nothing comes, or an HTTP error whose number is none of `readable`."""
    if not url.startswith(("http://", "https://")):
        raise NoAnswer(f"{url} is no address: it begins with http:// or https://")
    try:
        with DIRECT.open(urllib.request.Request(url, headers={"Accept": "text/plain"}), timeout=timeout_s) as answer:
            content = _read(answer, time.monotonic() + timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            content = error.read(MOST_BYTES)
        if error.code in readable:
            return content
        said = " ".join(content[:300].decode(errors="replace").split())
        raise NoAnswer(f"{url} answers with {error.code}: {said or error.reason}") from None
    except (OSError, ValueError, HTTPException) as error:  # refused, reset, too late, half an answer, no HTTP
        reason = getattr(error, "reason", None) or error
        said = " ".join(str(getattr(reason, "strerror", None) or reason or type(reason).__name__).split())
        raise NoAnswer(f"nobody answers at {url}: {said}") from None
    if len(content) > MOST_BYTES:
        raise NoAnswer(f"{url} has more than {MOST_BYTES >> 20} MiB: that is no page of numbers")
    return content


def _read(answer: HTTPResponse, late: float) -> bytes:
    """All that comes until `late`, or a little more than is allowed."""
    content = b""
    while len(content) <= MOST_BYTES and (piece := answer.read1(1 << 16)):
        content += piece
        if time.monotonic() > late:  # a wait for each piece has a limit, and the pieces may be many
            raise TimeoutError("timed out")
    if answer.length and len(content) <= MOST_BYTES:  # bytes that were promised
        raise HTTPException("its answer ends in the middle")
    return content


class Scraper:
    """Asks for pages again and again, in a thread, for as long as the context lasts: a small Prometheus.

    Every number gets the label ``instance``, the host and port that it came from, and ``up`` says of each whether it
    answered. One that does not is left out of that round, and asked again in the next.

    Args:
        urls: as `scrape` takes them.
        interval_s: from one round to the next.

    Attributes:
        urls: by instance.
        scrapes: one a round, so far; at the end of the context a last one.
    """

    def __init__(self, urls: Iterable[str], interval_s: float = 0.5):
        self.interval_s = interval_s
        self.urls = {urlsplit(url).netloc: url for url in urls}
        self.scrapes: list[Scrape] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scraper", daemon=True)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        self._round()
        while not self._done.wait(self.interval_s):
            self._round()
        self._round()

    def _round(self) -> None:
        when, samples = time.time(), {"up": []}
        for instance, url in self.urls.items():
            try:
                page, up = scrape(url).samples, 1.0
            except NoAnswer:
                page, up = {}, 0.0
            samples["up"].append(({"instance": instance}, up))
            for name, values in page.items():
                of_all = samples.setdefault(name, [])
                of_all += [({**labels, "instance": instance}, value) for labels, value in values]
        self.scrapes.append(Scrape(when, samples))


def increase(scrapes: Sequence[Scrape], name: str, *by: str, **matching: str) -> dict[str, float]:
    """How far counters have come from the first scrape to the last, summed by the labels `by`.

    A counter that is smaller than before was reset, as its program began anew: it has come from 0. What came between
    its last scrape and its end is lost, here and at Prometheus (whose own ``increase`` stretches the result to the
    whole time that was asked for).

    Args:
        scrapes: in the order of time; a program need not be in all of them.
        name: of the counter.
        by, matching: as in `Scrape.by`.

    Raises:
        UnknownName: no scrape has such a number.

    >>> pages = [read_page(f"steps_total {n}") for n in (10, 14, 3, 5)]
    >>> increase(pages, "steps_total")
    {'': 9.0}
    """
    known = {key: values for each in scrapes for key, values in each.samples.items()}
    look_up(name, known, "number on the pages")
    last: dict[tuple, float] = {}
    grown: dict[str, float] = {}
    for each in scrapes:
        for labels, value in each.samples.get(name, ()):
            if _fits(labels, matching):
                series, group = tuple(sorted(labels.items())), group_of(labels, by)
                before = last.get(series, value)
                grown[group] = grown.get(group, 0.0) + (value - before if value >= before else value)
                last[series] = value
    return grown


def histogram_quantile(q: float, buckets: Mapping[str, float]) -> float:
    """The value that a share `q` of the observations is below, as Prometheus reckons it: a line inside the bucket.

    Args:
        q: from 0 to 1.
        buckets: observations up to each bound, by the bound as its label ``le`` says it; ``"+Inf"`` has all.

    Returns:
        In the unit of the bounds; NaN without observations; the last finite bound where more was observed.

    >>> histogram_quantile(0.5, {"1": 0, "2": 10, "+Inf": 10})
    1.5
    """
    bounds = sorted((math.inf if le == "+Inf" else float(le), n) for le, n in buckets.items())
    if not bounds or not bounds[-1][1]:
        return math.nan
    rank, below, lower = q * bounds[-1][1], 0.0, 0.0
    for bound, n in bounds:
        if n >= rank and n > below:
            return lower if bound == math.inf else lower + (bound - lower) * (rank - below) / (n - below)
        below, lower = n, bound
    return lower


def _fits(labels: Mapping[str, str], matching: Mapping[str, str]) -> bool:
    return all(labels.get(key, "") == wanted for key, wanted in matching.items())
