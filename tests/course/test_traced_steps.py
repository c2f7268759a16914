"""The traced steps are those of notebooks 05 and 07, and each sickness shows where it should, and nowhere else."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from llmhw_helpers.course.traced_steps import (
    LEARNER,
    N_WARMUP,
    SICKNESSES,
    TracedTrainer,
    main,
    trace_decoding,
    trace_training,
)
from llmhw_helpers.measure.trace_files import recorded
from llmhw_helpers.measure.traces import Trace, seconds_of
from llmhw_helpers.specs.figures import UnknownName

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ["load", "forward", "backward", "clip", "read the loss", "optimizer"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    return {kind: trace_training(folder / f"{kind}.json.gz", kind, n_steps=2) for kind in SICKNESSES}


def reads(trace):
    """Reads off the device in each step, by the part that they are in."""
    return [
        Counter(trace.ranges_around(read)[1] for read in trace.within(step).synchronisations())
        for step in trace.ranges("step")
    ]


def test_the_model_is_that_of_notebook_05():
    cells = json.loads((REPOSITORY / "notebooks/05_pretraining.ipynb").read_text())["cells"]
    (cell,) = [text for text in ("".join(each["source"]) for each in cells) if 'spec = small_model("learner"' in text]
    made = {}
    exec(cell, {"Model": type(LEARNER)}, made)
    assert made["spec"].parameters() == LEARNER.parameters()
    assert (made["spec"].n_heads, made["spec"].head_dim) == (LEARNER.n_heads, LEARNER.head_dim)


@pytest.mark.parametrize("kind", SICKNESSES)
def test_every_step_has_its_parts(traces, kind):
    trace = traces[kind]
    steps = trace.ranges("step")
    assert len(steps) == 2
    for part in PARTS:
        assert len(trace.ranges(part)) == 2


def test_a_starved_run_waits_for_its_loader(tmp_path):
    starved = TracedTrainer("starved")
    starved.late_s = 0.2
    with recorded(tmp_path / "t.json"):
        starved.trainer.run(1)
    trace = Trace.read(tmp_path / "t.json")
    longest = max(trace.gaps("main thread"), key=lambda gap: gap.seconds)
    assert longest.seconds > 0.1  # the loader may have begun a moment before the step
    assert trace.stack("main thread", (longest.start_s + longest.end_s) / 2) == ["step", "load"]
    assert seconds_of(trace.loading()) > 0.1


def test_only_the_run_that_asks_reads_more(traces):
    assert reads(traces["starved"]) == reads(traces["healthy"])


def test_a_program_that_asks_after_every_weight_reads_so_many_numbers(traces):
    n_weights = len(list(TracedTrainer().trainer.model.parameters()))
    assert [step["forward"] for step in reads(traces["asking"])] == [n_weights] * 2
    assert [step["forward"] for step in reads(traces["healthy"])] == [0] * 2
    for kind in SICKNESSES:
        assert [step["read the loss"] for step in reads(traces[kind])] == [2] * 2


def test_sickness_changes_no_loss():
    healthy, asking = TracedTrainer(), TracedTrainer("asking")
    assert healthy.trainer.losses == asking.trainer.losses
    assert healthy.late_s == 0


def test_the_loader_is_late_by_two_steps(monkeypatch):
    starved = TracedTrainer("starved")
    slept = []
    monkeypatch.setattr("llmhw_helpers.course.traced_steps.time.sleep", slept.append)
    starved.trainer.run(2, depth=0)
    assert slept == [starved.late_s] * 2
    assert starved.late_s > 0


def test_a_decode_step_reads_every_weight_once(tmp_path):
    trace = trace_decoding(tmp_path / "t.json", n_tokens=2)
    steps = trace.ranges("decode")
    assert len(steps) == 2
    for step in steps:
        counts = {tally.name: tally.count for tally in trace.within(step).longest(None)}
        assert counts["aten::scaled_dot_product_attention"] == 30
        assert counts["aten::argmax"] == 1
    assert not trace.loading()


def test_an_unknown_sickness_is_named():
    with pytest.raises(UnknownName, match="did you mean starved"):
        TracedTrainer("starvd")


def test_as_a_program(monkeypatch, capsys):
    monkeypatch.setattr("llmhw_helpers.course.traced_steps.N_STEPS", 1)
    main(["asking"])
    assert capsys.readouterr().out.startswith("asking: 1 steps on the ")
    with pytest.raises(SystemExit):
        main(["aching"])
    assert "choose from" in capsys.readouterr().err


def test_on_a_gpu_cudas_profiler_sees_the_last_steps_alone(monkeypatch):
    seen = []

    class Profiled:
        def __enter__(self):
            seen.append("on")

        def __exit__(self, *_):
            seen.append("off")

    class Watched(TracedTrainer):
        def __init__(self, kind, device):
            assert device == "cuda"
            super().__init__(kind)
            seen.append(f"after {self.trainer.step}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.profiler, "profile", Profiled)
    monkeypatch.setattr("llmhw_helpers.course.traced_steps.TracedTrainer", Watched)
    monkeypatch.setattr("llmhw_helpers.course.traced_steps.N_STEPS", 1)
    main([])
    assert seen == [f"after {N_WARMUP}", "on", "off"]
