"""How every function of these rooms is compiled: when it is first called, without the interpreter's lock, and kept."""

from functools import partial

import numba

# The compiler may add up in any order, and so eight or sixteen numbers at once. It may not suppose that nothing is NaN.
LOOSE = {"reassoc", "contract", "nsz", "arcp"}
jit = partial(numba.njit, fastmath=LOOSE, nogil=True, cache=True, error_model="numpy")
