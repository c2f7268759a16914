"""How much of a KV cache's memory holds tokens, and how much is set aside for nothing, in three ways to share it out.

A *slot* is the memory of one token's keys and values. A request is ``(n_prompt, n_new)``: tokens that it brings, and
tokens that it will have written when it is done, which nobody knows before. "Efficient Memory Management for Large
Language Model Serving with PagedAttention" (arXiv:2309.06180), section 3.1 and figure 2.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class TooLarge(ValueError):
    """A request that is larger than the whole memory."""


def blocks_for(n_tokens: int, block_size: int) -> int:
    """Blocks that `n_tokens` fill, the last one perhaps in part: ``ceil(n_tokens / block_size)``.

    >>> blocks_for(32, 16), blocks_for(33, 16)
    (2, 3)
    """
    return -(-n_tokens // block_size)


def paging_waste(mean_tokens: float, block_size: int) -> float:
    """The share of held slots without a token, if only the last block of a sequence has empty ones.

    A last block holds 1 to `block_size` tokens, each as often as any other, so ``(block_size - 1) / 2`` slots of it
    are empty on average.

    >>> paging_waste(300, 1), round(paging_waste(300, 16), 3)
    (0.0, 0.024)
    """
    empty = (block_size - 1) / 2
    return empty / (mean_tokens + empty)


def buddy_size(n_slots: int) -> int:
    """The region that a buddy allocator gives: the next power of two.

    >>> [buddy_size(n) for n in (1, 5, 64, 65)]
    [1, 8, 64, 128]
    """
    return 1 << (n_slots - 1).bit_length()


class FirstFit:
    """Regions of exactly the size that is asked for, each in the first gap that is large enough."""

    def __init__(self, n_slots: int):
        self.n_slots = n_slots
        self._ends: dict[int, int] = {}  # by start

    def size(self, wanted: int) -> int:
        """As many as are wanted."""
        return wanted

    def allocate(self, wanted: int) -> int | None:
        """The first slot of the region; `None` where no gap is large enough."""
        at = 0
        for start in (*sorted(self._ends), self.n_slots):
            if start - at >= wanted:
                self._ends[at] = at + wanted
                return at
            at = self._ends.get(start, start)
        return None

    def release(self, start: int) -> None:
        """Give the region that begins at `start` back."""
        del self._ends[start]


class Buddy:
    """Regions whose size is a power of two, made by halving larger ones; two halves that are free become one again.

    "A fast storage allocator" (Knowlton 1965, doi:10.1145/365628.365655).
    """

    def __init__(self, n_slots: int):
        self.n_slots = n_slots
        self._free: dict[int, set[int]] = {1 << bit: set() for bit in range(n_slots.bit_length())}
        self._sizes: dict[int, int] = {}
        at = 0
        for size in sorted(self._free, reverse=True):  # any number is a sum of powers of two, the largest first
            if n_slots & size:
                self._free[size].add(at)
                at += size

    def size(self, wanted: int) -> int:
        """The next power of two."""
        return buddy_size(wanted)

    def allocate(self, wanted: int) -> int | None:
        """The first slot of the region; `None` where no free one is large enough."""
        size = self.size(wanted)
        fitting = [each for each, starts in self._free.items() if each >= size and starts]
        if not fitting:
            return None
        found = min(fitting)
        start = min(self._free[found])
        self._free[found].remove(start)
        while found > size:  # keep the left half
            found //= 2
            self._free[found].add(start + found)
        self._sizes[start] = size
        return start

    def release(self, start: int) -> None:
        """Give the region that begins at `start` back, and join it with its other half for as long as that is free."""
        size = self._sizes.pop(start)
        while (other := start ^ size) in self._free[size] and 2 * size in self._free:
            self._free[size].remove(other)
            start, size = min(start, other), 2 * size
        self._free[size].add(start)


@dataclass(frozen=True)
class Shares:
    """What a memory's slots are used for, as shares of all, on average over the steps of a busy server.

    Attributes:
        tokens: hold a token.
        to_come: set aside, and filled later by the request that has them.
        never: set aside, and never filled (internal fragmentation).
        free: not set aside, and yet the next request does not fit in (external fragmentation).
        n_running: requests that are served at the same time.
    """

    tokens: float
    to_come: float
    never: float
    free: float
    n_running: float


@dataclass
class _Running:
    """A request that is being served: tokens so far, tokens in the end, slots that it holds, and where."""

    length: int
    final: int
    held: int
    start: int = 0


def reserve(
    requests: Iterable[tuple[int, int]],
    memory: FirstFit | Buddy,
    wanted: Callable[[int, int], int],
    n_steps: int,
    warmup: int = 0,
) -> Shares:
    """A server that sets a contiguous region aside for a request's whole life.

    Each step every request in memory writes a token; whoever is done leaves; who is next in the queue comes in as soon
    as it fits.

    Args:
        requests: the queue; more than are ever let in.
        memory: an empty one.
        wanted: slots to ask for, given `n_prompt` and `n_new`.
        n_steps: over which the shares are averaged.
        warmup: steps before these.

    Raises:
        TooLarge: a request that is larger than the empty memory.
    """
    queue, running, seen = iter(requests), [], []
    n_prompt, n_new = next(queue)
    for _ in range(warmup + n_steps):
        while (start := memory.allocate(wanted(n_prompt, n_new))) is not None:
            size = memory.size(wanted(n_prompt, n_new))
            running.append(_Running(n_prompt, n_prompt + n_new, size, start))
            n_prompt, n_new = next(queue)
        if not running:
            raise TooLarge(f"{wanted(n_prompt, n_new)} slots of a memory of {memory.n_slots}")
        seen.append(_count(running, memory.n_slots))
        for each in running:
            each.length += 1
            if each.length == each.final:
                memory.release(each.start)
        running = [each for each in running if each.length < each.final]
    return _average(seen[warmup:])


def page(requests: Iterable[tuple[int, int]], n_slots: int, block_size: int, n_steps: int, warmup: int = 0) -> Shares:
    """The same server with blocks of `block_size` slots: a request takes one more when the one before is full.

    If none is free, the request that came last gives its blocks back and waits at the head of the queue with the text
    that it has. Arguments and errors as in `reserve`.
    """
    queue, running, seen = iter(requests), [], []
    n_free, n_blocks = n_slots // block_size, n_slots // block_size
    waiting = next(queue)
    for _ in range(warmup + n_steps):
        while (need := blocks_for(waiting[0], block_size)) <= n_free:
            running.append(_Running(waiting[0], sum(waiting), need * block_size))
            n_free -= need
            waiting = next(queue)
        if not running:
            raise TooLarge(f"{need} blocks of a memory of {n_blocks}")
        seen.append(_count(running, n_slots))
        for each in list(running):
            each.length += 1
            if each.length == each.final:
                n_free += each.held // block_size
                running.remove(each)
        i = 0
        while i < len(running):  # oldest first
            if running[i].length <= running[i].held:
                i += 1
            elif n_free:
                running[i].held += block_size
                n_free -= 1
            else:
                last = running.pop()
                n_free += last.held // block_size
                queue = itertools.chain([waiting], queue)
                waiting = (last.length, last.final - last.length)
    return _average(seen[warmup:])


def _count(running: list[_Running], n_slots: int) -> tuple[float, ...]:
    tokens = sum(each.length for each in running) / n_slots
    to_come = sum(min(each.held, each.final) - each.length for each in running) / n_slots
    never = sum(max(0, each.held - each.final) for each in running) / n_slots
    return tokens, to_come, never, 1 - tokens - to_come - never, len(running)


def _average(seen: list[tuple[float, ...]]) -> Shares:
    return Shares(*(sum(column) / len(seen) for column in zip(*seen, strict=True)))
