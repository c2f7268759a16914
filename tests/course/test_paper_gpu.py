"""The GPU on paper against what the rule gives by hand."""

import json

import pytest

from llmhw_helpers.course.paper_gpu import PaperGpu
from llmhw_helpers.measure.traces import seconds_of

US = 1e-6
LAUNCH, LATENCY, KERNEL = 6 * US, 4 * US, 20 * US
GPU = PaperGpu(LAUNCH, LATENCY, KERNEL)


def idle(trace):
    return seconds_of(trace.gaps(*trace.streams))


def test_a_full_queue_hides_the_launches(tmp_path):
    trace = GPU.trace(tmp_path / "t.json", n_kernels=10)
    assert trace.seconds == pytest.approx(LAUNCH + LATENCY + 10 * KERNEL)
    assert idle(trace) == pytest.approx(LAUNCH + LATENCY)
    delays = [launch.delay_s for launch in trace.launches()]
    assert delays == pytest.approx([LAUNCH + LATENCY + i * (KERNEL - LAUNCH) for i in range(10)])
    assert len(trace.synchronisations()) == 1


def test_reading_after_each_kernel_shows_every_launch(tmp_path):
    trace = GPU.trace(tmp_path / "t.json", n_kernels=10, read_every=1)
    assert trace.seconds == pytest.approx(10 * (LAUNCH + LATENCY + KERNEL))
    assert idle(trace) == pytest.approx(10 * (LAUNCH + LATENCY))
    assert [launch.delay_s for launch in trace.launches()] == pytest.approx([LAUNCH + LATENCY] * 10)
    assert len(trace.synchronisations()) == 10
    assert seconds_of(trace.synchronisations()) == pytest.approx(10 * (LATENCY + KERNEL))


def test_small_kernels_wait_for_their_launches(tmp_path):
    trace = PaperGpu(LAUNCH, LATENCY, 2 * US).trace(tmp_path / "t.json", n_kernels=10)
    assert trace.seconds == pytest.approx(10 * LAUNCH + LATENCY + 2 * US)
    assert idle(trace) == pytest.approx(trace.seconds - 10 * 2 * US)


def test_each_step_begins_with_an_idle_gpu(tmp_path):
    trace = GPU.trace(tmp_path / "t.json", n_kernels=4, read_every=3, n_steps=5)
    step = (LAUNCH + LATENCY + 3 * KERNEL) + (LAUNCH + LATENCY + KERNEL)
    assert [each.seconds for each in trace.ranges("step")] == pytest.approx([step] * 5)
    for each in trace.ranges("step"):
        assert idle(trace.within(each)) == pytest.approx(2 * (LAUNCH + LATENCY))
    assert len(trace.synchronisations()) == 10


def test_the_file_says_that_nobody_measured_it(tmp_path):
    GPU.trace(tmp_path / "t.json", 1)
    assert json.loads((tmp_path / "t.json").read_bytes())["note"] == "calculated by a rule, not measured"


@pytest.mark.parametrize(
    "wrong", [{"n_kernels": 0}, {"n_kernels": 1, "n_steps": 0}, {"n_kernels": 1, "read_every": -1}]
)
def test_counts_that_cannot_be(tmp_path, wrong):
    with pytest.raises(ValueError, match="a step has kernels"):
        GPU.trace(tmp_path / "t.json", **wrong)
