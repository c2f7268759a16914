"""What Python calls is compiled once, with all its parts in it; Python may call a part, too."""

import numpy as np
import pytest

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import jitting
from llmhw_helpers.serving.compiled.jitting import Part, jit


@jit
def squared(x):
    return x * x


@jit
def total_of_squares(numbers):
    total = 0.0
    for x in numbers:
        total += squared(x)
    return total


def test_a_part_may_be_called_from_python():
    assert total_of_squares(np.array([1.0, 2, 3])) == 14
    assert total_of_squares(np.array([1, 2], np.int64)) == 5


def test_a_part_has_no_machine_code_of_its_own(monkeypatch, tmp_path):
    """Else code is made of each function once more inside of each that calls it: most of the time that compiling takes.

    The names that this hangs on are numba's own, so another numba may not know them.
    """
    monkeypatch.setattr(jitting, "KEPT", jitting.CodeFolder(tmp_path))

    def whole(numbers):
        return total_of_squares(numbers) + total_of_squares(numbers[1:])

    program = jitting.program(whole)
    assert program(np.array([1.0, 2, 3])) == 27
    (made,) = program.overloads.values()
    machine = made.library.codegen._engine
    assert machine.is_symbol_defined(made.fndesc.llvm_func_name)
    for part in (squared, total_of_squares):
        assert isinstance(part, Part)
        for found in part.overloads.values():
            assert not machine.is_symbol_defined(found.fndesc.llvm_func_name)
