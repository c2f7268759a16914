"""The JSON face, and answers that can be checked by hand."""

import json

import pytest

from llmhw_helpers.costs.planner import answer


def ask(model, where, **further):
    return answer({"model": model, "task": "serve", "where": where, **further})


def test_an_answer_is_json():
    said = ask("Llama-3.1-70B", "Alvis")
    assert said["ok"]
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said == ask("Llama-3.1-70B", "Alvis")


def test_70b_in_bf16_takes_four_a100_of_80_gb():
    """141 GB of weights: two cards of 76 GB (0.9 of 84.99) have 12 GB left, and the runtime takes its part."""
    said = ask("Llama-3.1-70B", "Alvis A100-80GB", formats=["bf16"], tokens_per_s=0)
    plan = next(plan for plan in said["plans"] if plan["n_gpus"] == 4)
    assert plan["tp_size"] == 4
    assert plan["memory"]["parts"]["weights"] == pytest.approx(141.1e9 / 4, rel=0.005)


@pytest.mark.parametrize(
    "request_",
    [{}, {"model": "Llama-3.1-8B"}, [], {"model": "Llama-3.1-8B", "task": "serve", "where": "Mars"}],
)
def test_a_bad_request_gets_a_line(request_):
    said = answer(request_)
    assert said["ok"] is False
    assert said["error"]
    assert "\n" not in said["error"]
