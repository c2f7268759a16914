"""Exercises on a job from its plan to its end: what to defend, what it may cost, how often it starts, its share."""

import math
from collections.abc import Mapping

from ..grading import Exercise, Mistake

# price of a million tokens, tokens a second, loss of quality
PLANS = [
    ((1.5, 9.0, 0.02), {"A": (1.5, 9.0, 0.02), "B": (1.4, 9.5, 0.02), "C": (1.2, 12.0, 0.03), "D": (1.6, 14.0, 0.02)}),
    ((2.0, 5.0, 0.0), {"A": (2.0, 5.0, 0.01), "B": (1.9, 4.9, 0.0), "C": (2.0, 5.1, 0.0), "D": (1.0, 9.0, 0.0)}),
    ((1.0, 20.0, 0.0), {"A": (1.1, 21.0, 0.0), "B": (0.9, 20.0, 0.01)}),
    ((3.0, 5.0, 0.01), {"A": (2.9, 4.0, 0.0), "B": (3.1, 6.0, 0.0), "C": (3.0, 5.0, 0.0)}),
]
HEADS = [
    ({"nodes": "1", "gpus-per-node": "A100:2", "time": "0-12:00:00"},),
    ({"nodes": "4", "gpus-per-node": "4", "time": "1-06:30:00"},),
    ({"nodes": "1", "gpus-per-node": "A40:1", "time": "0-12:00:00", "array": "1-8"},),
    ({"nodes": "2", "gpus-per-node": "A100fat:4", "time": "2-00:45:00", "array": "0-19%4"},),
]
# steps; seconds of a step, from a job's start to its first step, of the limit, and of the signal before it
RUNS = [
    (960, 30.0, 120.0, 4 * 3600.0, 300.0),
    (381, 29.0, 300.0, 3600.0, 120.0),
    (18, 100.0, 50.0, 1000.0, 60.0),
    (50, 10.0, 60.0, 600.0, 60.0),
    (320, 10.0, 600.0, 3600.0, 60.0),
    (5, 60.0, 30.0, 3600.0, 120.0),
]
TASKS = [(1, 8, 100_000), (8, 8, 100_000), (1, 8, 100_003), (3, 8, 100_003), (4, 8, 100_003), (7, 7, 5), (2, 7, 5)]


def _covers(one: tuple, other: tuple) -> list[bool]:
    """In price, speed and loss: whether `one` is at least as good."""
    return [one[0] <= other[0], one[1] >= other[1], one[2] <= other[2]]


def _better(mine: tuple, others: Mapping[str, tuple]) -> list[str]:
    return [name for name, each in others.items() if all(_covers(each, mine)) and each != mine]


def _head(head: Mapping[str, str]) -> tuple[int, int, float, int]:
    """Nodes, GPUs of each, hours, and tasks."""
    days, clock = head["time"].split("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    first, last = head.get("array", "1-1").partition("%")[0].split("-")
    gpus = int(head["gpus-per-node"].split(":")[-1])
    return int(head["nodes"]), gpus, 24 * int(days) + hours + minutes / 60 + seconds / 3600, int(last) - int(first) + 1


def _hours(head: Mapping[str, str], nodes: bool = True, days: bool = True, tasks: bool = True) -> float:
    n_nodes, n_gpus, hours, n_tasks = _head(head)
    return (n_nodes if nodes else 1) * n_gpus * (hours if days else hours % 24) * (n_tasks if tasks else 1)


def _at_once(head: Mapping[str, str]) -> float:
    """With the tasks that run at the same time in place of all."""
    at_once = head.get("array", "1-1").partition("%")[2]
    return _hours(head) if not at_once else _hours(head, tasks=False) * int(at_once)


def _jobs(n_steps: int, step_s: float, start_s: float, limit_s: float, signal_s: float) -> int:
    """Step by step: a job begins one whenever no signal has come."""
    jobs, done = 0, 0
    while done < n_steps:
        jobs, now = jobs + 1, start_s
        while done < n_steps and now < limit_s - signal_s:
            done, now = done + 1, now + step_s
    return jobs


def _share(task: int, n_tasks: int, n_documents: int) -> tuple[int, int]:
    each, left = divmod(n_documents, n_tasks)
    start = (task - 1) * each + min(task - 1, left)
    return start, start + each + (task <= left)


def _ceiling(task: int, n_tasks: int, n_documents: int) -> tuple[int, int]:
    each = math.ceil(n_documents / n_tasks)
    return min(n_documents, (task - 1) * each), min(n_documents, task * each)


EXERCISES = [
    Exercise(
        name="better_plans",
        cases=PLANS,
        right=_better,
        mistakes=[
            Mistake(
                "You asked for better in all three: better in one, and worse in none, is enough.",
                lambda mine, others: [
                    name for name, (p, s, q) in others.items() if p < mine[0] and s > mine[1] and q < mine[2]
                ],
            ),
            Mistake(
                "You took every plan that is better in one: it must also be worse in none.",
                lambda mine, others: [
                    name for name, (p, s, q) in others.items() if p < mine[0] or s > mine[1] or q < mine[2]
                ],
            ),
            Mistake(
                "You took a plan that is equal in all three: at least one must be better.",
                lambda mine, others: [name for name, each in others.items() if all(_covers(each, mine))],
            ),
            Mistake(
                "You took less of all three for better: of speed, more is better.",
                lambda mine, others: [
                    name
                    for name, each in others.items()
                    if all(a <= b for a, b in zip(each, mine, strict=True)) and each != mine
                ],
            ),
            Mistake(
                "You left out the loss: compare it as well.",
                lambda mine, others: [
                    name for name, each in others.items() if all(_covers(each, mine)[:2]) and each[:2] != mine[:2]
                ],
            ),
        ],
    ),
    Exercise(
        name="gpu_hours",
        cases=HEADS,
        right=_hours,
        mistakes=[
            Mistake("You left out the array: each of its tasks is a job.", lambda head: _hours(head, tasks=False)),
            Mistake("You counted the GPUs of one node: times the nodes.", lambda head: _hours(head, nodes=False)),
            Mistake("You left out the days: the time begins with them.", lambda head: _hours(head, days=False)),
            Mistake("You counted the 4 tasks of %4, which run at once: all of them run, and cost.", _at_once),
            Mistake(
                "You counted 0-19 as 19 tasks: from 0 to 19 there are 20 tasks.",
                lambda head: _hours(head, tasks=False) * int(head.get("array", "1-1").split("%")[0].split("-")[1]),
            ),
        ],
    ),
    Exercise(
        name="jobs_needed",
        cases=RUNS,
        right=_jobs,
        mistakes=[
            Mistake(
                "You left out start_s: each job spends its start again.",
                lambda n, step, start, limit, signal: math.ceil(n / math.ceil((limit - signal) / step)),
            ),
            Mistake(
                "You left out signal_s: the signal ends the steps, not the limit.",
                lambda n, step, start, limit, signal: math.ceil(n / math.ceil((limit - start) / step)),
            ),
            Mistake(
                "You rounded the steps of a job down: the one at hand when the signal comes is finished, and counts.",
                lambda n, step, start, limit, signal: math.ceil(n / max(1, int((limit - signal - start) // step))),
            ),
            Mistake(
                "You returned part of a job: round up.",
                lambda n, step, start, limit, signal: n / math.ceil((limit - signal - start) / step),
            ),
            Mistake(
                "You rounded the jobs down: the rest of the steps takes a job, too.",
                lambda n, step, start, limit, signal: n // math.ceil((limit - signal - start) / step),
            ),
            Mistake(
                "You divided all time by the limit: each job also spends start_s and signal_s beside its steps.",
                lambda n, step, start, limit, signal: math.ceil(n * step / limit),
            ),
        ],
    ),
    Exercise(
        name="my_documents",
        cases=TASKS,
        right=_share,
        rtol=1e-9,  # a document more or less counts
        mistakes=[
            Mistake(
                "Nobody reads what your division leaves over: the first tasks take one more each.",
                lambda task, n, docs: ((task - 1) * (docs // n), task * (docs // n)),
            ),
            Mistake(
                "You rounded up, so the last tasks have less than the others, or nothing: round down.",
                _ceiling,
            ),
            Mistake(
                "Your last task takes all that is left over: let the first ones take one more each.",
                lambda task, n, docs: ((task - 1) * (docs // n), docs if task == n else task * (docs // n)),
            ),
            Mistake(
                "You counted the tasks from 0: here they are counted from 1.",
                lambda task, n, docs: _share(task + 1, n, docs),
            ),
            Mistake(
                "You returned the number of the last document: stop is one more, as in `documents[start:stop]`.",
                lambda task, n, docs: (_share(task, n, docs)[0], _share(task, n, docs)[1] - 1),
            ),
        ],
    ),
]
