"""Room in memory for what workers compute: each in lines of its own, as two cores cannot write one line at once."""

from collections import namedtuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..huge_pages import LINE, from_line
from .jitting import jit
from .numbers import BLOCK, I16, I32
from .sums import ROWS
from .texts import TEXTS
from .vectors import WIDTH


def room(*shape: int, dtype: type = np.float32) -> np.ndarray:
    """Zeros of this shape that begin where a line does.

    >>> room(2, 3).ctypes.data % LINE, room(2, 3).tolist()
    (0, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    """
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return from_line(np.zeros(n_bytes + LINE, np.uint8)).view(dtype).reshape(shape)


def whole_lines(n: int) -> int:
    """So many numbers of 16 bits or more, or a few more, that those after them begin where a line does."""
    return -(-n // (LINE // 2)) * (LINE // 2)


class Own(namedtuple("OwnFields", "texts pairs units small sums scales total kept")):
    """Room for what workers compute on the way to a product, each its own.

    Attributes:
        texts: tokens' numbers side by side, as `texts.lay_out` has them, fp32.
        pairs, units: or as `texts.round_to_bf16` or `texts.round_to_int16` has them, int16, and their scales.
        small: of tokens rounded to int8 the numbers ``[batch, widest]``; some texts more than there are.
        sums, scales: of each block of them, int32 and fp32.
        total: what a tile adds up, fp32 ``[TEXTS * WIDTH]``.
        kept: what `ROWS` rows have so far, fp32 ``[ROWS * TEXTS * WIDTH]``.
    """

    @classmethod
    def of(cls, n: int, batch_size: int, widest: int):
        """That of all `n`, ``[n, ...]``, for `batch_size` tokens of so many numbers at most."""
        n_texts, widest = -(-batch_size // TEXTS) * TEXTS, whole_lines(widest)
        blocks = n, n_texts, whole_lines(widest // BLOCK)
        texts, small = room(n, n_texts * widest), room(n, n_texts, -(-widest // LINE) * LINE, dtype=np.int8)
        pairs, units = room(n, n_texts * widest, dtype=I16), room(n, whole_lines(n_texts))
        sums, scales = room(*blocks, dtype=I32), room(*blocks)
        total, kept = room(n, TEXTS * WIDTH), room(n, ROWS * TEXTS * WIDTH)
        return cls(texts, pairs, units, small, sums, scales, total, kept)


@jit
def of_worker(own, me):
    """One worker's."""
    rounded = own.pairs[me], own.units[me], own.small[me], own.sums[me], own.scales[me]
    return Own(own.texts[me], *rounded, own.total[me], own.kept[me])


@jit
def whole(n, unit):
    """`n`, or the next multiple of `unit`."""
    return (n + unit - 1) // unit * unit


@intrinsic
def uncounted(typingctx, arrays):
    """The same memory, an array's or a tuple's of arrays, without numba's count of its users.

    Counting takes time wherever an array is handed on, as processors agree on a count. Somebody else keeps the memory.
    """

    def code(context, builder, signature, args):
        return _uncounted(context, builder, arrays, args[0])

    return arrays(arrays), code


def _uncounted(context, builder, kind, value):
    if isinstance(kind, types.BaseTuple):
        for i, each in enumerate(kind):
            part = _uncounted(context, builder, each, builder.extract_value(value, i))
            value = builder.insert_value(value, part, i)
    elif isinstance(kind, types.Array):
        found = context.make_array(kind)(context, builder, value)
        found.meminfo, found.parent = (ir.Constant(each.type, None) for each in (found.meminfo, found.parent))
        value = found._getvalue()
    return value
