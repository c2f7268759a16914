"""Who holds which block of a paged cache: a free list, reference counts, and blocks that are found again by content.

Blocks as an operating system's pages: "Efficient Memory Management for Large Language Model Serving with
PagedAttention" (arXiv:2309.06180). Numbers only: the keys and values lie in ``paged_cache``.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b


class OutOfBlocks(RuntimeError):
    """No block is free: somebody has to give one back first."""


def block_hashes(tokens: Sequence[int], block_size: int, known: Sequence[bytes] = ()) -> list[bytes]:
    """A hash for each full block of a text, made of its tokens and of the hash before it.

    A token's keys and values depend on all tokens before it, so two blocks are the same only if their texts are the
    same from the first token on; chaining says just that. Those that are `known` already need not be made again.

    >>> one, two = (block_hashes(text, 2) for text in ([7, 8, 9, 9], [7, 8, 1, 1, 5]))
    >>> len(one), one[0] == two[0], one[1] == two[1]
    (2, True, False)
    """
    hashes = list(known)
    for start in range(len(hashes) * block_size, len(tokens) - block_size + 1, block_size):
        before = hashes[-1] if hashes else b""
        content = array("q", tokens[start : start + block_size]).tobytes()
        hashes.append(blake2b(before + content, digest_size=16).digest())
    return hashes


class BlockManager:
    """Blocks ``0 .. n_blocks - 1``, each held by as many sequences as its reference count says.

    A block that nobody holds is free, and yet its content may be found, until the block is given out again: those with
    nothing to find go first, then the one that has been free for longest. (vLLM: `BlockPool`; its `cache_full_blocks`
    is `seal` here, `get_cached_block` is `find`, and `touch` is `share`.)

    Args:
        n_blocks: how many there are.
        block_size: tokens in each.

    Attributes:
        ref_count: sequences that hold each block.
        evict: called with a block and the hash of what it holds, right before that can no longer be found.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, n_blocks: int, block_size: int):
        if min(n_blocks, block_size) < 1:
            raise ValueError(f"{n_blocks} blocks of {block_size} tokens: at least 1 each")
        self.n_blocks, self.block_size = n_blocks, block_size
        self.ref_count = [0] * n_blocks
        self.evict: Callable[[int, bytes], object] | None = None
        self._free = OrderedDict.fromkeys(range(n_blocks))  # in the order in which they go
        self._block_of: dict[bytes, int] = {}
        self._hash_of: list[bytes | None] = [None] * n_blocks

    @property
    def n_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def blocks_for(self, n_tokens: int) -> int:
        """Blocks that a text of `n_tokens` fills, the last one perhaps in part."""
        return -(-n_tokens // self.block_size)

    def allocate(self) -> int:
        """A block to write into, held once; what it held before can no longer be found.

        Raises:
            OutOfBlocks: none is free.
        """
        if not self._free:
            raise OutOfBlocks(f"all {self.n_blocks} blocks are held")
        block = next(iter(self._free))
        block_hash = self._hash_of[block]
        if block_hash is not None:
            if self.evict is not None:
                self.evict(block, block_hash)
            del self._block_of[block_hash]
        del self._free[block]
        self._hash_of[block] = None
        self.ref_count[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """Hold each of `blocks` once more; a free one is free no longer."""
        for block in blocks:
            self._free.pop(block, None)
            self.ref_count[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, of which the first holds the beginning of its text.

        Raises:
            ValueError: one of them is free already.
        """
        for block in reversed(blocks):  # so that the beginning, which others may share, is the last to go
            if self.ref_count[block] < 1:
                raise ValueError(f"block {block} is free already: somebody gives it back twice")
            self.ref_count[block] -= 1
            if not self.ref_count[block]:
                self._free[block] = None
                if self._hash_of[block] is None:  # nothing to be found in it: it may as well go first
                    self._free.move_to_end(block, last=False)

    def seal(self, block: int, block_hash: bytes) -> None:
        """`block` is full, and from now on found under `block_hash`, unless another one already is."""
        if block_hash not in self._block_of and self._hash_of[block] is None:
            self._block_of[block_hash], self._hash_of[block] = block, block_hash

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """Blocks with the content of the first hashes, as many as are there without a gap; nobody holds them yet."""
        found = []
        for block_hash in hashes:
            if block_hash not in self._block_of:
                break
            found.append(self._block_of[block_hash])
        return found

    def sealed(self) -> list[tuple[int, bytes]]:
        """All blocks whose content can be found, with its hash: those first that will be given out first."""
        held = [block for block, n in enumerate(self.ref_count) if n]
        return [(block, self._hash_of[block]) for block in [*self._free, *held] if self._hash_of[block] is not None]
