"""Attention over a text spread over ranks, against PyTorch's over the whole text."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from llmhw_helpers.costs.cuts import ring_attention_bytes
from llmhw_helpers.distributed import ring_attention as room
from llmhw_helpers.distributed import wire
from llmhw_helpers.distributed.ring_attention import Uneven, n_seen, positions, ring_attention
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.models import model

TINY = {"n_layers": 1, "n_heads": 6, "n_kv_heads": 2, "head_dim": 8, "d_model": 48, "d_ff": 48, "vocab_size": 50}
SPEC = replace(model("SmolLM2-135M"), **TINY)


@pytest.mark.parametrize("zigzag", [False, True])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_every_token_has_one_rank(n_ranks, zigzag):
    everywhere = torch.cat([positions(24, rank, n_ranks, zigzag) for rank in range(n_ranks)])
    assert everywhere.sort().values.tolist() == list(range(24))


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4])
def test_zigzag_all_have_the_same_to_do_and_else_the_last_nearly_twice_the_mean(n_ranks):
    plain, zigzag = ([n_seen(24, rank, n_ranks, way) for rank in range(n_ranks)] for way in (False, True))
    assert sum(plain) == sum(zigzag) == 24 * 25 / 2
    assert set(zigzag) == {24 * 25 // 2 // n_ranks}
    chunk = 24 // n_ranks
    assert max(plain) == (n_ranks - 1) * chunk**2 + chunk * (chunk + 1) / 2


@pytest.mark.parametrize(
    ("seq_len", "n_ranks", "zigzag", "longer"), [(10, 3, False, 12), (9, 3, True, 12), (0, 2, False, 2)]
)
def test_a_text_that_does_not_divide_is_refused(seq_len, n_ranks, zigzag, longer):
    with pytest.raises(Uneven, match=f"{seq_len} tokens do not make .* to {longer}"):
        positions(seq_len, 0, n_ranks, zigzag)


def text(seq_len, dtype):
    """Queries of 6 heads, keys and values of 2, and a slope of every result."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, slope = (torch.randn(2, n, seq_len, 8, generator=generator).to(dtype) for n in (6, 2, 2, 6))
    return [each.requires_grad_() for each in (q, k, v)], slope


def own(seq_len, zigzag):
    return positions(seq_len, dist.get_rank(), dist.get_world_size(), zigzag)


def differences(seq_len, zigzag, dtype):
    """The largest ones to PyTorch's attention over the whole text: results, and gradients of q, k and v."""
    qkv, slope = text(seq_len, dtype)
    want = F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=True)
    want.backward(slope)
    here = own(seq_len, zigzag)
    parts = [each.detach()[:, :, here].requires_grad_() for each in qkv]
    out = ring_attention(*parts, zigzag=zigzag)
    out.backward(slope[:, :, here])
    pairs = [(out, want), *((part.grad, whole.grad) for part, whole in zip(parts, qkv, strict=True))]
    assert all(got.dtype == dtype for got, _ in pairs)
    return [(got - whole[:, :, here]).abs().max().item() for got, whole in pairs]


@pytest.mark.parametrize(
    ("seq_len", "zigzag", "dtype", "atol"),
    [
        (600, False, torch.float64, 1e-12),
        (600, True, torch.float64, 1e-12),
        (3, False, torch.float64, 1e-12),
        (6, True, torch.float64, 1e-12),
        (600, True, torch.float32, 2e-5),
        (600, True, torch.bfloat16, 0.1),  # gradients of keys are sums of 600 numbers
    ],
)
def test_it_is_attention_over_the_whole_text(three_ranks, seq_len, zigzag, dtype, atol):
    for found in three_ranks.run(differences, seq_len, zigzag, dtype):
        assert max(found) < atol, found


def test_without_others_it_is_attention(two_ranks):
    def alone():
        groups = [dist.new_group([rank], timeout=timedelta(seconds=30)) for rank in range(2)]
        qkv, slope = text(16, torch.float64)
        want = F.scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=True)
        out = ring_attention(*qkv, group=groups[dist.get_rank()])
        got = torch.autograd.grad(out, qkv, slope)
        return [(a - b).abs().max().item() for a, b in zip(got, torch.autograd.grad(want, qkv, slope), strict=True)]

    for found in two_ranks.run(alone):
        assert max(found) < 1e-12


def model_on_a_spread_text(zigzag):
    """Logits of a model whose layers know nothing of ranks, but for how they attend."""
    torch.manual_seed(0)
    whole = Transformer(SPEC).double()
    tokens = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(1))
    here = own(24, zigzag)
    x = whole.embed(tokens[:, here])
    rotation = whole.rotation(x, here)
    for block in whole.blk:
        x = block(x, rotation, lambda q, k, v: ring_attention(q, k, v, zigzag=zigzag))
    return (whole.head(whole.output_norm(x)) - whole(tokens)[:, here]).abs().max().item()


@pytest.mark.parametrize("zigzag", [False, True])
def test_a_model_reads_a_spread_text_by_it(three_ranks, zigzag):
    assert max(three_ranks.run(model_on_a_spread_text, zigzag)) < 1e-12


def counted(zigzag, training):
    """Bytes that this rank sent, and products of a query with a key that it made, a chunk's own half of them."""
    sent, pairs, send, attend = [], [], dist.isend, room.attention_with_lse

    def counting(q, k, v, causal):
        pairs.append(q.shape[2] * (q.shape[2] + 1) // 2 if causal else q.shape[2] * k.shape[2])
        return attend(q, k, v, causal)

    parts = [each.detach()[:, :, own(24, zigzag)].requires_grad_(training) for each in text(24, torch.float32)[0]]
    dist.isend = lambda x, **how: sent.append(x.nbytes) or send(x, **how)
    room.attention_with_lse = counting
    try:
        out = ring_attention(*parts, zigzag=zigzag)
        n_pairs = sum(pairs)
        if training:
            out.sum().backward()
    finally:
        dist.isend, room.attention_with_lse = send, attend
    return sum(sent), n_pairs


@pytest.mark.parametrize("zigzag", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_it_sends_and_multiplies_what_was_predicted(three_ranks, zigzag, training):
    for rank, (sent, pairs) in enumerate(three_ranks.run(counted, zigzag, training)):
        assert sent == ring_attention_bytes(SPEC, 2 * 24, 3, training)  # two texts
        assert pairs == n_seen(24, rank, 3, zigzag)


def on_the_wire(training):
    parts = [torch.randn(1, n, 512, 64).requires_grad_(training) for n in (4, 2, 2)]
    with wire.counted() as found:
        out = ring_attention(*parts)
        if training:
            out.sum().backward()
    return found.sent_payload_bytes


@pytest.mark.parametrize("training", [False, True])
def test_the_kernel_counts_what_was_predicted(wired_ranks, training):
    predicted = ring_attention_bytes(replace(SPEC, head_dim=64), 3 * 512, 3, training)
    for sent in wired_ranks.run(on_the_wire, training):
        assert 1 < sent / predicted < 1.01


def said(shape, zigzag=False):
    x = torch.zeros(shape)
    try:
        ring_attention(x, x, x, zigzag=zigzag)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


def different_lengths():
    return said((1, 2, 4 + dist.get_rank(), 8))


def different_orders():
    return said((1, 2, 4, 8), zigzag=dist.get_rank() == 0)


def an_odd_length():
    return said((1, 2, 5, 8), zigzag=True)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (different_lengths, r"Uneven: .* here are \[1, 2, 4, 8\] .* on rank 1 \[1, 2, 5, 8\]"),
        (different_orders, "Uneven: .* zigzag=True, on rank 1 .* zigzag=False"),
        (an_odd_length, "Uneven: zigzag, .* 5 tokens are not two equal ones"),
    ],
)
def test_ranks_that_do_not_agree_say_so_before_they_send(two_ranks, call, says):
    answers = two_ranks.run(call)
    assert re.match(says, answers[0])
    assert all(answers)
