"""Experts on ranks: counts by drawing tokens one by one are the oracle of the formulas."""

import random

import pytest

from llmhw_helpers.costs.experts import (
    exchange_bytes,
    experts_of,
    imbalance,
    ranks_visited,
    step_bytes,
    visits_by_chance,
)
from llmhw_helpers.costs.parallelism import Indivisible
from llmhw_helpers.specs.architectures import NoFormula
from llmhw_helpers.specs.models import model
from llmhw_helpers.specs.parts import Experts

MIXTRAL, DEEPSEEK = model("Mixtral-8x7B"), model("DeepSeek-V3")


@pytest.mark.parametrize("of", [MIXTRAL, DEEPSEEK])
@pytest.mark.parametrize("ep_size", [1, 2, 8])
def test_every_expert_has_one_rank(of, ep_size):
    held = [expert for rank in range(ep_size) for expert in experts_of(of, rank, ep_size)]
    assert held == list(range(of.experts.n_experts))


@pytest.mark.parametrize("of", [MIXTRAL, DEEPSEEK])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("ep_size", [1, 2, 8])
def test_tokens_that_are_drawn_travel_as_often_as_the_formula_says(of, once, ep_size):
    draw, n_tokens, experts = random.Random(1), 4000, of.experts
    each, sent = experts.n_experts // ep_size, 0
    for token in range(n_tokens):
        chosen = draw.sample(range(experts.n_experts), experts.n_experts_per_token)
        elsewhere = [expert // each for expert in chosen if expert // each != token % ep_size]
        sent += len(set(elsewhere) if once else elsewhere)
    assert sent / n_tokens == pytest.approx(ranks_visited(of, ep_size, once), rel=0.03)


def test_bytes_are_those_of_two_all_to_alls():
    n_tokens, ep_size = 4096, 8
    array = n_tokens * 2 * MIXTRAL.d_model * 2  # top 2, in bf16
    assert exchange_bytes(MIXTRAL, n_tokens, ep_size) == 2 * array * 7 / 8


def test_each_way_has_its_type():
    there, back = (exchange_bytes(DEEPSEEK, 100, 8, *types) for types in (("fp8_e4m3", "bf16"), ("bf16", "bf16")))
    assert there == 0.75 * back


def test_a_step_goes_through_the_layers_that_have_experts_and_back_in_training():
    one = exchange_bytes(DEEPSEEK, 100, 8, once=True)
    assert step_bytes(DEEPSEEK, 100, 8, once=True) == 58 * one
    assert step_bytes(DEEPSEEK, 100, 8, training=True, once=True) == 2 * 58 * one


def test_one_rank_sends_nothing():
    assert exchange_bytes(MIXTRAL, 4096, 1) == exchange_bytes(MIXTRAL, 4096, 1, once=True) == 0


def test_more_ranks_share_the_imbalance_of_fewer_experts():
    visits = visits_by_chance(DEEPSEEK.experts, 500)
    assert sum(visits) == 500 * 8
    assert 1 == imbalance(visits, 1) < imbalance(visits, 8) < imbalance(visits, 256) < 3


def test_a_token_visits_different_experts():
    assert visits_by_chance(Experts(4, 4, d_ff_expert=1), 50) == [50] * 4


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: experts_of(MIXTRAL, 0, 3),
            Indivisible,
            "8 experts of Mixtral-8x7B .* 3 ranks: take one of 1, 2, 4, 8",
        ),
        (lambda: experts_of(MIXTRAL, 0, 0), Indivisible, "0 ranks"),
        (lambda: experts_of(MIXTRAL, 4, 4), ValueError, "no rank 4 of 4"),
        (lambda: exchange_bytes(model("Llama-2-7B"), 1, 1), NoFormula, "Llama-2-7B has no experts"),
        (lambda: step_bytes(model("Llama-2-7B"), 1, 1), NoFormula, "Llama-2-7B has no experts"),
        (lambda: exchange_bytes(MIXTRAL, -1, 2), ValueError, "-1 tokens"),
        (lambda: imbalance([1, 2, 3], 2), ValueError, "3 experts on 2 ranks"),
        (lambda: imbalance([0, 0], 2), ValueError, "0 visits"),
    ],
)
def test_what_has_no_answer_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
