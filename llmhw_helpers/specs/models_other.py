"""Models of families with few sizes here: GPT, gpt-oss, Phi, OLMo 2, SmolLM3, Falcon, StableLM, MPT, GLM."""

import math

from .architectures import Experts, Model, RopeScaling
from .families import CLAMPED_SWIGLU
from .hub import Sizes, sized, source


def _gpt_oss(size: str, n_layers: int, n_experts: int) -> Model:
    return sized(
        f"gpt-oss-{size}",
        (n_layers, 2880, 64, 8, 2880),
        201088,
        131072,
        1.5e5,
        source(f"openai/gpt-oss-{size}", "gpt-oss model card, arXiv:2508.10925"),
        head_dim=64,
        qkv_bias=True,
        o_bias=True,
        sliding_window=128,
        n_local_layers=n_layers // 2,
        experts=Experts(n_experts, 4, d_ff_expert=2880, router_bias=True, bias=True),
        rope_scaling=RopeScaling(
            "yarn", 32.0, original_context_length=4096, attention_factor=0.1 * math.log(32) + 1, truncate=False
        ),
        attention_sinks=True,
        further=(CLAMPED_SWIGLU,),
    )


def _mpt(size: str, n_layers: int, d_model: int, n_heads: int, context_length: int, found: str) -> Model:
    return sized(
        f"MPT-{size}",
        (n_layers, d_model, n_heads, n_heads, 4 * d_model),
        50432,
        context_length,
        0.0,
        found,
        tied_embeddings=True,
        activation="gelu",
        gated_mlp=False,
        layer_norm=True,
        norm_bias=False,
        positions="alibi",
    )


def _falcon(size: str, n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, norms_per_block: int) -> Model:
    return sized(
        f"falcon-{size}",
        (n_layers, d_model, n_heads, n_kv_heads, 4 * d_model),
        65024,
        2048,
        1e4,
        source(f"tiiuae/falcon-{size}", "Falcon, arXiv:2311.16867"),
        tied_embeddings=True,
        norms_per_block=norms_per_block,
        activation="gelu",
        gated_mlp=False,
        layer_norm=True,
        parallel_blocks=True,
    )


def _gpt(size: str, n_layers: int, d_model: int, n_heads: int) -> Model:
    return sized(
        f"GPT-{size}",
        (n_layers, d_model, n_heads, n_heads, 4 * d_model),
        51200,
        2048,
        0.0,
        "Korthikanti et al., arXiv:2205.05198, table 3: GPT-2's architecture in sizes that nobody published",
        tied_embeddings=True,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        activation="gelu_tanh",
        gated_mlp=False,
        layer_norm=True,
        positions="learned",
    )


def _glm(name: str, sizes: Sizes, experts: Experts, **more) -> Model:
    found = source(f"zai-org/{name}", "GLM-4.5, arXiv:2508.06471")
    usual = {"head_dim": 128, "qkv_bias": True, "partial_rotary_factor": 0.5}
    return sized(name, sizes, 151552, 131072, 1e6, found, experts=experts, **usual, **more)


_FOUNDRY = "llm-foundry, scripts/train/yamls/pretrain and scripts/train/benchmarking"
OTHERS = (
    sized(
        "gpt2",
        (12, 768, 12, 12, 3072),
        50257,
        1024,
        0.0,
        source("openai-community/gpt2", "GPT-2, Radford et al. 2019"),
        tied_embeddings=True,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        activation="gelu_tanh",
        gated_mlp=False,
        layer_norm=True,
        positions="learned",
    ),
    _gpt("22B", 48, 6144, 64),
    _gpt("175B", 96, 12288, 96),
    _gpt("530B", 105, 20480, 128),
    _gpt_oss("20b", n_layers=24, n_experts=32),
    _gpt_oss("120b", n_layers=36, n_experts=128),
    sized(
        "Phi-3-mini-4k",
        (32, 3072, 32, 32, 8192),
        32064,
        4096,
        1e4,
        source("microsoft/Phi-3-mini-4k-instruct", "Phi-3, arXiv:2404.14219"),
        sliding_window=2047,
        n_local_layers=32,
    ),
    sized(
        "Phi-3-medium-4k",
        (40, 5120, 40, 10, 17920),
        32064,
        4096,
        1e4,
        source("microsoft/Phi-3-medium-4k-instruct", "Phi-3, arXiv:2404.14219"),
        sliding_window=2047,
        n_local_layers=40,
    ),
    sized(
        "phi-4",
        (40, 5120, 40, 10, 17920),
        100352,
        16384,
        2.5e5,
        source("microsoft/phi-4", "Phi-4 Technical Report, arXiv:2412.08905"),
    ),
    sized(
        "OLMo-2-7B",
        (32, 4096, 32, 32, 11008),
        100352,
        4096,
        5e5,
        source("allenai/OLMo-2-1124-7B", "2 OLMo 2 Furious, arXiv:2501.00656"),
        norm_eps=1e-6,
        norms_after=True,
        qk_norm=True,
        qk_norm_kind="all heads",
    ),
    sized(
        "SmolLM3-3B",
        (36, 2048, 16, 4, 11008),
        128256,
        65536,
        5e6,
        source("HuggingFaceTB/SmolLM3-3B", "the blog post SmolLM3"),
        tied_embeddings=True,
        norm_eps=1e-6,
        n_nope_layers=9,
    ),
    _falcon("7b", 32, 4544, 71, 1, norms_per_block=1),
    _falcon("40b", 60, 8192, 128, 8, norms_per_block=2),
    _falcon("180b", 80, 14848, 232, 8, norms_per_block=2),
    sized(
        "StableLM-3B",
        (32, 2560, 32, 32, 6912),
        50304,
        4096,
        1e4,
        source("stabilityai/stablelm-3b-4e1t", "StableLM-3B-4E1T model card"),
        layer_norm=True,
        partial_rotary_factor=0.25,
    ),
    _mpt("7B", 32, 4096, 32, 2048, source("mosaicml/mpt-7b", "MPT-7B model card")),
    _mpt("13B", 40, 5120, 40, 2048, f"{_FOUNDRY}: mpt-13b.yaml"),
    _mpt("30B", 48, 7168, 56, 8192, source("mosaicml/mpt-30b", "MPT-30B model card")),
    _mpt("70B", 80, 8192, 64, 2048, f"{_FOUNDRY}: mpt-70b.yaml"),
    _glm(
        "GLM-4.5-Air",
        (46, 4096, 96, 8, 10944),
        Experts(128, 8, d_ff_expert=1408, n_shared_experts=1, n_dense_layers=1, router_bias=True),
    ),
    _glm(
        "GLM-4.5",
        (92, 5120, 96, 8, 12288),
        Experts(160, 8, d_ff_expert=1536, n_shared_experts=1, n_dense_layers=3, router_bias=True),
        qk_norm=True,
    ),
)
