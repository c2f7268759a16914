"""Operations by part against PyTorch's own counter, on the course's model at full size without its numbers."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs.activations import NoFormula
from llmhw_helpers.costs.transformer import even_length, forward_flops
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.models import model

PARTS = {
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "output": ("attn_output",),
    "mlp": ("ffn_gate", "ffn_up", "ffn_down"),
}


def counted(spec, batch_size, seq_len):
    """By the module that calls; attention is what a block does itself, and the head what the model does."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Transformer(spec)
        network(torch.zeros(batch_size, seq_len, dtype=torch.long))
    by_module = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    sums = {
        part: sum(flops for name, flops in by_module.items() if name.endswith(modules))
        for part, modules in PARTS.items()
    }
    blocks = sum(flops for name, flops in by_module.items() if name.split(".")[-1].isdigit())
    whole = counter.get_total_flops()
    return sums | {"attention": blocks - sum(sums.values()), "head": whole - blocks}


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-3.1-8B", "Llama-2-7B", "Llama-3.2-1B", "Llama-3.1-405B"])
@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 1), (2, 300)])
def test_every_part_equals_pytorchs_count(name, batch_size, seq_len):
    assert forward_flops(model(name), batch_size, seq_len) == counted(model(name), batch_size, seq_len)


def test_heads_wider_than_the_stream_are_counted():
    spec = replace(model("SmolLM2-135M"), head_dim=128, n_layers=2)
    assert forward_flops(spec, 3, 50) == counted(spec, 3, 50)


def test_the_head_may_be_asked_for_some_positions():
    smol = model("SmolLM2-135M")
    assert forward_flops(smol, 4, 512, n_logits=1)["head"] == 4 * 2 * 576 * 49152
    assert forward_flops(smol, 4, 512, n_logits=0)["head"] == 0


def test_two_operations_a_parameter_and_the_pairs():
    """Kaplan et al. (arXiv:2001.08361), table 1: 2 N + 2 n_layer n_ctx d_attn, which counts the causal half."""
    llama = model("Llama-3.1-8B")
    parts, matrices = forward_flops(llama, 1, 100), llama.n_params - llama.parameters()["norms"]
    assert sum(parts.values()) - parts["attention"] == 2 * 100 * (matrices - llama.parameters()["embedding"])
    assert parts["attention"] == 100 * 2 * (2 * 32 * 100 * 4096)


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-3.1-8B", "Llama-3.1-405B"])
def test_at_the_even_length_both_are_even(name):
    parts = forward_flops(model(name), 1, even_length(model(name)))
    assert parts["attention"] == pytest.approx(parts["qkv"] + parts["output"] + parts["mlp"], rel=1e-3)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(NoFormula, match="Mixtral-8x7B has experts"):
        forward_flops(model("Mixtral-8x7B"), 1, 1)
    for wrong in ((0, 5, None), (1, 0, None), (1, 5, 6)):
        with pytest.raises(ValueError, match="at least one token"):
            forward_flops(model("SmolLM2-135M"), *wrong)
