"""Language models by name, and any other from its Hugging Face config.json; the oracle of each is its exact count."""

import math

from .architectures import Experts, LatentAttention, Model, RopeScaling
from .configs import ARCHITECTURES, from_config
from .families import CAPPED_LOGITS, CAPPED_SCORES, CLAMPED_SWIGLU, SCALED_EMBEDDINGS, SHIFTED_NORMS
from .figures import look_up

__all__ = ["ARCHITECTURES", "MODELS", "from_config", "model"]


def _source(repository: str, report: str) -> str:
    return f"config.json of {repository} on the Hugging Face hub; {report}"


def _llama2(size: str, **sizes: int) -> Model:
    source = _source(f"meta-llama/Llama-2-{size.lower()}-hf", "Llama 2, arXiv:2307.09288")
    usual = {"vocab_size": 32000, "tied_embeddings": False, "context_length": 4096, "rope_theta": 1e4}
    return Model(f"Llama-2-{size}", **sizes, **usual, source=source)


def _llama3(
    name: str, *, tied: bool = False, stretch: float = 8.0, report: str = "The Llama 3 Herd, arXiv:2407.21783", **sizes
) -> Model:
    usual = {"vocab_size": 128256, "tied_embeddings": tied, "context_length": 131072, "rope_theta": 5e5}
    source = _source(f"meta-llama/{name}", report)
    return Model(name, **sizes, **usual, source=source, rope_scaling=RopeScaling("llama3", stretch))


def _gpt_oss(size: str, n_layers: int, n_experts: int) -> Model:
    return Model(
        name=f"gpt-oss-{size}",
        n_layers=n_layers,
        d_model=2880,
        n_heads=64,
        n_kv_heads=8,
        head_dim=64,
        d_ff=2880,
        vocab_size=201088,
        tied_embeddings=False,
        context_length=131072,
        rope_theta=1.5e5,
        source=_source(f"openai/gpt-oss-{size}", "gpt-oss model card, arXiv:2508.10925"),
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


MODELS = {
    model.name: model
    for model in (
        Model(
            name="SmolLM2-135M",
            n_layers=30,
            d_model=576,
            n_heads=9,
            n_kv_heads=3,
            head_dim=64,
            d_ff=1536,
            vocab_size=49152,
            tied_embeddings=True,
            context_length=8192,
            rope_theta=1e5,
            source=_source("HuggingFaceTB/SmolLM2-135M", "SmolLM2, arXiv:2502.02737"),
        ),
        _llama2("7B", n_layers=32, d_model=4096, n_heads=32, n_kv_heads=32, head_dim=128, d_ff=11008),
        _llama2("13B", n_layers=40, d_model=5120, n_heads=40, n_kv_heads=40, head_dim=128, d_ff=13824),
        _llama2("70B", n_layers=80, d_model=8192, n_heads=64, n_kv_heads=8, head_dim=128, d_ff=28672),
        _llama3("Llama-3.1-8B", n_layers=32, d_model=4096, n_heads=32, n_kv_heads=8, head_dim=128, d_ff=14336),
        _llama3("Llama-3.1-70B", n_layers=80, d_model=8192, n_heads=64, n_kv_heads=8, head_dim=128, d_ff=28672),
        _llama3("Llama-3.1-405B", n_layers=126, d_model=16384, n_heads=128, n_kv_heads=8, head_dim=128, d_ff=53248),
        _llama3(
            "Llama-3.2-1B",
            n_layers=16,
            d_model=2048,
            n_heads=32,
            n_kv_heads=8,
            head_dim=64,
            d_ff=8192,
            tied=True,
            stretch=32.0,
            report="Llama 3.2 model card",
        ),
        Model(
            name="Qwen2.5-7B",
            n_layers=28,
            d_model=3584,
            n_heads=28,
            n_kv_heads=4,
            head_dim=128,
            d_ff=18944,
            vocab_size=152064,
            tied_embeddings=False,
            context_length=131072,
            rope_theta=1e6,
            source=_source("Qwen/Qwen2.5-7B", "Qwen2.5 Technical Report, arXiv:2412.15115"),
            norm_eps=1e-6,
            qkv_bias=True,
        ),
        Model(
            name="Qwen3-30B-A3B",
            n_layers=48,
            d_model=2048,
            n_heads=32,
            n_kv_heads=4,
            head_dim=128,
            d_ff=6144,
            vocab_size=151936,
            tied_embeddings=False,
            context_length=40960,
            rope_theta=1e6,
            source=_source("Qwen/Qwen3-30B-A3B", "Qwen3 Technical Report, arXiv:2505.09388"),
            norm_eps=1e-6,
            qk_norm=True,
            experts=Experts(n_experts=128, n_experts_per_token=8, d_ff_expert=768),
        ),
        Model(
            name="gemma-2-2b",
            n_layers=26,
            d_model=2304,
            n_heads=8,
            n_kv_heads=4,
            head_dim=256,
            d_ff=9216,
            vocab_size=256000,
            tied_embeddings=True,
            context_length=8192,
            rope_theta=1e4,
            source=_source("google/gemma-2-2b", "Gemma 2, arXiv:2408.00118"),
            norm_eps=1e-6,
            norms_per_block=4,
            sliding_window=4096,
            n_local_layers=13,
            activation="gelu_tanh",
            further=(SCALED_EMBEDDINGS, SHIFTED_NORMS, CAPPED_SCORES, CAPPED_LOGITS),
        ),
        Model(
            name="Mixtral-8x7B",
            n_layers=32,
            d_model=4096,
            n_heads=32,
            n_kv_heads=8,
            head_dim=128,
            d_ff=14336,
            vocab_size=32000,
            tied_embeddings=False,
            context_length=32768,
            rope_theta=1e6,
            source=_source("mistralai/Mixtral-8x7B-v0.1", "Mixtral of Experts, arXiv:2401.04088"),
            experts=Experts(n_experts=8, n_experts_per_token=2, d_ff_expert=14336),
        ),
        # the 61 layers of the main model: the released files add a 62nd, for multi-token prediction (MTP), and the
        # scales of their FP8 blocks; neither is counted
        Model(
            name="DeepSeek-V3",
            n_layers=61,
            d_model=7168,
            n_heads=128,
            n_kv_heads=128,
            head_dim=192,
            d_ff=18432,
            vocab_size=129280,
            tied_embeddings=False,
            context_length=163840,
            rope_theta=1e4,
            source=_source("deepseek-ai/DeepSeek-V3", "DeepSeek-V3 Technical Report, arXiv:2412.19437"),
            experts=Experts(256, 8, d_ff_expert=2048, n_shared_experts=1, n_dense_layers=3, router_bias=True),
            latent=LatentAttention(1536, 512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128),
            norm_eps=1e-6,
            rope_scaling=RopeScaling("yarn", 40.0, original_context_length=4096),
        ),
        Model(
            name="DeepSeek-V2-Lite",
            n_layers=27,
            d_model=2048,
            n_heads=16,
            n_kv_heads=16,
            head_dim=192,
            d_ff=10944,
            vocab_size=102400,
            tied_embeddings=False,
            context_length=163840,
            rope_theta=1e4,
            source=_source("deepseek-ai/DeepSeek-V2-Lite", "DeepSeek-V2, arXiv:2405.04434"),
            experts=Experts(64, 6, d_ff_expert=1408, n_shared_experts=2, n_dense_layers=1),
            latent=LatentAttention(None, 512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128),
            norm_eps=1e-6,
            rope_scaling=RopeScaling("yarn", 40.0, original_context_length=4096),
        ),
        Model(
            name="gpt2",
            n_layers=12,
            d_model=768,
            n_heads=12,
            n_kv_heads=12,
            head_dim=64,
            d_ff=3072,
            vocab_size=50257,
            tied_embeddings=True,
            context_length=1024,
            rope_theta=0.0,
            source=_source("openai-community/gpt2", "GPT-2, Radford et al. 2019"),
            qkv_bias=True,
            o_bias=True,
            mlp_bias=True,
            activation="gelu_tanh",
            gated_mlp=False,
            layer_norm=True,
            positions="learned",
        ),
        Model(
            name="gemma-3-1b",
            n_layers=26,
            d_model=1152,
            n_heads=4,
            n_kv_heads=1,
            head_dim=256,
            d_ff=6912,
            vocab_size=262144,
            tied_embeddings=True,
            context_length=32768,
            rope_theta=1e6,
            source=_source("google/gemma-3-1b-pt", "Gemma 3, arXiv:2503.19786"),
            norm_eps=1e-6,
            norms_per_block=4,
            qk_norm=True,
            sliding_window=512,
            n_local_layers=22,
            local_rope_theta=1e4,
            activation="gelu_tanh",
            further=(SCALED_EMBEDDINGS, SHIFTED_NORMS),
        ),
        _gpt_oss("20b", n_layers=24, n_experts=32),
        _gpt_oss("120b", n_layers=36, n_experts=128),
    )
}


def model(name: str) -> Model:
    """The model called `name`; `UnknownName` with the nearest names where there is none.

    >>> model("llama 3.1 8b").n_params
    8030261248
    >>> model("Mixtral")
    Traceback (most recent call last):
        ...
    llmhw_helpers.specs.figures.UnknownName: unknown model 'Mixtral'; did you mean Mixtral-8x7B?
    """
    return look_up(name, MODELS, "model")
