"""Pieces of work: each is taken once, whoever comes; all wait until all are done; who is late is not waited for."""

import threading
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import gate, held, step
from llmhw_helpers.serving.compiled.jitting import jit
from llmhw_helpers.serving.paged_cache import PagedCache

N_PHASES, N_PIECES, N_WORKERS = 40, 7, 4


@jit
def through(counters, taken, n_pieces):
    """Take pieces of all phases; each counts itself, if all of the phase before are done. How many this one took."""
    mine = 0
    for phase in range(counters.shape[0]):
        i = gate.take(counters, phase)
        while i < n_pieces:
            if phase == 0 or taken[phase - 1].sum() == n_pieces:
                taken[phase, i] += 1
            mine += 1
            gate.done(counters, phase)
            i = gate.take(counters, phase)
        gate.meet(counters, phase, n_pieces)
    return mine


def test_each_piece_is_taken_once_after_all_of_the_phase_before():
    counters, taken = gate.new_gate(N_PHASES), np.zeros((N_PHASES, N_PIECES), np.int64)
    through(gate.new_gate(1), taken[:1].copy(), 1)  # compiled before they meet
    mine = [0] * N_WORKERS

    def work(me):
        mine[me] = through(counters, taken, N_PIECES)

    workers = [threading.Thread(target=work, args=(me,)) for me in range(N_WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (taken == 1).all()
    assert sum(mine) == N_PHASES * N_PIECES


def test_a_counter_has_a_line_of_memory_of_its_own():
    assert gate.new_gate(3).strides[:2] == (2 * 128, 128)


@pytest.mark.parametrize("n_rows", [1, 2, 31, 576, 1536, 49152])
@pytest.mark.parametrize("unit", [2, 32])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_pieces_are_whole_units_and_enough_for_all_who_work(n_rows, unit, n):
    rows = gate.piece_rows(n_rows, unit, n)
    assert rows % unit == 0
    assert unit <= rows <= gate.MOST_ROWS
    assert -(-n_rows // rows) >= min(n_rows // unit, n)


@pytest.mark.parametrize("total", [1, 7, 96, 97])
def test_shares_are_all_of_it_without_gaps(total):
    shares = [gate.share(total, 2, me, 3) for me in range(3)]
    assert shares[0][0] == 0
    assert shares[-1][1] == total
    assert all(left[1] == right[0] for left, right in pairwise(shares))


def test_a_step_does_not_wait_for_a_worker_who_has_taken_nothing(tiny_spec, random_model, decoded, as_bytes):
    """The other of two never comes, as if the system gave its core to a neighbour: the first one does all."""
    model = random_model(tiny_spec)
    alone = decoded(model, [[3, 4]])[:, 0]
    weights, cache = held.hold(model), PagedCache(tiny_spec, 1, 4)
    logits, counters = np.full((1, tiny_spec.vocab_size), 7, np.float32), step.new_gates(tiny_spec.n_layers)
    where = np.array([3]), np.array([0]), np.zeros((1, 1), np.int32), 4, as_bytes(cache)
    scratch = step.Scratch(weights, 1, 2, 4)
    step.decode_share(0, 2, counters, weights, scratch, *where, logits)
    assert np.array_equal(logits, alone.numpy())
    before = logits.copy()
    step.decode_share(1, 2, counters, weights, scratch, *where, logits)  # late: it finds nothing to do
    assert np.array_equal(logits, before)
