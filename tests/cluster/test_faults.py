"""The course's own job on a real Slurm that is unkind to it: killed, short of memory, without a node, without room.

Each run is held against one that nothing happened to: what it has learned must be the same, bit for bit.
"""

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from llmhw_helpers.cluster.forms import BadForm, form_path, read_form
from llmhw_helpers.cluster.predictions import prepare
from llmhw_helpers.cluster.scripts import twin_script
from llmhw_helpers.cluster.slurm import NoSlurm, Slurm
from llmhw_helpers.cluster.twin import Twin, small_model
from llmhw_helpers.distributed.checkpoints import Checkpoints
from llmhw_helpers.measure.calibration import Calibration, Rate
from llmhw_helpers.measure.machine import Machine
from llmhw_helpers.specs.models import model

SOON_S = 240  # ranks import PyTorch; a machine that is busy takes a minute to
ANY = Rate("B/s", 10e9, 10e9, 0.0)
CALIBRATION = Calibration(Machine("one", 2, 8 << 30, None, None), "2026-01-01", {"fp32": ANY}, {}, ANY, ANY, None)
TINY = replace(small_model(model("Llama-3.1-8B")), n_layers=2, d_model=64, head_dim=8, d_ff=128, vocab_size=256)
SIZES = {"batch_size": 2, "seq_len": 32, "checkpoint_every": 50}


@pytest.fixture(scope="module")
def cluster(start_cluster):
    return start_cluster(networks=os.geteuid() == 0)


@pytest.fixture(scope="module")
def slurm(cluster):
    return Slurm(cluster.environment)


@pytest.fixture(scope="module")
def submit(cluster):
    """Submits a twin of two nodes from a folder."""

    def submit(folder, n_steps=300, options=(), cluster=cluster, **script):
        folder.mkdir(exist_ok=True)
        twin = Twin("fine-tune", "a plan", TINY, **SIZES | {"n_steps": n_steps})
        text = twin_script(prepare(twin, folder / "twin.json", CALIBRATION), folder, **script)
        done = cluster.run("sbatch", "--parsable", f"--chdir={folder}", *options, input=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


@pytest.fixture
def until(slurm):
    """Waits until something is so, and says how the job stands if it never is."""

    def until(is_so, job_id):
        late = time.monotonic() + SOON_S
        while not (found := is_so()):
            assert time.monotonic() < late, slurm.job(job_id)
            time.sleep(0.1)
        return found

    return until


@pytest.fixture
def end_of(slurm, until):
    def end_of(job_id):
        until(lambda: not slurm.job(job_id).is_active, job_id)
        return slurm.job(job_id)

    return end_of


@pytest.fixture
def on_again(cluster, slurm, until):
    """Slurm holds a job that it has put back for two minutes: a nudge, and it runs again."""

    def on_again(job_id, restarts=1):
        until(lambda: slurm.job(job_id).restarts == restarts, job_id)
        until(lambda: slurm.job(job_id).state == "PENDING", job_id)
        cluster.run("scontrol", "update", f"JobId={job_id}", "StartTime=now+3")  # its nodes are still clearing up
        until(lambda: slurm.job(job_id).state != "PENDING", job_id)

    return on_again


def steps_of(folder, job_id):
    try:
        return read_form(form_path(folder, job_id)).facts["steps_done"]
    except (BadForm, KeyError):
        return 0


def said(job):
    with open(job.output, errors="replace") as file:
        return f"{job}\n{file.read()}"


def learned(folder, job_id):
    """Every tensor of the last checkpoint, by name, as PyTorch itself reads it."""
    newest = Checkpoints(folder / f"checkpoints-{job_id}").steps()[-1]
    dcp_to_torch_save(folder / f"checkpoints-{job_id}" / f"step-{newest}", folder / "all.pt")
    return newest, dict(flat(torch.load(folder / "all.pt", weights_only=True)))


def flat(state, before=""):
    for name, value in state.items():
        yield from flat(value, f"{before}{name}.") if isinstance(value, dict) else [(f"{before}{name}", value)]


@pytest.fixture(scope="module")
def undisturbed(submit, slurm, tmp_path_factory):
    """What a run learns that nothing happens to, on two nodes."""
    folder = tmp_path_factory.mktemp("whole")
    job_id, late = submit(folder), time.monotonic() + SOON_S
    while slurm.job(job_id).is_active:
        assert time.monotonic() < late
        time.sleep(0.1)
    job = slurm.job(job_id)
    assert (job.state, job.n_nodes) == ("COMPLETED", 2), said(job)
    return learned(folder, job_id)


@pytest.fixture
def as_undisturbed(undisturbed):
    def as_undisturbed(folder, job_id):
        (step, whole), (same, parts) = undisturbed, learned(folder, job_id)
        assert (step, whole.keys()) == (same, parts.keys())
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        return read_form(form_path(folder, job_id))

    return as_undisturbed


@pytest.mark.faults
def test_a_signal_before_the_end_stops_it_at_a_checkpoint_and_it_goes_on(
    submit, slurm, until, on_again, end_of, as_undisturbed, tmp_path
):
    job_id = submit(tmp_path)
    until(lambda: steps_of(tmp_path, job_id) > 0, job_id)
    slurm._ask("scancel", "--signal=USR1", "--batch", job_id)  # as --signal=B:USR1 does before the time is up
    on_again(job_id)
    job = end_of(job_id)
    assert job.state == "COMPLETED", said(job)
    assert "time is nearly up: stopping" in said(job)
    form = as_undisturbed(tmp_path, job_id)
    assert 0 < form.facts["resumed_at"] < 300
    assert (form.status, form.facts["restarts"], form.facts["steps_lost"]) == ("finished", 1, 0)


@pytest.mark.faults
def test_one_of_two_nodes_is_lost(cluster, submit, slurm, until, on_again, end_of, as_undisturbed, tmp_path):
    job_id = submit(tmp_path)
    until(lambda: steps_of(tmp_path, job_id) > 60, job_id)
    lost = slurm.job(job_id).nodes[1]
    cluster.kill_node(lost)
    slurm._ask("scontrol", "update", f"nodename={lost}", "state=down", "reason=power")  # what a timeout would do
    until(lambda: slurm.job(job_id).restarts == 1, job_id)
    cluster.revive_node(lost)
    with contextlib.suppress(NoSlurm):  # it may have reported already, and then there is nothing to resume
        slurm._ask("scontrol", "update", f"nodename={lost}", "state=resume")
    on_again(job_id)
    job = end_of(job_id)
    assert job.state == "COMPLETED", said(job)
    assert "DUE TO NODE FAILURE" in said(job)
    form = as_undisturbed(tmp_path, job_id)
    assert (form.facts["resumed_at"] % 50, form.facts["restarts"]) == (0, 1)
    assert form.facts["resumed_at"] >= 50


@pytest.mark.faults
def test_killed_before_the_first_checkpoint_it_begins_again(
    submit, slurm, until, on_again, end_of, as_undisturbed, tmp_path
):
    job_id = submit(tmp_path)
    until(lambda: slurm.job(job_id).state == "RUNNING", job_id)
    slurm._ask("scontrol", "requeue", job_id)
    on_again(job_id)
    job = end_of(job_id)
    assert job.state == "COMPLETED", said(job)
    assert as_undisturbed(tmp_path, job_id).facts["resumed_at"] == 0


@pytest.mark.faults
def test_the_time_is_up(submit, end_of, tmp_path):
    """The signal comes too late for the script to hear of it: Slurm kills, and the form says how far it came."""
    job = end_of(submit(tmp_path, n_steps=1_000_000, minutes=1, signal_s=1, options=["--signal=B:CONT@1"]))
    assert job.state == "TIMEOUT", said(job)
    assert "DUE TO TIME LIMIT" in said(job)
    form = read_form(form_path(tmp_path, job.id))
    assert form.status == "running"
    assert form.facts["steps_done"] > 0
    assert Checkpoints(tmp_path / f"checkpoints-{job.id}").steps()


@pytest.mark.faults
def test_more_memory_than_asked_for(submit, end_of, tmp_path):
    job = end_of(submit(tmp_path, options=["--mem=60M"]))
    assert job.state != "COMPLETED"
    assert "exceeded memory limit" in said(job)
    assert steps_of(tmp_path, job.id) == 0


@pytest.mark.faults
def test_a_sweep_is_an_array(cluster, slurm, tmp_path):
    twins = [Twin("fine-tune", "a plan", TINY, **SIZES | {"n_steps": 3, "batch_size": size}) for size in (1, 2)]
    prepared = [prepare(twin, tmp_path / f"twin-{i}.json", CALIBRATION) for i, twin in enumerate(twins, 1)]
    script = twin_script(prepared, tmp_path)
    array = cluster.run("sbatch", "--parsable", f"--chdir={tmp_path}", input=script).stdout.strip()
    late = time.monotonic() + SOON_S
    while any(task.is_active for task in slurm.tasks(array)):
        assert time.monotonic() < late
        time.sleep(0.2)
    assert {task.state for task in slurm.tasks(array)} == {"COMPLETED"}
    for i, twin in enumerate(twins, 1):
        form = read_form(form_path(tmp_path, f"{array}_{i}"))
        assert (form.status, form.facts["n_ranks"]) == ("finished", twin.n_ranks)


@pytest.mark.faults
def test_a_full_project_folder(start_cluster, submit, tmp_path, tmp_path_factory):
    """No room for a checkpoint: the job fails and says why, if what it prints goes where there is room."""
    folder = tmp_path_factory.mktemp("full")
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("a file system of its own needs root")
    cluster = start_cluster()  # whose nodes see what is mounted later
    slurm, late = Slurm(cluster.environment), time.monotonic() + SOON_S
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], check=True)
    try:
        job_id = submit(folder, cluster=cluster, options=[f"--output={tmp_path}/out"])
        while slurm.job(job_id).is_active:
            assert time.monotonic() < late
            time.sleep(0.2)
        job = slurm.job(job_id)
        assert job.state == "FAILED"
        assert "No space left on device" in said(job)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
