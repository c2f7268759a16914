"""A plan's small twin: what it is, what is predicted of it, and the same job whole and interrupted."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmhw_helpers.cluster.predictions import prepare, read_twin
from llmhw_helpers.cluster.twin import NoTwin, Twin, small_model, twin_of
from llmhw_helpers.costs.planner import answer
from llmhw_helpers.measure.calibration import Calibration, Rate
from llmhw_helpers.measure.machine import Machine
from llmhw_helpers.specs.models import model

LLAMA = small_model(model("Llama-3.1-8B"))
GB, GFLOP = Rate("B/s", 10e9, 10e9, 0.0), Rate("FLOP/s", 100e9, 100e9, 0.0)
CALIBRATION = Calibration(
    Machine("a processor", 2, 8 << 30, None, None), "2026-01-01 00:00:00", {"fp32": GFLOP}, {}, GB, GB, None
)


def serving_plan(**sizes):
    asked = {"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis", "users": 40, "formats": ["AWQ int4"]}
    plans = answer(asked)["plans"]
    return asked, next(plan for plan in plans if all(plan[name] == size for name, size in sizes.items()))


@pytest.mark.parametrize(
    ("of_plan", "of_twin"),
    [
        ({"tp_size": 4, "pp_size": 1, "dp_size": 1}, (1, 2, 2, 1, 1)),
        ({"tp_size": 2, "pp_size": 1, "dp_size": 2}, (1, 4, 2, 1, 2)),
    ],
)
def test_a_twin_is_divided_as_its_plan(of_plan, of_twin):
    twin = twin_of(*serving_plan(**of_plan))
    assert (twin.n_nodes, twin.ranks_per_node, twin.tp_size, twin.pp_size, twin.dp_size) == of_twin
    assert twin.notes == ()


def test_what_a_twin_leaves_out_is_said():
    asked, plan = serving_plan(tp_size=4, pp_size=2)
    twin = twin_of(asked, plan | {"dp_size": 8, "n_gpus": 64})
    assert (twin.tp_size, twin.pp_size, twin.dp_size) == (2, 2, 1)
    assert twin.notes == ("the plan's DP 8 is left out",)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"tp_size": 2}, "2 nodes of 1 ranks do not divide into TP 2, PP 1, DP 2"),
        ({"batch_size": 0}, "sizes and numbers of a twin are at least 1"),
        ({"pp_size": 2, "dp_size": 1}, "no twin trains in a pipeline"),
        ({"method": "lora", "tp_size": 2, "dp_size": 1}, "no twin has adapters on divided matrices"),
        ({"seq_len": 2048}, "2049 tokens are more than small Llama-3.1-8B's 2048"),
        ({"n_nodes": 5, "pp_size": 5, "dp_size": 1, "task": "evaluate"}, "5 stages are more than the 4 layers"),
    ],
)
def test_what_has_no_twin_is_one_line(change, line):
    with pytest.raises(NoTwin) as error:
        replace(Twin("fine-tune", "a plan", LLAMA), **change)
    assert line in str(error.value)


def test_a_prepared_twin_comes_back_as_it_was(tmp_path):
    twin = twin_of(*serving_plan(tp_size=4, pp_size=2))
    prepared = prepare(twin, tmp_path / "twin.json", CALIBRATION)
    assert read_twin(tmp_path / "twin.json") == prepared
    assert prepared.twin == twin


@pytest.mark.parametrize("content", ["", "[1]", '{"kind": "llmhw twin", "version": 2}', '{"kind": "llmhw twin"}'])
def test_what_is_no_twin_is_one_line(tmp_path, content):
    path = Path(tmp_path / "twin.json")
    with pytest.raises(NoTwin, match="no twin"):
        read_twin(path)
    path.write_text(content)
    with pytest.raises(NoTwin, match=r"twin.json is (damaged|no twin of version 1).*: write it again"):
        read_twin(path)
