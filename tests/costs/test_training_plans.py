"""Plans to train: legal divisions, memory under its limit, and the smallest set of GPUs by hand."""

import pytest

from llmhw_helpers.costs.requests import read_request
from llmhw_helpers.costs.training_plans import training_plans


def asked(task="train", model="Llama-3.1-8B", where="Alvis", **further):
    return read_request({"model": model, "task": task, "where": where, "days": 0, **further})


@pytest.fixture(
    scope="module",
    params=[
        {"where": "Alvis A40"},
        {"model": "Llama-3.1-70B", "where": "Alvis A100-80GB"},
        {"task": "fine-tune"},
        {"task": "fine-tune", "method": "qlora", "where": "Alvis T4"},
    ],
    ids=lambda changes: " ".join(changes.values()) or "plain",
)
def found(request):
    return asked(**request.param), *training_plans(asked(**request.param))


def test_what_is_under_the_limit(found):
    _, plans, _ = found
    assert plans
    for plan in plans:
        reserve = plan.memory.reserve[0 if plan.memory.fits == "perhaps" else 1]
        assert sum(plan.memory.parts.values()) + reserve <= plan.memory.limit


def test_divisions_are_legal(found):
    request, plans, _ = found
    for plan in plans:
        assert plan.tp_size <= plan.offer.gpus_per_node
        assert plan.n_gpus <= plan.offer.n_gpus
        assert plan.zero == 0 or plan.dp_size > 1
        assert plan.n_micro_batches >= plan.pp_size  # or stages would never be busy at once
        in_a_step = plan.dp_size * plan.batch_size * plan.n_micro_batches * request.seq_len
        assert in_a_step <= request.batch_tokens


def test_time_price_and_energy_follow_from_the_speed(found):
    request, plans, _ = found
    plan = plans[0]
    assert plan.seconds == (request.n_tokens / plan.speed.high, request.n_tokens / plan.speed.low)
    hours = plan.seconds[1] / 3600 * plan.n_gpus
    assert plan.price[1] == pytest.approx(hours * plan.offer.price.value)
    assert plan.joules[1] == pytest.approx(plan.seconds[1] * plan.n_gpus * plan.offer.card.tdp_watts.value)


def test_405b_is_trained_on_alvis_by_no_card_of_which_there_are_too_few():
    """16 bytes for each of 405.85e9 parameters are 6.49 TB; 32 A100-80 have 2.7 TB, 44 V100 1.5 TB, 160 T4 2.5 TB."""
    plans, refusals = training_plans(asked(model="Llama-3.1-405B"))
    assert {plan.offer.card.name for plan in plans} == {"A40", "A100-40GB"}
    assert min(plan.n_gpus for plan in plans if plan.offer.card.name == "A100-40GB") > 6.49e12 / 42.6e9
    short = next(each for each in refusals if each.offer.card.name == "A100-80GB")
    assert short.bytes_over == pytest.approx(16 * 405_853_388_800 / short.n_gpus - short.offer.card.visible_bytes.value)


def test_70b_with_4_bits_is_tuned_on_one_a100_of_80_gb_and_on_no_a40():
    """QLoRA, arXiv:2305.14314, section 1: 65B on one GPU of 48 GB takes 41 GB at short texts; 70B of 2048 more."""
    one, _ = training_plans(asked("fine-tune", "Llama-3.1-70B", "A100-80GB", method="qlora"))
    none, refusals = training_plans(asked("fine-tune", "Llama-3.1-70B", "A40", method="qlora"))
    assert one
    assert not none
    assert 0 < refusals[0].bytes_over < 3e9


def test_16_bits_of_70b_need_more_than_one_card():
    _, refusals = training_plans(asked("fine-tune", "Llama-3.1-70B", "A100-80GB", method="lora"))
    assert refusals[0].bytes_over == pytest.approx(2 * 70_553_706_496 - 79.15 * 2**30, rel=1e-3)


def test_days_that_are_too_few():
    plans, refusals = training_plans(asked(where="8 x A40", days=0.01))
    assert not plans
    assert any("days at least, more than 0.01" in each.why for each in refusals)


def test_a_step_of_fewer_texts_than_gpus():
    plans, _ = training_plans(asked(where="Alvis A40", batch_tokens=4 * 4096, seq_len=4096))
    assert plans
    assert all(plan.dp_size * plan.batch_size * plan.n_micro_batches <= 4 for plan in plans)


def test_what_cuda_and_fragments_take():
    """Assumed, and said in the notes: 0.4 to 1.5 GB, and up to a twentieth of the memory."""
    plans, _ = training_plans(asked("fine-tune", where="A40"))
    assert plans[0].memory.reserve == (0.4e9, 1.5e9 + 0.05 * plans[0].memory.limit)
