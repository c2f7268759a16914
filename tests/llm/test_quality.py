"""The measures of a model against torch's own losses, and on models that are known to be right or useless."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llmhw_helpers.llm.quality import assess, log_probabilities
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.models import model


@pytest.fixture
def network():
    spec = replace(
        model("SmolLM2-135M"),
        **{"n_layers": 1, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "d_ff": 48, "vocab_size": 20},
    )
    torch.manual_seed(0)
    result = Transformer(spec)
    result.token_embd.weight.data.normal_(std=0.5)
    return result


TOKENS = torch.arange(24).view(3, 8) * 7 % 20


@torch.no_grad()
def test_perplexity_is_that_of_torchs_cross_entropy(network):
    loss = F.cross_entropy(network(TOKENS)[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
    assert assess(network, TOKENS).perplexity == pytest.approx(loss.exp().item(), rel=1e-5)


def test_a_model_is_its_own_equal(network):
    found = assess(network, TOKENS, log_probabilities(network, TOKENS))
    assert found.agreement == 1
    assert found.divergence == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_another_model_is_apart_by_the_divergence_of_the_two(network):
    other = copy.deepcopy(network)
    other.token_embd.weight.data[::2].mul_(0.2)
    p, q = (each(TOKENS).softmax(-1).flatten(0, 1) for each in (network, other))
    found = assess(other, TOKENS, log_probabilities(network, TOKENS))
    assert found.divergence == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).float().mean().item())
    assert 0 < found.agreement < 1


def test_what_tells_nothing_is_refused(network):
    with pytest.raises(ValueError, match="two tokens at least"):
        assess(network, TOKENS[:, :1])
    with pytest.raises(ValueError, match=r"the reference is for \(2, 8\) tokens, not \(3, 8\)"):
        assess(network, TOKENS, log_probabilities(network, TOKENS[:2]))
