"""Products of every format with one text and with many: those of the weights, and the same bits in any company."""

import pytest
import torch

pytest.importorskip("numba")
import gguf
from compiled_products import multiplied

from llmhw_helpers.llm.quantization import Scheme, quantize
from llmhw_helpers.serving.compiled import held, numbers, products, sums

BATCHES = [1, 2, 3, 4, 5, 8, 9, 17]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCHEMES = {
    "int8": Scheme(8, "row"),
    "int8 in 32": Scheme(8, 32),
    "int4": Scheme(4, 32),
    "int4 affine": Scheme(4, 32, "affine"),
}
BLOCKS = {"Q8_0": gguf.GGMLQuantizationType.Q8_0, "Q4_1": gguf.GGMLQuantizationType.Q4_1}
SHAPES = [(35, 96), (1, 96), (48, 576)]
LONG = 2 * products.COLUMNS + 64  # rows that eight texts go through in three parts


def matrix_of(name, weight, kept, rounded=False):
    """What a matrix in this format is for the compiled step, and the weights that it stands for."""
    n_out, n_in = weight.shape
    if name in DTYPES:
        stored = weight.to(DTYPES[name])
        kept.append(stored)
        return [held.KINDS[stored.dtype], n_out, n_in, 0, stored.data_ptr(), 0, 0, 0, 0, 0], stored.float()
    if name in BLOCKS:
        data = gguf.quantize(weight.numpy(), BLOCKS[name])
        kept.append(data)
        row = [getattr(numbers, name), n_out, n_in, 0, data.ctypes.data, 0, 0, 0, 0, 0]
        return row, torch.from_numpy(gguf.dequantize(data, BLOCKS[name]))
    linear = torch.nn.Linear(n_in, n_out, bias=False)
    linear.quantized = quantize(weight, SCHEMES[name])
    return held._small(linear, "it", rounded, kept), linear.quantized.dequantize()


def close(found, x, weights):
    """To a millionth of what the sum would be if nothing were negative."""
    x, weights = x.double(), weights.double()
    assert ((found - x @ weights.T).abs() <= 1e-6 * (x.abs() @ weights.abs().T)).all()


@pytest.mark.parametrize("name", [*DTYPES, *SCHEMES, *BLOCKS])
def test_any_number_of_texts_is_multiplied_with_the_weights(name):
    torch.manual_seed(0)
    for n_out, n_in in SHAPES:
        kept = held.Kept()
        matrix, weights = matrix_of(name, torch.randn(n_out, n_in), kept)
        x = torch.randn(max(BATCHES), n_in)
        for batch_size in BATCHES:
            close(multiplied(matrix, x[:batch_size]), x[:batch_size], weights)


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "Q8_0"])
def test_long_rows_are_gone_through_in_parts(name):
    torch.manual_seed(0)
    kept, x = held.Kept(), torch.randn(8, LONG)
    matrix, weights = matrix_of(name, torch.randn(19, LONG), kept)
    close(multiplied(matrix, x), x, weights)


@pytest.mark.parametrize("n_in", [1, 7, 95, 576 + 5])
@pytest.mark.parametrize("name", [*DTYPES, "int8"])
def test_what_no_register_is_filled_with_is_multiplied_one_by_one(name, n_in):
    torch.manual_seed(0)
    kept, x = held.Kept(), torch.randn(8, n_in)
    matrix, weights = matrix_of(name, torch.randn(6, n_in), kept)
    for batch_size in (1, 8):
        close(multiplied(matrix, x[:batch_size]), x[:batch_size], weights)


@pytest.mark.parametrize(
    ("name", "rounded"),
    [(name, False) for name in [*DTYPES, *SCHEMES, *BLOCKS]] + [("int4", True), ("int4 affine", True)],
)
def test_a_texts_product_has_the_same_bits_in_any_company(name, rounded):
    torch.manual_seed(0)
    kept, x = held.Kept(), torch.randn(17, LONG)
    matrix, _ = matrix_of(name, torch.randn(80, LONG), kept, rounded)
    whole = multiplied(matrix, x)
    for b in (0, 7, 9, 16):
        assert torch.equal(multiplied(matrix, x[b : b + 1])[0], whole[b])
    assert torch.equal(multiplied(matrix, x[6:12]), whole[6:12])
    assert torch.equal(multiplied(matrix, x, parts=[sums.ROWS, 4 * sums.ROWS]), whole)


@pytest.mark.parametrize("batch_size", [1, 9])
def test_a_weight_that_is_no_number_spoils_its_row_and_no_other(batch_size):
    for name in DTYPES:
        for n_in in (96, 95):
            kept, weight = held.Kept(), torch.randn(35, n_in)
            weight[17, -1], weight[20, 3] = torch.nan, torch.inf
            matrix, _ = matrix_of(name, weight, kept)
            found = multiplied(matrix, torch.rand(batch_size, n_in) + 1)
            finite = found.isfinite().all(0)
            assert finite.nonzero().flatten().tolist() == [i for i in range(35) if i not in (17, 20)]
            assert found[:, 17].isnan().all()
            assert (found[:, 20] == torch.inf).all()
