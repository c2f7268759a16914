"""DeepSeek's models with latent attention and experts, and Kimi-K2, which is built like the third."""

from dataclasses import replace

from .architectures import Experts, LatentAttention, Model, RopeScaling
from .hub import source

_V2 = "DeepSeek-V2, arXiv:2405.04434"
_V3 = "DeepSeek-V3 Technical Report, arXiv:2412.19437"


def _deepseek(
    name: str,
    sizes: tuple[int, int, int, int],
    vocab_size: int,
    experts: Experts,
    q_lora_rank: int | None,
    report: str,
) -> Model:
    n_layers, d_model, n_heads, d_ff = sizes
    return Model(
        name=name,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=192,
        d_ff=d_ff,
        vocab_size=vocab_size,
        tied_embeddings=False,
        context_length=163840,
        rope_theta=1e4,
        source=source(f"deepseek-ai/{name}", report),
        experts=experts,
        latent=LatentAttention(q_lora_rank, 512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128),
        norm_eps=1e-6,
        rope_scaling=RopeScaling("yarn", 40.0, original_context_length=4096),
    )


# the 61 layers of the main model: the released files add a 62nd, for multi-token prediction (MTP), and the scales of
# their FP8 blocks; neither is counted
_671B = _deepseek(
    "DeepSeek-V3",
    (61, 7168, 128, 18432),
    129280,
    Experts(256, 8, d_ff_expert=2048, n_shared_experts=1, n_dense_layers=3, router_bias=True),
    1536,
    _V3,
)
_236B = _deepseek(
    "DeepSeek-V2",
    (60, 5120, 128, 12288),
    102400,
    Experts(160, 6, d_ff_expert=1536, n_shared_experts=2, n_dense_layers=1),
    1536,
    _V2,
)
_16B = _deepseek(
    "DeepSeek-V2-Lite",
    (27, 2048, 16, 10944),
    102400,
    Experts(64, 6, d_ff_expert=1408, n_shared_experts=2, n_dense_layers=1),
    None,
    _V2,
)


def _further(of: Model, name: str, repository: str, report: str) -> Model:
    return replace(of, name=name, source=source(f"deepseek-ai/{repository}", report))


_CODER = "DeepSeek-Coder-V2, arXiv:2406.11931"
DEEPSEEKS = (
    _671B,
    _further(_671B, "DeepSeek-R1", "DeepSeek-R1", "DeepSeek-R1, arXiv:2501.12948"),
    _236B,
    _further(_236B, "DeepSeek-V2.5", "DeepSeek-V2.5", "DeepSeek-V2.5 model card"),
    _further(_236B, "DeepSeek-Coder-V2", "DeepSeek-Coder-V2-Base", _CODER),
    _16B,
    replace(
        _671B,
        name="Kimi-K2",
        n_heads=64,
        n_kv_heads=64,
        vocab_size=163840,
        context_length=131072,
        rope_theta=5e4,
        source=source("moonshotai/Kimi-K2-Base", "Kimi K2, arXiv:2507.20534"),
        experts=replace(_671B.experts, n_experts=384, n_dense_layers=1),
        rope_scaling=RopeScaling("yarn", 32.0, original_context_length=4096, beta_fast=1.0, beta_slow=1.0),
    ),
    _further(_16B, "DeepSeek-Coder-V2-Lite", "DeepSeek-Coder-V2-Lite-Base", _CODER),
)
