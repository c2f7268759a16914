"""The contiguous cache: bytes to the byte, memory that stays where it is, and no other logits than without a cache."""

from dataclasses import replace

import pytest
import torch

from llmhw_helpers.costs.inference import kv_bytes
from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.serving.decoding import decode, new_cache, prefill
from llmhw_helpers.serving.kv_cache import CacheFull, KVCache
from llmhw_helpers.serving.paged_cache import Chunk, PagedCache
from llmhw_helpers.serving.quantized_cache import QuantizedCache
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.models import model

TOKENS = torch.randint(0, 50, (3, 64), generator=torch.Generator().manual_seed(1)).tolist()
ATOL = 1e-4  # of logits up to some 30, in fp32


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_bytes_are_the_formulas_to_the_byte(dtype, name):
    spec = model("SmolLM2-135M")
    cache = KVCache(spec, 2, 100, dtype)
    assert cache.nbytes == 2 * kv_bytes(spec, 100, name)
    assert cache.used_bytes == 0
    cache.advance([3, 10])
    assert cache.used_bytes == kv_bytes(spec, 13, name)


def paged(spec, batch_size, capacity):
    """A paged cache of two blocks that counts its tokens, as the engine does elsewhere."""
    cache = PagedCache(spec, 2, capacity // 2)
    cache.lengths = []
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("n_prompt", [1, 2, 17])
def test_logits_equal_those_without_a_cache_at_every_step_to_the_last_slot(tiny, n_prompt):
    text = TOKENS[0]
    expected = tiny(torch.tensor([text]))[0]
    served = Served(tiny)
    cache = new_cache(served, 1, 64)
    found = [prefill(served, [text[:n_prompt]], cache)]
    found += [decode(served, torch.tensor([token]), cache) for token in text[n_prompt:]]
    assert cache.lengths == [64]
    torch.testing.assert_close(torch.cat(found), expected[n_prompt - 1 :], atol=ATOL, rtol=1e-4)


@torch.inference_mode()
def test_the_first_token_is_seen_by_every_later_one(tiny):
    served = Served(tiny)
    logits = []
    for first in (7, 8):
        cache = new_cache(served, 1, 8)
        prefill(served, [[first]], cache)
        logits.append(decode(served, torch.tensor([3]), cache))
    assert (logits[0] - logits[1]).abs().max() > 0.1


@torch.inference_mode()
def test_texts_of_different_lengths_in_one_batch_equal_each_alone(tiny):
    lengths, n_new = (5, 1, 30), 20
    expected = tiny(torch.tensor(TOKENS))
    served = Served(tiny)
    cache = new_cache(served, 3, 50)
    found = [prefill(served, [text[:n] for text, n in zip(TOKENS, lengths, strict=True)], cache)]
    for step in range(n_new):
        new = [text[n + step] for text, n in zip(TOKENS, lengths, strict=True)]
        found.append(decode(served, torch.tensor(new), cache))
    assert cache.lengths == [25, 21, 50]
    for i, n in enumerate(lengths):
        ours = torch.stack([logits[i] for logits in found])
        torch.testing.assert_close(ours, expected[i, n - 1 : n + n_new], atol=ATOL, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(6, 6, 6), (6, 1, 9)], ids=["level", "mixed"])
def test_a_prompt_may_come_in_pieces(tiny, lengths):
    expected = tiny(torch.tensor(TOKENS))
    served = Served(tiny)
    cache = new_cache(served, 3, 40)
    prefill(served, [text[:n] for text, n in zip(TOKENS, lengths, strict=True)], cache)
    found = prefill(served, [text[n : n + 7] for text, n in zip(TOKENS, lengths, strict=True)], cache)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(found[i], expected[i, n + 6], atol=ATOL, rtol=1e-4)


@torch.inference_mode()
def test_what_a_cache_held_before_does_not_show(tiny):
    served = Served(tiny)
    fresh, used = new_cache(served, 3, 40), new_cache(served, 3, 40)
    used.keys.fill_(50.0)
    used.values.fill_(-1e3)
    for cache in (fresh, used):
        prefill(served, [text[:n] for text, n in zip(TOKENS, (4, 9, 2), strict=True)], cache)
    logits = [decode(served, torch.tensor([1, 2, 3]), cache) for cache in (fresh, used)]
    assert torch.equal(*logits)


@torch.inference_mode()
def test_no_token_moves_or_copies_the_cache(tiny):
    served = Served(tiny)
    cache = new_cache(served, 1, 64)
    before = cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape
    prefill(served, [TOKENS[0][:5]], cache)
    for step in range(10):
        kept = cache.keys[:, :, :, : 5 + step].clone()
        decode(served, torch.tensor([step]), cache)
        assert torch.equal(cache.keys[:, :, :, : 5 + step], kept)
        assert cache.keys[:, :, :, 5 + step + 1 :].abs().max() == 0  # one slot written, no other touched
    assert (cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape) == before


@torch.inference_mode()
def test_the_real_models_logits_are_the_same_with_and_without():
    network = load_model()
    text = torch.randint(0, 49152, (1, 80), generator=torch.Generator().manual_seed(0))
    expected = network(text)[0]
    served = Served(network)
    cache = new_cache(served, 1, 80)
    found = [prefill(served, [text[0, :64].tolist()], cache)]
    found += [decode(served, token, cache) for token in text[0, 64:].split(1)]
    torch.testing.assert_close(torch.cat(found), expected[63:], atol=2e-3, rtol=1e-4)


def test_a_full_cache_says_so_with_the_numbers(tiny):
    served = Served(tiny)
    cache = new_cache(served, 2, 10)
    with pytest.raises(CacheFull, match="^0 tokens and 11 more do not fit into a cache of 10 slots a sequence$"):
        prefill(served, [TOKENS[0][:11], [1]], cache)
    prefill(served, [TOKENS[0][:10], [1]], cache)
    with pytest.raises(CacheFull, match="10 tokens and 1 more"):
        decode(served, torch.tensor([1, 1]), cache)
    assert cache.lengths == [10, 1]  # as it was


def test_sizes_that_cannot_be_are_refused(tiny_spec):
    for batch_size, capacity in ((0, 5), (1, 0), (1, 65)):
        with pytest.raises(ValueError, match=f"{batch_size} x {capacity} tokens: at least 1 each, and at most 64"):
            KVCache(tiny_spec, batch_size, capacity)
    with pytest.raises(ValueError, match="at least one token, not 0"):
        KVCache(tiny_spec, 1, 5).window(0)


def test_a_cache_on_the_meta_device_plans_without_memory():
    spec = replace(model("Llama-3.1-70B"))
    assert KVCache(spec, 16, 131072, torch.bfloat16, "meta").nbytes == 16 * kv_bytes(spec, 131072)


@pytest.mark.parametrize("make", [KVCache, QuantizedCache, paged])
def test_with_gradients_on_it_works_as_well_and_remembers_no_graph(tiny, make):
    served, cache = Served(tiny), make(tiny.spec, 1, 16)
    for n_new in (3, 1, 2):
        window = cache.window(n_new) if make is not paged else cache.window([Chunk([0, 1], sum(cache.lengths), n_new)])
        stream = served.forward(torch.ones(1, n_new, dtype=torch.int64), window.positions, window.attend)
        assert stream.requires_grad
        cache.advance(n_new) if make is not paged else cache.lengths.append(n_new)
    pools = (cache.codes, cache.scales) if make is QuantizedCache else (cache.keys, cache.values)
    assert not any(pool.requires_grad for pool in pools)
