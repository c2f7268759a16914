"""Who takes part in the next step: continuous batching, prompts in chunks, and who gives blocks back when all are held.

Continuous batching: Orca (OSDI 2022). Chunked prefill beside decode: Sarathi-Serve (arXiv:2403.02310). Preemption by
recomputation: arXiv:2309.06180, section 4.5.
"""

import sys
from bisect import insort
from collections.abc import Collection

from .blocks import BlockManager, OutOfBlocks, block_hashes
from .request import Request
from .spill import Spill


class NeverFits(ValueError):
    """A request that needs more than there is, even if it were alone."""


class Scheduler:
    """Says who takes part in a step, in the order of arrival: nobody overtakes, and the oldest is never stopped.

    Args:
        blocks: of the cache.
        context_length: tokens of a text at most.
        max_batch_size: requests in a step (vLLM: `max_num_seqs`).
        max_step_tokens: tokens in a step: how long a prompt can hold up those who are writing (vLLM:
            `max_num_batched_tokens`).
        sharing: a prompt's full blocks are looked for in the cache (vLLM: `enable_prefix_caching`).
        continuous: let a request in as soon as there is room; else only when all before are done (static batching).

    Attributes:
        spill: where blocks are looked for that the cache has no more; `None` if nowhere.
        waiting, running: requests by arrival.
        n_preempted: how often a request had to give back its blocks.
        n_asked, n_reused: tokens of the requests when they were let in, and those of them found in the cache.

    Raises:
        ValueError: no requests, or fewer tokens than requests in a step.
    """

    def __init__(
        self,
        blocks: BlockManager,
        context_length: int,
        max_batch_size: int = 8,
        max_step_tokens: int = 256,
        sharing: bool = True,
        continuous: bool = True,
    ):
        if not 1 <= max_batch_size <= max_step_tokens:
            raise ValueError(
                f"{max_batch_size} requests of {max_step_tokens} tokens in a step: each needs one, and one at least"
            )
        self.blocks, self.context_length = blocks, context_length
        self.max_batch_size, self.max_step_tokens = max_batch_size, max_step_tokens
        self.sharing, self.continuous = sharing, continuous
        self.spill: Spill | None = None
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.n_preempted = self.n_asked = self.n_reused = 0

    def submit(self, request: Request) -> None:
        """Let `request` wait until it is scheduled.

        Raises:
            NeverFits: its text would be longer than the context, or than all blocks together.
        """
        n_prompt, n_new = len(request.prompt), request.n_new
        if n_prompt + n_new > self.context_length:
            raise NeverFits(f"{n_prompt} tokens and {n_new} new ones: the context holds {self.context_length}")
        need = self.blocks.blocks_for(n_prompt + n_new - 1)  # the last new token is never read
        if need > self.blocks.n_blocks:
            raise NeverFits(
                f"{n_prompt} tokens and {n_new} new ones need {need} blocks of {self.blocks.block_size}, "
                f"and the cache has {self.blocks.n_blocks}"
            )
        insort(self.waiting, request, key=_arrival)

    def schedule(self) -> tuple[dict[Request, int], list[tuple[int, int]]]:
        """The next step: how many tokens of which request (vLLM: `num_scheduled_tokens`), and blocks to copy before."""
        scheduled, copies = {}, {}
        try:
            self._choose(scheduled, copies)
        except BaseException:  # interrupted: these tables name copies that nobody will make
            for each in copies:
                self.preempt(each)
            raise
        return scheduled, [pair for pairs in copies.values() for pair in pairs]

    def advance(self, scheduled: dict[Request, int], unsound: Collection[Request] = ()) -> None:
        """The step is done: its tokens are in the cache, and what blocks they filled can be found.

        But for those of `unsound` requests, which hold NaN or infinity: whoever found one would fail as well.
        """
        size = self.blocks.block_size
        for request, n_new in scheduled.items():
            n_full = request.n_cached // size
            request.n_cached += n_new
            filled = slice(n_full, request.n_cached // size)
            if self.sharing and request not in unsound and filled.stop > filled.start:
                read = request.tokens[: request.n_cached]
                request.block_hashes = block_hashes(read, size, request.block_hashes)
                for block, block_hash in zip(request.block_table[filled], request.block_hashes[filled], strict=True):
                    self.blocks.seal(block, block_hash)

    def fork(self, request: Request, sibling: Request) -> None:
        """`sibling` goes on from where `request` stands, in the same blocks, or waits where there is no room for it."""
        sibling.block_hashes = list(request.block_hashes)
        if len(self.running) >= self.max_batch_size:
            insort(self.waiting, sibling, key=_arrival)
            return
        self.blocks.share(request.block_table)
        sibling.block_table, sibling.n_cached = list(request.block_table), request.n_cached
        insort(self.running, sibling, key=_arrival)

    def remove(self, request: Request) -> None:
        """`request` is done, or no longer wanted: its blocks are free at once."""
        for requests in (self.waiting, self.running):
            if request in requests:
                requests.remove(request)
        self._release(request)

    def preempt(self, request: Request) -> None:
        """Back to the waiting ones: all its text is read again later, or found in the cache."""
        self.running.remove(request)
        self._release(request)
        request.n_preempted += 1
        self.n_preempted += 1
        insort(self.waiting, request, key=_arrival)

    def __contains__(self, request: Request) -> bool:
        return request in self.waiting or request in self.running

    def _choose(self, scheduled: dict[Request, int], copies: dict[Request, list[tuple[int, int]]]) -> None:
        budget, n_preempted = self.max_step_tokens, self.n_preempted
        for request in self.running:
            if not request.n_unread:  # a step was interrupted before a token was drawn: its last one is read again
                request.n_cached -= 1
        # Those who write first, as each takes a single token; what is left is for those whose prompt is being read.
        for request in sorted(self.running, key=lambda request: (request.n_unread > 1, request.arrival)):
            n_new = min(request.n_unread, budget)
            while n_new and request.block_table:  # it has some, unless it was preempted for one before
                try:
                    copies[request] = self._make_room(request, n_new)
                except OutOfBlocks:
                    victim = self.running[-1]
                    self.preempt(victim)
                    budget += scheduled.pop(victim, 0)
                    copies.pop(victim, None)
                else:
                    scheduled[request] = n_new
                    budget -= n_new
                    break
        if self.n_preempted == n_preempted and (self.continuous or not self.running):
            self._admit(scheduled, budget if self.continuous else sys.maxsize)

    def _make_room(self, request: Request, n_new: int) -> list[tuple[int, int]]:
        """Blocks of its own for the next `n_new` tokens; the block to be copied, if others hold the one it is in."""
        table, n_cached = request.block_table, request.n_cached
        missing = self.blocks.blocks_for(n_cached + n_new) - len(table)
        at = n_cached // self.blocks.block_size
        shared = at < len(table) and self.blocks.ref_count[table[at]] > 1
        needed = missing + 1 if shared else missing
        if needed > self.blocks.n_free:
            raise OutOfBlocks
        for _ in range(missing):
            table.append(self.blocks.allocate())
        if not shared:
            return []
        copy = table[at], self.blocks.allocate()  # copy on write
        self.blocks.release([table[at]])
        table[at] = copy[1]
        return [copy]

    def _admit(self, scheduled: dict[Request, int], budget: int) -> None:
        while self.waiting and budget and len(self.running) < self.max_batch_size:
            request = self.waiting[0]
            found = []
            if self.sharing:  # the last token is read in any case: what comes after it is asked for
                request.block_hashes = block_hashes(request.tokens, self.blocks.block_size, request.block_hashes)
                found = self.blocks.find(request.block_hashes[: (len(request.tokens) - 1) // self.blocks.block_size])
            self.blocks.share(found)
            n_found = len(found) * self.blocks.block_size
            request.block_table, request.n_cached = found, n_found
            try:
                if self.sharing and self.spill is not None:
                    self._reload(request, budget)
                n_new = min(request.n_unread, budget)
                self._make_room(request, n_new)
            except OutOfBlocks:  # all who came later wait, too
                self._release(request)
                return
            except BaseException:  # interrupted
                self._release(request)
                raise
            if not request.n_preempted:
                request.n_reused, request.n_reloaded = request.n_cached, request.n_cached - n_found
            self.n_asked += len(request.tokens)
            self.n_reused += request.n_cached
            scheduled[request] = n_new
            budget -= n_new
            insort(self.running, self.waiting.pop(0), key=_arrival)

    def _reload(self, request: Request, budget: int) -> None:
        """Blocks after those that were found, from the folder: as many as leave room for what the step then reads."""
        blocks, size = self.blocks, self.blocks.block_size
        room = blocks.n_free
        if blocks.blocks_for(request.n_unread) > room:  # it will not get through in one go
            room = max(0, room - blocks.blocks_for(budget))
        wanted = request.block_hashes[request.n_cached // size : (len(request.tokens) - 1) // size][:room]
        wanted = wanted[: self.spill.n_stored(wanted)]
        held = len(request.block_table)
        for _ in wanted:
            request.block_table.append(blocks.allocate())
        n = self.spill.reload(wanted, request.block_table[held:])
        for block, block_hash in zip(request.block_table[held:], wanted[:n], strict=False):
            blocks.seal(block, block_hash)
        blocks.release(request.block_table[held + n :])
        del request.block_table[held + n :]
        request.n_cached += n * size

    def _release(self, request: Request) -> None:
        self.blocks.release(request.block_table)
        request.block_table, request.n_cached = [], 0


def _arrival(request: Request) -> tuple[int, int]:
    return request.arrival
