"""The exercises of notebook 00 against usual wrong answers and different right ones."""

from llmhw_helpers.course.exercises import roofline
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.clusters import cluster

PRICES = {"T4": 0.35, "V100": 1.31, "A40": 1, "A100-40GB": 1.84, "A100-80GB": 2.2}  # Alvis, by hand
PEAKS = {"T4": 65e12, "V100": 125e12, "A40": 149.7e12, "A100-40GB": 312e12, "A100-80GB": 312e12}
BANDWIDTHS = {"T4": 320e9, "V100": 900e9, "A40": 696e9, "A100-40GB": 1555e9, "A100-80GB": 2039e9}


def most(score):
    return max(PRICES, key=score)


def rows_by_bisection(n_in, n_out, b, ridge):
    intensity = lambda r: 2 * r * n_in * n_out / (b * (r * n_in + n_in * n_out + r * n_out))  # noqa: E731
    if intensity(1e12) < ridge:
        return float("inf")
    low, high = 0.0, 1e12
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if intensity(middle) >= ridge else (middle, high)
    return high


RIGHT = {
    "arithmetic_intensity": [
        lambda r, k, n, b: 2 * r * k * n / (b * (r * k + k * n + r * n)),
        lambda r, k, n, b: 2 / (b * (1 / n + 1 / r + 1 / k)),
    ],
    "ridge": [lambda f, b: f / b, lambda f, b: 1 / (b / f)],
    "best_gpu": [
        lambda i: most(lambda g: min(PEAKS[g], i * BANDWIDTHS[g]) / PRICES[g]),
        lambda i: "T4" if i > 200 else "A100-80GB",
    ],
    "rows_at_ridge": [
        rows_by_bisection,
        lambda k, n, b, ridge: x if (x := 1 / (2 / (ridge * b) - 1 / k - 1 / n)) > 0 else float("inf"),
    ],
}
# name: (wrong answer, a word of the hint that fits it)
WRONG = {
    "arithmetic_intensity": [
        (lambda r, k, n, b: r * k * n / (b * (r * k + k * n + r * n)), "two operations"),
        (lambda r, k, n, b: 2 * r * k * n / (r * k + k * n + r * n), "bytes_per_number"),
        (lambda r, k, n, b: 2 * r * k * n / (b * k * n), "weights only"),
        (lambda r, k, n, b: 2 * r * k * n / (b * (r * k + k * n)), "result has to be written"),
        (lambda r, k, n, b: 2 * r * k * n / (b * (k * n + r * n)), "input has to be read"),
        (lambda r, k, n, b: 2 * r * k * n / (b * (k + k * n + n)), "those of a single row"),
        (lambda r, k, n, b: b * (r * k + k * n + r * n) / (2 * r * k * n), "Upside down"),
        (lambda r, k, n, b: 3 * 2 * r * k * n / (b * (r * k + k * n + r * n)), "3 times the right answer"),
    ],
    "ridge": [
        (lambda f, b: b / f, "Upside down"),
        (lambda f, b: f / (8 * b), "bits"),
        (lambda f, b: 4 * f / b, "no factor"),
        (max, "the two *times*"),
    ],
    "best_gpu": [
        (lambda i: most(lambda g: min(PEAKS[g], i * BANDWIDTHS[g])), "fastest"),
        (lambda i: most(lambda g: PEAKS[g] / PRICES[g]), "nobody reaches a peak"),
        (lambda i: most(lambda g: BANDWIDTHS[g] / PRICES[g]), "compared bandwidths"),
        (lambda i: "V100", "worst buy"),
        (lambda i: accelerator("T4"), "a str is asked for"),
    ],
    "rows_at_ridge": [
        (lambda k, n, b, ridge: ridge * b / 2, "leaves out the input"),
        (lambda k, n, b, ridge: ridge * b * k * n / (2 * k * n - ridge * b * k), "leaves out the output"),
        (lambda k, n, b, ridge: ridge * b, "half of that"),
        (lambda k, n, b, ridge: "inf", "a float is asked for"),
        (lambda k, n, b, ridge: ridge / 2, "bytes_per_number"),
        (lambda k, n, b, ridge: 1 / (2 / (ridge * b) - 1 / k - 1 / n), "negative number of rows"),
    ],
}


def test_the_prices_above_are_those_of_the_course():
    assert {name: cluster("Alvis").price(name).known() for name in PRICES} == PRICES


def test_roofline(confront):
    confront(roofline.EXERCISES, RIGHT, WRONG)
