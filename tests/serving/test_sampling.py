"""The settings of an answer: refused where they make no sense, one seed for each of several answers."""

import pytest
import torch

from llmhw_helpers.llm.sampling import sample
from llmhw_helpers.serving.sampling import GREEDY, Sampling


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "temperature is at least 0"),
        ({"top_k": 0}, "top_k at least 1"),
        ({"top_p": 0.0}, "top_p in"),
        ({"stop_strings": ["a", ""]}, "a stop string has at least one character"),
        ({"stop_strings": "abc"}, r"a list of strings, not one: write \['abc'\]"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)


def test_several_answers_have_seeds_that_follow_each_other():
    seeds = [each.seed for each in Sampling(temperature=0.5, seed=7).of_each(3)]
    assert seeds == [7, 8, 9]
    assert {each.temperature for each in Sampling(temperature=0.5, seed=7).of_each(3)} == {0.5}
    assert Sampling(temperature=0.5).of_each(2) == [Sampling(temperature=0.5)] * 2


def test_a_token_is_drawn_with_all_settings():
    logits = 3 * torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(GREEDY.draw(logits), logits.argmax(-1))
    allowed = torch.arange(30) % 4 > 0
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    found = Sampling(temperature=0.7, top_k=9, top_p=0.8).draw(logits, generators[0], allowed)
    assert torch.equal(found, sample(logits, 0.7, 9, 0.8, generators[1], allowed))
