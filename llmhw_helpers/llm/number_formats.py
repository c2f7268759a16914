"""Numbers to bits and back, for any float of the course: sign, exponent, mantissa, and the special codes.

Everything is worked out in float64, whose own bits give the exponents. What has no fields is here too: NF4, a table,
and MXFP4, whose numbers share a scale.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ..specs.dtypes import NF4_LEVELS, Dtype, dtype

MX_BLOCK = 32  # numbers that share a scale: OCP MX 1.0, table 1
E8M0_BIAS, E8M0_NAN = 127, 255  # the scale's own format, an exponent and nothing else: OCP MX 1.0, section 5.4


class NoCode(ValueError):
    """A format has no code for what it is asked to hold."""


def fields(codes: Int64[Tensor, "*n"], form: Dtype) -> tuple[Int64[Tensor, "*n"], ...]:
    """Sign, exponent and mantissa field of each code; the last `bits` bits of it count."""
    sign = (codes >> (form.bits - 1)) & 1
    exponent = (codes >> form.mantissa_bits) & (2**form.exponent_bits - 1)
    return sign, exponent, codes & (2**form.mantissa_bits - 1)


def decode(codes: Int64[Tensor, "*n"], form: Dtype) -> Float64[Tensor, "*n"]:
    """The value of each code, exactly.

    ``(-1)**sign * (1 + mantissa / 2**m) * 2**(exponent - bias)``; where the exponent field is 0, a subnormal number:
    ``(-1)**sign * mantissa / 2**m * 2**(1 - bias)``. Integers are in two's complement.

    >>> decode(torch.tensor([0b0_01111_1000000000, 0b0_00000_0000000001]), dtype("fp16")).tolist()
    [1.5, 5.960464477539063e-08]
    """
    sign, exponent, mantissa = fields(codes, form)
    if not form.is_float:
        return (mantissa - (sign << form.mantissa_bits)).double()
    normal = (exponent > 0).long()
    units = mantissa + (normal << form.mantissa_bits)  # of the last place
    value = _scale(units.double(), exponent.clamp(min=1) - form.bias - form.mantissa_bits)
    top = 2**form.exponent_bits - 1
    if form.special == "ieee":
        value = torch.where(exponent == top, torch.where(mantissa == 0, torch.inf, torch.nan), value)
    elif form.special == "fn":
        last = (exponent == top) & (mantissa == 2**form.mantissa_bits - 1)
        value = torch.where(last, torch.nan, value)
    return torch.where(sign == 1, -value, value)


def encode(values: Float64[Tensor, "*n"], form: Dtype, saturate: bool = False) -> Int64[Tensor, "*n"]:
    """The code of the number nearest to each value; of two equally near, the one whose last bit is 0.

    What lies beyond the largest number by half a step becomes infinity, where the format has one, else NaN, where it
    has that, else the largest number; or the largest number always, with `saturate`.

    Raises:
        NoCode: NaN, in a format without it.

    >>> encode(torch.tensor([1.0, 2049.0, 1e6]).double(), dtype("fp16")).tolist()  # 2049 lies between 2048 and 2050
    [15360, 26624, 31744]
    """
    nan = torch.isnan(values)
    if form.special == "none" and nan.any():
        raise NoCode(f"{form.name} has no code for NaN: replace it before you convert")
    if not form.is_float:
        return values.clamp(-form.max - 1, form.max).round().long() & (2**form.bits - 1)
    bits = values.contiguous().view(torch.int64)
    sign, size = (bits >> 63) & 1, values.abs().nan_to_num(0.0, torch.inf)
    finite = size.clamp(max=torch.finfo(torch.float64).max)
    exponent = ((finite.view(torch.int64) >> 52) - 1023).clamp(1 - form.bias, form.bias + 1)
    units = _scale(finite, form.mantissa_bits - exponent).round()  # to even
    units = units.clamp(max=2.0 ** (form.mantissa_bits + 2)).long()  # far beyond the largest exponent
    # The leading 1 of a normal number is the first step of its exponent field, and so is a carry from rounding up.
    code = ((exponent + form.bias - 1) << form.mantissa_bits) + units
    largest = 2 ** (form.bits - 1) - 1 - {"ieee": 2**form.mantissa_bits, "fn": 1, "none": 0}[form.special]
    over = largest if saturate or form.special == "none" else largest + 1  # what follows is infinity, or E4M3's NaN
    code = torch.where((code > largest) | ((size == torch.inf) & (not saturate)), over, code)
    quiet = largest + 1 if form.special == "fn" else largest + 1 + 2 ** (form.mantissa_bits - 1)
    return torch.where(nan, quiet, code) | (sign << (form.bits - 1))


def rounded(values: Float64[Tensor, "*n"], form: Dtype) -> Float64[Tensor, "*n"]:
    """Each value as `form` keeps it."""
    return decode(encode(values, form), form)


def encode_mxfp4(values: Float64[Tensor, "blocks 32"]) -> tuple[Int64[Tensor, " blocks"], Int64[Tensor, "blocks 32"]]:
    """Scales (E8M0: the code is an exponent plus 127) and fp4_e2m1 codes of blocks of 32; OCP MX 1.0, section 6.3.

    The scale is the power of two below the block's largest magnitude, divided by 4, the power of two below fp4's
    largest number. What is then still above 6 becomes 6.

    Raises:
        NoCode: a value that is not finite.
    """
    if not torch.isfinite(values).all():
        raise NoCode("mxfp4 holds finite numbers alone here: replace NaN and infinities before you convert")
    largest = values.abs().amax(-1)
    exponent = ((largest.view(torch.int64) >> 52) - 1023 - 2).clamp(-E8M0_BIAS, E8M0_NAN - 1 - E8M0_BIAS)
    scaled = _scale(values, -exponent[:, None].expand_as(values))
    return exponent + E8M0_BIAS, encode(scaled, dtype("fp4_e2m1"))


def decode_mxfp4(scales: Int64[Tensor, " blocks"], codes: Int64[Tensor, "blocks 32"]) -> Float64[Tensor, "blocks 32"]:
    """``2**(scale - 127) * fp4``; NaN for a whole block whose scale is 255."""
    numbers = _scale(decode(codes, dtype("fp4_e2m1")), (scales - E8M0_BIAS)[:, None].expand_as(codes))
    return torch.where((scales == E8M0_NAN)[:, None], torch.nan, numbers)


def encode_nf4(values: Float64[Tensor, "blocks n"]) -> tuple[Float64[Tensor, " blocks"], Int64[Tensor, "blocks n"]]:
    """Scale (the largest magnitude) and the number of the nearest of the 16 levels, by block; arXiv:2305.14314."""
    scale = values.abs().amax(-1)
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64)
    edges = (levels[1:] + levels[:-1]) / 2
    return scale, torch.bucketize(values / scale.clamp(min=torch.finfo(torch.float64).tiny)[:, None], edges)


def decode_nf4(scales: Float64[Tensor, " blocks"], codes: Int64[Tensor, "blocks n"]) -> Float64[Tensor, "blocks n"]:
    """``scale * level[code]``."""
    return scales[:, None] * torch.tensor(NF4_LEVELS, dtype=torch.float64)[codes]


def _scale(values: Float64[Tensor, "*n"], exponents: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """``values * 2**exponents``, in two steps: 2**1074 is no float64, and the result may be one all the same."""
    half = exponents >> 1
    return values * _power_of_two(half) * _power_of_two(exponents - half)


def _power_of_two(exponents: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """A power of two is an exponent field and nothing else. (`torch.exp2` is exact on some machines only.)"""
    return ((exponents + 1023) << 52).view(torch.float64)
