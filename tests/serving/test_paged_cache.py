"""Attention over blocks that lie anywhere, against PyTorch's on each text alone."""

from dataclasses import replace

import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.serving.paged_cache import Chunk, PagedCache
from llmhw_helpers.specs.models import model

SPEC = replace(model("SmolLM2-135M"), n_layers=2, n_heads=6, n_kv_heads=2, head_dim=8)


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_bytes_are_the_formulas_to_the_byte(dtype, name):
    spec = model("SmolLM2-135M")
    assert PagedCache(spec, 10, 16, dtype).nbytes == kv_bytes(spec, 160, name)


def test_blocks_take_memory_when_they_are_written():
    process, spec = psutil.Process(), model("SmolLM2-135M")
    before = process.memory_info().rss
    cache = PagedCache(spec, 1024, 16)
    assert cache.nbytes > 700e6
    assert process.memory_info().rss - before < 100e6
    assert cache.keys.data_ptr() % 64 == 0  # as PyTorch's own
    assert cache.keys[:, 512].abs().max() == 0
    cache.keys[:, 7] = 1
    assert (cache.keys[3, 6].max(), cache.keys[3, 7].min()) == (0, 1)


@torch.inference_mode()
def steps(block_size, texts, order):
    """Texts of random vectors, read in `texts[i]` pieces each through scattered blocks, all of a round together.

    Returns ours and PyTorch's for every layer, text and piece.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = [sum(pieces) for pieces in texts]
    tables, free = [], list(order)
    for length in lengths:
        n = -(-length // block_size)
        tables.append(free[:n])
        free = free[n:]
    cache = PagedCache(SPEC, len(order), block_size)
    cache.keys.fill_(torch.nan)  # as left by somebody before
    cache.values.fill_(torch.inf)
    whole = [[torch.randn(1, heads, length, 8, generator=generator) for heads in (6, 2, 2)] for length in lengths]
    done, ours, theirs = [0] * len(texts), [], []
    for chunk in range(max(map(len, texts))):
        active = [i for i, pieces in enumerate(texts) if chunk < len(pieces)]
        counts = {i: texts[i][chunk] for i in active}
        window = cache.window([Chunk(tables[i], done[i], counts[i]) for i in active])
        assert window.positions.tolist() == [[p for i in active for p in range(done[i], done[i] + counts[i])]]
        assert window.last.tolist() == torch.tensor([counts[i] for i in active]).cumsum(0).sub(1).tolist()
        for layer in range(2):
            new = [
                torch.cat([whole[i][j][:, :, done[i] : done[i] + counts[i]] for i in active], dim=2) * (layer + 1)
                for j in range(3)
            ]
            mixed = window.attend(layer, *new)
            ours.append(mixed)
            expected = []
            for i in active:
                end = done[i] + counts[i]
                q, k, v = (each[:, :, :end] * (layer + 1) for each in whole[i])
                alone = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                expected.append(alone[:, :, done[i] :])
            theirs.append(torch.cat(expected, dim=2))
        for i in active:
            done[i] += counts[i]
    return ours, theirs


CASES = [
    (4, [[5, 1, 1, 1, 1]]),  # over an edge, token by token
    (4, [[4, 1], [3, 1, 1], [1, 1, 1]]),  # full, nearly full and empty blocks
    (4, [[7, 3, 6]]),  # a prompt in pieces
    (4, [[1, 9, 1], [8, 1, 5], [2, 2, 1]]),  # some read, others write
    (1, [[3, 2], [1, 1]]),
    (16, [[1, 1, 1]]),
    (3, [[6, 6], [6, 6]]),  # nothing padded
]


@pytest.mark.parametrize(("block_size", "texts"), CASES)
def test_attention_is_that_of_each_text_alone(block_size, texts):
    n_blocks = sum(-(-sum(pieces) // block_size) for pieces in texts) + 2
    order = torch.randperm(n_blocks, generator=torch.Generator().manual_seed(1)).tolist()
    for ours, theirs in zip(*steps(block_size, texts, order), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


PIECES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@given(st.integers(1, 5), st.lists(PIECES, min_size=1, max_size=4), st.randoms())
def test_attention_is_that_of_each_text_alone_whatever_comes(block_size, texts, random):
    order = list(range(sum(-(-sum(pieces) // block_size) for pieces in texts)))
    random.shuffle(order)
    for ours, theirs in zip(*steps(block_size, texts, order), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_only_the_slots_of_new_tokens_are_written():
    cache = PagedCache(SPEC, 5, 4)
    window = cache.window([Chunk([3, 1], 3, 2)])  # the last slot of block 3 and the first of block 1
    window.attend(1, torch.ones(1, 6, 2, 8), torch.ones(1, 2, 2, 8), torch.ones(1, 2, 2, 8))
    for pool in (cache.keys, cache.values):
        written = pool.abs().sum((-1, -2)).nonzero().tolist()
        assert written == [[1, 1, 0], [1, 3, 3]]


def test_copies_are_made_from_what_stood_there_before():
    cache = PagedCache(SPEC, 4, 2)
    for pool in (cache.keys, cache.values):
        pool.copy_(torch.arange(4.0)[:, None, None, None].expand_as(pool))
    cache.copy([(0, 1), (1, 2)])
    cache.copy([])
    for pool in (cache.keys, cache.values):
        assert pool[:, :, 0, 0, 0].tolist() == [[0, 0, 1, 3]] * 2
        assert pool[1, 2].eq(1).all()


def test_a_table_that_does_not_hold_the_tokens_is_refused():
    cache = PagedCache(SPEC, 4, 2)
    for chunk, words in (
        (Chunk([0], 1, 2), "2 new tokens after 1 in a table of 2 slots"),
        (Chunk([0], 0, 0), "0 new tokens"),
        (Chunk([0], -1, 1), "after -1"),
        (Chunk([0, 4], 0, 3), r"block table \[0, 4\]: there are blocks 0 to 3"),
        (Chunk([-1], 0, 1), "there are blocks 0 to 3"),
    ):
        with pytest.raises(ValueError, match=words):
            cache.window([chunk])
    with pytest.raises(ValueError, match="at least one token"):
        cache.window([])
    with pytest.raises(ValueError, match="0 blocks of 2 tokens: at least 1 each"):
        PagedCache(SPEC, 0, 2)
