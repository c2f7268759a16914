"""What a cache holds of one head of one token: its numbers, wide, or as codes that share a scale."""

import numpy as np

from .jitting import jit
from .numbers import F32, I32, INT4, INT8, bits16, bytes8, from_fp16, read, to_fp16, write

TOPS = F32(127), F32(7)  # the largest code of 8 and of 4 bits


@jit
def read_head(kind, address, scales, i, out):
    """`out` ``[head_dim]`` becomes the numbers of head `i` of all that lie at `address`.

    Args:
        kind: their format, as `numbers` has it; INT8 and INT4 are as ``quantized_cache.to_cache`` makes them.
        address, scales: of numbers or codes, and of the codes' scales in fp16.
        i: which, counted in heads.
        out: room in fp32.
    """
    n = out.size
    if kind == INT8:
        codes, step = bytes8(address + i * n, 1, n), stored(scales, i) / TOPS[0]
        for j in range(n):
            out[j] = F32(codes[0, j]) * step
    elif kind == INT4:
        half, step = n // 2, stored(scales, i) / TOPS[1]
        codes = bytes8(address + i * half, 1, half)
        for j in range(half):
            out[j] = F32(I32(I32(I32(codes[0, j]) & I32(15)) - I32(8))) * step
        for j in range(half):
            out[j + half] = F32(I32(I32(I32(codes[0, j]) >> I32(4) & I32(15)) - I32(8))) * step
    else:
        read(kind, address, i * n, out)


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
