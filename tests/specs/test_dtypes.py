import math

import pytest
import torch

from llmhw_helpers.specs.dtypes import DTYPES, dtype
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
NOT_IN_TORCH = {"tf32", "int4"}  # tf32 is a mode of fp32 matrix products; torch.int4 has no arithmetic and no iinfo


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
