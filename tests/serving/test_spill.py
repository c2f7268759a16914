"""Blocks that leave the cache come back to the bit, after a restart too, and no text changes whatever befalls them."""

import copy
import os
import threading

import pytest
import torch

from llmhw_helpers.llm.checkpoints import load_model
from llmhw_helpers.llm.quantization import Scheme, quantize_model
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.serving.decoding import decoder_of, generate
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.kv_folder import KVFolder, NoFolder
from llmhw_helpers.serving.offload import Offloaded, write_layers
from llmhw_helpers.serving.quantized import serve
from llmhw_helpers.serving.scheduler import Scheduler
from llmhw_helpers.serving.weights import Served

TEXTS = torch.randint(0, 50, (4, 64), generator=torch.Generator().manual_seed(1)).tolist()
PROMPTS = [text[:30] for text in TEXTS]  # seven full blocks of 4, and two tokens
N_NEW = 8


def spilling(served, path, n_blocks=12, **how):
    return Engine(served, n_blocks, 4, kv_folder=KVFolder(path), **how)


def answers(engine, prompts=PROMPTS):
    return [engine.generate([prompt], N_NEW)[0] for prompt in prompts]


def expected(served):
    return [list(generate(served, prompt, N_NEW)) for prompt in PROMPTS]


def first_logits(engine, prompt):
    """What the step gives out that reads the last of `prompt`."""
    kept, ways = [], [(engine.served, "head"), (decoder_of(engine.served), "logits")]  # PyTorch's, and the compiled one

    def keeping(way):
        def kept_too(*args):
            kept.append(way(*args))
            return kept[-1]

        return kept_too

    ways = [(owner, name) for owner, name in ways if owner is not None]
    for owner, name in ways:
        setattr(owner, name, keeping(getattr(owner, name)))
    try:
        engine.generate([prompt], 1)
    finally:
        for owner, name in ways:
            delattr(owner, name)
    return kept[-1]


def test_blocks_that_leave_the_cache_come_back_and_no_text_changes(tiny, tmp_path):
    served = Served(tiny)
    engine = spilling(served, tmp_path)
    assert [answers(engine) for _ in range(3)] == [expected(served)] * 3
    done = engine.statistics
    assert (done.n_asked, done.n_reused) == (12 * 30, 2 * 4 * 28)  # in the second and third round all is found
    assert done.n_read == 4 * 30 + 8 * 2 + 12 * (N_NEW - 1)
    assert done.n_reloaded == 2 * 4 * 7
    assert done.n_missed == 4 * 7
    assert done.n_spilled >= 4 * 7 - 12
    assert done.n_damaged == 0


def test_logits_from_reloaded_blocks_are_those_from_blocks_that_stayed_to_the_bit(tiny, tmp_path):
    served = Served(tiny)
    stayed, spilled = Engine(served, 100, 4), spilling(served, tmp_path)
    for engine in (stayed, spilled):
        answers(engine)
    for prompt in PROMPTS:
        found = [first_logits(engine, prompt) for engine in (stayed, spilled)]
        assert torch.equal(*found)
    assert spilled.statistics.n_reloaded >= 3 * 7
    assert stayed.statistics.n_read == spilled.statistics.n_read


def test_all_is_found_after_a_restart(tiny, tmp_path):
    before = spilling(Served(tiny), tmp_path)
    texts, logits = answers(before), first_logits(before, PROMPTS[0])
    before.flush()
    after = spilling(Served(copy.deepcopy(tiny)), tmp_path)
    assert torch.equal(first_logits(after, PROMPTS[0]), logits)
    assert answers(after) == texts
    done = after.statistics
    assert (done.n_asked, done.n_reused, done.n_missed) == (5 * 30, 5 * 28, 0)


def test_what_came_back_is_found_in_the_cache_from_then_on(tiny, tmp_path):
    before = spilling(Served(tiny), tmp_path)
    text = before.generate([PROMPTS[0]], N_NEW)
    before.flush()
    after = spilling(Served(tiny), tmp_path, n_blocks=30)
    assert after.generate([PROMPTS[0]] * 2, N_NEW) == text * 2
    assert after.generate([PROMPTS[0]], N_NEW) == text
    done = after.statistics
    assert (done.n_reloaded, done.n_reused, done.n_missed) == (7, 3 * 28, 0)


def test_without_a_flush_what_was_in_the_cache_at_the_end_is_read_again(tiny, tmp_path):
    before = spilling(Served(tiny), tmp_path, n_blocks=100)
    texts = answers(before)
    assert list(tmp_path.iterdir()) == []
    after = spilling(Served(tiny), tmp_path)
    assert answers(after) == texts
    assert after.statistics.n_reused == 0
    before.flush()
    n_files = len(list(tmp_path.iterdir()))
    assert n_files == 4 * (37 // 4)  # the last token is never read: so many full blocks
    assert before.spill.n_spilled == n_files


def test_a_flush_keeps_all_though_the_backlog_takes_one_block(tiny, tmp_path):
    engine = Engine(Served(tiny), 100, 4, kv_folder=KVFolder(tmp_path, backlog_bytes=2000))
    assert 2000 // sum(each.nbytes for each in engine.cache.block(0)) == 1
    answers(engine)
    engine.flush()
    assert len(list(tmp_path.iterdir())) == engine.spill.n_spilled == 4 * (37 // 4)


def test_what_comes_back_has_been_used_just_now(tiny, tmp_path):
    engine = spilling(Served(tiny), tmp_path, n_blocks=100)
    answers(engine)
    engine.flush()
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    after = spilling(Served(tiny), tmp_path)
    answers(after, PROMPTS[:1])
    assert sum(path.stat().st_mtime > 1 for path in tmp_path.iterdir()) >= after.statistics.n_reloaded == 7


def test_the_format_of_16_bits_comes_back_too(tiny, tmp_path):
    served = Served(tiny.bfloat16())
    engine = spilling(served, tmp_path)
    assert answers(engine) == answers(engine) == answers(Engine(served, 100, 4))
    assert engine.statistics.n_reloaded == 4 * 7


@pytest.mark.parametrize("kind", ["int8", "streamed"])
def test_other_served_models_take_a_folder_too(tiny, tmp_path, kind):
    if kind == "int8":
        served = serve(quantize_model(tiny, Scheme(8, "row")))
    else:
        write_layers(tiny, tmp_path / "layers")
        served = Offloaded(tiny.spec, tmp_path / "layers", 4 * tiny.spec.n_params - 1)
    engine, stayed = spilling(served, tmp_path / "kv"), Engine(served, 100, 4)
    for _ in range(2):  # the second time few rows are read, which int8 multiplies in another way
        assert answers(engine) == answers(stayed)
    assert engine.statistics.n_reloaded == 4 * 7


def test_blocks_of_another_model_format_or_size_are_not_read(tiny, tmp_path):
    others = [copy.deepcopy(tiny) for _ in range(3)]
    others[1].blk[1].attn_v.weight.data[3, 3] += 1e-3
    others[2] = others[2].double()
    for i, each in enumerate(others):
        engine = spilling(Served(each), tmp_path)
        assert answers(engine) == expected(Served(each))
        assert engine.statistics.n_reused == 0, i
        engine.flush()
    wider = Engine(Served(tiny), 6, 8, kv_folder=KVFolder(tmp_path))
    assert answers(wider) == expected(Served(tiny))
    assert wider.statistics.n_reused == 0
    again = spilling(Served(tiny), tmp_path)
    assert answers(again) == expected(Served(tiny))  # those of the others lie beside
    assert again.statistics.n_reused == 4 * 28


def test_two_engines_share_a_folder_at_the_same_time(tiny, tmp_path):
    served = Served(tiny)
    right, wrong = expected(served), []

    def work():
        engine = spilling(Served(copy.deepcopy(tiny)), tmp_path)
        for _ in range(4):
            wrong.extend(a for a, b in zip(answers(engine), right, strict=True) if a != b)
        engine.flush()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert wrong == []
    late = spilling(served, tmp_path)
    assert answers(late) == right
    assert late.statistics.n_reused == 4 * 28


@pytest.mark.parametrize("which", [0, 3, 6])
def test_from_the_first_damaged_block_on_a_prompt_is_read_again(tiny, tmp_path, which):
    served = Served(tiny)
    engine = spilling(served, tmp_path, n_blocks=100)
    texts = answers(engine, PROMPTS[:1])
    engine.flush()
    after = spilling(served, tmp_path)
    key = after.spill._key(engine.scheduler.blocks.sealed()[0][1])
    chain = sorted(tmp_path.iterdir(), key=lambda each: -each.stat().st_mtime_ns)  # the first is the newest
    assert chain[-1].name == f"{key.hex()}.kv"
    os.truncate(chain[which], 100)
    assert answers(after, PROMPTS[:1]) == texts
    done = after.statistics
    assert (done.n_reloaded, done.n_reused, done.n_damaged, done.n_missed) == (which, 4 * which, 1, 7 - which)
    assert after.blocks.n_free == 12


def test_a_folder_that_fails_ends_no_request(tiny, tmp_path, capfd):
    served = Served(tiny)
    engine = spilling(served, tmp_path / "kv")
    (tmp_path / "kv").rmdir()
    (tmp_path / "kv").write_text("a file now")
    assert [answers(engine) for _ in range(2)] == [expected(served)] * 2
    engine.flush()
    said = capfd.readouterr().err
    assert said.startswith(f"no more keys and values are written to {tmp_path / 'kv'}: ")
    assert said.count("\n") == 1
    assert engine.statistics.n_reloaded == 0


def test_no_more_is_reloaded_than_leaves_room_for_the_step(tiny, tmp_path):
    served = Served(tiny)
    first = spilling(served, tmp_path, n_blocks=100)
    text = first.generate([TEXTS[0][:50]], 8)
    first.flush()
    for n_blocks in (15, 20):
        tight = spilling(served, tmp_path, n_blocks=n_blocks, max_step_tokens=8)
        others = [tight.submit(TEXTS[1][:9], 20), tight.submit(TEXTS[2][:9], 20)]
        tight.step()
        request = tight.submit(TEXTS[0][:50], 8)
        while not request.block_table:
            tight.step()
        assert all(each.finished is None for each in others)  # it comes in beside them
        while tight.step():
            assert tight.blocks.n_free >= 0
        assert [request.output] == text
        assert [each.output for each in others] == [list(generate(served, TEXTS[i][:9], 20)) for i in (1, 2)]
        assert tight.blocks.n_free == n_blocks
        assert tight.statistics.n_reloaded > 0


def test_a_request_that_has_to_wait_reads_nothing_meanwhile(tiny, tmp_path):
    served = Served(tiny)
    first = spilling(served, tmp_path, n_blocks=100)
    first.generate([PROMPTS[0]], 8)
    first.flush()
    tight = spilling(served, tmp_path, n_blocks=10)
    tight.submit(TEXTS[1][:20], 12)
    for _ in range(2):
        tight.step()
    tight.submit(PROMPTS[0], 8)
    for _ in range(5):
        tight.step()
    assert (len(tight.scheduler.waiting), tight.statistics.n_reloaded) == (1, 0)
    while tight.step():
        pass
    assert tight.statistics.n_reloaded == 7


def test_an_interrupt_while_blocks_come_back_loses_none(tiny, tmp_path, monkeypatch):
    served = Served(tiny)
    engine = spilling(served, tmp_path)
    texts = answers(engine)
    read, calls = KVFolder.read, []

    def interrupted(self, key, out):
        calls.append(key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read(self, key, out)

    monkeypatch.setattr(KVFolder, "read", interrupted)
    request = engine.submit(PROMPTS[0], N_NEW)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert engine.blocks.n_free == 12
    while engine.step():
        pass
    assert request.output == texts[0]


def test_what_cannot_be_is_refused_in_one_line(tiny, tmp_path):
    served = Served(tiny)
    with pytest.raises(NoFolder, match=r"a folder of 0\.0 MB for blocks of 0\.0 MB: give it more"):
        Engine(served, 12, 4, kv_folder=KVFolder(tmp_path, 1000))
    with pytest.raises(NoFolder, match="sharing=False"):
        spilling(served, tmp_path, sharing=False)


def test_an_engine_without_a_folder_has_nothing_to_flush(tiny):
    engine = Engine(Served(tiny), 12, 4)
    engine.flush()
    assert engine.spill is None
    assert engine.statistics.n_spilled == 0
    assert isinstance(engine.scheduler, Scheduler)


@pytest.mark.slow
def test_the_real_model_goes_on_from_a_folder_as_from_its_cache(tmp_path):
    served, tokenizer = Served(load_model()), load_tokenizer()
    story = tokenizer.chat_tokens([{"role": "user", "content": "Tell me about Gothenburg. " * 30}])
    stayed, spilled = Engine(served, 40), Engine(served, 40, kv_folder=KVFolder(tmp_path))
    texts = [engine.generate([story], 12) for engine in (stayed, spilled)]
    spilled.flush()
    after = Engine(served, 40, kv_folder=KVFolder(tmp_path))
    assert torch.equal(first_logits(stayed, story), first_logits(after, story))
    assert after.generate([story], 12) == texts[0] == texts[1]
    assert after.statistics.n_reloaded == (len(story) - 1) // 16
