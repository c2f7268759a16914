"""Plans to serve: legal divisions, memory under its limit, and formats that the card's vLLM runs."""

import pytest

from llmhw_helpers.costs.requests import read_request
from llmhw_helpers.costs.serving_memory import serving_memory
from llmhw_helpers.costs.serving_plans import serving_plans


def asked(model="Llama-3.1-70B", where="Alvis", **further):
    return read_request({"model": model, "task": "serve", "where": where, **further})


@pytest.fixture(scope="module", params=["Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B"])
def found(request):
    return serving_plans(asked(request.param))


def test_what_is_under_the_limit(found):
    plans, _ = found
    assert plans
    for plan in plans:
        reserve = plan.memory.reserve[0 if plan.memory.fits == "perhaps" else 1]
        assert sum(plan.memory.parts.values()) + reserve <= plan.memory.limit


def test_tensor_parallelism_stays_in_a_node(found):
    for plan in found[0]:
        assert plan.tp_size <= plan.offer.gpus_per_node
        assert plan.n_gpus <= plan.offer.n_gpus
        assert plan.n_nodes == 1 or plan.pp_size > 1 or plan.dp_size > 1


def test_everybody_is_served_at_once(found):
    assert all(plan.batch_size * plan.dp_size >= 8 for plan in found[0])


def test_formats_that_the_card_runs(found):
    on = {(plan.offer.card.name, plan.format) for plan in found[0]}
    assert not {pair for pair in on if pair in {("T4", "bf16"), ("V100", "bf16"), ("V100", "AWQ int4")}}
    assert not {pair for pair in on if pair[1] == "FP8 W8A8"}  # from Ada on, so nowhere on Alvis


def test_every_refusal_says_why(found):
    assert all(refusal.what and refusal.why and "\n" not in refusal.why for refusal in found[1])


def test_heads_that_do_not_divide_are_not_divided():
    plans, _ = serving_plans(asked("SmolLM2-135M"))  # 9 query heads, 3 of keys and values
    assert {plan.tp_size for plan in plans} <= {1, 3}


def test_each_copy_keeps_room_for_its_own_users_alone():
    """vLLM's sampler takes more the more texts a step has: those of one copy, which the script's --max-num-seqs says."""
    request = asked("Llama-3.1-8B", "512 x A100-80GB", users=6400, tokens_per_s=0)
    plans = [each for each in serving_plans(request)[0] if (each.tp_size, each.pp_size) == (1, 1)]
    assert any(each.dp_size > 8 for each in plans)
    for each in plans:
        settings = {"max_model_len": request.context, "max_seqs": each.batch_size}
        kept = serving_memory(request.model, each.offer.card, each.format, **settings)
        assert each.memory.reserve[1] == kept.reserve.high + kept.budget[1] - kept.budget[0]
