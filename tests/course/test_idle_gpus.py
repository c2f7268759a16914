"""A job that leaves its GPU idle: when its GPU was busy is counted, kernel by kernel."""

import numpy as np
import pytest

from llmhw_helpers.course.idle_gpus import HELD_BYTES, PHASES, _busy_until, idle_gpu_run
from llmhw_helpers.course.recorded_runs import recorded_runs


@pytest.fixture(scope="module")
def series():
    return idle_gpu_run(0.3)


def phase(series, name):
    """The samples that lie in it alone."""
    begins = {name: when for when, name in series.marks} | {"": series.seconds[-1]}
    following = dict(zip(PHASES, [*PHASES, ""][1:], strict=True))
    begin = series.seconds[series.seconds > begins[name]][0]
    return series.between(begin, begins[following[name]])


def test_phases_begin_one_after_the_other(series):
    assert [name for _, name in series.marks] == list(PHASES)
    assert np.diff([when for when, _ in series.marks]).min() > 0.29


def test_the_gpu_is_busy_while_kernels_run_and_at_no_other_time(series):
    for name, (_, prepares) in PHASES.items():
        busy = phase(series, name)["gpu_busy_percent"]
        assert ((busy >= 0) & (busy <= 100 + 1e-9)).all()
        assert (busy.max() > 0) == (prepares is not None)
    wanted, ahead = (phase(series, name).mean("gpu_busy_percent") for name in [*PHASES][1:3])
    assert ahead > wanted


def test_its_memory_is_held_to_the_end(series):
    held = {name: set(phase(series, name)["gpu_memory_bytes"]) for name in PHASES}
    assert held == {name: {0.0 if name == "reads the model" else HELD_BYTES} for name in PHASES}


def test_busy_seconds_by_hand():
    kernels = [(1.0, 2.0), (2.5, 4.5), (5.0, 5.25)]
    moments = np.array([0.5, 1.0, 1.5, 2.2, 3.5, 4.5, 5.1, 9.0])
    assert _busy_until(moments, kernels) == pytest.approx([0, 0, 0.5, 1, 2, 3, 3.1, 3.25])


def test_the_recorded_one_has_the_same_phases():
    ((name, recorded),) = recorded_runs("idle GPU")
    assert name == "idle GPU"
    assert [mark for _, mark in recorded.marks] == list(PHASES)
    assert phase(recorded, "prepares batches ahead").mean("gpu_busy_percent") > 60
    assert phase(recorded, "prepares each batch when it is wanted").mean("gpu_busy_percent") < 40
    assert recorded.mean("gpu_busy_percent") < 35
