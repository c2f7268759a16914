"""Collectives against ranks that pass real numbers around, and the fit against NumPy's least squares."""

import math

import numpy as np
import pytest

from llmhw_helpers.costs.collectives import (
    Wire,
    bytes_for,
    crossing,
    fit,
    overlapped,
    path,
    seconds,
    sent_bytes,
    two_levels,
)
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName
from llmhw_helpers.specs.links import LINKS, link

WIRE = Wire(10e-6, 10e9)


class Ring:
    """Ranks with an array each, in pieces; every turn each sends one piece to its neighbour, and all is counted."""

    def __init__(self, n):
        self.n, self.turns, self.sent = n, 0, [0] * n
        self.rows = [np.arange(2.0 * n).reshape(n, 2) + 100 * rank for rank in range(n)]

    def turn(self, piece, take):
        moved = [(rank, piece(rank), self.rows[rank][piece(rank)].copy()) for rank in range(self.n)]
        for rank, i, row in moved:
            self.sent[rank] += row.nbytes
            take(self.rows[(rank + 1) % self.n], i, row)
        self.turns += 1

    def reduce_scatter(self):
        def add(rows, i, row):
            rows[i] += row

        for turn in range(self.n - 1):
            self.turn(lambda rank, turn=turn: (rank - turn) % self.n, add)

    def all_gather(self):
        def put(rows, i, row):
            rows[i] = row

        for turn in range(self.n - 1):
            self.turn(lambda rank, turn=turn: (rank + 1 - turn) % self.n, put)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_a_ring_that_adds_up_sends_what_the_formula_says(n):
    ring, whole = Ring(n), 16 * n
    total = sum(ring.rows)
    ring.reduce_scatter()
    half = ring.turns, ring.sent[0]
    assert half == path("reduce-scatter", whole, n) == path("all-gather", whole, n)
    ring.all_gather()
    assert all((rows == total).all() for rows in ring.rows)
    assert (ring.turns, ring.sent[0]) == path("all-reduce", whole, n)
    assert set(ring.sent) == {sent_bytes("all-reduce", whole, n)}


@pytest.mark.parametrize("n", [2, 3, 4, 8, 13])
def test_a_tree_that_adds_up_sends_what_the_formula_says(n):
    """Up: in every turn each second rank that is left gives all it has to the one before it; then the same way down."""
    values, sent, turns = [float(rank) for rank in range(n)], [0] * n, 0
    steps = [2**i for i in range(math.ceil(math.log2(n)))]
    for step in steps:
        for rank in range(step, n, 2 * step):
            values[rank - step] += values[rank]
            sent[rank] += 8
        turns += 1
    for step in reversed(steps):
        for rank in range(step, n, 2 * step):
            values[rank] = values[rank - step]
            sent[rank - step] += 8
        turns += 1
    assert values == [n * (n - 1) / 2] * n
    assert path("all-reduce", 8, n, "tree") == (turns, 8 * turns)
    assert path("broadcast", 8, n, "tree") == (turns / 2, 8 * turns / 2)
    assert max(sent) == sent_bytes("all-reduce", 8, n, "tree")
    assert sum(sent) == 2 * (n - 1) * 8  # as many as a ring sends


def test_what_is_sent_in_all_to_all_and_by_a_switch():
    """Each of 4 ranks keeps a quarter, and sends three; to a switch four, and a fifth with the sum of its own."""
    assert path("all-to-all", 4e6, 4) == (3, 3e6)
    assert path("all-reduce", 4e6, 4, "switch") == (2, 5e6)
    assert path("send", 4e6, 2) == (1, 4e6)
    assert path("broadcast", 4e6, 4) == (3, 4e6)


@pytest.mark.parametrize("name", ["broadcast", "all-gather", "reduce-scatter", "all-to-all", "all-reduce", "send"])
def test_one_rank_sends_nothing(name):
    assert path(name, 1e9, 1) == (0, 0)
    assert seconds(name, 1e9, 1, WIRE) == 0


def test_time_is_latencies_and_bytes():
    assert seconds("all-reduce", 1e9, 8, WIRE) == pytest.approx(14 * 10e-6 + 1.75e9 / 10e9)
    assert seconds("all-reduce", 1e9, 8, WIRE, "tree") == pytest.approx(6 * 10e-6 + 6e9 / 10e9)


@pytest.mark.parametrize("n", [4, 8, 100])
def test_tree_below_the_crossing_and_ring_above(n):
    at = crossing(n, WIRE)
    assert seconds("all-reduce", at, n, WIRE) == pytest.approx(seconds("all-reduce", at, n, WIRE, "tree"))
    for factor, way in ((0.5, "tree"), (2, "ring")):
        assert seconds("all-reduce", factor * at, n, WIRE, "best") == seconds("all-reduce", factor * at, n, WIRE, way)
    assert seconds("all-gather", 1, n, WIRE, "best") == seconds("all-gather", 1, n, WIRE)


def test_two_ranks_have_no_use_for_a_tree():
    assert crossing(2, WIRE) == 0
    assert crossing(1, WIRE) == 0


def test_a_bucket_of_that_size_loses_the_rest_to_latency():
    n = bytes_for(0.8, "all-reduce", 6, WIRE)
    messages, _ = path("all-reduce", n, 6)
    assert messages * WIRE.latency_s / seconds("all-reduce", n, 6, WIRE) == pytest.approx(0.2)
    assert bytes_for(0.8, "all-reduce", 1, WIRE) == 0


BOARD, NETWORK = Wire(2e-6, 200e9), Wire(5e-6, 20e9)


def test_between_nodes_goes_what_one_rank_would_send():
    """16 ranks on 4 nodes: each adds up a quarter with its 3 fellows, the nodes add up, and quarters are gathered."""
    inside = 2 * seconds("reduce-scatter", 1e9, 4, BOARD)
    share = seconds("all-reduce", 0.25e9, 4, Wire(5e-6, 20e9 / 4))  # by every rank, on its quarter of the network
    assert two_levels("all-reduce", 1e9, 4, 4, BOARD, NETWORK) == pytest.approx(inside + share)


def test_in_all_to_all_a_node_sends_for_all_its_ranks():
    """Of each rank's 16 pieces 4 stay in the node, 3 of them sent; the node sends 4 times 12."""
    n_bytes = 16e6
    expected = 3 * BOARD.latency_s + 3e6 / 200e9 + 3 * NETWORK.latency_s + 48e6 / 20e9
    assert two_levels("all-to-all", n_bytes, 4, 4, BOARD, NETWORK) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["broadcast", "all-gather", "reduce-scatter", "all-reduce"])
def test_one_rank_a_node_has_one_level(name):
    assert two_levels(name, 1e6, 1, 4, BOARD, NETWORK) == seconds(name, 1e6, 4, NETWORK)


def test_one_bucket_starts_when_all_is_done_and_many_fall_behind_by_the_last():
    whole = seconds("all-reduce", 1e8, 4, WIRE)
    assert overlapped(1e8, 1e8, 1.0, WIRE, 4) == pytest.approx(1 + whole)
    last = seconds("all-reduce", 1e7, 4, WIRE)
    assert overlapped(1e8, 1e7, 1.0, WIRE, 4) == pytest.approx(1 + last)  # ten, each sent before the next is ready
    assert overlapped(1e8, 1e7, 0.0, WIRE, 4) == pytest.approx(10 * last)  # the network alone counts
    assert overlapped(1e8, 1e7, 1.0, WIRE, 1) == 1


def test_the_fit_is_the_least_squares_of_relative_errors():
    points = [(1e3, 3e-5), (1e5, 3.8e-5), (1e7, 1.2e-3), (1e9, 0.093)]
    a = np.array([[1 / s, n / s] for n, s in points])
    alpha, beta = np.linalg.lstsq(a, np.ones(len(points)), rcond=None)[0]
    wire = fit(points)
    assert (wire.latency_s, 1 / wire.bytes_per_s) == pytest.approx((alpha, beta))


@pytest.mark.parametrize(("name", "way"), [("all-reduce", "ring"), ("all-reduce", "tree"), ("all-to-all", "ring")])
def test_the_fit_finds_a_wire_again(name, way):
    points = [(n, seconds(name, n, 5, WIRE, way)) for n in (1e3, 1e6, 1e8)]
    wire = fit(points, name, 5, way)
    assert (wire.latency_s, wire.bytes_per_s) == pytest.approx((WIRE.latency_s, WIRE.bytes_per_s))


def test_neither_latency_nor_bytes_take_less_than_nothing():
    slow_start = fit([(1e6, 1e-3), (2e6, 2.5e-3)])
    assert slow_start.latency_s == 0
    assert slow_start.bytes_per_s == pytest.approx((1 + 0.8**2) / (1 + 0.8) * 1e9)  # the best that bytes alone do
    assert fit([(1e6, 2e-3), (2e6, 1e-3)]).bytes_per_s == math.inf


def test_a_wire_of_a_link_is_what_was_measured_or_what_is_said():
    assert Wire.of(link("HDR InfiniBand"), n_links=4).bytes_per_s == pytest.approx(4 * 24e9)
    said = Wire.of(link("25 Gbit Ethernet"), share=0.5, latency_s=50e-6)
    assert (said.bytes_per_s, said.latency_s) == pytest.approx((0.5 * 25e9 / 8, 50e-6))
    with pytest.raises(UnknownFigure, match=r"unknown: bus bandwidth .* \(25 Gbit Ethernet\)"):
        Wire.of(link("25 Gbit Ethernet"), latency_s=0)
    with pytest.raises(UnknownFigure, match=r"unknown: one message .* \(25 Gbit Ethernet\)"):
        Wire.of(link("25 Gbit Ethernet"), share=1)


@pytest.mark.parametrize("name", [name for name in LINKS if LINKS[name].message_s.value])
def test_messages_are_shares_of_the_tiny_all_reduce(name):
    """2 log2(n) of them: NVLink 3's 4, or between two nodes 2, beside 6 or 4 inside a node of 8 or 4."""
    inside = {"NVLink 3": 2, "HDR InfiniBand": 6}.get(name, 4)
    rest = 4 if name == "NVLink 3" else 2
    tiny = inside * link("NVLink 3").message_s.value * (name != "NVLink 3") + rest * link(name).message_s.value
    assert tiny == pytest.approx(link(name).latency_s.value, rel=0.01)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: path("allreduce2", 1, 2), UnknownName, "did you mean all-reduce"),
        (lambda: path("all-reduce", 1, 2, "star"), UnknownName, "unknown way 'star'"),
        (lambda: path("all-gather", 1, 2, "tree"), ValueError, "no formula for all-gather by tree"),
        (lambda: path("all-reduce", -1, 2), ValueError, "-1 bytes among 2 ranks"),
        (lambda: path("all-reduce", 1, 0), ValueError, "1 bytes among 0 ranks"),
        (lambda: two_levels("send", 1, 2, 2, BOARD, NETWORK), ValueError, "a send has no levels"),
        (lambda: fit([(1e6, 1.0), (1e6, 1.1)]), ValueError, "two messages of different sizes"),
        (lambda: fit([(1e6, 0.0), (2e6, 1.1)]), ValueError, "times are above 0"),
        (lambda: Wire(-1, 1), ValueError, "no negative time"),
        (lambda: Wire(0, 0), ValueError, "sends something"),
        (lambda: bytes_for(1, "all-reduce", 2, WIRE), ValueError, "less than 1, not 1"),
        (lambda: overlapped(1, 0, 1, WIRE, 2), ValueError, "in buckets of 0"),
        (lambda: overlapped(16e9, 25, 1, WIRE, 2), ValueError, "at most 1,000,000 buckets"),
        (lambda: path("all-reduce", math.nan, 2), ValueError, "nan bytes"),
        (lambda: two_levels("all-to-all", 1, 2, 0, BOARD, NETWORK), ValueError, "among 0 nodes"),
        (lambda: two_levels("Send", 1, 2, 2, BOARD, NETWORK), ValueError, "a send has no levels"),
        (lambda: WIRE.seconds(-1), ValueError, "-1 bytes"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_a_name_in_another_spelling_is_the_same_collective():
    """Names are looked up whatever their case: then every special case has to know them so, too."""
    assert sent_bytes("All-Reduce", 8e6, 4, "Tree") == sent_bytes("all-reduce", 8e6, 4, "tree")
    assert seconds("AllReduce", 1e3, 8, WIRE, "best") == seconds("all-reduce", 1e3, 8, WIRE, "best")
    spelled = [two_levels(name, 1e6, 4, 4, BOARD, NETWORK) for name in ("All-To-All", "all-to-all")]
    assert spelled[0] == spelled[1]
