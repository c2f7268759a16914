"""Exercise on the time of a message (notebook 15)."""

import numpy as np

from ..grading import Exercise, Mistake


def _timed(latency_s: float, bytes_per_s: float, *sizes: float) -> tuple[list[float], list[float]]:
    return list(sizes), [latency_s + size / bytes_per_s for size in sizes]


# Between ranks of a laptop, over a wire of 250 Mbit/s, over InfiniBand, and a wire of which only large ones were timed.
TIMED = [
    _timed(80e-6, 1.5e9, 1e3, 1e5, 1e6, 1e7),
    _timed(50e-6, 30e6, 1e3, 1e4, 1e6),
    _timed(2e-6, 24e9, 64, 4096, 1e6, 1e9),
    _timed(10e-3, 1e8, 1e6, 2e6),
]


def _line(sizes, seconds):
    """Least squares, each time as much as its size allows: exact where the points lie on a line."""
    beta, alpha = np.polyfit(sizes, seconds, 1, w=1 / np.array(seconds))
    return float(alpha), float(beta)


EXERCISES = [
    Exercise(
        name="alpha_beta",
        cases=TIMED,
        right=_line,
        mistakes=[
            Mistake(
                "Your beta is a rate, in bytes a second: beta is one over the rate, the seconds of a byte.",
                lambda sizes, seconds: (_line(sizes, seconds)[0], 1 / _line(sizes, seconds)[1]),
            ),
            Mistake(
                "You returned beta before alpha: alpha comes first.", lambda sizes, seconds: _line(sizes, seconds)[::-1]
            ),
            Mistake(
                "Your beta is all seconds of the largest message over its bytes: take differences, without the start.",
                lambda sizes, seconds: (_line(sizes, seconds)[0], seconds[-1] / sizes[-1]),
            ),
            Mistake(
                "Your alpha is the time of the smallest message: it has bytes, too, so take their time away.",
                lambda sizes, seconds: (seconds[0], _line(sizes, seconds)[1]),
            ),
            Mistake(
                "You took alpha from the smallest message and beta from the largest alone: take differences of both.",
                lambda sizes, seconds: (seconds[0], seconds[-1] / sizes[-1]),
            ),
            Mistake(
                "Your alpha is 0, as of a line through zero: let the line begin above it.",
                lambda sizes, seconds: (0.0, float(np.dot(sizes, seconds) / np.dot(sizes, sizes))),
            ),
        ],
    )
]
