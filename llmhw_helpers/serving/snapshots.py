"""What a paged cache looks like between steps: who holds which block, how full it is, and what can still be found."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .engine import Engine
from .request import Request


@dataclass(frozen=True)
class Snapshot:
    """A paged cache between two steps.

    Attributes:
        step: passes through the model so far.
        block_size: slots in each block.
        ref_count: requests that hold each block.
        tables: the block table of each request by name; empty where it waits, or is done.
        lengths: tokens that the cache holds of each.
        states: "waiting", "running", or why it ended.
        found: blocks that nobody holds, and whose content can still be found.
    """

    step: int
    block_size: int
    ref_count: tuple[int, ...]
    tables: dict[str, tuple[int, ...]]
    lengths: dict[str, int]
    states: dict[str, str]
    found: frozenset[int]

    def holders(self, block: int) -> list[str]:
        """Names of the requests whose table has `block`."""
        return [name for name, table in self.tables.items() if block in table]

    def filled(self, block: int) -> int:
        """Slots of `block` that hold a token of somebody's, or one that can still be found."""
        if block in self.found:
            return self.block_size
        for name in self.holders(block):  # all who share a block have the same tokens in it
            return min(self.block_size, self.lengths[name] - self.tables[name].index(block) * self.block_size)
        return 0


def snapshot(engine: Engine, requests: Mapping[str, Request]) -> Snapshot:
    """The cache of `engine` as it is now, seen through `requests` by name."""
    blocks, running = engine.blocks, engine.scheduler.running
    known = {block for request in requests.values() for block in blocks.find(request.block_hashes)}
    return Snapshot(
        engine.statistics.n_steps,
        blocks.block_size,
        tuple(blocks.ref_count),
        {name: tuple(request.block_table) for name, request in requests.items()},
        {name: request.n_cached for name, request in requests.items()},
        {
            name: request.finished or ("running" if request in running else "waiting")
            for name, request in requests.items()
        },
        frozenset(block for block in known if not blocks.ref_count[block]),
    )


def record(engine: Engine, requests: Mapping[str, Request]) -> Iterator[Snapshot]:
    """Let `engine` step until nothing is left to do: a snapshot before the first step, and one after each."""
    yield snapshot(engine, requests)
    while engine.step():
        yield snapshot(engine, requests)
