"""Programs that others call by their address: so each is compiled by itself, and only if somebody asks for its address.

A matrix names the address of who multiplies by it, as an object in C++ or Rust does with its methods. The step, which
calls whatever lies there, is the same for all formats, and knows none.
"""

from collections.abc import Callable
from functools import cached_property

from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from . import jitting


class Called:
    """A function of arguments of such types that gives nothing.

    Args:
        function: in it are parts, see `jitting.jit`.
        kinds: numba's types of its arguments, all of them.
    """

    def __init__(self, function: Callable, kinds: tuple[types.Type, ...]):
        self._program, self._kinds = jitting.program(function, seen=False), kinds
        self.name = function.__name__

    @property
    def is_compiled(self) -> bool:
        """Whether this process has compiled or loaded it."""
        return bool(self._program.overloads)

    @cached_property
    def address(self) -> int:
        """Where its machine code lies, as long as the process lives; compiled, or loaded, when first asked for."""
        jitting.KEPT.first(lambda: self._program.compile(self._kinds))
        made = self._program.overloads[self._kinds]
        return made.library.get_pointer_to_function(made.fndesc.llvm_func_name)


def called(*kinds: types.Type) -> Callable[[Callable], Called]:
    """A decorator, which makes a `Called` of a function."""
    return lambda function: Called(function, kinds)


def call_of(*kinds: types.Type) -> Callable:
    """What compiled code calls ``(address, *arguments)`` to call the `Called` of these kinds that lies there."""

    @intrinsic
    def call(typingctx, address, *arguments):
        if any(typingctx.can_convert(*pair) is None for pair in zip(arguments, kinds, strict=True)):
            raise TypingError(f"arguments {arguments} of a call with {kinds}")

        def code(context, builder, signature, args):
            kind = context.call_conv.get_function_type(types.void, kinds).as_pointer()
            parts = [builder.extract_value(args[1], i) for i in range(len(kinds))]
            context.call_conv.call_function(builder, builder.inttoptr(args[0], kind), types.void, kinds, parts)
            return context.get_dummy_value()

        return types.void(types.int64, types.Tuple(kinds)), code

    return call
