"""Rows of ``y = W x + b`` for one token or a few, with the matrix as it lies in memory.

A row's sum is the same whoever computes it, and with whom: it goes through the row in one loop, which adds up as many
partial sums side by side as the registers hold.
"""

from .codes import LANES, int4_rounded, int4_wide, one_int8, round_blocks, widen
from .gate import share
from .jitting import jit
from .numbers import (
    BF16,
    BLOCK,
    F32,
    FP16,
    FP32,
    INT4,
    INT8,
    Q8_0,
    bits16,
    bytes8,
    floats,
    from_bf16,
    from_fp16,
    read,
)
from .room import PAIR, of_worker
from .vectors import dot_bytes, dot_nibbles

# What a matrix is, as a row of whole numbers: format, shape, weights that share a scale, and addresses, 0 for nothing;
# for int4, whether activations are rounded before they are multiplied by it.
KIND, N_OUT, N_IN, GROUP, WEIGHT, SCALES, MINIMA, BIAS, ROUNDED = range(9)
SEVENTH, FIFTEENTH = F32(1 / 7), F32(1 / 15)  # of a scale: int4's step without and with a minimum


@jit
def prepare(matrices, x, own):
    """What products of `x` with these need of it, once for all their rows; the same `x` and `own` go to `product`.

    Args:
        matrices: int64 ``[n, 9]``, as above.
        x: fp32 ``[batch, n_in]``.
        own: an `Own`.
    """
    for i in range(matrices.shape[0]):
        if matrices[i, KIND] == INT4 and matrices[i, ROUNDED]:
            round_blocks(x, own.small, own.sums, own.scales)
            return
        if matrices[i, KIND] >= Q8_0 and x.shape[0] == 1:
            sum_blocks(x, own.scales[0])
            return


@jit
def product(matrix, x, own, y, begin, end):
    """Columns `begin` to `end` of ``y = x W^T + b``, after `prepare`.

    Args:
        matrix: int64 ``[9]``, as above.
        x: fp32 ``[batch, n_in]``.
        own: an `Own`.
        y: fp32 ``[batch, n_out]``.
        begin, end: `begin` is a multiple of `PAIR`, and so is `end`, unless it is the last row's; of `LANES` in int4.
    """
    if matrix[KIND] == INT4:
        int4(matrix, x, own, y, begin, end)
    elif x.shape[0] > 1 or (matrix[KIND] == INT8 and matrix[GROUP] < matrix[N_IN] and matrix[GROUP] % BLOCK):
        several(matrix, x, own.rows, y, begin, end)
    elif matrix[KIND] >= Q8_0:
        one_in_blocks(matrix[KIND], matrix[WEIGHT], x, own.scales[0], y, begin, end)
    elif matrix[KIND] == INT8 and matrix[GROUP] < matrix[N_IN]:
        steps = floats(matrix[SCALES], matrix[N_OUT], matrix[N_IN] // matrix[GROUP])
        one_in_groups(matrix[WEIGHT], steps, matrix[GROUP] // BLOCK, x, y, begin, end)
    elif matrix[KIND] == INT8:
        steps = floats(matrix[SCALES], matrix[N_OUT], 1)
        one_int8(bytes8(matrix[WEIGHT], matrix[N_OUT], matrix[N_IN]), steps, x, y, begin, end)
    elif matrix[KIND] == FP32:
        one_fp32(floats(matrix[WEIGHT], matrix[N_OUT], matrix[N_IN]), x, y, begin, end)
    elif matrix[KIND] == BF16:
        one_bf16(bits16(matrix[WEIGHT], matrix[N_OUT], matrix[N_IN]), x, y, begin, end)
    elif matrix[KIND] == FP16:
        one_fp16(bits16(matrix[WEIGHT], matrix[N_OUT], matrix[N_IN]), x, y, begin, end)
    if matrix[BIAS] != 0:
        bias = floats(matrix[BIAS], 1, matrix[N_OUT])
        for b in range(y.shape[0]):
            for i in range(begin, end):
                y[b, i] += bias[0, i]


@jit
def one_fp32(w, x, y, begin, end):
    """For one token."""
    for i in range(begin, end):
        s = F32(0)
        for j in range(w.shape[1]):
            s += w[i, j] * x[0, j]
        y[0, i] = s


@jit
def one_bf16(w, x, y, begin, end):
    """Likewise; a weight is widened in a register by one shift."""
    for i in range(begin, end):
        s = F32(0)
        for j in range(w.shape[1]):
            s += from_bf16(w[i, j]) * x[0, j]
        y[0, i] = s


@jit
def one_fp16(w, x, y, begin, end):
    """Likewise; here widening takes some steps more, all of them on as many numbers at once as fit."""
    for i in range(begin, end):
        s = F32(0)
        for j in range(w.shape[1]):
            s += from_fp16(w[i, j]) * x[0, j]
        y[0, i] = s


@jit
def sum_blocks(x, sums):
    """The sum of each block of one token's numbers."""
    for g in range(x.shape[1] // BLOCK):
        sums[g] = F32(0)
        for j in range(BLOCK):
            sums[g] += x[0, BLOCK * g + j]


@jit
def one_in_blocks(kind, address, x, sums, y, begin, end):
    """Likewise from a file's blocks; `sums` are those of `sum_blocks`: a minimum is multiplied by that of `x`."""
    n, numbers = x.shape[1] // BLOCK, x.ctypes.data
    for i in range(begin, end):
        s = F32(0)
        for g in range(n):
            if kind == Q8_0:
                at = address + 34 * (i * n + g)
                s += from_fp16(bits16(at, 1, 1)[0, 0]) * dot_bytes(at + 2, numbers + 4 * BLOCK * g)
            else:
                at = address + 20 * (i * n + g)
                shared = bits16(at, 1, 2)
                s += from_fp16(shared[0, 0]) * dot_nibbles(at + 4, numbers + 4 * BLOCK * g)
                s += from_fp16(shared[0, 1]) * sums[g]
        y[0, i] = s


@jit
def one_in_groups(address, steps, per_group, x, y, begin, end):
    """Likewise from rows of int8 in groups of so many blocks."""
    n, numbers = x.shape[1] // BLOCK, x.ctypes.data
    for i in range(begin, end):
        s = F32(0)
        for g in range(n):
            codes = address + BLOCK * (i * n + g)
            s += steps[i, g // per_group] * dot_bytes(codes, numbers + 4 * BLOCK * g)
        y[0, i] = s


@jit
def int4(matrix, x, own, y, begin, end):
    """Tiles of int4, for any number of tokens."""
    n_tiles, n_groups = (matrix[N_OUT] + LANES - 1) // LANES, matrix[N_IN] // matrix[GROUP]
    words = tile_view(matrix[WEIGHT], n_tiles, matrix[N_IN] // 4)
    scales = tile_view(matrix[SCALES], n_tiles, n_groups)
    minima = tile_view(matrix[MINIMA], n_tiles if matrix[MINIMA] else 0, n_groups)
    top, per_group = FIFTEENTH if matrix[MINIMA] else SEVENTH, matrix[GROUP] // BLOCK
    if matrix[ROUNDED]:
        int4_rounded(words, scales, minima, top, per_group, x, own, y, begin, end)
    else:
        int4_wide(words, scales, minima, top, per_group, x, own, y, begin, end)


@jit
def tile_view(address, n_tiles, n):
    """Numbers of 16 bits ``[n_tiles, n, LANES]``."""
    return bits16(address, n_tiles * n, LANES).reshape(n_tiles, n, LANES)


@jit
def several(matrix, x, rows, y, begin, end):
    """For a few tokens: two rows at a time are widened to fp32, unless they are, and multiplied with all tokens."""
    n_out, n_in = matrix[N_OUT], matrix[N_IN]
    if matrix[KIND] == FP32:
        several_plain(floats(matrix[WEIGHT], n_out, n_in), x, y, begin, end)
    elif matrix[KIND] == INT8 and matrix[GROUP] == n_in:
        several_plain(bytes8(matrix[WEIGHT], n_out, n_in), x, y, begin, end)
        steps = floats(matrix[SCALES], 1, n_out)
        for b in range(x.shape[0]):
            for i in range(begin, end):
                y[b, i] *= steps[0, i]
    else:
        for i in range(begin, end, PAIR):
            n = min(PAIR, end - i)
            widened(matrix, i, n, rows)
            a_pair(rows, n_in, i, n, x, y)


@jit
def several_plain(w, x, y, begin, end):
    """Rows as they lie: fp32, or int8, which is widened in registers."""
    for i in range(begin, end, PAIR):
        a_pair(w[i : i + PAIR], w.shape[1], i, min(PAIR, end - i), x, y)


@jit
def widened(matrix, i, n, rows):
    """`n` rows from row `i` on, in fp32."""
    n_out, n_in = matrix[N_OUT], matrix[N_IN]
    n_groups = n_in // max(matrix[GROUP], 1)
    for k in range(n):
        if matrix[KIND] == INT8:
            codes = bytes8(matrix[WEIGHT], n_out, n_in)
            widen(codes, floats(matrix[SCALES], n_out, n_groups), i + k, rows[k, :n_in])
        else:
            read(matrix[KIND], matrix[WEIGHT], (i + k) * n_in, rows[k, :n_in])


@jit
def a_pair(rows, n_in, i, n, x, y):
    """``y[b, i + k] = rows[k] . x[b]`` for `n` rows, `PAIR` or what is left."""
    if n == PAIR:
        two_rows(rows, n_in, i, x, y)
    else:
        one_row(rows, n_in, i, x, y)


@jit
def two_rows(rows, n_in, i, x, y):
    """``y[b, i + k] = rows[k] . x[b]``, four tokens at a time: each number loaded is used two or four times."""
    b = 0
    while b + 4 <= x.shape[0]:
        s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = F32(0)
        for j in range(n_in):
            u, v = F32(rows[0, j]), F32(rows[1, j])
            x0, x1, x2, x3 = x[b, j], x[b + 1, j], x[b + 2, j], x[b + 3, j]
            s0, s1, s2, s3 = s0 + u * x0, s1 + u * x1, s2 + u * x2, s3 + u * x3
            t0, t1, t2, t3 = t0 + v * x0, t1 + v * x1, t2 + v * x2, t3 + v * x3
        y[b, i], y[b + 1, i], y[b + 2, i], y[b + 3, i] = s0, s1, s2, s3
        y[b, i + 1], y[b + 1, i + 1], y[b + 2, i + 1], y[b + 3, i + 1] = t0, t1, t2, t3
        b += 4
    for c in range(b, x.shape[0]):
        s0 = t0 = F32(0)
        for j in range(n_in):
            s0 += F32(rows[0, j]) * x[c, j]
            t0 += F32(rows[1, j]) * x[c, j]
        y[c, i], y[c, i + 1] = s0, t0


@jit
def one_row(rows, n_in, i, x, y):
    """``y[b, i] = rows[0] . x[b]``: what is left of an odd number of rows."""
    for b in range(x.shape[0]):
        s = F32(0)
        for j in range(n_in):
            s += F32(rows[0, j]) * x[b, j]
        y[b, i] = s


@jit
def multiply_rows(me, n, matrix, x, own, y):
    """What worker `me` of `n` does of ``y = x W^T + b``, outside a step; `own` is everybody's room, see `Own.of`."""
    begin, end = share(matrix[N_OUT], PAIR, me, n)
    mine = of_worker(own, me)
    prepare(matrix.reshape(1, matrix.size), x, mine)
    product(matrix, x, mine, y, begin, end)


@jit
def widen_rows(me, n, matrix, first, out):
    """What worker `me` of `n` does of making `out` the rows of a matrix from row `first` on."""
    begin, end = share(out.shape[0], 1, me, n)
    for i in range(begin, end):
        read(matrix[KIND], matrix[WEIGHT], (first + i) * out.shape[1], out[i])
