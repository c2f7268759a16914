"""Around the compiled step: what it is given is checked, threads share it, and where it cannot be a line says so."""

import os
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from llmhw_helpers.llm.transformer import TokenError, Transformer
from llmhw_helpers.serving import compiled
from llmhw_helpers.serving.compiled import decoder as room
from llmhw_helpers.serving.compiled import folder, jitting
from llmhw_helpers.serving.compiled.decoder import Decoder, NoDecoder, new_decoder
from llmhw_helpers.serving.paged_cache import PagedCache

TABLES = [[4, 2], [0, 3]]


@pytest.fixture
def decoder(stands_in, tiny):
    return Decoder(tiny)


@pytest.fixture(params=[1, 2, 3])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def scores(*totals, n=50):
    return torch.tensor(totals)[:, None].float() * torch.arange(n)


def test_each_text_reads_its_own_blocks(decoder, stands_in, tiny, n_threads):
    cache = PagedCache(tiny.spec, 5, 2)
    for step, expected in enumerate([(7, 1), (10, 3), (15, 6)]):
        tokens = [[7, 3, 5][step], step + 1]
        found = decoder.logits(tokens, [step, step], TABLES, cache)
        torch.testing.assert_close(found, scores(*expected))
    assert cache.keys[0, [4, 4, 2, 0, 0, 3], [0, 1, 0, 0, 1, 0], 0, 0].tolist() == [7, 3, 5, 1, 2, 3]
    assert decoder.logits([9], [0], [[1]], cache)[0, 2] == 18  # fewer texts, a shorter table
    assert len(stands_in.decode_share.signatures) == 1  # nothing is compiled after the first step, whatever the sizes


def test_the_first_rows_are_scored_and_the_others_read(decoder, tiny):
    cache, threads = PagedCache(tiny.spec, 5, 2), torch.get_num_threads()
    torch.set_num_threads(1)  # the stand-in's workers do not meet before a row reads what another wrote
    try:
        decoder.logits([7, 1], [0, 0], TABLES, cache, n_scored=1)
        found = decoder.logits([2, 3, 5], [1, 1, 2], [TABLES[1], *[TABLES[0]] * 2], cache, n_scored=1)
        torch.testing.assert_close(found, scores(3))
        torch.testing.assert_close(decoder.logits([4], [3], TABLES[:1], cache), scores(7 + 3 + 5 + 4))
    finally:
        torch.set_num_threads(threads)


def test_room_is_kept_for_a_number_of_sizes_only(decoder, tiny):
    cache = PagedCache(tiny.spec, 30, 2)
    for n in range(1, room.MOST_ROOMS + 5):
        decoder.logits([1] * n, [0] * n, [[i] for i in range(n)], cache)
    assert [size[0] for size in decoder._rooms] == list(range(5, room.MOST_ROOMS + 5))


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        (([50, 0], [0, 0], TABLES), TokenError, "token 50 is none of .*, which go from 0 to 49"),
        (([0, -1], [0, 0], TABLES), TokenError, "token -1"),
        (([0, 0], [4, 0], TABLES), ValueError, "position 4 in a table of 4 slots"),
        (([0, 0], [0, -1], TABLES), ValueError, "position -1"),
        (([0, 0], [0, 0], [[4, 5], [0]]), ValueError, r"block table \[4, 5\]: there are blocks 0 to 4"),
        (([0, 0], [0, 0], [[-1], [0]]), ValueError, r"block table \[-1\]"),
        (([0, 0], [0, 0], [[], [0]]), ValueError, "position 0 in a table of 0 slots"),
        (([0], [0, 0], TABLES), ValueError, "1 tokens, 2 positions and 2 block tables"),
        (([], [], []), ValueError, "at least one text"),
        (([0, 0], [0, 0], TABLES, 3), ValueError, "3 rows to be scored, of 2"),
        (([0, 0], [0, 0], TABLES, 0), ValueError, "0 rows to be scored, of 2"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_compiled_code_sees_it(decoder, tiny, step, error, words):
    cache = PagedCache(tiny.spec, 5, 2)
    with pytest.raises(error, match=words):
        decoder.logits(*step[:3], cache, *step[3:])
    assert not cache.keys.any()


@pytest.mark.parametrize("how", [{"dtype": torch.bfloat16}, {"device": "meta"}])
def test_a_cache_of_another_format_is_refused(decoder, tiny, how):
    with pytest.raises(ValueError, match=r"a cache of .*: here it is"):
        decoder.logits([1], [0], [[0]], PagedCache(tiny.spec, 5, 2, **how))
    with pytest.raises(ValueError, match=r"a cache of .*: here it is"):
        decoder.logits([1], [0], [[0]], PagedCache(replace(tiny.spec, n_layers=1), 5, 2))


def test_pools_with_gaps_and_scales_of_another_form_are_refused(decoder, tiny):
    cache = PagedCache(tiny.spec, 5, 2)
    whole = cache.keys, cache.values
    cache.values = whole[1].transpose(0, 1).contiguous().transpose(0, 1)
    with pytest.raises(ValueError, match="without gaps"):
        decoder.logits([1], [0], [[0]], cache)
    kinds = (tiny.spec.head_dim, torch.int8), (1, torch.float16)
    codes, scales = (torch.zeros(*whole[0].shape[:-1], n, dtype=kind) for n, kind in kinds)
    coded = SimpleNamespace(block_size=2, bits=8, pools=(codes, codes), scale_pools=(scales, scales[:, :4]))
    with pytest.raises(ValueError, match="a cache of .* in torch.float16 on cpu: here it is"):
        decoder.logits([1], [0], [[0]], coded)


def test_there_is_one_room_for_a_batch_of_a_size_whatever_came_before(decoder, tiny):
    cache = PagedCache(tiny.spec, 1, 600)
    for position in (0, 1, 255, 256, 511, 3):
        decoder.logits([1], [position], [[0]], cache)
        ((_, _, n_tokens),) = decoder._rooms
        assert n_tokens == (256 if position < 256 else 512)
    decoder.logits([1, 1], [0, 0], [[0], [0]], PagedCache(tiny.spec, 1, 4))
    assert [sizes[0] for sizes in decoder._rooms] == [1, 2]


def test_what_was_changed_in_the_model_is_followed_before_each_step(decoder, tiny, monkeypatch):
    followed = []
    monkeypatch.setattr(decoder._held.kept, "follow", lambda: followed.append(1))
    for position in range(2):
        decoder.logits([1], [position], [[0]], PagedCache(tiny.spec, 1, 4))
    assert followed == [1, 1]


def test_a_room_belongs_to_one_step_at_a_time(decoder, tiny, monkeypatch):
    inside, most = [], []

    class Slow:
        def run(self, part, n):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    monkeypatch.setattr(room, "workers", Slow)
    step = [1], [0], [[0]], PagedCache(tiny.spec, 1, 4)
    callers = [threading.Thread(target=decoder.logits, args=step) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert most == [1] * 4


def test_two_that_decode_at_the_same_time_take_turns(decoder, stands_in, tiny):
    other, wrong = Decoder(tiny), []

    def decode(with_decoder, token):
        cache = PagedCache(tiny.spec, 1, 64)
        for i in range(64):
            found = with_decoder.logits([token], [i], [[0]], cache)
            if not torch.equal(found, scores((i + 1) * token)):
                wrong.append((token, i))

    callers = [threading.Thread(target=decode, args=(each, i)) for i, each in enumerate([decoder, decoder, other])]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_decodes_too(decoder, tiny):
    cache = PagedCache(tiny.spec, 1, 4)
    decoder.logits([3], [0], [[0]], cache)
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(decoder.logits([4], [1], [[0]], cache), scores(7)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(decoder.logits([4], [1], [[0]], cache), scores(7))


def said(capsys):
    out, err = capsys.readouterr()
    assert not out
    return err


@pytest.fixture
def unsaid(monkeypatch):
    """A line that was said before is said again."""
    folder.say.cache_clear()
    yield
    folder.say.cache_clear()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda patch: patch.setitem(sys.modules, "numba", None), "import of numba halted"),
        (lambda patch: patch.setattr("numba.__version__", "0.65.2"), "numba 0.65.2 is older"),
    ],
    ids=["missing", "older"],
)
def test_without_numba_or_with_an_old_one_a_line_says_so(unsaid, stands_in, tiny, monkeypatch, capsys, change, words):
    change(monkeypatch)
    monkeypatch.delattr(jitting.__name__)  # as in a process that has not met it yet
    monkeypatch.delitem(sys.modules, jitting.__name__)
    assert new_decoder(tiny) is None
    assert new_decoder(tiny) is None
    line = said(capsys)
    assert line.count("\n") == 1
    assert line.startswith(f"llmhw: decoding step by step with PyTorch: it needs numba, and has none here ({words}")
    assert line.endswith(": pip install 'numba>=0.66'\n")


def test_a_numba_that_cannot_compile_a_product_is_named_too(unsaid, stands_in, tiny, monkeypatch, capsys):
    def broken(model, activations):
        raise TypeError("no implementation of\nwhat there was")

    monkeypatch.setattr(compiled.held, "hold", broken)
    assert new_decoder(tiny) is None
    assert "cannot compile it here: TypeError: no implementation of\n" in said(capsys)


def test_a_numba_that_cannot_compile_it_is_named(unsaid, stands_in, tiny, monkeypatch, capsys):
    def broken(*arguments):
        raise TypeError("no implementation of\nwhat there was")

    monkeypatch.setattr(stands_in, "decode_share", broken)
    assert new_decoder(tiny) is None
    line = said(capsys)
    assert line.count("\n") == 1
    assert "cannot compile it here: TypeError: no implementation of\n" in line


def test_a_model_of_another_kind_or_on_a_gpu_is_left_to_pytorch(unsaid, stands_in, tiny, capsys):
    with pytest.raises(NoDecoder, match="the model is on meta"):
        Decoder(Transformer(tiny.spec).to("meta"))
    assert new_decoder(Transformer(replace(tiny.spec, qkv_bias=True))) is None
    assert said(capsys) == "llmhw: decoding step by step with PyTorch: it has biases\n"


def test_pools_are_handed_over_as_bytes_of_the_same_memory():
    for dtype, bits in ((torch.bfloat16, 0x3F80), (torch.int8, 1)):
        pool = torch.tensor([[1.0, -2.0]]).to(dtype)
        (found,) = room._bytes([pool])
        assert found.tobytes()[: dtype.itemsize] == bits.to_bytes(dtype.itemsize, "little")
        found[0, : dtype.itemsize] = found[0, dtype.itemsize :]
        assert pool.tolist() == [[-2, -2]]
