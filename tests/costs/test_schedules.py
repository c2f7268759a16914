"""Schedules: complete, in a right order, holding what the papers say, as PyTorch's own; wrong ones are refused."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.pipelining import ScheduleInterleaved1F1B

from llmhw_helpers.costs.schedules import (
    SCHEDULES,
    Work,
    WrongSchedule,
    check,
    gpipe,
    in_flight,
    interleaved,
    make_schedule,
    needs,
    one_f_one_b,
)
from llmhw_helpers.costs.training_memory import Layout
from llmhw_helpers.specs.figures import UnknownName

SIZES = [(p, m) for p in (1, 2, 3, 4, 8) for m in (1, 2, 3, 4, 8, 16)]
F, B = "forward", "backward"


@pytest.mark.parametrize(("pp_size", "n_micro_batches"), SIZES)
def test_each_rank_has_all_of_its_work_once(pp_size, n_micro_batches):
    for schedule in (gpipe(pp_size, n_micro_batches), one_f_one_b(pp_size, n_micro_batches)):
        assert check(schedule) == (pp_size, n_micro_batches, 1)
    for n_chunks in (2, 3):
        schedule = interleaved(pp_size, n_micro_batches * pp_size, n_chunks)
        assert check(schedule) == (pp_size, n_micro_batches * pp_size, n_chunks)


@pytest.mark.parametrize(("pp_size", "n_micro_batches"), SIZES)
def test_what_is_held_is_what_the_papers_say(pp_size, n_micro_batches):
    m = n_micro_batches
    assert in_flight(gpipe(pp_size, m)) == [m] * pp_size
    assert in_flight(one_f_one_b(pp_size, m)) == [min(m, pp_size - rank) for rank in range(pp_size)]
    for v in (2, 4):  # Megatron-LM, `get_num_warmup_microbatches`, and the one that is at work
        ahead = [2 * (pp_size - rank - 1) + (v - 1) * pp_size for rank in range(pp_size)]
        assert in_flight(interleaved(pp_size, m * pp_size, v)) == [min(m * pp_size * v, n + 1) for n in ahead]


@pytest.mark.parametrize(("pp_size", "n_micro_batches"), [(p, m) for p, m in SIZES if p > 1])
def test_the_planner_counts_the_same_in_flight(pp_size, n_micro_batches):
    for name in ("GPipe", "1F1B"):
        layout = Layout(pp_size=pp_size, n_micro_batches=n_micro_batches, schedule=name)
        counted = in_flight(make_schedule(name, pp_size, n_micro_batches))
        assert [layout.in_flight(stage) for stage in range(pp_size)] == counted


@pytest.mark.parametrize(("pp_size", "n_micro_batches", "n_chunks"), [(2, 4, 2), (4, 8, 2), (4, 4, 3), (3, 9, 2)])
def test_the_interleaved_order_is_pytorchs(pp_size, n_micro_batches, n_chunks):
    sizes = {"n_local_stages": n_chunks, "microbatches_per_round": pp_size, "pp_group_size": pp_size}
    theirs = SimpleNamespace(**sizes, _n_microbatches=n_micro_batches)
    for rank, works in enumerate(interleaved(pp_size, n_micro_batches, n_chunks)):
        actions = ScheduleInterleaved1F1B._calculate_single_rank_operations(theirs, rank)
        said = [(a.computation_type.name.lower(), a.microbatch_index, a.stage_index // pp_size) for a in actions if a]
        assert [(work.kind, work.micro_batch, work.chunk) for work in works] == [
            (kind.replace("full_", ""), *numbers) for kind, *numbers in said
        ]


def test_a_backward_pass_follows_each_forward_pass_once_the_stages_behind_are_full():
    assert " ".join(map(str, one_f_one_b(4, 6)[1])) == "f0 f1 f2 b0 f3 b1 f4 b2 f5 b3 b4 b5"
    assert " ".join(map(str, one_f_one_b(4, 6)[3])) == "f0 b0 f1 b1 f2 b2 f3 b3 f4 b4 f5 b5"
    assert (
        " ".join(map(str, interleaved(2, 4, 2)[1])) == "f0 f1 f0.1 b0.1 f1.1 b1.1 f2 b0 f3 b1 f2.1 b2.1 f3.1 b3.1 b2 b3"
    )


def test_work_begins_with_its_neighbours_result():
    assert needs(Work(F, 1), 0, 2, 2) is None
    assert needs(Work(F, 1, 1), 0, 2, 2) == (F, 1, 1)  # the last rank's first chunk
    assert needs(Work(B, 1, 0), 1, 2, 2) == (B, 1, 2)  # the first rank's second chunk
    assert needs(Work(B, 1, 1), 1, 2, 2) == (F, 1, 3)  # the loss


@pytest.mark.parametrize(
    ("rank", "change", "line"),
    [
        (1, lambda works: works[:-1], "rank 1: the backward pass of micro-batch 2 is missing"),
        (0, lambda works: works[1:], "rank 0: the forward pass of micro-batch 0 is missing"),
        (0, lambda works: [*works, works[0]], "rank 0: the forward pass of micro-batch 0 is there twice"),
        (1, lambda works: works[::-1], "rank 1: the backward pass of micro-batch 2 comes before its forward pass"),
        (0, lambda works: [], "rank 0: the forward pass of micro-batch 0 is missing"),
        (
            1,
            lambda works: [*works, Work("backwards", 0)],
            "rank 1: Work(kind='backwards', micro_batch=0, chunk=0) is no",
        ),
        (1, lambda works: [*works, Work(F, -1)], "rank 1: Work(kind='forward', micro_batch=-1, chunk=0) is no work"),
        (0, lambda works: [*works, Work(F, 0, 1)], "rank 0: the backward pass of micro-batch 0 in chunk 1 is missing"),
        (0, lambda works: [*works, (F, 0)], "a schedule is for each rank a list of Work(kind, micro_batch, chunk)"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(rank, change, line):
    schedule = gpipe(2, 3)
    schedule[rank] = change(schedule[rank])
    with pytest.raises(WrongSchedule) as caught:
        check(schedule)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_no_work_is_no_schedule():
    for empty in ([], [[], []]):
        with pytest.raises(WrongSchedule, match="a list of Work"):
            check(empty)


def test_names_and_sizes_are_done_or_refused():
    assert make_schedule("gpipe", 2, 3) == gpipe(2, 3)
    assert make_schedule("1f1b", 2, 3) == one_f_one_b(2, 3)
    assert make_schedule("Interleaved", 2, 4, 3) == interleaved(2, 4, 3)
    with pytest.raises(UnknownName, match="did you mean interleaved"):
        make_schedule("interleave-d1", 2, 2)
    with pytest.raises(ValueError, match="1F1B has one chunk a rank, not 2; the interleaved schedule has several"):
        make_schedule("1F1B", 2, 2, 2)
    with pytest.raises(ValueError, match="two chunks a rank or more; with one it is 1F1B"):
        make_schedule("interleaved", 2, 2)
    with pytest.raises(ValueError, match="6 micro-batches do not go through 4 ranks in whole rounds: take 8"):
        interleaved(4, 6)
    for make in SCHEDULES.values():
        with pytest.raises(ValueError, match="at least one rank, micro-batch and chunk, not 0, 2"):
            make(0, 2)


@given(st.integers(1, 6), st.integers(1, 12))
def test_1f1b_never_holds_more_than_gpipe(pp_size, n_micro_batches):
    few, many = in_flight(one_f_one_b(pp_size, n_micro_batches)), in_flight(gpipe(pp_size, n_micro_batches))
    assert all(a <= b for a, b in zip(few, many, strict=True))
