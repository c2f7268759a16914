"""Who asks for the compiled step: `generate` and the engine, for steps that read one token of each text, if told to."""

from dataclasses import replace

import pytest
import torch

from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving import decoding, reading, weights
from llmhw_helpers.serving.compiled.decoder import Decoder, NoDecoder
from llmhw_helpers.serving.compiled.folder import say
from llmhw_helpers.serving.decoding import decode, decoder_of, generate, new_cache, prefill
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.kv_cache import CacheFull, KVCache
from llmhw_helpers.serving.paged_cache import Chunk, PagedCache
from llmhw_helpers.serving.weights import Served

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9]]


class ByPyTorch(Decoder):
    """Has a decoder's face and computes with PyTorch, from the same tables and pools."""

    def __init__(self, model, activations=None):
        self.served, self.positions = Served(model), []

    def logits(self, tokens, positions, block_tables, cache, n_scored=None):
        self.positions.append(list(positions))
        paged = PagedCache(self.served.spec, cache.pools[0].shape[1], cache.block_size, cache.pools[0].dtype)
        paged.keys, paged.values = cache.pools
        paged.blocks = list(zip(*(pool.unbind(0) for pool in cache.pools), strict=True))
        paged.slots = list(zip(*(pool.flatten(1, 2).unbind(0) for pool in cache.pools), strict=True))
        chunks = [Chunk(table, position, 1) for table, position in zip(block_tables, positions, strict=True)]
        window = paged.window(chunks)
        stream = self.served.forward(torch.tensor([tokens]), window.positions, window.attend)[0]
        return self.served.head(stream[:n_scored])


@pytest.fixture
def compiled(monkeypatch, tiny):
    monkeypatch.setattr(decoding, "Decoder", ByPyTorch)
    return Served(tiny, compiled=True)


def test_generate_reads_the_prompt_with_pytorch_and_each_token_with_the_step(compiled, tiny):
    found = list(generate(compiled, PROMPTS[0], 6))
    assert found == list(generate(Served(tiny), PROMPTS[0], 6))
    assert decoder_of(compiled).positions == [[5], [6], [7], [8], [9]]


def test_with_packed_weights_prompts_are_read_from_these_and_tokens_by_the_step(tiny, monkeypatch):
    monkeypatch.setattr(decoding, "Decoder", ByPyTorch)
    both, plain = Served(tiny, packed=True, compiled=True), Served(tiny)
    assert both.nbytes > plain.nbytes
    assert list(generate(both, PROMPTS[0], 6)) == list(generate(plain, PROMPTS[0], 6))
    assert decoder_of(both).positions == [[5], [6], [7], [8], [9]]
    engine = Engine(both, 40, 4)
    texts = [[*range(20 + i)] for i in range(3)]  # more tokens than the step reads
    assert engine.generate(texts, 6) == Engine(plain, 40, 4).generate(texts, 6)
    assert decoder_of(both).positions[5] == [20, 21, 22]


def test_texts_of_different_lengths_decode_together(compiled, tiny):
    logits = []
    for served in (compiled, Served(tiny)):
        cache = new_cache(served, 3, 12)
        prefill(served, PROMPTS, cache)
        logits.append([decode(served, torch.tensor([i, 7, 8]), cache) for i in range(3)])
        assert cache.lengths == [8, 4, 12]
        with pytest.raises(CacheFull, match="12 tokens and 1 more do not fit"):
            decode(served, torch.tensor([1, 2, 3]), cache)
        assert cache.lengths == [8, 4, 12]
    torch.testing.assert_close(torch.stack(logits[0]), torch.stack(logits[1]), atol=1e-4, rtol=1e-4)
    assert decoder_of(compiled).positions == [[5, 1, 9], [6, 2, 10], [7, 3, 11]]


def test_the_engine_reads_chunks_of_prompts_with_pytorch_and_single_tokens_beside_them_with_the_step(
    compiled, tiny, monkeypatch
):
    monkeypatch.setattr(reading, "FEW_ROWS", 3)
    engine, plain = (Engine(served, 40, 4, max_batch_size=4, max_step_tokens=6) for served in (compiled, Served(tiny)))
    assert engine.generate(PROMPTS, 8) == plain.generate(PROMPTS, 8)
    steps = decoder_of(compiled).positions
    assert [len(step) for step in steps].count(3) >= 4
    assert steps[:4] == [[0], [5, 1], [6, 2], [7, 3, 8]]  # beside 5, 4 and 4 tokens of prompts, and none


def test_few_tokens_of_prompts_go_through_the_step_with_the_others_those_first_that_are_scored(compiled, tiny):
    engine, plain = (Engine(served, 40, 4, max_batch_size=4, max_step_tokens=6) for served in (compiled, Served(tiny)))
    assert engine.generate(PROMPTS, 8) == plain.generate(PROMPTS, 8)
    steps = decoder_of(compiled).positions
    assert steps[:4] == [[4, 0, 0, 1, 2, 3], [5, 1, 3, 0, 1, 2], [6, 2, 7, 4, 5, 6], [7, 3, 8]]


def test_what_is_no_number_ends_its_text_alone_and_is_found_by_nobody(compiled, tiny):
    engine = Engine(compiled, 40, 4)
    bad, good = engine.submit(PROMPTS[0], 9), engine.submit(PROMPTS[2], 9)
    for _ in range(3):
        engine.step()
    tiny.token_embd.weight.data[bad.tokens[-1]] = torch.nan  # the head is the same matrix: all scores get one
    engine.step()
    assert (bad.finished, good.finished) == ("error", "error")
    assert engine.blocks.n_free == engine.blocks.n_blocks


def test_it_is_off_unless_asked_for_and_leaves_other_caches_to_pytorch(compiled, tiny, capsys):
    say.cache_clear()
    assert decoder_of(Served(tiny)) is None

    class Another(KVCache):
        """Whose windows do something else."""

    for cache in (Another(tiny.spec, 1, 12, by_token=True), KVCache(tiny.spec, 1, 12)):
        prefill(compiled, [PROMPTS[0]], cache)
        decode(compiled, torch.tensor([1]), cache)
    assert decoder_of(compiled).positions == []
    assert capsys.readouterr().err.count("decoding with PyTorch: the compiled step reads a cache of new_cache") == 1


def test_where_nobody_says_it_is_taken_where_it_pays(tiny, monkeypatch):
    assert Served(tiny).compiled is False  # too small
    monkeypatch.setattr(weights, "WORTH_COMPILING", sum(each.numel() for each in tiny.parameters()))
    assert Served(tiny).compiled is Served(tiny.bfloat16(), activations="wide").compiled is None
    assert Served(tiny, packed=True).compiled is Served(tiny, hold=lambda layers: None).compiled is False
    assert Served(tiny.double()).compiled is Served(tiny.to("meta")).compiled is False


def test_the_environment_turns_it_off_where_nobody_says(tiny, monkeypatch):
    monkeypatch.setattr(weights, "WORTH_COMPILING", 0)
    for value, wanted in (("0", False), ("1", None)):
        monkeypatch.setenv("LLMHW_COMPILED", value)
        assert (Served(tiny).compiled, Served(tiny, compiled=True).compiled) == (wanted, True)
    monkeypatch.setenv("LLMHW_COMPILED", "no")
    with pytest.raises(ValueError, match="LLMHW_COMPILED=no: 0 lets PyTorch decode, 1 is as if it were not set"):
        Served(tiny)


def test_where_it_cannot_be_pytorch_decodes_in_its_own_layout_unless_nothing_else_is_wanted(tiny, monkeypatch, capsys):
    say.cache_clear()
    monkeypatch.setattr(weights, "WORTH_COMPILING", 0)
    model = Transformer(replace(tiny.spec, activation="gelu"))
    model.load_state_dict(tiny.state_dict())
    expected = list(generate(Served(model, compiled=False), PROMPTS[0], 6))
    served = Served(model)
    cache = new_cache(served, 1, 12)
    prefill(served, [PROMPTS[0]], cache)
    decode(served, torch.tensor([expected[0]]), cache)
    assert (cache.by_token, cache.keys.is_contiguous()) == (False, True)
    assert not new_cache(served, 1, 12).by_token
    assert list(generate(served, PROMPTS[0], 6)) == expected
    why = f"{model.spec.name} has the activation gelu: the compiled step has silu"
    assert capsys.readouterr().err == f"llmhw: decoding step by step with PyTorch: {why}\n"
    with pytest.raises(NoDecoder, match=why):
        list(generate(Served(model, compiled=True), PROMPTS[0], 6))


def test_a_contiguous_cache_is_a_paged_one_of_one_block_a_text(tiny):
    cache = KVCache(tiny.spec, 2, 12, by_token=True)
    for pool, view in zip(cache.pools, cache.tensors(), strict=True):
        assert pool.is_contiguous()
        assert pool.shape == (3, 2, 12, 2, 8)
        assert view.shape == (3, 2, 2, 12, 8)
        assert pool.data_ptr() == view.data_ptr()
    by_head = KVCache(tiny.spec, 2, 12)
    assert all(view.is_contiguous() for view in by_head.tensors())
    assert (cache.block_size, cache.nbytes) == (12, 2 * 4 * 3 * 2 * 12 * 2 * 8)
