"""The families of `families` that have LayerNorm in place of RMSNorm: GPT-2, Falcon, MPT, StableLM."""

from .families import RESCALED_SCORES, Fields
from .rotary import read_rotary
from .settings import Settings


def gpt2(settings: Settings) -> Fields:
    """GPT-2: learned positions, layer norms, biases everywhere, MLPs without a gate."""
    d_model, n_heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    if d_model % n_heads:
        raise settings.wrong(f"{d_model} numbers, no multiple of {n_heads} heads")
    settings.require("add_cross_attention", False)
    settings.known("n_ctx", "reorder_and_upcast_attn", "predict_special_tokens")
    rescaled = settings.flag("scale_attn_by_inverse_layer_idx") or not settings.flag("scale_attn_weights", True)
    return {
        **{"n_kv_heads": n_heads, "head_dim": d_model // n_heads, "d_ff": settings.size("n_inner", 4 * d_model)},
        **{"qkv_bias": True, "o_bias": True, "mlp_bias": True, "gated_mlp": False, "layer_norm": True},
        **{"positions": "learned", "rope_theta": 0.0, "further": (RESCALED_SCORES,) if rescaled else ()},
    }


def falcon(settings: Settings) -> Fields:
    """Falcon: attention and MLP side by side; one key/value head (7B), or groups (40B)."""
    d_model, n_heads = settings.size("hidden_size"), settings.size("num_attention_heads")
    if d_model % n_heads:
        raise settings.wrong(f"{d_model} numbers, no multiple of {n_heads} heads")
    new, parallel = settings.flag("new_decoder_architecture"), settings.flag("parallel_attn", True)
    n_norms = settings.size("num_ln_in_parallel_attn", 2 if new else 1)
    groups, single = settings.size("num_kv_heads", n_heads), settings.flag("multi_query", True)
    n_kv_heads = groups if new else 1 if single else n_heads
    settings.require("apply_residual_connection_post_layernorm", False)
    bias, d_ff = settings.flag("bias"), settings.size("ffn_hidden_size", 4 * d_model)
    settings.require("ff_factor", d_ff // d_model)
    return {
        **{"n_kv_heads": n_kv_heads, "head_dim": d_model // n_heads},
        **{"d_ff": d_ff, "gated_mlp": False, "layer_norm": True},
        **{"qkv_bias": bias, "o_bias": bias, "mlp_bias": bias, "parallel_blocks": parallel or new},
        "norms_per_block": 2 if n_norms == 2 or not parallel else 1,
        "positions": "alibi" if settings.flag("alibi") else "rotary",
    }


def mpt(settings: Settings) -> Fields:
    """MPT: alibi, layer norms without biases, MLPs of two matrices and no bias anywhere."""
    attention, n_heads = settings.table("attn_config"), settings.size("num_attention_heads")
    inner = Settings(attention, f"{settings.where}: 'attn_config'")
    inner.require("attn_type", "multihead_attention")
    for key, value in (("qk_ln", False), ("prefix_lm", False), ("alibi", True), ("alibi_bias_max", 8)):
        inner.require(key, value)
    for key in ("clip_qkv", "softmax_scale"):
        inner.require(key)
    inner.known("attn_impl", "attn_pdrop", "attn_uses_sequence_id", "model_type")
    if unread := inner.unread("mpt"):
        raise inner.wrong(f"{unread[0]} is not known")
    settings.require("no_bias", True)
    settings.require("learned_pos_emb", True, False)  # alibi takes their place
    settings.require("norm_type", "low_precision_layernorm")
    settings.require("logit_scale")
    settings.known("init_device", "embedding_fraction", "verbose")
    d_model = settings.size("hidden_size")
    return {
        **{"n_kv_heads": n_heads, "head_dim": d_model // n_heads, "rope_theta": 0.0, "positions": "alibi"},
        **{"d_ff": settings.size("expansion_ratio", 4) * d_model, "gated_mlp": False},
        **{"layer_norm": True, "norm_bias": False, "tied_embeddings": True},
    }


def stablelm(settings: Settings) -> Fields:
    """StableLM: a Llama with layer norms, a quarter of each head turned."""
    for key in ("qk_layernorm", "use_parallel_residual"):
        settings.require(key, False)
    settings.known("norm_eps", "rope_pct")  # said again
    rotary = read_rotary(settings, 1e4, partial=0.25)
    return {"qkv_bias": settings.flag("use_qkv_bias"), "layer_norm": True, **rotary}
