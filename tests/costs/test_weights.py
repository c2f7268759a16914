"""Weights in flavours: against published files and start-up logs, and against the count of tensors."""

from dataclasses import replace

import pytest

from llmhw_helpers.costs import inference
from llmhw_helpers.costs.weights import matrices, weight_bytes, weights_read
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.flavours import flavour
from llmhw_helpers.specs.models import MODELS, model
from llmhw_helpers.specs.serving_flavours import SERVING_FLAVOURS, serving_flavour

PLAIN = ("bf16", "fp16", "fp32", "FP8 W8A8", "AWQ int4", "bnb int4", "FP8 blocks")


@pytest.mark.parametrize("name", MODELS)
def test_sixteen_bits_are_two_bytes_a_parameter(name):
    assert weight_bytes(model(name), flavour("bf16")) == 2 * model(name).n_params


@pytest.mark.parametrize("name", ["gpt2", "falcon-7b", "gpt-oss-20b", "Qwen2.5-7B", "DeepSeek-V2-Lite"])
def test_matrices_are_all_but_vectors_tables_and_routers(name):
    each, of = model(name), flavour("int8 w8a8")
    parts = each.parameters()
    rest = sum(parts.get(part, 0) for part in ("embedding", "positions", "router", "norms", "head"))
    biases = each.n_layers * (
        (each.q_width + 2 * each.kv_width if each.qkv_bias else 0)
        + (each.d_model if each.o_bias else 0)
        + (each.d_ff + each.d_model if each.mlp_bias else 0)
        + (each.n_heads if each.attention_sinks else 0)
    )
    if each.experts and each.experts.bias:
        biases += each.n_layers * each.experts.n_experts * (2 * each.experts.d_ff_expert + each.d_model)
    assert sum(matrices(each, of).values()) == each.n_params - rest - biases


@pytest.mark.parametrize(
    ("name", "of", "gb", "tolerance"),
    [
        # sums of the safetensors files on the Hugging Face hub
        ("gpt-oss-120b", "mxfp4", 65.25, 0.001),
        ("gpt-oss-20b", "mxfp4", 13.76, 0.001),
        # and what vLLM prints in start-up logs (GiB)
        ("Llama-3.3-70B", "fp8", 67.72 * 1.073741824, 0.001),
        ("phi-4", "gptq", 8.51 * 1.073741824, 0.001),
        ("Qwen2.5-7B", "awq", 5.20 * 1.073741824, 0.003),
    ],
)
def test_weights_are_as_large_as_published(name, of, gb, tolerance):
    assert weight_bytes(model(name), serving_flavour(of)) / 1e9 == pytest.approx(gb, rel=tolerance)


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "gpt-oss-20b", "Llama-3.1-8B", "DeepSeek-V3", "gpt2"])
@pytest.mark.parametrize("n_tokens", [1, 16, 4096])
def test_a_step_reads_the_same_as_without_flavours(name, n_tokens):
    expected = inference.weights_read(model(name), "bf16", n_tokens)
    assert weights_read(model(name), flavour("bf16"), n_tokens) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("of", PLAIN)
def test_a_step_of_very_many_tokens_reads_every_expert(of):
    each = model("Mixtral-8x7B")
    table = max(16, serving_flavour(of).bits) // 8 * each.parameters()["embedding"]
    assert weights_read(each, serving_flavour(of), 1e6) == weight_bytes(each, serving_flavour(of)) - table


def test_one_token_reads_as_many_experts_as_it_visits():
    each, of = model("Mixtral-8x7B"), serving_flavour("fp8")
    visited = replace(each, experts=replace(each.experts, n_experts=2))
    router = 2 * (each.parameters()["router"] - visited.parameters()["router"])
    assert weights_read(each, of) == pytest.approx(weights_read(visited, of) + router, abs=2)


def test_recipes_of_some_matrices_leave_the_others():
    oss, llama = model("gpt-oss-20b"), model("Llama-3.1-405B")
    assert matrices(oss, serving_flavour("mxfp4")).keys() == {"attention", "mlp", "experts"}
    assert matrices(oss, serving_flavour("mxfp4"))["attention"] == 0
    inner = matrices(llama, serving_flavour("FP8 FBGEMM"))
    assert inner == {"attention": 0, "mlp": 124 * 3 * 16384 * 53248, "experts": 0}
    deepseek = model("DeepSeek-V3")  # shared experts are no routed ones
    assert matrices(deepseek, serving_flavour("mxfp4"))["experts"] == 58 * 256 * 3 * 7168 * 2048


def test_short_names_and_unknown_ones():
    assert serving_flavour("int4") is SERVING_FLAVOURS["AWQ int4"]
    assert serving_flavour("FP8") is SERVING_FLAVOURS["FP8 W8A8"]
    with pytest.raises(UnknownName, match=r"unknown flavour 'int5'; did you mean .*int4"):
        serving_flavour("int5")
