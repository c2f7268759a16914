"""How every function of these rooms is compiled: when it is first called, without the interpreter's lock, and kept.

Numba makes machine code of each function that another one calls, and then of it again, inside of whoever calls it: as
often as calls are nested. Here only what Python calls is made into code, with all its parts in it, once.
"""

from collections.abc import Callable
from functools import cached_property

import numba
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

from .folder import CodeFolder

# The compiler may add up in any order, and so eight or sixteen numbers at once. It may not suppose that nothing is NaN.
LOOSE = {"reassoc", "contract", "nsz", "arcp"}
OPTIONS = {"nopython": True, "fastmath": LOOSE, "nogil": True, "error_model": "numpy"}
UNSEEN = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # nothing that would unpack Python's arguments
OLDEST = 0, 66  # of numba, with which these rooms are tested
if tuple(int(part) for part in numba.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(f"numba {numba.__version__} is older")
KEPT = CodeFolder()


class _InPart(Compiler):
    """Leaves a part as it is, for those to optimise that it is put into."""

    def define_pipelines(self):
        state = self.state
        state.targetctx = state.targetctx.subtarget(get_executable=lambda library, fndesc, env: [env].copy)
        state.library = library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
        library._optimize_final_module = lambda: None
        library._finalize_final_module = lambda: setattr(library, "_finalized", True)
        return super().define_pipelines()


class Part(CPUDispatcher):
    """A function that compiled ones call. Python may, too: then it is compiled as a program, which is not kept."""

    def __init__(self, function: Callable):
        super().__init__(function, targetoptions=OPTIONS | UNSEEN, pipeline_class=_InPart)

    def __call__(self, *arguments):
        """From Python, as a test does."""
        return self._door(*arguments)

    @cached_property
    def _door(self) -> Callable:
        part = self
        return numba.jit(**OPTIONS)(lambda *arguments: part(*arguments))


def jit(function: Callable) -> Part:
    """A part of compiled programs."""
    return Part(function)


def program(function: Callable, seen: bool = True) -> Callable:
    """`function`, compiled when it is first called, and kept in the course's folder whoever imports it.

    Beside its source, where numba would keep it, it would stay as it is when a function that it calls is changed:
    numba looks at the file of the function only. The course's folder has another name then, see `folder.made_by`.

    Args:
        function: what Python is to call; its arguments may be of any types.
        seen: by Python. Else it must not be called from there, which would end the process.
    """
    with KEPT.caching():
        return numba.jit(**OPTIONS, **({} if seen else UNSEEN), cache=True)(function)
