"""Blocks: who holds them, who is next, and what is found in them again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.serving.blocks import BlockManager, OutOfBlocks, block_hashes

TEXTS = st.lists(st.integers(0, 2), max_size=12)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_two_blocks_have_one_hash_if_and_only_if_the_texts_up_to_them_are_the_same(one, two, block_size):
    a, b = block_hashes(one, block_size), block_hashes(two, block_size)
    assert (len(a), len(b)) == (len(one) // block_size, len(two) // block_size)
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        end = (i + 1) * block_size
        assert (x == y) == (one[:end] == two[:end])


@given(TEXTS, st.integers(1, 4), st.data())
def test_hashes_go_on_from_those_before(text, block_size, data):
    n = data.draw(st.integers(0, len(text)))
    assert block_hashes(text, block_size, block_hashes(text[:n], block_size)) == block_hashes(text, block_size)


def test_hashes_are_the_same_in_every_process():
    """Not Python's own hash, which differs from process to process: two engines may compare them."""
    assert block_hashes([1, 2], 2)[0].hex() == "f59df9f51bfcb52f7ae49756810ec78b"


@pytest.mark.parametrize(("n_tokens", "n_blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_blocks_for_a_text(n_tokens, n_blocks):
    assert BlockManager(4, 4).blocks_for(n_tokens) == n_blocks


def test_every_block_is_given_out_once_and_then_none():
    manager = BlockManager(3, 4)
    assert sorted(manager.allocate() for _ in range(3)) == [0, 1, 2]
    assert manager.n_free == 0
    with pytest.raises(OutOfBlocks, match="all 3 blocks are held"):
        manager.allocate()


def test_a_shared_block_is_free_when_the_last_one_lets_go():
    manager = BlockManager(1, 4)
    block = manager.allocate()
    manager.share([block])
    assert manager.ref_count == [2]
    manager.release([block])
    assert (manager.ref_count, manager.n_free) == ([1], 0)
    manager.release([block])
    assert (manager.ref_count, manager.n_free) == ([0], 1)


def test_a_block_given_back_twice_is_an_error_and_changes_nothing():
    manager = BlockManager(2, 4)
    block = manager.allocate()
    manager.release([block])
    with pytest.raises(ValueError, match=f"block {block} is free already: somebody gives it back twice"):
        manager.release([block])
    assert (manager.ref_count, manager.n_free) == ([0, 0], 2)


def test_what_a_free_block_holds_is_found_until_it_is_given_out():
    manager = BlockManager(2, 4)
    one, two = manager.allocate(), manager.allocate()
    manager.seal(one, b"one")
    manager.seal(two, b"two")
    manager.release([one])
    assert manager.find([b"one", b"two", b"three"]) == [one, two]
    assert manager.allocate() == one
    assert manager.find([b"one"]) == []
    assert manager.find([b"one", b"two"]) == []  # not beyond a gap


def test_a_found_block_is_free_no_longer():
    manager = BlockManager(2, 4)
    block = manager.allocate()
    manager.seal(block, b"key")
    manager.release([block])
    manager.share(manager.find([b"key"]))
    assert (manager.ref_count[block], manager.n_free) == (1, 1)
    assert manager.allocate() != block
    with pytest.raises(OutOfBlocks):
        manager.allocate()


def test_the_block_unused_for_longest_goes_first_and_a_texts_end_before_its_beginning():
    manager = BlockManager(5, 4)
    old, new = [manager.allocate() for _ in range(2)], [manager.allocate() for _ in range(2)]
    for i, block in enumerate(old + new):
        manager.seal(block, bytes([i]))
    manager.release(old)
    manager.release(new)
    never = ({0, 1, 2, 3, 4} - {*old, *new}).pop()
    assert [manager.allocate() for _ in range(5)] == [never, old[1], old[0], new[1], new[0]]


def test_a_block_with_nothing_to_be_found_in_goes_before_all():
    manager = BlockManager(2, 4)
    sealed, partial = manager.allocate(), manager.allocate()
    manager.seal(sealed, b"key")
    manager.release([sealed])
    manager.release([partial])
    assert manager.allocate() == partial


def test_of_two_blocks_with_the_same_content_the_first_is_found_and_the_second_forgets_nothing():
    manager = BlockManager(2, 4)
    one, two = manager.allocate(), manager.allocate()
    manager.seal(one, b"key")
    manager.seal(two, b"key")
    assert manager.find([b"key"]) == [one]
    manager.release([two])
    assert manager.allocate() == two
    assert manager.find([b"key"]) == [one]


def test_what_can_be_found_is_told_in_the_order_in_which_it_goes():
    manager = BlockManager(4, 4)
    held, late, soon, _ = (manager.allocate() for _ in range(4))
    for block in (held, late, soon):
        manager.seal(block, bytes([block]))
    for block in (soon, late):
        manager.release([block])
    assert [block for block, _ in manager.sealed()] == [soon, late, held]


@pytest.mark.parametrize(("n_blocks", "block_size"), [(0, 4), (4, 0)])
def test_sizes_below_one_are_refused(n_blocks, block_size):
    with pytest.raises(ValueError, match="at least 1 each"):
        BlockManager(n_blocks, block_size)
