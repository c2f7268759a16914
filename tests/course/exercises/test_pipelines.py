"""The exercise on pipelines against usual wrong answers and different right ones."""

from llmhw_helpers.costs.pipelines import idle_share, simulate
from llmhw_helpers.costs.schedules import interleaved, one_f_one_b
from llmhw_helpers.course.exercises import EXERCISES, pipelines


def by_simulation(p, m, v):
    return idle_share(simulate(interleaved(p, m, v) if v > 1 else one_f_one_b(p, m)))


RIGHT = {
    "bubble": [lambda p, m, v: (p - 1) / (v * m + p - 1), lambda p, m, v: 1 - m / (m + (p - 1) / v), by_simulation]
}
WRONG = {
    "bubble": [
        (lambda p, m, v: (p - 1) / v / m, "share of the *work*"),
        (lambda p, m, v: v * m / (v * m + p - 1), "in which share does it wait"),
        (lambda p, m, v: (p - 1) / (m + p - 1), "make each piece of work, and so the waiting, shorter"),
        (lambda p, m, v: (p * v - v) / (m + p * v - v), "they do not multiply it"),
        (lambda p, m, v: 1 - v * m / (v * m + p), "p - 1 others have worked"),
        (lambda p, m, v: (p - 1) / (v * m + p), "on top of the work"),
        (lambda p, m, v: 1 - 1 / p, "batch in one piece"),
        (lambda p, m, v: (p - 1) / v, "waiting in micro-batches"),
        (lambda p, m, v: p - 1, "waiting in chunks"),
        (lambda p, m, v: 0.0, "is not 0"),
    ]
}


def test_pipelines(confront):
    confront(pipelines.EXERCISES, RIGHT, WRONG)


def test_it_is_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in pipelines.EXERCISES)
