"""A decode step from tokens to logits as one compiled program, which several workers go through together.

Its work is in phases, and a phase's work in pieces: some heads, or some rows of a matrix. Whoever is free takes the
next piece (`gate`); where a phase needs what another computes, all meet. What a piece gives does not depend on who
takes it. A worker that comes late to a phase finds nothing left, and what it reads there is used by nobody.
"""

import math
from collections import namedtuple

import numpy as np

from .attention import attend, chunks, combine, place
from .gate import done, meet, new_gate, piece_rows, take
from .heads import write_head
from .held import DOWN, GATE, OUTPUT, UP, Held, K, Q, V
from .jitting import jit, program
from .numbers import F32, INT4, INT8, read
from .products import KIND, N_OUT, WEIGHT, prepare, product
from .room import Own, of_worker, room, uncounted
from .rows import add, normalise, swiglu, turn, unweave
from .tokens import CHUNK, TILE, UNIT

PER_LAYER = 7  # matrices
PHASES = 5  # of a layer; before the first there is one more, and after the last another one
# What becomes of the rows of a product: heads, turned and kept; added to the stream; gates, opened by the other; logits
KEEP, ADD, OPEN, SCORE = np.arange(4)  # of a type that is no constant, or the compiler makes four programs of one
NOWHERE = (np.int64(0),) * 4  # a cache of nothing
Mine = namedtuple("Mine", "gate held scratch own positions kind me n")  # what a worker goes through a step with


class Scratch(
    namedtuple(
        "ScratchFields",
        "x q k v added gate up cos sin slots runs tops sums mixed seen ended normal row wide asked scores own",
    )
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
        slots, runs, tops, sums, mixed, seen: see `attention.attend` and `attention.combine`.
        ended: of each text, counts the chunks that were looked at, as `gate.take` does.
        normal, row, wide, asked, scores: each worker's own, ``[n, ...]``; and in `own`, what `room.Own` has.
    """

    def __new__(cls, held: Held, batch_size: int, n: int, max_tokens: int):
        """Set it aside, as above."""
        d_model, d_ff = held.last_norm.size, int(held.matrices[UP, N_OUT])
        n_heads, n_kv_heads, hd = held.n_heads, held.n_kv_heads, held.head_dim
        n_chunks, width = chunks.py_func(max_tokens), -(-hd // UNIT) * UNIT
        widest = max(d_model, d_ff, n_heads * hd)
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
            runs=room(batch_size, n_chunks * CHUNK, dtype=np.int64),
            tops=room(batch_size, n_chunks, n_heads),
            sums=room(batch_size, n_chunks, n_heads),
            mixed=room(batch_size, n_chunks, n_heads, width),
            seen=room(batch_size, n_heads, hd),
            ended=new_gate(batch_size),
            normal=room(n, batch_size, d_model),
            row=room(n, hd),
            wide=room(n, TILE, n_kv_heads, width),
            asked=room(n, n_heads, width),
            scores=room(n, n_heads, CHUNK),
            own=Own.of(n, batch_size, widest),
        )


def new_gates(n_layers: int) -> np.ndarray:
    """A step's counters: for one phase, those of all layers, and the last one."""
    return new_gate(PHASES * n_layers + 2)


@program
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
        logits: fp32 ``[n_scored, vocab_size]``, what the step gives: of the first tokens, as many as there is room for.
    """
    gate, held, scratch, tokens, positions = uncounted((gate, held, scratch, tokens, positions))
    block_tables, pools, logits = uncounted((block_tables, pools, logits))
    kind = INT8 if pools[0] == 8 else INT4 if pools[0] == 4 else held.kind
    mine = Mine(gate, held, scratch, of_worker(scratch.own, me), positions, kind, me, n)
    x, normal, added = scratch.x, scratch.normal[me], scratch.added
    begin_texts(gate, held, scratch, tokens, positions, block_tables, block_size)
    for layer in range(held.norms.shape[0]):
        w, phase = held.matrices[PER_LAYER * layer : PER_LAYER * (layer + 1)], 1 + PHASES * layer
        cache = at(pools[1], layer), at(pools[2], layer), at(pools[3], layer), at(pools[4], layer)
        normalise(x, held.norms[layer, 0], held.eps, normal)  # by all: sooner done than waited for
        multiply(mine, phase, KEEP, w[: V + 1], normal, (flat(scratch.q), flat(scratch.k), flat(scratch.v)), cache)
        look_back(mine, phase + 1, cache)
        multiply(mine, phase + 2, ADD, w[OUTPUT : OUTPUT + 1], flat(scratch.seen), (added, added, added), cache)
        normalise(x, held.norms[layer, 1], held.eps, normal)
        multiply(mine, phase + 3, OPEN, w[GATE : UP + 1], normal, (scratch.gate, scratch.up, added), cache)
        multiply(mine, phase + 4, ADD, w[DOWN : DOWN + 1], scratch.gate, (added, added, added), cache)
    normalise(x, held.last_norm, held.eps, normal)
    last = 1 + PHASES * held.norms.shape[0]
    scored = normal[: logits.shape[0]]
    multiply(mine, last, SCORE, held.matrices[-2:-1], scored, (logits, logits, logits), NOWHERE)


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
        place(block_tables[b], block_size, positions[b] + 1, scratch.slots[b], scratch.runs[b])
        done(gate, 0)
        b = take(gate, 0)
    meet(gate, 0, n_texts)


@jit
def multiply(mine, phase, what, matrices, inputs, outputs, cache):
    """A phase of products with the same inputs: a piece is some rows, and who makes them goes on with them at once.

    Args:
        mine: a `Mine`.
        phase: its number.
        what: becomes of the rows: `KEEP`, `ADD`, `OPEN` or `SCORE`.
        matrices: int64 ``[1 to 3, 10]``, as `products` has it.
        inputs: fp32 ``[batch, n_in]``.
        outputs: of each matrix ``[batch, n_out]``.
        cache: addresses of the layer's keys, values and their scales.
    """
    gate, held, together = mine.gate, mine.held, 2 if what == OPEN else 1  # matrices of which a piece has rows
    rows = piece_rows(matrices[0, N_OUT], held.unit, mine.n)
    if what == KEEP:
        rows = held.unit // math.gcd(held.unit, held.head_dim) * held.head_dim  # whole heads, and whole units
    n_pieces = 0
    for m in range(0, matrices.shape[0], together):
        n_pieces += pieces(matrices[m], rows)
    prepare(matrices, inputs, mine.own)
    i = take(gate, phase)
    while i < n_pieces:
        m, j = 0, i
        while j >= pieces(matrices[m], rows):
            m, j = m + together, j - pieces(matrices[m], rows)
        begin, end = rows * j, min(rows * j + rows, matrices[m, N_OUT])
        for k in range(m, m + together):
            product(matrices[k], inputs, mine.own, outputs[k], begin, end)
        if what == KEEP:
            keep(mine, m, begin // held.head_dim, end // held.head_dim, cache)
        elif what == ADD:
            add(mine.scratch.x, outputs[0], begin, end)
        elif what == OPEN:
            swiglu(outputs[0], outputs[1], begin, end)
        done(gate, phase)
        i = take(gate, phase)
    if what != SCORE:  # whose end the caller waits for
        meet(gate, phase, n_pieces)


@jit
def pieces(matrix, rows):
    """Of a matrix, with so many rows each."""
    return (matrix[N_OUT] - 1) // rows + 1


@jit
def keep(mine, which, first, last, cache):
    """Turn heads `first` to `last` of all texts' queries or keys; put keys and values into their slots."""
    scratch = mine.scratch
    heads = scratch.q if which == Q else scratch.k if which == K else scratch.v
    if which != V:
        turn_heads(mine.held, scratch, heads, first, last, mine.me)
    if which != Q:
        pool, scales = (cache[0], cache[2]) if which == K else (cache[1], cache[3])
        store(scratch, heads, first, last, mine.positions, mine.kind, pool, scales)


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
def look_back(mine, phase, cache):
    """Attention: a piece is a chunk of a text, for all heads; texts that have no such chunk are soon done.

    Whoever does the last chunk of a text combines them all.
    """
    gate, scratch, positions, me = mine.gate, mine.scratch, mine.positions, mine.me
    own = scratch.wide[me], scratch.asked[me], scratch.scores[me]
    found = scratch.tops, scratch.sums, scratch.mixed
    n_chunks = chunks(positions.max() + 1)
    n_pieces = n_chunks * positions.size
    i = take(gate, phase)
    while i < n_pieces:
        b, c, n, later = i // n_chunks, i % n_chunks, positions[i // n_chunks] + 1, min(i + mine.n, n_pieces - 1)
        if c * CHUNK < n:
            then = later // n_chunks, later % n_chunks
            attend(b, c, n, scratch.q, scratch.slots, scratch.runs, mine.kind, cache, then, *own, *found)
            if take(scratch.ended, b) == chunks(n) - 1:
                scratch.ended[b, 0, 0] = 0  # for the next layer
                combine(b, n, *found, scratch.seen)
        done(gate, phase)
        i = take(gate, phase)
    meet(gate, phase, n_pieces)


@jit
def at(pool, layer):
    """Where a layer's part of a pool of bytes lies."""
    return pool.ctypes.data + layer * (pool.size // pool.shape[0])


@jit
def flat(heads):
    """``[batch, heads, head_dim]`` as ``[batch, heads * head_dim]``: the same memory."""
    return heads.reshape(heads.shape[0], heads.shape[1] * heads.shape[2])
