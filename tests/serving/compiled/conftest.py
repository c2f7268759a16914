"""A step so small that it compiles in no time, with the names of the real one: what is around it is what is tested.

It writes each token into the first number of its slot, and scores token v by v times the sum of what its text holds.
"""

import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from llmhw_helpers.serving import compiled
from llmhw_helpers.serving.compiled import jitting
from llmhw_helpers.serving.compiled.folder import CodeFolder


class NotCompiled(ValueError):
    """As `held.NotCompiled`."""


class Held(NamedTuple):
    """No weights."""

    sizes: np.ndarray


class Scratch(NamedTuple):
    """Nothing to be kept on the way, but how much there would be room for."""

    sizes: np.ndarray


def hold(model):
    """As `held.hold`."""
    if model.spec.qkv_bias:
        raise NotCompiled("it has biases")
    return Held(np.zeros(1))


def scratch(held, batch_size, n, max_tokens):
    """As `step.Scratch`."""
    return Scratch(np.array([batch_size, n, max_tokens]))


@njit(nogil=True, cache=True)
def decode_share(me, n, gate, held, scratch, tokens, positions, block_tables, block_size, keys, values, logits):
    """As `step.decode_share`."""
    for b in range(len(tokens)):
        last = positions[b]
        keys[0, block_tables[b, last // block_size], last % block_size, 0, 0] = tokens[b]
        total = np.float32(0)
        for t in range(last + 1):
            total += keys[0, block_tables[b, t // block_size], t % block_size, 0, 0]
        for v in range(logits.shape[1] * me // n, logits.shape[1] * (me + 1) // n):
            logits[b, v] = total * np.float32(v)


@pytest.fixture
def stands_in(monkeypatch, tmp_path):
    """Let a `Decoder` find these, and a folder of its own for compiled code."""
    monkeypatch.setattr(jitting, "KEPT", CodeFolder(tmp_path))
    rooms = {
        "held": SimpleNamespace(hold=hold, NotCompiled=NotCompiled),
        "step": SimpleNamespace(decode_share=decode_share, Scratch=scratch),
    }
    for name, room in rooms.items():
        monkeypatch.setattr(compiled, name, room, raising=False)
        monkeypatch.setitem(sys.modules, f"{compiled.__name__}.{name}", room)
    return rooms["step"]
