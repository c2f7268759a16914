"""Schedules of a pipeline: which stage works on which micro-batch when, who waits, and what is held meanwhile.

A pipeline gives each rank some of the layers, a *stage*. One batch would keep one stage busy and let all others wait;
cut into micro-batches, it keeps most of them busy most of the time. What is left of the waiting is the *bubble*. Three
schedules: GPipe (arXiv:1811.06965) runs all forward passes first; 1F1B (arXiv:2006.09503) begins each backward pass as
early as it can, and holds fewer activations; the interleaved one (arXiv:2104.04473, section 2.2) gives a rank several
stages, its *chunks*, and so has a smaller bubble for more messages.

A schedule is data: for each rank the list of its work, in order. Chunk `c` of rank `r` is stage ``c * pp_size + r``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..specs.figures import look_up

FORWARD, BACKWARD = "forward", "backward"


class Work(NamedTuple):
    """A pass of one micro-batch through one chunk of a rank: ``"forward"`` or ``"backward"``.

    >>> print(Work("forward", 3), Work("backward", 3, chunk=1))
    f3 b3.1
    """

    kind: str
    micro_batch: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind[0]}{self.micro_batch}" + (f".{self.chunk}" if self.chunk else "")


Schedule = Sequence[Sequence[Work]]


class WrongSchedule(ValueError):
    """A schedule that cannot be run: the message says which work is missing, too early or never possible."""


def gpipe(pp_size: int, n_micro_batches: int) -> list[list[Work]]:
    """All forward passes, then all backward passes: every rank holds the activations of the whole batch.

    >>> print(*gpipe(2, 3)[1])
    f0 f1 f2 b0 b1 b2
    """
    check_sizes(pp_size, n_micro_batches)
    return [_one_for_one(*_passes(1, n_micro_batches, 1), n_micro_batches) for _ in range(pp_size)]


def one_f_one_b(pp_size: int, n_micro_batches: int) -> list[list[Work]]:
    """Some forward passes to fill the stages behind, then one backward pass for each further forward pass.

    As long as GPipe's, but rank `r` holds ``pp_size - r`` micro-batches at most, however many there are.

    >>> print(*one_f_one_b(3, 4)[0])
    f0 f1 f2 b0 f3 b1 b2 b3
    """
    check_sizes(pp_size, n_micro_batches)
    return [_one_for_one(*_passes(1, n_micro_batches, 1), pp_size - 1 - rank) for rank in range(pp_size)]


def interleaved(pp_size: int, n_micro_batches: int, n_chunks: int = 2) -> list[list[Work]]:
    """1F1B in which each rank has `n_chunks` stages: `pp_size` micro-batches go through one, then through the next.

    Raises:
        ValueError: micro-batches that do not make whole rounds of `pp_size`, or fewer than two chunks.

    >>> print(*interleaved(2, 2)[1])
    f0 f1 f0.1 b0.1 f1.1 b1.1 b0 b1
    """
    check_sizes(pp_size, n_micro_batches, n_chunks)
    if n_chunks < 2:
        raise ValueError("an interleaved schedule has two chunks a rank or more; with one it is 1F1B")
    if n_micro_batches % pp_size:
        more = -(-n_micro_batches // pp_size) * pp_size
        raise ValueError(
            f"{n_micro_batches} micro-batches do not go through {pp_size} ranks in whole rounds: take {more}"
        )
    passes = _passes(pp_size, n_micro_batches, n_chunks)
    return [_one_for_one(*passes, 2 * (pp_size - 1 - rank) + (n_chunks - 1) * pp_size) for rank in range(pp_size)]


SCHEDULES = {"GPipe": gpipe, "1F1B": one_f_one_b, "interleaved": interleaved}


def make_schedule(name: str, pp_size: int, n_micro_batches: int, n_chunks: int = 1) -> list[list[Work]]:
    """The schedule called `name`: one of `SCHEDULES`.

    Raises:
        UnknownName: no such schedule; the message names the nearest.
        ValueError: sizes below 1, or chunks that this schedule does not have.

    >>> make_schedule("gpipe", 1, 1)
    [[Work(kind='forward', micro_batch=0, chunk=0), Work(kind='backward', micro_batch=0, chunk=0)]]
    """
    make = look_up(name, SCHEDULES, "pipeline schedule")
    if make is interleaved:
        return interleaved(pp_size, n_micro_batches, n_chunks)
    if n_chunks != 1:
        raise ValueError(f"{name} has one chunk a rank, not {n_chunks}; the interleaved schedule has several")
    return make(pp_size, n_micro_batches)


def in_flight(schedule: Schedule) -> list[int]:
    """For each rank the most passes whose activations it holds at once: forward done or begun, backward not ended.

    Counted from the schedule; where a rank has several chunks, each pass is that of one chunk, a part of its layers.

    >>> in_flight(gpipe(4, 8)), in_flight(one_f_one_b(4, 8)), in_flight(interleaved(4, 8, 2))
    ([8, 8, 8, 8], [4, 3, 2, 1], [11, 9, 7, 5])
    """
    check(schedule)
    most = []
    for works in schedule:
        held, top = 0, 0
        for work in works:
            held += 1 if work.kind == FORWARD else -1
            top = max(top, held)
        most.append(top)
    return most


def check(schedule: Sequence[Sequence[tuple]]) -> tuple[int, int, int]:
    """``(pp_size, n_micro_batches, n_chunks)`` of a schedule in which every rank has all of its work, in a right order.

    Whether the orders of different ranks fit together, `pipelines.simulate` finds out.

    Raises:
        WrongSchedule: work that is missing, doubled or unknown, or a backward pass before its forward pass.

    >>> check([[Work("forward", 0)]])
    Traceback (most recent call last):
        ...
    llmhw_helpers.costs.schedules.WrongSchedule: rank 0: the backward pass of micro-batch 0 is missing
    """
    everything = [work for works in schedule for work in works]
    if not everything or not all(isinstance(work, Work) for work in everything):
        raise WrongSchedule("a schedule is for each rank a list of Work(kind, micro_batch, chunk)")
    n_micro_batches, n_chunks = (1 + max(work[field] for work in everything) for field in (1, 2))
    numbers = [(m, chunk) for m in range(n_micro_batches) for chunk in range(n_chunks)]
    wanted = dict.fromkeys(Work(kind, *each) for each in numbers for kind in (FORWARD, BACKWARD))  # in this order
    for rank, works in enumerate(schedule):
        at = {work: i for i, work in enumerate(works)}
        if unknown := [work for work in works if work not in wanted]:
            raise WrongSchedule(f"rank {rank}: {unknown[0]!r} is no work: forward or backward, numbers from 0 on")
        if missing := [work for work in wanted if work not in at]:
            raise WrongSchedule(f"rank {rank}: {name_pass(*missing[0])} is missing")
        if twice := [work for work, n in Counter(works).items() if n > 1]:
            raise WrongSchedule(f"rank {rank}: {name_pass(*twice[0])} is there twice")
        for work in works:
            if work.kind == BACKWARD and at[work] < at[work._replace(kind=FORWARD)]:
                raise WrongSchedule(f"rank {rank}: {name_pass(*work)} comes before its forward pass")
    return len(schedule), n_micro_batches, n_chunks


def needs(work: Work, rank: int, pp_size: int, n_chunks: int) -> tuple[str, int, int] | None:
    """``(kind, micro_batch, stage)`` whose result `work` of a rank begins with; None at the first stage's forward pass.

    >>> needs(Work("forward", 5, 1), 0, 4, 2), needs(Work("backward", 5, 0), 3, 4, 2)
    (('forward', 5, 3), ('backward', 5, 4))
    """
    stage = work.chunk * pp_size + rank
    if work.kind == FORWARD:
        return (FORWARD, work.micro_batch, stage - 1) if stage else None
    if stage == pp_size * n_chunks - 1:  # begins with the loss
        return FORWARD, work.micro_batch, stage
    return BACKWARD, work.micro_batch, stage + 1


def check_sizes(pp_size: int, n_micro_batches: int, n_chunks: int = 1) -> None:
    """Refuse, by a ValueError, what is no pipeline."""
    if min(pp_size, n_micro_batches, n_chunks) < 1:
        raise ValueError(
            f"a pipeline has at least one rank, micro-batch and chunk, not {pp_size}, {n_micro_batches} and {n_chunks}"
        )


def name_pass(kind: str, micro_batch: int, chunk: int = 0) -> str:
    """In words, for messages."""
    return f"the {kind} pass of micro-batch {micro_batch}" + (f" in chunk {chunk}" if chunk else "")


def _passes(round_size: int, n_micro_batches: int, n_chunks: int) -> tuple[list[Work], list[Work]]:
    """All forward and all backward passes of a rank: `round_size` micro-batches through each chunk, then the next."""
    firsts = range(0, n_micro_batches, round_size)
    order = [(first + i, chunk) for first in firsts for chunk in range(n_chunks) for i in range(round_size)]
    forwards = [Work(FORWARD, m, chunk) for m, chunk in order]
    return forwards, [Work(BACKWARD, m, n_chunks - 1 - chunk) for m, chunk in order]


def _one_for_one(forwards: list[Work], backwards: list[Work], n_ahead: int) -> list[Work]:
    """`n_ahead` forward passes, then by turns one forward and one backward pass, then the backward passes left."""
    n_ahead = min(n_ahead, len(forwards))
    n_pairs = len(forwards) - n_ahead
    pairs = [work for pair in zip(forwards[n_ahead:], backwards[:n_pairs], strict=True) for work in pair]
    return forwards[:n_ahead] + pairs + backwards[n_pairs:]
