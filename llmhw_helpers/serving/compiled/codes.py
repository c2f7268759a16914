"""Products with int4 weights, which share scales, times activations that are wide or rounded.

A register holds the same columns of many rows: `LANES` rows are a tile, in which a word of 32 bits has eight neighbours
of one row (see `tiles`).
"""

import numpy as np

from .jitting import jit
from .lanes import LANES, WORDS, add_block, put_lanes, texts_of, total_of_one, totals_of_eight
from .numbers import BLOCK, F32, I32, from_fp16
from .sums import in_eights
from .texts import TEXTS

I8 = np.int8


@jit
def round_blocks(x, small, sums, scales):
    """Activations ``[batch, n_in]`` as whole numbers from -127 to 127, with a scale for each `BLOCK` of 32.

    A half is rounded away from 0. A number is off by 1/254 of the largest of its block at most, as with llama.cpp,
    whose Q8_0 this is. What is no number, or endless, makes its block's scale NaN.

    Args:
        x: fp32, ``n_in`` a multiple of `BLOCK`.
        small: becomes the numbers ``[batch, n_in]`` or wider, int8.
        sums: becomes the sum of each block, int32 ``[batch, n_in / BLOCK]`` or wider.
        scales: becomes what 1 stands for in each block; fp32, likewise.
    """
    for b in range(x.shape[0]):
        for g in range(x.shape[1] // BLOCK):
            block, numbers = x[b, BLOCK * g : BLOCK * (g + 1)], small[b, BLOCK * g : BLOCK * (g + 1)]
            largest, nothing, total = F32(1e-30), F32(0), I32(0)
            for j in range(BLOCK):
                size = abs(block[j])
                largest = size if size > largest else largest
                nothing += block[j] * F32(0)  # which 0 times NaN and 0 times infinity are not
            if nothing == F32(0):
                for j in range(BLOCK):
                    v = block[j] * (F32(127) / largest)
                    k = I32(v + (F32(0.5) if v > F32(0) else F32(-0.5)))
                    numbers[j] = I8(k)
                    total = I32(total + k)
            sums[b, g] = total
            scales[b, g] = largest / F32(127) + nothing


@jit
def int4_rounded(words, steps, minima, top, per_group, n_in, own, y, begin, end):
    """Tiles of int4 times activations rounded by `round_blocks`, in whole numbers: a block's sum is exact.

    A tile's codes are taken apart once for up to eight texts.

    Args:
        words: address of int32 ``[n_tiles, n_in / 8, LANES]``.
        steps, minima: of fp16 bits ``[n_tiles, n_in / group, LANES]``; without minima None, and code 8 is 0.
        top: 1 over what a step is divided by.
        per_group: blocks that a step is for.
        n_in: columns.
        own: a worker's room, see `room.Own`, with the rounded numbers.
        y: fp32 ``[batch, n_out]``.
        begin, end: rows; `begin` is a multiple of `LANES`.
    """
    many = in_eights(y.shape[0])
    for t in range(begin // LANES, (end + LANES - 1) // LANES):
        for b in range(0, many, TEXTS):
            rounded_tile(totals_of_eight(), words, steps, minima, top, per_group, n_in, own, y, t, b, end)
        for b in range(many, y.shape[0]):
            rounded_tile(total_of_one(), words, steps, minima, top, per_group, n_in, own, y, t, b, end)


@jit
def rounded_tile(totals, words, steps, minima, top, per_group, n_in, own, y, t, b, end):
    """Tile `t` times the texts from text `b` on, as many as `totals`, which are zeros, are for."""
    n_blocks, found = n_in // BLOCK, totals
    n_groups = n_blocks // per_group
    small, sums, scales = own.small[b:].ctypes.data, own.sums[b:].ctypes.data, own.scales[b:].ctypes.data
    text_bytes, block_bytes = own.small.shape[1], 4 * own.sums.shape[1]
    for g in range(n_blocks):
        where = words + 4 * LANES * WORDS * (t * n_blocks + g)
        shared = 2 * LANES * (t * n_groups + g // per_group)
        numbers = small + BLOCK * g, text_bytes, sums + 4 * g, scales + 4 * g, block_bytes
        found = add_block(found, where, steps, minima, shared, top, *numbers)
    put_lanes(found, own.total.ctypes.data)
    for k in range(min(texts_of(totals), y.shape[0] - b)):
        put(own.total[k * LANES : (k + 1) * LANES], t, b + k, y, end)


@jit
def int4_wide(words, scales, minima, top, per_group, x, own, y, begin, end):
    """The same with activations as they are, in fp32: what rounding them costs, and gains, is seen beside this.

    Here `words` is int32 ``[n_tiles, n_in / 8, LANES]``, and scales and minima are ``[n_tiles, n_in / group, LANES]``,
    or of no tile.
    """
    n_blocks, total = x.shape[1] // BLOCK, own.total
    for t in range(begin // LANES, (end + LANES - 1) // LANES):
        for b in range(x.shape[0]):
            row = x[b]
            for r in range(LANES):
                total[r] = F32(0)
            for g in range(n_blocks):
                sum8 = F32(0)
                for j in range(BLOCK):
                    sum8 += x[b, BLOCK * g + j]
                steps = scales[t, g // per_group]
                for r in range(LANES):
                    s = F32(-8) * sum8
                    for q in range(WORDS):
                        c, k = words[t, WORDS * g + q, r], BLOCK * g + 8 * q
                        for i in range(4):
                            low, high = I32(c >> I32(8 * i)) & I32(15), I32(c >> I32(8 * i + 4)) & I32(15)
                            s += F32(I32(low)) * row[k + i] + F32(I32(high)) * row[k + 4 + i]
                    total[r] += from_fp16(steps[r]) * top * s
                if minima.shape[0]:
                    least, eight = minima[t, g // per_group], F32(8) * top
                    for r in range(LANES):
                        total[r] += (from_fp16(least[r]) + from_fp16(steps[r]) * eight) * sum8
            put(total, t, b, y, end)


@jit
def put(total, t, b, y, end):
    """Tile `t` of row `b` of `y` becomes `total`, up to row `end`: the last tile may have lanes without a row."""
    for r in range(min(LANES, end - t * LANES)):
        y[b, t * LANES + r] = total[r]
