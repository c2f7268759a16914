"""A prefix comes back into a contiguous cache as it was, quantised or not."""

import pytest
import torch

from llmhw_helpers.serving.decoding import decode, prefill
from llmhw_helpers.serving.kv_cache import KVCache
from llmhw_helpers.serving.kv_folder import KVFolder
from llmhw_helpers.serving.prefixes import Prefixes
from llmhw_helpers.serving.quantized_cache import QuantizedCache
from llmhw_helpers.serving.weights import Served

TEXT = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(1)).tolist()
KINDS = {
    "plain": lambda spec, rows=1: KVCache(spec, rows, 60),
    "8 bits": lambda spec, rows=1: QuantizedCache(spec, rows, 60),
    "4 bits": lambda spec, rows=1: QuantizedCache(spec, rows, 60, bits=4),
}


@torch.inference_mode()
def go_on(served, cache, rest):
    """Logits after the rest of the text, and of the four tokens that follow."""
    found = [prefill(served, [rest], cache)]
    for _ in range(4):
        found.append(decode(served, found[-1].argmax(-1), cache))
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_after_a_prefix_from_the_folder_are_those_after_the_one_that_was_kept(tiny, tmp_path, kind):
    served = Served(tiny)
    first = KINDS[kind](tiny.spec)
    prefill(served, [TEXT[:24]], first)  # in two passes, as the second time
    assert Prefixes(KVFolder(tmp_path), served, 8).save(TEXT[:24], first) == 24
    second = KINDS[kind](tiny.spec)
    assert Prefixes(KVFolder(tmp_path), served, 8).load(TEXT, second) == 24  # after a restart
    for one, other in zip(first.tensors(), second.tensors(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(go_on(served, second, TEXT[24:]), go_on(served, first, TEXT[24:]))


def test_each_kind_of_cache_finds_its_own(tiny, tmp_path):
    served = Served(tiny)
    prefixes = Prefixes(KVFolder(tmp_path), served, 8)
    for kind, new in KINDS.items():
        cache = new(tiny.spec)
        assert prefixes.load(TEXT[:24], cache) == 0, kind
        prefill(served, [TEXT[:24]], cache)
        prefixes.save(TEXT[:24], cache)
    assert {kind: prefixes.load(TEXT[:24], new(tiny.spec)) for kind, new in KINDS.items()} == dict.fromkeys(KINDS, 16)
    assert len(list(tmp_path.iterdir())) == 9


def test_a_row_of_several_and_a_text_that_begins_alike(tiny, tmp_path):
    served = Served(tiny)
    prefixes = Prefixes(KVFolder(tmp_path), served, 8)
    rows = KVCache(tiny.spec, 2, 60)
    prefill(served, [TEXT[::-1][:20], TEXT[:30]], rows)
    assert prefixes.save(TEXT[:30], rows, row=1) == 24
    other = KVCache(tiny.spec, 2, 60)
    assert prefixes.load([*TEXT[:16], 1, 2, 3, 4, 5, 6, 7, 8, 9], other, row=0) == 16
    assert other.lengths == [16, 0]
    assert torch.equal(other.keys[:, 0, :, :16], rows.keys[:, 1, :, :16])
    assert torch.equal(other.values[:, 0, :, :16], rows.values[:, 1, :, :16])


def test_what_does_not_fit_is_refused(tiny, tmp_path):
    prefixes = Prefixes(KVFolder(tmp_path), Served(tiny), 8)
    cache = KVCache(tiny.spec, 1, 30)
    with pytest.raises(ValueError, match="20 tokens, of which the cache holds 0"):
        prefixes.save(TEXT[:20], cache)
    with pytest.raises(ValueError, match="40 tokens for a sequence of 30 slots, 0 of them taken"):
        prefixes.load(TEXT, cache)
    cache.advance(8)
    with pytest.raises(ValueError, match="8 of them taken"):
        prefixes.load(TEXT[:20], cache)
