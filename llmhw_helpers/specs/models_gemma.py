"""Gemma of three generations; of the third, the text models."""

from .architectures import Model, RopeScaling
from .families import CAPPED_LOGITS, CAPPED_SCORES, RESCALED_SCORES, SCALED_EMBEDDINGS, SHIFTED_NORMS
from .hub import source

_ALL = (SCALED_EMBEDDINGS, SHIFTED_NORMS)


def _gemma(
    name: str,
    sizes: tuple[int, int, int, int, int, int],
    report: str,
    vocab_size: int = 256000,
    context_length: int = 8192,
    repository: str | None = None,
    rope_theta: float = 1e4,
    further: tuple[str, ...] = _ALL,
    **more,
) -> Model:
    n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff = sizes
    return Model(
        name=name,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=vocab_size,
        tied_embeddings=True,
        context_length=context_length,
        rope_theta=rope_theta,
        source=source(f"google/{repository or name}", report),
        norm_eps=1e-6,
        activation="gelu_tanh",
        further=further,
        **more,
    )


def _gemma2(size: str, sizes: tuple[int, int, int, int, int, int], *rescaled: str) -> Model:
    return _gemma(
        f"gemma-2-{size}",
        sizes,
        "Gemma 2, arXiv:2408.00118",
        norms_per_block=4,
        sliding_window=4096,
        n_local_layers=sizes[0] // 2,
        further=(*_ALL, CAPPED_SCORES, CAPPED_LOGITS, *rescaled),
    )


def _gemma3(size: str, sizes: tuple[int, int, int, int, int, int], *rescaled: str, **more) -> Model:
    usual = {"vocab_size": 262208, "context_length": 131072, "sliding_window": 1024}
    return _gemma(
        f"gemma-3-{size}",
        sizes,
        "Gemma 3, arXiv:2503.19786",
        repository=f"gemma-3-{size}-pt",
        norms_per_block=4,
        qk_norm=True,
        n_local_layers=sizes[0] - sizes[0] // 6,
        local_rope_theta=1e4,
        rope_theta=1e6,
        further=(*_ALL, *rescaled),
        **usual | more,
    )


_STRETCHED = {"rope_scaling": RopeScaling("linear", 8.0)}
_GEMMA1 = "Gemma, arXiv:2403.08295"
GEMMAS = (
    _gemma("gemma-2b", (18, 2048, 8, 1, 256, 16384), _GEMMA1),
    _gemma("gemma-7b", (28, 3072, 16, 16, 256, 24576), _GEMMA1),
    _gemma2("2b", (26, 2304, 8, 4, 256, 9216)),
    _gemma2("9b", (42, 3584, 16, 8, 256, 14336)),
    _gemma2("27b", (46, 4608, 32, 16, 128, 36864), RESCALED_SCORES),
    _gemma3("1b", (26, 1152, 4, 1, 256, 6912), vocab_size=262144, context_length=32768, sliding_window=512),
    _gemma3("4b", (34, 2560, 8, 4, 256, 10240), **_STRETCHED),
    _gemma3("12b", (48, 3840, 16, 8, 256, 15360), **_STRETCHED),
    _gemma3("27b", (62, 5376, 32, 16, 128, 21504), RESCALED_SCORES, **_STRETCHED),
)
