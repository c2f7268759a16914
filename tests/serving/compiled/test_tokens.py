"""What is computed of a tile of tokens in registers, against NumPy."""

import numpy as np
import pytest

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled.jitting import jit
from llmhw_helpers.serving.compiled.sums import put_totals
from llmhw_helpers.serving.compiled.tokens import (
    CHUNK,
    TILE,
    UNIT,
    add_scores,
    add_values,
    fetch_line,
    largest,
    no_scores,
)
from llmhw_helpers.serving.compiled.vectors import WIDTH

ROW = 2 * UNIT + 3  # numbers from one token to the next
RANDOM = np.random.default_rng(0)


def drawn(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


@jit
def scores_of(keys, row_bytes, q, n, out):
    """Of `n` numbers each."""
    found = no_scores()
    for d in range(0, 4 * n, 4 * WIDTH):
        found = add_scores(found, keys + d, row_bytes, q + d)
    put_totals(found, out)


@jit
def mixed(values, row_bytes, shares, out):
    """As `add_values`."""
    add_values(values, row_bytes, shares, out)


@jit
def top_of(scores, n):
    """As `largest`."""
    return largest(scores, n)


@jit
def fetched(address):
    """As `fetch_line`."""
    fetch_line(address)


def test_each_token_has_its_own_score():
    keys, q, out = drawn(TILE, ROW), drawn(UNIT), drawn(TILE + 1)
    last = out[TILE]
    scores_of(keys.ctypes.data, keys.strides[0], q.ctypes.data, UNIT, out.ctypes.data)
    np.testing.assert_allclose(out[:TILE], keys[:, :UNIT] @ q, atol=2e-5)
    assert out[TILE] == last


def test_values_are_added_up_by_their_shares():
    values, shares, out = drawn(TILE, ROW), drawn(TILE), drawn(UNIT + 1)
    expected = out + shares @ values[:, : UNIT + 1]
    expected[UNIT] = out[UNIT]
    mixed(values.ctypes.data, values.strides[0], shares.ctypes.data, out.ctypes.data)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 17, CHUNK - 1, CHUNK])
def test_the_largest_of_some_scores(n):
    for _ in range(20):
        scores = drawn(CHUNK)
        assert top_of(scores.ctypes.data, n) == scores[:n].max()
    scores[:n] -= 100
    scores[0] = -1000
    assert top_of(scores.ctypes.data, n) == scores[:n].max()


@pytest.mark.parametrize("at", [0, 1, 5, 16, CHUNK - 1])
def test_nan_is_never_the_largest(at):
    scores = drawn(CHUNK)
    scores[at] = np.nan
    assert top_of(scores.ctypes.data, CHUNK) == np.nanmax(scores)
    assert top_of(np.full(CHUNK, np.nan, np.float32).ctypes.data, CHUNK) == np.float32(-3e38)


def test_nobody_minds_an_address_of_nothing():
    for address in (0, -64, 2**62):
        fetched(address)
