"""What operations keep: equal to the tensors that torch saves, to the byte, operation by operation."""

import dataclasses
import re

import pytest

from llmhw_helpers.costs.activations import (
    KNOWN,
    activations,
    block_activations,
    block_operations,
    first_operations,
    last_operations,
)
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.specs.architectures import Experts, LatentAttention, NoFormula
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import MODELS, model

RUNS = {
    "bf16": Pass(2, 32),
    "bf16 logits": Pass(2, 32, logits_dtype="bf16"),
    "fp16": Pass(3, 20, "fp16"),
    "composed norm": Pass(2, 32, norm="composed"),
    "fp32": Pass(2, 32, "fp32"),
    "fp32, composed norm": Pass(1, 34, "fp32", norm="composed"),
    "naive attention": Pass(2, 32, attention="naive"),
    "one sequence, naive": Pass(1, 32, attention="naive"),
    "repeated heads": Pass(2, 32, native_gqa=False),
    "recomputed": Pass(2, 32, recompute="full"),
    "attention recomputed": Pass(2, 32, recompute="selective"),
    "naive attention recomputed": Pass(2, 32, attention="naive", recompute="selective"),
    "repeated heads, attention recomputed": Pass(2, 32, native_gqa=False, recompute="selective"),
    "one token": Pass(1, 1),
}
SHAPES = {
    "GQA": {},
    "all heads": {"n_kv_heads": 4},
    "one KV head, tied": {"n_kv_heads": 1, "tied_embeddings": True},
    "heads wider than the stream": {"head_dim": 32},
}


EXPERTS = Experts(n_experts=4, n_experts_per_token=2, d_ff_expert=24)
LATENT = LatentAttention(24, 20, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10)
FAMILIES = {
    "Qwen2": {"qkv_bias": True},
    "biases everywhere": {"qkv_bias": True, "o_bias": True, "mlp_bias": True},
    "Qwen3": {"qk_norm": True},
    "Mistral": {"sliding_window": 8, "n_local_layers": 2},
    "Mixtral": {"experts": EXPERTS},
    "experts after a dense layer": {"experts": dataclasses.replace(EXPERTS, n_dense_layers=1, n_shared_experts=2)},
    "latent": {"latent": LATENT},
    "latent, queries without": {"latent": dataclasses.replace(LATENT, q_lora_rank=None)},
    "DeepSeek-V3": {"latent": LATENT, "experts": dataclasses.replace(EXPERTS, n_dense_layers=1, n_shared_experts=1)},
}


@pytest.mark.parametrize("run", [name for name in RUNS if name != "one token"])
@pytest.mark.parametrize("family", FAMILIES)
def test_so_are_those_of_other_families(oracle, family, run):
    spec, run = dataclasses.replace(oracle.small(), **FAMILIES[family]), RUNS[run]
    for layer in (0, 1):
        whole, block = oracle.kept(spec, run, layer)
        assert block_activations(spec, run, layer) == block
        assert activations(spec, run) == whole


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_they_are_the_tensors_that_torch_saves_to_the_byte(oracle, shape, run):
    small = oracle.small(**shape)
    whole, block = oracle.kept(small, run)
    assert block_activations(small, run) == block
    assert activations(small, run) == whole


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-2-7B", "SmolLM2-135M", "Llama-3.2-1B"])
def test_at_the_sizes_of_real_models(oracle, name):
    """Four layers: every further one is the same."""
    four, run = dataclasses.replace(model(name), n_layers=4), Pass(2, 1024, logits_dtype="bf16")
    whole, block = oracle.kept(four, run)
    assert block_activations(four, run) == block
    assert activations(four, run) == whole


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-2-7B", "SmolLM2-135M", "Llama-3.2-1B"])
def test_the_closed_form(name):
    """L s b (2 (6h + 2kd + 4f) + 4a + 8) + s b (4h + 2V), for bf16, fused norm and attention, native GQA, bf16 loss;
    the last norm's number a row and the loss's scalar are what it leaves out."""
    m, tokens = model(name), 2 * 512
    h, kv, a = m.d_model, m.n_kv_heads * m.head_dim, m.n_heads
    block = tokens * (2 * (6 * h + 2 * kv + 4 * m.d_ff) + 4 * a + 8)
    total = m.n_layers * block + tokens * (4 * h + 2 * m.vocab_size)
    run = Pass(2, 512, logits_dtype="bf16")
    assert sum(block_activations(m, run).values()) == block
    assert sum(activations(m, run).values()) == total + 4 * tokens + 2


def test_the_copied_formula_34sbh_is_up_to_a_quarter_low_for_a_llama_block():
    low = {}
    for m in map(model, ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-8B", "Llama-3.2-1B")):
        low[m.name] = 1 - 34 * m.d_model / sum(block_activations(m, Pass(1, 1)).values())
    assert [round(each, 2) for each in low.values()] == [0.02, 0.09, 0.17, 0.25]


def test_naive_attention_grows_with_the_square_of_the_length_and_fused_does_not():
    m = model("Llama-3.1-8B")
    for attention, factor in (("fused", 2), ("naive", 4)):
        short, long = (block_activations(m, Pass(1, n, attention=attention))["attention"] for n in (2**20, 2**21))
        assert long / short == pytest.approx(factor, rel=0.01)


def test_selective_recomputation_spares_the_table_and_little_else():
    """arXiv:2205.05198, section 5: what is left grows with the length, and not with its square."""
    m = model("Llama-3.1-8B")
    naive = {
        how: block_activations(m, Pass(1, 4096, attention="naive", recompute=how)) for how in ("none", "selective")
    }
    spared = naive["none"]["attention"] - naive["selective"]["attention"]
    assert spared == 32 * 4096**2 * 2 + 2 * 4096 * (4096 - 1024) * 2  # the table, and what the repeated heads add
    fused = {how: block_activations(m, Pass(1, 4096, recompute=how))["attention"] for how in ("none", "selective")}
    assert fused["none"] - fused["selective"] == 4 * 32 * 4096  # a flash kernel forgets the table by itself


def test_what_nobody_counts_is_refused_in_one_line():
    line = "no formula of activations for gemma-2-2b, which has norms after each part"
    with pytest.raises(NoFormula, match=f"^{re.escape(line)}"):
        activations(model("gemma-2-2b"), Pass(1, 1))
    relu = dataclasses.replace(model("SmolLM2-135M"), activation="relu")
    for formula in (block_operations, first_operations, last_operations):
        with pytest.raises(NoFormula, match="which has the activation relu"):
            formula(relu, Pass(1, 1))


def test_every_model_of_the_course_has_a_formula_or_is_refused():
    known = {"SmolLM2-135M", "Llama-2-7B", "Llama-2-13B", "Llama-2-70B", "Llama-3.1-8B", "Llama-3.1-70B", "Qwen2.5-7B"}
    known |= {"Llama-3.1-405B", "Llama-3.2-1B", "Qwen3-30B-A3B", "Mixtral-8x7B", "DeepSeek-V3"}
    assert known <= set(MODELS)
    for each in MODELS.values():
        if each.name in known:
            assert block_operations(each, Pass(1, 1))
        elif each.unlike_llama(KNOWN):
            with pytest.raises(NoFormula, match=f"^no formula of activations for {each.name}, which has "):
                block_operations(each, Pass(1, 1))


@pytest.mark.parametrize(
    ("choices", "line"),
    [
        ({"activation_dtype": "bf15"}, "unknown number format 'bf15'; did you mean bf16"),
        ({"logits_dtype": "float33"}, "unknown number format 'float33'"),
        ({"attention": "flashy"}, "unknown attention 'flashy'; known are fused, naive"),
        ({"norm": "fuse"}, "unknown norm 'fuse'; did you mean fused?"),
        ({"recompute": "some"}, "unknown recomputation 'some'"),
    ],
)
def test_unknown_choices_get_the_nearest_names(choices, line):
    with pytest.raises(UnknownName, match=re.escape(line)):
        Pass(1, 1, **choices)


def test_integers_have_no_gradients_and_a_batch_has_a_token():
    with pytest.raises(ValueError, match="activations in int8 have no gradients"):
        Pass(1, 1, "int8")
    with pytest.raises(ValueError, match="at least one token: 0 x 5"):
        Pass(0, 5)
