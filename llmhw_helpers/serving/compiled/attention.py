"""Attention of new tokens over keys and values that lie in blocks, wide or as codes."""

import math

from .heads import read_head
from .jitting import jit
from .numbers import F32
from .rows import exp


@jit
def slot_of(t, table, block_size):
    """Where token `t` of a text lies: its number among all slots of a layer."""
    return table[t // block_size] * block_size + t % block_size


@jit
def attend(q, first, last, n, table, block_size, kind, layer, row, scores, out):
    """What heads `first` to `last` of one token see of the `n` tokens of its text so far.

    Scores in fp32; each head's softmax and sum go through the tokens in their order, whoever computes the others.

    Args:
        q: queries ``[n_heads, head_dim]``, turned.
        table: the text's blocks.
        kind: format of keys and values.
        layer: addresses of this layer's keys, values ``[n_slots, n_kv_heads, head_dim]`` and their scales, if any.
        row: room for one head's numbers ``[n_kv_heads, head_dim]``.
        scores: room ``[n_heads, n_tokens]``, as many tokens as there may be.
        out: ``[n_heads, head_dim]``.
    """
    group, hd, (keys, values, key_scales, value_scales) = q.shape[0] // row.shape[0], q.shape[1], layer
    scale = F32(1) / F32(math.sqrt(F32(hd)))
    for t in range(n):  # tokens outside: memory is read in the order in which it lies
        slot = slot_of(t, table, block_size)
        for g in range(first // group, (last - 1) // group + 1):
            read_head(kind, keys, key_scales, slot * row.shape[0] + g, row[g])
            for h in range(max(first, g * group), min(last, (g + 1) * group)):
                s = F32(0)
                for d in range(hd):
                    s += q[h, d] * row[g, d]
                scores[h, t] = s * scale
    for h in range(first, last):
        softmax(scores, h, n)
        for d in range(hd):
            out[h, d] = F32(0)
    for t in range(n):
        slot = slot_of(t, table, block_size)
        for g in range(first // group, (last - 1) // group + 1):
            read_head(kind, values, value_scales, slot * row.shape[0] + g, row[g])
            for h in range(max(first, g * group), min(last, (g + 1) * group)):
                p = scores[h, t]
                for d in range(hd):
                    out[h, d] += p * row[g, d]


@jit
def softmax(scores, h, n):
    """The first `n` scores of row `h` become shares of 1; one NaN makes all of them NaN."""
    top, total = F32(-3e38), F32(0)
    for t in range(n):
        top = scores[h, t] if scores[h, t] > top else top
    for t in range(n):
        scores[h, t] = exp(scores[h, t] - top)
        total += scores[h, t]
    for t in range(n):
        scores[h, t] /= total
