"""Exercises on what a monitor's figures say (notebook 16)."""

import itertools
import math

from ..grading import Exercise, Mistake

# operations, bytes, seconds, and what the machine could do of both in a second
PROGRAMS = [
    (1.4e11, 2e9, 2.0, 1e11, 2e10),
    (4e9, 3.4e10, 2.0, 1e11, 2e10),
    (2e9, 1e9, 2.0, 1e11, 2e10),
    (8e10, 4e9, 2.0, 1e11, 2e10),
    (1e9, 6e9, 0.5, 1e11, 2e10),
    (9e10, 1.6e10, 1.0, 1e11, 2e10),
    (6e10, 1.9e10, 1.0, 1e11, 2e10),
    (3e14, 1e12, 1.0, 1e15, 3.3e12),
    (2e12, 1.7e12, 1.0, 312e12, 2e12),
    (0, 0, 1.0, 1e11, 2e10),
]
# seconds and value of a counter that is read again and again; a program that starts again counts from 0
READINGS = [
    ([(0, 0), (5, 500), (10, 1000)],),
    ([(0, 1000), (15, 1600), (30, 2200), (45, 2800)],),
    ([(0, 700), (10, 900), (20, 100), (30, 300)],),
    ([(0, 50), (2, 60), (4, 60), (6, 5), (8, 0), (10, 40)],),
    ([(100, 7), (160, 7)],),
    ([(0, 4), (1, 5), (11, 25)],),
]
# start and duration of what ran, in microseconds; one may begin inside another
EVENTS = [
    ([(0, 10), (20, 10)],),
    ([(0, 100), (10, 20), (50, 10), (150, 50)],),
    ([(1000, 50), (1050, 50), (1200, 100)],),
    ([(60, 40), (0, 30), (20, 20)],),
    ([(5, 20)],),
    ([(0, 100), (10, 80), (20, 10), (30, 90), (200, 100)],),
    ([(10, 0), (40, 10), (20, 5)],),
]


def _at_work(flops, n_bytes, seconds, peak_flops_per_s, peak_bytes_per_s, least=0.5):
    """What is used for at least half of what it can do; of both, what is used more."""
    shares = {"compute": flops / seconds / peak_flops_per_s, "memory": n_bytes / seconds / peak_bytes_per_s}
    most = max(shares, key=shares.get)
    return most if shares[most] >= least else "neither"


def _by_rate(flops, n_bytes, *rest):
    return _at_work(flops, n_bytes, 1.0, 1.0, 1.0) if flops or n_bytes else ...


def _compute_alone(flops, n_bytes, seconds, peak_flops_per_s, peak_bytes_per_s):
    return "compute" if flops / seconds / peak_flops_per_s >= 0.5 else "memory"


def _per_second(readings, after_reset=lambda before, after: after):
    """As PromQL's `rate` where the readings fill its window: a value below the one before says that it began at 0."""
    pairs = list(itertools.pairwise(readings))
    steps = [b - a if b >= a else after_reset(a, b) for (_, a), (_, b) in pairs]
    return sum(steps) / (readings[-1][0] - readings[0][0])


def _idle_share(events):
    """Of the time from the first start to the last end, the share in which nothing ran."""
    end = begin = min(start for start, _ in events)
    idle = 0
    for start, duration in sorted(events):
        idle += max(0, start - end)
        end = max(end, start + duration)
    return idle / (end - begin)


def _span(events):
    return max(start + duration for start, duration in events) - min(start for start, _ in events)


def _durations(events):
    idle = 1 - sum(duration for _, duration in events) / _span(events)
    return ... if idle < 0 else idle  # a negative one may be cut to 0, or not


def _neighbours(events, order=sorted):
    """Each gap from the end of the one that started before, though an earlier one may still run."""
    events = order(events)
    gaps = [b - (a + duration) for (a, duration), (b, _) in itertools.pairwise(events)]
    return sum(max(0, gap) for gap in gaps) / _span(events)


EXERCISES = [
    Exercise(
        name="at_work",
        cases=PROGRAMS,
        right=_at_work,
        mistakes=[
            Mistake(
                'You never return "neither": where the larger share is below one half, neither is at work.',
                lambda *a: _at_work(*a, least=0) if a[0] or a[1] else ...,
            ),
            Mistake("You compared operations with bytes: divide each by what the machine could do.", _by_rate),
            Mistake(
                "You looked at the arithmetic alone: its rest need not be memory, so compute both shares.",
                _compute_alone,
            ),
            Mistake(
                "You left out the seconds: operations and bytes are counts, and the peaks are rates.",
                lambda flops, n_bytes, seconds, *peaks: _at_work(flops, n_bytes, 1.0, *peaks),
            ),
        ],
    ),
    Exercise(
        name="per_second",
        cases=READINGS,
        right=_per_second,
        mistakes=[
            Mistake(
                "You took the last reading less the first: a counter that falls began again at 0. Go step by step.",
                lambda readings: (readings[-1][1] - readings[0][1]) / (readings[-1][0] - readings[0][0]),
            ),
            Mistake(
                "You count nothing for a step in which the counter fell: its new value was counted since the restart.",
                lambda readings: _per_second(readings, lambda before, after: 0),
            ),
            Mistake(
                "Where the counter fell you add both values: it began again at 0, so the new value alone counts.",
                lambda readings: _per_second(readings, lambda before, after: before + after),
            ),
            Mistake(
                "You divided by how many readings there are: divide by the seconds from the first to the last.",
                lambda readings: _per_second(readings) * (readings[-1][0] - readings[0][0]) / len(readings),
            ),
            Mistake(
                "You returned how much it increased: divide by the seconds from the first reading to the last.",
                lambda readings: _per_second(readings) * (readings[-1][0] - readings[0][0]),
            ),
            Mistake(
                "You took the mean of the steps' rates, but steps have different lengths: divide the sum once.",
                lambda readings: (
                    math.fsum(_per_second([a, b]) for a, b in itertools.pairwise(readings)) / (len(readings) - 1)
                ),
            ),
        ],
    ),
    Exercise(
        name="idle_share",
        cases=EVENTS,
        right=_idle_share,
        mistakes=[
            Mistake(
                "You returned the share in which something ran; the rest is asked for.", lambda e: 1 - _idle_share(e)
            ),
            Mistake(
                "You added up all durations: operations lie inside one another, and would be counted twice.",
                _durations,
            ),
            Mistake(
                "You compared each with the one before, but an earlier one may still run: keep the latest end so far.",
                _neighbours,
            ),
            Mistake(
                "You took the events in the order in which they came: sort them first.",
                lambda events: _neighbours(events, order=list),
            ),
            Mistake(
                "Your time begins at 0: it begins with the first operation.",
                lambda events: (
                    (_idle_share(events) * _span(events) + min(start for start, _ in events))
                    / max(start + duration for start, duration in events)
                ),
            ),
        ],
    ),
]
