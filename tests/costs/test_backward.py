"""The ends of the blocks alike are enough: a walk through each of them finds the same moment."""

import dataclasses

import pytest

from llmhw_helpers.costs.backward import Gradients, ends, fullest, units
from llmhw_helpers.costs.operations import Pass
from llmhw_helpers.specs.models import model

SIZES = {"d_model": 64, "d_ff": 160, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
RULES = {
    "one GPU": Gradients(2, 2),
    "accumulated": Gradients(4, 4, exist=True),
    "shared": Gradients(2, 4, n_ranks=8, reduced=4, gathered=2),
    "shared, and much heavier than activations": Gradients(200, 400, n_ranks=8, reduced=400, gathered=200),
    "shared, parameters stay": Gradients(2, 4, n_ranks=8, reduced=4, gathered=2, stay=True),
    "a pipeline's stage": Gradients(2, 4, exist=True, gathered=2, stay=True),
    "a share of the sum": Gradients(2, 2, exist=True, n_ranks=4, reduced=2, gathered=2),
}


def one_by_one(walk):
    """The same blocks, each a unit of its own."""
    return [
        dataclasses.replace(unit, times=1, layer=None if unit.layer is None else unit.layer - i)
        for unit in walk
        for i in range(unit.times)
    ]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("name", ["Llama-3.1-8B", "DeepSeek-V3", "SmolLM2-135M"])
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("seq_len", [1, 64, 4096])
def test_the_ends_are_the_walk(rule, name, recompute, seq_len):
    walk = units(dataclasses.replace(model(name), vocab_size=50), Pass(1, seq_len, recompute=recompute))
    kept = sum(o.kept for unit in one_by_one(walk) for o in unit.operations if o.name != "recompute")
    short, whole = (fullest(way, {}, kept, rule) for way in (walk, one_by_one(walk)))
    assert short == whole
    assert len(walk) == (4 if name == "DeepSeek-V3" else 3)


def test_only_four_blocks_of_many_are_looked_at():
    walk = units(model("Llama-3.1-405B"), Pass(1, 8))
    assert [list(ends(unit)) for unit in walk] == [[(0, 0)], [(0, 0), (1, 0), (124, 122), (125, 0)], [(0, 0)]]
    assert walk[1].at(125, walk[1].operations[0]) == "block 0, down"
    assert sum(unit.times * unit.n_params for unit in walk) == model("Llama-3.1-405B").n_params
