"""Codes and values against torch, NumPy, ml_dtypes and gguf: all codes of small formats, all ties, and at random."""

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.llm.number_formats import (
    NoCode,
    decode,
    decode_mxfp4,
    decode_nf4,
    encode,
    encode_mxfp4,
    encode_nf4,
    fields,
    rounded,
)
from llmhw_helpers.specs.dtypes import NF4_LEVELS, dtype

SMALL = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
TORCH = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def same(a, b):
    """Equal, NaN where the other is NaN, and of equal sign elsewhere: -0 is not 0."""
    nan = torch.isnan(b)
    return (
        torch.equal(torch.isnan(a), nan)
        and torch.equal(a[~nan], b[~nan])
        and torch.equal(torch.signbit(a[~nan]), torch.signbit(b[~nan]))
    )


def codes_of(form):
    return torch.arange(2**form.bits)


def unsigned(form):
    return np.uint16 if form.bits == 16 else np.uint8


@pytest.mark.parametrize("name", SMALL)
def test_every_code_decodes_as_in_ml_dtypes_and_numpy(name):
    form = dtype(name)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        theirs = codes_of(form).numpy().astype(unsigned(form)).view(SMALL[name]).astype(np.float64)
    assert same(decode(codes_of(form), form), torch.from_numpy(theirs))


@pytest.mark.parametrize("name", TORCH)
def test_every_code_decodes_as_in_torch(name):
    form = dtype(name)
    bits = codes_of(form).to(torch.uint16 if form.bits == 16 else torch.uint8)
    assert same(decode(codes_of(form), form), bits.view(TORCH[name]).double())


def hard_values(form):
    """All numbers, all ties between two, their neighbours in fp32 on either side, overflow, and what is no number."""
    numbers = decode(codes_of(form), form)
    numbers = numbers[torch.isfinite(numbers)].unique()
    ties = (numbers[1:] + numbers[:-1]) / 2
    beside = [torch.nextafter(ties.float(), torch.tensor(side)).double() for side in (torch.inf, -torch.inf)]
    over = [form.max * (1 + 2.0**-k) for k in range(-3, 20)]
    odd = f64(*over, 3e38, torch.inf, 0.0, torch.finfo(torch.float32).tiny, 2.0**-149)
    nan = [] if form.special == "none" else [f64(torch.nan)]
    return torch.cat((numbers, ties, *beside, odd, -odd, *nan))


@pytest.mark.parametrize("name", SMALL)
def test_ties_neighbours_and_overflow_encode_as_in_ml_dtypes_and_numpy(name):
    form, values = dtype(name), hard_values(dtype(name))
    assert len(values) > 4 * (2**form.bits - 2**form.bits // 8) - 40
    with np.errstate(over="ignore"):
        theirs = values.float().numpy().astype(SMALL[name]).view(unsigned(form))
    ours = encode(values.float().double(), form)
    assert torch.equal(ours, torch.from_numpy(theirs.astype(np.int64)))


@pytest.mark.parametrize("name", TORCH)
def test_ties_and_neighbours_encode_as_in_torch(name):
    form, values = dtype(name), hard_values(dtype(name))
    values = values[~torch.isnan(values)]  # NaN has many codes
    theirs = values.float().to(TORCH[name]).view(torch.int16 if form.bits == 16 else torch.uint8).long()
    ours = encode(values.float().double(), form, saturate=name == "fp8_e4m3")  # as torch does since 2.13
    finite = torch.isfinite(values) if name == "fp8_e4m3" else torch.ones_like(values, dtype=torch.bool)
    assert torch.equal(ours[finite], theirs[finite] & (2**form.bits - 1))


def test_infinity_in_e4m3_is_nan_or_with_saturation_the_largest():
    form = dtype("fp8_e4m3")
    assert encode(f64(torch.inf, -torch.inf, 1e9, 464, 464.1), form).tolist() == [0x7F, 0xFF, 0x7F, 0x7E, 0x7F]
    assert encode(f64(torch.inf, -torch.inf, 1e9), form, saturate=True).tolist() == [0x7E, 0xFE, 0x7E]
    assert decode(encode(f64(torch.inf, 1e6), dtype("fp16"), saturate=True), dtype("fp16")).tolist() == [65504, 65504]


@pytest.mark.parametrize("name", ["fp64", "fp32", "tf32", "bf16", "fp16", "fp8_e5m2"])
@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_any_float_at_random(name, values):
    form, x = dtype(name), f64(*values)
    got = rounded(x, form)
    if name == "fp64":
        assert same(got, x)
    elif name in ("fp32", "fp16"):  # NumPy rounds these once; the others go through fp32 and are rounded twice
        with np.errstate(all="ignore"):
            theirs = x.numpy().astype(np.float32 if name == "fp32" else np.float16)
        assert same(got, torch.from_numpy(theirs.astype(np.float64)))
    assert same(rounded(got, form), got)  # what it can hold, it keeps
    assert torch.equal(torch.isnan(got), torch.isnan(x))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_64_bits_are_the_machines_own(codes):
    bits = torch.tensor(codes)
    assert same(decode(bits, dtype("fp64")), bits.view(torch.float64))


def test_tf32_rounds_fp32_to_ten_bits_of_mantissa():
    assert rounded(f64(1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 3e38), dtype("tf32")).tolist() == [
        1 + 2**-10,
        1,
        1 + 2**-9,
        rounded(f64(3e38), dtype("tf32")).item(),
    ]
    assert fields(encode(f64(-1.5), dtype("tf32")), dtype("tf32"))[1].item() == 127


def test_integers_are_in_twos_complement_and_saturate():
    form = dtype("int8")
    everything = torch.arange(256)
    assert torch.equal(decode(everything, form), everything.to(torch.uint8).view(torch.int8).double())
    assert decode(encode(f64(-3.5, 2.5, 3.5, 200, -200), form), form).tolist() == [-4, 2, 4, 127, -128]
    assert decode(encode(f64(-9, 7.4), dtype("int4")), dtype("int4")).tolist() == [-8, 7]


@pytest.mark.parametrize("name", ["fp4_e2m1", "int8", "int4"])
def test_nan_has_no_code_in_formats_of_numbers_alone(name):
    with pytest.raises(NoCode, match=f"{name} has no code for NaN: replace it before you convert"):
        encode(f64(1, torch.nan), dtype(name))


def test_mxfp4_equals_ggufs_blocks():
    torch.manual_seed(0)
    values = (torch.randn(500, 32) * 2.0 ** torch.randint(-40, 40, (500, 1))).double()
    values[0], values[1, 0] = 0, 6.0
    packed = gguf.quants.quantize(values.numpy().astype(np.float32), gguf.GGMLQuantizationType.MXFP4)
    theirs = torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.MXFP4)).double()
    scales, codes = encode_mxfp4(values.float().double())
    ours = decode_mxfp4(scales, codes)
    nonzero = scales > 0
    assert torch.equal(scales[nonzero], torch.from_numpy(packed[:, 0].astype(np.int64))[nonzero])
    ties = (ours - values).abs() == (theirs - values).abs()  # the library takes the first of two equally near
    assert torch.equal(ours[~ties], theirs[~ties])
    assert not ours[0].any()


def test_mxfp4_scales_equal_ml_dtypes_and_a_nan_scale_spoils_its_block():
    scales = torch.arange(256)
    one = torch.full((256, 32), 2)  # the code of 1.0
    theirs = scales.numpy().astype(np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert same(decode_mxfp4(scales, one)[:, 0], torch.from_numpy(theirs))
    with pytest.raises(NoCode, match="mxfp4 holds finite numbers alone here"):
        encode_mxfp4(torch.full((1, 32), torch.inf, dtype=torch.float64))


def test_mxfp4_keeps_the_blocks_largest_within_a_quarter():
    torch.manual_seed(1)
    values = torch.randn(200, 32).double()
    kept = decode_mxfp4(*encode_mxfp4(values))
    largest = values.abs().argmax(-1, keepdim=True)
    error = (kept - values).gather(1, largest).abs() / values.gather(1, largest).abs()
    assert error.max() <= 0.25  # just below 8 becomes 6: the specification's price for a power of two
    assert error.max() > 0.15


def test_nf4_takes_the_nearest_level():
    torch.manual_seed(2)
    values = torch.randn(50, 64).double()
    scales, codes = encode_nf4(values)
    levels = f64(*NF4_LEVELS)
    nearest = (values[..., None] / scales[:, None, None] - levels).abs().argmin(-1)
    assert torch.equal(codes, nearest)
    assert torch.equal(decode_nf4(scales, codes), scales[:, None] * levels[nearest])
    assert decode_nf4(*encode_nf4(torch.zeros(1, 64).double())).abs().max() == 0
