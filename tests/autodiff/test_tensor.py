"""The engine against torch's autograd and finite differences, over drawn shapes: repeated, empty, single, 0-d."""

import gc
import operator
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

from llmhw_helpers.autodiff.functions import exp, relu
from llmhw_helpers.autodiff.tensor import Tensor

drawn = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
any_shape = st.one_of(st.just(()), array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
two_shapes = mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)
seeds = st.integers(0, 10**6)


def draw(seed, *shapes, low=-2.0, high=2.0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(low, high, shape) for shape in shapes]


# --- operations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
@drawn
@given(shapes=two_shapes, seed=seeds)
def test_arithmetic_with_operands_repeated_to_a_common_shape(agree, name, shapes, seed):
    (a,), (b,) = draw(seed, shapes.input_shapes[0]), draw(seed + 1, shapes.input_shapes[1], low=0.5)
    agree(getattr(operator, name), getattr(operator, name), a, b)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
@pytest.mark.parametrize("other", [3, 0.5, -2])
def test_arithmetic_with_a_number_on_either_side(agree, name, other):
    op = getattr(operator, name)
    (x,) = draw(0, (2, 3), low=0.5)
    agree(lambda x: op(x, other), lambda x: op(x, other), x)
    agree(lambda x: op(other, x), lambda x: op(other, x), x)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_arithmetic_with_an_array_on_either_side(agree, name):
    op = getattr(operator, name)
    x, y = draw(0, (2, 3), (3,), low=0.5)
    agree(lambda x: op(x, y), lambda x: op(x, torch.tensor(y)), x)
    agree(lambda x: op(y, x), lambda x: op(torch.tensor(y), x), x)


@pytest.mark.parametrize("k", [0, 1, 2, 3, -1, 0.5, -1.5])
@drawn
@given(shape=any_shape, seed=seeds)
def test_powers(agree, k, shape, seed):
    agree(lambda x: x**k, lambda x: x**k, *draw(seed, shape, low=0.5))


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_powers_of_nought(agree, k):
    agree(lambda x: x**k, lambda x: x**k, np.zeros(2))


@drawn
@given(shape=any_shape, seed=seeds)
def test_minus(agree, shape, seed):
    agree(operator.neg, operator.neg, *draw(seed, shape))


side = st.integers(0, 3)


@drawn
@given(batches=two_shapes, m=side, k=side, n=side, seed=seeds)
def test_products_of_batches_of_matrices(agree, batches, m, k, n, seed):
    first, second = batches.input_shapes
    agree(operator.matmul, operator.matmul, *draw(seed, (*first, m, k), (*second, k, n)))


@drawn
@given(batch=any_shape, k=side, n=side, seed=seeds)
def test_products_with_a_vector_on_either_side_or_both(agree, batch, k, n, seed):
    agree(operator.matmul, operator.matmul, *draw(seed, (*batch, n, k), (k,)))
    agree(operator.matmul, operator.matmul, *draw(seed, (k,), (*batch, k, n)))
    agree(operator.matmul, operator.matmul, *draw(seed, (k,), (k,)))


def test_an_array_times_a_tensor(agree):
    x, w = draw(0, (4, 3), (3, 2))
    agree(lambda w: x @ w, lambda w: torch.tensor(x) @ w, w)


@st.composite
def shapes_with_axes(draw_one, min_side=0):
    shape = draw_one(st.one_of(st.just(()), array_shapes(min_dims=0, max_dims=3, min_side=min_side, max_side=3)))
    axes = st.integers(-len(shape), len(shape) - 1)
    several = st.sets(st.integers(0, max(len(shape) - 1, 0)), min_size=1, max_size=len(shape)).map(tuple)
    return shape, draw_one(st.one_of(st.none(), axes, several) if shape else st.none())


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean"])
@drawn
@given(case=shapes_with_axes(), seed=seeds)
def test_sums_and_means(agree, name, keepdims, case, seed):
    shape, axis = case
    (x,) = draw(seed, shape)
    over = tuple(range(len(shape))) if axis is None else axis
    ours, theirs = (lambda x: getattr(x, name)(axis, keepdims)), (lambda x: getattr(x, name)(over, keepdims))
    if theirs(torch.tensor(x)).isnan().any():  # the mean of nothing
        assert np.isnan(ours(Tensor(x)).data).all()
    else:
        agree(ours, theirs, x)


@pytest.mark.parametrize("keepdims", [False, True])
@drawn
@given(case=shapes_with_axes(min_side=1), seed=seeds, ties=st.booleans())
def test_the_largest_and_equals_that_share(agree, keepdims, case, seed, ties):
    shape, axis = case
    (x,) = draw(seed, shape)
    x = np.round(x) if ties else x
    over = tuple(range(len(shape))) if axis is None else axis
    agree(lambda x: x.max(axis, keepdims), lambda x: torch.amax(x, over, keepdims), x, nudge=not ties)


@pytest.mark.parametrize(
    ("before", "after"),
    [((), (1, 1)), ((6,), (2, 3)), ((2, 3), (6,)), ((2, 3), (-1, 2)), ((0, 3), (3, 0)), ((1,), ()), ((2, 0), (0,))],
)
def test_reshape(agree, before, after):
    agree(lambda x: x.reshape(*after) * 2.0, lambda x: x.reshape(after) * 2.0, *draw(0, before))


@drawn
@given(data=st.data(), shape=any_shape, seed=seeds)
def test_transpose(agree, data, shape, seed):
    (x,) = draw(seed, shape)
    order = data.draw(st.permutations(range(len(shape))))
    order = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in order]
    agree(lambda x: x.transpose(*order), lambda x: x.permute(order), x)
    agree(lambda x: x.T, lambda x: x.permute(tuple(range(len(shape))[::-1])), x)


INDICES = [
    0,
    -1,
    slice(1, 3),
    slice(None, None, 2),
    (slice(None), 1),
    (Ellipsis, None, 0),
    (0, slice(None), slice(2)),
    np.array([2, 0, 2, 2]),
    np.array([[0, 1], [1, 1]]),
    (np.array([0, 0, 3]), np.array([1, 1, 2])),
    (slice(None), np.array([1, 1])),
    np.array([], dtype=int),
    np.array([True, False, True, False]),
    np.array(1),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_and_an_entry_taken_twice_gets_both_gradients(agree, index):
    (x,) = draw(0, (4, 3, 2))
    parts = index if isinstance(index, tuple) else (index,)
    theirs = tuple(torch.tensor(part) if isinstance(part, np.ndarray) else part for part in parts)
    agree(lambda x: x[index], lambda x: x[theirs], x)


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_a_result_used_twice_gets_both_shares(agree):
    def diamond(x, y):
        z = x * y
        return z * z + z / y + (z * 2 - z)

    agree(diamond, diamond, *draw(0, (2, 3), (3,), low=0.5))


def test_paths_of_different_lengths_arrive_before_a_result_passes_on(agree):
    def ladder(x):
        y = x
        for _ in range(6):
            y = y * x + y
        return y + x

    agree(ladder, ladder, *draw(0, (3,)))


def test_a_graph_may_be_deeper_than_pythons_stack():
    y = x = Tensor(1.0, requires_grad=True)
    for _ in range(100_000):
        y = y + 1.0
    assert len(y.graph()) == 100_001
    y.backward(retain_graph=True)
    assert x.grad == 1
    nodes = weakref.ref(y.node)
    del y  # all of it at once
    assert nodes() is None


def test_gradients_accumulate_over_calls_and_start_anew_from_none():
    (x,) = draw(0, (3,))
    w = Tensor(x, requires_grad=True)
    for times in (1, 2, 3):
        (w * w).sum().backward()
        np.testing.assert_allclose(w.grad, times * 2 * x, rtol=1e-15)
    w.grad = None
    w.sum().backward()
    np.testing.assert_array_equal(w.grad, np.ones(3))


def test_no_two_leaves_share_the_array_of_their_gradients():
    a, b, c = (Tensor(np.ones((2, 2)), requires_grad=True) for _ in range(3))
    (a + b + c.T + a.reshape(4).reshape(2, 2)).sum().backward()
    a.grad *= 100
    np.testing.assert_array_equal(b.grad, np.ones((2, 2)))
    np.testing.assert_array_equal(c.grad, np.ones((2, 2)))


def test_a_retained_graph_can_be_gone_through_again_and_shows_all_gradients():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    loss = (y * y).sum()
    for times in (1, 2):
        loss.backward(retain_graph=True)
        np.testing.assert_array_equal(y.grad, [6, 12])  # of a result: of this call
        np.testing.assert_array_equal(x.grad, np.array([18, 36]) * times)


def test_constants_get_no_gradient_and_cost_no_product():
    x, w = Tensor(np.ones((4, 3))), Tensor(np.ones((3, 2)), requires_grad=True)
    y = x @ w
    assert [operand for operand, _ in y.node.edges] == [w.node]
    y.sum().backward()
    assert x.grad is None
    assert (x * 2).node.edges == ()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_format_stays(dtype):
    w = Tensor(np.ones((2, 3), dtype), requires_grad=True)
    out = (1 - relu(w * 0.5 + 1) / 3) ** 2 @ np.ones((3, 1), dtype) + np.float64(0.5)
    out = (out.mean(0) + out.max() + exp(out).sum())[0]
    out.backward()
    assert out.dtype == w.grad.dtype == dtype
    wide = Tensor(np.ones(3), requires_grad=True)
    (w * wide).sum().backward()
    assert (w.grad.dtype, wide.grad.dtype) == (dtype, "float64")


def test_a_leaf_is_a_copy_and_integers_may_be_constants():
    mine = np.zeros(3)
    w = Tensor(mine, requires_grad=True)
    mine += 1
    np.testing.assert_array_equal(w.data, 0)
    assert (w * Tensor(np.arange(3))).dtype == "float64"
    assert (Tensor(np.arange(3)) * 0.5).data.tolist() == [0, 0.5, 1]


# --- memory -----------------------------------------------------------------------------------------------------------


def step(w, x):
    loss = (relu(x @ w) ** 2).mean()
    w.grad = None
    loss.backward()
    w.data = w.data - 1e-3 * w.grad
    return loss


def test_a_graph_is_gone_with_its_last_result_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what only the collector would free is put into gc.garbage
    try:
        w, x = Tensor(np.ones((8, 8)), requires_grad=True), Tensor(np.ones((4, 8)))
        for end in (lambda y: None, lambda y: y.backward(), lambda y: y.backward(retain_graph=True)):
            h = relu(x @ w)
            y = (h * h).sum()
            nodes = [weakref.ref(node) for node in y.graph() if node is not w.node]
            end(y)
            del h, y
            assert [ref() for ref in nodes] == [None] * len(nodes)
        gc.collect()
        ours = [type(each) for each in gc.garbage if type(each).__module__.startswith("llmhw_helpers")]
        assert not ours  # others' is no matter: the tests' type checker leaves some at a function's first call
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_thousands_of_steps_leave_nothing_behind():
    w, x = Tensor(np.ones((8, 8)), requires_grad=True), Tensor(np.ones((4, 8)))
    gc.disable()
    try:
        for _ in range(50):
            step(w, x)
        tracemalloc.start()
        for _ in range(20):
            step(w, x)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3000):
            step(w, x)
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 20_000  # one leaked node a step would be 300,000


def test_backward_lets_go_of_a_result_as_soon_as_it_has_been_there():
    x = Tensor(np.ones(1000), requires_grad=True)
    y = x
    for _ in range(50):
        y = exp(y * 0.0)
    tracemalloc.start()
    try:
        y.backward(np.ones(1000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 8000  # not 50 gradients


# --- faults: one clear line each --------------------------------------------------------------------------------------


def leaf(*shape, dtype=float):
    return Tensor(np.ones(shape, dtype), requires_grad=True, name="w")


FAULTS = {
    "shapes": (lambda: leaf(2, 3) + leaf(2), ValueError, "the shapes do not fit: (2, 3) + (2,)"),
    "matmul": (lambda: leaf(2, 3) @ leaf(2, 3), ValueError, "the shapes do not fit: (2, 3) @ (2, 3)"),
    "0-d": (lambda: leaf() @ leaf(2, 3), ValueError, "the shapes do not fit: () @ (2, 3)"),
    "integers": (
        lambda: Tensor(np.arange(3), requires_grad=True, name="ids"),
        TypeError,
        "only floating-point numbers have gradients; ids is int64",
    ),
    "a list of integers": (lambda: Tensor([1, 2], requires_grad=True), TypeError, "this array is int64"),
    "complex": (lambda: Tensor([1j], requires_grad=True), TypeError, "this array is complex128"),
    "not a scalar": (
        lambda: (leaf(3) * 2).backward(),
        ValueError,
        "backward from a tensor of shape (3,) needs a gradient of that shape",
    ),
    "nothing": (lambda: leaf(0).backward(), ValueError, "shape (0,) needs a gradient"),
    "gradient's shape": (lambda: leaf(3).backward(np.ones(2)), ValueError, "shape (3,) needs a gradient of that shape"),
    "constants": (lambda: Tensor([1.0]).sum().backward(), RuntimeError, "nothing that this was made from requires"),
    "nan": (lambda: (leaf(3).sum() * np.nan).backward(), FloatingPointError, "not finite: [nan]"),
    "inf": (lambda: (leaf(3).sum() / 0.0).backward(), FloatingPointError, "not finite: [inf]"),
    "gradient": (lambda: ((leaf(3) - 1) ** 0.5).sum().backward(), FloatingPointError, "the gradient of w (3,) is not"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_fault_gets_one_clear_line(name):
    act, error, words = FAULTS[name]
    with pytest.raises(error) as caught:
        act()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_backward_twice_through_a_freed_graph_is_refused_and_adds_nothing():
    w = leaf(3)
    h = w * 2
    loss = (h * w).sum()
    loss.backward()
    before = w.grad.copy()
    for again in (loss, h.sum() + w.sum()):
        with pytest.raises(RuntimeError, match=r"freed by an earlier backward: use backward\(retain_graph=True\)"):
            again.backward()
    np.testing.assert_array_equal(w.grad, before)


def test_no_value_can_be_changed_in_place_while_a_graph_needs_it():
    w, x = leaf(3), Tensor(np.ones(3))
    h = exp(w * x)

    def shrink():
        w.data -= 1

    def poke(tensor):
        tensor.data[0] = 5

    for act in (shrink, lambda: poke(w), lambda: poke(x), lambda: poke(h)):
        with pytest.raises(ValueError, match="read-only"):
            act()


def test_a_leaf_that_got_a_new_value_leaves_the_old_graph_right():
    w = Tensor([2.0], requires_grad=True)
    loss = (w * w).sum()
    w.data = w.data + 1
    loss.backward()
    assert w.grad == 4
    assert (w * w).data == 9


@pytest.mark.parametrize("value", [np.ones(2), np.ones(3, "float32"), np.ones((1, 3))])
def test_a_leaf_keeps_shape_and_format_and_a_result_its_value(value):
    w = leaf(3)
    with pytest.raises(ValueError, match=r"only a leaf's value can be replaced, and this one stays float64 \(3,\)"):
        w.data = value
    with pytest.raises(ValueError, match="only a leaf's value"):
        (w * 2).data = np.ones(3)
