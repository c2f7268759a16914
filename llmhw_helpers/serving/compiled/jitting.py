"""How every function of these rooms is compiled: when it is first called, without the interpreter's lock, and kept."""

from collections.abc import Callable

import numba

from .folder import CodeFolder

# The compiler may add up in any order, and so eight or sixteen numbers at once. It may not suppose that nothing is NaN.
LOOSE = {"reassoc", "contract", "nsz", "arcp"}
OLDEST = 0, 66  # of numba, with which these rooms are tested
if tuple(int(part) for part in numba.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(f"numba {numba.__version__} is older")
KEPT = CodeFolder()


def jit(function: Callable) -> Callable:
    """`function`, compiled when it is first called, and kept in the course's folder whoever imports it.

    Beside its source, where numba would keep it, it would stay as it is when a function that it calls is changed:
    numba looks at the file of the function only. The course's folder has another name then, see `folder.made_by`.
    """
    with KEPT.caching():
        return numba.njit(fastmath=LOOSE, nogil=True, cache=True, error_model="numpy")(function)
