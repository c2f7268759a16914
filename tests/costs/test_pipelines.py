"""Times of a pipeline: the simulation against the formula and against sums by hand, for many sizes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.pipelines import Event, bubble, bubble_overhead, idle_share, sent_bytes, simulate
from llmhw_helpers.costs.schedules import Work, WrongSchedule, gpipe, interleaved, one_f_one_b

SECONDS = st.sampled_from([(1.0, 1.0), (1.0, 2.0), (3.0, 1.0), (0.25, 0.5)])


def length(events):
    return max(event.end_s for event in events)


@given(st.integers(1, 6), st.integers(1, 12), SECONDS)
def test_the_simulated_bubble_is_the_formulas(pp_size, n_micro_batches, seconds):
    for make in (gpipe, one_f_one_b):
        events = simulate(make(pp_size, n_micro_batches), *seconds)
        assert idle_share(events) == pytest.approx(bubble(pp_size, n_micro_batches), abs=1e-12)
        assert length(events) == pytest.approx((n_micro_batches + pp_size - 1) * sum(seconds))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 4), SECONDS)
def test_chunks_divide_the_bubble(pp_size, n_rounds, n_chunks, seconds):
    m = pp_size * n_rounds
    events = simulate(interleaved(pp_size, m, n_chunks), *(s / n_chunks for s in seconds))
    assert idle_share(events) == pytest.approx(bubble(pp_size, m, n_chunks), abs=1e-12)
    assert length(events) == pytest.approx((1 + bubble_overhead(pp_size, m, n_chunks)) * m * sum(seconds))


@given(st.integers(1, 5), st.integers(1, 8))
def test_no_rank_does_two_things_at_once_and_nothing_begins_before_its_input(pp_size, n_micro_batches):
    events = simulate(one_f_one_b(pp_size, n_micro_batches), 1.0, 2.0, send_s=0.5)
    ends = {(event.kind, event.rank, event.micro_batch): event.end_s for event in events}
    for rank in range(pp_size):
        own = [event for event in events if event.rank == rank]
        assert all(one.end_s <= next_one.start_s for one, next_one in pairwise(own))
        for event in own:
            before = rank - 1 if event.kind == "forward" else rank + 1
            if 0 <= before < pp_size:
                assert event.start_s >= ends[event.kind, before, event.micro_batch] + 0.5


def test_a_message_costs_its_way_there_and_back_at_least():
    assert length(simulate(gpipe(4, 1), 1.0, 2.0, send_s=0.5)) == 4 * 3 + 2 * 3 * 0.5
    assert length(simulate(one_f_one_b(1, 3), 1.0, 2.0, send_s=9.0)) == 9  # nobody to send to
    assert length(simulate(interleaved(1, 2, 2), 1.0, 2.0, send_s=9.0)) == 12


def test_the_slowest_stage_sets_the_pace():
    events = simulate(one_f_one_b(3, 8), [1.0, 3.0, 1.0], [2.0, 6.0, 2.0])
    assert length(events) == 1 + 8 * 9 + 2  # it never waits between the first one's forward and backward pass
    with pytest.raises(ValueError, match="2 times for 3 stages: give one for each, or one number for all"):
        simulate(gpipe(3, 1), [1.0, 2.0])


def test_ranks_that_wait_for_one_another_are_named():
    first, second = gpipe(2, 2)
    late = [second[0], second[2], second[1], second[3]]  # backward 0 before forward 1
    impatient = [first[0], first[2], first[1], first[3]]
    assert length(simulate([first, late], 1.0, 1.0)) == 6
    assert length(simulate([impatient, late], 1.0, 1.0)) == 8
    with pytest.raises(WrongSchedule) as caught:
        simulate([impatient, second], 1.0, 1.0)
    assert str(caught.value) == (
        "nobody can go on: rank 0 waits for the backward pass of micro-batch 0 on rank 1;"
        " rank 1 waits for the forward pass of micro-batch 1 on rank 0"
    )


def test_a_wrong_schedule_is_not_simulated():
    with pytest.raises(WrongSchedule, match="the backward pass of micro-batch 0 is missing"):
        simulate([[Work("forward", 0)]])


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 4))
def test_overhead_and_share_are_the_same_waiting(pp_size, n_micro_batches, n_chunks):
    share, overhead = bubble(pp_size, n_micro_batches, n_chunks), bubble_overhead(pp_size, n_micro_batches, n_chunks)
    assert overhead == pytest.approx(share / (1 - share))


@given(st.integers(1, 5), st.integers(1, 4))
def test_bytes_are_those_of_every_border_counted_one_by_one(pp_size, n_chunks):
    counted = [0] * pp_size
    for border in range(pp_size * n_chunks - 1):
        if pp_size > 1:
            counted[border % pp_size] += 1000  # forwards
            counted[(border + 1) % pp_size] += 1000  # back
    assert sent_bytes(1000, pp_size, n_chunks) == counted


def test_idle_share_counts_all_ranks_from_the_first_start_on():
    events = [Event(0, "forward", 0, 0, 10.0, 11.0), Event(1, "forward", 0, 0, 11.5, 12.0)]
    assert idle_share(events) == pytest.approx(1 - 1.5 / 4)


def test_less_than_no_time_and_no_bytes_are_refused():
    for wrong in ({"forward_s": -1}, {"backward_s": [1.0, float("nan")]}, {"send_s": -0.5}):
        with pytest.raises(ValueError, match="0 seconds at least"):
            simulate(gpipe(2, 2), **wrong)
    with pytest.raises(ValueError, match="-1 bytes"):
        sent_bytes(-1, 4)


def test_sizes_below_one_are_refused():
    for wrong in ((0, 1), (1, 0), (2, 2, 0)):
        for formula in (bubble, bubble_overhead):
            with pytest.raises(ValueError, match="at least one"):
                formula(*wrong)
