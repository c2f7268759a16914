"""The meters of memory against storages counted by hand and PyTorch's own tracker."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.checkpoint import checkpoint

from llmhw_helpers.measure.memory import Kept, MemoryMeter


def test_a_storage_is_counted_once_however_many_views_of_it_are_saved():
    x = torch.ones(100, 10, requires_grad=True)
    with Kept() as kept:
        y = x.exp()
        _ = y.view(10, 100) * y.view(10, 100).sin()  # saves y, and the sine
    assert kept.bytes == 2 * 4000


def test_what_is_excluded_or_outside_is_not_counted():
    x, w = torch.ones(5, 10), torch.ones(10, 3, requires_grad=True)
    before = w.exp()
    with Kept([w, x]) as kept:
        _ = x @ w
    with Kept() as all_of_it:
        _ = x @ w
    _ = before.exp()
    assert (kept.bytes, all_of_it.bytes) == (0, 200)  # the gradient of w needs x, and that of x is not asked for


def test_recomputation_keeps_the_input_only():
    net = torch.nn.Sequential(torch.nn.Linear(10, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 10))
    x = torch.ones(4, 10, requires_grad=True)
    with Kept(net.parameters()) as kept:
        checkpoint(net, x, use_reentrant=False, preserve_rng_state=False)
    assert kept.bytes == x.nbytes


def test_the_kept_tensors_are_let_go():
    x = torch.ones(1000, requires_grad=True)
    with MemoryMeter() as meter:
        with Kept() as kept:
            y = x.exp()
        del y
    assert (kept.bytes, meter.alive) == (4000, 0)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_meter_sees_the_peak_that_torchs_tracker_sees(optimizer):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(50, 200), torch.nn.GELU(), torch.nn.Linear(200, 50))
    rule, x = optimizer(net.parameters(), lr=0.1), torch.randn(32, 50)
    tracker, meter = MemTracker(), MemoryMeter([*net.parameters(), x])
    tracker.track_external(net, rule, x)
    with tracker, meter:
        loss = net(x).square().mean()
        meter.phase = "backward"
        loss.backward()
        meter.phase = "step"
        rule.step()
    total = {when: tracker.get_tracker_snapshot(when)[torch.device("cpu")]["Total"] for when in ("peak", "current")}
    assert max(meter.peaks.values()) == total["peak"]
    assert meter.alive == total["current"]
    assert list(meter.peaks) == ["first", "backward", "step"]
