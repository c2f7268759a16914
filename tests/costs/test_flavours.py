"""The chooser, against cases that are worked out by hand, and against its own rule on any input."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw_helpers.costs import inference
from llmhw_helpers.costs.devices import RESERVE, TASKS, Device, Task
from llmhw_helpers.costs.flavours import ADAPTER, choose, one_each
from llmhw_helpers.costs.inference import decode_work
from llmhw_helpers.costs.lora import finetuning_bytes, n_trainable
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.roofline import Roof
from llmhw_helpers.costs.weights import weight_bytes, weights_read
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.blocks import block
from llmhw_helpers.specs.figures import UnknownName
from llmhw_helpers.specs.flavours import FLAVOURS, flavour
from llmhw_helpers.specs.models import model

ALVIS = ("T4", "V100", "A40", "A100-40GB", "A100-80GB")
LLAMAS = ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-8B", "Llama-3.1-70B")
CPU = Device.cpu(Roof("a laptop", {"fp32": 3e11}, 25e9))
EIGHT_B = model("Llama-3.1-8B")


def on(name):
    return Device.of(accelerator(name))


def option(choice, flavour_name, program):
    return next(each for each in choice.options if (each.flavour, each.implementation) == (flavour_name, program))


def test_bytes_of_an_8b_by_hand():
    # a layer: q and o 4096 x 4096, k and v 4096 x 1024, three of 4096 x 14336; the rest has 16 bits
    matrices = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    rest = EIGHT_B.n_params - matrices
    assert weight_bytes(EIGHT_B, flavour("AWQ int4")) == matrices * 4.15625 / 8 + 2 * rest
    assert weight_bytes(EIGHT_B, flavour("NF4")) == round(matrices * 4.126953125 / 8) + 2 * rest
    assert weight_bytes(EIGHT_B, flavour("INT8 W8A8")) == matrices * (8 + 32 / 4096) / 8 + 2 * rest
    assert weight_bytes(EIGHT_B, flavour("bf16")) == 2 * EIGHT_B.n_params
    assert weight_bytes(EIGHT_B, flavour("fp32")) == 4 * EIGHT_B.n_params


@pytest.mark.parametrize("name", LLAMAS)
def test_unquantised_it_reads_what_notebook_07_reads(name):
    assert weights_read(model(name), flavour("bf16")) == inference.weights_read(model(name), "bf16")


def test_of_a_gguf_file_the_embedding_is_not_read():
    table = 128256 * 4096 * 4.5 / 8  # Q4_K
    assert weight_bytes(EIGHT_B, flavour("GGUF Q4_K_M")) - weights_read(EIGHT_B, flavour("GGUF Q4_K_M")) == table
    smol = model("SmolLM2-135M")  # its head is its embedding
    assert weights_read(smol, flavour("GGUF Q8_0")) == weight_bytes(smol, flavour("GGUF Q8_0"))


def test_nf4_is_as_large_where_it_answers_as_where_it_is_fine_tuned():
    parts = finetuning_bytes(EIGHT_B, Pass(1, 16), ADAPTER, 16, "nf4")
    assert parts["weights"] == weight_bytes(EIGHT_B, flavour("NF4"))
    assert parts["adapters"] == 16 * n_trainable(EIGHT_B, ADAPTER) + 4 * 2 * 7 * 32
    in_blocks = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    saved = in_blocks / 8 * (16 - block("NF4, double").bits_per_weight)
    assert weight_bytes(EIGHT_B, flavour("NF4")) == pytest.approx(2 * EIGHT_B.n_params - saved, abs=1)


def test_local_layers_answer_faster_in_a_long_context():
    local = replace(EIGHT_B, sliding_window=4096, n_local_layers=32)
    long, short = Task("long", 8, 32768), Task("short", 8, 4096)
    for task, same in ((long, False), (short, True)):
        one, other = (option(choose(on("A100-80GB"), m, task, 79e9, 0.0), "bf16", "vLLM") for m in (EIGHT_B, local))
        assert (one.tokens_per_s == other.tokens_per_s) == same
    floor = on("A100-80GB").roof.floor(decode_work(local, 8, 32768), "bf16").seconds
    assert other.batch_size == 8
    assert option(choose(on("A100-80GB"), local, long, 79e9, 0.0), "bf16", "vLLM").tokens_per_s == pytest.approx(
        8 / floor, rel=1e-4
    )


def test_a_prediction_is_the_roofline_of_notebook_07():
    choice = choose(on("A100-80GB"), EIGHT_B, Task("mine", 1, 1024), 80e9, 0.0)
    floor = on("A100-80GB").roof.floor(decode_work(EIGHT_B, 1, 1024), "bf16").seconds
    assert option(choice, "bf16", "vLLM").tokens_per_s == pytest.approx(
        1 / floor, rel=1e-5
    )  # but for an embedding's row
    kv = 2 * 32 * 8 * 128 * 2 * 1024
    assert option(choice, "bf16", "vLLM").bytes == 2 * EIGHT_B.n_params + kv + RESERVE


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("card", ALVIS)
@pytest.mark.parametrize("name", LLAMAS)
def test_nothing_recommends_fp8_on_alvis_nor_bf16_before_ampere(card, name, task):
    for memory in (15e9, 79e9):
        best = choose(on(card), model(name), task, memory, 0.1).best
        assert best is None or best.flavour != "FP8 W8A8"
        assert best is None or card not in ("T4", "V100") or best.flavour != "bf16"


def test_16_bits_are_multiplied_in_what_is_fastest():
    assert [on(name).half for name in (*ALVIS, "H100")] == ["fp16", "fp16", "bf16", "bf16", "bf16", "bf16"]
    for peaks, half in (({"fp32": 3e11, "bf16": 1e12}, "bf16"), ({"fp32": 3e11, "bf16": 5e10}, "fp32")):
        device = Device.cpu(Roof("a laptop", peaks, 25e9))
        assert device.half == half
        option_16 = option(choose(device, EIGHT_B, Task("many", 4096, 64), 1e12, 0.0), "bf16", "vLLM")
        assert option_16.tokens_per_s < peaks[half] / EIGHT_B.n_params
        assert option_16.tokens_per_s > 0.3 * peaks[half] / EIGHT_B.n_params  # arithmetic binds: 2 FLOPs a weight


def test_an_arm_cpu_takes_other_programs_than_an_x86_one():
    for kind, state in (("x86", "fits"), ("x86 AVX2", "no"), ("arm", "no")):
        options = choose(Device.cpu(CPU.roof, kind), EIGHT_B, "chat", 1e12, 0.03).options
        states = {(each.flavour, each.implementation): each.state for each in options}
        assert states["AWQ int4", "vLLM"] == states["GPTQ int4", "vLLM"] == state
        assert states["INT8 W8A8", "vLLM"] == "hardware"
        assert states["LLM.int8()", "transformers"] == states["NF4", "transformers"] == "fits"


def test_fp8_comes_with_hopper_where_arithmetic_binds():
    many = Task("many short texts", 4096, 64)
    assert choose(on("H100"), EIGHT_B, many, 80e9, 0.03).best.flavour == "FP8 W8A8"
    assert choose(on("A100-80GB"), EIGHT_B, many, 80e9, 0.03).best.name == "INT8 W8A8 in vLLM"


def test_a_70b_on_an_a100_takes_4_bits():
    choice = choose(on("A100-80GB"), model("Llama-3.1-70B"), "chat", 79e9, 0.03)
    assert choice.best.name == "AWQ int4 in vLLM"
    assert choice.best.bytes < 79e9 < option(choice, "bf16", "vLLM").bytes
    assert choose(on("A100-40GB"), model("Llama-3.1-70B"), "chat", 39e9, 0.1).best is None


def test_fine_tuning_takes_16_bits_where_they_fit_and_nf4_where_they_do_not():
    for memory, expected in ((45e9, "bf16"), (15e9, "NF4"), (8e9, None)):
        best = choose(on("A40"), EIGHT_B, "fine-tuning", memory).best
        assert (best and best.flavour) == expected
        assert best is None or best.implementation == "transformers"
    assert choose(on("T4"), EIGHT_B, "fine-tuning", 15e9).best.flavour == "NF4"
    assert choose(on("V100"), EIGHT_B, "fine-tuning", 31e9).best.flavour == "fp16"
    assert choose(on("A40"), EIGHT_B, "fine-tuning", 45e9, implementation="vLLM").best is None


@pytest.mark.parametrize("architecture", ["x86", "arm"])
def test_a_cpu_takes_a_gguf_file_in_llama_cpp(architecture):
    best = choose(Device.cpu(CPU.roof, architecture), EIGHT_B, "chat", 14e9, 0.04).best
    assert best.implementation == "llama.cpp"
    assert best.flavour.startswith("GGUF Q4")


def test_a_gguf_file_is_read_by_its_own_program_before_another():
    choice = choose(on("A40"), EIGHT_B, "chat", 45e9, 0.03)
    assert choice.best.name == "GGUF Q4_K_M in llama.cpp"
    assert option(choice, "GGUF Q4_K_M", "vLLM").refused == "is an experiment there"


def test_the_floor_is_kept_and_what_nobody_measured_is_not_guessed():
    tight = choose(on("A40"), EIGHT_B, "chat", 45e9, 0.001)
    assert tight.best.loss <= 0.001
    assert option(tight, "AWQ int4", "vLLM").refused == "loses 2.4%"
    assert "nobody measured" in option(tight, "NF4", "transformers").refused
    smol = choose(on("A40"), model("SmolLM2-135M"), "chat", 45e9, 0.03)
    assert option(smol, "AWQ int4", "vLLM").loss is None  # published for 50 times as many parameters
    measured = choose(on("A40"), model("SmolLM2-135M"), "chat", 45e9, 0.03, losses={"GGUF Q8_0": 0.002, "nf4": 0.2})
    assert measured.best.name == "GGUF Q8_0 in llama.cpp"
    assert option(measured, "NF4", "vLLM").refused == "loses 20.0%"


def test_an_unknown_combination_says_so():
    refused = option(choose(CPU, EIGHT_B, "chat", 1e12), "LLM.int8()", "vLLM")
    assert (refused.state, refused.refused) == ("unknown", "may run here or not: no source says")
    refused = option(choose(on("A40"), EIGHT_B, "chat", 1e12), "FP8 W8A8", "vLLM")
    assert (refused.state, refused.refused, refused.tokens_per_s) == ("no", "does not run here", 0)


def test_the_reasons_name_numbers_sources_and_what_was_not_taken():
    said = choose(on("T4"), EIGHT_B, "chat", 15e9, 0.03).reasons
    assert said[0] == "Llama-3.1-8B on T4, chat: 15 GB are left, and a loss of 3.0% is allowed."
    assert said[1].startswith("Take GGUF Q4_K_M in llama.cpp: 6.45 GB, at most 62.1 tokens/s (1 at a time), loss 2.8%")
    assert "llama.cpp README" in said[2]
    assert "Not GGUF Q4_0 in llama.cpp, which would be faster: it loses 7.5%." in said
    assert said[-1] == "Not fp16 in vLLM, unquantised: it needs 17.6 GB."
    none = choose(on("T4"), model("Llama-3.1-70B"), "chat", 15e9).reasons
    assert none[1].startswith("Nothing that is known to run here")
    assert none[2].endswith("NF4 in transformers, needs 41.9 GB.")


def test_one_of_each_flavour_is_shown():
    shown = one_each(choose(on("A40"), EIGHT_B, "chat", 45e9).options)
    assert [each.flavour for each in shown] == list(FLAVOURS)
    assert [each.flavour for each in shown if each.state == "no"] == ["FP8 W8A8"]
    assert {each.implementation for each in shown if each.flavour.startswith("GGUF")} == {"llama.cpp"}


CARDS = [Device.of(card) for card in ACCELERATORS.values() if not Roof.of(card).unknown]
WHERE = st.sampled_from([*CARDS, CPU, Device.cpu(CPU.roof, "x86 AVX2"), Device.cpu(CPU.roof, "arm")])
WHAT = st.sampled_from([model(name) for name in LLAMAS])
FOR = st.sampled_from(list(TASKS.values()))
GIGABYTES = st.floats(0, 200)
LOSS = st.floats(0, 0.1)


@settings(deadline=None, max_examples=60)
@given(WHERE, WHAT, FOR, GIGABYTES, LOSS)
def test_the_choice_fits_keeps_the_floor_and_none_that_does_is_faster(device, what, task, gigabytes, loss):
    choice = choose(device, what, task, gigabytes * 1e9, loss)
    able = [
        each
        for each in choice.options
        if each.state in ("hardware", "fits") and each.batch_size and each.loss is not None and each.loss <= loss
    ]
    assert all(each.bytes <= gigabytes * 1e9 for each in able)
    if choice.best is None:
        assert not able
    else:
        assert choice.best in able
        assert choice.best.tokens_per_s == max(each.tokens_per_s for each in able)


@settings(deadline=None, max_examples=60)
@given(WHERE, WHAT, FOR, GIGABYTES, GIGABYTES, LOSS)
def test_more_memory_never_makes_it_slower(device, what, task, one, other, loss):
    less, more = (choose(device, what, task, size * 1e9, loss).best for size in sorted((one, other)))
    assert less is None or less.tokens_per_s <= more.tokens_per_s * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(WHERE, WHAT, FOR, GIGABYTES, LOSS, LOSS)
def test_to_allow_more_loss_never_makes_it_slower(device, what, task, gigabytes, one, other):
    strict, loose = (choose(device, what, task, gigabytes * 1e9, loss).best for loss in sorted((one, other)))
    assert strict is None or strict.tokens_per_s <= loose.tokens_per_s


def test_bad_input_gets_one_line():
    with pytest.raises(UnknownName, match=r"unknown task 'chatting'; did you mean chat"):
        choose(CPU, EIGHT_B, "chatting", 1e9)
    with pytest.raises(UnknownName, match=r"unknown implementation 'vlm'; did you mean vLLM"):
        choose(CPU, EIGHT_B, "chat", 1e9, implementation="vlm")
    with pytest.raises(UnknownName, match=r"unknown flavour 'Q4'"):
        choose(CPU, EIGHT_B, "chat", 1e9, losses={"Q4": 0.1})
    with pytest.raises(UnknownName, match=r"unknown CPU architecture 'sparc'"):
        Device.cpu(CPU.roof, "sparc")
    with pytest.raises(ValueError, match="cannot be negative"):
        choose(CPU, EIGHT_B, "chat", -1)
    with pytest.raises(NoFormula, match="no choice of flavours for a mixture, which has a mixture of experts"):
        choose(on("A40"), replace(model("Mixtral-8x7B"), name="a mixture"), "chat", 1e12)
