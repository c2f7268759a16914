"""How long a pipeline's step takes, who waits in it, and what its ranks send one another.

A stage waits until the first micro-batch has come through those before it, and again when the last one has left: the
*bubble*. If all stages take equally long it is a simple formula; `simulate` has the times of any schedule, with stages
that differ and messages that take time.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .schedules import BACKWARD, FORWARD, Schedule, Work, WrongSchedule, check, check_sizes, name_pass, needs


class Event(NamedTuple):
    """Some `Work` of a rank, with the seconds at which it began and ended."""

    rank: int
    kind: str
    micro_batch: int
    chunk: int
    start_s: float
    end_s: float


def bubble(pp_size: int, n_micro_batches: int, n_chunks: int = 1) -> float:
    """The share of a step in which a rank waits: ``(p - 1) / (v m + p - 1)``, if all stages take equally long.

    Each rank works on ``m`` micro-batches in ``v`` chunks, and waits for ``p - 1`` chunks' time while the pipeline
    fills and empties. Sending is left out; `simulate` has it.

    >>> [round(bubble(4, m), 3) for m in (1, 2, 4, 8)], round(bubble(4, 8, n_chunks=2), 3)
    ([0.75, 0.6, 0.429, 0.273], 0.158)
    """
    check_sizes(pp_size, n_micro_batches, n_chunks)
    return (pp_size - 1) / (n_chunks * n_micro_batches + pp_size - 1)


def bubble_overhead(pp_size: int, n_micro_batches: int, n_chunks: int = 1) -> float:
    """The same waiting as a share of the work: ``(p - 1) / (v m)``, by which a step is longer than without a bubble.

    >>> bubble_overhead(4, 8), bubble_overhead(4, 8, n_chunks=2)
    (0.375, 0.1875)
    """
    check_sizes(pp_size, n_micro_batches, n_chunks)
    return (pp_size - 1) / (n_chunks * n_micro_batches)


def sent_bytes(batch_bytes: int, pp_size: int, n_chunks: int = 1) -> list[int]:
    """Bytes that each rank sends in a step: the stream crosses every border once forwards, its gradient once back.

    So it is the same for any schedule and any number of micro-batches: ``2 (p v - 1) batch_bytes`` of all ranks.

    Args:
        batch_bytes: of the stream between two stages for the whole batch: sequences x tokens x ``d_model`` x bytes.
        pp_size, n_chunks: ranks, and stages of each.

    >>> sent_bytes(1000, 4), sum(sent_bytes(1000, 4, n_chunks=2))
    ([1000, 2000, 2000, 1000], 14000)
    """
    check_sizes(pp_size, 1, n_chunks)
    if not batch_bytes >= 0:
        raise ValueError(f"no batch has {batch_bytes} bytes")
    last = pp_size - 1
    borders = [2 * n_chunks - (rank == 0) - (rank == last) for rank in range(pp_size)]
    return [batch_bytes * n if pp_size > 1 else 0 for n in borders]


def simulate(
    schedule: Schedule,
    forward_s: float | Sequence[float] = 1.0,
    backward_s: float | Sequence[float] = 2.0,
    send_s: float = 0.0,
) -> list[Event]:
    """The events of a step in which every rank does its work in order, each as soon as what it needs has come.

    Args:
        schedule: of every rank.
        forward_s, backward_s: seconds that a micro-batch takes in one stage; one number for all, or one for each stage.
        send_s: seconds from the end of a pass to its result's arrival on another rank, beside that rank's work.

    Raises:
        WrongSchedule: as in `check`, or ranks that wait for one another for ever; the message says who for what.
        ValueError: seconds for another number of stages, or less than none.

    >>> from llmhw_helpers.costs.schedules import one_f_one_b
    >>> events = simulate(one_f_one_b(2, 2), forward_s=1, backward_s=2)
    >>> [(event.kind, event.start_s, event.end_s) for event in events if event.rank == 1]
    [('forward', 1.0, 2.0), ('backward', 2.0, 4.0), ('forward', 4.0, 5.0), ('backward', 5.0, 7.0)]
    >>> round(idle_share(events), 3), round(bubble(2, 2), 3)
    (0.333, 0.333)
    """
    pp_size, _, n_chunks = check(schedule)
    seconds = {
        FORWARD: _by_stage(forward_s, pp_size * n_chunks),
        BACKWARD: _by_stage(backward_s, pp_size * n_chunks),
    }
    if not all(each >= 0 for each in (*seconds[FORWARD], *seconds[BACKWARD], send_s)):
        raise ValueError(f"a pass or message takes 0 seconds at least: {forward_s}, {backward_s}, {send_s}")
    done: dict[tuple[str, int, int] | None, float] = {None: 0.0}
    left, free_at, events = [list(reversed(works)) for works in schedule], [0.0] * pp_size, []
    while any(left):
        n_before = len(events)
        for rank, works in enumerate(left):
            while works and (needed := needs(works[-1], rank, pp_size, n_chunks)) in done:
                work = works.pop()
                stage = work.chunk * pp_size + rank
                comes_from_afar = needed is not None and needed[2] % pp_size != rank
                start = max(free_at[rank], done[needed] + send_s * comes_from_afar)
                free_at[rank] = done[work.kind, work.micro_batch, stage] = start + seconds[work.kind][stage]
                events.append(Event(rank, *work, start, free_at[rank]))
        if len(events) == n_before:
            raise WrongSchedule(f"nobody can go on: {'; '.join(_waits(left, pp_size, n_chunks))}")
    return events


def idle_share(events: Sequence[Event]) -> float:
    """The share of a step, simulated or real, in which a rank waits, on average: the bubble, and more where sends cost.

    ``1 - (seconds of all work) / (ranks x (last end - first start))``.
    """
    n_ranks = 1 + max(event.rank for event in events)
    busy = sum(event.end_s - event.start_s for event in events)
    return 1 - busy / (n_ranks * (max(event.end_s for event in events) - min(event.start_s for event in events)))


def _by_stage(seconds: float | Sequence[float], n_stages: int) -> Sequence[float]:
    if not isinstance(seconds, Sequence):
        return [seconds] * n_stages
    if len(seconds) != n_stages:
        raise ValueError(f"{len(seconds)} times for {n_stages} stages: give one for each, or one number for all")
    return seconds


def _waits(left: list[list[Work]], pp_size: int, n_chunks: int) -> list[str]:
    """What each rank that has work left waits for."""
    said = []
    for rank, works in enumerate(left):
        if works:
            kind, micro_batch, stage = needs(works[-1], rank, pp_size, n_chunks)
            wanted = name_pass(kind, micro_batch, stage // pp_size)
            said.append(f"rank {rank} waits for {wanted} on rank {stage % pp_size}")
    return said
