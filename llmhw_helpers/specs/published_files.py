"""Sizes of GGUF files that others have published: what a prediction of a file's size is held against."""

from .figures import Figure

BARTOWSKI = "model card of bartowski/{} on the Hugging Face hub, made by llama.cpp with an importance matrix"
CARD_1B = BARTOWSKI.format("Llama-3.2-1B-Instruct-GGUF")
CARD_70B = BARTOWSKI.format("Meta-Llama-3.1-70B-Instruct-GGUF")
LLAMA_CPP = "llama.cpp, tools/quantize/README.md, table of meta-llama/Llama-3.1-8B"


def _sizes(source: str, meaning: str, unit: str, sizes: dict[str, float]) -> dict[str, Figure]:
    return {recipe: Figure(value, unit, meaning, source) for recipe, value in sizes.items()}


FILE_BYTES = {
    "Llama-3.2-1B": _sizes(
        *(CARD_1B, "size of the file, decimal GB to two digits", "B"),
        {"F16": 2.48e9, "Q8_0": 1.32e9, "Q6_K": 1.02e9, "Q5_K_M": 0.91e9, "Q4_K_M": 0.81e9, "Q4_K_S": 0.78e9},
    ),
    "Llama-3.1-70B": _sizes(
        *(CARD_70B, "size of the file or its parts, decimal GB to two digits", "B"),
        {"Q6_K": 57.89e9, "Q5_K_M": 49.95e9, "Q5_K_S": 48.66e9, "Q4_K_M": 42.52e9, "Q4_K_S": 40.35e9, "Q2_K": 26.38e9},
    ),
}
BITS_PER_WEIGHT = {
    "Llama-3.1-8B": _sizes(
        *(LLAMA_CPP, "bits of all tensors divided by all weights", "bit"),
        {
            **{"F16": 16.0005, "Q8_0": 8.5008, "Q6_K": 6.5633, "Q5_K_M": 5.7036, "Q5_K_S": 5.5704},
            **{"Q4_K_M": 4.8944, "Q4_K_S": 4.6672, "Q3_K_S": 3.6429, "Q3_K_L": 4.2979, "Q2_K": 3.1593},
        },
    ),
}
