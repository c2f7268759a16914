"""Exercises on arithmetic intensity and the roofline (notebook 00)."""

from ...costs.flops import product
from ...costs.roofline import Roof
from ...specs.accelerators import accelerator
from ...specs.clusters import cluster
from ..grading import Exercise, Mistake

ALVIS = ("T4", "V100", "A40", "A100-40GB", "A100-80GB")
ROOFS = {name: Roof.of(accelerator(name)) for name in ALVIS}


def _price(name: str) -> float:
    return cluster("Alvis").price(name).known()


def _fastest(intensity: float) -> str:
    return max(ALVIS, key=lambda name: ROOFS[name].attainable("fp16", intensity))


def _cheapest(intensity: float) -> str:
    return max(ALVIS, key=lambda name: ROOFS[name].attainable("fp16", intensity) / _price(name))


def _worst_buy(intensity: float) -> str:
    return min(ALVIS, key=lambda name: ROOFS[name].attainable("fp16", intensity) / _price(name))


def _most_peak_for_the_price(intensity: float) -> str:
    return max(ALVIS, key=lambda name: ROOFS[name].peak("fp16") / _price(name))


def _most_bandwidth_for_the_price(intensity: float) -> str:
    return max(ALVIS, key=lambda name: ROOFS[name].bytes_per_s / _price(name))


def _rows_at_ridge(n_in: int, n_out: int, bytes_per_number: float, ridge: float) -> float:
    """``2 r k n = ridge * b * (r k + k n + r n)``, solved for r; infinite where the ridge is out of reach."""
    denominator = 2 * n_in * n_out - ridge * bytes_per_number * (n_in + n_out)
    return ridge * bytes_per_number * n_in * n_out / denominator if denominator > 0 else float("inf")


EXERCISES = [
    Exercise(
        name="arithmetic_intensity",
        cases=[(1, 576, 1536, 4), (64, 576, 1536, 4), (4096, 1536, 576, 2), (7, 5, 3, 2)],
        right=lambda rows, n_in, n_out, b: product(rows, n_in, n_out, "fp32").intensity * 4 / b,
        mistakes=[
            Mistake(
                "A multiply and an add are two operations: you are off by a factor of 2.",
                lambda r, k, n, b: r * k * n / (b * (r * k + k * n + r * n)),
            ),
            Mistake(
                "Those are operations per number. Memory moves bytes: use bytes_per_number.",
                lambda r, k, n, b: 2 * r * k * n / (r * k + k * n + r * n),
            ),
            Mistake(
                "You counted the weights only. The input is read and the output written, too.",
                lambda r, k, n, b: 2 * r * k * n / (b * k * n),
            ),
            Mistake(
                "The result has to be written as well: rows * n_out numbers more.",
                lambda r, k, n, b: 2 * r * k * n / (b * (r * k + k * n)),
            ),
            Mistake(
                "The input has to be read as well: rows * n_in numbers more.",
                lambda r, k, n, b: 2 * r * k * n / (b * (k * n + r * n)),
            ),
            Mistake(
                "The bytes are those of a single row. Every row is read and written: both grow with rows.",
                lambda r, k, n, b: 2 * r * k * n / (b * (k + k * n + n)),
            ),
            Mistake(
                "Upside down: intensity is operations per byte.",
                lambda r, k, n, b: b * (r * k + k * n + r * n) / (2 * r * k * n),
            ),
        ],
    ),
    Exercise(
        name="ridge",
        cases=[(312e12, 1555e9), (65e12, 320e9), (137e9, 33e9)],
        right=lambda flops_per_s, bytes_per_s: flops_per_s / bytes_per_s,
        mistakes=[
            Mistake("Upside down: the ridge is in FLOP per byte.", lambda f, b: b / f),
            Mistake("You counted bits: bandwidth is in bytes per second here.", lambda f, b: f / (8 * b)),
            Mistake(
                "The bandwidth is in bytes already, whatever the format: no factor for it.", lambda f, b: 4 * f / b
            ),
            Mistake("That is the faster of the two rates. Ask at which intensity the two *times* are equal.", max),
        ],
    ),
    Exercise(
        name="best_gpu",
        cases=[(1.0,), (30.0,), (150.0,), (1000.0,)],
        right=_cheapest,
        mistakes=[
            Mistake(
                "That is the fastest one. Divide by its price: the most work for the quota is asked for.", _fastest
            ),
            Mistake(
                "Peaks, or prices alone, do not tell: at a low intensity nobody reaches a peak. Use attainable.",
                _most_peak_for_the_price,
            ),
            Mistake("That is the worst buy: you are looking for the most work for the price.", _worst_buy),
            Mistake(
                "You compared bandwidths, or always named one card. At a high intensity memory does not bind.",
                _most_bandwidth_for_the_price,
            ),
        ],
    ),
    Exercise(
        name="rows_at_ridge",
        cases=[(4096, 14336, 2, 200.6), (8192, 28672, 2, 150.0), (576, 1536, 4, 4.2), (576, 576, 2, 300.0)],
        right=_rows_at_ridge,
        mistakes=[
            Mistake(
                "Almost: that leaves out the input and the output, which grow with the rows, too.",
                lambda k, n, b, ridge: ridge * b / 2,
            ),
            Mistake(
                "Almost: that leaves out the output, which is written and grows with the rows, too.",
                lambda k, n, b, ridge: x if (x := 1 / (2 / (ridge * b) - 1 / n)) > 0 else float("inf"),
            ),
            Mistake("With a multiply-add as two operations, half of that.", lambda k, n, b, ridge: ridge * b),
            Mistake(
                "The ridge is in FLOP per byte, and a number has bytes_per_number of them.", lambda k, n, b, r: r / 2
            ),
            Mistake(
                "A negative number of rows: there, even infinitely many stay below the ridge. Return float('inf').",
                lambda k, n, b, r: r * b * k * n / (2 * k * n - r * b * (k + n)),
            ),
        ],
    ),
]
