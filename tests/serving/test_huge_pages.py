"""Matrices put one behind the other in large pages: the same numbers, where a line of memory begins, and once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmhw_helpers.serving.huge_pages import AT_ONCE, LINE, SMALL, HugePages, zeros
from llmhw_helpers.serving.weights import Served


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_copies_and_joined_matrices_are_the_same_numbers_one_behind_the_other(dtype):
    pages, first, second = HugePages(), torch.randn(300, 333).mul(9).to(dtype), torch.randn(200, 333).mul(9).to(dtype)
    copy, joined = pages.copy(first), pages.joined([first, second])
    assert torch.equal(copy, first)
    assert torch.equal(joined, torch.cat([first, second]))
    assert copy.data_ptr() % LINE == joined.data_ptr() % LINE == 0
    assert 0 <= joined.data_ptr() - copy.data_ptr() - copy.nbytes < LINE
    copy.zero_()
    assert torch.equal(joined[:300], first)


def test_more_than_is_asked_for_at_once_and_less_than_is_worth_it():
    pages = HugePages()
    large, small = torch.ones(AT_ONCE + 5, dtype=torch.int8), torch.ones(SMALL - 1, dtype=torch.int8)
    assert torch.equal(pages.copy(large), large)
    assert pages.copy(small) is small


@pytest.mark.parametrize("shape", [(3, 5), (70, 1000)])
def test_zeros_are_zeros(shape):
    found = zeros(shape, torch.bfloat16, torch.device("cpu"))
    assert found.shape == shape
    assert found.dtype == torch.bfloat16
    assert not found.any()
    assert found.is_contiguous()


def test_a_model_is_moved_once_however_often_it_is_served(tiny_spec, random_model):
    model = random_model(replace(tiny_spec, d_model=256, d_ff=256, head_dim=64))
    before, where = {name: weight.clone() for name, weight in model.state_dict().items()}, []
    for _ in range(2):
        Served(model)
        where.append([parameter.data_ptr() for parameter in model.parameters()])
    assert where[0] == where[1]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_matrices_that_lie_side_by_side_by_chance_are_joined_as_others_are(tiny_spec, random_model):
    """As those of a file that is mapped into memory: each tensor ends where it says."""
    model = random_model(tiny_spec)
    gate, up = model.blk[0].ffn_gate.weight, model.blk[0].ffn_up.weight
    both = torch.cat([gate.detach(), up.detach()]).numpy()
    gate.data, up.data = (torch.from_numpy(half) for half in np.split(both, 2))
    tokens = torch.tensor([[3, 1, 4]])
    expected = model(tokens)
    Served(model)
    assert gate.data_ptr() + gate.nbytes == up.data_ptr()
    assert torch.equal(model(tokens), expected)
