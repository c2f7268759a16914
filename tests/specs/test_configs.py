"""config.json: every setting is applied, known to change nothing, or refused; transformers is the oracle."""

import json
import math
import warnings

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.specs.architectures import RopeScaling
from llmhw_helpers.specs.models import ARCHITECTURES, from_config

COMMON = {
    **{"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 128, "pad_token_id": 0},
}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    **{"q_lora_rank": 32, "kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 20},
    **{"num_key_value_heads": 4, "n_routed_experts": 4, "first_k_dense_replace": 1, **MOE},
}
TINY = {
    "llama": COMMON,
    "mistral": {**COMMON, "sliding_window": 8},
    "qwen2": {**COMMON, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {**COMMON, "head_dim": 24},
    "gemma2": {**COMMON, "head_dim": 24, "sliding_window": 8},
    "mixtral": {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**COMMON, **MOE, "num_experts": 4, "use_sliding_window": True, "sliding_window": 8},
    "deepseek_v3": {**COMMON, **LATENT, "n_group": 2, "topk_group": 1},
    "kimi_k2": {**COMMON, **LATENT, "n_group": 1, "topk_group": 1},
    "deepseek_v2": {**COMMON, **LATENT, "q_lora_rank": None},
    "phi3": {**COMMON, "sliding_window": 8},
    "gpt2": {"n_layer": 4, "n_embd": 64, "n_head": 4, "n_positions": 128, "vocab_size": 100},
    "olmo2": COMMON,
    "smollm3": {**COMMON, "use_sliding_window": True, "sliding_window": 8},
    "gemma3_text": {**COMMON, "head_dim": 24, "sliding_window": 8, "sliding_window_pattern": 3},
    "gpt_oss": {**COMMON, "head_dim": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "llama4_text": {
        **{**COMMON, "head_dim": 24, "intermediate_size_mlp": 80, "num_local_experts": 4, "num_experts_per_tok": 1},
        **{"attention_chunk_size": 8, "no_rope_layer_interval": 3},
    },
    "glm4_moe": {**COMMON, **MOE, "head_dim": 24, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "falcon": {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100},
    "gemma": {**COMMON, "head_dim": 24},
    "stablelm": {**COMMON, "use_qkv_bias": True},
    "mpt": {"n_layers": 4, "d_model": 64, "n_heads": 4, "max_seq_len": 128, "vocab_size": 100},
}
LLAMA = {"model_type": "llama", **COMMON}


def theirs(kind, **values):
    """transformers' reading; Kimi-K2 is a DeepSeek-V3 there."""
    return AutoConfig.for_model({"kimi_k2": "deepseek_v3"}.get(kind, kind), **values)


def saved(kind, **values):
    """What transformers writes into config.json, every setting said."""
    return json.loads(theirs(kind, **values).to_json_string(use_diff=False)) | {"model_type": kind}


def n_parameters(config):
    """Numbers in transformers' model, with the router's steering, which is a buffer there."""
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    steering = (buffer for name, buffer in built.named_buffers() if "e_score_correction_bias" in name)
    return sum(parameter.numel() for parameter in built.parameters()) + sum(each.numel() for each in steering)


def test_every_architecture_has_a_tiny_twin():
    assert {*TINY, "gemma3", "llama4"} == set(ARCHITECTURES)


@pytest.mark.parametrize("kind", TINY)
def test_what_transformers_writes_is_read_whole_and_without_a_word(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read, fresh = from_config(saved(kind, **TINY[kind])), from_config({"model_type": kind, **TINY[kind]})
    assert read == fresh
    assert read.n_params == n_parameters(theirs(kind, **TINY[kind]))


# Settings


@pytest.mark.parametrize(
    "change",
    [
        {"attn_logit_softcapping": None, "logit_scale": 1, "embedding_multiplier": 1.0, "residual_multiplier": 1},
        {"attention_dropout": 0.1, "initializer_range": 0.5, "bos_token_id": [1, 2], "use_cache": False},
        {"torch_dtype": "bfloat16", "dtype": "float32", "transformers_version": "5.0", "architectures": ["X"]},
        {"quantization_config": {"quant_method": "fp8"}, "pretraining_tp": 2, "_name_or_path": "x"},
        {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
        {"layer_types": ["full_attention"] * 4, "clip_qkv": None, "num_experts": 0, "rope_interleaved": False},
        {"partial_rotary_factor": 1.0, "rope_scaling": {}, "rope_parameters": None, "is_encoder_decoder": False},
        {"head_dim": None, "num_key_value_heads": 2, "hidden_act": "swish", "tie_word_embeddings": None},
        {"is_causal": True, "use_rope": True, "swiglu": True, "pre_norm": True, "use_bidirectional": False},
        {"_flash_attn_2_enabled": True, "use_flash_attention": True, "use_flashattn": True},  # how, and not what
        {"logits_to_keep": 1, "renormalize_logits": True, "is_decoder": True},  # of generating, and of encoders
        {"activation": "swish", "quantization": {"bits": 4, "group_size": 64}},  # Falcon 3; MLX
        {"rope_scaling": {"type": "default", "finetuned": True}},
    ],
)
def test_settings_that_ask_for_nothing_pass_without_a_word(change):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_config(LLAMA | change, name="x") == from_config(LLAMA, name="x")


@pytest.mark.parametrize(
    "change",
    [
        {"attn_logit_softcapping": 50.0},
        {"final_logit_softcapping": 30.0},
        {"logit_scale": 0.0625},
        {"embedding_multiplier": 12.0},
        {"attention_multiplier": 1.0},  # of the scores, in place of 1 / sqrt(head_dim)
        {"clip_qkv": 8.0},
        {"sliding_window": 4096},
        {"layer_types": ["sliding_attention"] * 4},
        {"use_qk_norm": True},
        {"qkv_bias": True},
        {"num_local_experts": 8},
        {"partial_rotary_factor": 0.5},
        {"rope_ratio": 2},
        {"no_rope_layers": [1, 0, 1, 0]},
        {"dual_chunk_attention_config": {"chunk_size": 1}},
        {"compression_config": {"format": "int-quantized"}},
        {"alibi": True},
        {"is_encoder_decoder": True},
        {"parallel_attn": True},
        {"layer_norm_eps": 1e-5},
        {"swiglu_limit": 7.0},
        {"is_causal": False},  # without is what asks for something
        {"use_rope": False},
        {"swiglu": False},
        {"activation": "gelu"},  # and hidden_act is silu
        {"activation": ["swish"]},
        {"ntk_alpha": 8},
        {"use_bidirectional": True},
        {"w_bits": 4},
    ],
)
def test_what_may_change_the_computation_is_refused_in_one_line(change):
    key = next(iter(change))
    with pytest.raises(ValueError, match=key) as caught:
        from_config(LLAMA | change)
    assert str(caught.value).startswith("config: ")
    assert "\n" not in str(caught.value)


def test_what_sounds_harmless_is_named_in_one_warning():
    with pytest.warns(
        UserWarning, match="^config: not known, and taken to change nothing: 'colour', 'made_by'$"
    ) as said:
        from_config(LLAMA | {"colour": "blue", "made_by": {"whom": 1}, "nothing": None})
    assert len(said) == 1


@pytest.mark.parametrize("name", [name for name in ACT2FN if name not in ("prelu", "xielu")])
def test_an_activation_is_the_same_function_or_refused(name):
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    torch_s = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "relu": torch.relu,
    }
    # one writes sqrt(2 / pi) with ten digits
    same = [
        ours for ours, function in torch_s.items() if torch.allclose(ACT2FN[name](x), function(x), rtol=0, atol=1e-9)
    ]
    if same:
        assert [from_config(LLAMA | {"hidden_act": name}).activation] == same
    else:
        with pytest.raises(ValueError, match=f"config: 'hidden_act' is '{name}', not one of silu, swish"):
            from_config(LLAMA | {"hidden_act": name})


@pytest.mark.parametrize(
    ("kind", "key"), [("gpt2", "activation_function"), ("falcon", "activation"), ("gemma2", "hidden_activation")]
)
def test_activations_under_other_names(kind, key):
    assert from_config({"model_type": kind, **TINY[kind], key: "relu"}).activation == "relu"
    with pytest.raises(ValueError, match=f"config: '{key}' is 'tanh'"):
        from_config({"model_type": kind, **TINY[kind], key: "tanh"})


@pytest.mark.parametrize(
    ("kind", "change", "part"),
    [
        ("gemma2", {"attn_logit_softcapping": None}, "capped scores"),
        ("gemma2", {"final_logit_softcapping": None}, "capped logits"),
        ("gemma3_text", {"query_pre_attn_scalar": 24}, "scores scaled otherwise"),
        ("llama4_text", {"attn_temperature_tuning": False}, "scores scaled otherwise"),
        ("llama4_text", {"use_qk_norm": False}, "norms of queries and keys (unweighted)"),
        ("llama4_text", {"no_rope_layers": [0, 0, 0, 0]}, "chunked attention"),
        ("glm4_moe", {"partial_rotary_factor": 1.0}, "heads that are turned in part"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "layers that are not turned"),
        ("gpt2", {"activation_function": "swish"}, "the activation gelu_tanh"),
        ("falcon", {"parallel_attn": False}, "one norm a block"),
        ("mistral", {"sliding_window": None}, "local layers"),
    ],
)
def test_the_guard_names_each_part_and_only_where_it_is(kind, change, part):
    assert part in from_config({"model_type": kind, **TINY[kind]}).unlike_llama()
    assert part not in from_config({"model_type": kind, **TINY[kind], **change}).unlike_llama()


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("olmo2", ["norms of queries and keys (all heads)", "norms after each part, none before"]),
        ("smollm3", ["local layers", "layers that are not turned"]),
        (
            "gpt2",
            ["biases", "the activation gelu_tanh", "MLPs without a gate", "layer norms", "learned positions"],
        ),
        (
            "falcon",
            ["one norm a block", "the activation gelu", "MLPs without a gate", "layer norms", "parallel blocks"],
        ),
        (
            "gpt_oss",
            [
                "a mixture of experts",
                "local layers",
                "biases",
                "biases of experts",
                "attention sinks",
                "clamped SwiGLU",
            ],
        ),
        (
            "gemma3_text",
            [
                *("local layers", "norms of queries and keys", "norms after each part", "the activation gelu_tanh"),
                *("a rotary base for local layers", "scaled embeddings", "norms with one added to their weights"),
                "scores scaled otherwise",
            ],
        ),
        (
            "llama4_text",
            [
                *("a mixture of experts", "local layers", "norms of queries and keys (unweighted)"),
                *("layers that are not turned", "chunked attention", "scores scaled otherwise"),
            ],
        ),
        ("deepseek_v2", ["a mixture of experts", "latent attention"]),
    ],
)
def test_every_part_of_a_family_is_named(kind, parts):
    assert from_config({"model_type": kind, **TINY[kind]}).unlike_llama() == parts


@pytest.mark.parametrize("kind", sorted({*TINY} - {"llama"}))
def test_only_models_that_compute_as_a_llama_are_called_one(kind):
    alike = from_config({"model_type": kind, **TINY[kind], "sliding_window": None}).unlike_llama()
    assert (alike == []) == (kind in ("mistral", "phi3"))
    biased = from_config(LLAMA | {"attention_bias": True, "hidden_act": "relu"})
    assert biased.unlike_llama() == ["biases", "the activation relu"]
    assert biased.unlike_llama(but=("biases",)) == ["the activation relu"]


# More that stands in files which people download: the rest of each is as in its tiny twin.
DOWNLOADED = {
    "llama": {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}},
    "phi3": {
        **{"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False, "embd_pdrop": 0.0},
        **{"auto_map": {}, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.75},
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6},
    },
    "gpt2": {
        **{
            "n_ctx": 128,
            "n_special": 0,
            "predict_special_tokens": True,
            "summary_type": "cls_index",
            "attn_pdrop": 0.1,
        },
        **{"task_specific_params": {"text-generation": {"do_sample": True}}, "summary_use_proj": True},
    },
    "gemma3_text": {
        **{"cache_implementation": "hybrid", "attn_logit_softcapping": None, "final_logit_softcapping": None},
        **{"rope_local_base_freq": 10000, "rope_theta": 1000000, "_sliding_window_pattern": 6, "hidden_act": "silu"},
    },
    "gpt_oss": {
        **{"experts_per_token": 2, "initial_context_length": 32, "swiglu_limit": 7.0, "router_aux_loss_coef": 0.9},
        **{"quantization_config": {"quant_method": "mxfp4"}, "output_router_logits": False},
    },
    "gemma2": {"sliding_window": 4096, "sliding_window_size": 4096, "hidden_act": "gelu_pytorch_tanh"},
    "qwen3_moe": {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0},  # Qwen3-Coder
    "llama4_text": {"for_llm_compressor": False, "attn_temperature_tuning": 4, "router_jitter_noise": 0.0},
    "kimi_k2": {
        **{"aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1, "moe_layer_freq": 1, "num_nextn_predict_layers": 0},
        **{"topk_method": "noaux_tc", "scoring_func": "sigmoid", "routed_scaling_factor": 2.827, "pretraining_tp": 1},
    },
    "deepseek_v2": {
        **{"aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1, "moe_layer_freq": 1, "norm_topk_prob": False},
        **{"topk_method": "greedy", "scoring_func": "softmax", "routed_scaling_factor": 1.0},
    },
    "falcon": {
        **{"apply_residual_connection_post_layernorm": False, "hidden_dropout": 0.0, "auto_map": {}},
        "ff_factor": 4,
    },
    "gemma": {"hidden_act": "gelu", "hidden_activation": None},
    "stablelm": {"norm_eps": 1e-5, "rope_pct": 0.25, "hidden_act": "silu"},
    "mpt": {
        **{"attn_config": {"attn_impl": "torch", "alibi": True, "prefix_lm": False, "clip_qkv": None}},
        **{"verbose": 0, "init_device": "cpu", "embedding_fraction": 1.0, "no_bias": True, "logit_scale": None},
        **{"norm_type": "low_precision_layernorm", "resid_pdrop": 0},
    },
    "smollm3": {"max_window_layers": 28, "pretraining_tp": 2, "no_rope_layers": [1, 1, 1, 0]},
}


@pytest.mark.parametrize("kind", DOWNLOADED)
def test_files_that_people_download_are_read_without_a_word(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = from_config({"model_type": kind, **TINY[kind], **DOWNLOADED[kind]})
    assert read.n_params == n_parameters(theirs(kind, **TINY[kind]))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("gemma2", {"sliding_window": 4096, "sliding_window_size": 1024}),
        ("qwen3_moe", {"qkv_bias": True}),
        ("qwen3_moe", {"use_qk_norm": False}),
        ("qwen3_moe", {"shared_expert_intermediate_size": 64}),
        ("falcon", {"ff_factor": 3}),
        ("gemma", {"use_bidirectional_attention": True}),
        ("stablelm", {"qk_layernorm": True}),
        ("stablelm", {"use_parallel_residual": True}),
        ("mpt", {"no_bias": False}),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}),
        ("mpt", {"norm_type": "rmsnorm"}),
    ],
)
def test_what_a_file_says_twice_it_says_alike_or_it_is_refused(kind, change):
    with pytest.raises(ValueError, match=f"config: '{[*change][-1]}' is .*, which has no formula here"):
        from_config({"model_type": kind, **TINY[kind], **change})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"clip_qkv": 8}, "'clip_qkv' is 8, which has no formula here"),
        ({"alibi": False}, "'alibi' is False, which has no formula here"),
        ({"qk_gn": True}, "'qk_gn' is not known"),
    ],
)
def test_attention_of_mpt_that_nobody_computes_here(change, line):
    with pytest.raises(ValueError, match=f"config: 'attn_config': {line}"):
        from_config({"model_type": "mpt", **TINY["mpt"], "attn_config": change})


# Rotary positions


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "linear", "factor": 4}, RopeScaling("linear", 4.0)),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.5, "high_freq_factor": 3.5}
            | {"original_max_position_embeddings": 64},
            RopeScaling("llama3", 8.0, 1.5, 3.5, 64),
        ),
        (
            YARN | {"beta_fast": 16, "beta_slow": 2, "truncate": False, "attention_factor": 1.25},
            RopeScaling(
                *("yarn", 4.0),
                original_context_length=32,
                attention_factor=1.25,
                beta_fast=16.0,
                beta_slow=2.0,
                truncate=False,
            ),
        ),
        ({"rope_type": "dynamic", "factor": 2.0}, RopeScaling("dynamic", 2.0)),
    ],
)
def test_rotary_scaling_before_and_since_transformers_5(scaling, expected, old):
    said = {"rope_scaling": scaling, "rope_theta": 5e5} if old else {"rope_parameters": scaling | {"rope_theta": 5e5}}
    read = from_config(LLAMA | said)
    assert (read.rope_scaling, read.rope_theta) == (expected, 5e5)
    if old and expected:  # the name of the kind before version 4.43
        older = {"type" if key == "rope_type" else key: value for key, value in scaling.items()}
        assert from_config(LLAMA | said | {"rope_scaling": older}) == read


@given(
    factor=st.one_of(st.none(), st.floats(0.5, 64), st.integers(1, 64)),
    original=st.one_of(st.none(), st.integers(16, 4096)),
    more=st.fixed_dictionaries(
        {},
        optional={
            "attention_factor": st.one_of(st.none(), st.floats(0.1, 4)),
            "mscale": st.one_of(st.none(), st.just(0), st.floats(0.1, 2)),
            "mscale_all_dim": st.one_of(st.none(), st.just(0.0), st.floats(0.1, 2)),
            "beta_fast": st.one_of(st.none(), st.integers(8, 64)),
            "beta_slow": st.one_of(st.none(), st.floats(0.5, 4)),
            "truncate": st.booleans(),
        },
    ),
)
@example(factor=40, original=4096, more={"mscale": 1.0, "mscale_all_dim": 0.707})
@settings(deadline=None, max_examples=60)
def test_yarn_is_resolved_as_transformers_does(factor, original, more):
    scaling = {"rope_type": "yarn", "factor": factor, **more}
    if original:
        scaling["original_max_position_embeddings"] = original
    config = theirs("llama", **COMMON, rope_parameters=scaling | {"rope_theta": 1e4})
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config)
    read = from_config(LLAMA | {"rope_scaling": scaling}).rope_scaling
    assert math.isclose(read.attention_factor, attention_factor, rel_tol=1e-12)
    assert torch.allclose(turned(read, 16, 1e4), frequencies, rtol=1e-5, atol=0)


def turned(scaling, head_dim, theta):
    """Yarn's frequencies after arXiv:2309.00071, section 3.2, from the fields that were read."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float64)
    plain = theta ** (-pairs / head_dim)

    def pair_that_turns(times):
        length = scaling.original_context_length / (times * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    high = high + 0.001 if low == high else high
    share = ((torch.arange(head_dim // 2) - low) / (high - low)).clamp(0, 1)
    return (plain * (1 - share) + plain / scaling.factor * share).float()


def test_phi3_calls_longrope_by_several_names_and_is_never_taken_for_another():
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    config = {"model_type": "phi3", **COMMON, "original_max_position_embeddings": 32}
    read = [from_config(config | {"rope_scaling": {"type": kind, **factors}}) for kind in ("longrope", "su", "yarn")]
    config = theirs("phi3", **COMMON, original_max_position_embeddings=32, rope_scaling={"type": "longrope", **factors})
    _, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](config)
    assert [each.rope_scaling.kind for each in read] == ["longrope"] * 3
    assert math.isclose(read[0].rope_scaling.attention_factor, attention_factor, rel_tol=1e-12)
    assert (read[0].rope_scaling.factor, read[0].rope_scaling.original_context_length) == (4.0, 32)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1e6},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e5}}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 3e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 4e4},
            }
        },
    ],
)
def test_rotary_settings_by_layer_type(said):
    expected = theirs("gemma3_text", **TINY["gemma3_text"], **json.loads(json.dumps(said))).rope_parameters
    read = from_config({"model_type": "gemma3_text", **TINY["gemma3_text"], **said})
    full, local = expected["full_attention"], expected["sliding_attention"]
    assert (read.rope_theta, read.local_rope_theta) == (full["rope_theta"], local["rope_theta"])
    kind = None if full["rope_type"] == "default" else RopeScaling(full["rope_type"], full["factor"])
    assert read.rope_scaling == kind


BY_TYPE = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("kind", "said", "line"),
    [
        (
            "llama",
            {"rope_parameters": BY_TYPE},
            "rotary settings by layer type ('full_attention', 'sliding_attention')",
        ),
        (
            "gemma2",
            {"rope_parameters": BY_TYPE},
            "rotary settings by layer type ('full_attention', 'sliding_attention')",
        ),
        ("gemma3_text", {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, "'rope_parameters' by layer type"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "local layers with stretched rotary frequencies",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "mrope"}},
            "rotary settings: 'rope_type' is 'mrope', not one of default",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "type": "yarn"}},
            "rotary settings: 'rope_type' is 'linear'",
        ),
        ("llama", {"rope_scaling": "linear"}, "'rope_scaling' is 'linear', not a table"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "4"}}, "rotary scaling 'linear' without a number"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 0}},
            "rotary settings: 'factor' is 0, not a number above",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 4.0, "mscale": 2}},
            "rotary settings: 'mscale' with the",
        ),
        ("llama", {"rope_scaling": YARN | {"truncate": None}}, "rotary settings: 'truncate' is None"),
        ("llama", {"rope_scaling": {"type": "yarn"}}, "rotary scaling 'yarn' without a number for 'factor'"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rotary settings: the kind 'linear'"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"type": "linear", "factor": 2.0}},
            "'rope_scaling' and 'rope_parameters' differ in 'factor'",
        ),
        ("llama", {"rope_theta": None, "rope_parameters": {"rope_theta": "a"}}, "rotary settings: 'rope_theta' is 'a'"),
        ("glm4_moe", {"partial_rotary_factor": 1.5}, "'partial_rotary_factor' is 1.5"),
    ],
)
def test_rotary_settings_that_cannot_be_applied_are_refused(kind, said, line):
    with pytest.raises(ValueError, match="config: ") as caught:
        from_config({"model_type": kind, **TINY[kind], **said})
    assert str(caught.value).startswith(f"config: {line}")


def test_an_inner_length_gives_way_to_the_outer_one_as_in_transformers():
    said = {"rope_scaling": dict(YARN), "original_max_position_embeddings": 64}
    config = theirs("llama", **COMMON, **json.loads(json.dumps(said)))
    ROPE_INIT_FUNCTIONS["yarn"](config)  # which settles it
    assert config.rope_parameters["original_max_position_embeddings"] == 64
    assert from_config(LLAMA | said).rope_scaling.original_context_length == 64


# Families


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma2", "gemma3_text", "gpt_oss", "smollm3", "llama4_text"])
def test_listed_layers_are_local_and_no_others(kind):
    local = "chunked_attention" if kind == "llama4_text" else "sliding_attention"
    config = {
        "model_type": kind,
        **TINY[kind],
        "layer_types": ["full_attention", local, "full_attention", "full_attention"],
    }
    read = from_config(config)
    assert (read.n_local_layers, read.sliding_window) == (1, 8)
    assert read.kv_numbers(20) == 2 * (3 * 20 + 8) * read.kv_width
    for wrong in (["full_attention"] * 3, ["full_attention", "linear_attention"] * 2):
        with pytest.raises(ValueError, match="^config: 'layer_types' (names 3 layers|has 'linear_attention')"):
            from_config(config | {"layer_types": wrong})


def test_null_is_not_the_same_as_missing():
    mistral = {key: value for key, value in TINY["mistral"].items() if key != "sliding_window"}
    missing, null = (
        from_config({"model_type": "mistral", **mistral}),
        from_config(LLAMA | {"num_key_value_heads": None}),
    )
    assert (missing.sliding_window, missing.n_local_layers) == (theirs("mistral", **mistral).sliding_window, 4)
    assert null.n_kv_heads == theirs("llama", **COMMON | {"num_key_value_heads": None}).num_key_value_heads == 4
    with pytest.raises(ValueError, match="'num_key_value_heads' is missing"):
        from_config(
            {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"model_type": "qwen2"}
        )


def test_a_model_of_text_and_images_is_read_as_its_text_model():
    first_4b = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    text = first_4b | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}  # all that its config.json says
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}
    with pytest.warns(UserWarning, match="^config: its text model alone, without what reads images$"):
        read = from_config(whole | {"mm_tokens_per_image": 256, "boi_token_index": 1})
    assert read.n_params == n_parameters(theirs("gemma3_text", **text)) == 3_880_263_168
    assert read.name == "gemma3"
    assert read.source == "config, architecture gemma3_text"
    with pytest.warns(UserWarning, match="its text model alone"):
        read = from_config({"model_type": "llama4", "text_config": TINY["llama4_text"] | {"model_type": "llama4_text"}})
    assert read.n_params == n_parameters(theirs("llama4_text", **TINY["llama4_text"]))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"text_config": None}, "config: 'hidden_size' is missing"),
        ({"text_config": [1]}, "config: 'text_config' is [1], not a table"),
        ({"text_config": {"model_type": "llama"}}, "config: 'text_config' describes 'llama', not 'gemma3_text'"),
        (
            {"rope_scaling": {"factor": 2.0}},
            "config: 'rope_scaling' is {'factor': 2.0}, which is not known of 'gemma3'",
        ),
    ],
)
def test_a_text_model_that_cannot_be_read(change, line):
    with pytest.raises(ValueError, match="config: ") as caught:
        from_config({"model_type": "gemma3", "text_config": TINY["gemma3_text"]} | change)
    assert str(caught.value).startswith(line)


SIZES = st.fixed_dictionaries(
    {
        "num_hidden_layers": st.integers(1, 7),
        "hidden_size": st.sampled_from([32, 48]),
        "num_attention_heads": st.sampled_from([4, 8]),
        "num_key_value_heads": st.sampled_from([1, 2, 4]),
        "intermediate_size": st.integers(8, 60),
        "vocab_size": st.integers(16, 70),
        "max_position_embeddings": st.integers(8, 64),
        "tie_word_embeddings": st.booleans(),
    }
)
BIASES = {"attention_bias": st.booleans(), "mlp_bias": st.booleans()}
HEAD, WINDOW = {"head_dim": st.sampled_from([8, 10])}, {"sliding_window": st.sampled_from([None, 4, 9])}
CHOSEN = {"num_experts_per_tok": st.integers(1, 2), "moe_intermediate_size": st.integers(8, 40)}
DEEPSEEK = {
    **CHOSEN,
    "n_routed_experts": st.sampled_from([2, 4]),
    "n_shared_experts": st.integers(1, 3),
    "first_k_dense_replace": st.integers(0, 8),
}
MLA = DEEPSEEK | {
    "q_lora_rank": st.one_of(st.none(), st.integers(4, 30)),
    **{key: st.integers(4, 30) for key in ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim")},
    "qk_rope_head_dim": st.sampled_from([4, 6]),
}
QWEN = {
    "use_sliding_window": st.booleans(),
    "sliding_window": st.integers(2, 9),
    "max_window_layers": st.integers(0, 9),
}
CHOICES = {
    "llama": BIASES | {"head_dim": st.sampled_from([None, 8, 10])},
    "mistral": HEAD | WINDOW,
    "qwen2": QWEN,
    "qwen3": HEAD | QWEN | {"attention_bias": st.booleans()},
    "gemma2": HEAD | WINDOW | {"attention_bias": st.booleans()},
    "mixtral": {"num_local_experts": st.integers(2, 4), "num_experts_per_tok": st.integers(1, 2)},
    "qwen3_moe": CHOSEN
    | {"num_experts": st.integers(2, 4), "decoder_sparse_step": st.integers(1, 3), "attention_bias": st.booleans()}
    | {"mlp_only_layers": st.lists(st.integers(0, 9), max_size=3)},
    "deepseek_v3": MLA,
    "deepseek_v2": MLA,
    "phi3": WINDOW,
    "olmo2": {"attention_bias": st.booleans()},
    "smollm3": BIASES | {"no_rope_layer_interval": st.integers(1, 4)},
    "gemma3_text": HEAD | WINDOW | {"attention_bias": st.booleans(), "sliding_window_pattern": st.integers(1, 7)},
    "gpt_oss": HEAD
    | {"num_local_experts": st.integers(2, 4), "num_experts_per_tok": st.integers(1, 2)}
    | {"attention_bias": st.booleans()},
    "llama4_text": HEAD
    | {"num_local_experts": st.integers(2, 4), "num_experts_per_tok": st.integers(1, 2)}
    | {"intermediate_size_mlp": st.integers(8, 60), "interleave_moe_layer_step": st.integers(1, 3)}
    | {"attention_bias": st.booleans(), "use_qk_norm": st.booleans()},
    "glm4_moe": HEAD | DEEPSEEK | {"attention_bias": st.booleans(), "use_qk_norm": st.booleans()},
}
BARE = {
    "gpt2": st.fixed_dictionaries(
        {
            **{"n_layer": st.integers(1, 5), "n_embd": st.sampled_from([16, 32]), "n_head": st.sampled_from([1, 4])},
            **{"n_positions": st.integers(4, 32), "vocab_size": st.integers(16, 60)},
            **{"n_inner": st.sampled_from([None, 40]), "tie_word_embeddings": st.booleans()},
        }
    ),
    "falcon": st.fixed_dictionaries(
        {
            **{"num_hidden_layers": st.integers(1, 5), "hidden_size": st.sampled_from([32, 64])},
            **{"num_attention_heads": st.just(4), "num_kv_heads": st.sampled_from([None, 2, 4])},
            **{"vocab_size": st.integers(16, 60), "ffn_hidden_size": st.sampled_from([None, 40])},
            **{key: st.booleans() for key in ("bias", "alibi", "new_decoder_architecture", "multi_query")},
            **{"parallel_attn": st.booleans(), "tie_word_embeddings": st.booleans()},
            "num_ln_in_parallel_attn": st.sampled_from([None, 1, 2]),
        }
    ),
}


@pytest.mark.parametrize("kind", [*CHOICES, *BARE])
@given(data=st.data())
@settings(deadline=None, max_examples=12)
def test_any_sizes_and_choices_are_counted_as_transformers_builds_them(kind, data):
    if kind in BARE:
        values = data.draw(BARE[kind])
    else:
        values = data.draw(SIZES) | data.draw(st.fixed_dictionaries(CHOICES[kind])) | {"pad_token_id": 0}
    if kind.startswith("deepseek"):
        values |= {"num_key_value_heads": values["num_attention_heads"], "n_group": 1, "topk_group": 1}
    assert from_config({"model_type": kind, **values}).n_params == n_parameters(theirs(kind, **values))
    assert from_config(saved(kind, **values)).n_params == n_parameters(theirs(kind, **values))


def held(cache):
    """Numbers in a cache."""
    return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


@pytest.mark.parametrize("seq_len", [1, 8, 20])
@pytest.mark.parametrize("kind", TINY)
def test_the_cache_of_a_tiny_twin_holds_as_many_numbers(kind, seq_len):
    config = theirs(kind, **TINY[kind])
    model = AutoModelForCausalLM.from_config(config).eval()
    # of fixed size: the other keeps the last token of a window for the next step only
    local = from_config({"model_type": kind, **TINY[kind]}).n_local_layers
    cache = StaticCache(config=config, max_cache_len=seq_len) if local else DynamicCache(config=config)
    with torch.inference_mode():
        model(torch.arange(seq_len)[None] + 1, past_key_values=cache)
    expected = held(cache)
    if kind == "falcon":
        assert model.transformer.h[0].self_attention.num_kv_heads == 1
    assert from_config({"model_type": kind, **TINY[kind]}).kv_numbers(seq_len) == expected
    assert kv_bytes(from_config({"model_type": kind, **TINY[kind]}), seq_len, "bf16") == 2 * expected


def test_the_cache_of_falcon_with_groups_holds_one_key_a_group():
    """transformers repeats it for each query head before it is cached; nothing of the model needs that."""
    values = TINY["falcon"] | {"new_decoder_architecture": True, "num_kv_heads": 2}
    assert from_config({"model_type": "falcon", **values}).kv_numbers(5) == 2 * 4 * 5 * 2 * 16


# Junk


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.just(10**400),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=5),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.just({})), max_size=2),
)


@pytest.mark.parametrize("kind", TINY)
@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_junk_in_any_setting_gives_a_model_or_one_line(kind, data):
    config = FULL[kind] if data.draw(st.booleans()) else {"model_type": kind, **TINY[kind]}
    rope = data.draw(st.sampled_from([None, "rope_scaling", "rope_parameters"]))
    if rope:
        table = data.draw(st.sampled_from([YARN, {"rope_type": "llama3"}, {"full_attention": YARN}, {}]))
        inner = [*table, "rope_theta", "factor", "beta_fast", "mscale", "attention_factor", "sliding_attention"]
        config = config | {rope: table | {data.draw(st.sampled_from(inner)): data.draw(JUNK)}}
    else:
        keys = [*config, "rope_theta", "sliding_window", "layer_types", "hidden_act", "no_rope_layers", "moe_layers"]
        config = config | {data.draw(st.sampled_from(keys)): data.draw(JUNK)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = from_config(config)
        except ValueError as error:
            read = str(error)
    if isinstance(read, str):
        assert "\n" not in read
        return
    assert type(read.n_params) is int
    assert read.n_params >= read.n_active_params > 0
    assert type(read.kv_numbers(10)) is int
    assert all(math.isfinite(value) for value in vars(read).values() if isinstance(value, float))


FULL = {kind: saved(kind, **values) for kind, values in TINY.items()}


def test_json_that_is_too_deep(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json: not JSON \("):
        from_config(tmp_path / "config.json")
