"""A decode step from tokens to logits as one compiled program, which several workers go through together.

Its work is in phases, and a phase's work in pieces: some heads, or some rows of a matrix. Whoever is free takes the
next piece (`gate`); where a phase needs what another computes, all meet. What a piece gives does not depend on who
takes it. A worker that comes late to a phase finds nothing left, and what it reads there is used by nobody.
"""

import math
from collections import namedtuple

import numpy as np

from .attention import CHUNK, attend, chunks, combine, place
from .gate import done, meet, new_gate, piece_rows, take
from .heads import write_head
from .held import DOWN, GATE, OUTPUT, UP, Held, K, Q, V
from .jitting import jit
from .numbers import F32, INT4, INT8, read
from .products import KIND, N_OUT, WEIGHT, prepare, product
from .room import Own, of_worker, room
from .rows import add, normalise, swiglu, turn, unweave

PER_LAYER = 7  # matrices
PHASES = 5  # of a layer; before the first there is one more, and after the last another one


class Scratch(
    namedtuple("ScratchFields", "x q k v added gate up cos sin slots tops sums mixed normal seen row wide scores own")
):
    """Room for what a step computes on its way, overwritten by the next step.

    Args:
        held: the model.
        batch_size: tokens that a step reads.
        n: workers.
        max_tokens: of the longest text, the new one included.

    Attributes:
        x: the residual stream ``[batch, d_model]``.
        q, k, v: ``[batch, n_heads or n_kv_heads, head_dim]``.
        added: what a product adds to the stream ``[batch, d_model]``.
        gate, up: ``[batch, d_ff]``.
        cos, sin: of where the tokens stand ``[batch, head_dim / 2]``.
        slots: where each text's tokens lie, int64 ``[batch, max_tokens]``.
        tops, sums, mixed: what heads see in each chunk of a text, ``[batch, n_chunks, n_heads, ...]``.
        normal, seen, row, wide, scores: each worker's own, ``[n, ...]``; and in `own`, what `products.Own` has.
    """

    def __new__(cls, held: Held, batch_size: int, n: int, max_tokens: int):
        """Set it aside, as above."""
        d_model, d_ff = held.last_norm.size, int(held.matrices[UP, N_OUT])
        n_heads, n_kv_heads, hd = held.n_heads, held.n_kv_heads, held.head_dim
        n_chunks, widest = chunks(max_tokens), max(d_model, d_ff, n_heads * hd)
        return super().__new__(
            cls,
            x=room(batch_size, d_model),
            q=room(batch_size, n_heads, hd),
            k=room(batch_size, n_kv_heads, hd),
            v=room(batch_size, n_kv_heads, hd),
            added=room(batch_size, d_model),
            gate=room(batch_size, d_ff),
            up=room(batch_size, d_ff),
            cos=room(batch_size, hd // 2),
            sin=room(batch_size, hd // 2),
            slots=room(batch_size, n_chunks * CHUNK, dtype=np.int64),
            tops=room(batch_size, n_chunks, n_heads),
            sums=room(batch_size, n_chunks, n_heads),
            mixed=room(batch_size, n_chunks, n_heads, hd),
            normal=room(n, batch_size, d_model),
            seen=room(n, batch_size, n_heads, hd),
            row=room(n, hd),
            wide=room(n, CHUNK, n_kv_heads, hd),
            scores=room(n, n_heads, CHUNK),
            own=Own.of(n, batch_size, widest),
        )


def new_gates(n_layers: int) -> np.ndarray:
    """A step's counters: for one phase, those of all layers, and the last one."""
    return new_gate(PHASES * n_layers + 2)


@jit
def decode_share(me, n, gate, held, scratch, tokens, positions, block_tables, block_size, pools, logits):
    """What worker `me` of `n` does of a step that reads one more token of each text.

    Nothing is checked here: a token or a block that is not there is read from memory that is another's. Two rows may
    be the same text's, at positions that follow each other: the later one sees the earlier one.

    Args:
        gate: `new_gates`, for each step its own.
        held, scratch: the same for all workers.
        tokens, positions: int64 ``[batch]``.
        block_tables: int32 ``[batch, max_blocks]``.
        block_size: tokens in a block.
        pools: bits of a code, or 0 for numbers in the format `Held.kind`; keys and values, and their codes'
            scales, each the bytes of ``[n_layers, n_blocks, block_size, n_kv_heads, head_dim or 1]``, or empty.
        logits: fp32 ``[batch, vocab_size]``, what the step gives.
    """
    n_layers, x, seen = held.norms.shape[0], scratch.x, scratch.seen[me]
    kind = INT8 if pools[0] == 8 else INT4 if pools[0] == 4 else held.kind
    normal, own = scratch.normal[me], of_worker(scratch.own, me)
    begin_texts(gate, held, scratch, tokens, positions, block_tables, block_size)
    for layer in range(n_layers):
        w, phase = held.matrices[PER_LAYER * layer : PER_LAYER * (layer + 1)], 1 + PHASES * layer
        cache = at(pools[1], layer), at(pools[2], layer), at(pools[3], layer), at(pools[4], layer)
        normalise(x, held.norms[layer, 0], held.eps, normal)  # by all: sooner done than waited for
        make_heads(gate, phase, held, scratch, w, normal, own, positions, kind, cache, me)
        look_back(gate, phase + 1, held, scratch, positions, kind, cache, me)
        for b in range(positions.size):
            combine(positions[b] + 1, scratch.tops[b], scratch.sums[b], scratch.mixed[b], seen[b])
        add_product(gate, phase + 2, held.unit, w[OUTPUT : OUTPUT + 1], flat(seen), own, scratch, n)
        normalise(x, held.norms[layer, 1], held.eps, normal)
        make_gates(gate, phase + 3, held.unit, w, normal, own, scratch, n)
        add_product(gate, phase + 4, held.unit, w[DOWN : DOWN + 1], scratch.gate, own, scratch, n)
    normalise(x, held.last_norm, held.eps, normal)
    score(gate, 1 + PHASES * n_layers, held.unit, held.matrices[-2:-1], normal, own, logits, n)


@jit
def begin_texts(gate, held, scratch, tokens, positions, block_tables, block_size):
    """The first phase, a text a piece: the token's row of the table becomes the stream; its angles; where all lies."""
    table, n_texts = held.matrices[-1], tokens.size
    b = take(gate, 0)
    while b < n_texts:
        read(table[KIND], table[WEIGHT], tokens[b] * scratch.x.shape[1], scratch.x[b])
        for i in range(held.frequencies.size):
            angle = F32(positions[b]) * held.frequencies[i]
            scratch.cos[b, i] = F32(math.cos(angle)) * F32(held.factor)
            scratch.sin[b, i] = F32(math.sin(angle)) * F32(held.factor)
        place(block_tables[b], block_size, positions[b] + 1, scratch.slots[b])
        done(gate, 0)
        b = take(gate, 0)
    meet(gate, 0, n_texts)


@jit
def make_heads(gate, phase, held, scratch, w, normal, own, positions, kind, cache, me):
    """Queries, keys and values of all texts, some heads a piece: turned, and put where they belong, as soon as made."""
    n_q, n_kv, hd = held.n_heads, held.n_kv_heads, held.head_dim
    span = held.unit // math.gcd(held.unit, hd)  # heads, so that their rows are whole units
    pieces_q, pieces_kv = (n_q - 1) // span + 1, (n_kv - 1) // span + 1
    n_pieces = pieces_q + 2 * pieces_kv
    prepare(w[Q : V + 1], normal, own)
    i = take(gate, phase)
    while i < n_pieces:
        if i < pieces_q:
            first, last = span * i, min(span * i + span, n_q)
            product(w[Q], normal, own, flat(scratch.q), first * hd, last * hd)
            turn_heads(held, scratch, scratch.q, first, last, me)
        elif i < pieces_q + pieces_kv:
            first, last = span * (i - pieces_q), min(span * (i - pieces_q) + span, n_kv)
            product(w[K], normal, own, flat(scratch.k), first * hd, last * hd)
            turn_heads(held, scratch, scratch.k, first, last, me)
            store(scratch, scratch.k, first, last, positions, kind, cache[0], cache[2])
        else:
            first = span * (i - pieces_q - pieces_kv)
            last = min(first + span, n_kv)
            product(w[V], normal, own, flat(scratch.v), first * hd, last * hd)
            store(scratch, scratch.v, first, last, positions, kind, cache[1], cache[3])
        done(gate, phase)
        i = take(gate, phase)
    meet(gate, phase, n_pieces)


@jit
def turn_heads(held, scratch, heads, first, last, me):
    """RoPE of heads `first` to `last` of all texts, in their place."""
    for b in range(heads.shape[0]):
        for h in range(first, last):
            if held.woven:
                unweave(heads[b, h], scratch.row[me])
            turn(heads[b, h], scratch.cos[b], scratch.sin[b])


@jit
def store(scratch, heads, first, last, positions, kind, pool, scales):
    """Put keys or values of the new tokens, heads `first` to `last` of each, into their slots."""
    n_kv = heads.shape[1]
    for b in range(heads.shape[0]):
        for g in range(first, last):
            write_head(kind, pool, scales, scratch.slots[b, positions[b]] * n_kv + g, heads[b, g])


@jit
def look_back(gate, phase, held, scratch, positions, kind, cache, me):
    """Attention: a piece is a chunk of a text, for all heads; texts that have no such chunk are soon done."""
    n_chunks = chunks(positions.max() + 1)
    n_pieces = n_chunks * positions.size
    i = take(gate, phase)
    while i < n_pieces:
        b, c, n = i // n_chunks, i % n_chunks, positions[i // n_chunks] + 1
        if c * CHUNK < n:
            where = c, n, scratch.slots[b], kind, cache
            room = scratch.wide[me], scratch.scores[me], scratch.tops[b], scratch.sums[b], scratch.mixed[b]
            attend(scratch.q[b], *where, *room)
        done(gate, phase)
        i = take(gate, phase)
    meet(gate, phase, n_pieces)


@jit
def add_product(gate, phase, unit, matrix, inputs, own, scratch, n):
    """``x += inputs W^T``, some rows of the matrix a piece."""
    n_out = matrix[0, N_OUT]
    rows = piece_rows(n_out, unit, n)
    n_pieces = (n_out - 1) // rows + 1
    prepare(matrix, inputs, own)
    i = take(gate, phase)
    while i < n_pieces:
        begin, end = rows * i, min(rows * i + rows, n_out)
        product(matrix[0], inputs, own, scratch.added, begin, end)
        add(scratch.x, scratch.added, begin, end)
        done(gate, phase)
        i = take(gate, phase)
    meet(gate, phase, n_pieces)


@jit
def make_gates(gate, phase, unit, w, normal, own, scratch, n):
    """SwiGLU: a piece is some rows of the gates' matrix and the same ones of the other."""
    n_out = w[GATE, N_OUT]
    rows = piece_rows(n_out, unit, n)
    n_pieces = (n_out - 1) // rows + 1
    prepare(w[GATE : UP + 1], normal, own)
    i = take(gate, phase)
    while i < n_pieces:
        begin, end = rows * i, min(rows * i + rows, n_out)
        product(w[GATE], normal, own, scratch.gate, begin, end)
        product(w[UP], normal, own, scratch.up, begin, end)
        swiglu(scratch.gate, scratch.up, begin, end)
        done(gate, phase)
        i = take(gate, phase)
    meet(gate, phase, n_pieces)


@jit
def score(gate, phase, unit, head, normal, own, logits, n):
    """The last phase: the logits, some tokens of the vocabulary a piece."""
    n_out = head[0, N_OUT]
    rows = piece_rows(n_out, unit, n)
    prepare(head, normal, own)
    begin = rows * take(gate, phase)
    while begin < n_out:
        product(head[0], normal, own, logits, begin, min(begin + rows, n_out))
        begin = rows * take(gate, phase)


@jit
def at(pool, layer):
    """Where a layer's part of a pool of bytes lies."""
    return pool.ctypes.data + layer * (pool.size // pool.shape[0])


@jit
def flat(heads):
    """``[batch, heads, head_dim]`` as ``[batch, heads * head_dim]``: the same memory."""
    return heads.reshape(heads.shape[0], heads.shape[1] * heads.shape[2])
