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
                "Beta is the time of a byte: one over the rate.",
                lambda sizes, seconds: (_line(sizes, seconds)[0], 1 / _line(sizes, seconds)[1]),
            ),
            Mistake("First alpha, then beta.", lambda sizes, seconds: _line(sizes, seconds)[::-1]),
            Mistake(
                "Seconds over bytes of the largest message count its start as if it were wire: take differences.",
                lambda sizes, seconds: (_line(sizes, seconds)[0], seconds[-1] / sizes[-1]),
            ),
            Mistake(
                "The smallest message has bytes, too, and they take time: go on to a message of none.",
                lambda sizes, seconds: (seconds[0], _line(sizes, seconds)[1]),
            ),
            Mistake(
                "The smallest message has bytes, too, and the largest has a start: take differences of both.",
                lambda sizes, seconds: (seconds[0], seconds[-1] / sizes[-1]),
            ),
            Mistake(
                "A line through zero has no alpha: let it begin above.",
                lambda sizes, seconds: (0.0, float(np.dot(sizes, seconds) / np.dot(sizes, sizes))),
            ),
        ],
    )
]
