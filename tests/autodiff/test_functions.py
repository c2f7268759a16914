"""What networks are made of, against torch's own functions and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch.nn import functional

from llmhw_helpers.autodiff import functions
from llmhw_helpers.autodiff.functions import cross_entropy, embedding, layer_norm, relu, softmax
from llmhw_helpers.autodiff.tensor import Tensor

drawn = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
any_shape = st.one_of(st.just(()), array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
rows = array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)
width = st.integers(1, 5)
seeds = st.integers(0, 10**6)


def draw(seed, *shapes, low=-3.0, high=3.0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(low, high, shape) for shape in shapes]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("exp", torch.exp),
        ("tanh", torch.tanh),
        ("relu", torch.relu),
        ("gelu", lambda x: functional.gelu(x, approximate="tanh")),
    ],
)
@drawn
@given(shape=any_shape, seed=seeds)
def test_functions_of_one_number(agree, name, theirs, shape, seed):
    agree(getattr(functions, name), theirs, *draw(seed, shape))


@drawn
@given(shape=any_shape, seed=seeds)
def test_log(agree, shape, seed):
    agree(functions.log, torch.log, *draw(seed, shape, low=0.2))


def test_relu_has_no_slope_at_nought(agree):
    agree(relu, torch.relu, np.array([-1.0, -0.0, 0.0, 1.0]), nudge=False)


@drawn
@given(shape=rows, n=width, seed=seeds)
def test_softmax(agree, shape, n, seed):
    agree(softmax, lambda x: torch.softmax(x, -1), *draw(seed, (*shape, n)))


def test_softmax_of_a_masked_row_and_of_large_numbers(agree):
    agree(softmax, lambda x: torch.softmax(x, -1), np.array([[0.0, -np.inf, 1.0], [1e4, -1e4, 9999.0]]), nudge=False)


@drawn
@given(shape=rows, n=st.integers(2, 5), seed=seeds)
def test_layer_norm(agree, shape, n, seed):
    agree(layer_norm, lambda x, w, b: functional.layer_norm(x, (n,), w, b), *draw(seed, (*shape, n), (n,), (n,)))


def test_layer_norm_of_single_numbers_and_of_a_constant_row(agree):
    theirs = lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b)  # noqa: E731
    agree(layer_norm, theirs, *draw(0, (3, 1), (1,), (1,)), nudge=False)
    agree(layer_norm, theirs, np.full((2, 4), 5.0), *draw(0, (4,), (4,)), nudge=False)


@drawn
@given(shape=rows, n=width, seed=seeds)
def test_cross_entropy(agree, shape, n, seed):
    labels = np.random.default_rng(seed).integers(0, n, shape)
    (logits,) = draw(seed, (*shape, n))
    if labels.size:
        theirs = lambda x: functional.cross_entropy(x.reshape(-1, n), torch.tensor(labels.ravel()))  # noqa: E731
        agree(lambda x: cross_entropy(x, labels), theirs, logits)
    else:
        with pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError, match="not finite"):
            cross_entropy(Tensor(logits, requires_grad=True), labels).backward()


def test_cross_entropy_is_stable():
    x = Tensor(np.array([[1e4, 0.0], [0.0, -1e4]], "float32"), requires_grad=True)
    loss = cross_entropy(x, np.array([1, 0]))
    loss.backward()
    assert loss.data == 5000
    np.testing.assert_array_equal(x.grad, [[0.5, -0.5], [0, 0]])
    assert loss.dtype == x.grad.dtype == "float32"


@drawn
@given(shape=any_shape, n=width, seed=seeds)
def test_embedding_and_a_row_looked_up_twice_gets_both_gradients(agree, shape, n, seed):
    ids = np.random.default_rng(seed).integers(0, 3, shape)
    agree(lambda t: embedding(t, ids), lambda t: functional.embedding(torch.tensor(ids), t), *draw(seed, (3, n)))


def test_unsigned_and_small_integers_serve_as_ids_and_labels():
    table = Tensor(np.eye(3), requires_grad=True)
    for kind in ("uint8", "int8", "int64"):
        ids = np.array([2, 0, 2], kind)
        np.testing.assert_array_equal(embedding(table, ids).data, np.eye(3)[[2, 0, 2]])
        assert cross_entropy(table, ids).data == pytest.approx(np.log(2 + np.e) - 1 / 3)


@pytest.mark.parametrize("ids", [np.array([0, 3]), np.array([-1, 0]), np.array([0.0, 1.0])])
def test_what_is_no_id_is_refused_not_wrapped_around(ids):
    table = Tensor(np.eye(3), requires_grad=True)
    for act in (lambda: embedding(table, ids), lambda: cross_entropy(table[:2], ids)):
        with pytest.raises(IndexError, match=r"integers from 0 to 2 are asked for, not \w+ \["):
            act()


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"the shapes do not fit: logits \(2, 3\), labels \(3,\)"):
        cross_entropy(Tensor(np.ones((2, 3))), np.zeros(3, int))


def test_a_network_learns_what_torch_learns():
    """Twenty steps of gradient descent of two layers in float64, parameter by parameter."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(16, 5)), rng.integers(0, 3, 16)
    start = [rng.normal(size=shape) for shape in [(5, 8), (8,), (8,), (8,), (8, 3), (3,)]]
    ours = [Tensor(p, requires_grad=True) for p in start]
    theirs = [torch.tensor(p, requires_grad=True) for p in start]
    for _ in range(20):
        w1, b1, gain, shift, w2, b2 = ours
        cross_entropy(functions.gelu(layer_norm(x @ w1 + b1, gain, shift)) @ w2 + b2, labels).backward()
        w1, b1, gain, shift, w2, b2 = theirs
        h = functional.layer_norm(torch.tensor(x) @ w1 + b1, (8,), gain, shift)
        h = functional.gelu(h, approximate="tanh")
        functional.cross_entropy(h @ w2 + b2, torch.tensor(labels)).backward()
        for a, b in zip(ours, theirs, strict=True):
            a.data, a.grad = a.data - 0.3 * a.grad, None
            b.data, b.grad = b.data - 0.3 * b.grad, None
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), atol=1e-10)
