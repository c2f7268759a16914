"""What a graph keeps alive until backward has been through it."""

import inspect
from collections.abc import Callable

import numpy as np

from .tensor import Tensor


def kept_arrays(result: Tensor) -> list[np.ndarray]:
    """The distinct arrays that the pulls in the graph of `result` refer to; of a view, the whole array behind it."""
    cells = [cell for node in result.graph() for _, pull in node.edges for cell in _closure(pull)]
    arrays = [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, np.ndarray)]
    return list({id(whole): whole for whole in map(_buffer, arrays)}.values())


def kept_bytes(result: Tensor, *leaves: Tensor) -> int:
    """Bytes of those arrays; those of `leaves`, such as the parameters, exist anyway and do not count."""
    own = {id(_buffer(leaf.data)) for leaf in leaves}
    return sum(array.nbytes for array in kept_arrays(result) if id(array) not in own)


def _closure(pull: Callable) -> tuple:
    return getattr(inspect.unwrap(pull), "__closure__", None) or ()


def _buffer(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
