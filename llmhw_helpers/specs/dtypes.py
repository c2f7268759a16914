"""Number formats: what a number costs in bits, and what those bits can hold."""

from dataclasses import dataclass
from statistics import NormalDist

from .figures import look_up

IEEE754 = "IEEE 754-2019, table 3.5"
OCP_FP8 = "OCP 8-bit Floating Point Specification 1.0, table 1; FP8 Formats for Deep Learning, arXiv:2209.05433"
OCP_MX = "OCP Microscaling Formats (MX) Specification 1.0, tables 1 and 5; arXiv:2310.10537"
NVIDIA_TF32 = "NVIDIA A100 Tensor Core GPU Architecture whitepaper (2020), p. 27"
BFLOAT16 = "Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322"
TWOS_COMPLEMENT = "two's complement: -2**(bits-1) to 2**(bits-1)-1"


@dataclass(frozen=True)
class Dtype:
    """A number format.

    Attributes:
        name: the name used all over the course, such as ``"bf16"``.
        storage_bits: bits that one number takes in memory.
        exponent_bits, mantissa_bits: of the format's arithmetic, 0 exponent bits for integers (tf32 is *stored* in
            32 bits and *multiplied* with 1 + 8 + 10 of them).
        max: the largest finite value.
        smallest_normal: the smallest positive value with full precision; 1 for integers.
        source: where the layout is defined.
        special: what the largest exponent is for: ``"ieee"``: infinities and NaN. ``"fn"``: numbers, but for one code
            of each sign, which is NaN. ``"none"``: numbers alone, as in integers.

    >>> dtype("bf16").bytes, dtype("int4").bytes
    (2.0, 0.5)
    >>> dtype("fp16").bias, dtype("fp16").smallest_subnormal == 2.0**-24
    (15, True)
    """

    name: str
    storage_bits: int
    exponent_bits: int
    mantissa_bits: int
    max: float
    smallest_normal: float
    source: str
    special: str = "ieee"

    @property
    def bits(self) -> int:
        """Bits of the arithmetic: sign, exponent and mantissa. Fewer than are stored, for tf32 alone."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is added to an exponent, so that the field holds no negative number: ``2**(exponent_bits - 1) - 1``."""
        return 2 ** (self.exponent_bits - 1) - 1 if self.is_float else 0

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive value of all: one unit of the mantissa at the smallest exponent; 1 for integers."""
        return self.smallest_normal * 2.0**-self.mantissa_bits if self.is_float else 1

    @property
    def bytes(self) -> float:
        """Bytes per number in memory; 0.5 for two numbers in a byte."""
        return self.storage_bits / 8

    @property
    def is_float(self) -> bool:
        """Has an exponent."""
        return self.exponent_bits > 0

    def split(self, code: int) -> dict[str, str]:
        """The bits of `code` by field, for people to read.

        >>> dtype("fp8_e4m3").split(0x7E)
        {'sign': '0', 'exponent': '1111', 'mantissa': '110'}
        """
        bits = f"{code % 2**self.bits:0{self.bits}b}"
        end = 1 + self.exponent_bits
        if not self.is_float:
            return {"sign": bits[0], "number": bits[1:]}
        return {"sign": bits[0], "exponent": bits[1:end], "mantissa": bits[end:]}


def _float(
    name: str, storage_bits: int, exponent_bits: int, mantissa_bits: int, source: str, special: str = "ieee"
) -> Dtype:
    """A format whose largest and smallest value follow from its fields and from what the top exponent is for."""
    bias = 2 ** (exponent_bits - 1) - 1
    # "fn" gives its top exponent to numbers and only its last code to NaN, so two units are missing below 2, not one
    missing = 2.0 ** (1 - mantissa_bits) if special == "fn" else 2.0**-mantissa_bits
    top = bias if special == "ieee" else bias + 1
    largest = (2 - missing) * 2.0**top
    return Dtype(name, storage_bits, exponent_bits, mantissa_bits, largest, 2.0 ** (1 - bias), source, special)


def _integer(name: str, bits: int) -> Dtype:
    return Dtype(name, bits, 0, bits - 1, 2 ** (bits - 1) - 1, 1, TWOS_COMPLEMENT, "none")


DTYPES = {
    dtype.name: dtype
    for dtype in (
        _float("fp64", 64, 11, 52, IEEE754),
        _float("fp32", 32, 8, 23, IEEE754),
        _float("tf32", 32, 8, 10, NVIDIA_TF32),
        _float("bf16", 16, 8, 7, BFLOAT16),
        _float("fp16", 16, 5, 10, IEEE754),
        _float("fp8_e4m3", 8, 4, 3, OCP_FP8, "fn"),
        _float("fp8_e5m2", 8, 5, 2, OCP_FP8),
        _float("fp4_e2m1", 4, 2, 1, OCP_MX, "none"),
        _integer("int8", 8),
        _integer("int4", 4),
    )
}


def dtype(name: str) -> Dtype:
    """The number format called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, DTYPES, "number format")


def _nf4() -> tuple[float, ...]:
    """Eight levels above 0 and seven below: equally many of normally distributed weights go to each."""
    edge = (1 / 32 + 1 / 30) / 2  # of the distribution, left out at either end: half a share of 16, and of 15 levels
    below, above = (
        [NormalDist().inv_cdf(1 - edge - i * (0.5 - edge) / n) for i in range(n)]  # from the outermost inwards
        for n in (7, 8)
    )
    scale = above[0]
    return (*(-x / scale for x in below), 0.0, *(x / scale for x in reversed(above)))


# NormalFloat, a table of 16 values and no bit fields: QLoRA, arXiv:2305.14314, section 3 and appendix E
NF4_LEVELS = _nf4()
