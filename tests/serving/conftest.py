"""A tiny model whose logits differ enough to tell a mistake."""

from dataclasses import replace

import pytest
import torch

from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.models import model


@pytest.fixture(scope="session")
def tiny_spec():
    """Grouped queries, and every width its own."""
    return replace(
        model("SmolLM2-135M"),
        **{"n_layers": 3, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48},
        **{"vocab_size": 50, "context_length": 64},
    )


@pytest.fixture
def tiny(tiny_spec):
    """Large weights, so that every token shows in the logits."""
    torch.manual_seed(0)
    network = Transformer(tiny_spec)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    return network
