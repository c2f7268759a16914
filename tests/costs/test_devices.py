"""Devices: what their kind is, and that those nobody has figures for are refused or called unknown."""

import pytest

from llmhw_helpers.costs.devices import Device
from llmhw_helpers.costs.flavours import choose
from llmhw_helpers.specs.accelerators import ACCELERATORS, accelerator
from llmhw_helpers.specs.figures import UnknownFigure
from llmhw_helpers.specs.flavours import FLAVOURS, IMPLEMENTATIONS, support
from llmhw_helpers.specs.models import model

EIGHT_B = model("Llama-3.1-8B")


@pytest.mark.parametrize("card", ACCELERATORS.values(), ids=list(ACCELERATORS))
def test_the_kind_is_the_compute_capability_or_the_maker(card):
    kind = Device.of(card).kind
    assert kind == (card.compute_capability.value or card.maker)


def test_where_cuda_does_not_run_every_answer_is_unknown_and_none_is_taken():
    for name in ("MI300X", "M1 Max"):
        device = Device.of(accelerator(name))
        assert {support(p, f).state(device.kind) for p in IMPLEMENTATIONS for f in FLAVOURS} == {"unknown"}
        choice = choose(device, EIGHT_B, "chat", 60e9)
        assert choice.best is None
        assert choice.reasons[1].startswith("Nothing that is known to run here")


def test_the_sixteen_bits_it_multiplies_in_are_the_fastest_that_it_has():
    halves = {name: Device.of(accelerator(name)).half for name in ("T4", "A40", "MI300X", "M1 Ultra")}
    assert halves == {"T4": "fp16", "A40": "bf16", "MI300X": "bf16", "M1 Ultra": "fp16"}


def test_a_rate_that_no_source_gives_is_not_replaced_by_a_slower_format():
    with pytest.raises(UnknownFigure, match="GB10 computes in bf16, and no source says how fast"):
        _ = Device.of(accelerator("GB10")).half
