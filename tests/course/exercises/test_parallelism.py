"""The exercises of notebook 14 against usual wrong answers and different right ones."""

import pytest

from llmhw_helpers.course.exercises import EXERCISES, parallelism
from llmhw_helpers.course.exercises.parallelism import NETWORKS


def walked(n_bytes, n_ranks):
    """Piece by piece, round the ring and round again."""
    piece, sent = n_bytes / n_ranks, 0
    for _ in ("add up", "hand on"):
        for _ in range(n_ranks - 1):
            sent += piece
    return sent


def by_remainders(n_heads, n_kv_heads, tp_size):
    if n_heads % tp_size or (n_kv_heads % tp_size and tp_size % n_kv_heads):
        return 0, 0
    return [n_heads // tp_size, -(-n_kv_heads // tp_size)]


def by_search(n_heads, n_kv_heads, tp_size):
    mine = [n for n in range(1, n_heads + 1) if n * tp_size == n_heads]
    theirs = [n for n in range(1, n_kv_heads + 1) if n * tp_size == n_kv_heads]
    copies = [1 for n in range(2, tp_size + 1) if n_kv_heads * n == tp_size]
    return (mine[0], (theirs + copies)[0]) if mine and theirs + copies else (0, 0)


def ways(n_params, n_layers, d_model, n_tokens, compute_s, bytes_per_s, data=2, tensor=8, pipeline=2, share=0.1):
    limit, stream = share * compute_s * bytes_per_s, n_tokens * d_model
    sent = {"data": data * n_params, "tensor": tensor * n_layers * stream, "pipeline": pipeline * stream}
    return [name for name in sent if sent[name] <= limit]


def one_by_one(n_params, n_layers, d_model, n_tokens, compute_s, bytes_per_s):
    found = []
    if 2 * n_params / bytes_per_s <= compute_s / 10:
        found.append("data")
    if 4 * n_layers * 2 * d_model * n_tokens / bytes_per_s <= compute_s / 10:
        found.append("tensor")
    if 2 * d_model * n_tokens / bytes_per_s <= compute_s / 10:
        found.append("pipeline")
    return tuple(found)


def by_columns(*logs):
    for place in range(99):
        for rank, log in enumerate(logs):
            others = [each for i, each in enumerate(logs) if i != rank]
            if len({tuple(each[: place + 1]) for each in others}) == 1 and log[: place + 1] != others[0][: place + 1]:
                return rank, place


def by_prefixes(*logs):
    usual = sorted(map(list, logs))[len(logs) // 2]  # most are equal, so the one in the middle is
    for rank, log in enumerate(logs):
        if list(log) != usual:
            same = [a == b for a, b in zip(log, usual, strict=False)]
            return [rank, same.index(False) if False in same else len(same)]


def stopped(*logs):
    rank = min(range(len(logs)), key=lambda each: len(logs[each]))
    return rank, len(logs[rank])


def like_the_first(*logs):
    off = [[log[i : i + 1] != logs[0][i : i + 1] for i in range(5)] for log in logs]
    place = min(each.index(True) for each in off if True in each)
    return next(rank for rank, each in enumerate(off) if each[place]), place


RIGHT = {
    "ring_bytes": [lambda n_bytes, n: 2 * (n - 1) / n * n_bytes, walked],
    "heads_on_rank": [by_remainders, by_search],
    "cuts_that_keep_up": [ways, one_by_one],
    "out_of_step": [by_columns, by_prefixes],
}
WRONG = {
    "ring_bytes": [
        (lambda n_bytes, n: walked(n_bytes, n) / 2, "Two rounds"),
        (lambda n_bytes, n: walked(n_bytes, n) * n, "all ranks together"),
        (lambda n_bytes, n: 2 * n_bytes / n * n, "n - 1 steps a round"),
        (lambda n_bytes, n: (n - 1) * n_bytes, "not its whole array"),
        (lambda n_bytes, n: n_bytes, "the array once"),
        (lambda n_bytes, n: n_bytes / n, "is one piece"),
        (lambda n_bytes, n: 2 * n_bytes / n, "One piece a round"),
        (lambda n_bytes, n: walked(1, n), "how many times the array"),
        (lambda n_bytes, n: 3 * walked(n_bytes, n), "3 times the right answer"),
    ],
    "heads_on_rank": [
        (lambda n, k, r: (n // r, k // r or 1), "half a head"),
        (lambda n, k, r: (n // r, k // r or 1) if n % r == 0 else (0, 0), "among those heads"),
        (lambda n, k, r: (n // r, k // r) if n % r == k % r == 0 else (0, 0), "no obstacle"),
        (lambda n, k, r: (by_remainders(n, k, r)[0], k // r if any(by_remainders(n, k, r)) else 0), "not none"),
        (lambda n, k, r: (n // r, k // r), "lose heads"),
        (lambda n, k, r: (n / r, k / r), "Parts of heads"),
        (lambda n, k, r: n // r, "a tuple is asked for"),
    ],
    "cuts_that_keep_up": [
        (lambda *case: ways(*case, tensor=4), "two in the backward pass"),
        (lambda *case: ways(*case, data=1, tensor=4, pipeline=1), "has two bytes"),
        (lambda *case: ways(*case, pipeline=2 * case[1]), "not after every layer"),
        (lambda *case: ways(*case, pipeline=4), "the other back"),
        (lambda *case: ways(*case, data=4), "sends the gradient once"),
        (lambda *case: ways(*case, tensor=8 / case[1]), "in *every* layer"),
        (lambda *case: ways(*case, share=0.0125), "not in bits"),
        (lambda *case: ways(*case)[::-1], "in the order"),
        (lambda *case: ways(*case, share=1), "A tenth"),
        (lambda *case: [n for n in ("data", "tensor", "pipeline") if n not in ways(*case)], "those that do *not*"),
        (lambda *case: ["pipeline"], "which is not right"),
    ],
    "out_of_step": [
        (stopped, "where the program stops"),
        (like_the_first, "with rank 0"),
        (lambda *logs: by_columns(*logs)[::-1], "first the rank"),
        (lambda *logs: (by_columns(*logs)[0], by_columns(*logs)[1] + 1), "from 0"),
        (lambda *logs: (0, 0), "which is not right"),
    ],
}


def test_parallelism(confront):
    confront(parallelism.EXERCISES, RIGHT, WRONG)


def test_they_are_registered():
    assert all(EXERCISES[exercise.name] is exercise for exercise in parallelism.EXERCISES)


def test_the_networks_are_of_each_kind():
    assert [ways(*case) for case in NETWORKS[:3]] == [
        ["data", "tensor", "pipeline"],
        ["data", "pipeline"],
        ["pipeline"],
    ]
    assert ways(*NETWORKS[-1]) == []


def test_one_rank_is_out_of_step_in_each_log():
    with pytest.raises(ValueError, match="all keep step"):
        parallelism._parted(["mean"], ["mean"])
