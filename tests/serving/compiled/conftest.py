"""A step so small that it compiles in no time, with the names of the real one: what is around it is what is tested.

It writes each token into the first number of its slot, and scores token v by v times the sum of what its text holds.
"""

import sys
import threading
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numba import njit

from llmhw_helpers.serving import compiled
from llmhw_helpers.serving.compiled import jitting
from llmhw_helpers.serving.compiled.decoder import Decoder
from llmhw_helpers.serving.compiled.folder import CodeFolder
from llmhw_helpers.serving.paged_cache import PagedCache

BLOCKS, SIZE = 3, 4  # of the texts that are decoded


class NotCompiled(ValueError):
    """As `held.NotCompiled`."""


class Held(namedtuple("HeldFields", "sizes")):
    """No weights."""

    kept = SimpleNamespace(follow=lambda: None)


class Scratch(NamedTuple):
    """Nothing to be kept on the way, but how much there would be room for."""

    sizes: np.ndarray


def hold(model, activations):
    """As `held.hold`."""
    if model.spec.qkv_bias:
        raise NotCompiled("it has biases")
    return Held(np.zeros(1))


def scratch(held, batch_size, n, max_tokens):
    """As `step.Scratch`."""
    return Scratch(np.array([batch_size, n, max_tokens]))


@njit(nogil=True, cache=True)
def decode_share(me, n, gate, held, scratch, tokens, positions, block_tables, block_size, pools, logits):
    """As `step.decode_share`."""
    keys = pools[1].view(np.float32)
    for b in range(len(tokens)):
        last = positions[b]
        keys[0, block_tables[b, last // block_size], last % block_size, 0, 0] = tokens[b]
        total = np.float32(0)
        for t in range(last + 1):
            total += keys[0, block_tables[b, t // block_size], t % block_size, 0, 0]
        if b < len(logits):
            for v in range(logits.shape[1] * me // n, logits.shape[1] * (me + 1) // n):
                logits[b, v] = total * np.float32(v)


@pytest.fixture
def stands_in(monkeypatch, tmp_path):
    """Let a `Decoder` find these, and a folder of its own for compiled code."""
    monkeypatch.setattr(jitting, "KEPT", CodeFolder(tmp_path))
    rooms = {
        "held": SimpleNamespace(hold=hold, NotCompiled=NotCompiled),
        "step": SimpleNamespace(decode_share=decode_share, Scratch=scratch, new_gates=lambda n_layers: np.zeros(1)),
    }
    for name, room in rooms.items():
        monkeypatch.setattr(compiled, name, room, raising=False)
        monkeypatch.setitem(sys.modules, f"{compiled.__name__}.{name}", room)
    return rooms["step"]


def pools_of(cache):
    """Its pools as `step.decode_share` takes them."""
    scales = getattr(cache, "scale_pools", [torch.zeros(1, 0, 1, 1, 1)] * 2)
    return getattr(cache, "bits", 0), *(pool.view(torch.uint8).numpy() for pool in [*cache.pools, *scales])


def decode_texts(model, texts, n=1, activations=None):
    """Logits ``[batch, n_tokens, vocab_size]``, a step a token, by `n` workers."""
    from llmhw_helpers.serving.compiled import held, step

    spec, weights = model.spec, held.hold(model, activations)
    cache = PagedCache(spec, BLOCKS * len(texts), SIZE, model.token_embd.weight.dtype)
    tables = torch.randperm(BLOCKS * len(texts)).int().view(len(texts), -1).numpy()
    scratch, found = step.Scratch(weights, len(texts), n, BLOCKS * SIZE), []
    for i, tokens in enumerate(np.array(texts).T):
        logits, gate = np.full((len(texts), spec.vocab_size), 7, np.float32), step.new_gates(spec.n_layers)
        where = np.full(len(texts), i), tables, SIZE, pools_of(cache)
        shares = [
            threading.Thread(
                target=step.decode_share, args=(me, n, gate, weights, scratch, tokens.copy(), *where, logits)
            )
            for me in range(n)
        ]
        for share in shares:
            share.start()
        for share in shares:
            share.join()
        found.append(torch.from_numpy(logits))
    return torch.stack(found, 1)


@pytest.fixture(scope="session")
def as_bytes():
    """A function: `pools_of`."""
    return pools_of


@pytest.fixture(scope="session")
def decoded(tiny_spec, random_model):
    """A function: `decode_texts`. A `Decoder` compiles the step before, as one process at a time may."""
    Decoder(random_model(tiny_spec))
    return decode_texts


@pytest.fixture(scope="session")
def wide_model(tiny_spec, random_model):
    """Widths that groups of 32 divide, and one of rows that no tile does."""
    return random_model(replace(tiny_spec, d_model=64, head_dim=16, d_ff=96))
