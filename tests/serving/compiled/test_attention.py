"""Attention chunk by chunk, over slots in any order, against PyTorch's over the whole text."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llmhw_helpers.serving.quantized_cache import from_cache, to_cache

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import attention, numbers, tokens
from llmhw_helpers.serving.compiled.room import whole

N_HEADS, N_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 6, 2, 10, 4
KINDS = {torch.float32: numbers.FP32, torch.bfloat16: numbers.BF16, torch.float16: numbers.FP16}


def seen(q, kind, layer, n, text=1):
    """What the heads see of `n` tokens that lie in blocks of every other number, from the last on; and their slots."""
    table = np.arange(2 * -(-n // BLOCK_SIZE), 0, -2).astype(np.int32)
    return seen_in(table, BLOCK_SIZE, q, kind, layer, n, text)


def seen_in(table, block_size, q, kind, layer, n, text=1):
    n_chunks, (n_heads, hd) = attention.chunks(n), q.shape
    width, texts = whole(hd, tokens.UNIT), text + 1
    q = np.stack([q] * texts)
    slots, runs = np.full((2, texts, n_chunks * tokens.CHUNK), -9)
    attention.place(table, block_size, n, slots[text], runs[text])
    tops, sums = np.full((2, texts, n_chunks, n_heads), 7, np.float32)
    mixed = np.full((texts, n_chunks, n_heads, width), np.nan, np.float32)
    wide, asked = np.zeros((tokens.TILE, N_KV_HEADS, width), np.float32), np.zeros((n_heads, width), np.float32)
    scores, out = np.full((n_heads, tokens.CHUNK), np.nan, np.float32), np.full((texts, n_heads, hd), 7, np.float32)
    for c in reversed(range(n_chunks)):
        then = text, max(c - 1, 0)
        attention.attend(text, c, n, q, slots, runs, kind, layer, then, wide, asked, scores, tops, sums, mixed)
    attention.combine(text, n, tops, sums, mixed, out)
    assert (out[:text] == 7).all()
    return torch.from_numpy(out[text]), slots[text, :n]


def expected(q, keys, values):
    """The same by PyTorch, of keys and values ``[n, n_kv_heads, head_dim]``."""
    k, v = (each.repeat_interleave(N_HEADS // N_KV_HEADS, 1).transpose(0, 1) for each in (keys, values))
    return scaled_dot_product_attention(torch.from_numpy(q)[:, None], k, v)[:, 0]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("n", [1, 3, 4, 31, 32, 33, 70, 128])
def test_all_chunks_together_are_pytorchs_attention(n, dtype):
    torch.manual_seed(n)
    keys, values = (torch.randn(2 * n + 20, N_KV_HEADS, HEAD_DIM).mul(3).to(dtype) for _ in "kv")
    q = torch.randn(N_HEADS, HEAD_DIM).mul(3).numpy()
    found, slots = seen(q, KINDS[dtype], (keys.data_ptr(), values.data_ptr(), 0, 0), n)
    assert len(set(slots)) == n
    torch.testing.assert_close(found, expected(q, keys[slots].float(), values[slots].float()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("hd", "block_size"), [(64, 16), (64, 45), (64, 7), (80, 16), (128, 16), (17, 16)])
def test_whole_tiles_are_read_where_they_lie_and_others_from_a_copy(hd, block_size, dtype):
    torch.manual_seed(hd)
    n, table = 45, np.arange(-(-45 // block_size))[::-1].astype(np.int32)
    keys, values = (torch.randn(table.size * block_size, N_KV_HEADS, hd).to(dtype) for _ in "kv")
    q = torch.randn(N_HEADS, hd).numpy()
    found, slots = seen_in(table, block_size, q, KINDS[dtype], (keys.data_ptr(), values.data_ptr(), 0, 0), n)
    torch.testing.assert_close(found, expected(q, keys[slots].float(), values[slots].float()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("hd", [10, 64, 80])
def test_codes_are_seen_as_what_they_stand_for(bits, hd):
    torch.manual_seed(bits)
    n, kind = 45, {8: numbers.INT8, 4: numbers.INT4}[bits]
    (keys, key_scales), (values, value_scales) = (to_cache(torch.randn(2 * n + 20, N_KV_HEADS, hd), bits) for _ in "kv")
    q, layer = torch.randn(N_HEADS, hd).numpy(), [keys, values, key_scales, value_scales]
    found, slots = seen(q, kind, tuple(each.data_ptr() for each in layer), n)
    wide = from_cache(keys, key_scales, bits)[slots], from_cache(values, value_scales, bits)[slots]
    torch.testing.assert_close(found, expected(q, *wide), rtol=0, atol=2e-5)


def test_one_nan_is_seen_by_the_heads_that_look_at_it_and_by_no_others():
    keys, values = (torch.randn(100, N_KV_HEADS, HEAD_DIM) for _ in "kv")
    keys[:, 1, 3] = torch.nan
    found, _ = seen(
        torch.randn(N_HEADS, HEAD_DIM).numpy(), numbers.FP32, (keys.data_ptr(), values.data_ptr(), 0, 0), 40
    )
    assert found[:3].isfinite().all()
    assert found[3:].isnan().all()


def test_scores_far_apart_neither_overflow_nor_vanish():
    keys, values = torch.randn(200, N_KV_HEADS, HEAD_DIM) * 100, torch.randn(200, N_KV_HEADS, HEAD_DIM)
    q = torch.randn(N_HEADS, HEAD_DIM).mul(100).numpy()
    found, slots = seen(q, numbers.FP32, (keys.data_ptr(), values.data_ptr(), 0, 0), 90)
    torch.testing.assert_close(found, expected(q, keys[slots], values[slots]), rtol=0, atol=1e-3)
