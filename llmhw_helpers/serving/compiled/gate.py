"""Where workers take pieces of work, and wait until those that others took are done: two counters in memory.

Nobody is given a share. Who has a core takes the next piece, so a worker that lost its core delays the others by the
piece that it holds, if it holds one, and not by all that would have been its part.
"""

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jitting import jit

PATIENCE = 20_000  # looks, some 20 us: nobody is late by as much unless the system took its core away
LINE = 16  # numbers between two counters: processors hand memory to each other in lines of 64 or 128 bytes
MOST_ROWS = 512  # in a piece of a product
PER_WORKER = 2  # pieces of a product that has few rows: a neighbour delays the others by half a share at most


def new_gate(n_phases: int) -> np.ndarray:
    """Counters for that many phases of a step, ``[n_phases, 2, LINE]``: pieces that were taken, and that are done."""
    return np.zeros((n_phases, 2, LINE), np.int64)


@intrinsic
def _count(typingctx, counter):
    """``counter[0] += 1``, whatever other threads do meanwhile; gives what it was before."""

    def code(context, builder, signature, args):
        one = context.get_constant(types.int64, 1)
        return builder.atomic_rmw("add", _address(context, builder, signature, args), one, "seq_cst")

    return types.int64(counter), code


@intrinsic
def _look(typingctx, counter):
    """``counter[0]``, and with it all that was written before it became that."""

    def code(context, builder, signature, args):
        return builder.load_atomic(_address(context, builder, signature, args), "acquire", 8)

    return types.int64(counter), code


def _address(context, builder, signature, args):
    return cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data


_yield = types.ExternalFunction("sched_yield", types.int32())  # the system's, on Linux and macOS


@jit
def take(gate, phase):
    """The number of the next piece of a phase: nobody else's. From the count of pieces on there is nothing to do."""
    return _count(gate[phase, 0])


@jit
def done(gate, phase):
    """Say that a piece that was taken is done."""
    _count(gate[phase, 1])


@jit
def meet(gate, phase, n_pieces):
    """Wait until all pieces of a phase are done.

    Who waits long lets others have the core: perhaps one of them is who is late.
    """
    looks = 0
    while _look(gate[phase, 1]) < n_pieces:
        looks += 1
        if looks > PATIENCE:
            _yield()


@jit
def piece_rows(n_rows, unit, n):
    """Rows of a product's pieces for `n` workers: whole units."""
    rows = min(MOST_ROWS, (n_rows - 1) // (PER_WORKER * n) + 1)
    return (rows - 1) // unit * unit + unit


@jit
def share(total, unit, me, n):
    """Where the share of worker `me` of `n` begins and ends: whole units, and for the last one what is left over."""
    units = total // unit
    end = total if me == n - 1 else units * (me + 1) // n * unit
    return units * me // n * unit, end
