"""The exercises of notebook 17 against usual wrong answers and different right ones."""

import math

import numpy as np

from llmhw_helpers.course.exercises import EXERCISES, capstone


def by_arrays(mine, others):
    sign = np.array([1, -1, 1])
    at_least = {name: (sign * (np.array(each) - mine) <= 0).all() for name, each in others.items()}
    return [name for name in others if at_least[name] and tuple(others[name]) != tuple(mine)]


def one_by_one(mine, others):
    price, speed, loss = mine
    found = []
    for name, (p, s, q) in others.items():
        if p <= price and s >= speed and q <= loss and (p < price or s > speed or q < loss):
            found.append(name)
    return found


def read_time(head):
    days, rest = head["time"].split("-")
    h, m, s = rest.split(":")
    return int(days) * 24 + int(h) + int(m) / 60 + int(s) / 3600


def read_tasks(head):
    if "array" not in head:
        return 1
    first, last = head["array"].split("%")[0].split("-")
    return len(range(int(first), int(last) + 1))


def reserved(head):
    gpus = int(head["gpus-per-node"].rpartition(":")[2])
    return int(head["nodes"]) * gpus * read_time(head) * read_tasks(head)


def in_seconds(head):
    seconds = round(3600 * read_time(head))
    return sum(seconds for _ in range(read_tasks(head)) for _ in range(int(head["nodes"]))) * (
        int(head["gpus-per-node"].split(":")[-1]) / 3600
    )


def by_formula(n, step, start, limit, signal):
    return math.ceil(n / math.ceil((limit - signal - start) / step))


def as_whole_numbers(n, step, start, limit, signal):
    each = -int(-(limit - signal - start) // step)
    return -(-n // each)


def split(task, n_tasks, n_documents):
    piece = np.array_split(np.arange(n_documents), n_tasks)[task - 1]
    before = sum(len(each) for each in np.array_split(np.arange(n_documents), n_tasks)[: task - 1])
    return before, before + len(piece)


def dealt(task, n_tasks, n_documents):
    sizes = [n_documents // n_tasks + (i < n_documents % n_tasks) for i in range(n_tasks)]
    return sum(sizes[: task - 1]), sum(sizes[:task])


RIGHT = {
    "better_plans": [by_arrays, one_by_one],
    "gpu_hours": [reserved, in_seconds],
    "jobs_needed": [by_formula, as_whole_numbers],
    "my_documents": [split, dealt],
}
WRONG = {
    "better_plans": [
        (
            lambda mine, others: [k for k, v in others.items() if v[0] < mine[0] and v[1] > mine[1] and v[2] < mine[2]],
            "better in all three",
        ),
        (
            lambda mine, others: [k for k, v in others.items() if v[0] < mine[0] or v[1] > mine[1] or v[2] < mine[2]],
            "every plan that is better in one",
        ),
        (
            lambda mine, others: [
                k for k, v in others.items() if v[0] <= mine[0] and v[1] >= mine[1] and v[2] <= mine[2]
            ],
            "equal in all three",
        ),
        (
            lambda mine, others: [
                k for k, v in others.items() if v[0] <= mine[0] and v[1] <= mine[1] and v[2] <= mine[2] and v != mine
            ],
            "more is better",
        ),
        (
            lambda mine, others: [
                k for k, v in others.items() if v[0] <= mine[0] and v[1] >= mine[1] and v[:2] != mine[:2]
            ],
            "left out the loss",
        ),
    ],
    "gpu_hours": [
        (lambda head: reserved(head) / read_tasks(head), "left out the array"),
        (lambda head: reserved(head) / int(head["nodes"]), "times the nodes"),
        (lambda head: reserved(head) / read_time(head) * (read_time(head) % 24), "left out the days"),
        (lambda head: reserved(head) / (5 if "%" in head.get("array", "") else 1), "run at once"),
        (lambda head: reserved(head) * (0.95 if "0-19" in head.get("array", "") else 1), "there are 20 tasks"),
    ],
    "jobs_needed": [
        (lambda n, step, start, limit, signal: by_formula(n, step, 0, limit, signal), "spends its start again"),
        (lambda n, step, start, limit, signal: by_formula(n, step, start, limit, 0), "not the limit"),
        (
            lambda n, step, start, limit, signal: math.ceil(n / math.floor((limit - signal - start) / step)),
            "is finished, and counts",
        ),
        (lambda n, step, start, limit, signal: n / math.ceil((limit - signal - start) / step), "part of a job"),
        (lambda n, step, start, limit, signal: n // -int(-(limit - signal - start) // step), "rounded the jobs down"),
        (lambda n, step, start, limit, signal: math.ceil(n * step / limit), "beside its steps"),
    ],
    "my_documents": [
        (lambda task, n, docs: (docs // n * (task - 1), docs // n * task), "Nobody reads"),
        (
            lambda task, n, docs: (min(docs, -(-docs // n) * (task - 1)), min(docs, -(-docs // n) * task)),
            "rounded up, so",
        ),
        (
            lambda task, n, docs: (docs // n * (task - 1), docs // n * task if task < n else docs),
            "takes all that is left over",
        ),
        (
            lambda task, n, docs: tuple(i * (docs // n) + min(i, docs % n) for i in (task, task + 1)),
            "counted from 1",
        ),
        (lambda task, n, docs: (split(task, n, docs)[0], split(task, n, docs)[1] - 1), "number of the last document"),
    ],
}


def test_capstone(confront):
    confront(capstone.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in capstone.EXERCISES)


def test_the_shares_of_all_tasks_are_all_documents_once():
    right = EXERCISES["my_documents"].right
    for n_tasks, n_documents in ((8, 100_003), (7, 5), (1, 10)):
        shares = [range(*right(task, n_tasks, n_documents)) for task in range(1, n_tasks + 1)]
        assert [document for share in shares for document in share] == list(range(n_documents))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
