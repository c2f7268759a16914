"""Which format vLLM runs on which card, beyond what `flavours` says of NVIDIA's: AMD's cards, and newer formats."""

from dataclasses import replace

from .accelerators import Accelerator
from .flavours import FLAVOURS, NO_SOURCE, VLLM_OTHERS, Flavour, Support, support

LOGS = "start-up logs of vLLM 0.10.1 on A100 and 0.11.0 on H100 (specs/measured.csv, rows A076 and A002)"
VLLM_FP8_BLOCKS = "vLLM documentation v0.32, FP8 W8A8: kernels for checkpoints that are quantised in blocks"

# formats that models are published in, where that is not bf16: nothing is lost that was there
PUBLISHED = {
    "gpt-oss-20b": "MXFP4",
    "gpt-oss-120b": "MXFP4",
    "DeepSeek-V3": "FP8 blocks",
    "DeepSeek-R1": "FP8 blocks",
}
_NOT = dict.fromkeys(("CDNA 2", "CDNA 3", "Apple GPU"), "no"), VLLM_OTHERS
_NEWER = {
    "MXFP4": Support(
        ((8.0, "fits"), (7.0, "unknown")), {}, "4-bit weights of experts are widened by Marlin", LOGS, *_NOT
    ),
    "FP8 blocks": Support(
        ((8.9, "hardware"), (7.0, "unknown")), {}, "FP8 arithmetic begins with Ada (8.9)", VLLM_FP8_BLOCKS, *_NOT
    ),
}
_ELSEWHERE = {  # why not, on cards that are not NVIDIA's
    "AMD": "vLLM's table has no kernels for it on AMD's cards",
    "Apple": "vLLM computes on the CPU there; llama.cpp has kernels for the GPU",
}


def serves(card: Accelerator, of: Flavour) -> tuple[str, Support]:
    """The state of `of` in vLLM on `card`, as in `flavours.Support`, and why with its source.

    >>> from .accelerators import accelerator
    >>> [serves(accelerator(card), FLAVOURS["FP8 W8A8"])[0] for card in ("A100-80GB", "H100", "MI300X", "M2 Max")]
    ['no', 'hardware', 'hardware', 'no']
    """
    nobody = Support((), {}, "nobody was found who says so", NO_SOURCE)
    runs = support("vLLM", of.name) if of.name in FLAVOURS else _NEWER.get(of.name, nobody)
    state = runs.state(card.kind)
    if card.compute_capability.value is not None:
        return state, runs
    why = f"the card multiplies {of.number}" if state == "hardware" else _ELSEWHERE.get(card.maker, runs.why)
    return state, replace(runs, why=why, source=runs.others_source)
