"""Attention in tiles against PyTorch's and against fp64, at every edge of a tile; gradients; partial results merged."""

import math

import pytest
import torch
import torch.nn.functional as F

from llmhw_helpers.costs.activations import Pass, block_activations
from llmhw_helpers.llm import flash
from llmhw_helpers.llm.attention import attention
from llmhw_helpers.llm.flash import attention_with_lse, flash_attention, merge
from llmhw_helpers.measure.memory import Kept
from llmhw_helpers.specs.models import model

EXACT = {"atol": 1e-12, "rtol": 1e-12}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def draw(q_len, kv_len=None, n_heads=4, n_kv_heads=2, head_dim=8, batch=2, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    sizes = (n_heads, q_len), *2 * [(n_kv_heads, kv_len or q_len)]
    return [
        torch.randn(batch, *size, head_dim, generator=generator).to(dtype).requires_grad_(**options) for size in sizes
    ]


def plain(*qkv):
    return [each.detach() for each in qkv]


def visible(q_len, kv_len, causal):
    """The queries are the last of the tokens."""
    return torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len) if causal else None


def oracle(q, k, v, causal):
    return F.scaled_dot_product_attention(q, k, v, visible(q.shape[2], k.shape[2], causal), enable_gqa=True)


def scores(q, k, causal):
    table = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT / q.shape[-1] ** 0.5
    return table if not causal else table.masked_fill(~visible(q.shape[2], k.shape[2], True), -torch.inf)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("q_len", "kv_len"), [(1, 1), (15, 15), (16, 16), (17, 17), (50, 50), (1, 33), (7, 40), (16, 17)]
)
@pytest.mark.parametrize(("block_q", "block_k"), [(16, 16), (16, 5), (3, 16), (1, 1), (1000, 1000)])
def test_it_equals_pytorchs_at_every_edge_of_a_tile(causal, q_len, kv_len, block_q, block_k):
    q, k, v = plain(*draw(q_len, kv_len))
    out, lse = attention_with_lse(q, k, v, causal, block_q, block_k)
    torch.testing.assert_close(out, oracle(q, k, v, causal), **EXACT)
    torch.testing.assert_close(lse, scores(q, k, causal).logsumexp(-1), **EXACT)
    assert torch.equal(flash_attention(q, k, v, causal, block_q, block_k), out)


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(4, 4), (4, 1), (9, 3), (1, 1), (6, 2)])
def test_heads_share_keys_as_in_pytorchs(n_heads, n_kv_heads):
    q, k, v = plain(*draw(20, n_heads=n_heads, n_kv_heads=n_kv_heads))
    torch.testing.assert_close(flash_attention(q, k, v, True, 8, 8), oracle(q, k, v, True), **EXACT)


def test_with_the_tiles_that_it_comes_with():
    q, k, v = plain(*draw(700, dtype=torch.float32, batch=1))
    torch.testing.assert_close(
        flash_attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), **CLOSE
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_summed_up_in_32(dtype):
    q, k, v = plain(*draw(100, dtype=dtype, head_dim=32))
    out, lse = attention_with_lse(q, k, v, True, 16, 16)
    exact = oracle(q.double(), k.double(), v.double(), True)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    # rounded once, at the end: half a unit in the last place, and a little for fp32
    torch.testing.assert_close(out.double(), exact, atol=1e-6, rtol=0.51 * torch.finfo(dtype).eps)
    torch.testing.assert_close(lse.double(), scores(q.double(), k.double(), True).logsumexp(-1), **CLOSE)


def test_scores_that_no_exponential_survives():
    q, k, v = plain(*draw(30))
    q, k = q * 100, k * 100
    assert scores(q, k, False).exp().isinf().any()
    out, lse = attention_with_lse(q, k, v, True, 8, 8)
    torch.testing.assert_close(out, oracle(q, k, v, True), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(lse, scores(q, k, True).logsumexp(-1), **EXACT)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_rising_falling_and_equal_scores(shift):
    """The running maximum changes at every key, never, or not at all."""
    for keys in (torch.arange(12.0), -torch.arange(12.0), torch.zeros(12)):
        q, k = torch.ones(1, 1, 1, 1, dtype=torch.float64), (keys + shift).double().view(1, 1, 12, 1)
        v = torch.arange(12, dtype=torch.float64).view(1, 1, 12, 1)
        expected = (keys.double().softmax(0) @ v[0, 0]).item()
        assert flash_attention(q, k, v, False, 1, 1).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("q_len", "kv_len", "causal"), [(0, 5, True), (0, 0, True), (5, 0, False)])
def test_nothing_to_ask_or_nothing_to_look_at(q_len, kv_len, causal):
    q, k, v = torch.ones(1, 2, q_len, 4, requires_grad=True), torch.ones(1, 2, kv_len, 4), torch.ones(1, 2, kv_len, 4)
    out, lse = attention_with_lse(q, k, v, causal)
    assert out.shape == q.shape
    assert not out.any()
    assert (lse == -torch.inf).all()
    out.sum().backward()
    assert not q.grad.any()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("q_len", "kv_len"), [(9, 9), (2, 7)])
def test_gradients_are_those_of_finite_differences(causal, q_len, kv_len):
    """Of the result and of the logsumexp."""
    operands = draw(q_len, kv_len, batch=1, head_dim=3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *qkv: attention_with_lse(*qkv, causal, 4, 3), operands)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_equal_pytorchs(dtype):
    ours, theirs = (draw(70, dtype=dtype, n_heads=6, requires_grad=True) for _ in range(2))
    flash_attention(*ours, True, 16, 32).float().square().sum().backward()
    exact = [each.detach().double().requires_grad_() for each in theirs]
    oracle(*exact, True).square().sum().backward()
    for mine, true in zip(ours, exact, strict=True):
        assert mine.grad.dtype == dtype
        error = (mine.grad.double() - true.grad).norm() / true.grad.norm()
        assert error < (1e-5 if dtype == torch.float32 else 1e-2), error


def test_it_keeps_for_backward_what_the_memory_formula_says():
    smol = model("SmolLM2-135M")
    q, k, v = draw(50, n_heads=9, n_kv_heads=3, head_dim=64, dtype=torch.float32, batch=1, requires_grad=True)
    with Kept() as kept:
        flash_attention(q, k, v)
    assert kept.bytes == block_activations(smol, Pass(1, 50, "fp32"))["attention"]


def test_a_later_token_never_changes_an_earlier_result_to_the_bit():
    q, k, v = plain(*draw(40))
    before = flash_attention(q, k, v, True, 16, 16)
    for each in (q, k, v):
        each[:, :, 21:] = 100.0
    after = flash_attention(q, k, v, True, 16, 16)
    assert torch.equal(before[:, :, :21], after[:, :, :21])
    assert not torch.equal(before[:, :, 21], after[:, :, 21])


def test_it_reads_views_of_any_layout_and_leaves_them_as_they_were():
    q, k, v = (each.transpose(1, 2).contiguous().transpose(1, 2) for each in plain(*draw(40)))
    copies = [each.clone() for each in (q, k, v)]
    torch.testing.assert_close(flash_attention(q, k, v, True, 16, 16), oracle(q, k, v, True), **EXACT)
    assert all(torch.equal(*pair) for pair in zip(copies, (q, k, v), strict=True))


def partials(q, k, v, edges):
    parts = zip([0, *edges], [*edges, k.shape[2]], strict=True)
    return [attention_with_lse(q, k[:, :, a:b], v[:, :, a:b], causal=False) for a, b in parts]


@pytest.mark.parametrize("edges", [[16], [1], [39], [8, 16, 24, 32], [5, 5, 30]])  # 5, 5: a part without keys
@pytest.mark.parametrize("order", [1, -1])
def test_partial_results_merge_to_the_whole_in_any_order(edges, order):
    q, k, v = plain(*draw(3, 40))
    (out, lse), *others = partials(q, k, v, edges)[::order]
    for other in others:
        out, lse = merge(out, lse, *other)
    torch.testing.assert_close(out, oracle(q, k, v, False), **EXACT)
    torch.testing.assert_close(lse, scores(q, k, False).logsumexp(-1), **EXACT)


def test_nothing_merged_with_nothing_is_nothing():
    zeros, nothing = torch.zeros(2, 4), torch.full((2,), -torch.inf)
    out, lse = merge(zeros, nothing, zeros, nothing)
    assert not out.any()
    assert torch.equal(lse, nothing)


def test_merging_survives_large_scores_and_keeps_the_type():
    one, two = (torch.full((1, 4), x, dtype=torch.bfloat16) for x in (1.0, 2.0))
    out, lse = merge(one, torch.tensor([1000.0]), two, torch.tensor([1000.0 + math.log(3)]))
    assert out.dtype == torch.bfloat16
    assert out.float().tolist() == [[1.75] * 4]
    assert lse.item() == pytest.approx(1000 + math.log(4))


def test_what_does_not_go_together_is_refused_in_a_line():
    q, k, v = plain(*draw(6))
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key/value heads evenly"):
        flash_attention(q, *2 * [k[:, :1].expand(-1, 3, -1, -1)])
    with pytest.raises(ValueError, match="last of the 5 tokens: there cannot be 6"):
        flash_attention(q, k[:, :, :5], v[:, :, :5])
    assert flash_attention(q, k[:, :, :5], v[:, :, :5], causal=False).shape == q.shape
    for blocks in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="at least one query and one key, not"):
            flash_attention(q, k, v, True, *blocks)
    for wrong in ((q, k.float(), v), (q[..., :4], k, v), (q[:1], k, v), (q, k, v[:, :, :5])):
        # Directly: in these tests the shapes in the signature are checked before.
        with pytest.raises(ValueError, match=r"^q \[.*do not go together: same batch, head_dim and type"):
            flash._require(*wrong, True, 4, 4)


def test_the_readable_attention_says_the_same():
    q, k, v = plain(*draw(30))
    torch.testing.assert_close(flash_attention(q, k, v, True, 8, 8), attention(q, k, v, visible(30, 30, True)), **EXACT)
