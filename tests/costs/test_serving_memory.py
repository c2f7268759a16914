"""The memory of serving, against what vLLM prints when it starts."""

import pytest

from llmhw_helpers.costs.serving_memory import serving_memory
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.models import model


def test_a_log_of_an_8b_on_an_h100():
    """vLLM 0.11: 14.99 GiB of weights, 4.76 of activations, 0.13 outside of PyTorch, 51.38 for the cache."""
    found = serving_memory(model("Llama-3.1-8B"), accelerator("H100"), max_model_len=16000, program="vLLM 0.11")
    assert found.weights / 2**30 == pytest.approx(14.99, rel=0.005)
    assert found.kv_bytes_per_token == 131072
    assert found.reserve.usual / 2**30 == pytest.approx(4.89, rel=0.05)
    assert found.kv_tokens[1] * 131072 / 2**30 == pytest.approx(51.38, rel=0.01)
    assert found.starts == "yes"
