"""Rows of ``y = W x + b`` for one token or a few, with the matrix as it lies in memory.

A row's sum is the same whoever computes it, and with whom: see `sums` and `lanes`, in which the registers are kept.
"""

import numpy as np
from numba import typeof, types

from .calls import call_of
from .codes import round_blocks
from .formats import after, bytes_of, in_register, in_whole_numbers
from .gate import share
from .jitting import jit, program
from .numbers import BF16, BLOCK, F32, INT4, INT8, floats, read
from .pairs import LONGEST
from .room import Own, of_worker, uncounted
from .sums import (
    ROWS,
    add_one_product,
    add_products,
    add_times,
    eight_texts,
    in_block,
    in_eights,
    no_products,
    one_text,
    put_totals,
    read_sums,
    rows_in,
    texts_in,
    write_sums,
)
from .texts import TEXTS, lay_out, register_at, registers, round_to_bf16, round_to_int16, side_by_side
from .vectors import WIDTH

# What a matrix is, as a row of whole numbers: format, shape, weights that share a scale, and addresses, 0 for nothing;
# whether activations are rounded before they are multiplied by it, to 8 bits for int4, to 16 for int8 and bf16; where
# its multiplier lies.
KIND, N_OUT, N_IN, GROUP, WEIGHT, SCALES, MINIMA, BIAS, ROUNDED, BY = range(10)
COLUMNS = 768  # that `ROWS` rows go through before the next ones, or twice as many of 16 bits: eight texts in 24 KiB
# What is multiplied by a matrix is given: the matrix, `x`, `own`, `y`, `begin` and `end` of `product`.
ROW, ROWS_OF, OWN = types.int64[::1], types.float32[:, ::1], typeof(of_worker.py_func(Own.of(1, 1, BLOCK), 0))
PRODUCT = ROW, ROWS_OF, OWN, ROWS_OF, types.int64, types.int64
call_product = call_of(*PRODUCT)


@jit
def prepare(matrices, x, own):
    """What products of `x` with these need of it, once for all their rows; the same `x` and `own` go to `product`.

    Args:
        matrices: int64 ``[n, 10]``, as above.
        x: fp32 ``[batch, n_in]``.
        own: a `room.Own`.
    """
    in_blocks, to_bf16, to_int16, plain = False, False, False, False
    for i in range(matrices.shape[0]):
        kind, rounded = matrices[i, KIND], matrices[i, ROUNDED] != 0
        in_blocks |= rounded and kind == INT4
        to_bf16 |= rounded and kind == BF16
        to_int16 |= rounded and kind == INT8
        plain |= not rounded and kind != INT4
    if in_blocks:
        round_blocks(x, own.small, own.sums, own.scales)
    if to_bf16:
        round_to_bf16(x, own.pairs)
    if to_int16:
        round_to_int16(x, own.pairs, own.units)
    if plain and x.shape[0] > 1:
        lay_out(x, own.texts)


@jit
def product(matrix, x, own, y, begin, end):
    """Columns `begin` to `end` of ``y = x W^T + b``, after `prepare`.

    Args:
        matrix: int64 ``[10]``, as above.
        x: fp32 ``[batch, n_in]``.
        own: a `room.Own`.
        y: fp32 ``[batch, n_out]``.
        begin, end: any rows; in int4 `begin` is a multiple of `LANES`, and so is `end`, unless it is the last row's.
    """
    call_product(matrix[BY], matrix, x, own, y, begin, end)
    if matrix[BIAS] != 0:
        bias = floats(matrix[BIAS], 1, matrix[N_OUT])
        for b in range(y.shape[0]):
            for i in range(begin, end):
                y[b, i] += bias[0, i]


@jit
def by_rows(weights, steps, group, x, own, y, begin, end):
    """Rows that lie one after the other.

    Some rows are multiplied with all texts before the next ones come: they are fetched from memory once.

    Args:
        weights: the first row's address, see `formats`; in pairs of whole numbers there are steps.
        steps: fp32 ``[n_out, n_in / group]``, what so many weights are multiplied by; None for nothing.
        group: that many.
        x: fp32 ``[batch, n_in]``.
        own: a `room.Own`, in which texts lie side by side if there are several.
        y, begin, end: as in `product`.
    """
    n_texts, n_in = x.shape
    many, columns = in_eights(n_texts), COLUMNS * in_register(weights) // WIDTH if steps is None else n_in
    for first in range(begin, end, ROWS):
        last = min(first + ROWS, end)
        for b in range(0, many, TEXTS):
            for begin_in in range(0, n_in, columns):
                some = begin_in, min(begin_in + columns, n_in)
                by_tiles(eight_texts(), weights, steps, group, x, b, some, own, y, first, last)
        for b in range(many, n_texts):
            by_tiles(one_text(weights), weights, steps, group, x, b, (np.int64(0), n_in), own, y, first, last)


@jit
def by_tiles(sums, weights, steps, group, x, b, columns, own, y, begin, end):
    """Rows `begin` to `end` times the texts from text `b` on, in some columns: as many as `sums`, zeros, are for.

    What the columns before gave is in `own.kept`, where this leaves it for the next ones.
    """
    (n_all, n_in), n_rows, (begin_in, end_in) = x.shape, rows_in(sums), columns
    n_texts, kept_at, total = min(texts_in(sums), n_all - b), np.int64(own.kept.ctypes.data), own.total
    texts, block_bytes = texts_at(weights, x, own, b)
    width = in_register(weights)
    n_wide = n_in - n_in % width if group == n_in or group % width == 0 else 0  # numbers that are multiplied in tiles
    for i in range(begin, end, n_rows):
        n, kept = min(n_rows, end - i), kept_at + 4 * WIDTH * TEXTS * (i - begin)
        rows = after(weights, i * n_in), bytes_of(weights, n_in), n - 1
        found = sums if begin_in == 0 else read_sums(sums, kept)
        if steps is None:
            found = add_rows(found, rows, texts, block_bytes, begin_in, min(end_in, n_wide))
        else:
            n_groups = steps.shape[1]
            for g in range(n_groups):
                step, end_group = steps.ctypes.data + 4 * (n_groups * i + g), min(group * (g + 1), n_wide)
                for j in range(group * g, end_group, LONGEST):
                    part, end_part = no_products(sums, weights), min(j + LONGEST, end_group)
                    part = add_rows(part, rows, texts, block_bytes, j, end_part)
                    found = add_times(found, part, step, 4 * n_groups, n - 1)
        if end_in < n_in:
            write_sums(found, kept)
            continue
        put_totals(found, total.ctypes.data)
        for t in range(n_texts):
            for r in range(n):
                s = total[texts_in(sums) * r + t]
                for j in range(n_wide, n_in):  # the others, one by one
                    step = F32(1) if steps is None else steps[i + r, j // group]
                    number = texts + j // width * block_bytes + 4 * WIDTH * t + 4 * WIDTH // width * (j % width)
                    s = add_one_product(s, after(weights, (i + r) * n_in + j), step, number)
                y[b + t, i + r] = s * own.units[b + t] if in_whole_numbers(weights) else s


@jit
def texts_at(weights, x, own, b):
    """Where the first register of text `b` lies, of numbers that these are multiplied by; bytes to its next one."""
    n_texts, width = x.shape[0], in_register(weights)
    first = np.int64(own.texts.ctypes.data)
    if width > WIDTH:
        first = np.int64(own.pairs.ctypes.data)
    elif n_texts == 1:
        first = np.int64(x.ctypes.data)
    at = register_at(b, 0, n_texts, registers(x.shape[1], width))
    return first + 4 * WIDTH * at, 4 * WIDTH * side_by_side(n_texts)


@jit
def add_rows(sums, rows, texts, block_bytes, begin, end):
    """The sums, and the products of numbers `begin` to `end`; `rows` is where they are: see `sums.add_products`."""
    weights, row_bytes, last_row = rows
    for j in range(begin, end, max(in_register(weights), in_block(weights))):
        at = texts + j // in_register(weights) * block_bytes
        sums = add_products(sums, after(weights, j), row_bytes, last_row, at, block_bytes)
    return sums


@program
def multiply_rows(me, n, matrix, x, own, y):
    """What worker `me` of `n` does of ``y = x W^T + b``, outside a step; `own` is everybody's room, see `Own.of`."""
    matrix, x, own, y = uncounted((matrix, x, own, y))
    begin, end = share(matrix[N_OUT], ROWS, me, n)
    mine = of_worker(own, me)
    prepare(matrix.reshape(1, matrix.size), x, mine)
    product(matrix, x, mine, y, begin, end)


@program
def widen_rows(me, n, matrix, rows, out):
    """What worker `me` of `n` does of making `out` these rows of a matrix; `rows` is int64, their numbers."""
    begin, end = share(out.shape[0], 1, me, n)
    for i in range(begin, end):
        read(matrix[KIND], matrix[WEIGHT], rows[i] * out.shape[1], out[i])
