"""Attention chunk by chunk, over slots in any order, against PyTorch's over the whole text."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llmhw_helpers.serving.quantized_cache import from_cache, to_cache

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import attention, numbers

N_HEADS, N_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 6, 2, 10, 4
KINDS = {torch.float32: numbers.FP32, torch.bfloat16: numbers.BF16, torch.float16: numbers.FP16}


def seen(q, kind, layer, n):
    """What the heads see of `n` tokens that lie in blocks of every other number, from the last on."""
    table = np.arange(2 * -(-n // BLOCK_SIZE), 0, -2).astype(np.int32)
    n_chunks, out = attention.chunks(n), np.full((N_HEADS, HEAD_DIM), 7, np.float32)
    slots, tops, sums = np.full(n_chunks * attention.CHUNK, -9), *np.full((2, n_chunks, N_HEADS), 7, np.float32)
    attention.place(table, BLOCK_SIZE, n, slots)
    wide = np.full((attention.CHUNK, N_KV_HEADS, HEAD_DIM), np.nan, np.float32)
    scores = np.full((N_HEADS, attention.CHUNK), np.nan, np.float32)
    mixed = np.full((n_chunks, N_HEADS, HEAD_DIM), np.nan, np.float32)
    for c in reversed(range(n_chunks)):
        attention.attend(q, c, n, slots, kind, layer, wide, scores, tops, sums, mixed)
    attention.combine(n, tops, sums, mixed, out)
    return torch.from_numpy(out), slots[:n]


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


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_seen_as_what_they_stand_for(bits):
    torch.manual_seed(bits)
    n, kind = 45, {8: numbers.INT8, 4: numbers.INT4}[bits]
    (keys, key_scales), (values, value_scales) = (
        to_cache(torch.randn(2 * n + 20, N_KV_HEADS, HEAD_DIM), bits) for _ in "kv"
    )
    q, layer = torch.randn(N_HEADS, HEAD_DIM).numpy(), [keys, values, key_scales, value_scales]
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
