"""What is computed between the products, a row at a time: norm, rotation, SwiGLU and the exponential."""

import math

from .jitting import jit
from .numbers import F32, I32

LOG2_E, LN_2 = F32(1.4426950408889634), F32(0.6931471805599453)
# 1/n!: seven terms give e^r to the last bits for the r below, which is half of ln 2 at most
C2, C3, C4, C5, C6 = F32(1 / 2), F32(1 / 6), F32(1 / 24), F32(1 / 120), F32(1 / 720)


@jit
def exp(x):
    """``e^x`` to a relative error of 1e-5, as ``2^k e^r``; from 1e-38 to 1e38, and NaN of NaN.

    The system's own is a call, and a loop with a call in it is done number by number. This is arithmetic alone.
    """
    t = x * LOG2_E
    t = F32(-126) if t < F32(-126) else t
    t = F32(126) if t > F32(126) else t
    k = I32(t + F32(126.5))  # never negative, so that cutting off is rounding down
    r = (t - F32(I32(k - I32(126)))) * LN_2
    p = F32(1) + r * (F32(1) + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    return p * I32(I32(k + I32(1)) << I32(23)).view(F32)


@jit
def normalise(x, weight, eps, out):
    """RMSNorm of each row ``[batch, d_model]``; sums are in fp32, several side by side as the registers hold them."""
    n = x.shape[1]
    for b in range(x.shape[0]):
        s = F32(0)
        for j in range(n):
            s += x[b, j] * x[b, j]
        scale = F32(1) / F32(math.sqrt(s / F32(n) + F32(eps)))
        for j in range(n):
            out[b, j] = x[b, j] * scale * weight[j]


@jit
def turn(head, cos, sin):
    """RoPE of one head ``[head_dim]`` in its place: numbers ``i`` and ``i + head_dim / 2`` are a point in a plane."""
    half = head.size // 2
    for i in range(half):
        first, second = head[i], head[i + half]
        head[i] = first * cos[i] - second * sin[i]
        head[i + half] = second * cos[i] + first * sin[i]


@jit
def unweave(head, room):
    """Pairs ``2 i, 2 i + 1`` of a head, as a GGUF file has them, become ``i, i + head_dim / 2``, as `turn` wants."""
    half = head.size // 2
    for i in range(half):
        room[i], room[i + half] = head[2 * i], head[2 * i + 1]
    for i in range(head.size):
        head[i] = room[i]


@jit
def swiglu(gate, up, begin, end):
    """Columns `begin` to `end` of `gate` ``[batch, d_ff]`` become ``silu(gate) * up``."""
    for b in range(gate.shape[0]):
        for j in range(begin, end):
            g = gate[b, j]
            gate[b, j] = g / (F32(1) + exp(-g)) * up[b, j]


@jit
def add(x, y, begin, end):
    """Columns `begin` to `end` of ``x += y``, both ``[batch, n]``."""
    for b in range(x.shape[0]):
        for j in range(begin, end):
            x[b, j] += y[b, j]
