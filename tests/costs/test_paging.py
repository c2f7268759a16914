"""Sharing out a cache's memory: against brute force, against the real scheduler, and against the published waste."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.paging import (
    Buddy,
    FirstFit,
    TooLarge,
    blocks_for,
    buddy_size,
    page,
    paging_waste,
    reserve,
)
from llmhw_helpers.serving.blocks import BlockManager
from llmhw_helpers.serving.request import Request
from llmhw_helpers.serving.scheduler import Scheduler

A100_SLOTS = 14609  # of Llama-2-13B in 38 GB, as in notebook 07


def chats(mean_prompt=161, mean_new=338, spread=0.8, seed=0):
    draw = random.Random(seed)

    def length(mean):
        return max(1, round(draw.lognormvariate(math.log(mean) - spread**2 / 2, spread)))

    while True:
        pair = length(mean_prompt), length(mean_new)
        if sum(pair) <= 2048:
            yield pair


@given(st.integers(0, 500), st.integers(1, 40))
def test_blocks_are_those_that_one_fills_by_hand(n_tokens, block_size):
    assert blocks_for(n_tokens, block_size) == len({position // block_size for position in range(n_tokens)})


def test_the_waste_of_paging_is_that_of_many_lengths():
    lengths = [n for n, _ in itertools.islice(chats(), 20000)]
    held = sum(blocks_for(n, 16) * 16 for n in lengths)
    assert paging_waste(sum(lengths) / len(lengths), 16) == pytest.approx(1 - sum(lengths) / held, rel=0.01)


@given(st.integers(1, 10**6))
def test_a_buddys_size_is_the_least_power_of_two_that_is_enough(n):
    size = buddy_size(n)
    assert size & (size - 1) == 0
    assert size // 2 < n <= size


ORDERS = st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=80)


@pytest.mark.parametrize("kind", [FirstFit, Buddy])
@given(n_slots=st.integers(1, 300), orders=ORDERS)
def test_regions_never_overlap_and_are_refused_only_where_none_fits(kind, n_slots, orders):
    memory, owners, regions = kind(n_slots), [None] * n_slots, []
    for give, number in orders:
        if give:
            size, start = memory.size(number), memory.allocate(number)
            places = range(n_slots - size + 1) if kind is FirstFit else range(0, n_slots - size + 1, size)
            fits = [at for at in places if not any(owners[at : at + size])]
            if start is None:
                assert not fits
                continue
            assert fits, "a region that somebody has, or that lies across a power of two"
            assert start in fits
            assert kind is Buddy or start == fits[0]
            owners[start : start + size] = [number] * size
            regions.append((start, size))
        elif regions:
            start, size = regions.pop(number % len(regions))
            memory.release(start)
            owners[start : start + size] = [None] * size
    for start, _ in regions:
        memory.release(start)
    largest = n_slots if kind is FirstFit else 1 << (n_slots.bit_length() - 1)
    assert memory.allocate(largest) is not None, "the halves were not joined again"


def test_buddies_give_the_smallest_region_that_is_enough():
    memory = Buddy(64)
    assert [memory.allocate(n) for n in (5, 20, 7)] == [0, 32, 8]
    memory.release(0)
    assert memory.allocate(16) == 16
    assert memory.allocate(16) is None, "8 + 8 are free, but they are no pair"


def test_shares_of_requests_that_are_all_alike_are_those_by_hand():
    # 100 slots, 4 regions of 25; each request lives 10 steps with 10 to 19 tokens of its 20
    alike = itertools.repeat((10, 10))
    shares = reserve(alike, FirstFit(100), lambda n_prompt, n_new: 25, n_steps=50)
    assert shares.n_running == 4
    assert shares.tokens == pytest.approx(4 * 14.5 / 100)
    assert shares.to_come == pytest.approx(4 * 5.5 / 100)
    assert shares.never == pytest.approx(4 * 5 / 100)
    assert shares.free == pytest.approx(0)
    shares = reserve(alike, Buddy(100), lambda n_prompt, n_new: 20, n_steps=50)
    assert (shares.n_running, shares.never) == (3, pytest.approx(3 * 12 / 100))  # 64 + 32, and 4 for nobody
    assert shares.free == pytest.approx(4 / 100)


def test_one_by_one_in_blocks_by_hand():
    # one request of 6 tokens that writes 4, in 3 blocks of 4: lengths 6 to 9, then the next
    shares = page(itertools.repeat((6, 4)), 12, 4, n_steps=40)
    assert shares.n_running == 1
    assert shares.tokens == pytest.approx((6 + 7 + 8 + 9) / 4 / 12)
    assert shares.to_come == pytest.approx((2 + 1 + 0 + 1) / 4 / 12)
    assert shares.never == pytest.approx(2 / 4 / 12)


def test_what_is_larger_than_the_memory_is_refused():
    with pytest.raises(TooLarge, match="2048 slots of a memory of 1000"):
        reserve(chats(), FirstFit(1000), lambda *request: 2048, 1)
    with pytest.raises(TooLarge, match="4 blocks of a memory of 3"):
        page(itertools.repeat((50, 1)), 48, 16, 1)


def test_the_published_waste():
    """arXiv:2309.06180: in the servers before it 20.4% to 38.2% of the memory held tokens, in its own 96.3%."""

    def exact(n_prompt, n_new):
        return n_prompt + n_new

    steps = {"n_steps": 3000, "warmup": 1000}
    most = reserve(chats(), FirstFit(A100_SLOTS), lambda *request: 2048, **steps)
    buddy = reserve(chats(), Buddy(A100_SLOTS), exact, **steps)
    known = reserve(chats(), FirstFit(A100_SLOTS), exact, **steps)
    paged = page(chats(), A100_SLOTS, 16, **steps)
    assert most.tokens < buddy.tokens < known.tokens < 0.6
    assert 0.2 < most.tokens < 0.4
    assert paged.tokens > 0.96
    assert most.n_running == 7
    assert paged.n_running > 4 * most.n_running
    for shares in (most, buddy, known, paged):
        assert shares.tokens + shares.to_come + shares.never + shares.free == pytest.approx(1)
        assert min(shares.tokens, shares.to_come, shares.never, shares.free) > -1e-9


def test_pages_hold_as_many_requests_as_the_real_scheduler_lets_in():
    """Without a model: each request that has been read is given a token."""
    blocks = BlockManager(A100_SLOTS // 16, 16)
    scheduler = Scheduler(blocks, 2048, max_batch_size=10**6, max_step_tokens=10**6, sharing=False)
    queue = enumerate(chats())
    counts = []
    for step in range(4000):
        while len(scheduler.waiting) < 2:
            number, (n_prompt, n_new) = next(queue)
            scheduler.submit(Request([0] * n_prompt, n_new, (number, 0)))
        scheduled, _ = scheduler.schedule()
        counts += [len(scheduler.running)] if step >= 1000 else []
        scheduler.advance(scheduled)
        for request in scheduled:
            request.tokens.append(0)
            if len(request.output) == request.n_new:
                scheduler.remove(request)
    paged = page(chats(), A100_SLOTS, 16, 3000, 1000)
    assert paged.n_running == pytest.approx(sum(counts) / len(counts), rel=0.03)
