"""Who takes part in a step, and who has to wait."""

import pytest

from llmhw_helpers.serving.blocks import BlockManager
from llmhw_helpers.serving.request import Request
from llmhw_helpers.serving.scheduler import NeverFits, Scheduler


def make(n_blocks=8, block_size=4, **changes):
    limits = {"max_batch_size": 3, "max_step_tokens": 8} | changes
    return Scheduler(BlockManager(n_blocks, block_size), 64, **limits)


def submit(scheduler, prompt, n_new=4, arrival=0):
    request = Request(list(prompt), n_new, (arrival, 0))
    scheduler.submit(request)
    return request


def step(scheduler):
    """One step without a model: whoever has read everything gets a token. Rescheduled each one's share."""
    scheduled, copies = scheduler.schedule()
    scheduler.advance(scheduled)
    for request in scheduled:
        if not request.n_unread:
            request.tokens.append(99)
            if len(request.output) == request.n_new:
                request.finished = "length"
                scheduler.remove(request)
    return {request.arrival[0]: n for request, n in scheduled.items()}, copies


def test_a_long_prompt_comes_in_pieces_and_does_not_stop_those_who_write():
    scheduler = make(n_blocks=20)
    submit(scheduler, range(3), n_new=5, arrival=0)
    submit(scheduler, range(100, 120), arrival=1)
    assert [step(scheduler)[0] for _ in range(4)] == [{0: 3, 1: 5}, {0: 1, 1: 7}, {0: 1, 1: 7}, {0: 1, 1: 1}]


def test_writers_come_before_readers_who_came_first():
    scheduler = make(n_blocks=20, max_step_tokens=4)
    submit(scheduler, range(20), arrival=0)
    late = submit(scheduler, range(50, 52), arrival=1)
    assert step(scheduler)[0] == {0: 4}
    late.tokens = late.prompt[:1]  # a prompt of one token fits beside nothing: it waits for room in the step
    scheduler.max_step_tokens = 5
    assert step(scheduler)[0] == {0: 5}
    scheduler.waiting.remove(late)
    scheduler.running.append(late)
    late.block_table = [scheduler.blocks.allocate()]
    assert list(step(scheduler)[0].items()) == [(1, 1), (0, 4)]


def test_nobody_overtakes_whoever_came_first_and_does_not_fit_yet():
    scheduler = make(n_blocks=4)
    submit(scheduler, range(8), arrival=0)
    submit(scheduler, range(20, 30), arrival=1)  # needs three blocks, and there are two
    submit(scheduler, [1], arrival=2)  # would fit
    assert step(scheduler)[0] == {0: 8}
    assert step(scheduler)[0] == {0: 1}
    assert [request.arrival[0] for request in scheduler.waiting] == [1, 2]
    while scheduler.running:
        step(scheduler)
    assert step(scheduler)[0] == {1: 8}


def test_no_more_requests_than_there_are_places():
    scheduler = make()
    for i in range(5):
        submit(scheduler, [i], arrival=i)
    assert step(scheduler)[0] == {0: 1, 1: 1, 2: 1}
    assert len(scheduler.waiting) == 2


def test_the_latest_gives_its_blocks_back_and_comes_again():
    scheduler = make(n_blocks=4)
    one = submit(scheduler, range(4), n_new=12, arrival=0)
    two = submit(scheduler, range(10, 14), n_new=12, arrival=1)
    shares = []
    while scheduler.waiting or scheduler.running:
        shares.append(step(scheduler)[0])
        assert len(shares) < 60
    assert (one.finished, two.finished) == ("length", "length")
    assert one.n_preempted == 0
    assert two.n_preempted == scheduler.n_preempted > 0
    assert all(0 in share for share in shares[:12])  # the oldest is never stopped
    assert scheduler.blocks.n_free == 4


def test_only_the_latest_is_preempted_though_an_earlier_one_is_out_of_blocks():
    """Three write, and the middle one needs a block: the last one gives its own, and the others stay."""
    scheduler = make(n_blocks=3)
    one, two, three = (
        submit(scheduler, range(10 * i, 10 * i + n), n_new=2, arrival=i) for i, n in enumerate((2, 4, 2))
    )
    assert step(scheduler)[0] == {0: 2, 1: 4, 2: 2}
    assert step(scheduler)[0] == {0: 1, 1: 1}
    assert [each.n_preempted for each in (one, two, three)] == [0, 0, 1]
    assert (one.finished, two.finished, scheduler.waiting) == ("length", "length", [three])


def test_the_latest_goes_itself_when_it_is_the_one_that_needs_a_block():
    scheduler = make(n_blocks=3)
    one, two = (submit(scheduler, range(10 * i, 10 * i + 4), arrival=i) for i in range(2))
    step(scheduler)
    assert step(scheduler)[0] == {0: 1}
    assert (one.n_preempted, two.n_preempted) == (0, 1)


def test_what_a_victim_would_have_read_is_given_back_to_the_step():
    """Of four tokens: the writer's own is free again when it gives its blocks for the first of two who read."""
    scheduler = make(n_blocks=5, block_size=2, max_step_tokens=4)
    for arrival, n_tokens, n_cached in ((0, 6, 4), (1, 10, 2), (2, 3, 2)):
        request = Request([arrival] * n_tokens, 9, (arrival, 0), n_cached=n_cached)
        request.block_table = [scheduler.blocks.allocate() for _ in range(n_cached // 2)]
        scheduler.running.append(request)
    assert step(scheduler)[0] == {0: 2, 1: 2}
    assert [each.arrival[0] for each in scheduler.waiting] == [2]


def test_what_is_asked_for_again_after_a_preemption_is_counted_as_it_is_found():
    """Its prompt and what it wrote; how much of the prompt was found at first stays as it was."""
    scheduler = make(n_blocks=4)
    one, two = (submit(scheduler, range(10 * i, 10 * i + n), n_new=8, arrival=i) for i, n in enumerate((2, 6)))
    while not two.n_preempted:
        step(scheduler)
    assert (scheduler.n_asked, scheduler.n_reused) == (2 + 6, 0)
    assert len(two.output) == 3
    while scheduler.waiting or scheduler.running:
        step(scheduler)
    assert (two.n_preempted, scheduler.n_preempted) == (1, 1)
    assert (scheduler.n_asked, scheduler.n_reused) == (2 + 6 + 9, 4)
    assert (one.n_reused, two.n_reused) == (0, 0)


def test_after_a_preemption_nobody_is_let_in_in_the_same_step():
    scheduler = make(n_blocks=4, max_step_tokens=4, sharing=False)
    for i in range(2):
        submit(scheduler, range(10 * i, 10 * i + 4), n_new=12, arrival=i)
    while not scheduler.n_preempted:
        share, _ = step(scheduler)
    assert share == {0: 1}  # though the one preempted could begin again at once, in the block that is left
    assert scheduler.blocks.n_free == 1
    assert [each.arrival[0] for each in scheduler.waiting] == [1]


def test_a_copy_for_somebody_who_is_preempted_after_all_is_not_made():
    scheduler = make(n_blocks=4)
    one = submit(scheduler, range(50, 52), n_new=9, arrival=1)
    step(scheduler)
    reader = submit(scheduler, range(16), n_new=1, arrival=0)
    assert step(scheduler)[0] == {1: 1, 0: 7}
    two = Request(one.prompt, 9, (1, 1))
    scheduler.fork(one, two)
    two.tokens = list(one.tokens)
    scheduled, copies = scheduler.schedule()  # one gets the last block for its copy, and the reader needs two
    assert (list(scheduled), copies) == ([reader], [])
    assert scheduler.waiting == [one, two]


def test_an_interrupt_while_others_are_let_in_leaves_no_copy_unmade(monkeypatch):
    """Tables that name a block which nobody has copied yet are given back: all is read again, or found."""
    scheduler = make(n_blocks=8)
    one = submit(scheduler, range(6), n_new=9, arrival=0)
    step(scheduler)
    two = Request(one.prompt, 9, (0, 1))
    scheduler.fork(one, two)
    two.tokens = list(one.tokens)
    submit(scheduler, range(50, 54), arrival=1)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(scheduler.blocks, "find", lambda hashes: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            scheduler.schedule()
    assert (scheduler.running, one.block_table, two.block_table) == ([], [], [])
    assert scheduler.blocks.n_free == 8
    assert step(scheduler)[0] == {0: 3, 1: 2}  # one and two find four of their seven tokens


def test_static_batching_waits_for_all():
    scheduler = make(n_blocks=20, continuous=False)
    for i, n_new in enumerate((1, 5, 2, 1)):
        submit(scheduler, range(10 * i, 10 * i + 4), n_new=n_new, arrival=i)
    shares = [step(scheduler)[0] for _ in range(7)]
    assert shares == [{0: 4, 1: 4, 2: 4}, {1: 1, 2: 1}, {1: 1}, {1: 1}, {1: 1}, {3: 4}, {}]


def test_a_prompts_full_blocks_are_found_but_its_last_token_is_read():
    scheduler = make(n_blocks=20)
    submit(scheduler, range(8), n_new=1, arrival=0)
    step(scheduler)
    again = submit(scheduler, range(8), n_new=1, arrival=1)
    other = submit(scheduler, [*range(7), 50, 1], n_new=1, arrival=2)
    assert step(scheduler)[0] == {1: 4, 2: 4}  # the second block of `again` ends with the last token
    assert (again.n_reused, other.n_reused) == (4, 4)
    assert (scheduler.n_asked, scheduler.n_reused) == (8 + 8 + 9, 8)
    longer = submit(scheduler, range(9), n_new=1, arrival=3)
    step(scheduler)
    step(scheduler)
    assert longer.n_reused == 8


def test_without_sharing_everything_is_read():
    scheduler = make(n_blocks=20, sharing=False)
    for arrival in range(2):
        request = submit(scheduler, range(8), n_new=1, arrival=arrival)
        assert step(scheduler)[0] == {arrival: 8}
        assert request.n_reused == 0


def test_a_fork_shares_and_whoever_writes_first_copies():
    scheduler = make(n_blocks=8)
    one = submit(scheduler, range(6), n_new=9, arrival=0)
    step(scheduler)
    two = Request(one.prompt, 9, (0, 1), tokens=list(one.tokens))
    scheduler.fork(one, two)
    two.tokens = list(one.tokens)
    assert two.block_table == one.block_table
    assert [scheduler.blocks.ref_count[block] for block in one.block_table] == [2, 2]
    before = list(one.block_table)
    _, copies = step(scheduler)
    assert copies == [(before[1], one.block_table[1])]
    assert two.block_table == before
    assert [scheduler.blocks.ref_count[block] for block in before] == [2, 1]
    assert step(scheduler)[1] == []


def test_a_fork_at_a_blocks_edge_copies_nothing():
    scheduler = make(n_blocks=8)
    one = submit(scheduler, range(4), n_new=9, arrival=0)
    step(scheduler)
    two = Request(one.prompt, 9, (0, 1))
    scheduler.fork(one, two)
    two.tokens = list(one.tokens)
    assert step(scheduler)[1] == []
    assert one.block_table[0] == two.block_table[0]
    assert one.block_table[1] != two.block_table[1]


def test_a_fork_without_a_place_waits_before_those_who_came_later():
    scheduler = make(max_batch_size=1)
    one = submit(scheduler, range(4), arrival=0)
    step(scheduler)
    submit(scheduler, range(4), arrival=1)
    two = Request(one.prompt, 4, (0, 1))
    scheduler.fork(one, two)
    assert two.block_table == []
    assert [request.arrival for request in scheduler.waiting] == [(0, 1), (1, 0)]


def test_what_can_never_fit_is_refused_with_the_numbers():
    scheduler = make(n_blocks=3)
    with pytest.raises(NeverFits, match="60 tokens and 5 new ones: the context holds 64"):
        submit(scheduler, range(60), n_new=5)
    with pytest.raises(NeverFits, match="9 tokens and 5 new ones need 4 blocks of 4, and the cache has 3"):
        submit(scheduler, range(9), n_new=5)
    assert scheduler.waiting == []
    submit(scheduler, range(9), n_new=4)  # 12 tokens are read: the last one written is not


def test_limits_that_make_no_step_are_refused():
    for changes in ({"max_batch_size": 0}, {"max_batch_size": 9}):
        with pytest.raises(ValueError, match="each needs one, and one at least"):
            make(**changes)
