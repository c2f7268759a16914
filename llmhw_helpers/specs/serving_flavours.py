"""Formats that a server meets besides those of `flavours`, and the short names that people give to all of them."""

from .figures import look_up
from .flavours import FLAVOURS, STUDY, Flavour, unmeasured

GPT_OSS = (
    "gpt-oss model card, arXiv:2508.10925, section 2: the weights of experts in MXFP4, 4.25 bits, all else in bf16"
)
BNB_VLLM = (
    "vLLM, bitsandbytes loader: NF4 made while a 16-bit model is loaded, an fp32 scale for 64 weights, no double"
    " quantisation"
)
FP8_BLOCKS = (
    "DeepSeek-V3 Technical Report, arXiv:2412.19437, section 3.3: an fp32 scale for a block of 128 x 128 weights"
)
NVFP4 = "NVIDIA, Introducing NVFP4 (technical blog, 2025): an FP8 scale for 16 weights"
FBGEMM = (
    "The Llama 3 Herd, arXiv:2407.21783, section 6.2: FP8 for the MLPs of all layers but the first and the last, none"
    " for attention"
)

SERVING_FLAVOURS = FLAVOURS | {
    each.name: each
    for each in (
        Flavour("MXFP4", unmeasured(GPT_OSS), GPT_OSS, bits=4, group=32, scale_bits=8, only="experts"),
        Flavour("bnb int4", unmeasured(BNB_VLLM), BNB_VLLM, bits=4, layout="NF4"),
        Flavour("FP8 blocks", unmeasured(FP8_BLOCKS), FP8_BLOCKS, bits=8, group=128 * 128, scale_bits=32),
        Flavour("FP8 FBGEMM", unmeasured(FBGEMM), FBGEMM, bits=8, scale_bits=32, only="inner MLPs"),
        Flavour("NVFP4", unmeasured(NVFP4), NVFP4, bits=4, group=16, scale_bits=8),
        Flavour("INT8 W8A16", unmeasured(STUDY), STUDY, bits=8, group=128, scale_bits=16),
    )
}
SHORT = {
    "fp8": "FP8 W8A8",
    "int8": "INT8 W8A8",
    "int4": "AWQ int4",
    "awq": "AWQ int4",
    "gptq": "GPTQ int4",
    "w4a16": "AWQ int4",
    "w8a16": "INT8 W8A16",
    "w8a8": "INT8 W8A8",
    "gptq int8": "INT8 W8A16",
    "fp4": "NVFP4",
    "bitsandbytes": "bnb int4",
    "bnb": "bnb int4",
    "float16": "fp16",
    "bfloat16": "bf16",
}
_NAMED = SERVING_FLAVOURS | {short: SERVING_FLAVOURS[name] for short, name in SHORT.items()}


def serving_flavour(name: str) -> Flavour:
    """The flavour called `name`, short or long; `UnknownName` with the nearest names where there is none.

    >>> serving_flavour("awq").name, serving_flavour("mxfp4").bits_per_weight(2880)
    ('AWQ int4', 4.25)
    """
    return look_up(name, _NAMED, "flavour")
