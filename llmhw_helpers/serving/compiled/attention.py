"""Attention of new tokens over keys and values that lie in blocks, wide or as codes.

A text is looked at in chunks of 32 tokens, each by whoever is free: what a head sees in one is the sum of its values,
each times ``e^(score - top)`` with the chunk's own largest score, and the sum of these factors. `combine` brings all
chunks to the same top. So two workers share one long text, and memory is read in the order in which it lies.
"""

import math

import numpy as np

from .heads import read_head
from .jitting import jit
from .numbers import F32, INT4, INT8, read
from .rows import exp

CHUNK = 32  # tokens
TOGETHER = 4  # tokens that a loop over a head's numbers goes through at once: its start is paid once for all


@jit
def place(table, block_size, n, slots):
    """Where the first `n` tokens of a text lie: `slots` becomes their numbers among all slots of a layer.

    What is left of the last chunk becomes its last token, so that there is something to be read.
    """
    for t in range(0, n, block_size):
        first = np.int64(table[t // block_size]) * block_size
        for i in range(min(block_size, n - t)):
            slots[t + i] = first + i
    for t in range(n, chunks(n) * CHUNK):
        slots[t] = slots[n - 1]


@jit
def chunks(n):
    """Of `n` tokens."""
    return (n + CHUNK - 1) // CHUNK


@jit
def attend(q, c, n, slots, kind, layer, wide, scores, tops, sums, mixed):
    """What all heads of one token see in chunk `c` of the `n` tokens of its text; in fp32, tokens in their order.

    Keys, and later values, come from memory in one go: waiting for some of them in each loop takes longer than it does.

    Args:
        q: queries ``[n_heads, head_dim]``, turned.
        slots: where the tokens lie, by `place`.
        kind: format of keys and values.
        layer: addresses of this layer's keys, values ``[n_slots, n_kv_heads, head_dim]`` and their scales, if any.
        wide: room ``[CHUNK, n_kv_heads, head_dim]``.
        scores: room ``[n_heads, CHUNK]``.
        tops, sums: ``[n_chunks, n_heads]``, of which this becomes what chunk `c` has.
        mixed: ``[n_chunks, n_heads, head_dim]``, likewise.
    """
    keys, values, key_scales, value_scales = layer
    here, n_here = slots[c * CHUNK : c * CHUNK + CHUNK], min(n - c * CHUNK, CHUNK)
    widen(kind, keys, key_scales, here, n_here, wide)
    compare(q, wide, n_here, scores)
    weigh(scores, n_here, tops[c], sums[c])
    widen(kind, values, value_scales, here, n_here, wide)
    mix(scores, wide, n_here, mixed[c])


@jit
def widen(kind, address, scales, slots, n, wide):
    """`wide` becomes what lies in the slots of `n` tokens, or some more up to a multiple of `TOGETHER`, in fp32."""
    n_kv_heads, hd = wide.shape[1:]
    flat, t, n = wide.reshape(wide.size), 0, (n + TOGETHER - 1) // TOGETHER * TOGETHER
    width = n_kv_heads * hd
    while t < n:
        m = 1  # tokens that lie one behind the other
        while t + m < n and slots[t + m] == slots[t] + m:
            m += 1
        if kind != INT8 and kind != INT4:
            read(kind, address, slots[t] * width, flat[t * width : (t + m) * width])
        else:
            for i in range(m * n_kv_heads):
                begin = t * width + i * hd
                read_head(kind, address, scales, slots[t] * n_kv_heads + i, flat[begin : begin + hd])
        t += m


@jit
def compare(q, keys, n, scores):
    """Scores of `n` tokens: their keys times the queries, over the root of their length."""
    hd, group = q.shape[1], q.shape[0] // keys.shape[1]
    scale = F32(1) / F32(math.sqrt(F32(hd)))
    for t in range(0, n, TOGETHER):
        for g in range(keys.shape[1]):
            k0, k1, k2, k3 = keys[t, g], keys[t + 1, g], keys[t + 2, g], keys[t + 3, g]
            for h in range(g * group, (g + 1) * group):
                s0 = s1 = s2 = s3 = F32(0)
                for d in range(hd):
                    x = q[h, d]
                    s0, s1, s2, s3 = s0 + x * k0[d], s1 + x * k1[d], s2 + x * k2[d], s3 + x * k3[d]
                scores[h, t], scores[h, t + 1] = s0 * scale, s1 * scale
                scores[h, t + 2], scores[h, t + 3] = s2 * scale, s3 * scale


@jit
def mix(shares, values, n, out):
    """`out` ``[n_heads, head_dim]`` becomes the sum of the values of `n` tokens, each times its share."""
    (n_heads, hd), n_kv_heads = out.shape, values.shape[1]
    group = n_heads // n_kv_heads
    for h in range(n_heads):
        for d in range(hd):
            out[h, d] = F32(0)
    for t in range(0, n, TOGETHER):
        for g in range(n_kv_heads):
            v0, v1, v2, v3 = values[t, g], values[t + 1, g], values[t + 2, g], values[t + 3, g]
            for h in range(g * group, (g + 1) * group):
                p0, p1, p2, p3 = shares[h, t], shares[h, t + 1], shares[h, t + 2], shares[h, t + 3]
                for d in range(hd):
                    out[h, d] += p0 * v0[d] + p1 * v1[d] + p2 * v2[d] + p3 * v3[d]


@jit
def weigh(scores, n, tops, sums):
    """Scores ``[n_heads, CHUNK]`` become ``e^(score - top)``, and 0 from token `n` on; of a NaN a head's sum is one."""
    for h in range(scores.shape[0]):
        top = F32(-3e38)
        for t in range(n):
            top = scores[h, t] if scores[h, t] > top else top
        tops[h] = top
        for t in range(n):
            scores[h, t] -= top
    flat = scores.reshape(scores.size)
    for i in range(flat.size):
        flat[i] = exp(flat[i])
    for h in range(scores.shape[0]):
        total = F32(0)
        for t in range(n):
            total += scores[h, t]
        sums[h] = total
        for t in range(n, CHUNK):
            scores[h, t] = F32(0)


@jit
def combine(n, tops, sums, mixed, out):
    """What heads see of a text of `n` tokens ``[n_heads, head_dim]``, of what they see in its chunks."""
    n_chunks = chunks(n)
    for h in range(out.shape[0]):
        top, total = F32(-3e38), F32(0)
        for c in range(n_chunks):
            top = tops[c, h] if tops[c, h] > top else top
        for c in range(n_chunks):
            total += sums[c, h] * exp(tops[c, h] - top)
        for d in range(out.shape[1]):
            out[h, d] = F32(0)
        for c in range(n_chunks):
            part = exp(tops[c, h] - top) / total
            for d in range(out.shape[1]):
                out[h, d] += part * mixed[c, h, d]
