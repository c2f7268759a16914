"""Corpora on disk, batches, and the thread that fetches them ahead."""

import json
import os
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmhw_helpers.llm.corpora import BadCorpus, Batches, ahead, open_corpus, write_corpus


@given(parts=st.lists(st.lists(st.integers(0, 299), max_size=20), min_size=1, max_size=5).filter(any))
def test_what_is_written_is_read(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("corpus") / "text"
    corpus = write_corpus(path, parts, vocab_size=300)
    assert corpus.tokens.tolist() == [token for part in parts for token in part]
    assert len(open_corpus(path)) == len(corpus)
    assert isinstance(corpus.tokens, np.memmap)


@pytest.mark.parametrize(("vocab_size", "width"), [(2**16, 2), (2**16 + 1, 4)])
def test_a_token_takes_two_bytes_while_they_suffice(tmp_path, vocab_size, width):
    corpus = write_corpus(tmp_path / "text", [[0, vocab_size - 1]], vocab_size)
    assert corpus.path.stat().st_size == 2 * width
    assert corpus.tokens.tolist() == [0, vocab_size - 1]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "empty corpus"),
        ([[], []], "empty corpus"),
        ([[1, 2], [3, 10]], "token 10 at position 3 is not in the vocabulary of 10: 0 to 9"),
        ([[-1]], "token -1 at position 0"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, parts, said):
    with pytest.raises(BadCorpus, match=said):
        write_corpus(tmp_path / "text", parts, vocab_size=10)
    assert not list(tmp_path.iterdir())


def test_a_failed_rewrite_keeps_the_old_corpus(tmp_path):
    write_corpus(tmp_path / "text", [[1, 2, 3]], vocab_size=10)
    with pytest.raises(BadCorpus):
        write_corpus(tmp_path / "text", [[1, 2], [99]], vocab_size=10)
    assert open_corpus(tmp_path / "text").tokens.tolist() == [1, 2, 3]


def test_a_rewrite_leaves_no_description_beside_tokens_of_which_it_does_not_speak(tmp_path, monkeypatch):
    """Whenever it is killed: the description is emptied before the tokens change."""
    write_corpus(tmp_path / "text", [[1, 2, 3]], vocab_size=10)
    replace, names = os.replace, []
    monkeypatch.setattr(os, "replace", lambda old, new: names.append(new.name) or replace(old, new))
    write_corpus(tmp_path / "text", [[4, 5, 6]], vocab_size=10)
    assert names == ["text.json", "text", "text.json"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def emptied(path):
    path.write_bytes(b"")
    about = path.with_name("text.json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"n_tokens": 0}))


def undescribed(path):
    path.with_name("text.json").unlink()


def of_another_kind(path):
    path.with_name("text.json").write_text(json.dumps({"format": "something else"}))


def no_json(path):
    path.with_name("text.json").write_bytes(b"\xff{")


@pytest.mark.parametrize("spoil", [cut, longer, emptied, undescribed, of_another_kind, no_json])
def test_a_spoiled_corpus_is_refused_in_one_line(tmp_path, spoil):
    path = write_corpus(tmp_path / "text", [range(100)], vocab_size=100).path
    spoil(path)
    with pytest.raises(BadCorpus, match="write it again") as caught:
        open_corpus(path)
    assert "\n" not in str(caught.value)


def test_a_missing_corpus_says_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="write_corpus"):
        open_corpus(tmp_path / "none")


def test_batches_are_windows_of_the_corpus_and_reach_both_ends(tmp_path):
    corpus = write_corpus(tmp_path / "text", [range(12)], vocab_size=12)
    starts = set()
    for i in range(40):
        batch = Batches(corpus, 4, 8)(i)
        assert batch.shape == (4, 9)
        assert batch.dtype == torch.int64
        assert (batch.diff() == 1).all()  # of this corpus every window counts upwards
        starts |= set(batch[:, 0].tolist())
    assert starts == {0, 1, 2, 3}  # the last one ends with the last token


def test_a_corpus_of_one_sequence_and_one_token_is_enough_and_one_less_is_not(tmp_path):
    corpus = write_corpus(tmp_path / "text", [range(9)], vocab_size=9)
    assert Batches(corpus, 1, 8)(0).tolist() == [list(range(9))]
    with pytest.raises(BadCorpus, match="has 9 tokens; a sequence of 9 and the token after it need 10"):
        Batches(corpus, 1, 9)
    with pytest.raises(ValueError, match="at least one token: 0 x 8"):
        Batches(corpus, 0, 8)


def test_a_batch_depends_on_seed_and_number_alone(tmp_path):
    corpus = write_corpus(tmp_path / "text", [range(1000)], vocab_size=1000)
    one, two = Batches(corpus, 4, 16, seed=0), Batches(corpus, 4, 16, seed=1)
    assert torch.equal(one(7), one(7))
    assert not torch.equal(one(7), one(8))
    assert not torch.equal(one(7), two(7))


def test_a_token_that_changed_on_the_disk_is_refused(tmp_path):
    path = write_corpus(tmp_path / "text", [range(9)], vocab_size=9).path
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(BadCorpus, match="token 65535 is not in the vocabulary of 9"):
        Batches(open_corpus(path), 1, 8)(0)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_ahead_gives_the_same_from_any_number_on(depth):
    with closing(ahead(lambda i: torch.tensor(i), 5, depth)) as batches:
        assert [next(batches).item() for _ in range(20)] == list(range(5, 25))


def test_ahead_never_holds_more_than_its_depth_and_its_thread_ends():
    made = []
    with closing(ahead(lambda i: made.append(i) or torch.tensor(i), depth=2)) as batches:
        next(batches)
        time.sleep(0.1)
        assert len(made) <= 4  # one used, two waiting, and the one whose room was just given
    assert not [thread for thread in threading.enumerate() if thread.name == "batches ahead"]


def test_ahead_fetches_while_we_compute():
    def slow(i):
        time.sleep(0.03)
        return torch.tensor(i)

    def seconds(depth):
        begin = time.perf_counter()
        with closing(ahead(slow, depth=depth)) as batches:
            for _ in range(8):
                next(batches)
                time.sleep(0.03)
        return time.perf_counter() - begin

    assert min(seconds(2) for _ in range(3)) < 0.8 * seconds(0)  # 9 waits instead of 16


def test_what_the_thread_raises_is_raised_here():
    def fetch(i):
        if i == 2:
            raise BadCorpus("broken")
        return torch.tensor(i)

    with closing(ahead(fetch)) as batches:
        next(batches), next(batches)
        with pytest.raises(BadCorpus, match="broken"):
            next(batches)
    with pytest.raises(ValueError, match="not -1"):
        ahead(fetch, depth=-1)
