"""Quantised matrices in the compiled step: products from small numbers are those of the weights they stand for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmhw_helpers.llm.quantization import Scheme, hold, quantize, quantize_model
from llmhw_helpers.serving.decoding import decode, decoder_of, new_cache, prefill
from llmhw_helpers.serving.quantized import NoKernel, serve
from llmhw_helpers.serving.weights import Served

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import codes, held, numbers, products, room
from llmhw_helpers.serving.compiled.multipliers import to_multiply
from llmhw_helpers.serving.compiled.tiles import int4_tiles

INT8 = [Scheme(8, "row"), Scheme(8, "tensor"), Scheme(8, 16), Scheme(8, 64), Scheme(8, 96)]
INT4 = [Scheme(4, 32), Scheme(4, 64, "affine"), Scheme(4, 96), Scheme(4, "row", "affine")]
N_OUT, N_IN = 51, 192  # the last tile of int4 has 3 rows, and groups have 1, 2, 3 and 6 blocks


def quantised(scheme, bias=True):
    torch.manual_seed(0)
    linear = nn.Linear(N_IN, N_OUT, bias)
    hold(linear, quantize(linear.weight, scheme))
    return linear


def multiplied(linear, x, rounded=False, end=N_OUT):
    """Rows up to `end` of the product, in two shares; the others are 7 as before."""
    kept = held.Kept()
    matrix = to_multiply(np.array(held._small(linear, "it", rounded, kept), np.int64))
    own = room.of_worker(room.Own.of(2, len(x), N_IN), 1)
    y, middle = np.full((len(x), N_OUT), 7, np.float32), codes.LANES
    products.prepare(matrix[None], x.numpy(), own)
    products.product(matrix, x.numpy(), own, y, middle, end)
    products.product(matrix, x.numpy(), own, y, 0, middle)
    return torch.from_numpy(y)


def rounded_blocks(x):
    """What `codes.round_blocks` says, by PyTorch."""
    blocks = x.unflatten(1, (-1, codes.BLOCK))
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks / scales.clamp_min(1e-30)
    return ((scaled.abs() + 0.5).floor() * scaled.sign() * scales).flatten(1)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * expected.abs().max().item())


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("scheme", INT8 + INT4, ids=lambda scheme: scheme.name)
def test_wide_activations_give_what_the_weights_give(scheme, batch_size):
    linear, x = quantised(scheme), torch.randn(batch_size, N_IN)
    found = multiplied(linear, x)
    close(found, linear(x).detach())
    part = multiplied(linear, x, end=48)
    assert torch.equal(part[:, :48], found[:, :48])
    assert (part[:, 48:] == 7).all()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("scheme", INT4, ids=lambda scheme: scheme.name)
def test_rounded_activations_give_what_the_rounded_ones_give(scheme, batch_size):
    linear, x = quantised(scheme, bias=False), torch.randn(batch_size, N_IN) * torch.logspace(-3, 3, N_IN)
    x[0, :32] = 0
    found = multiplied(linear, x, rounded=True)
    close(found, F.linear(rounded_blocks(x), linear.weight).detach())
    # no rounded number is off by more than 1/254 of the largest of its block
    most = x.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1) / 254
    assert ((found - linear(x)).abs() <= F.linear(most, linear.weight.abs()) * 1.001).all()


@pytest.mark.parametrize("code", [-8, 7])
def test_the_largest_sums_fit_16_bits(code):
    linear = quantised(Scheme(4, 32), bias=False)
    linear.quantized.codes[:] = code
    linear.weight.data.copy_(linear.quantized.dequantize())
    for sign in (1, -1):
        x = torch.full((1, N_IN), 5.0) * sign
        close(multiplied(linear, x, rounded=True), linear(x).detach())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rounded", [False, True])
def test_what_is_no_number_is_none_in_the_product(value, rounded):
    x = torch.randn(2, N_IN)
    x[1, 77] = value
    found = multiplied(quantised(INT4[0]), x, rounded)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()


def test_halves_are_rounded_away_from_zero():
    x = torch.zeros(1, 32)
    x[0, :5] = torch.tensor([127, 2.5, -2.5, 0.49, -126.5])
    small, sums, scales = np.full((1, 32), 9, np.int8), np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32)
    codes.round_blocks(x.numpy(), small, sums, scales)
    assert small[0, :6].tolist() == [127, 3, -3, 0, -127, 0]
    assert (sums.item(), scales.item()) == (0, 1)


def test_int8_is_used_where_it_lies_and_int4_takes_half_a_byte():
    kept, linear = held.Kept(), quantised(INT8[0])
    matrix = held._small(linear, "it", False, kept)
    found = numbers.bytes8(matrix[products.WEIGHT], N_OUT, N_IN)
    linear.quantized.codes[3, 2] = -42
    assert found[3, 2] == -42
    words, scales, minima = int4_tiles(quantised(INT4[1]).quantized, codes.LANES)
    n_rows = -(-N_OUT // codes.LANES) * codes.LANES
    shared = n_rows * N_IN // 64 * 2
    assert (words.nbytes, scales.nbytes, minima.nbytes) == (n_rows * N_IN // 2, shared, shared)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("scheme", [Scheme(8, 32), Scheme(4, 32, "affine")], ids=lambda scheme: scheme.name)
def test_a_models_logits_are_those_of_its_weights_for_any_number_of_workers(wide_model, decoded, scheme, batch_size):
    model = quantize_model(wide_model, scheme, Scheme(8, "row"))
    texts = torch.randint(50, (batch_size, 5))
    found = decoded(model, texts.tolist(), activations="wide")
    expected = model(texts).detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    rounded = decoded(model, texts.tolist(), activations="rounded")
    off = (rounded - found).abs().max() / found.abs().max()
    assert 1e-7 < off < {8: 1e-3, 4: 0.1}[scheme.bits]
    for n in (2, 3):
        assert torch.equal(decoded(model, texts.tolist(), n, "rounded"), rounded)


@pytest.mark.parametrize("scheme", [Scheme(8, "row", "affine"), Scheme(4, "row", "nf4"), Scheme(4, 16), Scheme(3, 32)])
def test_other_schemes_are_refused(wide_model, scheme):
    with pytest.raises(
        held.NotCompiled, match=rf"attn_q is {scheme.name}.*int8 without minima, and int4 in groups of 32"
    ):
        held.hold(quantize_model(wide_model, scheme), "wide")


def test_a_model_without_small_numbers_is_refused(wide_model):
    with pytest.raises(held.NotCompiled, match="attn_q is not quantised: quantize_model"):
        held.hold(wide_model, "wide")
    with pytest.raises(ValueError, match="activations='narrow': None, 'wide' or 'rounded'"):
        held.hold(wide_model, "narrow")


@pytest.mark.parametrize(
    ("scheme", "bits", "least", "most"),
    [(Scheme(4, 32), None, 0, 1e-5), (Scheme(4, 32), 8, 1e-5, 0.05), (Scheme(8, "row"), 16, 1e-7, 1e-3)],
)
def test_a_served_model_decodes_from_its_small_numbers(wide_model, scheme, bits, least, most):
    model = quantize_model(wide_model, scheme, Scheme(8, "row"))
    ways, found = [serve(model, bits, compiled=True), Served(model)], []
    for served in ways:
        cache = new_cache(served, 2, 8)
        prefill(Served(model), [[3, 1], [4, 1, 5]], cache)
        found.append(torch.stack([decode(served, torch.tensor([i, 7]), cache) for i in range(3)]))
    assert decoder_of(ways[0]) is not None
    off = (found[0] - found[1]).abs().max() / found[1].abs().max()
    assert least <= off < most
    assert (ways[0].compiled, ways[0].activations) == (True, "wide" if bits is None else "rounded")


def test_bits_that_nothing_is_rounded_to_are_refused(wide_model):
    for scheme, bits in ((Scheme(8), 8), (Scheme(4, 32), 16)):
        with pytest.raises(NoKernel, match=f"activations of {bits} bits, compiled: None, 8 for a model with int4, and"):
            serve(quantize_model(wide_model, scheme), bits, compiled=True)
    with pytest.raises(ValueError, match="of the compiled step alone"):
        Served(wide_model, compiled=False, activations="wide")


def test_a_tile_belongs_to_one_worker(wide_model):
    """Else one writes what another has gone on with; which is seen now and then only."""
    for scheme, unit in ((Scheme(4, 32), codes.LANES), (Scheme(8), products.ROWS)):
        assert held.hold(quantize_model(wide_model, scheme, Scheme(8)), "wide").unit == unit


def test_a_model_that_is_served_again_is_still_decoded_by_who_served_it_first(tiny_spec, random_model):
    """Its codes are moved once: where they lay, something else may lie by now."""
    model = quantize_model(random_model(replace(tiny_spec, d_model=512, head_dim=128, d_ff=512)), Scheme(8, "row"))
    first, found = serve(model, compiled=True), []
    for _ in range(2):
        cache = new_cache(first, 1, 8)
        prefill(first, [[3, 1]], cache)
        found.append(decode(first, torch.tensor([4]), cache))
        where = model.blk[0].ffn_up.quantized.codes.data_ptr()
        assert decoder_of(serve(model, compiled=True)) is not None
        assert model.blk[0].ffn_up.quantized.codes.data_ptr() == where
    assert torch.equal(*found)
