"""Language models by name, and any other from its Hugging Face config.json; the oracle of each is its exact count."""

import json
import math
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

from .architectures import Experts, LatentAttention, Model, RopeScaling
from .figures import look_up


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
            rope_scaling=RopeScaling("yarn", 40.0),
        ),
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


ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "mixtral", "qwen3_moe", "deepseek_v3")


def from_config(config: Mapping | str | PathLike, name: str | None = None) -> Model:
    """The model that a Hugging Face config.json describes, given as its path or as the mapping read from it.

    Raises:
        ValueError: not JSON, an architecture without a formula here, or a key that is missing or no size.
        FileNotFoundError: no file there.

    >>> from_config({"model_type": "llama", "num_hidden_layers": 30})
    Traceback (most recent call last):
        ...
    ValueError: config: 'hidden_size' is missing
    """
    where = "config"
    if not isinstance(config, Mapping):
        where = str(config)
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(config, Mapping) or "model_type" not in config:
        raise ValueError(f"{where}: 'model_type' is missing; is it the config.json of a model?")
    kind = config["model_type"]
    if kind not in ARCHITECTURES:
        raise ValueError(f"{where}: no formula for {kind!r}, only for {', '.join(ARCHITECTURES)}")

    def size(key: str, default: int | None = None, least: int = 1) -> int:
        value = default if config.get(key) is None else config[key]
        if value is None:
            raise ValueError(f"{where}: {key!r} is missing")
        if type(value) is not int or value < least:
            raise ValueError(f"{where}: {key!r} is {value!r}, not a whole number of at least {least}")
        return value

    n_layers, d_model, n_heads = (size(key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    if kind == "deepseek_v3" and config.get("attention_bias"):
        raise ValueError(f"{where}: 'attention_bias' with latent attention has no formula")
    latent = _latent(config, size) if kind == "deepseek_v3" else None
    if latent:
        head_dim = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    else:
        explicit = kind in ("gemma2", "qwen3", "qwen3_moe") or d_model % n_heads
        head_dim = size("head_dim", default=None if explicit else d_model // n_heads)
    bias = bool(config.get("attention_bias")) and kind in ("llama", "gemma2", "qwen3", "qwen3_moe")
    n_local = _local_layers(config, kind, n_layers)
    return Model(
        name=name or str(config.get("_name_or_path") or kind),
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=size("num_key_value_heads", default=n_heads if kind == "llama" else None),
        head_dim=head_dim,
        d_ff=size("intermediate_size"),
        vocab_size=size("vocab_size"),
        tied_embeddings=bool(config.get("tie_word_embeddings", kind == "gemma2")),
        context_length=size("max_position_embeddings"),
        rope_theta=float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 1e4),
        source=f"{where}, architecture {kind}",
        norms_per_block=4 if kind == "gemma2" else 2,
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        qkv_bias=bias or kind == "qwen2",
        o_bias=bias,
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias")),
        sliding_window=size("sliding_window") if n_local else None,
        n_local_layers=n_local,
        experts=_experts(config, kind, size, n_layers),
        latent=latent,
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_scaling=_rope_scaling(config, where),
    )


def _rope_scaling(config: Mapping, where: str) -> RopeScaling | None:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}  # before and since transformers 5
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    sizes = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    needed = sizes if kind == "llama3" else sizes[:1]
    if missing := [key for key in needed if not isinstance(scaling.get(key), int | float)]:
        raise ValueError(f"{where}: rotary scaling {kind!r} without a number for {', '.join(map(repr, missing))}")
    if kind == "yarn":
        factor, length = scaling["factor"], config.get("max_position_embeddings")
        names = {"attention_factor": 0.1 * math.log(max(factor, 1)) + 1, "beta_fast": 32.0, "beta_slow": 1.0}
        said = {key: scaling.get(key, default) for key, default in names.items()}
        return RopeScaling(
            kind, factor, original_context_length=scaling.get("original_max_position_embeddings", length), **said
        )
    return RopeScaling(kind, *(scaling[key] for key in needed))


def _experts(config: Mapping, kind: str, size: Callable[..., int], n_layers: int) -> Experts | None:
    if kind == "mixtral":
        return Experts(size("num_local_experts"), size("num_experts_per_tok"), size("intermediate_size"))
    if kind == "qwen3_moe":
        step, dense = size("decoder_sparse_step", 1), config.get("mlp_only_layers") or ()
        n_dense = sum(layer in dense or (layer + 1) % step > 0 for layer in range(n_layers))
        n_experts = size("num_experts", config.get("num_local_experts"))
        return Experts(n_experts, size("num_experts_per_tok"), size("moe_intermediate_size"), n_dense_layers=n_dense)
    if kind == "deepseek_v3":
        n_dense = min(size("first_k_dense_replace", least=0), n_layers)
        chosen = size("n_routed_experts"), size("num_experts_per_tok"), size("moe_intermediate_size")
        n_shared, biased = size("n_shared_experts", 0, least=0), config.get("topk_method", "noaux_tc") == "noaux_tc"
        return Experts(*chosen, n_shared, n_dense, router_bias=biased)
    return None


def _latent(config: Mapping, size: Callable[..., int]) -> LatentAttention:
    rank = size("q_lora_rank") if config.get("q_lora_rank", "") is not None else None
    heads = size("qk_nope_head_dim"), size("qk_rope_head_dim"), size("v_head_dim")
    return LatentAttention(rank, size("kv_lora_rank"), *heads)


def _local_layers(config: Mapping, kind: str, n_layers: int) -> int:
    if not config.get("sliding_window") or kind in ("llama", "deepseek_v3"):
        return 0
    if config.get("layer_types"):
        return sum(layer == "sliding_attention" for layer in config["layer_types"])
    if kind == "gemma2":
        return (n_layers + 1) // 2  # every other layer, from the first on
    if kind.startswith("qwen"):
        return n_layers - min(n_layers, config.get("max_window_layers", 0)) if config.get("use_sliding_window") else 0
    return n_layers
