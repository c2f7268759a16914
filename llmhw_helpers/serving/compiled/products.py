"""Rows of ``y = W x + b`` for one token or a few, with the matrix as it lies in memory.

A row's sum is the same whoever computes it, and with whom: it goes through the row in one loop, which adds up as many
partial sums side by side as the registers hold.
"""

from .jitting import jit
from .numbers import BF16, F32, FP16, FP32, bits16, floats, from_bf16, from_fp16, read

# What a matrix is, as a row of whole numbers: format, shape, weights that share a scale, and addresses, 0 for nothing.
KIND, N_OUT, N_IN, GROUP, WEIGHT, SCALES, MINIMA, BIAS = range(8)
TILE = 2  # rows that few tokens are multiplied with at once; a share begins at a multiple


@jit
def product(matrix, x, rows, y, begin, end):
    """Columns `begin` to `end` of ``y = x W^T + b``.

    Args:
        matrix: int64 ``[8]``, as above.
        x: fp32 ``[batch, n_in]``.
        rows: room for fp32 ``[2, n_in]`` or more.
        y: fp32 ``[batch, n_out]``.
        begin, end: `begin` is a multiple of `TILE`, and so is `end`, unless it is the last row's.
    """
    if x.shape[0] > 1:
        several(matrix, x, rows, y, begin, end)
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
def several(matrix, x, rows, y, begin, end):
    """For a few tokens: two rows at a time are widened to fp32 once, and multiplied with all tokens."""
    n_in = matrix[N_IN]
    for i in range(begin, end - 1, TILE):
        for k in range(TILE):
            read(matrix[KIND], matrix[WEIGHT], (i + k) * n_in, rows[k, :n_in])
        two_rows(rows, n_in, i, x, y)
    if (end - begin) % TILE:
        read(matrix[KIND], matrix[WEIGHT], (end - 1) * n_in, rows[0, :n_in])
        one_row(rows, n_in, end - 1, x, y)


@jit
def two_rows(rows, n_in, i, x, y):
    """``y[b, i + k] = rows[k] . x[b]``, four tokens at a time: each number loaded is used two or four times."""
    b = 0
    while b + 4 <= x.shape[0]:
        s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = F32(0)
        for j in range(n_in):
            u, v = rows[0, j], rows[1, j]
            x0, x1, x2, x3 = x[b, j], x[b + 1, j], x[b + 2, j], x[b + 3, j]
            s0, s1, s2, s3 = s0 + u * x0, s1 + u * x1, s2 + u * x2, s3 + u * x3
            t0, t1, t2, t3 = t0 + v * x0, t1 + v * x1, t2 + v * x2, t3 + v * x3
        y[b, i], y[b + 1, i], y[b + 2, i], y[b + 3, i] = s0, s1, s2, s3
        y[b, i + 1], y[b + 1, i + 1], y[b + 2, i + 1], y[b + 3, i + 1] = t0, t1, t2, t3
        b += 4
    for c in range(b, x.shape[0]):
        s0 = t0 = F32(0)
        for j in range(n_in):
            s0 += rows[0, j] * x[c, j]
            t0 += rows[1, j] * x[c, j]
        y[c, i], y[c, i + 1] = s0, t0


@jit
def one_row(rows, n_in, i, x, y):
    """``y[b, i] = rows[0] . x[b]``: what is left of an odd number of rows."""
    for b in range(x.shape[0]):
        s = F32(0)
        for j in range(n_in):
            s += rows[0, j] * x[b, j]
        y[b, i] = s
