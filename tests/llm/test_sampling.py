"""What is drawn: the distribution against transformers' and against its own counts; what generation refuses."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import models
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llmhw_helpers.llm.sampling import NoDistribution, generate, probabilities, sample, tokens_of
from llmhw_helpers.llm.tokenizer import Tokenizer
from llmhw_helpers.llm.transformer import TokenError, Transformer
from llmhw_helpers.specs.models import model

TINY = replace(
    model("SmolLM2-135M"),
    **{"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48},
    **{"vocab_size": 50, "context_length": 16},
)
SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10**6},
    {"top_p": 0.05},
    {"top_p": 0.9},
    {"top_p": 1.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    network = Transformer(TINY)
    with torch.no_grad():
        network.token_embd.weight.mul_(5)
    return network


def rows(*shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_distribution_equals_transformers(setting):
    logits = rows(40, 200)
    oracle = TemperatureLogitsWarper(setting.get("temperature", 1.0))(None, logits)
    if "top_k" in setting:
        oracle = TopKLogitsWarper(setting["top_k"])(None, oracle)
    if "top_p" in setting:
        oracle = TopPLogitsWarper(setting["top_p"])(None, oracle)
    ours = probabilities(logits, **setting)
    torch.testing.assert_close(ours, oracle.softmax(-1), atol=1e-6, rtol=1e-5)
    assert torch.equal(ours == 0, oracle.softmax(-1) == 0)


def test_any_batch_shape_and_16_bits():
    logits = rows(2, 3, 50)
    torch.testing.assert_close(probabilities(logits, 0.8, 5)[1, 2], probabilities(logits[1, 2], 0.8, 5))
    assert probabilities(logits.bfloat16()).dtype == torch.float32
    assert sample(logits).shape == (2, 3)
    assert sample(logits[0, 0]).shape == ()


def test_temperature_zero_takes_the_best():
    logits = rows(30, 50)
    assert torch.equal(sample(logits, temperature=0.0), logits.argmax(-1))
    assert torch.equal(probabilities(logits, 0.0).sum(-1), torch.ones(30))


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.7}])
def test_draws_follow_the_distribution(setting):
    """Chi-square over 200,000 draws; a temperature 2% off, or one token more or fewer, is refused."""
    n, logits = 200_000, rows(12) / 3
    draws = sample(logits.expand(n, -1), **setting, generator=torch.Generator().manual_seed(1))
    counts, p = torch.bincount(draws, minlength=12).double(), probabilities(logits, **setting).double()
    assert counts[p == 0].sum() == 0

    def chi_square(expected):
        kept = expected > 0
        return ((counts - n * expected)[kept].square() / (n * expected[kept])).sum() / max(1, kept.sum() - 1)

    assert chi_square(p) < 2.5  # a mean of 1; with 3 to 11 degrees of freedom above 2.5 in 6% to 0.4% of all seeds
    off = {"temperature": 1.02 * setting.get("temperature", 1.0)}
    assert chi_square(probabilities(logits, **(setting | off)).double()) > 2.5


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="temperature is at least 0, top_k at least 1, top_p in"):
        probabilities(rows(5), **wrong)
    with pytest.raises(ValueError, match="temperature is at least 0, top_k at least 1, top_p in"):
        sample(rows(5), **{"temperature": 0.0} | wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value):
    logits = rows(2, 5)
    logits[1, 3] = value
    with pytest.raises(NoDistribution, match="did the model overflow"):
        sample(logits)


def test_generation_goes_on_token_by_token(tiny):
    sequence = [3, 1, 4]
    for token in generate(tiny, [3, 1, 4], 6):
        assert token == tiny(torch.tensor([sequence]))[0, -1].argmax()
        sequence.append(token)
    assert len(sequence) == 9


def test_a_seed_repeats_what_was_drawn(tiny):
    def drawn(seed):
        return list(generate(tiny, [1], 12, temperature=1.5, seed=seed))

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(None) != drawn(None)


def test_generation_stops_at_a_stop_token_and_at_the_end_of_the_context(tiny):
    free = list(generate(tiny, [1, 2], 8, temperature=1.5, seed=0))
    at = free.index(free[4])
    assert list(generate(tiny, [1, 2], 8, temperature=1.5, seed=0, stop=[free[4]])) == free[:at]
    assert len(list(generate(tiny, [1, 2], 100))) == 14


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ([], "an empty prompt"),
        ([1, 50], "token 50 is none of SmolLM2-135M's, which go from 0 to 49"),
        ([-1], "token -1 is none of"),
        ([1] * 16, "a prompt of 16 tokens leaves no room in the context of 16: shorten it"),
    ],
)
def test_a_prompt_that_cannot_be_gone_on_from_is_refused_at_once(tiny, prompt, line):
    with pytest.raises(TokenError, match=line):
        generate(tiny, prompt, 3)


@pytest.mark.parametrize("temperature", [1e-38, 1e-300])
def test_a_temperature_close_to_zero_takes_the_best_too(temperature):
    logits = torch.randn(5, 60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(logits, temperature), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e30, 1e300, float("inf")])
def test_a_temperature_without_end_draws_all_that_is_allowed_alike(temperature):
    allowed = torch.arange(60) % 3 > 0
    expected = allowed / allowed.sum()
    torch.testing.assert_close(probabilities(rows(60), temperature, allowed=allowed), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("top_p", [1e-30, 1e-44, 1e-46, 1e-320])
def test_a_top_p_too_small_for_fp32_keeps_the_best_token(top_p):
    logits = rows(5, 60)
    assert torch.equal(sample(logits, 1.0, top_p=top_p), logits.argmax(-1))


def vocabulary(tokens):
    """A tokenizer that has these tokens."""
    return Tokenizer(Library(models.BPE({chr(ord("!") + token): token for token in tokens}, [])), max(tokens), None)


def test_rows_that_are_no_tokens_are_known():
    assert tokens_of(None, 50) is None
    assert tokens_of(vocabulary(range(50)), 50) is None
    assert tokens_of(vocabulary([*range(55), 56]), 50) is None
    assert tokens_of(vocabulary(range(4)), 6).tolist() == [True] * 4 + [False] * 2
    assert tokens_of(vocabulary([1, 2, 4]), 6).tolist() == [False, True, True, False, True, False]


@pytest.mark.parametrize("setting", [*SETTINGS, {"temperature": 0.0}])
def test_what_is_not_allowed_changes_nothing_for_the_others(setting):
    """Left out before anything is counted: the distribution is that of a model without these rows."""
    logits, allowed = rows(40, 200), torch.ones(200, dtype=torch.bool)
    allowed[[0, 17, *range(150, 200)]] = False
    logits[:, ~allowed] += 10  # they would win
    logits[3, 199] = torch.nan  # an untrained row may hold anything
    found = probabilities(logits, **setting, allowed=allowed)
    torch.testing.assert_close(found[:, allowed], probabilities(logits[:, allowed], **setting), rtol=1e-5, atol=1e-7)
    assert not found[:, ~allowed].any()
    assert allowed[sample(logits, **({"temperature": 1.0} | setting), allowed=allowed)].all()


def test_scores_without_any_token_are_refused():
    with pytest.raises(NoDistribution):
        probabilities(rows(2, 5), allowed=torch.zeros(5, dtype=torch.bool))


@pytest.mark.parametrize("how", [{}, {"temperature": 2.0, "seed": 1}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}])
def test_generation_draws_tokens_of_the_tokenizer_alone(tiny, how):
    tokens = {*range(45)} - set(generate(tiny, [3, 1], 13, **how))  # none that it would draw
    assert set(generate(tiny, [3, 1], 13, **how, tokenizer=vocabulary(tokens))) <= tokens
