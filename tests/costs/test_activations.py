"""What operations keep: equal to the tensors that torch saves, to the byte, operation by operation."""

import dataclasses
import re

import pytest

from llmhw_helpers.costs.activations import NoFormula, Pass, activations, block_activations, block_operations
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import MODELS, model

RUNS = {
    "bf16": Pass(2, 32),
    "bf16 logits": Pass(2, 32, logits_dtype="bf16"),
    "fp16": Pass(3, 20, "fp16"),
    "composed norm": Pass(2, 32, norm="composed"),
    "fp32": Pass(2, 32, "fp32"),
    "fp32, composed norm": Pass(1, 33, "fp32", norm="composed"),
    "naive attention": Pass(2, 32, attention="naive"),
    "one sequence, naive": Pass(1, 32, attention="naive"),
    "repeated heads": Pass(2, 32, native_gqa=False),
    "recomputed": Pass(2, 32, recompute="full"),
    "one token": Pass(1, 1),
}
SHAPES = {
    "GQA": {},
    "all heads": {"n_kv_heads": 4},
    "one KV head, tied": {"n_kv_heads": 1, "tied_embeddings": True},
    "heads wider than the stream": {"head_dim": 32},
}


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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Mixtral-8x7B", "a mixture of experts"),
        ("Qwen3-30B-A3B", "a mixture of experts and normalised queries and keys"),
        ("DeepSeek-V3", "a mixture of experts and latent attention (MLA)"),
        ("gemma-2-2b", "norms after attention and MLP and a sliding window"),
        ("Qwen2.5-7B", "biases"),
    ],
)
def test_a_model_without_a_formula_is_refused_in_one_line(name, reason):
    line = f"no activation formula for {name}, which has {reason}: dense Llama-style only"
    with pytest.raises(NoFormula, match=f"^{re.escape(line)}$"):
        activations(model(name), Pass(1, 1))


def test_every_model_of_the_course_has_a_formula_or_is_refused():
    dense = {"SmolLM2-135M", "Llama-2-7B", "Llama-2-13B", "Llama-2-70B", "Llama-3.1-8B", "Llama-3.1-70B"}
    for each in MODELS.values():
        if each.name in dense | {"Llama-3.1-405B", "Llama-3.2-1B"}:
            assert block_operations(each, Pass(1, 1))
        else:
            with pytest.raises(NoFormula, match=f"^no activation formula for {each.name}.*$"):
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
