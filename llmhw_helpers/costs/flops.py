"""What a computation does: how many operations, and how many bytes to and from memory."""

from dataclasses import dataclass

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
