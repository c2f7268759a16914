"""Block managers to try a test on: right ones, and ones with a fault that is easily made."""

from ..serving.blocks import BlockManager, OutOfBlocks


class Managed:
    """A block manager for a student's test: makes one, right or with a fault, as `BlockManager` is made.

    Attributes:
        name: a letter.
        faulty: whether it has one.
    """

    def __init__(self, name: str, kind: type[BlockManager]):
        self.name, self._kind = name, kind
        self.faulty = kind not in _RIGHT

    def __call__(self, n_blocks: int, block_size: int) -> BlockManager:
        """A manager of `n_blocks` free blocks."""
        return self._kind(n_blocks, block_size)

    def __repr__(self) -> str:
        return f"<manager {self.name}>"


class _FromTheTop(BlockManager):
    """No fault: its free blocks stand in another order at first."""

    def __init__(self, n_blocks: int, block_size: int):
        super().__init__(n_blocks, block_size)
        for block in reversed(range(n_blocks)):
            self._free.move_to_end(block)


class _OneTooMany(BlockManager):
    """Fault: a text that ends with its block is given one more."""

    def blocks_for(self, n_tokens):
        return n_tokens // self.block_size + 1


class _Uncounted(BlockManager):
    """Fault: a second holder is not counted."""

    def share(self, blocks):
        for block in blocks:
            self._free.pop(block, None)
            self.ref_count[block] = max(1, self.ref_count[block])


class _StillFree(BlockManager):
    """Fault: a free block that is shared stays on the free list."""

    def share(self, blocks):
        for block in blocks:
            self.ref_count[block] += 1


class _Stale(BlockManager):
    """Fault: a block that is given out can still be found under the key of what it held before."""

    def allocate(self):
        if not self._free:
            raise OutOfBlocks("all blocks are held")
        block, _ = self._free.popitem(last=False)
        self.ref_count[block] = 1
        return block


class _Twice(BlockManager):
    """Fault: a block may be given back more often than it was held."""

    def release(self, blocks):
        super().release([block for block in blocks if self.ref_count[block]])


class _Leaky(BlockManager):
    """Fault: of several blocks that are given back together, the last one stays held."""

    def release(self, blocks):
        super().release(blocks[:-1] if len(blocks) > 1 else blocks)


_RIGHT = (BlockManager, _FromTheTop)
_KINDS = (*_RIGHT, _OneTooMany, _Uncounted, _StillFree, _Stale, _Twice, _Leaky)
MANAGERS = [Managed(name, kind) for name, kind in zip("ABCDEFGH", _KINDS, strict=True)]
