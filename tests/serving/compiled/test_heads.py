"""The cache of small numbers in the compiled step: written as PyTorch writes it, and seen by later tokens as such."""

import copy

import numpy as np
import pytest
import torch

from llmhw_helpers.llm.quantization import CannotQuantize
from llmhw_helpers.serving.decoding import decode, decoder_of, prefill
from llmhw_helpers.serving.quantized_cache import QuantizedCache, from_cache, to_cache
from llmhw_helpers.serving.weights import Served

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import heads, numbers

KINDS = {8: numbers.INT8, 4: numbers.INT4}
HEAD_DIM = 10


def rows():
    """Of very different sizes, one of zeros, one halfway between two codes, one whose scale is rounded below it."""
    torch.manual_seed(0)
    found = torch.randn(40, HEAD_DIM) * torch.logspace(-6, 4, 40)[:, None]
    found[3] = 0
    found[4] = torch.tensor([7, 3.5, -1.5, 0.5, -0.5, 2.5, 6.5, -6.5, 1, 0])
    found[5, 0] = 2049 * 127
    found[6] = 2e-8  # less than half of the smallest fp16 number
    found[7] = found[7].clamp(-1, 1) * 1e-4
    return found


def written(row_by_row, bits):
    codes = torch.full((len(row_by_row), HEAD_DIM * bits // 8), 99, dtype=torch.int8)
    scales = torch.zeros(len(row_by_row), 1, dtype=torch.float16)
    for i, row in enumerate(row_by_row.numpy()):
        heads.write_head(KINDS[bits], codes.data_ptr(), scales.data_ptr(), i, row)
    return codes if bits == 8 else codes.view(torch.uint8), scales


def read(codes, scales, bits, hd, width):
    """All heads but the first, which is another's, in rows of `width` numbers, of which the last stay as they were."""
    out = np.full((len(codes), width), 7, np.float32)
    places, n = (codes.data_ptr(), scales.data_ptr(), 1), len(codes) - 1
    heads.read_heads(KINDS[bits], *places, n, hd, out.ctypes.data + 4 * width, width)
    heads.read_heads(KINDS[bits], *places[:2], 0, 1, hd, out.ctypes.data, width)
    assert (out[:, hd:] == 7).all()
    return torch.from_numpy(out[:, :hd])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("hd", [2, 32, 64, 66, 80, 128])
def test_heads_of_any_length_are_read(bits, hd):
    torch.manual_seed(hd)
    codes, scales = to_cache(torch.randn(5, hd), bits)
    torch.testing.assert_close(read(codes, scales, bits, hd, hd), from_cache(codes, scales, bits), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_and_scales_are_those_of_pytorch(bits):
    found = rows().clamp(-65000, 65000)
    codes, scales = written(found, bits)
    expected_codes, expected_scales = to_cache(found, bits)
    assert torch.equal(scales, expected_scales)
    exact = found / scales.float().clamp_min(1e-30) * (127 if bits == 8 else 7)
    plain = codes.float() if bits == 8 else torch.cat((codes & 15, codes >> 4), -1).float() - 8
    inside = (scales > 0).expand_as(exact) & (plain.abs() < plain.max())  # the others: zeros, and a scale rounded down
    assert ((plain - exact).abs()[inside] < 0.5001).all()
    assert (codes != expected_codes).float().mean() < 0.02  # halfway to the last bit, either code is as near
    out = read(expected_codes, expected_scales, bits, HEAD_DIM, HEAD_DIM + 2)
    torch.testing.assert_close(out, from_cache(expected_codes, expected_scales, bits), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_no_number_or_too_large_shows_in_the_scale(bits):
    found = torch.ones(3, HEAD_DIM)
    found[0, 7], found[1, 2] = torch.nan, 70000
    codes, scales = written(found, bits)
    assert scales[0].isnan().all()
    assert scales[1].isinf().all()
    assert from_cache(codes, scales, bits)[2].tolist() == [1] * HEAD_DIM


@pytest.mark.parametrize(("bits", "dtype"), [(8, torch.float32), (4, torch.float32), (8, torch.bfloat16)])
def test_a_model_decodes_from_it_as_pytorch_does(wide_model, bits, dtype):
    model, found = copy.deepcopy(wide_model).to(dtype), []
    for served in (Served(model, compiled=True), Served(model)):
        cache = QuantizedCache(model.spec, 2, 9, dtype, bits=bits)
        prefill(Served(model), [[3, 1, 4], [1, 5, 9, 2, 6]], cache)
        found.append(torch.stack([decode(served, torch.tensor([i, 7]), cache).float() for i in range(4)]))
        assert cache.lengths == [7, 9]
    assert (decoder_of(Served(model)), cache.scale_pools[0][:, 0, 7:].any().item()) == (None, False)
    largest = found[1].abs().max().item()
    # Where a processor rounds one number the other way it is off by a code, 1/7 or 1/127 of the head's largest. As the
    # plainest processor one was, and 0.4% of the largest logit with it: so a few such are allowed.
    off = {(8, torch.float32): 0.02, (4, torch.float32): 0.15, (8, torch.bfloat16): 0.06}[bits, dtype]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=largest * off)


def test_a_key_that_no_scale_can_hold_is_refused(wide_model):
    model = copy.deepcopy(wide_model)
    served, cache = Served(model, compiled=True), QuantizedCache(model.spec, 1, 4)
    prefill(served, [[1, 2]], cache)
    model.blk[1].attn_k.weight.data.mul_(1e6)
    with pytest.raises(CannotQuantize, match="keys or values in layer 1: their scales do not fit fp16"):
        decode(served, torch.tensor([3]), cache)
    assert cache.lengths == [2]
