"""Room in memory for what workers compute: each in lines of its own, as two cores cannot write one line at once."""

from collections import namedtuple

import numpy as np

from .codes import LANES
from .jitting import jit
from .numbers import BLOCK, I16, I32

PAIR = 2  # rows that few tokens are multiplied with at once; a piece begins at a multiple
LINE = 128  # bytes: processors hand memory to each other in lines of 64 or 128


def room(*shape: int, dtype: type = np.float32) -> np.ndarray:
    """Zeros of this shape that begin where a line does.

    >>> room(2, 3).ctypes.data % LINE, room(2, 3).tolist()
    (0, [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    """
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    return memory[begin : begin + n_bytes].view(dtype).reshape(shape)


def whole_lines(n: int) -> int:
    """So many numbers of 16 bits or more, or a few more, that those after them begin where a line does."""
    return -(-n // (LINE // 2)) * (LINE // 2)


class Own(namedtuple("OwnFields", "rows small sums scales part total")):
    """Room for what workers compute on the way to a product, each its own.

    Attributes:
        rows: fp32 ``[PAIR, widest]``, the widest row or more.
        small: of tokens rounded to int8 the numbers ``[batch, widest]``, as int16.
        sums, scales: of each block of them, int32 and fp32.
        part, total: what a tile of int4 adds up, int16 and fp32 ``[LANES]`` and more.
    """

    @classmethod
    def of(cls, n: int, batch_size: int, widest: int):
        """That of all `n`, ``[n, ...]``, for `batch_size` tokens of so many numbers at most."""
        widest = whole_lines(widest)
        blocks = n, batch_size, whole_lines(widest // BLOCK)
        return cls(
            room(n, PAIR, widest),
            room(n, batch_size, widest, dtype=I16),
            room(*blocks, dtype=I32),
            room(*blocks),
            room(n, whole_lines(LANES), dtype=I16),
            room(n, whole_lines(LANES)),
        )


@jit
def of_worker(own, me):
    """One worker's."""
    return Own(own.rows[me], own.small[me], own.sums[me], own.scales[me], own.part[me], own.total[me])
