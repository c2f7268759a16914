"""Who multiplies by a matrix: for each format a program of its own, compiled when the first such matrix is met."""

import numpy as np

from .calls import Called, called
from .codes import LANES, int4_rounded, int4_wide
from .formats import in_bf16, in_fp16, in_fp32, in_int8, in_q4_1, in_q8_0, pairs_bf16, pairs_int8
from .jitting import jit
from .numbers import BF16, BLOCK, F32, FP16, FP32, I32, INT4, INT8, Q4_1, Q8_0, bits16, floats
from .products import BY, GROUP, KIND, MINIMA, N_IN, N_OUT, PRODUCT, ROUNDED, SCALES, WEIGHT, by_rows

SEVENTH, FIFTEENTH = F32(1 / 7), F32(1 / 15)  # of a scale: int4's step without and with a minimum


@called(*PRODUCT)
def by_fp32(matrix, x, own, y, begin, end):
    """As `products.product` says, like all that follow."""
    by_rows(in_fp32(matrix[WEIGHT]), None, matrix[N_IN], x, own, y, begin, end)


@called(*PRODUCT)
def by_bf16(matrix, x, own, y, begin, end):
    """Its bits are fp32's upper half."""
    by_rows(in_bf16(matrix[WEIGHT]), None, matrix[N_IN], x, own, y, begin, end)


@called(*PRODUCT)
def by_bf16_pairs(matrix, x, own, y, begin, end):
    """With activations in bf16, see `pairs`."""
    by_rows(pairs_bf16(matrix[WEIGHT]), None, matrix[N_IN], x, own, y, begin, end)


@called(*PRODUCT)
def by_fp16(matrix, x, own, y, begin, end):
    """With 5 bits of exponent."""
    by_rows(in_fp16(matrix[WEIGHT]), None, matrix[N_IN], x, own, y, begin, end)


@called(*PRODUCT)
def by_int8(matrix, x, own, y, begin, end):
    """A scale for so many weights of a row."""
    steps = floats(matrix[SCALES], matrix[N_OUT], matrix[N_IN] // matrix[GROUP])
    by_rows(in_int8(matrix[WEIGHT]), steps, matrix[GROUP], x, own, y, begin, end)


@called(*PRODUCT)
def by_int8_pairs(matrix, x, own, y, begin, end):
    """With activations of 16 bits."""
    steps = floats(matrix[SCALES], matrix[N_OUT], matrix[N_IN] // matrix[GROUP])
    by_rows(pairs_int8(matrix[WEIGHT]), steps, matrix[GROUP], x, own, y, begin, end)


@called(*PRODUCT)
def by_q8_0(matrix, x, own, y, begin, end):
    """A GGUF file's blocks of 32 bytes."""
    by_rows(in_q8_0(matrix[WEIGHT]), None, matrix[N_IN], x, own, y, begin, end)


@called(*PRODUCT)
def by_q4_1(matrix, x, own, y, begin, end):
    """A GGUF file's blocks of 32 halves of bytes."""
    by_rows(in_q4_1(matrix[WEIGHT]), None, matrix[N_IN], x, own, y, begin, end)


@called(*PRODUCT)
def by_int4(matrix, x, own, y, begin, end):
    """Tiles, with activations as they are."""
    n_tiles, n_groups, minima = (matrix[N_OUT] + LANES - 1) // LANES, matrix[N_IN] // matrix[GROUP], matrix[MINIMA]
    top, per_group = FIFTEENTH if minima else SEVENTH, matrix[GROUP] // BLOCK
    words, steps = whole32(matrix[WEIGHT], n_tiles, x.shape[1] // 8), tile_view(matrix[SCALES], n_tiles, n_groups)
    least = tile_view(minima, n_tiles if minima else 0, n_groups)
    int4_wide(words, steps, least, top, per_group, x, own, y, begin, end)


@called(*PRODUCT)
def by_int4_rounded(matrix, x, own, y, begin, end):
    """With rounded activations; code 8 is 0."""
    words, steps, per_group = matrix[WEIGHT], matrix[SCALES], matrix[GROUP] // BLOCK
    int4_rounded(words, steps, None, SEVENTH, per_group, x.shape[1], own, y, begin, end)


@called(*PRODUCT)
def by_int4_affine_rounded(matrix, x, own, y, begin, end):
    """With minima."""
    words, steps, per_group = matrix[WEIGHT], matrix[SCALES], matrix[GROUP] // BLOCK
    int4_rounded(words, steps, matrix[MINIMA], FIFTEENTH, per_group, x.shape[1], own, y, begin, end)


BY_KIND = {FP32: by_fp32, BF16: by_bf16, FP16: by_fp16, INT8: by_int8, INT4: by_int4, Q8_0: by_q8_0, Q4_1: by_q4_1}
BY_ROUNDED = {BF16: by_bf16_pairs, INT8: by_int8_pairs, INT4: by_int4_rounded}


def multiplier(matrix: np.ndarray) -> Called:
    """The one for a matrix, which is a row as `products` has it."""
    if matrix[ROUNDED] and matrix[MINIMA]:
        return by_int4_affine_rounded
    return (BY_ROUNDED if matrix[ROUNDED] else BY_KIND)[int(matrix[KIND])]


def to_multiply(matrix: np.ndarray) -> np.ndarray:
    """The matrix, with the address of its multiplier in it."""
    matrix[BY] = multiplier(matrix).address
    return matrix


@jit
def tile_view(address, n_tiles, n):
    """Numbers of 16 bits ``[n_tiles, n, LANES]``."""
    return bits16(address, n_tiles * n, LANES).reshape(n_tiles, n, LANES)


@jit
def whole32(address, n_tiles, n):
    """Words of 32 bits, likewise."""
    return floats(address, n_tiles * n, LANES).view(I32).reshape(n_tiles, n, LANES)
