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
                "Any of the GPUs ends the run: with n of them, failures come n times as often.",
                lambda p, rate, gpu, n: _interval(p, rate, gpu, 1),
            ),
            Mistake(
                "To go on, it needs the optimizer's state, too: 14 bytes a parameter, not 2.",
                lambda *a: _interval(*a, weights_only=True),
            ),
            Mistake("Young's interval is the root of twice cost times time.", lambda *a: _interval(*a) / sqrt(2)),
            Mistake("Take the square root.", lambda *a: _interval(*a) ** 2),
            Mistake("That is what a save takes, not how often to save.", lambda p, rate, *_: 14 * p / rate),
            Mistake("Seconds, not minutes or hours.", lambda *a: _interval(*a) / 60),
            Mistake("The rate is in bytes, not in bits.", lambda *a: _interval(*a, bits=8)),
        ],
    )
]
