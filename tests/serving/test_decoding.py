"""Cached generation writes what the uncached one writes, and refuses the same."""

import pytest
import torch

from llmhw_helpers.costs.inference import token_computations
from llmhw_helpers.llm import sampling
from llmhw_helpers.llm.transformer import TokenError
from llmhw_helpers.serving.decoding import decode, generate, new_cache, prefill
from llmhw_helpers.serving.kv_cache import KVCache
from llmhw_helpers.serving.weights import Served

PROMPT = [3, 1, 4, 1, 5]
HOWS = [{}, {"temperature": 0.8, "seed": 3}, {"temperature": 1.0, "top_k": 9, "top_p": 0.9, "seed": 4}]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("n_new", "given"), [(12, 12), (1, 1), (0, 0), (500, 59)])
def test_the_tokens_are_those_without_a_cache(tiny, how, n_new, given, compiled):
    expected = list(sampling.generate(tiny, PROMPT, n_new, **how))
    found = list(generate(Served(tiny, compiled=compiled), PROMPT, n_new, **how))
    assert found == expected
    assert len(found) == given


def test_it_ends_at_a_stop_token(tiny):
    served = Served(tiny)
    free = list(generate(served, PROMPT, 10))
    assert list(generate(served, PROMPT, 10, stop={free[4]})) == free[: free.index(free[4])]


@pytest.mark.parametrize(("n_prompt", "n_new"), [(5, 7), (1, 1), (20, 3)])
def test_token_computations_are_those_predicted(tiny, n_prompt, n_new):
    counts = []
    tiny.token_embd.register_forward_hook(lambda module, inputs, output: counts.append(output.shape[1]))
    prompt = list(range(n_prompt))
    list(sampling.generate(tiny, prompt, n_new))
    assert sum(counts) == token_computations(n_prompt, n_new, cached=False)
    counts.clear()
    list(generate(Served(tiny), prompt, n_new))
    assert sum(counts) == token_computations(n_prompt, n_new, cached=True)
    assert counts == [n_prompt] + [1] * (n_new - 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_no_model_can_go_on_from_is_refused_in_one_line(tiny, compiled):
    served = Served(tiny, compiled=compiled)
    cache = new_cache(served, 1, 64)
    for prompt, words in (([], "an empty prompt"), ([1] * 64, "64 tokens leaves no room"), ([1, 50], "token 50")):
        for call in (lambda: generate(served, prompt, 5), lambda: prefill(served, [prompt], cache)):  # noqa: B023
            with pytest.raises(TokenError, match=words) as error:
                call()
            assert "\n" not in str(error.value)
    assert cache.lengths == [0]
    with pytest.raises(TokenError, match="token 50"):
        prefill(served, [[1]], cache), decode(served, torch.tensor([50]), cache)
    with pytest.raises(ValueError, match="2 prompts for a cache of 1 sequences"):
        prefill(served, [[1], [2]], cache)


def test_a_cache_in_another_format_is_refused_in_one_line(tiny):
    cache = KVCache(tiny.spec, 1, 8, torch.bfloat16)
    with pytest.raises(ValueError, match=r"weights are torch.float32 and the cache is torch.bfloat16: make it with"):
        prefill(Served(tiny), [[1]], cache)


def test_bf16_is_served_too(tiny):
    network = tiny.to(torch.bfloat16)
    served = Served(network)
    assert list(generate(served, PROMPT, 3)) == list(sampling.generate(network, PROMPT, 3))
