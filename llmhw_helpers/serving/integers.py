"""Products in the CPU's unit for small integers (VNNI): int8 weights times activations of one byte, or of two.

The sums are exact, in 32 bits: nothing is lost but what the rounding of the activations loses. Each token has a scale
of its own (token-wise quantization, as ZeroQuant calls it, arXiv:2206.01861), and 8 bits, or 16: a number of two bytes
is ``256 high + low``, so its product is that of the high bytes, times 256, and that of the low bytes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from .kernels import ZERO, integer_order, integer_product, multiplies_integers

__all__ = ["IntegerMatrix", "integer_matrix", "multiplies_integers"]

LARGEST = {8: 127, 16: 127 * 256}  # what a token's largest magnitude becomes
# Added before what is behind the point is cut off: so a number is rounded, and each of its bytes moved by ZERO.
OFFSETS = {8: torch.tensor(ZERO + 0.5), 16: torch.tensor(256 * ZERO + ZERO + 0.5)}
TINY = torch.tensor(1e-30)  # a token of zeros has a scale, too


class IntegerMatrix(NamedTuple):
    """Codes in the unit's order, a step a row in fp32, and how many bits the activations get: 8 or 16."""

    packed: Tensor
    steps: Tensor
    bias: Tensor | None
    activation_bits: int

    def multiply(self, x: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """``x W^T + b``, with the numbers of each row of `x` rounded to `activation_bits` bits."""
        rows = x.reshape(-1, x.shape[-1]).float()
        bits = self.activation_bits
        numbers = rows.abs()
        scale = torch.add(TINY, numbers.amax(-1, keepdim=True), alpha=1 / LARGEST[bits])
        torch.addcdiv(OFFSETS[bits], rows, scale, out=numbers)
        if bits == 8:
            y = integer_product(numbers.to(torch.uint8), self.packed, self.steps)
        else:  # the low byte comes first, on x86 as on Arm
            low_high = numbers.to(torch.uint16).view(torch.uint8).view(*rows.shape, 2).permute(2, 0, 1)
            low, high = integer_product(low_high.reshape(-1, rows.shape[1]), self.packed, self.steps).chunk(2)
            y = torch.add(low, high, alpha=256)
        y = y.mul_(scale).to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(each.nbytes for each in (self.packed, self.steps, self.bias) if each is not None)


def integer_matrix(
    codes: Int8[Tensor, "n_out n_in"], steps: Float[Tensor, " n_out"], bias: Tensor | None, activation_bits: int
) -> IntegerMatrix:
    """Codes from -128 to 127, each worth the step of its row, made ready for products; see `multiplies_integers`."""
    return IntegerMatrix(integer_order(codes), steps.float(), bias, activation_bits)
