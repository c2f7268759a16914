"""Language models by name, and any other from its Hugging Face config.json; the oracle of each is its exact count."""

import math

from .architectures import Experts, LatentAttention, Model, RopeScaling
from .configs import ARCHITECTURES, from_config
from .families import CAPPED_LOGITS, CAPPED_SCORES, CLAMPED_SWIGLU, SCALED_EMBEDDINGS, SHIFTED_NORMS
from .figures import look_up

__all__ = ["ARCHITECTURES", "MODELS", "from_config", "model"]


def _source(repository: str, report: str) -> str:
    return f"config.json of {repository} on the Hugging Face hub; {report}"


def _llama2(size: str, *sizes: int) -> Model:
    source = _source(f"meta-llama/Llama-2-{size.lower()}-hf", "Llama 2, arXiv:2307.09288")
    return Model(f"Llama-2-{size}", *sizes, 32000, False, 4096, 1e4, source)


def _llama3(
    name: str, *sizes: int, tied: bool = False, stretch: float = 8.0, report: str = "The Llama 3 Herd, arXiv:2407.21783"
) -> Model:
    source = _source(f"meta-llama/{name}", report)
    scaling = RopeScaling("llama3", stretch)
    return Model(name, *sizes, 128256, tied, 131072, 5e5, source, rope_scaling=scaling)


def _gpt_oss(size: str, n_layers: int, n_experts: int) -> Model:
    return Model(
        *(f"gpt-oss-{size}", n_layers, 2880, 64, 8, 64, 2880, 201088, False, 131072, 1.5e5),
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
        # name, layers, d_model, heads, KV heads, head_dim, d_ff, vocabulary, tied, context length, RoPE theta
        Model(
            *("SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152, True, 8192, 1e5),
            source=_source("HuggingFaceTB/SmolLM2-135M", "SmolLM2, arXiv:2502.02737"),
        ),
        _llama2("7B", 32, 4096, 32, 32, 128, 11008),
        _llama2("13B", 40, 5120, 40, 40, 128, 13824),
        _llama2("70B", 80, 8192, 64, 8, 128, 28672),
        _llama3("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336),
        _llama3("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28672),
        _llama3("Llama-3.1-405B", 126, 16384, 128, 8, 128, 53248),
        _llama3("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, tied=True, stretch=32.0, report="Llama 3.2 model card"),
        Model(
            *("Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064, False, 131072, 1e6),
            source=_source("Qwen/Qwen2.5-7B", "Qwen2.5 Technical Report, arXiv:2412.15115"),
            norm_eps=1e-6,
            qkv_bias=True,
        ),
        Model(
            *("Qwen3-30B-A3B", 48, 2048, 32, 4, 128, 6144, 151936, False, 40960, 1e6),
            source=_source("Qwen/Qwen3-30B-A3B", "Qwen3 Technical Report, arXiv:2505.09388"),
            norm_eps=1e-6,
            qk_norm=True,
            experts=Experts(n_experts=128, n_experts_per_token=8, d_ff_expert=768),
        ),
        Model(
            *("gemma-2-2b", 26, 2304, 8, 4, 256, 9216, 256000, True, 8192, 1e4),
            source=_source("google/gemma-2-2b", "Gemma 2, arXiv:2408.00118"),
            norm_eps=1e-6,
            norms_per_block=4,
            sliding_window=4096,
            n_local_layers=13,
            activation="gelu_tanh",
            further=(SCALED_EMBEDDINGS, SHIFTED_NORMS, CAPPED_SCORES, CAPPED_LOGITS),
        ),
        Model(
            *("Mixtral-8x7B", 32, 4096, 32, 8, 128, 14336, 32000, False, 32768, 1e6),
            source=_source("mistralai/Mixtral-8x7B-v0.1", "Mixtral of Experts, arXiv:2401.04088"),
            experts=Experts(n_experts=8, n_experts_per_token=2, d_ff_expert=14336),
        ),
        # the 61 layers of the main model: the released files add a 62nd, for multi-token prediction (MTP), and the
        # scales of their FP8 blocks; neither is counted
        Model(
            *("DeepSeek-V3", 61, 7168, 128, 128, 192, 18432, 129280, False, 163840, 1e4),
            source=_source("deepseek-ai/DeepSeek-V3", "DeepSeek-V3 Technical Report, arXiv:2412.19437"),
            experts=Experts(256, 8, d_ff_expert=2048, n_shared_experts=1, n_dense_layers=3, router_bias=True),
            latent=LatentAttention(1536, 512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128),
            norm_eps=1e-6,
            rope_scaling=RopeScaling("yarn", 40.0, original_context_length=4096),
        ),
        Model(
            *("DeepSeek-V2-Lite", 27, 2048, 16, 16, 192, 10944, 102400, False, 163840, 1e4),
            source=_source("deepseek-ai/DeepSeek-V2-Lite", "DeepSeek-V2, arXiv:2405.04434"),
            experts=Experts(64, 6, d_ff_expert=1408, n_shared_experts=2, n_dense_layers=1),
            latent=LatentAttention(None, 512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128),
            norm_eps=1e-6,
            rope_scaling=RopeScaling("yarn", 40.0, original_context_length=4096),
        ),
        Model(
            *("gpt2", 12, 768, 12, 12, 64, 3072, 50257, True, 1024, 0.0),
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
            *("gemma-3-1b", 26, 1152, 4, 1, 256, 6912, 262144, True, 32768, 1e6),
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
