"""A prefix of a contiguous cache, kept in a folder: `KVCache` and `QuantizedCache` as the engine's blocks are kept.

The hashes of blocks say which text it is: what was kept for one prompt is found for any other that begins alike.
"""

from collections.abc import Sequence
from hashlib import blake2b

from torch import Tensor

from .blocks import block_hashes
from .decoding import ServedModel
from .fingerprints import fingerprint
from .kv_cache import KVCache
from .kv_folder import KVFolder


class Prefixes:
    """Keeps and finds the beginnings of texts for one model and one kind of cache, in blocks of `block_size` tokens.

    Args:
        folder: of any models.
        served: whose keys and values they are; its weights stay as they are from now on.
        block_size: tokens in a file: what is shorter is not kept.
    """

    def __init__(self, folder: KVFolder, served: ServedModel, block_size: int = 256):
        self.folder, self.block_size = folder, block_size
        self._owner = fingerprint(served)

    def save(self, tokens: Sequence[int], cache: KVCache, row: int = 0) -> int:
        """Keep the full blocks of `tokens`, which the cache holds in its sequence `row`; how many tokens these are.

        They are in files when this returns.

        Raises:
            ValueError: the cache holds fewer tokens than these.
        """
        if len(tokens) > cache.lengths[row]:
            raise ValueError(f"{len(tokens)} tokens, of which the cache holds {cache.lengths[row]}")
        keys = self._keys(tokens, cache)
        for i, key in reversed(list(enumerate(keys))):  # the beginning last: so it is the last to be deleted
            self.folder.write(key, self._block(cache, row, i))
            self.folder.flush()
        return len(keys) * self.block_size

    def load(self, tokens: Sequence[int], cache: KVCache, row: int = 0) -> int:
        """Fill the beginning of sequence `row` with what is kept for `tokens`, and count it as read: how many tokens.

        At least the last token is left to be read, as what comes after it is asked for.

        Raises:
            ValueError: the sequence is not empty, or has no room for `tokens`.
        """
        if cache.lengths[row] or len(tokens) > cache.capacity:
            raise ValueError(
                f"{len(tokens)} tokens for a sequence of {cache.capacity} slots, {cache.lengths[row]} of them taken"
            )
        keys, n = self._keys(tokens[:-1], cache), 0
        while n < len(keys) and self.folder.read(keys[n], self._block(cache, row, n)):
            n += 1
        self.folder.touch(keys[:n])
        cache.lengths[row] = n * self.block_size
        return cache.lengths[row]

    def _block(self, cache: KVCache, row: int, i: int) -> list[Tensor]:
        """Views of the slots of block `i`, of all that the cache holds."""
        slots = slice(i * self.block_size, (i + 1) * self.block_size)
        return [each[..., row, :, slots, :] for each in cache.tensors()]

    def _keys(self, tokens: Sequence[int], cache: KVCache) -> list[bytes]:
        formats = [(each.dtype, each.shape[-1]) for each in cache.tensors()]  # 4 bits are two to a byte
        owner = f"{self._owner} {formats} {self.block_size}".encode()
        hashes = block_hashes(tokens, self.block_size)
        return [blake2b(owner + each, digest_size=16).digest() for each in hashes]
