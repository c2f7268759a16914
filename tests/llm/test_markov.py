"""The source against closed forms, brute force and its own samples."""

import numpy as np
import pytest

from llmhw_helpers.llm.markov import BadSource, MarkovSource


def test_two_states_have_the_closed_form_of_the_textbooks():
    a, b = 0.3, 0.1  # leaves state 0, leaves state 1
    source = MarkovSource(np.array([[1 - a, a], [b, 1 - b]]))
    np.testing.assert_allclose(source.stationary, [b / (a + b), a / (a + b)], atol=1e-12)

    def binary(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    assert source.floor() == pytest.approx((b * binary(a) + a * binary(b)) / (a + b), abs=1e-12)
    assert source.floor(0) == pytest.approx(binary(a / (a + b)), abs=1e-12)


def test_floors_fall_with_what_is_seen_and_stay_from_the_order_on():
    source = MarkovSource.random(12, order=2, n_successors=4, seed=0)
    floors = [source.floor(n) for n in range(4)]
    assert np.log(12) > floors[0] > floors[1] > 1.5 * floors[2]
    assert floors[3] == floors[2] == source.floor()


def test_the_floor_is_the_mean_surprise_of_who_knows_the_source():
    source = MarkovSource.random(8, order=2, n_successors=3, seed=1)
    text = source.sample(400, 500, seed=2)
    p = source.transitions[text[:, :-2], text[:, 1:-1], text[:, 2:]]
    surprise = -np.log(p).mean(1)
    assert abs(surprise.mean() - source.floor()) < 4 * surprise.std() / 20  # four standard errors
    counts = np.zeros((8, 8))  # and the best bigram model of the very text is at the bigram floor
    np.add.at(counts, (text[:, :-1].ravel(), text[:, 1:].ravel()), 1)
    bigram = -np.log((counts / counts.sum(1, keepdims=True))[text[:, :-1], text[:, 1:]]).mean()
    assert bigram == pytest.approx(source.floor(1), abs=0.02)


def test_samples_follow_the_table_from_their_first_symbol_on():
    source = MarkovSource.random(5, order=2, n_successors=2, seed=3)
    text = source.sample(20_000, 4, seed=4)
    pairs = np.bincount(text[:, 0] * 5 + text[:, 1], minlength=25) / len(text)
    np.testing.assert_allclose(pairs, source.stationary, atol=0.02)
    assert (source.transitions[text[:, :-2], text[:, 1:-1], text[:, 2:]] > 0).all()


def test_a_seed_is_a_text():
    source = MarkovSource.random(5, 1, 3, seed=0)
    assert np.array_equal(source.sample(3, 50, seed=1), source.sample(3, 50, seed=1))
    assert not np.array_equal(source.sample(3, 50, seed=1), source.sample(3, 50, seed=2))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (np.array([[0.5, 0.6], [0.5, 0.5]]), "sum to 1"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), "negative"),
        (np.array([[0.5, np.nan], [0.5, 0.5]]), "negative"),
        (np.full((3, 2), 0.5), "same symbols"),
        (np.array([0.5, 0.5]), "same symbols"),
        (np.eye(2), "falls into parts"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(table, said):
    with pytest.raises(BadSource, match=said) as caught:
        MarkovSource(table)
    assert "\n" not in str(caught.value)


def test_more_successors_than_symbols_are_refused():
    with pytest.raises(BadSource, match="5 successors out of 4"):
        MarkovSource.random(4, 1, 5, seed=0)
