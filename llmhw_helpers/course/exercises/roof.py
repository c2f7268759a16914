"""Exercises on a decode step at the memory's roof: its parts, one product's time, a product in 8 bits, a kept guess."""

from collections.abc import Sequence

import numpy as np

from ..grading import Exercise, Mistake

# seconds of a step, bytes to fetch, bytes a second, programs, seconds to start one
STEPS = [
    (27.4e-3, 544e6, 37e9, 2100, 1e-6),
    (9.0e-3, 272e6, 50e9, 700, 2e-6),
    (4.0e-3, 1e6, 20e9, 500, 5e-6),
    (15.0e-3, 540e6, 40e9, 1, 3e-6),
]
# weights, bytes of each, bytes a second, seconds of an addition, sums side by side
PRODUCTS = [
    (28_311_552, 4, 40e9, 1e-9, 1),
    (28_311_552, 4, 40e9, 1e-9, 64),
    (28_311_552, 2, 40e9, 1e-9, 8),
    (1_000_000, 1, 10e9, 2e-9, 40),
    (1_000_000, 4, 10e9, 0.5e-9, 4),
]
# what is guessed, and what the model says after the text and after each token of the guess
GUESSES = [
    ([7, 8, 5], [7, 8, 9, 1]),
    ([7, 8, 5], [7, 8, 5, 1]),
    ([4, 6, 2], [3, 6, 2, 9]),
    ([4, 6, 2], [4, 7, 2, 9]),
    ([], [5]),
]


def _matrices() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers above 0 in each row of inputs, so that no sum is near 0, where rounding would be all of it."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(1, 128, shape).astype(np.int8) * rng.choice([-1, 1], (shape[0], 1)).astype(np.int8),
            rng.uniform(0.001, 0.02, shape[0]).astype(np.float32),
            rng.uniform(0.1, 2.0, shape[1]).astype(np.float32),
        )
        for shape in ((3, 5), (4, 4), (1, 70))
    ]


def _parts(step_s: float, n_bytes: float, bytes_per_s: float, n_programs: int, start_s: float) -> tuple:
    reading, starts = n_bytes / bytes_per_s, n_programs * start_s
    return reading, starts, step_s - reading - starts


def _shares(step_s: float, *others: float) -> tuple:
    return tuple(part / step_s for part in _parts(step_s, *others))


def _one_start(step_s: float, n_bytes: float, bytes_per_s: float, n_programs: int, start_s: float) -> tuple:
    return _parts(step_s, n_bytes, bytes_per_s, 1, start_s)


def _all_but_reading(*step: float) -> tuple:
    reading, starts, _ = _parts(*step)
    return reading, starts, step[0] - reading


def _seconds(n_weights: int, bytes_per_weight: int, bytes_per_s: float, add_s: float, n_sums: int) -> float:
    return max(n_weights * bytes_per_weight / bytes_per_s, n_weights * add_s / n_sums)


def _product(w: np.ndarray, scales: np.ndarray, x: np.ndarray) -> np.ndarray:
    return scales.astype(float) * (w.astype(float) @ x.astype(float))


def _agreed(guess: Sequence[int], said: Sequence[int]) -> list[int]:
    n = next((i for i, token in enumerate(guess) if token != said[i]), len(guess))
    return list(said[: n + 1])


def _right_anywhere(guess: Sequence[int], said: Sequence[int]) -> list[int]:
    return [token for i, token in enumerate(said) if i == len(guess) or token == guess[i]]


EXERCISES = [
    Exercise(
        name="parts_of_a_step",
        cases=STEPS,
        right=_parts,
        mistakes=[
            Mistake("The rest is what neither of the two explains: take both away.", _all_but_reading),
            Mistake("Each part is in seconds, not a share of the step.", _shares),
            Mistake("Every program has to be started: as many starts as programs.", _one_start),
            Mistake(
                "Seconds are bytes over bytes a second.",
                lambda step, n, rate, count, start: (rate / n, count * start, step - rate / n - count * start),
            ),
            Mistake(
                "Return three parts: reading, starts and the rest.",
                lambda *step: _parts(*step)[2],
            ),
        ],
    ),
    Exercise(
        name="product_seconds",
        cases=PRODUCTS,
        right=_seconds,
        mistakes=[
            Mistake(
                "Weights are fetched while others are added: the longer of the two counts, not their sum.",
                lambda n, size, rate, add, sums: n * size / rate + n * add / sums,
            ),
            Mistake(
                "The shorter of the two is hidden behind the longer one: take the longer.",
                lambda n, size, rate, add, sums: min(n * size / rate, n * add / sums),
            ),
            Mistake(
                "That is the fetching alone: additions may take longer.", lambda n, size, rate, *_: n * size / rate
            ),
            Mistake("That is the adding alone: the weights have to arrive, too.", lambda n, _s, _r, a, k: n * a / k),
            Mistake(
                "While one sum waits for its addition, the others go on: divide by the sums.",
                lambda n, size, rate, add, sums: max(n * size / rate, n * add),
            ),
            Mistake(
                "A weight has bytes_per_weight bytes, not always 4.",
                lambda n, size, rate, add, sums: max(n * 4 / rate, n * add / sums),
            ),
        ],
    ),
    Exercise(
        name="product_int8",
        cases=_matrices(),
        right=_product,
        mistakes=[
            Mistake("Each row's sum is to be multiplied by its scale.", lambda w, scales, x: w.astype(float) @ x),
            Mistake(
                "The scale belongs to the row, not to the input: scales[i], once the sum is there.",
                lambda w, scales, x: w.astype(float) @ (scales * x) if len(scales) == len(x) else ...,
            ),
            Mistake(
                "The sum is a whole number in your answer: begin it with np.float32(0), and y with floats.",
                lambda w, scales, x: np.trunc(_product(w, scales, x)),
            ),
            Mistake(
                "x is cut to whole numbers in your answer: widen the weight, and leave x as it is.",
                lambda w, scales, x: _product(w, scales, np.trunc(x)),
            ),
            Mistake(
                "A weight may be negative: widen it with its sign.",
                lambda w, scales, x: _product(w.view(np.uint8), scales, x),
            ),
        ],
    ),
    Exercise(
        name="kept_tokens",
        cases=GUESSES,
        right=_agreed,
        mistakes=[
            Mistake(
                "One token more: after the last right guess the model has said what comes next, and that is free.",
                lambda guess, said: _agreed(guess, said)[:-1],
            ),
            Mistake(
                "Behind a wrong guess the model has read a text that is not yours: nothing counts there.",
                _right_anywhere,
            ),
            Mistake("Stop at the first guess that the model does not say.", lambda guess, said: list(said)),
            Mistake(
                "The last token is the model's own, not the wrong guess.",
                lambda guess, said: [*guess, said[-1]][: len(_agreed(guess, said))],
            ),
        ],
    ),
]
