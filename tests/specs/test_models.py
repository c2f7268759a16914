import json
import math
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.models import ARCHITECTURES, MODELS, from_config, model

# Exact totals, as the safetensors headers on the Hugging Face hub add up to (metadata "Parameters" of each model card).
PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-13B": 13_015_864_320,
    "Llama-2-70B": 68_976_648_192,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.2-1B": 1_235_814_400,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen3-30B-A3B": 30_532_122_624,
    "gemma-2-2b": 2_614_341_888,
    "Mixtral-8x7B": 46_702_792_704,
    "DeepSeek-V3": 671_026_419_200,
    "gpt2": 124_439_808,
    "gemma-3-1b": 999_885_952,
    "DeepSeek-V2-Lite": 15_706_484_224,
}
HUB = json.loads((Path(__file__).parent / "hub_configs.json").read_text())
# files of packed numbers (gpt-oss), of a head that is there twice (Falcon), of text and images (Gemma 3), or no files
UNPUBLISHED = {"gpt-oss-20b", "gpt-oss-120b", "falcon-7b", "falcon-40b", "gemma-3-4b", "gemma-3-12b", "gemma-3-27b"}
UNPUBLISHED |= {"falcon-180b", "MPT-13B", "MPT-30B", "MPT-70B", "GPT-22B", "GPT-175B", "GPT-530B"}
UNPUBLISHED |= {"GLM-4.5-Air", "GLM-4.5", "Kimi-K2"}  # with layers for further tokens (MTP) or scales
PUBLISHED |= {name: entry["n_params"] for name, entry in HUB.items() if entry["n_params"]}


def keys(layers, width, heads, kv_heads, d_ff, vocab, tied, length, theta, **more):
    """The keys that all architectures share, under the names of config.json."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": d_ff,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": length,
        "rope_theta": theta,
        **more,
    }


def stretched(factor):
    """The rotary scaling of Llama 3.1 and 3.2, under the names of config.json."""
    kept = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_scaling": {"rope_type": "llama3", "factor": factor, **kept}, "rms_norm_eps": 1e-5}


def gpt_oss(layers, experts):
    """The two sizes of gpt-oss, under the names of config.json."""
    stretch = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return {
        **keys(layers, 2880, 64, 8, 2880, 201088, False, 131072, 150000, head_dim=64, sliding_window=128),
        **{"num_local_experts": experts, "num_experts_per_tok": 4, "experts_per_token": 4, "attention_bias": True},
        **{"rms_norm_eps": 1e-5, "swiglu_limit": 7.0, "initial_context_length": 4096},
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "rope_scaling": stretch | {"original_max_position_embeddings": 4096},
    }


def llama4(experts, step, normed):
    """The text models of Llama 4, under the names of config.json."""
    stretch = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {
        **keys(48, 5120, 40, 8, 8192, 202048, False, 1048576, 500000.0, head_dim=128, attention_chunk_size=8192),
        **{"intermediate_size_mlp": 16384, "num_local_experts": experts, "num_experts_per_tok": 1},
        **{"interleave_moe_layer_step": step, "use_qk_norm": normed, "no_rope_layers": [], "attention_bias": False},
        **{"attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1, "rms_norm_eps": 1e-5},
        "rope_scaling": stretch | {"original_max_position_embeddings": 8192},
    }


def falcon(layers, width, heads, **more):
    """Falcon, under the names of config.json."""
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "vocab_size": 65024}
    kept = {"bias": False, "alibi": False, "parallel_attn": True, "layer_norm_epsilon": 1e-5}
    return sizes | kept | {"apply_residual_connection_post_layernorm": False} | more


YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
YARN |= {"mscale": 1.0, "mscale_all_dim": 1.0}

# Written from the config.json of each model on the hub, not from MODELS.
CONFIGS = {
    "SmolLM2-135M": ("llama", keys(30, 576, 9, 3, 1536, 49152, True, 8192, 100000, rms_norm_eps=1e-5)),
    "Llama-2-7B": ("llama", keys(32, 4096, 32, 32, 11008, 32000, False, 4096, 10000, rms_norm_eps=1e-5)),
    "Llama-2-13B": ("llama", keys(40, 5120, 40, 40, 13824, 32000, False, 4096, 10000, rms_norm_eps=1e-5)),
    "Llama-2-70B": ("llama", keys(80, 8192, 64, 8, 28672, 32000, False, 4096, 10000, rms_norm_eps=1e-5)),
    "Llama-3.1-8B": ("llama", keys(32, 4096, 32, 8, 14336, 128256, False, 131072, 500000, **stretched(8.0))),
    "Llama-3.1-70B": ("llama", keys(80, 8192, 64, 8, 28672, 128256, False, 131072, 500000, **stretched(8.0))),
    "Llama-3.1-405B": ("llama", keys(126, 16384, 128, 8, 53248, 128256, False, 131072, 500000, **stretched(8.0))),
    "Llama-3.2-1B": (
        "llama",
        keys(16, 2048, 32, 8, 8192, 128256, True, 131072, 500000, head_dim=64, **stretched(32.0)),
    ),
    "Qwen2.5-7B": (
        "qwen2",
        keys(
            *(28, 3584, 28, 4, 18944, 152064, False, 131072, 1000000),
            **{"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28, "rms_norm_eps": 1e-6},
        ),
    ),
    "Qwen3-30B-A3B": (
        "qwen3_moe",
        keys(
            *(48, 2048, 32, 4, 6144, 151936, False, 40960, 1000000),
            **{"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
            **{"decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False, "rms_norm_eps": 1e-6},
        ),
    ),
    "gemma-2-2b": (
        "gemma2",
        keys(26, 2304, 8, 4, 9216, 256000, True, 8192, 10000, head_dim=256, sliding_window=4096, rms_norm_eps=1e-6),
    ),
    "Mixtral-8x7B": (
        "mixtral",
        keys(
            *(32, 4096, 32, 8, 14336, 32000, False, 32768, 1000000),
            **{"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None, "rms_norm_eps": 1e-5},
        ),
    ),
    "DeepSeek-V3": (
        "deepseek_v3",
        keys(
            *(61, 7168, 128, 128, 18432, 129280, False, 163840, 10000),
            **{"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64},
            **{"v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1},
            **{"moe_intermediate_size": 2048, "first_k_dense_replace": 3, "topk_method": "noaux_tc"},
            **{"rms_norm_eps": 1e-6, "rope_scaling": YARN},
        ),
    ),
    "gpt2": (
        "gpt2",
        {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257}
        | {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    ),
    "gemma-3-1b": (
        "gemma3_text",
        keys(26, 1152, 4, 1, 6912, 262144, True, 32768, 1000000, **{"head_dim": 256, "sliding_window": 512})
        | {"query_pre_attn_scalar": 256, "rope_local_base_freq": 10000, "sliding_window_pattern": 6},
    ),
    "DeepSeek-V2-Lite": (
        "deepseek_v2",
        keys(
            *(27, 2048, 16, 16, 10944, 102400, False, 163840, 10000),
            **{"q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64},
            **{"v_head_dim": 128, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2},
            **{"moe_intermediate_size": 1408, "first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1},
            **{"topk_group": 1, "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
        ),
    ),
    "gpt-oss-20b": ("gpt_oss", gpt_oss(24, 32)),
    "gpt-oss-120b": ("gpt_oss", gpt_oss(36, 128)),
}
CONFIGS["Kimi-K2"] = (
    "kimi_k2",
    CONFIGS["DeepSeek-V3"][1]
    | {"num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1}
    | {"vocab_size": 163840, "max_position_embeddings": 131072, "n_group": 1, "topk_group": 1}
    | {"rope_theta": 50000.0, "rope_scaling": YARN | {"factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0}},
)
# the first generation of Qwen, which transformers does not know, as the Qwen2 that it would be
CONFIGS |= {name: (entry["config"].pop("model_type"), entry["config"]) for name, entry in HUB.items()}
# Other models that people bring, from their config.json.
BROUGHT = {
    "Llama-4-Scout": ("llama4_text", llama4(16, 1, True)),
    "Llama-4-Maverick": ("llama4_text", llama4(128, 2, False)),
}

# Small ones, to exercise what no named model has.
SMALL = (2, 64, 4, 2, 96, 100, False, 128, 10000)
VARIANTS = {
    "mistral with its own head size": ("mistral", keys(*SMALL, head_dim=32, sliding_window=16)),
    "llama with all biases": ("llama", keys(*SMALL, attention_bias=True, mlp_bias=True)),
    "qwen3": ("qwen3", keys(*SMALL, head_dim=32)),
    "qwen3 with biases": ("qwen3", keys(*SMALL, head_dim=32, attention_bias=True)),
    "qwen2, tied": ("qwen2", keys(*SMALL) | {"tie_word_embeddings": True}),
    "qwen3_moe with dense layers": (
        "qwen3_moe",
        keys(*SMALL, head_dim=16)
        | {"num_hidden_layers": 5, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        | {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
    ),
    "deepseek_v3 without query latent, two shared experts": (
        "deepseek_v3",
        keys(*SMALL)
        | {"num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 24, "qk_nope_head_dim": 12}
        | {"qk_rope_head_dim": 8, "v_head_dim": 20, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2}
        | {"topk_group": 1, "n_shared_experts": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
    ),
}
TINY = {"num_hidden_layers": 4, "pad_token_id": 0}
VARIANTS |= {
    "phi3, grouped queries": ("phi3", keys(*SMALL) | TINY),
    "gpt2 with its own inner width": (
        "gpt2",
        {"n_layer": 3, "n_embd": 64, "n_head": 4, "n_positions": 32, "vocab_size": 100, "n_inner": 72}
        | {"tie_word_embeddings": False},
    ),
    "olmo2 with biases and grouped queries": ("olmo2", keys(*SMALL, attention_bias=True) | TINY),
    "smollm3 with all biases": (
        "smollm3",
        keys(*SMALL, attention_bias=True, mlp_bias=True, use_sliding_window=True, sliding_window=16) | TINY,
    ),
    "gemma3_text with biases": (
        "gemma3_text",
        keys(*SMALL, head_dim=24, attention_bias=True, sliding_window=16) | TINY,
    ),
    "gpt_oss without biases": (
        "gpt_oss",
        keys(*SMALL, head_dim=24, num_local_experts=4, num_experts_per_tok=2, attention_bias=False) | TINY,
    ),
    "llama4_text, listed experts": (
        "llama4_text",
        keys(*SMALL, head_dim=16, intermediate_size_mlp=80, num_local_experts=4, num_experts_per_tok=1)
        | TINY
        | {"moe_layers": [0, 3], "attention_bias": True, "no_rope_layers": [1, 0, 1, 0], "attention_chunk_size": 16},
    ),
    "glm4_moe with norms, two shared experts": (
        "glm4_moe",
        keys(*SMALL, head_dim=24, use_qk_norm=True, attention_bias=True, n_routed_experts=4, num_experts_per_tok=2)
        | {"moe_intermediate_size": 40, "first_k_dense_replace": 2, "n_shared_experts": 2}
        | TINY,
    ),
    "falcon, new decoder with one norm": (
        "falcon",
        falcon(2, 64, 4, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, bias=True),
    ),
    "falcon as it began": (
        "falcon",
        falcon(2, 64, 4, alibi=True, multi_query=False, ffn_hidden_size=80) | {"bias": True, "parallel_attn": False},
    ),
}
ALL = CONFIGS | BROUGHT | VARIANTS


def config_json(kind, values):
    return {"model_type": kind, **values}


def theirs(kind, values):
    """transformers' own reading of a config.json; Kimi-K2 is a DeepSeek-V3 there."""
    return AutoConfig.for_model({"kimi_k2": "deepseek_v3"}.get(kind, kind), **values)


def count(kind, values):
    """Numbers in the checkpoint of transformers' own model, by part, a tied head once; nothing is allocated.

    The router's correction bias of DeepSeek-V3 is a buffer in PyTorch, and a tensor of the checkpoint.
    """
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(theirs(kind, values))
    tensors = dict(built.named_parameters())  # lists a shared tensor once
    tensors |= {name: buffer for name, buffer in built.named_buffers() if "e_score_correction_bias" in name}
    parts = {}
    for name, tensor in tensors.items():
        parts[part(name)] = parts.get(part(name), 0) + tensor.numel()
    return parts


def part(name):
    if re.search(r"norm|\.ln_", name):
        return "norms"
    if re.search(r"embed_tokens|wte|word_embeddings", name):
        return "embedding"
    if "wpe" in name:
        return "positions"
    if "lm_head" in name:
        return "head"
    if re.search(r"self_attn|self_attention|\.attn\.", name):
        return "attention"
    if re.search(r"\.gate\.weight|e_score_correction_bias|router", name):
        return "router"
    return "experts" if "expert" in name else "mlp"


def test_every_named_model_has_an_oracle():
    assert set(CONFIGS) == set(MODELS)
    assert set(CONFIGS) - set(PUBLISHED) == UNPUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_equal_the_published_ones_to_the_last_digit(name):
    assert model(name).n_params == PUBLISHED[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_part_equals_transformers(name):
    assert model(name).parameters() == count(*CONFIGS[name])


@pytest.mark.parametrize("name", ALL)
def test_every_part_from_config_equals_transformers(name):
    kind, values = ALL[name]
    assert from_config(config_json(kind, values)).parameters() == count(kind, values)


@pytest.mark.parametrize("name", ALL)
def test_a_config_saved_by_transformers_is_read_the_same(name, tmp_path):
    kind, values = ALL[name]
    theirs(kind, values).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text()) | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(written))
    saved = from_config(tmp_path / "config.json", name="x")
    fresh = from_config(config_json(kind, values), name="x")
    assert saved.parameters() == fresh.parameters()
    differing = {field for field in vars(saved) if getattr(saved, field) != getattr(fresh, field)}
    assert differing == {"source"}


@pytest.mark.parametrize("name", CONFIGS)
def test_named_models_equal_their_config(name):
    named, read = model(name), from_config(config_json(*CONFIGS[name]), name=name)
    differing = {field for field in vars(named) if getattr(named, field) != getattr(read, field)}
    assert differing == {"source"}


def test_the_small_variants_cover_every_architecture():
    assert {kind for kind, _ in ALL.values()} | {"gemma3", "llama4"} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "exact", "published", "digit"),
    [
        # Mixtral: "13B active" (report, section 2.1: 12.9B in the blog); Qwen3: "3.3B activated" (model card)
        ("Mixtral-8x7B", 12_879_925_248, 12.9e9, 0.1e9),
        ("Qwen3-30B-A3B", 3_353_032_704, 3.3e9, 0.1e9),
        ("DeepSeek-V3", 37_552_297_472, 37e9, 1e9),
        ("Llama-4-Scout", 17_172_894_720, 17e9, 1e9),  # model card, as the next
        ("Llama-4-Maverick", 17_184_691_200, 17e9, 1e9),
        ("Kimi-K2", 32_861_500_928, 32e9, 1e9),  # arXiv:2507.20534
    ],
)
def test_active_parameters(name, exact, published, digit):
    assert found(name).n_active_params == exact
    assert abs(exact - published) < digit


@pytest.mark.parametrize(
    ("name", "total", "active", "digit"),
    [
        ("gpt-oss-20b", 20.91e9, 3.61e9, 0.01e9),  # arXiv:2508.10925, table 1: "embedding is not counted as active"
        ("gpt-oss-120b", 116.83e9, 5.13e9, 0.01e9),
        ("DeepSeek-V2-Lite", 15.7e9, 2.4e9, 0.1e9),  # arXiv:2405.04434, appendix B
        ("GLM-4.5-Air", 106e9, 12e9, 1e9),  # arXiv:2508.06471, table 1
    ],
)
def test_active_parameters_of_those_who_leave_the_input_embedding_out(name, total, active, digit):
    assert abs(found(name).n_params - total) < digit
    assert abs(found(name).n_active_params - found(name).parameters()["embedding"] - active) < digit


def found(name):
    """A model that has a name here, or that people bring."""
    return model(name) if name in MODELS else from_config(config_json(*BROUGHT[name]), name=name)


@pytest.mark.parametrize("name", ["gpt2", "falcon-7b", "gpt-oss-20b", "DeepSeek-V2-Lite"])
def test_only_layers_of_seven_matrices_list_them(name):
    with pytest.raises(NoFormula, match=f"^{name} has .*: its layers have other matrices$"):
        found(name).matrices()
    matrices = found("phi-4").matrices()
    parts = found("phi-4").parameters()
    assert 40 * sum(math.prod(shape) for shape in matrices.values()) == parts["attention"] + parts["mlp"]


def test_a_dense_model_is_active_as_a_whole():
    assert model("Llama-3.1-8B").n_active_params == model("Llama-3.1-8B").n_params


def test_head_size_is_a_free_choice():
    assert model("gemma-2-2b").head_dim == 256 != 2304 // 8
    assert model("Qwen3-30B-A3B").head_dim == 128 != 2048 // 32


def test_local_layers():
    assert (model("gemma-2-2b").n_local_layers, model("gemma-2-2b").sliding_window) == (13, 4096)
    three = {"num_hidden_layers": 3, "head_dim": 16, "sliding_window": 16}
    assert from_config({"model_type": "gemma2", **keys(*SMALL)} | three).n_local_layers == 2
    kind, values = VARIANTS["mistral with its own head size"]
    assert from_config(config_json(kind, values)).n_local_layers == 2
    windowed = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    assert from_config({"model_type": "qwen2", **keys(*SMALL), **windowed}).n_local_layers == 1


def test_parts_are_positive_whole_numbers_that_sum_to_the_total():
    for each in MODELS.values():
        parts = each.parameters()
        assert all(isinstance(size, int) and size > 0 for size in parts.values())
        assert math.fsum(parts.values()) == each.n_params


def test_a_model_that_is_not_there():
    with pytest.raises(
        UnknownName, match=r"unknown model 'Mixtral'; did you mean Mixtral-8x7B, Mixtral-8x22B or Mistral-7B-v0.3\?"
    ):
        model("Mixtral")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Llama 3 8B", "Llama-3-8B"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "Llama-3-70B"),
        ("Llama-2-7b-chat-hf", "Llama-2-7B"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "R1-Distill-Qwen-7B"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "Mixtral-8x7B"),
        ("Mistral-7B-Instruct-v0.3", "Mistral-7B-v0.3"),
        ("Mistral 7B", "Mistral-7B-v0.1"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct"),  # has a shorter context than its base
        ("Qwen1.5-7B-Chat", "Qwen1.5-7B"),
    ],
)
def test_names_that_people_use(said, name):
    assert model(said).name == name


@pytest.mark.parametrize("said", ["gemma-it", "Qwen2.5-VL-7B", "base", "meta-llama/", "Llama-3.1-8B-Instructed"])
def test_no_name_is_guessed(said):
    with pytest.raises(UnknownName, match="unknown model"):
        model(said)


LLAMA = {"model_type": "llama", **keys(*SMALL)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model_type": "mamba"}, "config: no formula for 'mamba', only for llama, mistral"),
        ({"model_type": None}, "config: no formula for None, only for"),
        ({"hidden_size": None}, "config: 'hidden_size' is missing"),
        ({"num_hidden_layers": 2.5}, "config: 'num_hidden_layers' is 2.5, not a whole number of at least 1"),
        ({"vocab_size": "100"}, "config: 'vocab_size' is '100', not a whole number"),
        ({"num_attention_heads": 0}, "config: 'num_attention_heads' is 0, not a whole number"),
        ({"num_attention_heads": 5}, "config: 'head_dim' is missing"),
        ({"num_attention_heads": True}, "config: 'num_attention_heads' is True, not a whole number"),
        ({"model_type": "qwen3"}, "config: 'head_dim' is missing"),
        ({"model_type": "mixtral"}, "config: 'num_local_experts' is missing"),
        ({"model_type": "deepseek_v3"}, "config: 'q_lora_rank' is missing"),
        ({"rope_scaling": {"type": "linear"}}, "config: rotary scaling 'linear' without a number for 'factor'"),
        ({"model_type": "deepseek_v3", "attention_bias": True}, "config: 'attention_bias' with latent attention"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_in_one_line(change, line):
    with pytest.raises(ValueError, match="config: ") as caught:
        from_config(LLAMA | change)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("weights", "not JSON (Expecting value"),
        ("\x00\x80", "not JSON ("),
        ("[1, 2]", "'model_type' is missing"),
        ('{"hidden_size": 64}', "'model_type' is missing"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, line):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        from_config(path)
    assert str(caught.value).startswith(f"{path}: {line}")


def test_a_file_is_read_and_becomes_the_source(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA), encoding="utf-8")
    assert from_config(str(path)).source == f"{path}, architecture llama"
    with pytest.raises(FileNotFoundError):
        from_config(tmp_path / "none.json")
