"""Between a paged cache and a folder: blocks go there before they are given out again, and come back when asked for.

For vLLM, LMCache does this (arXiv:2510.09665). When it pays, `costs.reload` says.
"""

from collections.abc import Sequence
from hashlib import blake2b

from .blocks import BlockManager
from .decoding import ServedModel
from .fingerprints import fingerprint
from .kv_folder import KVFolder, NoFolder
from .paged_cache import PagedCache


class Spill:
    """Keeps what the blocks of `cache` hold in `folder`, each under its text, the model, the format and the block size.

    Args:
        folder: of any models.
        served: whose keys and values they are; its weights stay as they are from now on.
        cache, blocks: of an engine.

    Attributes:
        folder: as above.
        n_spilled: blocks that were handed over to the folder.
        n_reloaded: blocks that came back from it.
        n_missed: full blocks of prompts that were in neither.

    Raises:
        NoFolder: the folder is too small for a single block.
    """

    def __init__(self, folder: KVFolder, served: ServedModel, cache: PagedCache, blocks: BlockManager):
        self.folder, self._cache, self._blocks = folder, cache, blocks
        block_bytes = sum(each.nbytes for each in cache.block(0))
        if not folder.takes(block_bytes):
            raise NoFolder(
                f"a folder of {folder.max_bytes / 1e6:.1f} MB for blocks of {block_bytes / 1e6:.1f} MB: give it more"
            )
        self._owner = f"{fingerprint(served)} {cache.keys.dtype} {blocks.block_size}".encode()
        self.n_spilled = self.n_reloaded = self.n_missed = 0

    def evict(self, block: int, block_hash: bytes) -> None:
        """`block` is about to be given out to somebody else: what it holds goes to the folder."""
        self._write(block, block_hash)

    def n_stored(self, hashes: Sequence[bytes]) -> int:
        """How many of the first `hashes` are in the folder without a gap."""
        n = 0
        while n < len(hashes) and self.folder.holds(self._key(hashes[n])):
            n += 1
        self.n_missed += len(hashes) - n
        return n

    def reload(self, hashes: Sequence[bytes], blocks: Sequence[int]) -> int:
        """Fill `blocks` with what is kept under `hashes`, until one turns out to be no use; how many were filled."""
        keys, n = [self._key(each) for each in hashes], 0
        while n < len(keys) and self.folder.read(keys[n], self._cache.block(blocks[n])):
            n += 1
        self.folder.touch(keys[:n])
        self.n_reloaded += n
        self.n_missed += len(keys) - n
        return n

    def flush(self) -> None:
        """All that can be found in the cache goes to the folder, and is in files when this returns.

        What would be given out first goes first: so it is also the first that the folder lets go.
        """
        for block, block_hash in self._blocks.sealed():
            if not self._write(block, block_hash) and self.folder.failed is None:
                self.folder.flush()  # too many wait
                self._write(block, block_hash)
        self.folder.flush()

    def _write(self, block: int, block_hash: bytes) -> bool:
        taken = self.folder.write(self._key(block_hash), self._cache.block(block))
        self.n_spilled += taken
        return taken

    def _key(self, block_hash: bytes) -> bytes:
        return blake2b(self._owner + block_hash, digest_size=16).digest()
