"""Operations counted by PyTorch's own counter, waiting counted on its graph of what was made from what."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmhw_helpers.costs.sequence import attention, crossing, rnn

SIZES = [(1, 8), (5, 16), (64, 32), (200, 48)]


def run_rnn(seq_len, d):
    x, w, u = torch.randn(seq_len, d), torch.randn(d, d, requires_grad=True), torch.randn(d, d, requires_grad=True)
    inputs, h = x @ u, torch.zeros(1, d)
    for t in range(seq_len):
        h = torch.tanh(inputs[t] + h @ w)
    return h


def run_attention(seq_len, d):
    x, weights = torch.randn(seq_len, d), [torch.randn(d, d, requires_grad=True) for _ in range(4)]
    q, k, v = (x @ weight for weight in weights[:3])
    return (q @ k.T).softmax(-1) @ v @ weights[3]


def waiting(node):
    """The longest chain of products below this node of the graph."""
    deepest, order, seen = {}, [], {node}
    stack = [node]
    while stack:  # operands before results, without recursion
        here = stack.pop()
        order.append(here)
        for operand, _ in here.next_functions:
            if operand is not None and operand not in seen:
                seen.add(operand)
                stack.append(operand)
    changed = True
    while changed:
        changed = False
        for here in reversed(order):
            below = max((deepest.get(o, 0) for o, _ in here.next_functions if o is not None), default=0)
            value = below + ("MmBackward" in here.name())
            if deepest.get(here) != value:
                deepest[here], changed = value, True
    return deepest[node]


@pytest.mark.parametrize(("seq_len", "d"), SIZES)
@pytest.mark.parametrize(("predict", "run"), [(rnn, run_rnn), (attention, run_attention)])
def test_operations_and_waiting_are_those_of_the_real_thing(predict, run, seq_len, d):
    with FlopCounterMode(display=False) as counter:
        result = run(seq_len, d)
    assert predict(seq_len, d).work.flops == counter.get_total_flops()
    assert waiting(result.grad_fn) == predict(seq_len, d).depth


def test_bytes_are_those_of_the_tensors():
    seq_len, d = 40, 16
    x, w = torch.zeros(seq_len, d), torch.zeros(d, d)
    scores = torch.zeros(seq_len, seq_len)
    linear = 2 * x.nbytes + w.nbytes
    fused = 4 * linear + 4 * x.nbytes  # reads q and k, then v, and writes the mean
    assert attention(seq_len, d, stored_scores=False).work.bytes == fused
    assert attention(seq_len, d).work.bytes == fused + 4 * scores.nbytes
    assert rnn(seq_len, d).work.bytes == linear + seq_len * (w.nbytes + 2 * d * 4)
    assert attention(seq_len, d, "bf16").work.bytes == attention(seq_len, d).work.bytes / 2


@pytest.mark.parametrize("d", [64, 256])
def test_at_the_crossing_both_take_as_long(d):
    step, rate = 10e-6, 150e9
    length = crossing(step, rate, d)
    assert attention(round(length), d).work.flops / rate == pytest.approx(step * length, rel=1e-2)
    assert crossing(step, 1000 * rate, d) > 900 * length
    assert crossing(1e-9, rate, d) == 0


def test_senseless_sizes_are_refused():
    for call in (lambda: rnn(0, 4), lambda: attention(4, 0), lambda: crossing(0, 1, 1)):
        with pytest.raises(ValueError, match="at least one token|must be positive"):
            call()
