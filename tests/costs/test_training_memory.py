"""What a rank holds: equal to one GPU's where nothing is divided, and to PyTorch's trackers where it is."""

import pytest

from llmhw_helpers.costs.lora import LoRA, finetuning_bytes
from llmhw_helpers.costs.memory import Recipe, phases
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.costs.training_memory import MIXED, SHARDED, Layout, lora_rank_peak, rank_peak, rank_phases
from llmhw_helpers.specs.models import model


@pytest.mark.parametrize("name", ["Llama-3.2-1B", "Llama-3.1-8B", "Mixtral-8x7B", "DeepSeek-V3"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_one_rank_is_one_gpu(name, recompute):
    run = Pass(2, 512, recompute=recompute)
    alone, rank = phases(model(name), run, Recipe()), rank_phases(model(name), run, Recipe(), Layout())
    assert [phase.bytes for phase in rank] == [phase.bytes for phase in alone]
    assert [phase.at for phase in rank] == [phase.at for phase in alone]


def test_adapters_on_one_rank_are_those_of_one_gpu():
    run, lora = Pass(1, 1024), LoRA(8)
    alone = finetuning_bytes(model("Llama-2-7B"), run, lora, 1024)
    assert lora_rank_peak(model("Llama-2-7B"), run, lora).bytes == sum(alone.values()) + 16 * 1024


def test_zero_divides_one_more_term_with_each_stage():
    """ZeRO (arXiv:1910.02054), figure 1: 7.5e9 parameters on 64 ranks need 120, 31.4, 16.6 and 1.9 GB."""
    llama = model("Llama-2-7B")
    tiny = Pass(1, 1)
    by_stage = [rank_phases(llama, tiny, MIXED, Layout(dp_size=64, zero=zero))[2].bytes for zero in range(4)]
    expected = [16, 4 + 12 / 64, 2 + 14 / 64, 16 / 64]
    assert [n / llama.n_params for n in by_stage] == pytest.approx(expected, rel=1e-3)


def test_mixed_precision_without_shares_is_refused():
    with pytest.raises(ValueError, match="no formula for autocast; FSDP2's mixed precision takes zero=2 or 3"):
        rank_peak(model("Llama-3.2-1B"), Pass(1, 8), SHARDED, Layout(dp_size=8, zero=1))
