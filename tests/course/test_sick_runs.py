"""Every sickness is really there: in numbers that were counted, and in times that a sleep cannot fall below."""

import subprocess
import sys

import numpy as np
import psutil
import pytest

from llmhw_helpers.course import sick_runs
from llmhw_helpers.course.sick_jobs import LEAST_STEPS, SAVE_EVERY, SickJob
from llmhw_helpers.course.sick_runs import KINDS, sick_run, step_parts
from llmhw_helpers.distributed.ranks import Ranks
from llmhw_helpers.measure.series import Series
from llmhw_helpers.specs.figures import UnknownName

SEED = 3


@pytest.fixture(scope="module")
def runs():
    """A short run of each kind, by the same ranks."""
    with pytest.MonkeyPatch.context() as patch, Ranks(2) as ranks:
        for name, seconds in (("WARM_UP_S", 0.1), ("HEALTHY_S", 0.4), ("SICK_S", 0.6), ("INTERVAL_S", 0.05)):
            patch.setattr(sick_runs, name, seconds)
        made = {kind: sick_run(kind.title(), SEED, ranks) for kind in KINDS}  # names are taken in any case
        made["limits"] = ranks.run(file_limit)
        made["cores"] = ranks.run(cores)
    return made


def file_limit():
    import resource

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def cores():
    return psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None


def halves(series):
    change = series.times("change")[0]
    return series.between(series.begin_s, change), series.between(change, series.seconds[-1])


def cost_of_a_token(series):
    before, after = (half.mean("cpu_percent") / half.mean("tokens_per_s") for half in halves(series))
    return after / before


@pytest.mark.parametrize("kind", KINDS)
def test_all_marks_are_there_and_in_their_order(runs, kind):
    for half in halves(runs[kind]):
        steps = half.times("step")
        assert len(steps) >= LEAST_STEPS
        assert len(half.times("checkpoint begins")) == len(steps) // SAVE_EVERY
        for rank in (0, 1):
            batch, ready = half.times(f"rank {rank} batch"), half.times(f"rank {rank} ready")
            assert len(batch) == len(ready) == len(steps)
            assert (batch <= ready).all()
            assert (ready <= steps + 1e-3).all()  # the step waits for every rank; clocks of two cores may differ


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted(runs, kind):
    job = SickJob.drawn(SEED, 2)
    before, after = (len(half.times("step")) for half in halves(runs[kind]))
    rows = before * job.batch_size + after * (1 if kind == "small batch" else job.batch_size)
    assert runs[kind].total("tokens_per_s") == pytest.approx(2 * job.seq_len * rows)


def test_checkpoints_end_but_on_a_full_disk(runs):
    for kind in KINDS:
        before, after = halves(runs[kind])
        assert len(before.times("checkpoint ends")) == len(before.times("checkpoint begins")) > 0
        ended = 0 if kind == "full disk" else len(after.times("checkpoint begins"))
        assert len(after.times("checkpoint ends")) == ended
    assert set(runs["limits"]) == {file_limit()}  # and the disk is not full afterwards


def test_a_starved_loader_and_a_stalled_checkpoint_take_their_time(runs):
    strength = SickJob.drawn(SEED, 2).strength
    for kind in ("starved loader", "checkpoint stalls"):
        before, after = halves(runs[kind])
        step_s = np.median(np.diff(before.times("step")))
        if kind == "starved loader":
            steps = after.times("step")
            assert np.mean(np.diff(steps)) > 0.75 * (1 + strength) * step_s  # some are fetched ahead
        else:
            begins, ends = after.times("checkpoint begins"), after.times("checkpoint ends")
            assert (ends - begins > 0.99 * SAVE_EVERY * strength * step_s).all()


def test_a_leak_grows_by_what_is_kept(runs):
    job = SickJob.drawn(SEED, 2)
    before, after = halves(runs["memory leak"])
    kept = 2 * len(after.times("step")) * 2 * job.batch_size * job.seq_len * job.spec.vocab_size * 4
    grown = after["rss_bytes"].max() - before["rss_bytes"][-1]
    assert 0.5 * kept < grown < 1.5 * kept + 20e6
    healthy, later = halves(runs["healthy"])
    assert later["rss_bytes"].max() - healthy["rss_bytes"][-1] < 0.3 * kept


def test_what_a_token_costs_tells_work_from_waiting(runs):
    """Processor time, which other programs on the machine change little."""
    assert cost_of_a_token(runs["sync per element"]) > 1.4
    assert cost_of_a_token(runs["straggler"]) > 1.25
    assert cost_of_a_token(runs["small batch"]) > 1.25
    assert cost_of_a_token(runs["starved loader"]) < 1.4


def test_the_straggler_is_the_rank_that_was_drawn(runs):
    _, after = halves(runs["straggler"])
    took = [np.quantile(after.times(f"rank {r} ready") - after.times(f"rank {r} batch"), 0.25) for r in (0, 1)]
    assert np.argmax(took) == SickJob.drawn(SEED, 2).slow_rank
    assert step_parts(after)["slowest rank"] > 0


def spinning():
    return [p for p in psutil.Process().children() if sick_runs.SPIN in p.cmdline()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give no process its cores")
def test_neighbours_are_on_the_cores_of_the_ranks_and_gone_afterwards():
    before = cores()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as rank:
        with sick_runs._neighbours([rank.pid]):
            there = {psutil.Process(rank.pid).cpu_affinity()[0], *(p.cpu_affinity()[0] for p in spinning())}
            assert len(spinning()) == 2
            assert there == set(before[:1])
        assert psutil.Process(rank.pid).cpu_affinity() == before
        rank.communicate(b"\n")
    assert not spinning()


def test_a_neighbour_is_seen_in_what_the_machine_does(runs):
    assert runs["cores"] == [cores()] * 2  # it is over
    _, after = halves(runs["noisy neighbour"])
    assert after.mean("machine_cpu_percent") - after.mean("cpu_percent") > 25


def test_unknown_kinds_are_refused():
    with pytest.raises(UnknownName, match="full disk"):
        sick_run("full disc")
    with pytest.raises(ValueError, match="one rank"):
        sick_run("Straggler", ranks=Ranks(1))


def test_every_kind_says_what_it_is_taken_for():
    assert all(kind.alike in KINDS and KINDS[kind.alike] is not kind for kind in KINDS.values())
    assert all(kind.asks.endswith("?") for kind in KINDS.values())


def test_parts_of_a_step():
    """Two ranks, three steps by hand; rank 1 computes twice as long, and a checkpoint lies between."""
    marks = []
    for begin in (0.0, 10.0, 25.0):
        marks += [(begin + 1, "rank 0 batch"), (begin + 2, "rank 1 batch")]
        marks += [(begin + 4, "rank 0 ready"), (begin + 8, "rank 1 ready"), (begin + 10, "step")]
    marks += [(20.0, "checkpoint begins"), (25.0, "checkpoint ends")]
    parts = {"batch": 2.0, "compute": 3.0, "slowest rank": 3.0, "exchange": 2.0, "checkpoint": 5 / 3}
    assert step_parts(Series([36.0], {}, {}, marks)) == pytest.approx(parts)
    assert step_parts(Series([36.0], {}, {}, marks[:-3])) == pytest.approx({**parts, "checkpoint": 0.0})
    with pytest.raises(ValueError, match="no whole step"):
        step_parts(Series([1.0], {}, {}, marks[:2]))
