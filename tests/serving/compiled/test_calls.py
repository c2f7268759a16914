"""Programs called by their address: what they are given, they get."""

import numpy as np
import pytest

pytest.importorskip("numba")
from numba import types
from numba.core.errors import TypingError

from llmhw_helpers.serving.compiled.calls import call_of, called
from llmhw_helpers.serving.compiled.jitting import jit

KINDS = types.float32[:, ::1], types.UniTuple(types.int64, 2), types.int64
call = call_of(*KINDS)


@called(*KINDS)
def add_up(out, pair, i):
    out[0, i] += np.float32(pair[0] + 10 * pair[1])


@called(*KINDS)
def take_off(out, pair, i):
    out[0, i] -= np.float32(pair[0])


@jit
def call_each(addresses, out, pair):
    for i in range(addresses.size):
        call(addresses[i], out, pair, i)


def test_one_loop_calls_whatever_lies_at_its_addresses():
    assert not add_up.is_compiled
    addresses, out = np.array([add_up.address, take_off.address, add_up.address]), np.zeros((1, 3), np.float32)
    call_each(addresses, out, (3, 4))
    assert out.tolist() == [[43, -3, 43]]
    assert add_up.is_compiled


def test_arguments_of_other_types_are_refused_when_the_call_is_compiled():
    with pytest.raises(TypingError):
        call_each(np.zeros(1, np.int64), np.zeros((2, 3), np.float32).T, (3, 4))
