"""Texts' numbers in the order in which tiles read them, as they are or rounded: a register of each text, then the next.

Rounded they have 16 bits, and a register holds twice as many: see `pairs`. In bf16 they are what PyTorch's model in
bf16 has, too. As whole numbers they share a scale, one for each text (token-wise, as in ``serving.integers``).
"""

import numpy as np

from .jitting import jit
from .numbers import F32, HALF_RANGE, I16, I32, to_bf16
from .pairs import PAIRED
from .vectors import WIDTH

TEXTS = 8  # that lie side by side, and are multiplied at once
LARGEST = F32(32767)
SMALLEST = F32(1e-30).view(I32)  # a text of zeros has a scale, too


@jit
def register_at(b, k, n_texts, n_in_text):
    """Which register has numbers ``[k * numbers in a register, ...)`` of text `b`: of each text there are so many."""
    together = side_by_side(n_texts)
    return (b // together * n_in_text + k) * together + b % together


@jit
def side_by_side(n_texts):
    """How many texts lie side by side: who is alone has no empty places beside it."""
    return 1 if n_texts == 1 else TEXTS


@jit
def registers(n_in, n):
    """With `n` numbers each that so many take."""
    return (n_in + n - 1) // n


@jit
def lay_out(x, out):
    """Texts' numbers ``[batch, n_in]``, as they are.

    Args:
        x: fp32.
        out: becomes, of each `TEXTS` texts, the first `WIDTH` numbers of each, then the next: fp32, flat,
            ``[ceil(batch / TEXTS), ceil(n_in / WIDTH), TEXTS, WIDTH]``; texts and numbers that are missing stay as
            they are, and nothing is made of them.
    """
    n_in_text = registers(x.shape[1], WIDTH)
    for b in range(x.shape[0]):
        for k in range(n_in_text):
            at = register_at(b, k, x.shape[0], n_in_text) * WIDTH
            for j in range(min(WIDTH, x.shape[1] - WIDTH * k)):
                out[at + j] = x[b, WIDTH * k + j]


@jit
def round_to_bf16(x, out):
    """Texts' numbers, rounded to the nearest in bf16, of two to the even one; NaN stays NaN.

    Args:
        x: fp32 ``[batch, n_in]``.
        out: becomes their bits, int16, likewise with `PAIRED` for `WIDTH`.
    """
    n_in_text = registers(x.shape[1], PAIRED)
    for b in range(x.shape[0]):
        for k in range(n_in_text):
            at = register_at(b, k, x.shape[0], n_in_text) * PAIRED
            for j in range(min(PAIRED, x.shape[1] - PAIRED * k)):
                out[at + j] = I16(to_bf16(x[b, PAIRED * k + j]))


@jit
def round_to_int16(x, out, units):
    """Texts' numbers as whole numbers from -32767 to 32767, a half rounded away from 0.

    A number is off by 1/65534 of the largest of its text at most. What is no number, or endless, makes the scale NaN.

    Args:
        x: fp32 ``[batch, n_in]``.
        out: becomes the whole numbers, int16, likewise.
        units: becomes what 1 stands for in each text, fp32 ``[batch]`` or longer.
    """
    n_in_text = registers(x.shape[1], PAIRED)
    for b in range(x.shape[0]):
        size = SMALLEST
        for j in range(x.shape[1]):
            size = max(
                size, I32(F32(x[b, j]).view(I32) & I32(0x7FFFFFFF))
            )  # without its sign: larger bits, larger number
        largest = I32(size).view(F32)
        units[b] = largest / LARGEST if size < HALF_RANGE else F32(np.nan)
        for k in range(n_in_text):
            at = register_at(b, k, x.shape[0], n_in_text) * PAIRED
            for j in range(min(PAIRED, x.shape[1] - PAIRED * k)):
                v = x[b, PAIRED * k + j] * (LARGEST / largest)
                out[at + j] = I16(I32(v + (F32(0.5) if v > F32(0) else F32(-0.5))))
