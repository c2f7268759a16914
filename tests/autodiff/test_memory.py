"""What a graph keeps: to the byte as predicted, as torch saves, and as the allocator gets back."""

import gc
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw_helpers.autodiff.functions import cross_entropy, relu
from llmhw_helpers.autodiff.memory import kept_arrays, kept_bytes
from llmhw_helpers.autodiff.tensor import Tensor
from llmhw_helpers.costs.flops import mlp_kept_bytes

NUMPY = {"fp64": "float64", "fp32": "float32", "fp16": "float16"}


def network(sizes, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = [shape for n_in, n_out in pairwise(sizes) for shape in [(n_in, n_out), (n_out,)]]
    return [Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True) for shape in shapes]


def loss_of(parameters, x, labels):
    h = Tensor(x)
    for i, (w, b) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        h = h @ w + b if i == 0 else relu(h) @ w + b
    return cross_entropy(h, labels)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5), rows=st.integers(1, 9), dtype=st.sampled_from([*NUMPY])
)
def test_an_mlp_keeps_what_was_predicted_to_the_byte(sizes, rows, dtype):
    x, labels = np.ones((rows, sizes[0]), NUMPY[dtype]), np.zeros(rows, int)
    parameters = network(sizes, NUMPY[dtype])
    loss = loss_of(parameters, x, labels)
    data = x.nbytes + labels.nbytes
    assert kept_bytes(loss, *parameters) - data == mlp_kept_bytes(sizes, rows, dtype)


def test_torch_keeps_the_same_arrays():
    sizes, rows = (64, 128, 32, 10), 16
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x, labels = torch.ones(rows, sizes[0]), torch.zeros(rows, dtype=torch.long)
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        h = x
        for i, layer in enumerate(layers):
            h = layer(torch.relu(h) if i else h)
        loss = torch.nn.functional.cross_entropy(h, labels)
    outside = {t.untyped_storage().data_ptr() for layer in layers for t in layer.parameters()}
    outside |= {x.untyped_storage().data_ptr(), labels.untyped_storage().data_ptr()}
    theirs = sum(n for at, n in saved.items() if at not in outside)
    assert loss.requires_grad
    # torch's nll_loss also keeps one number, the sum of the labels' weights
    assert theirs - 4 == mlp_kept_bytes(sizes, rows)


def test_what_is_let_go_when_the_graph_goes_is_what_was_counted():
    sizes, rows = (64, 512, 512, 10), 256
    x, labels = np.ones((rows, sizes[0]), "float32"), np.zeros(rows, int)
    parameters = network(sizes)
    loss_of(parameters, x, labels)
    gc.collect()
    tracemalloc.start()
    try:
        loss = loss_of(parameters, x, labels)
        with_graph = tracemalloc.get_traced_memory()[0]
        predicted = mlp_kept_bytes(sizes, rows)
        del loss
        let_go = with_graph - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert let_go == pytest.approx(predicted, rel=0.02)  # and some 20 kB of nodes, tuples and functions


def test_views_count_once_and_constants_keep_nothing():
    w = Tensor(np.ones((10, 10)), requires_grad=True)
    h = w * 2.0
    out = (h.reshape(100) * h.T.reshape(100)).sum()
    assert len(kept_arrays(out)) == 3  # h, its transposed copy, and the number 2
    assert kept_bytes(out, w) == 800 + 800 + 8
    assert kept_bytes(Tensor(np.ones(5)) * 2) == 0
