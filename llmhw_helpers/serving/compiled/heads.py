"""What a cache holds of one head of one token: its numbers, wide, or as codes that share a scale."""

import numpy as np

from .jitting import jit
from .numbers import BLOCK, F32, FP32, I32, INT4, INT8, bits16, bytes8, floats, from_fp16, read, to_fp16, write
from .vectors import widen_bytes, widen_halves

TOPS = F32(127), F32(7)  # the largest code of 8 and of 4 bits


@jit
def head_bytes(kind, hd):
    """Of a head's `hd` numbers or codes."""
    return 4 * hd if kind == FP32 else hd if kind == INT8 else hd // 2 if kind == INT4 else 2 * hd


@jit
def read_heads(kind, address, scales, first, n, hd, out, width):
    """Heads that lie one behind the other become fp32 numbers.

    Args:
        kind: their format, as `numbers` has it; INT8 and INT4 are as ``quantized_cache.to_cache`` makes them.
        address, scales: of numbers or codes, and of the codes' scales in fp16.
        first, n: which, counted in heads of those that lie there; and how many.
        hd: numbers in a head.
        out: address of the first one's in fp32; from one to the next it is `width` numbers.
    """
    if kind in (INT8, INT4):
        for i in range(n):
            read_codes(kind, address, scales, first + i, hd, out + 4 * width * i)
    elif hd == width:
        read(kind, address, first * hd, floats(out, 1, n * hd)[0])
    else:
        for i in range(n):
            read(kind, address, (first + i) * hd, floats(out + 4 * width * i, 1, hd)[0])


@jit
def read_codes(kind, address, scales, i, hd, out):
    """Head `i`, likewise; in int4 the second half of its numbers is in the upper halves of the bytes."""
    row, n_bytes = floats(out, 1, hd), head_bytes(kind, hd)
    codes, begin = bytes8(address + i * n_bytes, 1, n_bytes), n_bytes // BLOCK * BLOCK
    step = stored(scales, i) / (TOPS[0] if kind == INT8 else TOPS[1])
    for j in range(0, begin, BLOCK):
        if kind == INT8:
            widen_bytes(address + i * n_bytes + j, step, out + 4 * j)
        else:
            widen_halves(address + i * n_bytes + j, step, out + 4 * j, out + 4 * (j + n_bytes))
    for j in range(begin, n_bytes):
        if kind == INT8:
            row[0, j] = F32(codes[0, j]) * step
        else:
            row[0, j] = F32(I32(I32(I32(codes[0, j]) & I32(15)) - I32(8))) * step
            row[0, j + n_bytes] = F32(I32(I32(I32(codes[0, j]) >> I32(4) & I32(15)) - I32(8))) * step


@jit
def write_head(kind, address, scales, i, row):
    """Head `i` becomes `row`; in codes as near as they come, of two the even one. A row with a NaN has a NaN scale."""
    n = row.size
    if kind != INT8 and kind != INT4:
        write(kind, address, i * n, row)
        return
    largest, nothing = F32(0), F32(0)
    for j in range(n):
        largest = max(largest, abs(row[j]))
        nothing += row[j] * F32(0)
    bits16(scales + 2 * i, 1, 1)[0, 0] = to_fp16(largest + nothing)
    scale = stored(scales, i)
    if not F32(0) < scale < F32(np.inf):  # zeros all of them; or what the caller refuses as it sees the scale
        scale = F32(np.inf)
    if kind == INT8:
        codes = bytes8(address + i * n, 1, n)
        for j in range(n):
            codes[0, j] = code(row[j] / scale, TOPS[0])
    else:
        half = n // 2
        codes = bytes8(address + i * half, 1, half)
        for j in range(half):
            low, high = code(row[j] / scale, TOPS[1]) + 8, code(row[j + half] / scale, TOPS[1]) + 8
            codes[0, j] = low | high << 4


@jit
def stored(scales, i):
    """Scale `i` in fp32."""
    return from_fp16(bits16(scales + 2 * i, 1, 1)[0, 0])


@jit
def code(share, top):
    """The whole number next to `top` times a share of the scale; the scale is rounded, so it may be beyond `top`."""
    x = F32(np.rint(share * top))
    if x != x:
        return np.int64(0)
    return np.int64(min(max(x, -top), top))
