"""Products with small numbers: int8 and int4 weights, which share scales, times activations that are wide or rounded.

Int8 lies in rows, as PyTorch has it. In int4 a register holds the same column of many rows, so nothing is ever added
up across a register: `LANES` rows are a tile, in which a word of 16 bits has four neighbours of one row (see `tiles`).
"""

from .jitting import jit
from .numbers import BLOCK, F32, I16, I32, U16, from_fp16
from .vectors import widen_bytes

LANES = 32  # rows of int4 in a tile: one register of AVX-512, two of AVX2, four of Arm


@jit
def one_int8(w, steps, x, y, begin, end):
    """Rows of int8 ``[n_out, n_in]`` with a step each ``[n_out, 1]``, for one token."""
    for i in range(begin, end):
        s = F32(0)
        for j in range(w.shape[1]):
            s += F32(w[i, j]) * x[0, j]
        y[0, i] = s * steps[i, 0]


@jit
def widen(w, steps, i, out):
    """`out` becomes the numbers of row `i` of `w` ``[n_out, n_in]``; steps are ``[n_out, n_groups]``."""
    group = w.shape[1] // steps.shape[1]
    if group % BLOCK:  # slower
        for j in range(w.shape[1]):
            out[j] = F32(w[i, j]) * steps[i, j // group]
        return
    codes, per_group = w.ctypes.data + i * w.shape[1], group // BLOCK
    for k in range(w.shape[1] // BLOCK):
        widen_bytes(codes + BLOCK * k, steps[i, k // per_group], out.ctypes.data + 4 * BLOCK * k)


@jit
def round_blocks(x, small, sums, scales):
    """Activations ``[batch, n_in]`` as whole numbers from -127 to 127, with a scale for each `BLOCK` of 32.

    A half is rounded away from 0. A number is off by 1/254 of the largest of its block at most, as with llama.cpp,
    whose Q8_0 this is. What is no number, or endless, makes its block's scale NaN.

    Args:
        x: fp32, ``n_in`` a multiple of `BLOCK`.
        small: becomes the numbers ``[batch, n_in]`` or wider, int16, as they are multiplied in 16 bits.
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
                    numbers[j] = I16(k)
                    total = I32(total + k)
            sums[b, g] = total
            scales[b, g] = largest / F32(127) + nothing


@jit
def int4_rounded(words, scales, minima, top, per_group, x, own, y, begin, end):
    """Tiles of int4 times activations rounded by `round_blocks`, in whole numbers of 16 bits.

    The 32 products of a block, of -8 to 7 and -127 to 127, add up to 32,512 at most: so 16 bits hold the sum, and it
    is right though on the way there codes from 0 to 15 stand for -8 to 7, and more than 16 bits may be dropped.

    Args:
        words: uint16 ``[n_tiles, n_in / 4, LANES]``.
        scales, minima: fp16 bits ``[n_tiles, n_in / group, LANES]``; without minima those of no tile, and code 8 is 0.
        top: 1 over what a scale is divided by.
        per_group: blocks that a scale is for.
        x: fp32 ``[batch, n_in]``, as it was before.
        own: a worker's room, see `room.Own`, with the rounded ones.
        y: fp32 ``[batch, n_out]``.
        begin, end: rows; `begin` is a multiple of `LANES`.
    """
    n_blocks, part, total = x.shape[1] // BLOCK, own.part, own.total
    for t in range(begin // LANES, (end + LANES - 1) // LANES):
        for b in range(x.shape[0]):
            small = own.small[b]
            for r in range(LANES):
                total[r] = F32(0)
            for g in range(n_blocks):
                scale, sum8 = own.scales[b, g], own.sums[b, g]
                start = I16(I32(-8) * sum8)
                for r in range(LANES):
                    s = start
                    for j in range(BLOCK // 4):
                        c, k = words[t, 8 * g + j, r], 32 * g + 4 * j
                        s = I16(s + I16((c & U16(15)) * small[k]) + I16((c >> U16(4) & U16(15)) * small[k + 1]))
                        s = I16(s + I16((c >> U16(8) & U16(15)) * small[k + 2]) + I16((c >> U16(12)) * small[k + 3]))
                    part[r] = s
                steps, times = scales[t, g // per_group], scale * top
                for r in range(LANES):
                    total[r] += from_fp16(steps[r]) * times * F32(part[r])
                if minima.shape[0]:
                    least, one, eight = minima[t, g // per_group], scale * F32(sum8), F32(8) * top
                    for r in range(LANES):
                        total[r] += (from_fp16(least[r]) + from_fp16(steps[r]) * eight) * one
            put(total, t, b, y, end)


@jit
def int4_wide(words, scales, minima, top, per_group, x, own, y, begin, end):
    """The same with activations as they are, in fp32: what rounding them costs, and gains, is seen beside this."""
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
                    for j in range(BLOCK // 4):
                        c, k = I32(words[t, 8 * g + j, r]), 32 * g + 4 * j
                        s += F32(I32(c & I32(15))) * row[k] + F32(I32(I32(c >> I32(4)) & I32(15))) * row[k + 1]
                        s += F32(I32(I32(c >> I32(8)) & I32(15))) * row[k + 2] + F32(I32(c >> I32(12))) * row[k + 3]
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
