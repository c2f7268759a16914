"""Qwen of four generations, and the models that others trained further from them."""

import math
from dataclasses import replace

from .architectures import Experts, Model, RopeScaling
from .hub import Sizes, sized, source

_QWEN1 = "Qwen, arXiv:2309.16609"
_QWEN15 = "the blog post Introducing Qwen1.5"
_QWEN2 = "Qwen2 Technical Report, arXiv:2407.10671"
_QWEN25 = "Qwen2.5 Technical Report, arXiv:2412.15115"
_QWEN3 = "Qwen3 Technical Report, arXiv:2505.09388"
_R1 = "DeepSeek-R1, arXiv:2501.12948, trained from"


def _qwen(name: str, sizes: Sizes, context_length: int, report: str, vocab_size: int = 152064, **more) -> Model:
    """The first three generations: biases of queries, keys and values."""
    usual = {"norm_eps": 1e-6, "qkv_bias": True}
    rope_theta = more.pop("rope_theta", 1e6)
    return sized(name, sizes, vocab_size, context_length, rope_theta, source(f"Qwen/{name}", report), **usual | more)


def _qwen3(name: str, sizes: Sizes, experts: Experts | None = None, context_length: int = 40960, **more) -> Model:
    """The fourth: heads of 128 numbers, norms of queries and keys in place of the biases."""
    plain = _qwen(name, sizes, context_length, _QWEN3, 151936, **more)
    return replace(plain, head_dim=128, qkv_bias=False, qk_norm=True, experts=experts)


def _further(of: Model, name: str, repository: str, report: str, **changed) -> Model:
    return replace(of, name=name, source=source(repository, report), **changed)


_7B, _14B = (28, 3584, 28, 4, 18944), (48, 5120, 40, 8, 13824)
_32B, _72B = (64, 5120, 40, 8, 27648), (80, 8192, 64, 8, 29568)
_05B, _15B = (24, 896, 14, 2, 4864), (28, 1536, 12, 2, 8960)
_SMALL = {"vocab_size": 151936, "tied_embeddings": True}
_QWEN25_MODELS = (
    _qwen("Qwen2.5-0.5B", _05B, 32768, _QWEN25, **_SMALL),
    _qwen("Qwen2.5-1.5B", _15B, 131072, _QWEN25, **_SMALL),
    _qwen("Qwen2.5-3B", (36, 2048, 16, 2, 11008), 32768, _QWEN25, **_SMALL),
    _qwen("Qwen2.5-7B", _7B, 131072, _QWEN25),
    _qwen("Qwen2.5-14B", _14B, 131072, _QWEN25, norm_eps=1e-5),
    _qwen("Qwen2.5-32B", _32B, 131072, _QWEN25, norm_eps=1e-5),
    _qwen("Qwen2.5-72B", _72B, 131072, _QWEN25, norm_eps=1e-5),
)
_BASE = {each.name: each for each in _QWEN25_MODELS}
_MATH = {"context_length": 4096, "rope_theta": 1e4}
_QWEN3_4B = _qwen3("Qwen3-4B", (36, 2560, 32, 8, 9728), tied_embeddings=True)
_QWEN3_235B = _qwen3("Qwen3-235B-A22B", (94, 4096, 64, 4, 12288), Experts(128, 8, d_ff_expert=1536))
_QWEN3_8B = _qwen3("Qwen3-8B", (36, 4096, 32, 8, 12288))
_QWEN3_30B = _qwen3("Qwen3-30B-A3B", (48, 2048, 32, 4, 6144), Experts(128, 8, d_ff_expert=768))
QWENS = (
    # the config.json of the first generation gives the inner width of both matrices before the gate together
    _qwen("Qwen-7B", (32, 4096, 32, 32, 11008), 32768, _QWEN1, 151936, rope_theta=1e4),
    _qwen("Qwen-14B", (40, 5120, 40, 40, 13696), 8192, _QWEN1, rope_theta=1e4),
    _qwen("Qwen-72B", (80, 8192, 64, 64, 24576), 32768, _QWEN1),
    _qwen("Qwen1.5-7B", (32, 4096, 32, 32, 11008), 32768, _QWEN15, 151936),
    _qwen("Qwen1.5-14B", (40, 5120, 40, 40, 13696), 32768, _QWEN15),
    _qwen("Qwen1.5-32B", (64, 5120, 40, 8, 27392), 32768, _QWEN15),
    _qwen("Qwen1.5-72B", (80, 8192, 64, 64, 24576), 32768, _QWEN15),
    _qwen("Qwen2-0.5B", _05B, 131072, _QWEN2, **_SMALL),
    _qwen("Qwen2-1.5B", _15B, 131072, _QWEN2, **_SMALL),
    _qwen("Qwen2-7B", _7B, 131072, _QWEN2),
    _qwen("Qwen2-72B", _72B, 131072, _QWEN2, norm_eps=1e-5),
    *_QWEN25_MODELS,
    *(
        _further(_BASE[f"Qwen2.5-{size}"], f"Qwen2.5-{size}-Instruct", f"Qwen/Qwen2.5-{size}-Instruct", _QWEN25, **new)
        for size, new in (
            ("1.5B", {"context_length": 32768}),
            ("7B", {"context_length": 32768}),
            ("14B", {"context_length": 32768, "norm_eps": 1e-6}),
            ("32B", {"context_length": 32768, "norm_eps": 1e-6}),
            ("72B", {"context_length": 32768, "norm_eps": 1e-6}),
        )
    ),
    _further(_BASE["Qwen2.5-1.5B"], "Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-1.5B", "arXiv:2409.12122", **_MATH),
    _further(_BASE["Qwen2.5-7B"], "Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B", "arXiv:2409.12122", **_MATH),
    *(
        _further(
            _BASE[f"Qwen2.5-{size}"],
            f"R1-Distill-Qwen-{size}",
            f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}",
            f"{_R1} Qwen2.5-{of}",
            context_length=131072,
            **new,
        )
        for size, of, new in (
            ("1.5B", "Math-1.5B", {"rope_theta": 1e4, "tied_embeddings": False}),
            ("7B", "Math-7B", {"rope_theta": 1e4}),
            ("14B", "14B", {}),
            ("32B", "32B", {}),
        )
    ),
    _further(
        _BASE["Qwen2.5-32B"], "QwQ-32B", "Qwen/QwQ-32B", "the blog post QwQ-32B, March 2025", context_length=40960
    ),
    _qwen3("Qwen3-0.6B", (28, 1024, 16, 8, 3072), tied_embeddings=True),
    _qwen3("Qwen3-1.7B", (28, 2048, 16, 8, 6144), tied_embeddings=True),
    _QWEN3_4B,
    _QWEN3_8B,
    _qwen3("Qwen3-14B", (40, 5120, 40, 8, 17408)),
    _qwen3("Qwen3-32B", (64, 5120, 64, 8, 25600)),
    _QWEN3_30B,
    _QWEN3_235B,
    *(
        _further(
            of, f"{of.name}-2507", f"Qwen/{of.name}-Instruct-2507", _QWEN3, context_length=262144, rope_theta=theta
        )
        for of, theta in ((_QWEN3_4B, 5e6), (_QWEN3_30B, 1e7), (_QWEN3_235B, 5e6))
    ),
    _qwen3(
        "Qwen3-Coder-480B-A35B",
        (62, 6144, 96, 8, 8192),
        Experts(160, 8, d_ff_expert=2560),
        context_length=262144,
        rope_theta=1e7,
    ),
    _further(
        _QWEN3_30B,
        "Qwen3-Coder-30B-A3B",
        "Qwen/Qwen3-Coder-30B-A3B-Instruct",
        "Qwen3-Coder model card",
        d_ff=5472,
        context_length=262144,
        rope_theta=1e7,
    ),
    _further(
        _QWEN3_8B,
        "R1-0528-Qwen3-8B",
        "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
        "its model card",
        context_length=131072,
        rope_scaling=RopeScaling("yarn", 4.0, original_context_length=32768, attention_factor=0.1 * math.log(4) + 1),
    ),
)
