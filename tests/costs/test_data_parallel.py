"""What data-parallel ranks send, and how long it takes, against the room of collectives."""

import pytest

from llmhw_helpers.costs import collectives
from llmhw_helpers.costs.collectives import Wire
from llmhw_helpers.costs.data_parallel import sent_bytes, step_seconds

WIRE = Wire(1e-3, 1e8)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_every_stage_is_made_of_the_rings_collectives(n):
    size = 4e6
    each = {name: collectives.sent_bytes(name, size, n) for name in ("all-reduce", "reduce-scatter", "all-gather")}
    assert sent_bytes(size, n) == pytest.approx(each["all-reduce"])
    for zero in (1, 2):
        assert sent_bytes(size, n, zero) == pytest.approx(each["reduce-scatter"] + each["all-gather"])
    assert sent_bytes(size, n, 3) == pytest.approx(each["reduce-scatter"] + 2 * each["all-gather"])
    assert sent_bytes(size, n, 3, rs_as_ar=True) == pytest.approx(each["all-reduce"] + 2 * each["all-gather"])
    assert sent_bytes(size, n, 0, rs_as_ar=True) == pytest.approx(each["all-reduce"])


def test_micro_batches_cost_nothing_until_gradients_are_divided():
    assert [sent_bytes(80, 2, zero, n_micro_batches=3) / 40 for zero in range(4)] == [2, 2, 4, 9]
    assert sent_bytes(80, 2, 3, n_micro_batches=3, around_bytes=20) / 40 == 3 + 0.75 * 6 + 0.25


@pytest.mark.parametrize(("backward_s", "network_first"), [(0.0, True), (0.01, True), (10.0, False)])
def test_a_bucket_waits_until_it_is_full_and_for_the_one_before(backward_s, network_first):
    first, second = (2 * WIRE.latency_s + n_bytes / WIRE.bytes_per_s for n_bytes in (1e6, 3e6))  # two ranks
    quarter = backward_s / 4  # in which the first of [1e6, 3e6] is filled
    assert (quarter + first > backward_s) == network_first
    expected = max(quarter + first, backward_s) + second
    assert step_seconds(0.5, backward_s, [1e6, 3e6], WIRE, 2) == pytest.approx(0.5 + expected)


def test_without_overlap_all_are_sent_when_the_pass_is_over():
    sends = 2 * WIRE.latency_s * 2 + 4e6 / WIRE.bytes_per_s  # two ranks, two buckets, 4e6 bytes: each passes once
    assert step_seconds(1, 2, [1e6, 3e6], WIRE, 2, overlap=False) == pytest.approx(3 + sends)


def test_a_large_last_bucket_hides_nothing_of_itself():
    small, large = [1e6] * 9 + [1e6], [1e5] * 9 + [9.1e6]
    assert step_seconds(1, 2, large, WIRE, 2) > step_seconds(1, 2, small, WIRE, 2) + 0.05


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="not 4"):
        sent_bytes(1, 2, 4)
    with pytest.raises(ValueError, match="200 of 100 bytes"):
        sent_bytes(100, 2, 3, around_bytes=200)
    for times in ((-1, 1, [1]), (1, 1, [])):
        with pytest.raises(ValueError, match="something to send"):
            step_seconds(*times, WIRE, 2)
