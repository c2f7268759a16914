"""Counters that fall, wrap and jump, against sums of what really happened."""

from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.measure.growth import Growth

steps = st.lists(st.integers(0, 1000), min_size=1, max_size=30)


@given(start=st.integers(0, 10_000), steps=steps)
def test_a_counter_that_wraps_counts_on(start, steps):
    growth, total, wraps_at = Growth(), start, 1001
    growth.add("x", start % wraps_at, wraps_at=wraps_at)
    for step in steps:
        total += step
        assert growth.add("x", total % wraps_at, wraps_at=wraps_at) == total - start


@given(values=st.lists(st.floats(0, 1e12), min_size=1, max_size=30))
def test_whatever_a_counter_shows_its_growth_never_falls(values):
    growth = Growth()
    grown = [growth.add("x", value) for value in values]
    assert grown[0] == 0
    assert grown == sorted(grown)


def test_a_reset_loses_what_was_counted_in_between_only():
    growth = Growth()
    assert [growth.add("x", value) for value in (5, 8, 0, 2, 4)] == [0, 3, 3, 5, 7]


def test_what_cannot_have_been_done_yet_comes_later():
    growth = Growth()
    assert [growth.add("x", value, possible=10) for value in (0, 25, 25, 25, 26)] == [0, 10, 20, 25, 26]


def test_a_wrap_that_cannot_be_is_a_reset():
    growth = Growth()
    assert [growth.add("x", value, possible=50, wraps_at=1000) for value in (990, 20, 3, 5)] == [0, 30, 30, 32]


def test_of_several_counters_those_that_are_gone_still_count():
    growth = Growth()
    assert growth.add_all({"eth0": 100, "eth1": 1000}) == 0
    assert growth.add_all({"eth0": 110, "eth1": 1005}) == 15
    assert growth.add_all({"eth0": 120, "tun0": 7}) == 25
    assert growth.add_all({"eth0": 120, "tun0": 9, "eth1": 0}) == 27
