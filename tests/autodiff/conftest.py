"""One expression, three ways: ours, torch's autograd, and nudging every number (finite differences)."""

import numpy as np
import pytest
import torch

from llmhw_helpers.autodiff.tensor import Tensor

ATOL = RTOL = 1e-11  # float64, a handful of operations
NUDGE, NUDGE_TOL = 1e-6, 1e-6  # central differences: an error of NUDGE**2, and of 1e-16 / NUDGE by rounding


@pytest.fixture
def agree():
    """Hold ``ours(*tensors)`` against ``theirs(*torch_tensors)``: value, gradients, and finite differences."""

    def hold(ours, theirs, *arrays, nudge=True):
        mine = [Tensor(array, requires_grad=True) for array in arrays]
        other = [torch.tensor(array, requires_grad=True) for array in arrays]
        out, expected = ours(*mine), theirs(*other)
        assert out.shape == tuple(expected.shape)
        np.testing.assert_allclose(out.data, expected.detach().numpy(), atol=ATOL, rtol=RTOL)
        seed = np.random.default_rng(0).normal(size=out.shape)
        if expected.numel():
            out.backward(seed)
            expected.backward(torch.tensor(seed))
            for a, b in zip(mine, other, strict=True):
                assert a.grad.shape == a.shape
                assert a.grad.dtype == a.dtype
                np.testing.assert_allclose(a.grad, b.grad.numpy(), atol=ATOL, rtol=RTOL)
            if nudge:
                for i, tensor in enumerate(mine):
                    np.testing.assert_allclose(tensor.grad, slopes(ours, arrays, i, seed), atol=NUDGE_TOL, rtol=1e-5)
        else:  # nothing came out: no gradient goes in, but the shapes still hold
            out.backward(seed)
            for tensor in mine:
                np.testing.assert_array_equal(tensor.grad, np.zeros(tensor.shape))

    return hold


def slopes(ours, arrays, i, seed):
    """The gradient of ``(ours(...) * seed).sum()`` with respect to ``arrays[i]``, one number at a time."""
    found = np.zeros(arrays[i].shape)
    for at in np.ndindex(found.shape):
        ends = []
        for step in (NUDGE, -NUDGE):
            moved = [array.copy() for array in arrays]
            moved[i][at] += step
            ends.append((ours(*map(Tensor, moved)).data * seed).sum())
        found[at] = (ends[0] - ends[1]) / (2 * NUDGE)
    return found
