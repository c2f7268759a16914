"""Small numbers against torch's fake quantisation, the gguf library and a search of all levels; and what is refused."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.llm.quantization import (
    CannotQuantize,
    Scheme,
    from_blocks,
    hold,
    model_bits,
    quantize,
    quantize_model,
    to_blocks,
)
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.blocks import block
from llmhw_helpers.specs.dtypes import NF4_LEVELS
from llmhw_helpers.specs.models import model


@pytest.fixture
def weight():
    """Rows of very different size, as in a real matrix."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 96, generator=generator) * torch.logspace(-3, 1, 6)[:, None]


def by_group(weight, scheme):
    return weight.view(*scheme.n_scales(weight.shape), -1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", ["tensor", "row", 32])
def test_absmax_is_torchs_fake_quantisation(weight, bits, group):
    scheme = Scheme(bits, group)
    top, groups = 2 ** (bits - 1) - 1, by_group(weight, scheme).flatten(0, 1)
    scales = groups.abs().amax(-1).half().float()
    zeros = torch.zeros(len(groups), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(groups, scales / top, zeros, 0, -top, top)
    found = quantize(weight, scheme)
    torch.testing.assert_close(found.dequantize(), expected.view_as(weight), atol=0, rtol=1e-6)
    assert found.codes.abs().max() == top
    assert found.scales.shape == scheme.n_scales(weight.shape)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", ["tensor", "row", 24])
def test_affine_uses_every_level_between_the_smallest_and_the_largest(weight, bits, group):
    scheme = Scheme(bits, group, "affine")
    groups, top = by_group(weight, scheme), 2**bits - 1
    low, width = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    low, width = low.half().float(), width.half().float()
    levels = low[..., None] + width[..., None] * torch.arange(top + 1) / top
    nearest = (levels - groups[..., None]).abs().argmin(-1, keepdim=True)
    expected = torch.take_along_dim(levels, nearest, -1)[..., 0].view_as(weight)
    found = quantize(weight, scheme)
    torch.testing.assert_close(found.dequantize(), expected, atol=1e-6, rtol=1e-5)
    assert (found.codes.min(), found.codes.max()) == (0, top)


def test_nf4_takes_the_nearest_of_its_levels(weight):
    found = quantize(weight, Scheme(4, 32, "nf4"))
    groups = by_group(weight, Scheme(4, 32))
    levels = groups.abs().amax(-1, keepdim=True).half().float()[..., None] * torch.tensor(NF4_LEVELS)
    expected = torch.take_along_dim(levels, (levels - groups[..., None]).abs().argmin(-1, keepdim=True), -1)[..., 0]
    torch.testing.assert_close(found.dequantize(), expected.view_as(weight), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", ["absmax", "affine", "nf4"])
@pytest.mark.parametrize("value", [0.0, 0.75, -3.0, 2.0**-14])
def test_groups_that_are_all_alike_are_kept_exactly(kind, value):
    assert torch.equal(
        quantize(torch.full((2, 64), value), Scheme(4, 32, kind)).dequantize(), torch.full((2, 64), value)
    )


def test_zeros_have_the_code_of_zero():
    codes = [quantize(torch.zeros(2, 64), Scheme(4, 32, kind)).codes.unique().tolist() for kind in ("absmax", "nf4")]
    assert codes == [[0], [NF4_LEVELS.index(0.0)]]


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16), st.sampled_from([2, 3, 4, 8]))
def test_no_weight_is_off_by_more_than_half_a_step(values, bits):
    weight = torch.tensor([values])
    for kind, levels in (("absmax", 2**bits - 2), ("affine", 2**bits - 1)):
        found = quantize(weight, Scheme(bits, 8, kind))
        groups = weight.view(2, 8)
        width = 2 * groups.abs().amax(-1) if kind == "absmax" else groups.amax(-1) - groups.amin(-1)
        slack = groups.abs().amax(-1) * 2e-3 + 1e-6  # the scale, rounded to fp16
        off = (found.dequantize().view(2, 8) - groups).abs().amax(-1)
        assert (off <= width / levels / 2 + slack).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_blocks_are_the_gguf_librarys_to_the_bit(weight, name):
    kind = gguf.GGMLQuantizationType[name]
    torch.manual_seed(1)
    tied = torch.randint(-16, 17, (40, 64)) / 2.0  # numbers half way between two levels, and largest ones of both signs
    halves = torch.randint(-253, 254, (40, 64)) / 4.0
    halves[:, ::32] = 63.5  # 127 times a half: 8 bits are half way between two levels, too
    zeros = torch.zeros(2, 64)
    for each in (weight, tied, halves, zeros, torch.randn(300, 576) * 0.02):
        theirs = gguf.quants.quantize(each.numpy().astype(np.float32), kind)
        ours = to_blocks(each, name)
        assert torch.equal(ours, torch.from_numpy(theirs))
        assert ours.shape[1] == each.shape[1] // 32 * block(name).bytes
        assert torch.equal(from_blocks(ours, name), torch.from_numpy(gguf.quants.dequantize(theirs, kind)))


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (Scheme(8, "row"), 8 + 16 / 96),
        (Scheme(8, "tensor"), 8 + 16 / 576),
        (Scheme(4, 32), block("Q4_0").bits_per_weight),
        (Scheme(8, 32), block("Q8_0").bits_per_weight),
        (Scheme(4, 32, "affine"), block("Q4_1").bits_per_weight),
        (Scheme(4, 96, "nf4"), 4 + 16 / 96),
    ],
)
def test_bits_count_the_scales(weight, scheme, bits):
    found = quantize(weight, scheme)
    assert scheme.bits_per_weight(weight.shape) == pytest.approx(bits)
    stored = found.codes.numel() * scheme.bits + 16 * found.scales.numel()
    assert found.n_bits == stored + (0 if found.minima is None else 16 * found.minima.numel())


def test_schemes_have_names():
    names = [Scheme(8, "tensor").name, Scheme(4, 64, "nf4").name, Scheme(3, "row", "affine").name]
    assert names == ["int8, a scale a tensor", "NF4, groups of 64", "int3 affine, a scale a row"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: w.index_put((torch.tensor([2]), torch.tensor([5])), torch.tensor(torch.nan)),
            "nan at row 2, column 5",
        ),
        (lambda w: w.index_put((torch.tensor([0]), torch.tensor([0])), torch.tensor(-torch.inf)), "-inf at row 0"),
        (lambda w: w[:0], "an empty matrix"),
        (lambda w: w[:, :40], "groups of 32 do not divide a row of 40"),
        (lambda w: w * 1e6, "do not fit fp16"),
    ],
)
@pytest.mark.parametrize("kind", ["absmax", "affine", "nf4"])
def test_weights_that_cannot_be_are_refused_in_a_line(weight, change, said, kind):
    with pytest.raises(CannotQuantize, match=said) as refused:
        quantize(change(weight), Scheme(4, 32, kind))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ((9,), "has no 9 bits"),
        ((1,), "has no 1 bits"),
        ((8, 64, "nf4"), "nf4 has no 8 bits"),
        ((4, 0), "a group of 0"),
        ((4, "column"), "a group of 'column'"),
        ((4, 32, "fp4"), "no kind 'fp4'; there are absmax, affine, nf4"),
    ],
)
def test_schemes_that_cannot_be_are_refused(how, said):
    with pytest.raises(CannotQuantize, match=said):
        Scheme(*how)


def test_damaged_blocks_and_other_formats_are_refused(weight):
    data = to_blocks(weight, "Q4_0")
    for part in (data[:, :-1], data[:, :0], data[:, 3:]):
        with pytest.raises(CannotQuantize, match="no whole number of Q4_0's blocks of 18: truncated"):
            from_blocks(part, "Q4_0")
    with pytest.raises(CannotQuantize, match="blocks of Q4_K are not made here"):
        to_blocks(weight, "Q4_K")
    with pytest.raises(CannotQuantize, match="do not divide a row of 40"):
        to_blocks(weight[:, :40], "Q8_0")


SMALL = replace(
    model("SmolLM2-135M"),
    **{"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 96, "vocab_size": 50},
)


@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_model_is_a_copy_with_other_matrices(tied):
    torch.manual_seed(0)
    network = Transformer(replace(SMALL, tied_embeddings=tied))
    before = {name: p.clone() for name, p in network.named_parameters()}
    scheme, head = Scheme(4, 32), Scheme(8, "row")
    result = quantize_model(network, scheme, head)
    n_bits = 0
    for name, parameter in result.named_parameters():
        assert torch.equal(dict(network.named_parameters())[name], before[name])
        if "norm" in name:
            assert torch.equal(parameter, before[name])
            n_bits += 32 * parameter.numel()
        else:
            chosen = scheme if name.startswith("blk.") else head
            assert torch.equal(parameter, quantize(before[name], chosen).dequantize())
            n_bits += quantize(before[name], chosen).n_bits
    assert model_bits(result) == n_bits
    assert not any(hasattr(layer, "quantized") for layer in network.modules())


def test_a_matrix_that_cannot_be_quantised_is_named():
    network = Transformer(SMALL)
    network.blk[1].ffn_up.weight.data[3, 4] = torch.inf
    with pytest.raises(CannotQuantize, match=r"blk\.1\.ffn_up: 1 weights are no numbers, the first is inf at row 3"):
        quantize_model(network, Scheme(4, 32))


def test_a_layer_that_holds_small_numbers_has_their_weights(weight):
    layer = torch.nn.Linear(96, 6, bias=False)
    quantized = quantize(weight, Scheme(4, "row"))
    hold(layer, quantized)
    assert torch.equal(layer.weight, quantized.dequantize())
    assert layer.quantized is quantized
