"""Names reach the profilers that look, and cost no call where none does."""

from contextlib import nullcontext

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llmhw_helpers.llm.training import Plan, Trainer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.measure.ranges import named
from llmhw_helpers.specs.architectures import Model

SPEC = Model("tiny", 1, 16, 2, 2, 8, 32, 16, True, 32, 1e4, source="made for this test")
PARTS = ["step", "load", "forward", "backward", "clip", "read the loss", "optimizer"]


@pytest.fixture
def calls(monkeypatch):
    """What record_function and NVTX were asked for."""
    seen = []

    class Range:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            seen.append(f"begin {self.name}")

        def __exit__(self, *_):
            seen.append(f"end {self.name}")

    monkeypatch.setattr(torch.profiler, "record_function", lambda name: Range(f"record_function {name}"))
    monkeypatch.setattr(torch.cuda.nvtx, "range", lambda name: Range(f"nvtx {name}"))
    return seen


def trainer(n_accumulate=1):
    def batch(i):
        return torch.randint(0, 16, (2, 9), generator=torch.Generator().manual_seed(i))

    return Trainer(Transformer(SPEC), batch, Plan(4, n_accumulate=n_accumulate))


def test_nothing_is_called_where_nobody_looks(calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    trainer().run(2)
    assert calls == []
    assert isinstance(named("forward"), nullcontext)


def test_a_program_on_a_gpu_has_nvtx_ranges_and_no_others(calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    trainer().run(1)
    begun = [call for call in calls if call.startswith("begin")]
    assert begun == [f"begin nvtx {part}" for part in PARTS]
    assert len(calls) == 2 * len(begun)
    assert calls[0] == "begin nvtx step"
    assert calls[-1] == "end nvtx step"


def test_ranges_end_where_the_block_fails(calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ZeroDivisionError), named("outer"):
        1 / 0  # noqa: B018
    assert calls == ["begin nvtx outer", "end nvtx outer"]


def test_a_trace_has_every_part_of_every_step():
    running = trainer(n_accumulate=3)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        running.run(2)
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert {part: counts[part] for part in PARTS} == dict.fromkeys(PARTS, 2) | {"forward": 6, "backward": 6}


def test_ranges_change_no_result():
    torch.manual_seed(0)
    plain = trainer()
    plain.run(2)
    torch.manual_seed(0)
    watched = trainer()
    with profile(activities=[ProfilerActivity.CPU]):
        watched.run(2)
    assert watched.losses == plain.losses
