"""The JSON face, and answers that can be checked by hand."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw_helpers.costs import serving_plans
from llmhw_helpers.costs.planner import answer, plan
from llmhw_helpers.costs.requests import read_request


@cache
def alvis():
    return ask("Llama-3.1-405B", "Alvis")


def ask(model, where, **further):
    return answer({"model": model, "task": "serve", "where": where, **further})


def test_an_answer_is_json():
    said = alvis()
    assert said["ok"]
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said == ask("Llama-3.1-405B", "Alvis")


# The smallest set of GPUs, by hand. A GPU gives 0.9 of what a program sees: 38.3 GB (A100-40), 76.5 (A100-80), 22.8
# (RTX 3090), some 88 (GH200). Llama 3.1 has 141.1 GB of weights in bf16 (70B) or 811.7 (405B); in int8 72.7 or 410, in
# AWQ's int4 39.8 or 217, where the head and the embedding stay 16 bits wide. Beside them stand the cache of a text of
# 1300 tokens, 0.43 GB or 0.67, and one to four GB that vLLM keeps. On several nodes the stages are whole nodes.
SMALLEST = [
    ("Llama-3.1-70B", "Alvis A100-40GB", "bf16", 4),  # 141.1 / 3 = 47.0; / 4 = 35.3
    ("Llama-3.1-70B", "Alvis A100-40GB", "int8", 2),  # 36.4 and what vLLM keeps: perhaps
    ("Llama-3.1-70B", "Alvis A100-40GB", "int4", 2),
    ("Llama-3.1-70B", "Alvis A100-80GB", "bf16", 2),
    ("Llama-3.1-70B", "A100-80GB", "int8", 1),  # 72.7 of 76.5
    ("Llama-3.1-70B", "A100-80GB", "int4", 1),
    ("Llama-3.1-70B", "2 x RTX 3090", "int4", 2),  # 19.9 of 22.8 each
    ("Llama-3.1-70B", "Arrhenius", "bf16", 2),
    ("Llama-3.1-405B", "Alvis A100-40GB", "bf16", 24),  # 811.7 / 38.3 = 21.2: six nodes of four
    ("Llama-3.1-405B", "Alvis A100-80GB", "bf16", 12),  # 811.7 / 76.5 = 10.6: three nodes
    ("Llama-3.1-405B", "Alvis A100-80GB", "int8", 8),  # 410 / 76.5 = 5.4
    ("Llama-3.1-405B", "Alvis A100-80GB", "int4", 3),  # 217 / 76.5 = 2.8, in one node
    ("Llama-3.1-405B", "Arrhenius", "bf16", 12),
    ("Llama-3.1-405B", "Arrhenius", "int4", 3),
]


@pytest.mark.parametrize(("model", "where", "of", "n_gpus"), SMALLEST)
def test_the_smallest_set_of_gpus(model, where, of, n_gpus):
    said = ask(model, where, formats=[of], users=1, tokens_per_s=0, max_loss=0.05)
    assert min(plan["n_gpus"] for plan in said["plans"]) == n_gpus


# What cannot be done, and by how many bytes a GPU.
TOO_SMALL = [
    ("Llama-3.1-70B", "A100-80GB", "bf16", 141.1e9 + 0.4e9 - 76.5e9),
    ("Llama-3.1-70B", "2 x RTX 3090", "bf16", (141.1e9 + 0.4e9) / 2 - 22.8e9),
    ("Llama-3.1-70B", "2 x RTX 3090", "int8", (72.7e9 + 0.4e9) / 2 - 22.8e9),
    ("Llama-3.1-405B", "A100-80GB", "int4", 217.2e9 + 0.7e9 - 76.5e9),
    ("Llama-3.1-405B", "8 x H100", "bf16", (811.7e9 + 0.7e9) / 8 - 76.5e9),  # arXiv:2407.21783, 6.1: two such machines
]


@pytest.mark.parametrize(("model", "where", "of", "over"), TOO_SMALL)
def test_what_does_not_fit_lacks_so_much(model, where, of, over):
    result = plan(read_request({"model": model, "task": "serve", "where": where, "formats": [of], "users": 1}))
    assert not result.plans
    lacks = min(refusal.bytes_over for refusal in result.refusals if refusal.bytes_over is not None)
    assert over <= lacks < over + 3e9  # besides weights and cache there is what vLLM keeps
    assert answer({"model": model, "task": "serve", "where": where, "formats": [of], "users": 1})["nearest"]


# measured.csv: what vLLM said when it started
STARTS = [
    ("A010", "Llama-3.3-70B", "H100", "fp8", 16000, 1, False),
    ("A016", "Llama-2-70B", "4 x A100-80GB", "fp16", 4096, 75, True),  # 333,840 tokens are 81 texts
    ("A040", "Llama-3-70B", "2 x L40S", "int4", 8192, 14, True),  # 132,128 tokens are 16 texts
    ("A041", "Llama-3.1-70B", "2 x A40", "int8", 8192, 4, True),  # 33,024 tokens
]


@pytest.mark.parametrize(("row", "model", "where", "of", "context", "users", "starts"), STARTS)
def test_what_others_saw_start(row, model, where, of, context, users, starts):
    wishes = {"formats": [of], "users": users, "prompt": context - 100, "answer": 100, "tokens_per_s": 0}
    assert ask(model, where, max_loss=0.05, **wishes)["ok"] is starts


def enough_of(request, factor):
    """The least GPUs for each card and format, when every card has `factor` times its memory."""
    cards = []
    for offer in request.where:
        card = offer.card
        more = {
            name: replace(getattr(card, name), value=factor * (getattr(card, name).value or 0) or None)
            for name in ("memory_bytes", "visible_bytes")
        }
        cards.append(replace(offer, card=replace(card, **more)))
    least = {}
    for each in plan(replace(request, where=tuple(cards))).plans:
        key = each.offer.card.name, each.format
        least[key] = min(each.n_gpus, least.get(key, each.n_gpus))
    return least


REQUESTS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["Llama-3.1-8B", "Llama-3.1-70B", "Qwen2.5-7B", "Mixtral-8x7B", "DeepSeek-V2-Lite"]),
        "task": st.just("serve"),
        "where": st.sampled_from(["Alvis A40", "8 x H100", "2 x RTX 3090, A100-80GB", "4 x T4"]),
        "prompt": st.integers(1, 8000),
        "users": st.integers(1, 40),
        "tokens_per_s": st.sampled_from([0, 5, 20]),
    }
)


@settings(max_examples=6, deadline=None)
@given(REQUESTS, st.floats(1, 2))
def test_more_memory_never_makes_a_plan_impossible(said, factor):
    request = read_request(said)
    before, after = enough_of(request, 1.0), enough_of(request, factor)
    assert before.keys() <= after.keys()
    assert all(after[key] <= before[key] for key in before)


@settings(max_examples=6, deadline=None)
@given(REQUESTS)
def test_every_answer_is_json_and_under_its_limit(said):
    answered = answer(said)
    assert json.loads(json.dumps(answered, allow_nan=False)) == answered
    assert answered["ok"] or (answered["error"] and "\n" not in answered["error"] + answered["nearest"])
    for each in answered.get("plans", []):
        memory = each["memory"]
        reserve = memory["reserve"][{"yes": 1, "perhaps": 0}[memory["fits"]]]
        assert sum(memory["parts"].values()) + reserve <= memory["limit"]
        assert 0 < each["speed"]["low"] <= each["speed"]["high"] <= each["speed"]["floor"]
        assert each["sources"]


@pytest.mark.parametrize(
    ("said", "error", "possible"),
    [
        ({"model": "Llama-2-7B", "prompt": 5000}, "more than the 4096 that Llama-2-7B is made for", "4096 tokens"),
        ({"users": 0}, "users is 0: a whole number from 1", ""),
        ({"where": "A40", "users": 500}, "more than the", "users at a time"),
        ({"where": "A40", "prompt": 120_000, "formats": ["bf16"], "users": 2}, "more than the", "AWQ int4 on 1 x A40"),
        ({"tokens_per_s": 3000}, "tokens/s for each user at most, less than 3000", "the fastest is "),
        ({"first_token_s": 0.001}, "s until the first token at least", "the fastest is "),
        ({"where": "V100", "formats": ["fp8"]}, "does not run there in vLLM", "on 1 x V100, with no loss"),
        ({"formats": ["gptq"]}, "loses 4.0% of quality, more than 3.0%", "on 1 x A40, with no loss"),
        ({"where": "H100", "formats": ["INT8 W8A16"]}, "may run there or not", ""),
        ({"model": "gpt-oss-20b", "task": "fine-tune"}, "gpt-oss-20b has a mixture of experts", ""),
        ({"model": "MPT-7B", "task": "train"}, "no formula of activations for MPT-7B", ""),
        ({"task": "train", "days": 0.01, "where": "8 x A40"}, "days at least, more than 0.01", "tokens/s"),
        ({"task": "train", "days": 0.01, "where": "Alvis"}, "days at least, more than 0.01", "the fastest is "),
        ({"where": "Apple M2 Max"}, "llama.cpp has kernels for the GPU", ""),
    ],
)
def test_what_cannot_be_gets_a_line_and_the_nearest_possible(said, error, possible):
    answered = answer({"model": "Llama-3.1-8B", "task": "serve", "where": "Alvis A40"} | said)
    assert answered["ok"] is False
    assert error in answered["error"]
    assert possible in answered["nearest"]
    assert "\n" not in answered["error"] + answered["nearest"]


def test_what_was_taken_for_granted_is_said():
    said = ask("Llama-3.1-8B", "A40")
    granted = "8 users at a time, prompts of 1000 tokens and answers of 300, at 10 tokens/s or more for each."
    assert f"Asked for: {granted}" in said["notes"]
    said = answer({"model": "Llama-3.1-8B", "task": "fine-tune", "where": "A100-80GB"})
    assert "10 M tokens in texts of 2048, 131 k in a step, in 1 day or less" in said["notes"][0]


def test_unknown_prices_are_said_and_plans_made_all_the_same():
    said = ask("Llama-3.1-70B", "Arrhenius")
    assert said["plans"][0]["price"] is None
    assert any(note.startswith("No price by the hour is known of GH200 on Arrhenius") for note in said["notes"])


def test_405b_over_all_of_alvis_asks_for_few_looks(monkeypatch):
    """Well under a second: time hangs on how often memory and speed of a layout are looked at, each a millisecond."""
    looks = []
    for name in ("serving_memory", "serving_speed"):
        real = getattr(serving_plans, name)
        monkeypatch.setattr(
            serving_plans, name, lambda *given, real=real, **named: looks.append(1) or real(*given, **named)
        )
    answer({"model": "Llama-3.1-405B", "task": "serve", "where": "Alvis"})
    assert 0 < len(looks) < 300


def test_one_is_said_as_one():
    said = answer({"model": "Llama-3.1-8B", "task": "serve", "where": "A40", "users": 1, "formats": ["bf16"]})
    assert said["headline"].endswith(" tokens/s for one user.")
    assert said["reasons"][0] == "The only plan that is sure to do: 1 GPU."


def test_what_is_too_slow_is_told_by_the_fastest():
    """No 70B on Alvis writes 100 tokens/s: the line names what comes nearest, not 16 T4s, and so does the hint."""
    said = answer({"model": "Llama-3.1-70B", "task": "serve", "where": "Alvis", "users": 1, "tokens_per_s": 100})
    what, _, why = said["error"].partition("not even ")[2].partition(": ")
    assert what == "AWQ int4 on 4 x A100-80GB, TP 4"
    assert 50 < float(why.partition(" ")[0]) < 100
    assert said["nearest"].startswith(f"the fastest is {what}, with ")


def test_shorter_texts_are_no_help_where_a_figure_is_unknown():
    said = answer({"model": "Llama-3.1-8B", "task": "serve", "where": "GB10"})
    assert "unknown" in said["error"]
    assert "texts of" not in said["nearest"]


def test_half_a_card_is_said():
    assert any("one GPU here is such a half" in note for note in ask("Llama-3.1-8B", "MI250X")["notes"])
    assert not any("half" in note for note in ask("Llama-3.1-8B", "A40")["notes"])


NESTED: list = []
for _ in range(5000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"model": NESTED, "task": "serve", "where": "A40"},
        {"model": "Llama-3.1-8B"},
        [],
        {"model": "Llama-3.1-8B", "task": "serve", "where": "Mars"},
    ],
)
def test_a_bad_request_gets_a_line(request_):
    said = answer(request_)
    assert said["ok"] is False
    assert said["error"]
    assert "\n" not in said["error"]
