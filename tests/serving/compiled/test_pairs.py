"""Products two at a time: those of the rounded activations, the same bits in any company, and no sum too large."""

import pytest
import torch
from torch import nn

from llmhw_helpers.llm.quantization import Scheme, quantize

pytest.importorskip("numba")
from compiled_products import multiplied

from llmhw_helpers.serving.compiled import held, pairs, products, room, texts

BATCHES = [1, 2, 3, 4, 8, 9, 17]
SHAPES = [(35, 96), (1, 96), (6, 95), (6, 7), (19, 2 * 2 * products.COLUMNS + 64), (48, 576)]
SCHEMES = [Scheme(8, "row"), Scheme(8, "tensor"), Scheme(8, 16), Scheme(8, 32), Scheme(8, 64)]
dot = pytest.mark.skipif(not pairs.BF16_DOT, reason="no instruction for pairs of bf16 here")
BOTH = [pytest.param("bf16", marks=dot), "int8"]


def in_bf16(weight, kept, bias=False):
    """What a matrix of a bf16 model is to the compiled step, and its layer."""
    layer = nn.Linear(*weight.shape[::-1], bias).bfloat16()
    layer.weight.data.copy_(weight)
    return held._plain(layer, "it", kept), layer


def in_int8(weight, kept, scheme=SCHEMES[0], bias=False):
    """The same with int8, and activations of 16 bits."""
    layer = nn.Linear(*weight.shape[::-1], bias)
    layer.quantized = quantize(weight, scheme)
    layer.weight.data.copy_(layer.quantized.dequantize())
    return held._small(layer, "it", True, kept), layer


def matrix_of(name, weight, kept):
    return {"bf16": in_bf16, "int8": in_int8}[name](weight, kept)


def close(found, x, layer):
    """To a millionth of what the sum would be if nothing were negative."""
    x, weights, bias = x.double(), layer.weight.detach().double(), 0 if layer.bias is None else layer.bias.detach()
    assert ((found - (x @ weights.T + bias)).abs() <= 1e-6 * (x.abs() @ weights.abs().T + 1)).all()


def whole_numbers(*shape):
    """Of which 1 stands for 1: the largest of each text is 32767."""
    x = torch.randint(-32767, 32768, shape).float()
    x[:, shape[1] // 2] = -32767
    return x


@dot
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_bf16_is_multiplied_by_activations_in_bf16_as_pytorch_does(n_out, n_in):
    torch.manual_seed(0)
    kept, x = held.Kept(), torch.randn(max(BATCHES), n_in)
    matrix, layer = in_bf16(torch.randn(n_out, n_in), kept, bias=True)
    pytorchs = layer(x.bfloat16()).detach().float()
    for batch_size in BATCHES:
        found = multiplied(matrix, x[:batch_size])
        close(found, x[:batch_size].bfloat16(), layer)
        # PyTorch rounds the result, and half of its last bit is 2^-9
        torch.testing.assert_close(found, pytorchs[:batch_size], rtol=2**-8, atol=1e-4 * n_in**0.5)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(("n_out", "n_in"), [shape for shape in SHAPES if shape[1] % 64 == 0] + [(6, 96)])
def test_int8_is_multiplied_by_whole_numbers(scheme, n_out, n_in):
    if isinstance(scheme.group, int) and n_in % scheme.group:
        return
    torch.manual_seed(0)
    kept, x = held.Kept(), whole_numbers(max(BATCHES), n_in)
    matrix, layer = in_int8(torch.randn(n_out, n_in), kept, scheme, bias=True)
    for batch_size in BATCHES:
        close(multiplied(matrix, x[:batch_size]), x[:batch_size], layer)


@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_rounding_to_16_bits_costs_what_it_says(n_out, n_in):
    torch.manual_seed(0)
    kept, x = held.Kept(), torch.randn(max(BATCHES), n_in) * torch.logspace(-2, 2, n_in)
    matrix, layer = in_int8(torch.randn(n_out, n_in), kept)
    weights, most = layer.weight.detach().double(), x.abs().amax(1, keepdim=True).double() / 65534
    for batch_size in BATCHES:
        off = (multiplied(matrix, x[:batch_size]) - x[:batch_size].double() @ weights.T).abs()
        assert (off <= 1.01 * most[:batch_size] * weights.abs().sum(1)).all()


@pytest.mark.parametrize("n_in", [pairs.LONGEST, 2 * pairs.LONGEST + 32])
def test_the_largest_sums_fit_32_bits(n_in):
    kept = held.Kept()
    matrix, layer = in_int8(torch.ones(3, n_in), kept)
    layer.quantized.codes[:] = -128
    for batch_size in (1, 8):
        for sign in (1, -1):
            found = multiplied(matrix, torch.full((batch_size, n_in), 32767.0) * sign)
            torch.testing.assert_close(found, torch.full((batch_size, 3), -128 / 127 * 32767 * n_in * sign))


@pytest.mark.parametrize("name", BOTH)
def test_a_texts_product_has_the_same_bits_in_any_company(name):
    torch.manual_seed(0)
    n_in = 2 * 2 * products.COLUMNS + 64
    kept, x = held.Kept(), torch.randn(17, n_in)
    matrix, _ = matrix_of(name, torch.randn(80, n_in), kept)
    whole = multiplied(matrix, x)
    for b in (0, 7, 9, 16):
        assert torch.equal(multiplied(matrix, x[b : b + 1])[0], whole[b])
    assert torch.equal(multiplied(matrix, x, parts=[products.ROWS, 3 * products.ROWS + 5]), whole)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("n_in", [96, 95])
def test_what_is_no_number_spoils_its_text_and_its_row_and_no_other(name, n_in):
    kept, weight, x = held.Kept(), torch.rand(35, n_in) + 1, torch.rand(9, n_in) + 1
    weight[17, -1], weight[20, 3] = torch.nan, torch.inf
    matrix, _ = matrix_of(name, torch.ones(35, n_in) if name == "int8" else weight, kept)
    if name == "int8":  # whose steps may be none
        steps = kept[-1]
        steps[17], steps[20] = torch.nan, torch.inf
    for batch_size in (1, 9):
        x[batch_size // 2, -1] = torch.nan
        found = multiplied(matrix, x[:batch_size])
        assert (found.isfinite().sum(1) == torch.tensor([33] * batch_size)).tolist() == [
            b != batch_size // 2 for b in range(batch_size)
        ]
        assert found[batch_size // 2].isnan().all()
        assert found[:, 17].isnan().all()
        x[batch_size // 2, -1] = 1
    for endless in (torch.inf, -torch.inf):
        x[3, 5] = endless
        assert not multiplied(matrix, x)[3].isfinite().any()


@dot
def test_what_is_smaller_than_2_to_the_minus_126_may_be_0():
    kept = held.Kept()
    matrix, layer = in_bf16(torch.ones(3, 64), kept)
    found = multiplied(matrix, torch.full((1, 64), 2.0**-130))
    assert (found >= 0).all()
    assert (found <= 64 * 2.0**-130).all()
    close(multiplied(matrix, torch.full((1, 64), 2.0**-120)) * 2.0**120, torch.ones(1, 64), layer)


def test_who_rounds():
    """A model in bf16, where the processor has the instruction, and who is told to; a file's numbers stay wide."""
    kept, weight = held.Kept(), torch.randn(4, 64)
    assert in_bf16(weight, kept)[0][products.ROUNDED] == pairs.BF16_DOT
    assert in_int8(weight, kept)[0][products.ROUNDED]
    for dtype in (torch.float32, torch.float16):
        assert not held._plain(nn.Linear(64, 4).to(dtype), "it", kept)[products.ROUNDED]


def laid_out(found, n_texts, n_in, dtype):
    """Numbers ``[n_texts, n_in]`` from where `texts` has put them."""
    n, together = texts.registers(n_in, pairs.PAIRED), texts.side_by_side(n_texts)
    kept = torch.from_numpy(found[: -(-n_texts // together) * n * together * pairs.PAIRED]).view(dtype)
    return kept.view(-1, n, together, pairs.PAIRED).transpose(1, 2).flatten(2).flatten(0, 1)[:n_texts, :n_in]


@pytest.mark.parametrize("n_texts", [1, 3, 8, 11])
def test_texts_are_rounded_to_bf16_as_pytorch_does(n_texts):
    torch.manual_seed(0)
    x = torch.randn(n_texts, 75) * 10.0 ** torch.randint(-30, 30, (n_texts, 75))
    x[0, 70], x[0, 71], x[0, 72] = torch.nan, 1 + 2**-8, 1 + 3 * 2**-8  # halves: to the even one
    own = room.of_worker(room.Own.of(1, n_texts, 75), 0)
    texts.round_to_bf16(x.numpy(), own.pairs)
    found = laid_out(own.pairs, n_texts, 75, torch.bfloat16)
    assert torch.equal(found.nan_to_num(3), x.bfloat16().nan_to_num(3))
    assert found[0, 70].isnan()


@pytest.mark.parametrize("n_texts", [1, 3, 8, 11])
def test_texts_are_rounded_to_whole_numbers(n_texts):
    torch.manual_seed(0)
    x = whole_numbers(n_texts, 75) * 2.0**-9
    x[0, :4] = torch.tensor([0.5, -0.5, 2.5, -1.49]) * 2.0**-9
    x[-1] = 0
    own = room.of_worker(room.Own.of(1, n_texts, 75), 0)
    texts.round_to_int16(x.numpy(), own.pairs, own.units)
    found, units = laid_out(own.pairs, n_texts, 75, torch.int16), torch.from_numpy(own.units)[:n_texts]
    if n_texts > 1:
        assert found[0, :4].tolist() == [1, -1, 3, -1]
        assert torch.equal(found[:, 4:] * 2.0**-9, x[:, 4:])
        assert torch.equal(units[:-1], torch.full((n_texts - 1,), 2.0**-9))
    assert not found[-1].any()
    assert units[-1] > 0
