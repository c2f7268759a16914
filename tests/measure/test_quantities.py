"""Each quantity twice: from pages in Python, and by a real Prometheus that was given the same pages."""

import math
import random
import shutil
import subprocess

import pytest

from llmhw_helpers.measure.panels import ROWS, Panel
from llmhw_helpers.measure.prometheus import Prometheus
from llmhw_helpers.measure.quantities import Age, Level, PerEach, PerSecond, Quantile
from llmhw_helpers.measure.scrapes import Scrape, group_of, read_page

BEGIN, N_SCRAPES = 1_700_000_000, 40  # one a second
RANKS = [{"rank": str(rank), "job_id": job} for job in ("7", "8") for rank in range(2)]
QUANTITIES = [
    Level("loss", ("rank",)),
    Level("loss", ("job_id", "rank")),
    Level("loss"),
    PerSecond("tokens_total", ("rank",)),
    PerSecond("tokens_total"),
    PerEach("busy_seconds_total", "steps_total", ("job_id", "rank")),
    PerEach("busy_seconds_total", "steps_total"),
    PerEach("busy_seconds_total", "never_total"),
    PerEach("never_total", "never_total"),
    Quantile(0.5, "wait_seconds"),
    Quantile(0.99, "wait_seconds"),
    Age("moment_seconds", ("rank",)),
    Age("moment_seconds"),
]


@pytest.fixture(scope="module")
def scrapes():
    """Four programs, one of which begins anew on the way."""
    draw = random.Random(0)
    counters = ("tokens_total", "busy_seconds_total", "steps_total", "never_total")
    now = [dict.fromkeys(counters, 1000.0 + 100 * i) for i in range(len(RANKS))]
    buckets = {"0.1": 1000.0, "0.5": 1000.0, "2.0": 1000.0, "+Inf": 1000.0}
    found = []
    for i in range(N_SCRAPES):
        samples = {name: [] for name in (*counters, "loss", "moment_seconds")}
        for rank, (labels, values) in enumerate(zip(RANKS, now, strict=True)):
            if i == 25 and rank == 2:
                values.update(dict.fromkeys(counters, 0.0))
            for name in counters[:3]:
                values[name] += draw.choice((1, 2, 5)) * (rank + 1)
            for name in counters:
                samples[name].append((labels, values[name]))
            samples["loss"].append((labels, draw.choice((0.5, 2.0, 3.25))))
            samples["moment_seconds"].append((labels, float(BEGIN + i - rank)))
        for at, le in enumerate(buckets):
            buckets[le] += 3 * (at + 1) + i % 2
        samples["wait_seconds_bucket"] = [({"le": le}, n) for le, n in buckets.items()]
        found.append(Scrape(BEGIN + i, samples))
    return found


@pytest.fixture(scope="module")
def prometheus(run_prometheus, scrapes, tmp_path_factory):
    """A Prometheus whose past is `scrapes`."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("past")
    lines = []
    for name in scrapes[0].samples:
        kind = "counter" if name.endswith("_total") else "unknown"
        lines.append(f"# TYPE {name.removesuffix('_total')} {kind}")
        for n in range(len(scrapes[0].samples[name])):
            for each in scrapes:
                labels, value = each.samples[name][n]
                written = ",".join(f'{key}="{said}"' for key, said in labels.items())
                lines.append(f"{name}{{{written}}} {value!r} {each.when}")
    (folder / "past.txt").write_text("\n".join([*lines, "# EOF", ""]))
    made = ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "past.txt", folder / "data"]
    subprocess.run(made, check=True, capture_output=True)
    with run_prometheus(data=folder / "data") as url:
        yield Prometheus(url)


@pytest.mark.parametrize("last", [20, 32, 39])
@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.promql("10s"))
def test_python_says_what_prometheus_says(prometheus, scrapes, quantity, last):
    answers = prometheus.query(quantity.promql("10s"), when=scrapes[last].when)
    expected = {group_of(each.labels, quantity.labels): each.value for each in answers}
    found = quantity.of(scrapes[last - 10 : last + 1])
    assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert found


def test_a_panel_is_the_same_over_time(prometheus, scrapes):
    panel = Panel("Busy", "s", {"rank": QUANTITIES[5], "half": Quantile(0.5, "wait_seconds")})
    series = panel.series(scrapes, window_s=10)
    assert sorted(series.columns) == ["half", "rank 7 0", "rank 7 1", "rank 8 0", "rank 8 1"]
    assert math.isnan(series["rank 7 0"][0])  # one scrape has no rate
    assert series["rank 8 0"][20:] == pytest.approx(
        prometheus.range(
            'sum(rate(busy_seconds_total{job_id="8",rank="0"}[10s]))'
            ' / sum(rate(steps_total{job_id="8",rank="0"}[10s]))',
            19,
            1,
            end=scrapes[39].when,
        )["value"]
    )
    with pytest.raises(ValueError, match="no page has been scraped yet"):
        panel.series([])


def test_what_is_not_there_is_left_out():
    pages = [Scrape(when, read_page("a_total 5").samples) for when in (0.0, 1.0)]
    for quantity in (Level("b"), PerSecond("b"), PerEach("a_total", "b"), Quantile(0.5, "b"), Age("b")):
        assert quantity.of(pages) == {}
    assert PerSecond("a_total").of(pages[:1]) == {}
    assert PerSecond("a_total").of(pages) == {"": 0}
    assert math.isnan(PerEach("a_total", "a_total").of(pages)[""])


def test_every_panel_has_a_title_of_its_own():
    titles = [panel.title for row in ROWS.values() for panel in row]
    assert len(titles) == len(set(titles)) > 15
