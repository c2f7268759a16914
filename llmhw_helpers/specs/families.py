"""In what each ``model_type`` of a config.json differs from a Llama, read as transformers' model classes read it.

One function a family: from the settings to the fields of a `Model` that are the family's own.
"""

from .parts import Experts, LatentAttention
from .rotary import read_rotary, read_rotary_by_layer_type
from .settings import Settings

# What is computed otherwise and has no field of its own in a `Model`
SCALED_EMBEDDINGS, SHIFTED_NORMS = "scaled embeddings", "norms with one added to their weights"
CAPPED_SCORES, CAPPED_LOGITS = "capped scores", "capped logits"
RESCALED_SCORES, CLAMPED_SWIGLU = "scores scaled otherwise", "clamped SwiGLU"

EXPERTS = ("num_local_experts", "num_experts")

Fields = dict[str, object]


def llama(settings: Settings) -> Fields:
    """Llama: biases only where they are asked for."""
    bias = settings.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": settings.flag("mlp_bias")}


def mistral(settings: Settings) -> Fields:
    """Mistral: every layer has the window, or those that are listed."""
    return _windows(settings, settings.size("num_hidden_layers"))


def phi3(settings: Settings) -> Fields:
    """Phi-3 and Phi-4: fused matrices, the numbers of a Llama."""
    settings.require("full_attn_mod", 1)
    return mistral(settings) | read_rotary(settings, 1e4, partial=1.0)


def qwen2(settings: Settings) -> Fields:
    """Qwen2: biases of queries, keys and values; windows, if at all, from some layer on."""
    n_layers, first = settings.size("num_hidden_layers"), settings.size("max_window_layers", 28, least=0)
    used = settings.flag("use_sliding_window")
    windows = _windows(settings, n_layers - min(n_layers, first)) if used else _no_windows(settings)
    return {"qkv_bias": True, **windows}


def qwen3(settings: Settings) -> Fields:
    """Qwen3: norms of queries and keys."""
    bias = settings.flag("attention_bias")
    return qwen2(settings) | {"qkv_bias": bias, "o_bias": bias, "qk_norm": True}


def qwen3_moe(settings: Settings) -> Fields:
    """Qwen3 with experts, in every `decoder_sparse_step`-th layer that is not listed as dense."""
    n_layers, step = settings.size("num_hidden_layers"), settings.size("decoder_sparse_step", 1)
    dense = {layer for layer in settings.listed("mlp_only_layers") or () if 0 <= layer < n_layers}
    n_dense = n_layers - n_layers // step + sum((layer + 1) % step == 0 for layer in dense)
    settings.known("norm_topk_prob", "max_window_layers")
    # Qwen3-Coder's files say these again
    for key, value in (("qkv_bias", False), ("use_qk_norm", True), ("shared_expert_intermediate_size", 0)):
        settings.require(key, value)
    bias = settings.flag("attention_bias")
    windows = _windows(settings, n_layers) if settings.flag("use_sliding_window") else _no_windows(settings)
    experts = _experts(settings, EXPERTS[::-1], "moe_intermediate_size", n_dense_layers=n_dense)
    return {"qkv_bias": bias, "o_bias": bias, "qk_norm": True, "experts": experts, **windows}


def mixtral(settings: Settings) -> Fields:
    """Mixtral: experts in every layer."""
    experts = _experts(settings, EXPERTS, "intermediate_size")
    return {"experts": experts, **_windows(settings, settings.size("num_hidden_layers"))}


def olmo2(settings: Settings) -> Fields:
    """OLMo 2: norms after each part, and over all heads of queries, and of keys."""
    bias = settings.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias, "norms_after": True, "qk_norm": True, "qk_norm_kind": "all heads"}


def smollm3(settings: Settings) -> Fields:
    """SmolLM3: every fourth layer is not turned."""
    n_nope = _nope_layers(settings)
    settings.known("max_window_layers")
    windows = _windows(settings, n_nope) if settings.flag("use_sliding_window") else _no_windows(settings)
    return llama(settings) | windows | {"n_nope_layers": n_nope}


def gemma(settings: Settings) -> Fields:
    """Gemma: a Llama with scaled embeddings; its first files name another function than the one that it has."""
    settings.known("hidden_act")
    settings.require("use_bidirectional_attention", False)
    bias = settings.flag("attention_bias")
    return {"qkv_bias": bias, "o_bias": bias, "further": (SCALED_EMBEDDINGS, SHIFTED_NORMS)}


def gemma2(settings: Settings) -> Fields:
    """Gemma 2: every other layer is local, from the first on."""
    windows = _windows(settings, (settings.size("num_hidden_layers") + 1) // 2)
    settings.require("sliding_window_size", windows["sliding_window"])
    return _gemma(settings) | windows


def gemma3(settings: Settings) -> Fields:
    """Gemma 3, the text model: all but every sixth layer are local, and turn with a base of their own."""
    n_layers, step = settings.size("num_hidden_layers"), settings.size("sliding_window_pattern", 6)
    settings.known("_sliding_window_pattern")  # transformers' own note beside layer_types
    windows = _windows(settings, n_layers - n_layers // step)
    rotary = read_rotary_by_layer_type(settings, (1e6, 1e4), windows["n_local_layers"])
    return _gemma(settings) | windows | rotary | {"qk_norm": True}


def gpt_oss(settings: Settings) -> Fields:
    """gpt-oss: experts with biases, attention sinks, every other layer local."""
    bias, n_layers = settings.flag("attention_bias", True), settings.size("num_hidden_layers")
    settings.known("swiglu_alpha", "swiglu_limit", "initial_context_length", "experts_per_token")
    experts = _experts(settings, EXPERTS, "intermediate_size", router_bias=True, bias=True)
    return {
        **{"qkv_bias": bias, "o_bias": bias, "attention_sinks": True, "experts": experts, "further": (CLAMPED_SWIGLU,)},
        **_windows(settings, (n_layers + 1) // 2),
    }


def llama4(settings: Settings) -> Fields:
    """Llama 4, the text model: experts beside a shared one; turned layers see their chunk, the others all."""
    n_layers, n_nope = settings.size("num_hidden_layers"), _nope_layers(settings)
    listed, step = settings.listed("moe_layers"), settings.size("interleave_moe_layer_step", 1)
    n_moe = n_layers // step if listed is None else len({layer for layer in listed if 0 <= layer < n_layers})
    moe = {"n_shared_experts": 1, "n_dense_layers": n_layers - n_moe}
    bias = settings.flag("attention_bias")
    settings.known("attn_scale", "floor_scale")
    tuned = settings.get("attn_temperature_tuning", True)  # a number in the first files
    return {
        **{"qkv_bias": bias, "o_bias": bias, "qk_norm": settings.flag("use_qk_norm", True)},
        **{"qk_norm_kind": "unweighted", "n_nope_layers": n_nope, "d_ff": settings.size("intermediate_size_mlp")},
        **_windows(settings, n_layers - n_nope, "chunked_attention", "attention_chunk_size"),
        "experts": _experts(settings, EXPERTS, "intermediate_size", **moe),
        "further": (RESCALED_SCORES,) if tuned else (),
    }


def glm4_moe(settings: Settings) -> Fields:
    """GLM-4.5: DeepSeek's experts with ordinary attention, half of each head turned."""
    return {
        "qkv_bias": settings.flag("attention_bias"),
        "qk_norm": settings.flag("use_qk_norm"),
        "experts": _deepseek_experts(settings, router_bias=True),
        **read_rotary(settings, 1e4, partial=0.5),
    }


def deepseek_v3(settings: Settings) -> Fields:
    """DeepSeek-V3 and Kimi-K2: latent attention, and experts whose choice is steered by a number each."""
    settings.require("scoring_func", "sigmoid")
    settings.require("topk_method", "noaux_tc")
    return _latent(settings) | {"experts": _deepseek_experts(settings, router_bias=True)}


def deepseek_v2(settings: Settings) -> Fields:
    """DeepSeek-V2: latent attention and experts."""
    settings.require("scoring_func", "softmax")
    settings.require("topk_method", "greedy", "group_limited_greedy")
    settings.require("mlp_bias", False)
    return _latent(settings) | {"experts": _deepseek_experts(settings)}


def _gemma(settings: Settings) -> Fields:
    bias = settings.flag("attention_bias")
    settings.require("use_bidirectional_attention", False)
    settings.known("hidden_act")  # Gemma goes by hidden_activation
    further = {
        SCALED_EMBEDDINGS: True,
        SHIFTED_NORMS: True,
        CAPPED_SCORES: _cap(settings, "attn_logit_softcapping"),
        CAPPED_LOGITS: _cap(settings, "final_logit_softcapping"),
        RESCALED_SCORES: settings.number("query_pre_attn_scalar", above=0) != settings.size("head_dim"),
    }
    further = tuple(part for part, there in further.items() if there)
    return {"qkv_bias": bias, "o_bias": bias, "norms_per_block": 4, "further": further}


def _cap(settings: Settings, key: str) -> float | None:
    if settings.is_null(key):
        settings.known(key)
        return None
    return settings.number(key, above=0)


def _experts(settings: Settings, names: tuple[str, ...], width: str, **more: object) -> Experts:
    settings.known(*names)  # transformers writes one or another
    number = next((name for name in names if name in settings.values), names[0])
    n_experts, chosen = settings.size(number), settings.size("num_experts_per_tok")
    if chosen > n_experts:
        raise settings.wrong(f"'num_experts_per_tok' is {chosen}, and there are {n_experts}")
    return Experts(n_experts, chosen, settings.size(width), **more)


def _deepseek_experts(settings: Settings, **more: object) -> Experts:
    settings.require("moe_layer_freq", 1)
    # how experts are grouped, chosen and weighted; heads of further tokens (MTP), which are not counted
    settings.known("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor", "ep_size", "seq_aux")
    settings.known("num_nextn_predict_layers", "num_mtp_layers")
    n_dense = min(settings.size("first_k_dense_replace", least=0), settings.size("num_hidden_layers"))
    n_shared = 0 if settings.is_null("n_shared_experts") else settings.size("n_shared_experts", least=0)
    number = {"n_shared_experts": n_shared, "n_dense_layers": n_dense}
    return _experts(settings, ("n_routed_experts",), "moe_intermediate_size", **number, **more)


def _latent(settings: Settings) -> Fields:
    if settings.flag("attention_bias"):
        raise settings.wrong("'attention_bias' with latent attention has no formula")
    if "q_lora_rank" not in settings.values:
        raise settings.wrong("'q_lora_rank' is missing")
    rank = None if settings.is_null("q_lora_rank") else settings.size("q_lora_rank")
    settings.known("q_lora_rank", "head_dim", "qk_head_dim", "rope_interleave")
    nope, rope, v = (settings.size(key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    latent = LatentAttention(rank, settings.size("kv_lora_rank"), nope, rope, v)
    return {"latent": latent, "head_dim": nope + rope}


def _nope_layers(settings: Settings) -> int:
    n_layers, step = settings.size("num_hidden_layers"), settings.size("no_rope_layer_interval", 4)
    turned = settings.listed("no_rope_layers", (int, bool))  # despite its name: 1 where a layer is turned
    if not turned:
        return n_layers // step
    if len(turned) < n_layers:
        raise settings.wrong(f"'no_rope_layers' names {len(turned)} layers, and there are {n_layers}")
    return sum(not each for each in turned[:n_layers])


def _windows(
    settings: Settings, n_local: int, kind: str = "sliding_attention", length: str = "sliding_window"
) -> Fields:
    """The fields of local layers: those that ``layer_types`` names, or else `n_local`."""
    n_layers, types = settings.size("num_hidden_layers"), settings.listed("layer_types", (str,))
    if types is not None:
        if unknown := sorted(set(types) - {"full_attention", kind}):
            raise settings.wrong(f"'layer_types' has {unknown[0]!r}, which has no formula here")
        if len(types) != n_layers:
            raise settings.wrong(f"'layer_types' names {len(types)} layers, and there are {n_layers}")
        n_local = types.count(kind)
    chunked = kind == "chunked_attention"
    none = settings.get(length) is None or settings.is_null(length)  # null is not the same as missing
    if not n_local or (none and not chunked):
        return {"n_local_layers": 0, "sliding_window": None}
    if none:
        raise settings.wrong(f"{length!r} is missing")
    return {"n_local_layers": n_local, "sliding_window": settings.size(length), "chunked_attention": chunked}


def _no_windows(settings: Settings) -> Fields:
    settings.known("sliding_window", "layer_types")
    return {}
