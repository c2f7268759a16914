"""Small Llamas of transformers, saved as its users save them: the oracle of our own."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def small_llama():
    """A function that makes one; its arguments change the configuration."""
    return make


def make(**changes) -> LlamaForCausalLM:
    """Random weights, large enough that every part shows in the logits; biases and norms away from 0 and 1."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**(SMALL | changes))).eval()
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return llama
