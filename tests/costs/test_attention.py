"""Traffic counted on a run whose every access goes through a counter; operations by PyTorch's; memory by the meter."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from llmhw_helpers.costs import attention
from llmhw_helpers.costs.sequence import attention as layer
from llmhw_helpers.costs.transformer import pair_flops, visible_pairs
from llmhw_helpers.llm.flash import _tiles, attention_with_lse, flash_attention
from llmhw_helpers.measure.memory import MemoryMeter
from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.models import model

SMALL = replace(model("SmolLM2-135M"), n_heads=6, n_kv_heads=2, head_dim=8)
LENGTHS = [1, 7, 64, 100]


def draw(seq_len, spec=SMALL, **options):
    torch.manual_seed(0)
    return [torch.randn(1, n, seq_len, spec.head_dim, **options) for n in (spec.n_heads, *2 * [spec.n_kv_heads])]


class Slow:
    """A memory that counts every byte that is taken from it or put into it."""

    def __init__(self):
        self.bytes = 0

    def __call__(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def run_naive(q, k, v, slow):
    """With each key/value head read once for its group."""
    q = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    scores = slow(slow(q) @ slow(k).mT)
    weights = slow(slow(scores).softmax(-1))
    return slow(slow(weights) @ slow(v))


def run_tiled(q, k, v, slow, block_q, block_k, causal, window=1000):
    """Scores against an accumulator in fp64, tile by tile; written for this test, without the package's loops."""
    seq_len, group = q.shape[2], q.shape[1] // k.shape[1]
    for start in range(0, seq_len, block_q):
        rows = slow(q[:, :, start : start + block_q])
        lse = torch.full(rows.shape[:-1], -torch.inf)
        end = start + rows.shape[2] if causal else seq_len
        for first in range(max(0, start - window + 1), end, block_k):
            last = min(first + block_k, end)
            keys, values = slow(k[:, :, first:last]), slow(v[:, :, first:last])
            scores = rows @ keys.repeat_interleave(group, 1).mT
            lse = torch.logaddexp(lse, scores.logsumexp(-1))
            assert (scores @ values.repeat_interleave(group, 1)).shape == rows.shape
        slow(torch.empty_like(rows)), slow(lse)


@pytest.mark.parametrize("seq_len", LENGTHS)
def test_naive_is_what_a_counted_run_moves_and_computes(seq_len):
    slow, operands = Slow(), draw(seq_len)
    with FlopCounterMode(display=False) as counter:
        run_naive(*operands, slow)
    work = attention.naive(SMALL, seq_len, "fp32")
    assert (work.flops, work.bytes) == (counter.get_total_flops(), slow.bytes)
    assert attention.naive(SMALL, seq_len, "bf16").bytes == work.bytes / 2
    assert work.flops == sdpa_flop_count(*(each.shape for each in (operands[0], operands[0], operands[0])))


@pytest.mark.parametrize("seq_len", LENGTHS)
@pytest.mark.parametrize(("block_q", "block_k"), [(1, 1), (16, 8), (16, 64), (33, 10), (200, 200)])
@pytest.mark.parametrize("causal", [True, False])
def test_tiled_is_what_a_counted_run_moves_and_computes(seq_len, block_q, block_k, causal):
    slow, operands = Slow(), draw(seq_len)
    run_tiled(*operands, slow, block_q, block_k, causal)
    with FlopCounterMode(display=False) as counter:
        flash_attention(*operands, causal, block_q, block_k)
    work = attention.tiled(SMALL, seq_len, block_q, "fp32", causal)
    assert (work.flops, work.bytes) == (counter.get_total_flops(), slow.bytes)


@pytest.mark.parametrize("seq_len", LENGTHS)
@pytest.mark.parametrize(("block_q", "block_k"), [(1, 1), (16, 8), (33, 10), (200, 200)])
@pytest.mark.parametrize("window", [1, 10, 64, 100])
def test_a_window_spares_the_keys_that_no_query_of_a_block_sees(seq_len, block_q, block_k, window):
    slow, operands = Slow(), draw(seq_len)
    with FlopCounterMode(display=False) as counter:
        run_tiled(*operands, slow, block_q, block_k, True, window)
    work = attention.tiled(SMALL, seq_len, block_q, "fp32", window=window)
    assert (work.flops, work.bytes) == (counter.get_total_flops(), slow.bytes)
    local = replace(SMALL, sliding_window=window, n_local_layers=SMALL.n_layers)
    assert attention.tiled(local, seq_len, block_q, "fp32") == work
    rows = attention.tiled(local, seq_len, 1, "fp32")  # row by row: the visible pairs, as a model counts them
    assert rows.flops * SMALL.n_layers == visible_pairs(local, 0, seq_len) * pair_flops(local)
    assert attention.naive(local, seq_len) == attention.naive(SMALL, seq_len)  # its table is as large
    full = attention.forward_backward_flops(SMALL, seq_len, recompute=False)
    assert attention.forward_backward_flops(local, seq_len, False) * seq_len == full * min(seq_len, window)


def test_layers_that_differ_have_to_be_named():
    gemma = model("gemma-2-2b")
    with pytest.raises(NoFormula, match="gemma-2-2b has layers with and without a window: say which by window=, 64 "):
        attention.tiled(gemma, 64, 16)
    assert attention.tiled(gemma, 64, 16, window=64).flops > attention.tiled(gemma, 64, 16, window=8).flops
    with pytest.raises(NoFormula, match="a window of 8 tokens without a causal mask"):
        attention.tiled(gemma, 64, 16, causal=False, window=8)


def test_operands_in_16_bits_move_half_but_the_logsumexp_stays_in_32():
    wide, narrow = (attention.tiled(SMALL, 64, 16, dtype).bytes for dtype in ("fp32", "bf16"))
    lse = 4 * 6 * 64
    assert narrow - lse == (wide - lse) / 2


@pytest.mark.parametrize("seq_len", LENGTHS)
@pytest.mark.parametrize(("block_q", "block_k"), [(1, 1), (16, 8), (16, 64), (33, 10)])
def test_the_tiles_skipped_are_those_without_a_visible_pair(seq_len, block_q, block_k):
    visible = torch.ones(seq_len, seq_len).tril()
    found = [bool(part.any()) for rows in visible.split(block_q) for part in rows.split(block_k, 1)]
    assert attention.tiles(seq_len, block_q, block_k) == (len(found), found.count(False))
    visited = sum(len(blocks) for _, blocks in _tiles(seq_len, seq_len, True, block_q, block_k))
    assert visited == found.count(True)


def test_training_takes_one_product_more_with_recomputation():
    q, k, v = draw(40, replace(SMALL, n_kv_heads=6), requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        flash_attention(q, k, v, causal=False, block_q=16, block_k=16).sum().backward()
    assert attention.forward_backward_flops(SMALL, 40, recompute=True) == counter.get_total_flops()
    shapes = q.shape, k.shape, v.shape
    theirs = sdpa_flop_count(*shapes) + sdpa_backward_flop_count(q.shape, *shapes)
    assert attention.forward_backward_flops(SMALL, 40, recompute=True) == theirs
    with FlopCounterMode(display=False) as counter:
        ((q @ k.mT).softmax(-1) @ v).sum().backward()
    assert attention.forward_backward_flops(SMALL, 40, recompute=False) == counter.get_total_flops()


def test_memory_alive_is_two_tables_or_what_grows_with_the_rows():
    def peak(run, seq_len):
        operands = draw(seq_len)
        with MemoryMeter(operands) as meter, torch.inference_mode():
            there = meter.alive
            run(*operands)
        return meter.peaks["first"] - there

    def stored(q, k, v):
        scores = q.unflatten(1, (2, -1)).flatten(2, 3) @ k.mT
        scores = scores.softmax(-1)
        return scores @ v

    for seq_len in (256, 512):
        expected = attention.workspace_bytes(SMALL, seq_len, "fp32", stored_scores=True)
        assert peak(stored, seq_len) - expected in (0, 4 * 6 * 8 * seq_len)  # and the queries, where they are copied
    scratch = [
        peak(lambda *qkv: attention_with_lse(*qkv, True, 32, 32), n) - attention.workspace_bytes(SMALL, n, "fp32")
        for n in (256, 512, 1024)
    ]
    assert scratch[0] == scratch[1] == scratch[2] < 200e3


def test_the_papers_formula_holds_up_to_a_constant():
    """Theorem 2: with blocks as large as fit, traffic goes as T^2 d^2 / M, when T is large and M small."""
    ratios = []
    for head_dim in (64, 128):
        alone = replace(SMALL, n_heads=1, n_kv_heads=1, head_dim=head_dim)
        for fast in (32e3, 64e3, 128e3):
            block = attention.largest_block(head_dim, fast, "fp16")
            assert 4 * block * head_dim * 2 <= fast < 4 * (block + 1) * head_dim * 2
            work = attention.tiled(alone, 65536, block, "fp16", causal=False)
            ratios.append(work.bytes / attention.paper_traffic(65536, head_dim, fast, "fp16"))
    assert min(ratios) > 7.9
    assert max(ratios) < 8.6


def test_it_agrees_with_notebook_03s_count_for_one_head():
    """There with the four products around it, which read and write as well."""
    alone = replace(SMALL, n_heads=1, n_kv_heads=1, head_dim=32)
    stored, fused = (layer(100, 32, "fp32", stored_scores=s).work for s in (True, False))
    assert attention.naive(alone, 100, "fp32").bytes - (stored.bytes - fused.bytes) == 4 * 100 * 32 * 4
    assert attention.naive(alone, 100, "fp32").flops == 4 * 100**2 * 32


def test_scores_of_a_decode_step_are_one_row_a_head():
    assert attention.scores_bytes(SMALL, 1, 100, "fp32") == torch.zeros(6, 1, 100).nbytes
    assert attention.scores_bytes(SMALL, 100, 100, "bf16") == torch.zeros(6, 100, 100, dtype=torch.bfloat16).nbytes


def test_senseless_sizes_are_refused():
    for call, words in (
        (lambda: attention.naive(SMALL, 0), "at least one token, not 0"),
        (lambda: attention.tiled(SMALL, 8, 0), "at least one row, not 0"),
        (lambda: attention.tiles(8, 4, -1), "at least one row, not -1"),
        (lambda: attention.scores_bytes(SMALL, -1, 4), "no table of -1 x 4"),
        (lambda: attention.forward_backward_flops(SMALL, 0, True), "at least one token, not 0"),
        (lambda: attention.workspace_bytes(SMALL, 0), "at least one token, not 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(NoFormula, match="latent attention"):
        attention.naive(model("DeepSeek-V3"), 8)
