import math

import ml_dtypes
import pytest
import torch

from llmhw_helpers.specs.dtypes import DTYPES, NF4_LEVELS, dtype
from llmhw_helpers.specs.figures import UnknownName

TORCH_FLOATS = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
TORCH_INTEGERS = {"int8": torch.int8}
# tf32 is a mode of fp32 matrix products; torch.int4 has no arithmetic and no iinfo, torch.float4_e2m1fn_x2 no finfo
NOT_IN_TORCH = {"tf32", "int4", "fp4_e2m1"}
ML_DTYPES = {
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}


def test_every_format_is_compared_with_torch_or_named_as_missing_there():
    assert set(DTYPES) == set(TORCH_FLOATS) | set(TORCH_INTEGERS) | NOT_IN_TORCH


@pytest.mark.parametrize("name", TORCH_FLOATS)
def test_float_formats_equal_torch(name):
    ours, theirs = dtype(name), torch.finfo(TORCH_FLOATS[name])
    assert ours.is_float
    assert ours.storage_bits == theirs.bits
    assert ours.max == theirs.max
    assert ours.smallest_normal == theirs.smallest_normal
    assert 2.0**-ours.mantissa_bits == theirs.eps
    assert 1 + ours.exponent_bits + ours.mantissa_bits == theirs.bits
    assert ours.bytes == TORCH_FLOATS[name].itemsize
    assert ours.smallest_subnormal == ours.smallest_normal * theirs.eps


@pytest.mark.parametrize("name", ML_DTYPES)
def test_float_formats_equal_ml_dtypes(name):
    ours, theirs = dtype(name), ml_dtypes.finfo(ML_DTYPES[name])
    assert (ours.bits, ours.exponent_bits, ours.mantissa_bits) == (theirs.bits, theirs.nexp, theirs.nmant)
    assert (ours.max, ours.smallest_normal) == (float(theirs.max), float(theirs.smallest_normal))
    assert ours.smallest_subnormal == float(theirs.smallest_subnormal)
    assert 1 - ours.bias == theirs.minexp


def test_the_published_limits():
    """IEEE 754-2019, table 3.5; OCP FP8 1.0, table 1; OCP MX 1.0, table 5; arXiv:2209.05433, table 1."""
    assert [dtype(name).bias for name in ("fp64", "fp32", "bf16", "fp16")] == [1023, 127, 127, 15]
    assert [dtype(name).bias for name in ("fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "int8")] == [7, 15, 1, 0]
    assert (dtype("fp8_e4m3").max, dtype("fp8_e4m3").smallest_subnormal) == (448, 2**-9)
    assert (dtype("fp8_e5m2").max, dtype("fp8_e5m2").smallest_subnormal) == (57344, 2**-16)
    assert (dtype("fp4_e2m1").max, dtype("fp4_e2m1").smallest_normal, dtype("fp4_e2m1").smallest_subnormal) == (
        6,
        1,
        0.5,
    )
    assert dtype("tf32").bits == 19


def test_nf4_is_qloras_table():
    """arXiv:2305.14314, appendix E, printed from float32."""
    published = [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
    assert pytest.approx(published, abs=5e-7) == NF4_LEVELS


def test_bits_are_split_by_field():
    assert dtype("bf16").split(0xC0A5) == {"sign": "1", "exponent": "10000001", "mantissa": "0100101"}
    assert dtype("int4").split(-3) == {"sign": "1", "number": "101"}


@pytest.mark.parametrize("name", TORCH_INTEGERS)
def test_integer_formats_equal_torch(name):
    ours, theirs = dtype(name), torch.iinfo(TORCH_INTEGERS[name])
    assert not ours.is_float
    assert (ours.storage_bits, ours.max) == (theirs.bits, theirs.max)


def test_tf32_has_the_range_of_fp32_and_the_precision_of_fp16_and_is_stored_in_32_bits():
    tf32 = dtype("tf32")
    assert tf32.smallest_normal == dtype("fp32").smallest_normal
    assert tf32.exponent_bits == dtype("fp32").exponent_bits
    assert tf32.mantissa_bits == dtype("fp16").mantissa_bits
    assert tf32.bytes == 4
    assert math.log2(tf32.max) == pytest.approx(128, abs=1e-3)


def test_two_int4_numbers_share_a_byte():
    assert (dtype("int4").bytes, dtype("int4").max, dtype("int4").is_float) == (0.5, 7, False)


def test_an_unknown_format_names_its_neighbours():
    with pytest.raises(UnknownName, match=r"unknown number format 'fp8'; did you mean fp8_e4m3, fp8_e5m2"):
        dtype("fp8")
