"""What runs where, against the rows of the sources' tables; layouts and losses against the sources' own numbers."""

import pytest

from llmhw_helpers.costs.lora import NF4_BITS
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.blocks import block
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.flavours import FLAVOURS, IMPLEMENTATIONS, NO_SOURCE, STATES, SUPPORT, flavour, support

CARDS = [accelerator(name).compute_capability.known() for name in ("V100", "T4", "A40", "A100-80GB", "H100")]
# vLLM's table: Volta, Turing, Ampere, Ampere, Hopper, x86, Arm
VLLM_TABLE = {
    "AWQ int4": "NYYYYYN",
    "GPTQ int4": "YYYYYYN",
    "INT8 W8A8": "NYYYYYY",
    "FP8 W8A8": "NNNNYNN",
    "NF4": "YYYYYNN",
    "GGUF Q4_0": "YYYYYNN",
}
# llama.cpp's scoreboard of Llama-3-8B: its column PPL, without an importance matrix
SCOREBOARD = {"Q8_0": 6.234284, "Q6_K": 6.253382, "Q5_K_M": 6.288607, "Q4_K_M": 6.407115, "Q4_0": 6.700147}


@pytest.mark.parametrize("name", VLLM_TABLE)
def test_vllm_runs_what_its_own_table_says(name):
    runs = support("vLLM", name)
    marks = {"hardware": "Y", "fits": "Y", "trial": "Y", "no": "N"}  # and none of it is unknown
    assert "".join(marks[runs.state(device)] for device in [*CARDS, "x86", "arm"]) == VLLM_TABLE[name]


def test_bitsandbytes_asks_for_turing_in_8_bits_and_for_nothing_newer_than_volta_in_4():
    assert [support("transformers", "LLM.int8()").state(card) for card in CARDS] == ["no"] + 4 * ["fits"]
    assert [support("transformers", "NF4").state(card) for card in CARDS] == 5 * ["fits"]


@pytest.mark.parametrize("name", ["LLM.int8()", "NF4"])
def test_bitsandbytes_runs_both_of_its_formats_on_both_kinds_of_cpu(name):
    runs = support("transformers", name)
    assert [runs.state(architecture) for architecture in ("x86", "arm")] == ["fits", "fits"]
    assert "aarch64" in runs.source


def test_whoever_multiplies_a_format_has_arithmetic_for_it():
    """The two tables of facts agree: what runs in hardware on a card has a peak there."""
    for name in ("V100", "T4", "A40", "A100-40GB", "A100-80GB", "H100", "GH200"):
        card = accelerator(name)
        for (program, of), runs in SUPPORT.items():
            if runs.state(card.compute_capability.known()) == "hardware":
                assert flavour(of).number in card.dtypes, (name, program, of)
    assert support("vLLM", "bf16").state(accelerator("T4").compute_capability.known()) == "no"


def test_no_format_of_four_bits_is_called_hardware():
    for (_, of), runs in SUPPORT.items():
        if flavour(of).number is None:
            assert "hardware" not in {*dict(runs.gpu).values(), *runs.cpu.values()}


def test_every_pair_has_states_a_reason_and_a_source_and_the_others_are_unknown():
    for program in IMPLEMENTATIONS:
        for name in FLAVOURS:
            runs = support(program, name)
            states = {runs.state(device) for device in (*CARDS, 6.0, "x86", "arm", "riscv")}
            assert states <= set(STATES)
            assert runs.why
            assert runs.source
            assert runs.state("riscv") == runs.state(6.0) == "unknown"
    assert support("transformers", "INT8 W8A8").source == NO_SOURCE
    assert support("transformers", "INT8 W8A8").state(9.0) == "unknown"
    assert [support("transformers", "FP8 W8A8").state(card) for card in CARDS] == 4 * ["no"] + ["unknown"]


def test_thresholds_stand_in_order():
    for runs in SUPPORT.values():
        assert [least for least, _ in runs.gpu] == sorted((least for least, _ in runs.gpu), reverse=True)


def test_layouts_are_those_of_the_blocks():
    nf4 = flavour("NF4").bits_per_weight(4096)
    assert nf4 == block("NF4, double").bits_per_weight == NF4_BITS == 4 + 8 / 64 + 32 / (64 * 256)
    assert flavour("AWQ int4").bits_per_weight(4096) == 4 + (16 + 4) / 128
    assert flavour("INT8 W8A8").bits_per_weight(4096) == 8 + 32 / 4096
    assert flavour("GGUF Q4_0").bits_per_weight(4096) is None


def test_every_flavour_is_at_home_where_it_runs():
    for of in FLAVOURS.values():
        assert any(support(of.home, of.name).state(device) in ("hardware", "fits") for device in CARDS)


def test_losses_are_ratios_of_the_published_perplexities():
    published = {"AWQ int4": (5.60, 5.47), "GPTQ int4": (5.69, 5.47), "LLM.int8()": (12.45, 12.45)}
    for name, (after, before) in published.items():
        assert flavour(name).loss.known() == pytest.approx(after / before - 1, abs=2e-6)
    assert flavour("NF4").loss.value is None


def test_all_gguf_losses_come_from_one_table_and_one_unquantised_model():
    ggufs = {name.removeprefix("GGUF "): of.loss for name, of in FLAVOURS.items() if name.startswith("GGUF")}
    assert ggufs.keys() == SCOREBOARD.keys()
    assert {loss.source for loss in ggufs.values()} == {ggufs["Q8_0"].source}
    for recipe, loss in ggufs.items():
        assert SCOREBOARD[recipe] / (1 + loss.known()) == pytest.approx(6.231633, abs=2e-6), recipe
    ratios = {"Q8_0": 1.000425, "Q6_K": 1.003490, "Q4_K_M": 1.028160}  # printed in the README's next table
    for recipe, ratio in ratios.items():
        assert ggufs[recipe].known() == pytest.approx(ratio - 1, abs=1e-6)
    losses = [loss.known() for loss in ggufs.values()]
    assert losses == sorted(losses), "fewer bits lose more"


def test_a_name_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown flavour 'AWQ'; did you mean AWQ int4"):
        flavour("AWQ")
    with pytest.raises(UnknownName, match=r"unknown implementation 'llama'; did you mean llama.cpp"):
        support("llama", "bf16")
