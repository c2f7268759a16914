"""Number formats: what a number costs in bits, and what those bits can hold."""

from dataclasses import dataclass

from .figures import look_up

IEEE754 = "IEEE 754-2019, table 3.5"
OCP_FP8 = "OCP 8-bit Floating Point Specification 1.0, table 1"
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

    >>> dtype("bf16").bytes, dtype("int4").bytes
    (2.0, 0.5)
    """

    name: str
    storage_bits: int
    exponent_bits: int
    mantissa_bits: int
    max: float
    smallest_normal: float
    source: str

    @property
    def bytes(self) -> float:
        """Bytes per number in memory; 0.5 for two numbers in a byte."""
        return self.storage_bits / 8

    @property
    def is_float(self) -> bool:
        """Has an exponent."""
        return self.exponent_bits > 0


def _ieee(name: str, storage_bits: int, exponent_bits: int, mantissa_bits: int, source: str) -> Dtype:
    """A format by IEEE's rules: the top exponent is kept for infinities and NaN."""
    bias = 2 ** (exponent_bits - 1) - 1
    largest = (2 - 2.0**-mantissa_bits) * 2.0**bias
    return Dtype(name, storage_bits, exponent_bits, mantissa_bits, largest, 2.0 ** (1 - bias), source)


def _integer(name: str, bits: int) -> Dtype:
    return Dtype(name, bits, 0, bits - 1, 2 ** (bits - 1) - 1, 1, TWOS_COMPLEMENT)


DTYPES = {
    dtype.name: dtype
    for dtype in (
        _ieee("fp64", 64, 11, 52, IEEE754),
        _ieee("fp32", 32, 8, 23, IEEE754),
        _ieee("tf32", 32, 8, 10, NVIDIA_TF32),
        _ieee("bf16", 16, 8, 7, BFLOAT16),
        _ieee("fp16", 16, 5, 10, IEEE754),
        # E4M3 gives its top exponent to numbers and keeps one code for NaN: 1.75 * 2**8 is its largest
        Dtype("fp8_e4m3", 8, 4, 3, 448.0, 2.0**-6, OCP_FP8),
        _ieee("fp8_e5m2", 8, 5, 2, OCP_FP8),
        _integer("int8", 8),
        _integer("int4", 4),
    )
}


def dtype(name: str) -> Dtype:
    """The number format called `name`; `UnknownName` with the nearest names where there is none."""
    return look_up(name, DTYPES, "number format")
