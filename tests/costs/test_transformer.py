"""Operations by part against PyTorch's own counter, on the course's model at full size without its numbers."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs.transformer import even_length, forward_flops, pair_flops, require, score_flops, visible_pairs
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.models import MODELS, model

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
    spec = replace(model(name), n_layers=3)  # each is as the other, and the largest has 126
    assert forward_flops(spec, batch_size, seq_len) == counted(spec, batch_size, seq_len)


def test_every_layer_is_counted():
    assert forward_flops(model("SmolLM2-135M"), 1, 1) == counted(model("SmolLM2-135M"), 1, 1)


def test_heads_wider_than_the_stream_are_counted():
    spec = replace(model("SmolLM2-135M"), head_dim=128, n_layers=2)
    assert forward_flops(spec, 3, 50) == counted(spec, 3, 50)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize(("batch_size", "seq_len"), [(1, 1), (2, 7)])
def test_other_families_equal_pytorchs_count_of_their_twins(twins, family, batch_size, seq_len):
    """Experts one after the other, so that each multiplies its own tokens and no padding."""
    network, spec = twins(family)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.randint(50, (batch_size, seq_len)), use_cache=False)
    by_module = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    parts = forward_flops(spec, batch_size, seq_len)
    assert sum(parts.values()) == by_module["Global"]
    routers = sum(flops for name, flops in by_module.items() if name.endswith("mlp.gate"))
    experts = sum(flops for name, flops in by_module.items() if name.endswith(("mlp.experts", "mlp.shared_experts")))
    assert (parts.get("router", 0), parts.get("experts", 0)) == (routers, experts)


def test_queries_without_a_latent_of_their_own(twins):
    network, spec = twins("deepseek_v3", q_lora_rank=None)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.randint(50, (2, 7)), use_cache=False)
    assert sum(forward_flops(spec, 2, 7).values()) == counter.get_total_flops()


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "mixtral"])
@pytest.mark.parametrize("seq_len", [1, 4, 5, 6, 17])
def test_visible_pairs_are_those_of_transformers_masks(twins, family, seq_len):
    """gemma2: two of three layers are local. Its table is computed whole, and that is what `forward_flops` leaves."""
    network, spec = twins(family)
    seen = []
    for layer in network.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, __, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.randint(50, (1, seq_len)), use_cache=False)
    visible = [int((mask[0, 0] == 0).sum()) for mask in seen]
    assert visible_pairs(spec, 0, seq_len) == sum(visible)
    assert visible_pairs(spec, seq_len - 1, 1) == sum(int((mask[0, 0, -1] == 0).sum()) for mask in seen)
    assert visible_pairs(spec, 0, seq_len) == sum(visible_pairs(spec, n, 1) for n in range(seq_len))
    never_seen = seq_len * (spec.n_layers * seq_len - visible_pairs(spec, seq_len - 1, 1))
    parts = forward_flops(spec, 1, seq_len)
    assert sum(parts.values()) + never_seen * pair_flops(spec) == counter.get_total_flops()


def test_a_window_as_long_as_the_text_is_none():
    llama = model("Llama-3.1-8B")
    local = replace(llama, sliding_window=512, n_local_layers=32)
    assert forward_flops(local, 2, 512) == forward_flops(llama, 2, 512)
    assert forward_flops(local, 2, 513)["attention"] == forward_flops(llama, 2, 513)["attention"] * 512 // 513


def test_scores_are_one_of_the_two_products():
    for spec in MODELS.values():
        if not spec.latent:
            assert pair_flops(spec) == 2 * score_flops(spec)
    deepseek = model("DeepSeek-V3")
    assert score_flops(deepseek) == 2 * 128 * 192
    assert pair_flops(deepseek) - score_flops(deepseek) == 2 * 128 * 128


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


def test_windows_move_the_even_length_or_take_it_away():
    smol = model("SmolLM2-135M")
    mixed = replace(smol, sliding_window=512, n_local_layers=15)
    parts = forward_flops(mixed, 1, even_length(mixed))
    assert parts["attention"] == pytest.approx(parts["qkv"] + parts["output"] + parts["mlp"], rel=1e-3)
    assert even_length(replace(mixed, n_local_layers=30)) == float("inf")
    assert even_length(replace(mixed, sliding_window=3072)) == even_length(smol)


class WithAPart(type(model("SmolLM2-135M"))):
    """A family whose difference no formula knows yet."""

    def unlike_llama(self, but=()):
        return [part for part in (*super().unlike_llama(but), "a part that nobody knows") if part not in but]


def test_an_mlp_without_a_gate_has_two_matrices():
    """GPT-2, 12 layers of width 768: its 124,439,808 parameters without vectors and positions, two operations each."""
    vectors = 12 * (2 * 2 * 768 + 3 * 768 + 768 + 4 * 768 + 768) + 2 * 768 + 1024 * 768
    parts = forward_flops(model("gpt2"), 1, 1)
    assert sum(parts.values()) - parts["attention"] == 2 * (124_439_808 - vectors)


def test_what_cannot_be_counted_is_refused():
    new = WithAPart(**{name: getattr(model("SmolLM2-135M"), name) for name in WithAPart.__dataclass_fields__})
    with pytest.raises(
        NoFormula, match="^no count of operations for SmolLM2-135M, which has a part that nobody knows$"
    ):
        forward_flops(new, 1, 1)
    require(new, "count", but=["a part that nobody knows"])
    for wrong in ((0, 5, None), (1, 0, None), (1, 5, 6)):
        with pytest.raises(ValueError, match="at least one token"):
            forward_flops(model("SmolLM2-135M"), *wrong)
