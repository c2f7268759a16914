"""A multilayer perceptron's operations and bytes, against torch's own count and arrays of the same shapes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs.flops import mlp_backward_flops, mlp_forward_flops, mlp_kept_bytes

several_sizes = st.lists(st.integers(1, 60), min_size=2, max_size=5)


@settings(max_examples=30)
@given(sizes=several_sizes, rows=st.integers(1, 40))
def test_operations_forward_and_backward_are_those_that_torch_counts(sizes, rows):
    layers = [torch.nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes)]
    h = torch.ones(rows, sizes[0])
    with FlopCounterMode(display=False) as forward:
        for i, layer in enumerate(layers):
            h = layer(torch.relu(h) if i else h)
        loss = torch.nn.functional.cross_entropy(h, torch.zeros(rows, dtype=torch.long))
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert mlp_forward_flops(sizes, rows) == forward.get_total_flops()
    assert mlp_backward_flops(sizes, rows) == backward.get_total_flops()


def test_backward_costs_twice_as_much_inside_and_once_in_the_first_layer():
    assert mlp_backward_flops((64, 10), 8) == mlp_forward_flops((64, 10), 8)
    deep = (64, *[512] * 50, 10)
    assert 1.99 < mlp_backward_flops(deep, 8) / mlp_forward_flops(deep, 8) < 2


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("fp64", "f8"), ("fp32", "f4"), ("fp16", "f2")])
def test_kept_bytes_are_those_of_the_outputs(dtype, numpy_dtype):
    arrays = [np.empty((32, n), numpy_dtype) for n in (128, 64, 10)]
    assert mlp_kept_bytes((784, 128, 64, 10), 32, dtype) == sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("sizes", [(64, 0, 10), (64, -1)])
def test_a_layer_without_size_is_refused(sizes):
    for count in (mlp_forward_flops, mlp_backward_flops):
        with pytest.raises(ValueError, match="sizes of at least 1"):
            count(sizes, 8)
