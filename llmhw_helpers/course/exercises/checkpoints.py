"""Exercise on how often a run is saved (notebook 15)."""

from math import sqrt

from ...costs.checkpoints import checkpoint_bytes, fleet_mtbf, young_interval
from ..grading import Exercise, Mistake

YEAR = 365 * 24 * 3600.0
# parameters, bytes per second to storage, mean time between failures of one GPU, GPUs
RUNS = [(8e9, 5e9, 5.8 * YEAR, 16), (70e9, 34e9, 5.8 * YEAR, 512), (405e9, 2e12, 5.8 * YEAR, 16384)]
RUNS += [(135e6, 250e6, 1 * YEAR, 4)]


def _interval(n_params, bytes_per_s, gpu_mtbf_s, n_gpus, weights_only=False, bits=1):
    n_bytes = checkpoint_bytes(n_params, **({"state_bytes": 0.0} if weights_only else {}))
    return young_interval(bits * n_bytes / bytes_per_s, fleet_mtbf(gpu_mtbf_s, n_gpus))


EXERCISES = [
    Exercise(
        name="save_every",
        cases=RUNS,
        right=_interval,
        mistakes=[
            Mistake(
                "You took the time between failures of one GPU: with n of them, failures come n times as often.",
                lambda p, rate, gpu, n: _interval(p, rate, gpu, 1),
            ),
            Mistake(
                "You saved the weights alone: to go on, a run needs the optimizer's state, too, 14 bytes a parameter.",
                lambda *a: _interval(*a, weights_only=True),
            ),
            Mistake(
                "There is no 2 under your root: it is the root of twice the cost times the time between failures.",
                lambda *a: _interval(*a) / sqrt(2),
            ),
            Mistake(
                "You multiplied by n_gpus: with more GPUs the time between failures is shorter, so divide.",
                lambda p, rate, gpu, n: n * _interval(p, rate, gpu, n),
            ),
            Mistake("You returned twice the cost times the time: take its square root.", lambda *a: _interval(*a) ** 2),
            Mistake("You returned the seconds of one save, not how often to save.", lambda p, rate, *_: 14 * p / rate),
            Mistake("You returned minutes; seconds are asked for.", lambda *a: _interval(*a) / 60),
            Mistake(
                "You multiplied the bytes by 8: the rate is in bytes, not in bits.", lambda *a: _interval(*a, bits=8)
            ),
        ],
    )
]
