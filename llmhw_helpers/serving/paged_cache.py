"""The paged KV cache: keys and values in blocks that lie anywhere, and attention that looks them up in a table.

PagedAttention (arXiv:2309.06180). One step through the model reads new tokens of many sequences, one of some and a
whole chunk of others, all side by side in a single row: nothing is padded but what attention compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..llm.transformer import causal_attention
from ..specs.architectures import Model
from .huge_pages import zeros


@dataclass
class Chunk:
    """What a step reads of one sequence, a piece of its prompt or the token that it wrote last.

    Attributes:
        block_table: of the sequence, long enough for the new tokens.
        n_cached: its tokens that the cache holds (vLLM: `num_computed_tokens`).
        n_new: tokens that the step reads (vLLM: `num_scheduled_tokens`).
    """

    block_table: Sequence[int]
    n_cached: int
    n_new: int


class PagedCache:
    """Keys and values of `n_blocks` blocks, set aside once; a CPU's take memory from when they are first written.

    Args:
        spec: the model's architecture.
        n_blocks: how many.
        block_size: tokens in each.
        dtype, device: of the model's weights.

    Attributes:
        keys, values: ``[n_layers, n_blocks, block_size, n_kv_heads, head_dim]``.
        blocks, slots: views of both for each layer, ``[n_blocks, block_size, ...]`` and ``[n_slots, ...]``.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(
        self,
        spec: Model,
        n_blocks: int,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if min(n_blocks, block_size) < 1:
            raise ValueError(f"{n_blocks} blocks of {block_size} tokens: at least 1 each")
        self.n_blocks, self.block_size = n_blocks, block_size
        shape = (spec.n_layers, n_blocks, block_size, spec.n_kv_heads, spec.head_dim)
        self.keys, self.values = zeros(shape, dtype, device), zeros(shape, dtype, device)
        # A layer's keys and values, by block and by slot. Made once: a view costs as much as a small product.
        pools = self.keys, self.values
        self.blocks = list(zip(*(pool.unbind(0) for pool in pools), strict=True))
        self.slots = list(zip(*(pool.flatten(1, 2).unbind(0) for pool in pools), strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes set aside, used or not."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def pools(self) -> tuple[Tensor, Tensor]:
        """Keys and values, as the compiled step sees them."""
        return self.keys, self.values

    def block(self, i: int) -> tuple[Tensor, Tensor]:
        """Keys and values of block `i` in all layers: views ``[n_layers, block_size, n_kv_heads, head_dim]``."""
        return self.keys[:, i], self.values[:, i]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks, each pair from the first to the second; all are read before any is written."""
        if pairs:
            sources, targets = torch.tensor(pairs, device=self.keys.device).T
            self.keys[:, targets] = self.keys[:, sources]
            self.values[:, targets] = self.values[:, sources]

    def window(self, chunks: Sequence[Chunk]) -> "PagedWindow":
        """The slots that a step fills, and attention over them and all before, for one chunk after the other.

        Raises:
            ValueError: no chunks, no new token, or a block table that is too short or names a block that is not there.
        """
        for chunk in chunks:
            n_slots = len(chunk.block_table) * self.block_size
            if chunk.n_new < 1 or not 0 <= chunk.n_cached <= n_slots - chunk.n_new:
                raise ValueError(f"{chunk.n_new} new tokens after {chunk.n_cached} in a table of {n_slots} slots")
            if not all(0 <= block < self.n_blocks for block in chunk.block_table):
                raise ValueError(f"block table {list(chunk.block_table)}: there are blocks 0 to {self.n_blocks - 1}")
        if not chunks:
            raise ValueError("a step reads at least one token")
        return PagedWindow(self, chunks)


class PagedWindow:
    """What every layer of one step uses. Sequences with one new token go through attention together, as do the others.

    Attributes:
        positions: of the new tokens in their texts ``[1, n_tokens]``, sequence after sequence.
        last: the row of each sequence's last new token ``[n_sequences]``.
    """

    def __init__(self, cache: PagedCache, chunks: Sequence[Chunk]):
        device = cache.keys.device
        starts = torch.tensor([chunk.n_cached for chunk in chunks])
        counts = torch.tensor([chunk.n_new for chunk in chunks])
        ends = counts.cumsum(0)
        owner = torch.arange(len(chunks)).repeat_interleave(counts)  # whose each row is
        positions = torch.arange(len(owner)) - (ends - counts - starts)[owner]
        tables = torch.nn.utils.rnn.pad_sequence([torch.tensor(each.block_table) for each in chunks], batch_first=True)
        slots = tables[owner, positions // cache.block_size] * cache.block_size + positions % cache.block_size
        self.positions, self.last, self._slots = (each.to(device) for each in (positions[None], ends - 1, slots))
        self._cache = cache
        self._groups = [
            _Group(cache, tables[chosen], starts[chosen], counts[chosen], (ends - counts)[chosen])
            for chosen in (counts == 1, counts > 1)
            if chosen.any()
        ]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "1 n_heads n_tokens head_dim"],
        k: Float[Tensor, "1 n_kv_heads n_tokens head_dim"],
        v: Float[Tensor, "1 n_kv_heads n_tokens head_dim"],
    ) -> Float[Tensor, "1 n_heads n_tokens head_dim"]:
        """Write the new keys and values into their slots; each query mixes the values of its own text so far."""
        rows = [each[0].transpose(0, 1) for each in (q, k, v)]  # [n_tokens, heads, head_dim]
        for slots, new in zip(self._cache.slots[layer], rows[1:], strict=True):
            slots.index_copy_(0, self._slots, new.detach())
        if len(self._groups) == 1:
            mixed = self._groups[0].attend(layer, *rows)
        else:
            mixed = torch.empty_like(rows[0])
            for group in self._groups:
                mixed[group.rows] = group.attend(layer, *(each[group.rows] for each in rows))
        return mixed.transpose(0, 1)[None]


class _Group:
    """Sequences whose queries are compared with their keys in one call, padded to the longest."""

    def __init__(self, cache: PagedCache, tables: Tensor, starts: Tensor, counts: Tensor, first_rows: Tensor):
        device, n_queries = cache.keys.device, int(counts.max())
        n_blocks = -(-int((starts + counts).max()) // cache.block_size)
        steps = torch.arange(n_queries)
        real = steps < counts[:, None]  # [n_sequences, n_queries]: the rest is padding
        self.rows = (first_rows[:, None] + steps)[real].to(device)
        self._cache, self._tables = cache, tables[:, :n_blocks].flatten().to(device)
        self._shape = (len(tables), n_queries)
        self._real = None if real.all() else real.to(device)
        self._from_start = len(tables) == 1 and not starts.any()  # a prompt whose keys are all in this step
        slots = torch.arange(n_blocks * cache.block_size)
        # Slots without a token of the sequence take part in a masked sum, and 0 times a NaN that another left is NaN.
        self._empty = (slots >= (starts + counts)[:, None]).flatten().nonzero()[:, 0].to(device)
        seen = (starts[:, None] + steps)[:, :, None] >= slots
        hidden = torch.zeros(seen.shape, dtype=cache.keys.dtype).masked_fill(~seen, -torch.inf)
        self._mask = hidden[:, None].to(device)  # [n_sequences, 1, n_queries, n_slots], once for all layers

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``[n_rows, n_heads, head_dim]`` from queries, new keys and new values of the group's rows."""
        n_sequences, n_queries = self._shape
        if self._from_start:
            return causal_attention(*(each.transpose(0, 1)[None] for each in (q, k, v)))[0].transpose(0, 1)
        found = [pool.index_select(0, self._tables).flatten(0, 1) for pool in self._cache.blocks[layer]]
        seen = [each.index_fill_(0, self._empty, 0).unflatten(0, (n_sequences, -1)).transpose(1, 2) for each in found]
        if n_queries == 1:  # the queries that share a key/value head stand in for several positions: it is read once
            grouped = q.reshape(n_sequences, k.shape[1], -1, q.shape[-1])
            return F.scaled_dot_product_attention(grouped, *seen, self._mask).view(q.shape)
        if self._real is None:
            padded = q.unflatten(0, self._shape)
        else:
            padded = q.new_zeros(*self._shape, *q.shape[1:])
            padded[self._real] = q
        mixed = F.scaled_dot_product_attention(
            padded.transpose(1, 2), *seen, self._mask, enable_gqa=q.shape[1] != k.shape[1]
        ).transpose(1, 2)
        return mixed.flatten(0, 1) if self._real is None else mixed[self._real]
