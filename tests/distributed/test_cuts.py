"""Every way to cut a matrix, against the product of the whole: results and all gradients, in fp64."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from llmhw_helpers.costs.parallelism import Indivisible
from llmhw_helpers.distributed.cuts import by_batch, by_columns, by_rows, gather_from_ranks, own_part

EXACT = {"rtol": 0, "atol": 1e-12}


def draw(seed=0):
    """Inputs of 6 numbers for 12 tokens, a matrix to 9 numbers, and a slope of each output."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (12, 6), (9, 6), (12, 9)
    x, weight, slope = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes)
    return x.requires_grad_(), weight.requires_grad_(), slope


def whole():
    x, weight, slope = draw()
    y = F.linear(x, weight)
    y.backward(slope)
    return y, x.grad, weight.grad


def cut(way):
    """This rank's result and gradients, and the parts of the whole's that they have to be."""
    y, of_x, of_weight = whole()
    x, weight, slope = (each.detach() for each in draw())
    if way == "columns":
        own_x, own = x.requires_grad_(), own_part(weight, 0).requires_grad_()
        out, want = by_columns(own_x, own), (own_part(y, 1), of_x, own_part(of_weight, 0))
        slope = own_part(slope, 1)
    elif way == "columns, gathered":
        own_x, own = x.requires_grad_(), own_part(weight, 0).requires_grad_()
        out, want = gather_from_ranks(by_columns(own_x, own)), (y, of_x, own_part(of_weight, 0))
    elif way == "rows":
        own_x, own = own_part(x, 1).requires_grad_(), own_part(weight, 1).requires_grad_()
        out, want = by_rows(own_x, own), (y, own_part(of_x, 1), own_part(of_weight, 1))
    else:
        own_x, own = own_part(x, 0).requires_grad_(), weight.requires_grad_()
        out, want = by_batch(own_x, own), (own_part(y, 0), own_part(of_x, 0), of_weight)
        slope = own_part(slope, 0)
    out.backward(slope)
    return (out.detach(), own_x.grad, own.grad), tuple(each.detach() for each in want)


@pytest.mark.parametrize("way", ["columns", "columns, gathered", "rows", "batch"])
def test_a_cut_product_has_the_parts_of_the_whole_and_of_its_gradients(three_ranks, way):
    for got, want in three_ranks.run(cut, way):
        torch.testing.assert_close(got, want, **EXACT)


def sent(way):
    """Collectives that a cut product needs, forward and backward."""
    calls, gather, reduce = [], dist.all_gather, dist.all_reduce
    dist.all_gather = lambda got, x, **how: calls.append(("gather", x.numel())) or gather(got, x, **how)
    dist.all_reduce = lambda x, **how: calls.append(("reduce", x.numel())) or reduce(x, **how)
    try:
        cut(way)
    finally:
        dist.all_gather, dist.all_reduce = gather, reduce
    return calls


@pytest.mark.parametrize(
    ("way", "calls"),
    [
        ("columns", [("reduce", 12 * 6)]),  # backward: the gradient of x
        ("columns, gathered", [("gather", 12 * 3), ("reduce", 12 * 6)]),
        ("rows", [("reduce", 12 * 9)]),  # forward: the outputs
        ("batch", [("reduce", 9 * 6)]),  # backward: the gradient of the weight
    ],
)
def test_what_each_way_sends(three_ranks, way, calls):
    assert three_ranks.run(sent, way) == [calls] * 3


def refused():
    with pytest.raises(Indivisible, match=r"\[7, 3\] does not divide among 3 ranks along dimension 0"):
        own_part(torch.zeros(7, 3), 0)


def test_what_does_not_divide_is_refused(three_ranks):
    three_ranks.run(refused)
