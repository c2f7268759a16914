"""Devices: what their kind is, and that those nobody has figures for are refused or called unknown."""

import pytest

from llmhw_helpers.costs.devices import Device
from llmhw_helpers.costs.flavours import choose
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.figures import UnknownFigure
from llmhw_helpers.specs.flavours import FLAVOURS, support
from llmhw_helpers.specs.models import model

EIGHT_B = model("Llama-3.1-8B")


@pytest.mark.parametrize("card", ACCELERATORS.values(), ids=list(ACCELERATORS))
def test_the_kind_is_the_compute_capability_or_the_architecture(card):
    assert Device.of(card).kind == (card.compute_capability.value or card.architecture)


def test_vllm_on_amd_is_its_own_column():
    """vLLM's documentation, Supported Hardware, column AMD GPU."""
    column = {"FP8 W8A8": "hardware", "GGUF Q4_K_M": "trial", "bf16": "hardware", "LLM.int8()": "unknown"}
    column |= dict.fromkeys(("AWQ int4", "GPTQ int4", "INT8 W8A8", "NF4"), "no")
    kind = accelerator("MI300X").kind
    assert {name: support("vLLM", name).state(kind) for name in column} == column
    assert support("vLLM", "FP8 W8A8").state(accelerator("MI250X").kind) == "no"
    assert "Supported Hardware" in support("vLLM", "AWQ int4").others_source


def test_llama_cpp_runs_its_files_everywhere_and_what_no_source_says_is_unknown():
    for name in ("MI300X", "M4 Max"):
        kind = accelerator(name).kind
        assert support("llama.cpp", "GGUF Q4_K_M").state(kind) == "fits"
        assert support("llama.cpp", "AWQ int4").state(kind) == "no"
        assert support("transformers", "NF4").state(kind) == "unknown"
    assert {support("vLLM", name).state("Apple GPU") for name in FLAVOURS} == {"no", "unknown"}  # on the CPU alone


def test_the_chooser_takes_what_runs_there():
    best = {name: choose(Device.of(accelerator(name)), EIGHT_B, "chat", 60e9).best for name in ("MI300X", "M1 Max")}
    assert {name: (option.flavour, option.implementation) for name, option in best.items()} == {
        "MI300X": ("GGUF Q4_K_M", "llama.cpp"),
        "M1 Max": ("GGUF Q4_K_M", "llama.cpp"),
    }


def test_the_sixteen_bits_it_multiplies_in_are_the_fastest_that_it_has():
    halves = {name: Device.of(accelerator(name)).half for name in ("T4", "A40", "MI300X", "M1 Ultra")}
    assert halves == {"T4": "fp16", "A40": "bf16", "MI300X": "bf16", "M1 Ultra": "fp16"}


def test_a_rate_that_no_source_gives_is_not_replaced_by_a_slower_format():
    with pytest.raises(UnknownFigure, match="GB10 computes in bf16, and no source says how fast"):
        _ = Device.of(accelerator("GB10")).half
