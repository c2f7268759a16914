"""Where workers wait for each other: a counter in memory that each adds 1 to, at no cost when all are there."""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jitting import jit

PATIENCE = 20_000  # looks, some 20 us: nobody is late by as much unless the system took its core away


@intrinsic
def _arrive(typingctx, counter):
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
def meet(gate, n):
    """Wait until all `n` workers are here.

    Who waits long lets others have the core: perhaps one of them is who is late.

    Args:
        gate: int64 ``[1]``, 0 before the first meeting; never set back.
        n: workers that meet here, always as many.
    """
    target = (_arrive(gate) // n + 1) * n
    looks = 0
    while _look(gate) < target:
        looks += 1
        if looks > PATIENCE:
            _yield()


@jit
def share(total, unit, me, n):
    """Where the share of worker `me` of `n` begins and ends: whole units, and for the last one what is left over."""
    units = total // unit
    end = total if me == n - 1 else units * (me + 1) // n * unit
    return units * me // n * unit, end
