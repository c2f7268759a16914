"""The contiguous KV cache: keys and values of all tokens read so far, in memory that is set aside once.

One row of slots for each sequence and layer, as long as the longest text that may come. Nothing is copied or
concatenated when a token is added: its key and value are written into the next free slot.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..llm.transformer import causal_attention
from ..specs.architectures import Model
from .huge_pages import zeros


class CacheFull(ValueError):
    """More tokens than the cache has slots for."""


class KVCache:
    """Keys and values ``[batch, n_kv_heads, capacity, head_dim]`` of every layer.

    Slot ``t`` of a sequence belongs to its token at position ``t``. What lies beyond a sequence's length is never
    looked at, and overwritten by the tokens that come: so sequences of different lengths share a batch, and a prompt
    may be padded on its right.

    Args:
        spec: the model's architecture.
        batch_size: sequences.
        capacity: slots of each; no more than the model's context.
        dtype, device: of the model's weights.
        by_token: a token's heads lie side by side, as in a `PagedCache` and as the compiled step reads them. Else a
            head's tokens do, as PyTorch's attention reads them: the longer the texts, the more time that saves.

    Attributes:
        dtype, device: what attention computes in, and where.
        by_token: as above.
        lengths: tokens of each sequence so far.
        keys, values: ``[n_layers, batch, n_kv_heads, capacity, head_dim]``.
        pools: by token, that of which they are views ``[n_layers, batch, capacity, n_kv_heads, head_dim]``: a
            `PagedCache`'s with one block a sequence. Else there are none.

    Raises:
        ValueError: sizes below 1, or a capacity beyond the model's context.
    """

    def __init__(
        self,
        spec: Model,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        by_token: bool = False,
    ):
        if batch_size < 1 or not 1 <= capacity <= spec.context_length:
            limit = spec.context_length
            raise ValueError(
                f"a cache of {batch_size} x {capacity} tokens: at least 1 each, and at most {limit} a text"
            )
        self.spec, self.batch_size, self.capacity = spec, batch_size, capacity
        self.dtype, self.device = dtype, torch.device(device)
        self.lengths, self.by_token = [0] * batch_size, by_token
        self._set_aside()

    def _set_aside(self) -> None:
        inner = (self.capacity, self.spec.n_kv_heads) if self.by_token else (self.spec.n_kv_heads, self.capacity)
        shape = (self.spec.n_layers, self.batch_size, *inner, self.spec.head_dim)
        # Zeros, as a free slot takes part in a masked sum: 0 times what happens to lie in memory may be NaN.
        found = tuple(zeros(shape, self.dtype, self.device) for _ in range(2))
        if self.by_token:
            self.pools, found = found, tuple(pool.transpose(2, 3) for pool in found)
        self.keys, self.values = found

    def lay_by_head(self) -> None:
        """Copy what lies by token, if it does, so that a head's tokens lie side by side."""
        if self.by_token:
            self.keys, self.values = self.keys.contiguous(), self.values.contiguous()
            self.by_token = False
            del self.pools

    def tensors(self) -> tuple[Tensor, Tensor]:
        """All that it holds, each ``[..., batch, n_kv_heads, capacity, numbers]``."""
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """Bytes set aside, used or not."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def used_bytes(self) -> int:
        """Bytes that hold a token's keys or values."""
        return sum(self.lengths) * self.nbytes // (self.batch_size * self.capacity)

    @property
    def block_size(self) -> int:
        """Tokens in a block, of which each sequence has one: to the compiled step it is a paged cache like others."""
        return self.capacity

    def check_room(self, n_new: int) -> None:
        """Nothing, if `n_new` more tokens fit in every sequence.

        Raises:
            CacheFull: they do not.
        """
        longest, capacity = max(self.lengths), self.capacity
        if longest + n_new > capacity:
            raise CacheFull(f"{longest} tokens and {n_new} more do not fit into a cache of {capacity} slots a sequence")

    def window(self, n_new: int) -> "Window":
        """The next `n_new` slots of every sequence, to be filled by one pass through the model.

        Raises:
            CacheFull: they are not there.
        """
        return Window(self, n_new)

    def advance(self, n_new: int | Sequence[int]) -> None:
        """Count the slots of the last window as filled: `n_new` in every sequence, or as many as the list says."""
        counts = [n_new] * self.batch_size if isinstance(n_new, int) else n_new
        self.lengths = [length + n for length, n in zip(self.lengths, counts, strict=True)]


class Slots:
    """The slots of one pass, and what its queries see: what windows of every kind of cache share.

    Attributes:
        positions: of the new tokens ``[batch, n_new]``; the slots they go to.
    """

    def __init__(self, cache: KVCache, n_new: int):
        if n_new < 1:
            raise ValueError(f"a pass reads at least one token, not {n_new}")
        lengths, device = cache.lengths, cache.device
        cache.check_room(n_new)
        end = max(lengths) + n_new
        self.positions = torch.tensor(lengths, device=device)[:, None] + torch.arange(n_new, device=device)
        self._end = end
        self._start = lengths[0] if min(lengths) == max(lengths) else None  # where all begin, if they do so together
        self._mask = None
        if self._start is None or (self._start > 0 and n_new > 1):  # else a query sees all slots, or the causal half
            self._mask = torch.arange(end, device=device) <= self.positions[:, None, :, None]

    def _views(self, pool: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        """Of each layer all slots so far, and the new ones if all texts have the same; nothing is copied.

        For all layers at once, as each view by itself costs as much as a small product.
        """
        seen = pool[..., : self._end, :]
        return seen.unbind(0), None if self._start is None else seen[..., self._start :, :].unbind(0)

    def _mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention over all slots so far, where something stands before the new ones."""
        if q.shape[2] == 1:  # the queries that share a key/value head stand in for several positions: it is read once
            grouped = q.reshape(len(q), keys.shape[1], -1, q.shape[-1])
            return F.scaled_dot_product_attention(grouped, keys, values, self._mask).view(q.shape)
        return F.scaled_dot_product_attention(q, keys, values, self._mask, enable_gqa=q.shape[1] != keys.shape[1])


class Window(Slots):
    """The slots of one pass, and attention over them and all before: what every layer of that pass uses."""

    def __init__(self, cache: KVCache, n_new: int):
        super().__init__(cache, n_new)
        self._keys, self._new_keys = self._views(cache.keys)
        self._values, self._new_values = self._views(cache.values)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "batch n_heads n_new head_dim"],
        k: Float[Tensor, "batch n_kv_heads n_new head_dim"],
        v: Float[Tensor, "batch n_kv_heads n_new head_dim"],
    ) -> Float[Tensor, "batch n_heads n_new head_dim"]:
        """Write the new keys and values into their slots; each query mixes the values of its text so far."""
        keys, values = self._keys[layer], self._values[layer]
        new_k, new_v = k.detach(), v.detach()  # a cache is memory, not a part of what is differentiated
        if self._start is None:
            slots = self.positions[:, None, :, None].expand_as(k)
            keys.scatter_(2, slots, new_k)
            values.scatter_(2, slots, new_v)
        else:
            self._new_keys[layer].copy_(new_k)
            self._new_values[layer].copy_(new_v)
            if self._start == 0:
                return causal_attention(q, k, v)
        return self._mix(q, keys, values)
