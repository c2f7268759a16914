"""Which format vLLM runs on which card, beyond what `flavours` says of NVIDIA's: AMD's cards, and newer formats."""

from dataclasses import replace

from .accelerators import Accelerator
from .flavours import FLAVOURS, NO_SOURCE, VLLM, Flavour, Support, support

VLLM_AMD = f"{VLLM}; its column of AMD GPUs, and its page on FP8 W8A8: MI300X"
VLLM_APPLE = "vLLM documentation, Installation, CPU, Apple silicon: experimental, FP32 and FP16 on the CPU"
LOGS = "start-up logs of vLLM 0.10.1 on A100 and 0.11.0 on H100 (specs/measured.csv, rows A076 and A002)"
VLLM_FP8_BLOCKS = "vLLM documentation v0.32, FP8 W8A8: kernels for checkpoints that are quantised in blocks"

# formats that models are published in, where that is not bf16: nothing is lost that was there
PUBLISHED = {
    "gpt-oss-20b": "MXFP4",
    "gpt-oss-120b": "MXFP4",
    "DeepSeek-V3": "FP8 blocks",
    "DeepSeek-R1": "FP8 blocks",
}
_NEWER = {
    "MXFP4": Support(((8.0, "fits"), (7.0, "unknown")), {}, "4-bit weights of experts are widened by Marlin", LOGS),
    "FP8 blocks": Support(
        ((8.9, "hardware"), (7.0, "unknown")), {}, "FP8 arithmetic begins with Ada (8.9)", VLLM_FP8_BLOCKS
    ),
}
_ON_AMD = "vLLM's table has no kernels for it on AMD's cards"


def serves(card: Accelerator, of: Flavour) -> tuple[str, Support]:
    """The state of `of` in vLLM on `card`, as in `flavours.Support`, and why with its source.

    >>> from .accelerators import accelerator
    >>> [serves(accelerator(card), FLAVOURS["FP8 W8A8"])[0] for card in ("A100-80GB", "H100", "MI300X", "M2 Max")]
    ['no', 'hardware', 'hardware', 'no']
    """
    capability = card.compute_capability.value
    if capability is None:
        runs = _elsewhere(card, of)
        return runs.gpu[0][1], runs
    if of.name in FLAVOURS:
        runs = support("vLLM", of.name)
    else:
        runs = _NEWER.get(of.name, Support((), {}, "nobody was found who says so", NO_SOURCE))
    return runs.state(capability), runs


def _elsewhere(card: Accelerator, of: Flavour) -> Support:
    """On a card that is not NVIDIA's."""
    runs = Support(((0.0, "no"),), {}, _ON_AMD, VLLM_AMD)
    if not card.architecture.startswith("CDNA"):
        return replace(runs, why="vLLM computes on the CPU there; llama.cpp has kernels for the GPU", source=VLLM_APPLE)
    if of.number in card.dtypes and of.name in ("bf16", "fp16", "fp32", "FP8 W8A8"):
        return replace(runs, gpu=((0.0, "hardware"),), why=f"the card multiplies {of.number}")
    return runs
