"""Fit the constants of `costs.efficiency` to measured.csv, and try them on the sources that were left out.

    python benchmarks/fit_efficiency.py

It prints the constants, and for each kind of speed how many measured figures lie in the range: with all sources in the
fit, and with each source predicted by a fit to the others.
"""

import math
import statistics
from collections.abc import Iterable, Mapping

import speed_rows
from scipy.optimize import least_squares
from tqdm import tqdm

from llmhw_helpers.costs.efficiency import FITTED, SPREAD
from llmhw_helpers.specs.measured import Row, measured_rows

# Where the search begins, and what a constant keeps to that hardly a row says something about.
START = {
    "stream": 0.85,
    "cycle bytes": 15.0,
    "cycle bytes, packed": 7.0,
    "cycle bytes, llama.cpp": 6.0,
    "layer, compiled": 50e-6,
    "layer, engine": 100e-6,
    "layer, llama.cpp": 70e-6,
    "layer, eager": 500e-6,
    "layer, bitsandbytes": 1.5e-3,
    "products, 16 bits": 0.6,
    "products, 8 bits": 0.5,
    "products, llama.cpp": 0.4,
    "cycle operations, llama.cpp": 700.0,
    "all-reduce": 10e-6,
    "all-reduce, network": 500e-6,
    "link, board": 0.7,
    "link, slot": 0.5,
    "link, network": 0.9,
    "training products": 0.7,
    "cycle operations, attention": 700.0,
    "training bytes, torch": 400.0,
    "training bytes, megatron": 200.0,
    "training bytes, eager": 600.0,
    "training layer, torch": 1e-3,
    "training layer, megatron": 1e-3,
    "training layer, eager": 4e-3,
    "training products, experts": 0.25,
    "cycle weights": 0.5,
}
FAR = 0.15  # logarithm of measured over likely
PRIOR = 0.1  # of a constant that is e times what it began as: as much as a speed that is off by 10%


def usable(rows: Iterable[Row]) -> list[Row]:
    """Rows of speed that can be predicted."""
    speeds = [row for row in rows if not row.quantity.startswith(("serve_memory", "roof"))]
    return [row for row, low, *_ in speed_rows.rows(speeds) if low is not None]


def fit(rows: list[Row], near: Mapping[str, float] = START, tolerance: float = 1e-6) -> dict[str, float]:
    """The constants of the least `loss`; the search begins at those that are `near`."""
    names = list(START)

    def constants(steps):
        return {name: START[name] * math.exp(step) for name, step in zip(names, steps, strict=True)}

    found = least_squares(
        lambda steps: misses(rows, constants(steps)),
        [math.log(near[name] / START[name]) for name in names],
        loss="soft_l1",
        f_scale=FAR,
        diff_step=0.01,
        xtol=tolerance,
        ftol=tolerance,
    )
    return {name: float(f"{value:.2g}") for name, value in constants(found.x).items()}


def loss(rows: list[Row], fitted: Mapping[str, float]) -> float:
    """What the fit makes small: squares of what is near, and hardly more than its size of what is far."""
    return sum(2 * FAR**2 * (math.hypot(1, each / FAR) - 1) for each in misses(rows, fitted))


def misses(rows: list[Row], fitted: Mapping[str, float]) -> list[float]:
    """How far off each row is, and each constant from what it began as."""
    moved = [PRIOR * math.log(fitted[name] / START[name]) for name in START]
    return [miss(row, fitted) for row in rows] + moved


def miss(row: Row, fitted: Mapping[str, float]) -> float:
    """Logarithm of measured over likely."""
    return math.log(row.value / speed_rows.predict(row, fitted).likely)


def kind(row: Row) -> str:
    """The kind of range that a row is held against."""
    if row.quantity.startswith("decode"):
        return "serving" if "prefill" in (row.other_inputs or "") else "decode"
    return {"ttft": "prefill", "batch_throughput": "serving"}.get(
        row.quantity, row.quantity.split("_")[0].replace("train", "training")
    )


def left_out(rows: list[Row], fitted_to_all: Mapping[str, float]) -> dict[str, float]:
    """By row: how far it is off with the fit to all other sources."""
    misses = {}
    for source in tqdm(sorted({row.source for row in rows}), "sources left out"):
        fitted = fit([row for row in rows if row.source != source], fitted_to_all, 1e-4)
        misses |= {row.id: miss(row, fitted) for row in rows if row.source == source}
    return misses


def main():
    rows = usable(measured_rows())
    fitted = fit(rows)
    for name, value in fitted.items():
        print(
            f"    {name!r}: {value:g},".replace("'", '"'), "" if value == FITTED[name] else f"  # was {FITTED[name]:g}"
        )
    others = left_out(rows, fitted)
    print(
        f"{'kind':10}{'rows':>6}{'median':>8}{'inside':>8}   left out: {'median':>8}{'inside':>8}{'spread for 80%':>16}"
    )
    for each in sorted({kind(row) for row in rows}):
        group = [row for row in rows if kind(row) == each]
        same = [abs(miss(row, fitted)) for row in group]
        new = sorted(abs(others[row.id]) for row in group)
        inside = [sum(m <= math.log(SPREAD[each]) for m in misses) / len(group) for misses in (same, new)]
        print(
            f"{each:10}{len(group):6}{statistics.median(same):8.1%}{inside[0]:8.0%}             "
            f"{statistics.median(new):8.1%}{inside[1]:8.0%}{math.exp(new[math.ceil(0.8 * len(new)) - 1]):16.2f}"
        )
    worst = sorted(rows, key=lambda row: -abs(others[row.id]))[:12]
    for row in worst:
        print(row.id, row.model, row.gpu, row.software, f"{math.exp(others[row.id]):.2f} of what was likely")


if __name__ == "__main__":
    main()
