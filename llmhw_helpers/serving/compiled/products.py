"""Rows of ``y = W x + b`` for one token or a few, with the matrix as it lies in memory.

A row's sum is the same whoever computes it, and with whom: see `sums` and `lanes`, in which the registers are kept.
"""

import numpy as np

from .codes import LANES, int4_rounded, int4_wide, round_blocks
from .formats import (
    after,
    bytes_of,
    in_bf16,
    in_fp16,
    in_fp32,
    in_int8,
    in_q4_1,
    in_q8_0,
    in_register,
    in_whole_numbers,
    pairs_bf16,
    pairs_int8,
)
from .gate import share
from .jitting import jit
from .numbers import BF16, BLOCK, F32, FP16, FP32, I32, INT4, INT8, Q8_0, bits16, floats, read
from .pairs import LONGEST
from .room import of_worker
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
# whether activations are rounded before they are multiplied by it: to 8 bits for int4, to 16 for int8 and bf16.
KIND, N_OUT, N_IN, GROUP, WEIGHT, SCALES, MINIMA, BIAS, ROUNDED = range(9)
COLUMNS = 768  # that `ROWS` rows go through before the next ones, or twice as many of 16 bits: eight texts in 24 KiB
SEVENTH, FIFTEENTH = F32(1 / 7), F32(1 / 15)  # of a scale: int4's step without and with a minimum


@jit
def prepare(matrices, x, own):
    """What products of `x` with these need of it, once for all their rows; the same `x` and `own` go to `product`.

    Args:
        matrices: int64 ``[n, 9]``, as above.
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
        matrix: int64 ``[9]``, as above.
        x: fp32 ``[batch, n_in]``.
        own: a `room.Own`.
        y: fp32 ``[batch, n_out]``.
        begin, end: any rows; in int4 `begin` is a multiple of `LANES`, and so is `end`, unless it is the last row's.
    """
    kind, n_in = matrix[KIND], matrix[N_IN]
    if kind == INT4:
        int4(matrix, x, own, y, begin, end)
    elif kind == INT8:
        steps = floats(matrix[SCALES], matrix[N_OUT], n_in // matrix[GROUP])
        if matrix[ROUNDED]:
            by_rows(pairs_int8(matrix[WEIGHT]), steps, matrix[GROUP], x, own, y, begin, end)
        else:
            by_rows(in_int8(matrix[WEIGHT]), steps, matrix[GROUP], x, own, y, begin, end)
    elif kind == FP32:
        by_rows(in_fp32(matrix[WEIGHT]), None, n_in, x, own, y, begin, end)
    elif kind == BF16 and matrix[ROUNDED]:
        by_rows(pairs_bf16(matrix[WEIGHT]), None, n_in, x, own, y, begin, end)
    elif kind == BF16:
        by_rows(in_bf16(matrix[WEIGHT]), None, n_in, x, own, y, begin, end)
    elif kind == FP16:
        by_rows(in_fp16(matrix[WEIGHT]), None, n_in, x, own, y, begin, end)
    elif kind == Q8_0:
        by_rows(in_q8_0(matrix[WEIGHT]), None, n_in, x, own, y, begin, end)
    else:
        by_rows(in_q4_1(matrix[WEIGHT]), None, n_in, x, own, y, begin, end)
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


@jit
def int4(matrix, x, own, y, begin, end):
    """Tiles of int4, for any number of tokens."""
    n_tiles, n_groups = (matrix[N_OUT] + LANES - 1) // LANES, matrix[N_IN] // matrix[GROUP]
    words, steps, minima = matrix[WEIGHT], matrix[SCALES], matrix[MINIMA]
    top, per_group = FIFTEENTH if minima else SEVENTH, matrix[GROUP] // BLOCK
    if matrix[ROUNDED] and minima:
        int4_rounded(words, steps, minima, top, per_group, x.shape[1], own, y, begin, end)
    elif matrix[ROUNDED]:
        int4_rounded(words, steps, None, top, per_group, x.shape[1], own, y, begin, end)
    else:
        wide = whole32(words, n_tiles, x.shape[1] // 8), tile_view(steps, n_tiles, n_groups)
        least = tile_view(minima, n_tiles if minima else 0, n_groups)
        int4_wide(*wide, least, top, per_group, x, own, y, begin, end)


@jit
def tile_view(address, n_tiles, n):
    """Numbers of 16 bits ``[n_tiles, n, LANES]``."""
    return bits16(address, n_tiles * n, LANES).reshape(n_tiles, n, LANES)


@jit
def whole32(address, n_tiles, n):
    """Words of 32 bits, likewise."""
    return floats(address, n_tiles * n, LANES).view(I32).reshape(n_tiles, n, LANES)


@jit
def multiply_rows(me, n, matrix, x, own, y):
    """What worker `me` of `n` does of ``y = x W^T + b``, outside a step; `own` is everybody's room, see `Own.of`."""
    begin, end = share(matrix[N_OUT], ROWS, me, n)
    mine = of_worker(own, me)
    prepare(matrix.reshape(1, matrix.size), x, mine)
    product(matrix, x, mine, y, begin, end)


@jit
def widen_rows(me, n, matrix, first, out):
    """What worker `me` of `n` does of making `out` the rows of a matrix from row `first` on."""
    begin, end = share(out.shape[0], 1, me, n)
    for i in range(begin, end):
        read(matrix[KIND], matrix[WEIGHT], (first + i) * out.shape[1], out[i])
