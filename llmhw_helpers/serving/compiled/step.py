"""A decode step from tokens to logits as one compiled program, of which each worker takes its share.

All workers run the same program, each on its own rows and heads. Where one needs what others compute, all meet.
"""

import math
from collections import namedtuple

import numpy as np

from .attention import attend, slot_of
from .gate import meet, share
from .heads import write_head
from .held import DOWN, GATE, OUTPUT, UP, Held, K, Q, V
from .jitting import jit
from .numbers import BLOCK, F32, INT4, INT8, read
from .products import KIND, N_OUT, WEIGHT, Own, of_worker, prepare, product
from .rows import add, normalise, swiglu, turn, unweave

PER_LAYER = 7  # matrices


class Scratch(namedtuple("ScratchFields", "x q k v mixed added gate up normal row scores cos sin own")):
    """Room for what a step computes on its way, overwritten by the next step.

    Args:
        held: the model.
        batch_size: tokens that a step reads.
        n: workers.
        max_tokens: of the longest text, the new one included.

    Attributes:
        x: the residual stream ``[batch, d_model]``.
        q, k, v, mixed: ``[batch, n_heads or n_kv_heads, head_dim]``.
        added: what a product adds to the stream ``[batch, d_model]``.
        gate, up: ``[batch, d_ff]``.
        normal, row, scores, cos, sin: each worker's own, ``[n, ...]``; and in `own`, what `products.Own` has.
    """

    def __new__(cls, held: Held, batch_size: int, n: int, max_tokens: int):
        """Set it aside, as above."""
        d_model, d_ff = held.last_norm.size, int(held.matrices[UP, N_OUT])
        hd, widest = held.head_dim, max(d_model, d_ff, held.n_heads * held.head_dim)

        def room(*shape):
            return np.zeros(shape, np.float32)

        heads, kv_heads = (batch_size, held.n_heads, hd), (batch_size, held.n_kv_heads, hd)
        shared = [room(batch_size, d_model), room(*heads), room(*kv_heads), room(*kv_heads), room(*heads)]
        shared += [room(batch_size, d_model), room(batch_size, d_ff), room(batch_size, d_ff)]
        each = [room(n, batch_size, d_model), room(n, held.n_kv_heads, hd), room(n, held.n_heads, max_tokens)]
        each += [room(n, batch_size, hd // 2), room(n, batch_size, hd // 2)]
        return super().__new__(cls, *shared, *each, Own.of(n, batch_size, widest))


@jit
def decode_share(me, n, gate, held, scratch, tokens, positions, block_tables, block_size, pools, logits):
    """What worker `me` of `n` does of a step that reads one more token of each text.

    Nothing is checked here: a token or a block that is not there is read from memory that is another's. Two rows may
    be the same text's, at positions that follow each other: the later one sees the earlier one.

    Args:
        gate: int64 ``[1]``, 0.
        held, scratch: the same for all workers.
        tokens, positions: int64 ``[batch]``.
        block_tables: int32 ``[batch, max_blocks]``.
        block_size: tokens in a block.
        pools: bits of a code, or 0 for numbers in the format `Held.kind`; keys and values, and their codes'
            scales, each the bytes of ``[n_layers, n_blocks, block_size, n_kv_heads, head_dim or 1]``, or empty.
        logits: fp32 ``[batch, vocab_size]``, what the step gives.
    """
    n_layers, cos, sin = held.norms.shape[0], scratch.cos[me], scratch.sin[me]
    kind = INT8 if pools[0] == 8 else INT4 if pools[0] == 4 else held.kind
    normal, own, x = scratch.normal[me], of_worker(scratch.own, me), scratch.x
    angles(positions, held.frequencies, held.factor, cos, sin)
    embed(held, tokens, x, me, n)
    meet(gate, n)
    for layer in range(n_layers):
        w = held.matrices[PER_LAYER * layer : PER_LAYER * (layer + 1)]
        normalise(x, held.norms[layer, 0], held.eps, normal)  # by all: sooner done than waited for
        multiply_share(held.unit, w[Q], normal, own, flat(scratch.q), me, n)
        multiply_share(held.unit, w[K], normal, own, flat(scratch.k), me, n)
        multiply_share(held.unit, w[V], normal, own, flat(scratch.v), me, n)
        meet(gate, n)
        cache = at(pools[1], layer), at(pools[2], layer), at(pools[3], layer), at(pools[4], layer)
        store(held, scratch, positions, block_tables, block_size, kind, cache, cos, sin, me, n)
        meet(gate, n)
        look_back(held, scratch, positions, block_tables, block_size, kind, cache, cos, sin, me, n)
        meet(gate, n)
        begin, end = multiply_share(held.unit, w[OUTPUT], flat(scratch.mixed), own, scratch.added, me, n)
        add(x, scratch.added, begin, end)
        meet(gate, n)
        normalise(x, held.norms[layer, 1], held.eps, normal)
        begin, end = multiply_share(held.unit, w[GATE], normal, own, scratch.gate, me, n)
        multiply_share(held.unit, w[UP], normal, own, scratch.up, me, n)
        swiglu(scratch.gate, scratch.up, begin, end)
        meet(gate, n)
        begin, end = multiply_share(held.unit, w[DOWN], scratch.gate, own, scratch.added, me, n)
        add(x, scratch.added, begin, end)
        meet(gate, n)
    normalise(x, held.last_norm, held.eps, normal)
    multiply_share(held.unit, held.matrices[PER_LAYER * n_layers], normal, own, logits, me, n)


@jit
def at(pool, layer):
    """Where a layer's part of a pool of bytes lies."""
    return pool.ctypes.data + layer * (pool.size // pool.shape[0])


@jit
def flat(heads):
    """``[batch, heads, head_dim]`` as ``[batch, heads * head_dim]``: the same memory."""
    return heads.reshape(heads.shape[0], heads.shape[1] * heads.shape[2])


@jit
def multiply_share(unit, matrix, x, own, y, me, n):
    """A worker's rows of a product; where they begin and end."""
    begin, end = share(matrix[N_OUT], unit, me, n)
    prepare(matrix.reshape(1, matrix.size), x, own)
    product(matrix, x, own, y, begin, end)
    return begin, end


@jit
def angles(positions, frequencies, factor, cos, sin):
    """Cosines and sines ``[batch, head_dim / 2]`` of where the tokens stand."""
    for b in range(positions.size):
        for i in range(frequencies.size):
            angle = F32(positions[b]) * frequencies[i]
            cos[b, i] = F32(math.cos(angle)) * F32(factor)
            sin[b, i] = F32(math.sin(angle)) * F32(factor)


@jit
def embed(held, tokens, x, me, n):
    """The tokens' rows of the table become the stream; each worker copies some columns."""
    table, (begin, end) = held.matrices[-1], share(x.shape[1], BLOCK, me, n)
    for b in range(tokens.size):
        read(table[KIND], table[WEIGHT], tokens[b] * x.shape[1] + begin, x[b, begin:end])


@jit
def store(held, scratch, positions, block_tables, block_size, kind, cache, cos, sin, me, n):
    """Turn keys, and put keys and values of the new tokens into their slots; heads of all texts are shared out."""
    heads, (keys, values, key_scales, value_scales) = held.n_kv_heads, cache
    begin, end = share(positions.size * heads, 1, me, n)
    for i in range(begin, end):
        b, g = i // heads, i % heads
        where = slot_of(positions[b], block_tables[b], block_size) * heads + g
        if held.woven:
            unweave(scratch.k[b, g], scratch.row[me, 0])
        turn(scratch.k[b, g], cos[b], sin[b])
        write_head(kind, keys, key_scales, where, scratch.k[b, g])
        write_head(kind, values, value_scales, where, scratch.v[b, g])


@jit
def look_back(held, scratch, positions, block_tables, block_size, kind, cache, cos, sin, me, n):
    """Attention for this worker's heads; those of all texts are shared out."""
    heads = held.n_heads
    begin, end = share(positions.size * heads, 1, me, n)
    if begin == end:
        return
    for b in range(begin // heads, (end - 1) // heads + 1):
        first, last = max(begin - b * heads, 0), min(end - b * heads, heads)
        for h in range(first, last):
            if held.woven:
                unweave(scratch.q[b, h], scratch.row[me, 0])
            turn(scratch.q[b, h], cos[b], sin[b])
        where = positions[b] + 1, block_tables[b], block_size, kind, cache
        attend(scratch.q[b], first, last, *where, scratch.row[me], scratch.scores[me], scratch.mixed[b])
