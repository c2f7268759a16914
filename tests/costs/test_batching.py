"""Steps of a batch, against a batch that is stepped by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.batching import decode_steps


def by_hand(n_new, n_places, continuous):
    waiting, places, steps = list(n_new), [], 0
    while waiting or places:
        if continuous or not places:
            while waiting and len(places) < n_places:
                places.append(waiting.pop(0))
        places = [n - 1 for n in places if n > 1]
        steps += 1
    return steps


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 9), st.booleans())
def test_steps_are_those_of_a_batch_by_hand(n_new, n_places, continuous):
    assert decode_steps(n_new, n_places, continuous) == by_hand(n_new, n_places, continuous)


def test_a_batch_without_places_or_tokens_is_refused():
    for wrong in (([1], 0), ([1, 0], 2)):
        with pytest.raises(ValueError, match="at least one place"):
            decode_steps(*wrong, continuous=True)
