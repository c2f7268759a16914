"""Llama, and models that are built like it: each size, and those who trained it further under another name."""

from dataclasses import replace

from .architectures import Model, RopeScaling
from .hub import Sizes, sized, source

_7B, _13B = (32, 4096, 32, 32, 11008), (40, 5120, 40, 40, 13824)
_8B, _70B = (32, 4096, 32, 8, 14336), (80, 8192, 64, 8, 28672)


def _llama1(size: str, sizes: Sizes, norm_eps: float = 1e-6) -> Model:
    found = source(f"huggyllama/llama-{size.lower()}", "LLaMA, arXiv:2302.13971, table 2")
    return sized(f"LLaMA-{size}", sizes, 32000, 2048, 1e4, found, norm_eps=norm_eps)


def _llama2(size: str, sizes: Sizes) -> Model:
    found = source(f"meta-llama/Llama-2-{size.lower()}-hf", "Llama 2, arXiv:2307.09288")
    return sized(f"Llama-2-{size}", sizes, 32000, 4096, 1e4, found)


def _codellama(size: str, sizes: Sizes, vocab_size: int = 32016) -> Model:
    found = source(f"codellama/CodeLlama-{size.lower()}-hf", "Code Llama, arXiv:2308.12950")
    return sized(f"CodeLlama-{size}", sizes, vocab_size, 16384, 1e6, found)


def _llama3(name: str, sizes: Sizes, report: str, stretch: float = 8.0, tied_embeddings: bool = False) -> Model:
    found, scaling = source(f"meta-llama/{name}", report), RopeScaling("llama3", stretch)
    return sized(name, sizes, 128256, 131072, 5e5, found, rope_scaling=scaling, tied_embeddings=tied_embeddings)


def _smol(name: str, sizes: Sizes, context_length: int, rope_theta: float, report: str) -> Model:
    found = source(f"HuggingFaceTB/{name}", report)
    return sized(name, sizes, 49152, context_length, rope_theta, found, tied_embeddings=True)


def _coder(size: str, sizes: Sizes) -> Model:
    found = source(f"deepseek-ai/deepseek-coder-{size}-base", "DeepSeek-Coder, arXiv:2401.14196")
    scaling = RopeScaling("linear", 4.0)
    return sized(f"deepseek-coder-{size}", sizes, 32256, 16384, 1e5, found, norm_eps=1e-6, rope_scaling=scaling)


def _distilled(size: str, of: Model) -> Model:
    name = f"R1-Distill-Llama-{size}"
    report = f"DeepSeek-R1, arXiv:2501.12948, trained from {of.name}"
    return replace(of, name=name, source=source(f"deepseek-ai/DeepSeek-{name}", report))


_HERD, _CARD = "The Llama 3 Herd, arXiv:2407.21783", "Llama {} model card".format
_SMOL, _SMOL2 = "SmolLM model card", "SmolLM2, arXiv:2502.02737"
_LLAMA_31_8B = _llama3("Llama-3.1-8B", _8B, _HERD)
_LLAMA_33_70B = _llama3("Llama-3.3-70B", _70B, _CARD("3.3"))
LLAMAS = (
    _smol("SmolLM2-135M", (30, 576, 9, 3, 1536), 8192, 1e5, _SMOL2),
    _smol("SmolLM2-360M", (32, 960, 15, 5, 2560), 8192, 1e5, _SMOL2),
    _smol("SmolLM2-1.7B", (24, 2048, 32, 32, 8192), 8192, 1.3e5, _SMOL2),
    _smol("SmolLM-1.7B", (24, 2048, 32, 32, 8192), 2048, 1e4, _SMOL),
    _llama1("7B", _7B),
    _llama1("13B", _13B),
    _llama1("30B", (60, 6656, 52, 52, 17920)),
    _llama1("65B", (80, 8192, 64, 64, 22016), 1e-5),
    _llama2("7B", _7B),
    _llama2("13B", _13B),
    _llama2("70B", _70B),
    _codellama("7B", _7B),
    _codellama("13B", _13B),
    _codellama("34B", (48, 8192, 64, 8, 22016), 32000),
    sized("Llama-3-8B", _8B, 128256, 8192, 5e5, source("meta-llama/Meta-Llama-3-8B", _CARD("3"))),
    sized("Llama-3-70B", _70B, 128256, 8192, 5e5, source("meta-llama/Meta-Llama-3-70B", _CARD("3"))),
    _LLAMA_31_8B,
    _llama3("Llama-3.1-70B", _70B, _HERD),
    _llama3("Llama-3.1-405B", (126, 16384, 128, 8, 53248), _HERD),
    _llama3("Llama-3.2-1B", (16, 2048, 32, 8, 8192), _CARD("3.2"), 32.0, tied_embeddings=True),
    _llama3("Llama-3.2-3B", (28, 3072, 24, 8, 8192), _CARD("3.2"), 32.0, tied_embeddings=True),
    _LLAMA_33_70B,
    _distilled("8B", _LLAMA_31_8B),
    _distilled("70B", _LLAMA_33_70B),
    sized(
        "TinyLlama-1.1B",
        (22, 2048, 32, 4, 5632),
        32000,
        2048,
        1e4,
        source("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "TinyLlama, arXiv:2401.02385"),
    ),
    _coder("6.7b", _7B),
    _coder("33b", (62, 7168, 56, 8, 19200)),
    sized("Yi-6B", (32, 4096, 32, 4, 11008), 64000, 4096, 5e6, source("01-ai/Yi-6B", "Yi, arXiv:2403.04652")),
    sized("Yi-34B", (60, 7168, 56, 8, 20480), 64000, 4096, 5e6, source("01-ai/Yi-34B", "Yi, arXiv:2403.04652")),
)
