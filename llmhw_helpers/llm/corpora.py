"""A tokenised text in a file, read by memory map, and batches of it, fetched ahead of need.

Two files: the tokens one after another, 2 or 4 bytes each (little-endian), and a line of JSON beside them that says
what they are. No more of it comes to memory than a batch asks for.
"""

import itertools
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..files import saving
from ..specs.json_text import parse_json, read_file
from ..specs.settings import OneLine

FORMAT = "llmhw tokens 1"
DTYPES = ("<u2", "<u4")
Fetched = TypeVar("Fetched")  # a batch, or all of a step's


class BadCorpus(OneLine, ValueError):
    """A corpus that cannot be trained on: the message says why, and what to do."""


@dataclass(frozen=True)
class Corpus:
    """Tokens in a file.

    Attributes:
        path: of the tokens; the description is beside it.
        tokens: the memory map, uint16 or uint32.
        vocab_size: all tokens are below it.
    """

    path: Path
    tokens: np.ndarray
    vocab_size: int

    def __len__(self) -> int:
        return len(self.tokens)


def write_corpus(path: Path, parts: Iterable, vocab_size: int) -> Corpus:
    """Write tokens, part after part (lists, bytes, arrays): the whole need never be in memory.

    The file appears when it is complete.

    Raises:
        BadCorpus: no tokens, or one that is not in ``0 ... vocab_size - 1``; nothing is written then.
        NotSaved: no space, no permission.
    """
    path, dtype, n_tokens = Path(path), np.dtype("<u2" if vocab_size <= 2**16 else "<u4"), 0
    with saving("corpus", path, _description(path)) as (file, description):  # without it, tokens are refused
        for part in parts:
            tokens = np.asarray(part if isinstance(part, np.ndarray) else list(part), np.int64)
            _refuse_unknown(tokens, vocab_size, n_tokens)
            file.write(tokens.astype(dtype).tobytes())
            n_tokens += tokens.size
        if not n_tokens:
            raise BadCorpus(f"{path.name}: an empty corpus; there is nothing to learn from")
        about = {"format": FORMAT, "dtype": dtype.str, "n_tokens": n_tokens, "vocab_size": vocab_size}
        description.write(json.dumps(about).encode())
    return open_corpus(path)


def open_corpus(path: Path) -> Corpus:
    """Map the tokens at `path`; nothing is read yet.

    Raises:
        FileNotFoundError: there is no such file.
        BadCorpus: it is truncated, or not a corpus.
    """
    path = Path(path)
    again = "write it again with write_corpus"
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no corpus {path}; make one with write_corpus")
    try:
        about = parse_json(read_file(_description(path)))
        dtype, n_tokens, vocab_size = about["dtype"], about["n_tokens"], about["vocab_size"]
        known = about["format"] == FORMAT and dtype in DTYPES and path.is_file()
        if not known or not all(type(n) is int and n >= 0 for n in (n_tokens, vocab_size)):
            raise ValueError
        dtype = np.dtype(dtype)
    except (OSError, ValueError, KeyError, TypeError):
        raise BadCorpus(
            f"{path.name} is not a corpus: {_description(path).name} does not describe it; {again}"
        ) from None
    size, expected = path.stat().st_size, n_tokens * dtype.itemsize
    if size != expected or not n_tokens:
        raise BadCorpus(f"{path.name} is truncated or damaged: {size} bytes, not {expected}; {again}")
    return Corpus(path, np.memmap(path, dtype, mode="r"), vocab_size)


@dataclass(frozen=True)
class Batches:
    """Batch number `i` of a corpus: always the same for a seed, so a run goes on where it stopped by counting.

    Raises:
        BadCorpus: the corpus is shorter than one sequence and the token after it.
    """

    corpus: Corpus
    batch_size: int
    seq_len: int
    seed: int = 0

    def __post_init__(self):
        if min(self.batch_size, self.seq_len) < 1:
            raise ValueError(f"a batch needs at least one token: {self.batch_size} x {self.seq_len}")
        if len(self.corpus) < self.seq_len + 1:
            needed = f"a sequence of {self.seq_len} and the token after it need {self.seq_len + 1}"
            raise BadCorpus(f"{self.corpus.path.name} has {len(self.corpus)} tokens; {needed}: take shorter ones")

    def __call__(self, i: int) -> Int[Tensor, "batch_size seq_len_and_one"]:
        """Sequences from random places, each with the token that comes after it.

        Raises:
            BadCorpus: a token that is above the vocabulary, as in a file that was changed.
        """
        starts = np.random.default_rng((self.seed, i)).integers(0, len(self.corpus) - self.seq_len, self.batch_size)
        batch = self.corpus.tokens[starts[:, None] + np.arange(self.seq_len + 1)].astype(np.int64)
        _refuse_unknown(batch, self.corpus.vocab_size, None)
        return torch.from_numpy(batch)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuse a model of a smaller vocabulary, which would meet tokens that it has no row for.

        Raises:
            BadCorpus: it is smaller.
        """
        name, own = self.corpus.path.name, self.corpus.vocab_size
        if own > vocab_size:
            raise BadCorpus(f"{name} has a vocabulary of {own}, the model one of {vocab_size}: make the model's larger")

    def state(self) -> dict:
        """What tells these batches from others: to be kept beside the number of the next one."""
        return {name: value for name, value in asdict(self).items() if name != "corpus"} | {
            "n_tokens": len(self.corpus),
            "vocab_size": self.corpus.vocab_size,
        }


def ahead(fetch: Callable[[int], Fetched], start: int = 0, depth: int = 2) -> Iterator[Fetched]:
    """``fetch(start), fetch(start + 1), ...`` made by a thread, with at most `depth` of them waiting.

    What `fetch` raises is raised here. While the model computes in torch, Python's lock is free and the thread gets
    on. Close the iterator if you leave early (``contextlib.closing``). A depth of 0 fetches on demand, in this thread.
    """
    if depth < 0:
        raise ValueError(f"batches to fetch ahead must be at least 0, not {depth}")
    return _ahead(fetch, start, depth) if depth else (fetch(i) for i in itertools.count(start))


def _ahead(fetch: Callable[[int], Fetched], start: int, depth: int) -> Iterator[Fetched]:
    waiting: queue.Queue = queue.Queue()
    room, stop = threading.Semaphore(depth), threading.Event()

    def work():
        try:
            for i in itertools.count(start):
                room.acquire()
                if stop.is_set():
                    return
                waiting.put((fetch(i), None))
        except BaseException as error:  # whatever it is, the one who waits must hear of it
            waiting.put((None, error))

    thread = threading.Thread(target=work, daemon=True, name="batches ahead")
    thread.start()
    try:
        while True:
            batch, error = waiting.get()
            if error is not None:
                raise error
            room.release()
            yield batch
    finally:
        stop.set()
        room.release()
        thread.join()


def _description(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _refuse_unknown(tokens: np.ndarray, vocab_size: int, before: int | None) -> None:
    wrong = (tokens < 0) | (tokens >= vocab_size)
    if wrong.any():
        where = "" if before is None else f" at position {before + int(wrong.argmax())}"
        raise BadCorpus(
            f"token {tokens[wrong][0]}{where} is not in the vocabulary of {vocab_size}: 0 to {vocab_size - 1}"
        )
