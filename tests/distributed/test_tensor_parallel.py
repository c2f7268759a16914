"""A model divided among ranks, against the whole model and against PyTorch's ``parallelize_module``."""

from dataclasses import replace

import pytest

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.costs.parallelism import padded, part
from llmhw_helpers.specs.models import MODELS, model

SMOLLM = model("SmolLM2-135M")


@pytest.mark.parametrize("tp_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", [name for name, each in MODELS.items() if not each.unlike_llama()])
def test_what_is_padded_divides_and_what_divides_is_not_padded(name, tp_size):
    filled = padded(model(name), tp_size)
    part(filled, tp_size)
    assert padded(filled, tp_size) == filled
    assert filled.n_heads / filled.n_kv_heads == model(name).n_heads / model(name).n_kv_heads


def test_what_two_ranks_cost_smollm():
    filled = padded(SMOLLM, 2)
    assert filled == replace(SMOLLM, n_heads=12, n_kv_heads=4)
    assert filled.parameters()["attention"] / SMOLLM.parameters()["attention"] == 4 / 3
    assert kv_bytes(filled) / kv_bytes(SMOLLM) == 4 / 3
    assert padded(SMOLLM, 3) == SMOLLM
