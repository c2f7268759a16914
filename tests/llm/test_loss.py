"""The fused loss against PyTorch's cross-entropy: the value, the gradients, and what it keeps."""

import pytest
import torch
import torch.nn.functional as F

from llmhw_helpers.llm.loss import head_loss


def case(dtype=torch.float32, n=33, d_model=16, vocab_size=70):
    torch.manual_seed(0)
    x, weight = torch.randn(n, d_model, dtype=dtype), torch.randn(vocab_size, d_model, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(0, vocab_size, (n,))


def both(x, weight, targets, slope=1.0):
    ours = head_loss(x, weight, targets)
    (slope * ours).backward()
    gradients = x.grad.clone(), weight.grad.clone()
    x.grad = weight.grad = None
    oracle = F.cross_entropy(F.linear(x, weight).float(), targets)
    (slope * oracle).backward()
    return (ours, *gradients), (oracle, x.grad, weight.grad)


@pytest.mark.parametrize("slope", [1.0, 0.25])
def test_value_and_gradients_equal_pytorchs(slope):
    for ours, oracle in zip(*both(*case(), slope), strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-6, rtol=1e-5)


def test_in_bf16_the_loss_is_computed_in_fp32():
    ours, oracle = both(*case(torch.bfloat16))
    assert ours[0].dtype == torch.float32
    torch.testing.assert_close(ours[0], oracle[0], atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(ours[1:], oracle[1:], strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=2e-2)


def test_a_frozen_head_gets_no_gradient_and_passes_one_on():
    x, weight, targets = case()
    weight.requires_grad_(False)
    head_loss(x, weight, targets).backward()
    assert weight.grad is None
    mine = x.grad.clone()
    x.grad = None
    F.cross_entropy(F.linear(x, weight), targets).backward()
    torch.testing.assert_close(mine, x.grad, atol=1e-6, rtol=1e-5)


def test_one_tensor_over_the_vocabulary_is_kept_and_not_two():
    kept = []
    x, weight, targets = case(n=64, vocab_size=1000)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        head_loss(x, weight, targets)
    assert kept.count(64 * 1000) == 1
    assert max(kept) == 64 * 1000
