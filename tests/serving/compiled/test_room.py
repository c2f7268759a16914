"""Room that two workers write to at once: no line of memory belongs to both."""

import numpy as np
import pytest

pytest.importorskip("numba")
from llmhw_helpers.serving.compiled import room


@pytest.mark.parametrize("shape", [(3,), (2, 5, 7), (1, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_it_is_zeros_that_begin_with_a_line(shape, dtype):
    for _ in range(5):
        found = room.room(*shape, dtype=dtype)
        assert found.ctypes.data % room.LINE == 0
        assert found.shape == shape
        assert found.dtype == dtype
        assert found.flags.c_contiguous
        assert not found.any()


@pytest.mark.parametrize("widest", [64, 576, 1000])
def test_what_belongs_to_one_worker_shares_no_line_with_anothers(widest):
    own = room.Own.of(3, 2, widest)
    for part in own:
        assert part.ctypes.data % room.LINE == 0
        assert part.strides[0] % room.LINE == 0
    mine = room.of_worker(own, 1)
    assert mine.small.shape[1] >= widest
    assert np.shares_memory(mine.total, own.total)
