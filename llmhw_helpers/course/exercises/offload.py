"""Exercises on choosing a flavour, and on a model that is larger than the memory (notebook 11)."""

from ...costs.offload import Split, pass_seconds
from ..grading import Exercise, Mistake

# name, whether it runs here, bytes, loss, tokens per second
OFFERS = [
    ("bf16", True, 17.6e9, 0.0, 43.0),
    ("FP8", False, 9.1e9, 0.0, 80.0),
    ("int8", True, 9.1e9, 0.004, 79.0),
    ("int4", True, 5.7e9, 0.024, 130.0),
    ("2 bits", True, 4.2e9, 0.56, 170.0),
]
MANY = [("int4", True, 5.7e9, 0.024, 2600.0), ("W8A8", True, 9.1e9, 0.01, 4000.0), ("fp16", True, 17.6e9, 0.0, 2100.0)]
ASKED = [
    (MANY, 8e9, 0.03),
    (MANY, 24e9, 0.03),
    (OFFERS, 24e9, 0.03),
    (OFFERS, 24e9, 0.01),
    (OFFERS, 10e9, 0.01),
    (OFFERS, 24e9, 0.6),
    (OFFERS, 5e9, 0.6),
]
ASKED += [(OFFERS[:3], 24e9, 0.0), (OFFERS[::-1], 15e9, 0.03)]


def _take(offers, memory, max_loss, runs=True, fits=True, keeps=True, key=lambda each: each[4], pick=max):
    able = [
        each
        for each in offers
        if (each[1] or not runs) and (each[2] <= memory or not fits) and (each[3] <= max_loss or not keeps)
    ]
    return pick(able, key=key)[0] if able else None


def _best(offers, memory, max_loss):
    """The rule of `costs.flavours`, on rows of numbers, counted down from the fastest."""
    for name, runs, n_bytes, loss, _ in sorted(offers, key=lambda each: -each[4]):
        if runs and n_bytes <= memory and loss <= max_loss:
            return name
    return None


# weight bytes outside of the layers, bytes of a layer, layers, limit, bytes per second of the disk
SMALL, LARGE = (113_000_000, 14_200_000, 30), (4_200_000_000, 1_710_000_000, 80)
STREAMS = [(*SMALL, 200e6, 2e9), (*SMALL, 400e6, 1e9), (*LARGE, 40e9, 31.5e9), (*SMALL, 540e6, 2e9)]
STREAMS += [(1_000_000, 5_000_000, 10, 11e6, 1e8)]


def _kept(outside, layer, n, limit, window=2):
    return n if outside + n * layer <= limit else int((limit - outside) // layer) - window


def _stream(outside, layer, n, limit, rate):
    return pass_seconds(Split(n, _kept(outside, layer, n, limit), layer, outside), rate)


EXERCISES = [
    Exercise(
        name="take",
        cases=ASKED,
        right=_best,
        mistakes=[
            Mistake("It has to run here: look at the second entry of a row.", lambda *a: _take(*a, runs=False)),
            Mistake("It has to fit into the memory.", lambda *a: _take(*a, fits=False)),
            Mistake("One that loses more than max_loss is not to be taken.", lambda *a: _take(*a, keeps=False)),
            Mistake(
                "Of those that will do, the fastest: the *most* tokens per second, not the least loss.",
                lambda *a: _take(*a, key=lambda each: each[3], pick=min),
            ),
            Mistake(
                "Of those that will do, the fastest: not the one that takes least memory.",
                lambda *a: _take(*a, key=lambda each: each[2], pick=min),
            ),
            Mistake(
                "The fastest of all is not asked for: it has to run, to fit, and to lose no more than max_loss.",
                lambda *a: _take(*a, runs=False, fits=False, keeps=False),
            ),
            Mistake("That is a whole row: give its name alone.", lambda *a: next(o for o in a[0] if o[0] == _best(*a))),
        ],
    ),
    Exercise(
        name="stream_seconds",
        cases=STREAMS,
        right=_stream,
        rtol=1e-6,
        mistakes=[
            Mistake(
                "Keep room for two layers on their way, one at work and the next one.",
                lambda outside, layer, n, limit, rate: (n - _kept(outside, layer, n, limit, 0)) * layer / rate,
            ),
            Mistake(
                "Embedding and head stay in memory, too: the layers get what they leave.",
                lambda outside, layer, n, limit, rate: (n - _kept(0, layer, n, limit)) * layer / rate,
            ),
            Mistake(
                "Only layers that do not stay are streamed.", lambda outside, layer, n, limit, rate: n * layer / rate
            ),
            Mistake(
                "Whole layers: a part of one that would fit does not help.",
                lambda outside, layer, n, limit, rate: (
                    (0 if outside + n * layer <= limit else n - (limit - outside) / layer + 2) * layer / rate
                ),
            ),
            Mistake(
                "Where all layers fit, nothing is streamed, and no window is needed.",
                lambda outside, layer, n, limit, rate: max(0, n - (int((limit - outside) // layer) - 2)) * layer / rate,
            ),
            Mistake(
                "Seconds: bytes divided by bytes per second.",
                lambda outside, layer, n, limit, rate: (n - _kept(outside, layer, n, limit)) * layer * rate,
            ),
        ],
    ),
]
