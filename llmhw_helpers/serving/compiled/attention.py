"""Attention of new tokens over keys and values that lie in blocks, wide or as codes.

A text is looked at in chunks of 32 tokens, each by whoever is free: what a head sees in one is the sum of its values,
each times ``e^(score - top)`` with the chunk's own largest score, and the sum of these factors. `combine` brings all
chunks to the same top. So two workers share one long text, and memory is read in the order in which it lies.

Most of a long text's time is memory's, so the next tile (see `tokens`) is fetched while this one is computed.
"""

import math

import numpy as np

from .heads import head_bytes, read_heads
from .jitting import jit
from .numbers import F32, FP32, floats
from .rows import exp
from .sums import put_totals
from .tokens import CHUNK, TILE, UNIT, add_scores, add_values, fetch_line, largest, no_scores
from .vectors import WIDTH

FETCHED = 64  # bytes that come from memory at once


@jit
def place(table, block_size, n, slots, runs):
    """Where the first `n` tokens of a text lie: `slots` becomes their numbers among all slots of a layer.

    And `runs`, how many lie one behind the other from each on. What is left of the last chunk becomes its last token,
    so that there is something to be read.
    """
    for t in range(0, n, block_size):
        first = np.int64(table[t // block_size]) * block_size
        for i in range(min(block_size, n - t)):
            slots[t + i] = first + i
    last = chunks(n) * CHUNK - 1
    for t in range(n, last + 1):
        slots[t] = slots[n - 1]
    runs[last] = 1
    for t in range(last - 1, -1, -1):
        runs[t] = runs[t + 1] + 1 if slots[t + 1] == slots[t] + 1 else 1


@jit
def chunks(n):
    """Of `n` tokens."""
    return (n + CHUNK - 1) // CHUNK


@jit
def attend(b, c, n, q, slots, runs, kind, layer, then, wide, asked, scores, tops, sums, mixed):
    """What all heads of text `b` see in chunk `c` of its `n` tokens; in fp32, tokens in their order.

    Args:
        b, c, n: which; and tokens of the text.
        q: queries ``[batch, n_heads, head_dim]``, turned.
        slots, runs: where the tokens lie ``[batch, n_chunks * CHUNK]``, by `place`.
        kind: format of keys and values.
        layer: addresses of this layer's keys, values ``[n_slots, n_kv_heads, head_dim]`` and their scales, if any.
        then: text and chunk that probably come next, whose keys are fetched.
        wide: room ``[TILE, n_kv_heads, width]``, zeros beyond `head_dim`; `width` is that, or whole `UNIT`.
        asked: room ``[n_heads, width]``, likewise.
        scores: room ``[n_heads, CHUNK]``.
        tops, sums: ``[batch, n_chunks, n_heads]``, of which this becomes what the chunk has.
        mixed: ``[batch, n_chunks, n_heads, width]``, likewise.
    """
    keys, values, key_scales, value_scales = layer
    begin, n_here, hd, (n_heads, width) = c * CHUNK, min(n - c * CHUNK, CHUNK), q.shape[2], asked.shape
    n_kv_heads, out = wide.shape[1], np.int64(mixed.ctypes.data) + 4 * n_heads * width * (mixed.shape[1] * b + c)
    token_bytes = n_kv_heads * head_bytes(kind, hd)
    part = (TILE * token_bytes // n_heads + FETCHED - 1) // FETCHED * FETCHED  # that is fetched during a head's turn
    ask(q, b, asked)
    for t in range(0, n_here, TILE):
        at = wide_tile(kind, keys, key_scales, slots, runs, b, begin + t, hd, wide)
        compare(asked, at, n_kv_heads, scores, t, values + token_bytes * slots[b, begin + t], part)
    weigh(scores, n_here, tops, sums, b, c)
    clear(out, n_heads * width)
    for t in range(0, n_here, TILE):
        at = wide_tile(kind, values, value_scales, slots, runs, b, begin + t, hd, wide)
        coming = keys + token_bytes * slots[then[0], then[1] * CHUNK + t]
        mix(scores, t, at, n_kv_heads, out, width, coming, part)


@jit
def ask(q, b, asked):
    """Text `b`'s queries over the root of their length, so that scores need not be."""
    scale = F32(1) / F32(math.sqrt(F32(q.shape[2])))
    for h in range(q.shape[1]):
        for d in range(q.shape[2]):
            asked[h, d] = q[b, h, d] * scale


@jit
def clear(address, n):
    """The fp32 numbers there become 0."""
    numbers = floats(address, 1, n)
    for i in range(n):
        numbers[0, i] = F32(0)


@jit
def wide_tile(kind, address, scales, slots, runs, b, first, hd, wide):
    """Where the tile from token `first` of text `b` on lies in fp32: in its slots, or in `wide`, which it becomes.

    Args:
        kind, address, scales: of keys or of values.
        slots, runs, wide: as in `attend`.
        b, first, hd: text and token; and numbers in a head.
    """
    n_kv_heads, width = wide.shape[1:]
    room, t = np.int64(wide.ctypes.data), 0
    while t < TILE:
        slot, n = slots[b, first + t], min(runs[b, first + t], TILE - t)
        if n == TILE and kind == FP32 and hd == width:
            return address + 4 * width * n_kv_heads * slot
        out = room + 4 * width * n_kv_heads * t
        read_heads(kind, address, scales, n_kv_heads * slot, n_kv_heads * n, hd, out, width)
        t += n
    return room


@jit
def compare(q, keys, n_kv_heads, scores, t, coming, part):
    """Scores of the tile from token `t` of the chunk on: its keys times the queries.

    Args:
        q: ``[n_heads, width]``.
        keys: address of fp32 ``[TILE, n_kv_heads, width]``.
        scores: ``[n_heads, CHUNK]``, of which this becomes the tile's.
        coming: address of what is fetched meanwhile, `part` bytes for each head.
    """
    n_heads, width = q.shape
    row_bytes, query, out = 4 * n_kv_heads * width, np.int64(q.ctypes.data), np.int64(scores.ctypes.data) + 4 * t
    for key in range(keys, keys + row_bytes, 4 * width):
        for _ in range(n_heads // n_kv_heads):
            fetch_lines(coming, part)
            found = no_scores()
            for d in range(0, 4 * width, 4 * WIDTH):
                found = add_scores(found, key + d, row_bytes, query + d)
            put_totals(found, out)
            query, out, coming = query + 4 * width, out + 4 * CHUNK, coming + part


@jit
def mix(shares, t, values, n_kv_heads, out, width, coming, part):
    """To what heads see come the values of the tile from token `t` of the chunk on, each times its share.

    Args:
        shares: ``[n_heads, CHUNK]``.
        values: address of fp32 ``[TILE, n_kv_heads, width]``.
        out: address of fp32 ``[n_heads, width]``.
        coming, part: as in `compare`.
    """
    row_bytes, share = 4 * n_kv_heads * width, np.int64(shares.ctypes.data) + 4 * t
    for value in range(values, values + row_bytes, 4 * width):
        for _ in range(shares.shape[0] // n_kv_heads):
            fetch_lines(coming, part)
            for d in range(0, 4 * width, 4 * UNIT):
                add_values(value + d, row_bytes, share, out + d)
            share, out, coming = share + 4 * CHUNK, out + 4 * width, coming + part


@jit
def fetch_lines(address, n_bytes):
    """All of so many bytes."""
    for at in range(address, address + n_bytes, FETCHED):
        fetch_line(at)


@jit
def weigh(scores, n, tops, sums, b, c):
    """Scores of a chunk become ``e^(score - top)``, and 0 from its token `n` on; of a NaN a head's sum is one."""
    for h in range(scores.shape[0]):
        top, total = largest(np.int64(scores.ctypes.data) + 4 * CHUNK * h, n), F32(0)
        for t in range(CHUNK):
            share = exp(scores[h, t] - top) if t < n else F32(0)
            scores[h, t] = share
            total += share
        tops[b, c, h], sums[b, c, h] = top, total


@jit
def combine(b, n, tops, sums, mixed, seen):
    """What heads see of text `b` of `n` tokens, of what they see in its chunks, whose tops become factors.

    Args:
        b, n, tops, sums, mixed: as in `attend`.
        seen: ``[batch, n_heads, head_dim]``, of which this becomes the text's.
    """
    n_chunks = chunks(n)
    for h in range(seen.shape[1]):
        top, total = F32(-3e38), F32(0)
        for c in range(n_chunks):
            top = tops[b, c, h] if tops[b, c, h] > top else top
        for c in range(n_chunks):
            tops[b, c, h] = exp(tops[b, c, h] - top)
            total += sums[b, c, h] * tops[b, c, h]
        for d in range(seen.shape[2]):
            seen[b, h, d] = F32(0)
        for c in range(n_chunks):
            part = tops[b, c, h] / total
            for d in range(seen.shape[2]):
                seen[b, h, d] += part * mixed[b, c, h, d]
