"""Mistral and Mixtral."""

from dataclasses import replace

from .architectures import Experts, Model
from .hub import source

_MISTRAL, _MIXTRAL = "Mistral 7B, arXiv:2310.06825", "Mixtral of Experts, arXiv:2401.04088"
_7B = Model(
    name="Mistral-7B-v0.1",
    n_layers=32,
    d_model=4096,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    d_ff=14336,
    vocab_size=32000,
    tied_embeddings=False,
    context_length=32768,
    rope_theta=1e4,
    source=source("mistralai/Mistral-7B-v0.1", _MISTRAL),
    sliding_window=4096,
    n_local_layers=32,
)
_8X7B = replace(
    _7B,
    name="Mixtral-8x7B",
    rope_theta=1e6,
    source=source("mistralai/Mixtral-8x7B-v0.1", _MIXTRAL),
    sliding_window=None,
    n_local_layers=0,
    experts=Experts(n_experts=8, n_experts_per_token=2, d_ff_expert=14336),
)
_SMALL = replace(
    _7B,
    name="Mistral-Small-24B",
    n_layers=40,
    d_model=5120,
    d_ff=32768,
    vocab_size=131072,
    rope_theta=1e8,
    source=source("mistralai/Mistral-Small-24B-Base-2501", "the blog post Mistral Small 3"),
    sliding_window=None,
    n_local_layers=0,
)
MISTRALS = (
    _7B,
    replace(
        _7B,
        name="Mistral-7B-v0.3",
        vocab_size=32768,
        rope_theta=1e6,
        source=source("mistralai/Mistral-7B-v0.3", _MISTRAL),
        sliding_window=None,
        n_local_layers=0,
    ),
    replace(
        _SMALL,
        name="Mistral-Nemo-12B",
        d_ff=14336,
        context_length=131072,
        rope_theta=1e6,
        source=source("mistralai/Mistral-Nemo-Base-2407", "the blog post Mistral NeMo"),
    ),
    _SMALL,
    replace(
        _SMALL,
        name="Codestral-22B",
        n_layers=56,
        d_model=6144,
        n_heads=48,
        d_ff=16384,
        vocab_size=32768,
        rope_theta=1e6,
        source=source("mistralai/Codestral-22B-v0.1", "the blog post Codestral: Hello, World!"),
    ),
    replace(
        _SMALL,
        name="Mistral-Large-123B",
        n_layers=88,
        d_model=12288,
        n_heads=96,
        d_ff=28672,
        vocab_size=32768,
        context_length=131072,
        rope_theta=1e6,
        source=source("mistralai/Mistral-Large-Instruct-2407", "the blog post Large Enough"),
    ),
    _8X7B,
    replace(
        _8X7B,
        name="Mixtral-8x22B",
        n_layers=56,
        d_model=6144,
        n_heads=48,
        d_ff=16384,
        context_length=65536,
        source=source("mistralai/Mixtral-8x22B-v0.1", "the blog post Cheaper, Better, Faster, Stronger"),
        experts=Experts(n_experts=8, n_experts_per_token=2, d_ff_expert=16384),
    ),
)
