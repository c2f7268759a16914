"""The readable attention against PyTorch's fused one, and that nobody sees the future."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llmhw_helpers.llm.attention import attention, attention_maps, attention_weights, causal_mask, repeat_heads
from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.transformer import TokenError, Transformer
from llmhw_helpers.specs.models import model

TINY = replace(
    model("SmolLM2-135M"),
    **{"n_layers": 3, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "vocab_size": 50},
)


def draw(batch=2, n_heads=4, n_kv_heads=4, q_len=7, kv_len=7, head_dim=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (n_heads, q_len), (n_kv_heads, kv_len), (n_kv_heads, kv_len)
    return [torch.randn(batch, *shape, head_dim, generator=generator).to(dtype) for shape in shapes]


def oracle(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def masks(q_len, kv_len):
    some = torch.rand(q_len, kv_len, generator=torch.Generator().manual_seed(1)) < 0.5
    some[:, 0] = True
    return {"none": None, "some": some, "all": torch.ones(q_len, kv_len, dtype=torch.bool)}


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(4, 4), (4, 2), (4, 1), (9, 3), (1, 1)])
@pytest.mark.parametrize(("q_len", "kv_len"), [(7, 7), (1, 7), (5, 9), (1, 1), (64, 64)])
@pytest.mark.parametrize("mask", ["none", "some", "all", "causal"])
def test_it_equals_the_fused_attention(n_heads, n_kv_heads, q_len, kv_len, mask):
    q, k, v = draw(n_heads=n_heads, n_kv_heads=n_kv_heads, q_len=q_len, kv_len=kv_len)
    if mask == "causal":
        if q_len != kv_len:
            pytest.skip("causal as it is here: every query has its key")
        theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        torch.testing.assert_close(attention(q, k, v, causal_mask(q_len)), theirs, atol=1e-5, rtol=1e-5)
    else:
        allowed = masks(q_len, kv_len)[mask]
        torch.testing.assert_close(attention(q, k, v, allowed), oracle(q, k, v, allowed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_the_one_in_64_rounded_once(dtype):
    q, k, v = draw(dtype=dtype, n_kv_heads=2, q_len=33, kv_len=33)
    ours = attention(q, k, v, causal_mask(33))
    assert ours.dtype == dtype
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ours.double(), exact, atol=1e-2, rtol=torch.finfo(dtype).eps)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(ours.double(), theirs.double(), atol=2e-2, rtol=2e-2)


def test_in_64_bits_nothing_is_lost_on_the_way():
    q, k, v = draw(dtype=torch.float64, n_kv_heads=2, q_len=33, kv_len=33)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v, causal_mask(33)), theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("q_len", "kv_len"), [(0, 5), (0, 0), (5, 0)])
def test_nothing_to_ask_or_nothing_to_look_at(q_len, kv_len):
    result = attention(*draw(q_len=q_len, kv_len=kv_len))
    assert result.shape == (2, 4, q_len, 16)
    assert not result.any()
    assert torch.equal(result, oracle(*draw(q_len=q_len, kv_len=kv_len)))


def test_a_query_that_may_see_nothing_gets_zeros_and_not_nan():
    mask = causal_mask(7)
    mask[2] = False
    weights = attention_weights(*draw()[:2], mask)
    assert not weights[:, :, 2].any()
    torch.testing.assert_close(weights.sum(-1)[:, :, 3:], torch.ones(2, 4, 4))


def test_a_mask_may_differ_between_sequences():
    q, k, v = draw()
    mask = torch.stack([causal_mask(7), torch.ones(7, 7, dtype=torch.bool)])[:, None]
    torch.testing.assert_close(attention(q, k, v, mask), oracle(q, k, v, mask), atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_fused_ones():
    ours, theirs = ([each.requires_grad_() for each in draw(n_kv_heads=2)] for _ in range(2))
    attention(*ours, causal_mask(7)).square().sum().backward()
    F.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True).square().sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_heads_that_cannot_be_shared_out_are_refused():
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key/value heads evenly"):
        attention(*draw(n_kv_heads=3))
    assert torch.equal(repeat_heads(torch.arange(2.0).view(1, 2, 1, 1), 4).flatten(), torch.tensor([0.0, 0, 1, 1]))


@pytest.mark.parametrize("changed", [1, 5, 11])
def test_a_later_token_never_changes_an_earlier_output_to_the_bit(changed):
    q, k, v = draw(q_len=12, kv_len=12)
    before = attention(q, k, v, causal_mask(12))
    for each in (q, k, v):
        each[:, :, changed:] = 100.0
    after = attention(q, k, v, causal_mask(12))
    assert torch.equal(before[:, :, :changed], after[:, :, :changed])
    assert not torch.equal(before[:, :, changed], after[:, :, changed])


@torch.inference_mode()
@pytest.mark.parametrize("changed", [1, 5, 11])
def test_nor_does_it_in_the_whole_model(changed):
    torch.manual_seed(0)
    network, tokens = Transformer(TINY), torch.randint(0, 50, (2, 12))
    before = network(tokens)
    tokens[:, changed:] = (tokens[:, changed:] + 1) % 50
    after = network(tokens)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.equal(before[:, changed], after[:, changed])


def on_maps(network, tokens, maps):
    """The model's logits, built again on the weights in `maps`."""
    x = network.embed(tokens)
    for block, weights in zip(network.blk, maps, strict=True):
        _, _, v = block.qkv(block.attn_norm(x), network.rotation(x))
        x = x + block.attn_output((weights @ repeat_heads(v, len(weights))).transpose(1, 2).flatten(2))
        y = block.ffn_norm(x)
        x = x + block.ffn_down(F.silu(block.ffn_gate(y)) * block.ffn_up(y))
    return network.head(network.output_norm(x))


@torch.inference_mode()
def test_the_maps_are_what_the_model_looks_at():
    torch.manual_seed(0)
    network, tokens = Transformer(TINY), torch.randint(0, 50, (1, 12))
    for parameter in network.parameters():
        parameter.mul_(5 if parameter.dim() == 2 else 1)
    maps = attention_maps(network, tokens)
    assert maps.shape == (3, 4, 12, 12)
    torch.testing.assert_close(on_maps(network, tokens, maps), network(tokens), atol=1e-4, rtol=1e-4)
    with pytest.raises(TokenError):
        attention_maps(network, tokens + 100)


@torch.inference_mode()
def test_so_are_those_of_the_real_model():
    network, tokens = load_model(), torch.arange(1000, 1040)[None]
    logits, again = network(tokens), on_maps(network, tokens, attention_maps(network, tokens))
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-5)
    assert torch.equal(again.argmax(-1), logits.argmax(-1))
