"""What a computation does: how many operations, and how many bytes to and from memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..specs.dtypes import dtype as find_dtype


@dataclass(frozen=True)
class Work:
    """Operations and memory traffic of a computation; works add up.

    Attributes:
        flops: floating-point (or integer) operations, a multiply-add counted as two.
        bytes: least traffic with memory, every operand read once and every result written once.
    """

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOP per byte of traffic."""
        return self.flops / self.bytes

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.bytes * times)


def product(rows: int, n_in: int, n_out: int, dtype: str = "fp32") -> Work:
    """A linear layer's product: ``x[rows, n_in] @ W[n_in, n_out] -> y[rows, n_out]``, all in one format.

    Every result is a sum of `n_in` products: ``2 * rows * n_in * n_out`` operations. Read x and W, write y.

    Raises:
        ValueError: a size is not positive.
        UnknownName: there is no such format.

    >>> product(rows=1, n_in=576, n_out=1536, dtype="fp32")
    Work(flops=1769472, bytes=3547392.0)
    """
    if min(rows, n_in, n_out) < 1:
        raise ValueError(f"a product needs sizes of at least 1, not rows={rows}, n_in={n_in}, n_out={n_out}")
    numbers = rows * n_in + n_in * n_out + rows * n_out
    return Work(2 * rows * n_in * n_out, numbers * find_dtype(dtype).bytes)


def mlp_forward_flops(sizes: Sequence[int], rows: int) -> int:
    """Operations of a multilayer perceptron's products, layer after layer; `sizes` from its input to its output.

    Biases and activations are left out: they grow with the rows times a width, the products with two widths.

    >>> mlp_forward_flops((64, 128, 10), rows=1)
    18944
    """
    return sum(product(rows, n_in, n_out).flops for n_in, n_out in pairwise(sizes))


def mlp_backward_flops(sizes: Sequence[int], rows: int) -> int:
    """Operations of the products in its backward pass: each layer's twice, but only once the first's.

    A layer multiplies the gradient of its output once with its input, for the gradient of its weights, and once with
    its weights, for the gradient of its input. Nobody asks for the gradient of the first layer's input, the data.

    >>> mlp_backward_flops((64, 128, 10), rows=1)
    21504
    """
    return 2 * mlp_forward_flops(sizes, rows) - product(rows, sizes[0], sizes[1]).flops


def mlp_kept_bytes(sizes: Sequence[int], rows: int, dtype: str = "fp32") -> float:
    """Bytes that its backward pass needs from the forward pass (ReLU, cross-entropy), beside parameters and data.

    The output of each hidden layer (input of the next, and it tells where ReLU let pass) and, of the last layer, the
    probabilities.

    >>> mlp_kept_bytes((64, 128, 10), rows=1)
    552.0
    """
    return rows * sum(sizes[1:]) * find_dtype(dtype).bytes
