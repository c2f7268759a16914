"""Why this plan and not a smaller one: sentences that follow from what was tried."""

from llmhw_helpers.costs.planner import answer


def ask(where, model="Llama-3.1-70B", **further):
    return answer({"model": model, "task": "serve", "where": where, **further})


def test_the_next_smaller_number_of_gpus_lacks_so_many_bytes():
    said = ask("Alvis A100-40GB", formats=["AWQ int4"], tokens_per_s=0)
    least = min(said["plans"], key=lambda plan: plan["n_gpus"])
    assert least["n_gpus"] == 2
    assert least["why"].startswith("Not on 1: ")
    assert "more than the" in least["why"]


def test_one_card_is_the_least():
    assert "One GPU is the least" in ask("A40", "Llama-3.1-8B", formats=["bf16"], tokens_per_s=0)["plans"][0]["why"]


def test_a_wider_format_needs_more_of_them():
    said = ask("Alvis A100-80GB", tokens_per_s=0)
    narrow = next(plan for plan in said["plans"] if plan["n_gpus"] == 1)
    assert "needs" in narrow["why"]


def test_a_refusal_for_each_card_and_format():
    refused = [each["what"] for each in ask("Alvis")["refused"]]
    assert len(refused) == len(set(refused))
    assert any(what.startswith("bf16 on T4") for what in refused)


def test_speed_that_no_plan_reaches():
    said = ask("Alvis A40", tokens_per_s=100_000)
    assert not said["ok"]
    assert said["nearest"].startswith("the fastest is ")


def test_nothing_fits():
    said = ask("A100-80GB", formats=["bf16"])
    assert not said["ok"]
    assert "141 GB of weights" in said["error"]
    assert "AWQ int4 on 1 x A100-80GB" in said["nearest"]
    assert "bf16 on 2 x A100-80GB" in said["nearest"]
