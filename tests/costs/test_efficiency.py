from dataclasses import replace

import pytest

from llmhw_helpers.costs.efficiency import (
    FITTED,
    PROGRAMS,
    all_reduce_seconds,
    bytes_per_s,
    flops_per_s,
    layer_seconds,
)
from llmhw_helpers.specs.accelerators import accelerator
from llmhw_helpers.specs.figures import UnknownFigure, UnknownName

A100 = accelerator("A100-80GB")


def test_a_card_is_held_back_by_its_bandwidth_or_by_its_multiprocessors():
    fast = replace(A100, bytes_per_s=replace(A100.bytes_per_s, value=20e12))
    cycles = 108 * 1.41e9
    assert bytes_per_s(fast, "engine") == pytest.approx(FITTED["cycle bytes"] * cycles)
    assert bytes_per_s(fast, "engine", bits=4.5) == pytest.approx(FITTED["cycle bytes, packed"] * cycles)
    assert bytes_per_s(accelerator("A40"), "engine") == pytest.approx(FITTED["stream"] * 696e9)


def test_a_card_that_nobody_counted_has_its_bandwidth_alone():
    unknown = replace(A100, n_sms=replace(A100.n_sms, value=None))
    assert bytes_per_s(unknown, "llama.cpp") == pytest.approx(FITTED["stream"] * 2039e9)
    with pytest.raises(UnknownFigure):
        bytes_per_s(replace(A100, bytes_per_s=replace(A100.bytes_per_s, value=None)), "engine")


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_passes_the_data_sheet(program):
    assert bytes_per_s(A100, program) < 2039e9
    assert flops_per_s(A100, program, "fp16") < 312e12
    assert layer_seconds(program) > 0


def test_an_all_reduce_costs_its_latency_and_most_of_its_bytes_twice():
    assert all_reduce_seconds(1e9, 1) == 0
    long = all_reduce_seconds(1e12, 8) - all_reduce_seconds(0, 8)
    assert long == pytest.approx(2 * 7 / 8 * 1e12 / FITTED["link"])
    assert all_reduce_seconds(0, 8, nodes=4) == pytest.approx(6 * FITTED["network step"])


def test_an_unknown_program_is_refused():
    with pytest.raises(UnknownName, match="unknown class of programs 'ollama'; did you mean llama.cpp"):
        layer_seconds("ollama")
