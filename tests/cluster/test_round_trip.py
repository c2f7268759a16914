"""The round trip: a plan's twin through a job script, on a real Slurm and through the local runner, to its report."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from llmhw_helpers.cluster.predictions import prepare
from llmhw_helpers.cluster.report import report
from llmhw_helpers.cluster.runs import submit, why_no_slurm
from llmhw_helpers.cluster.scripts import BadScript, twin_script
from llmhw_helpers.cluster.twin import Twin, small_model
from llmhw_helpers.measure.calibration import Calibration, Rate
from llmhw_helpers.measure.machine import Machine
from llmhw_helpers.specs.models import model

HANG_S = 400
TINY = replace(small_model(model("Llama-3.1-8B")), n_layers=2, d_model=64, head_dim=8, d_ff=128, vocab_size=256)
TWIN = Twin("fine-tune", "DP 2 on two nodes", TINY, batch_size=2, seq_len=32, n_steps=6, checkpoint_every=2)
GB, GFLOP = Rate("B/s", 10e9, 10e9, 0.0), Rate("FLOP/s", 100e9, 100e9, 0.0)
CALIBRATION = Calibration(Machine("a processor", 2, 8 << 30, None, None), "", {"fp32": GFLOP}, {}, GB, GB, None)


@pytest.fixture
def slurm(plain_cluster, monkeypatch):
    """Slurm's commands ask the small cluster."""
    for name, value in plain_cluster.environment.items():
        monkeypatch.setenv(name, value)
    assert why_no_slurm() == ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The last checkpoint of a run through the local runner that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    prepared = prepare(TWIN, folder / "twin.json", CALIBRATION)
    job = submit(twin_script(prepared, folder), folder, local=True)
    (state,) = job.wait(HANG_S, progress=False)
    assert state.state == "COMPLETED", job.output()
    found = report(job.number, folder)
    assert found.sentences["status"] == "finished: all 6 steps"
    assert str(found.form) in job.output().replace("rank 0: ", "")
    return last_checkpoint(folder, job.number)


def last_checkpoint(folder, job):
    out = folder / "all.pt"
    dcp_to_torch_save(folder / f"checkpoints-{job}" / f"step-{TWIN.n_steps}", out)
    return torch.load(out, weights_only=True)


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other)


def test_slurm_takes_the_script_and_computes_what_the_local_runner_does(whole, slurm, tmp_path):
    prepared = prepare(TWIN, tmp_path / "twin.json", CALIBRATION)
    script = tmp_path / "script.sh"
    script.write_text(twin_script(prepared, tmp_path, further=("--mem=2G",)))
    taken = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr
    job = submit(script, tmp_path)
    (state,) = job.wait(HANG_S, progress=False)
    assert (state.state, state.exit_code, state.nodes) == ("COMPLETED", 0, "node1,node2"), job.output()
    found = report(job.number, tmp_path)
    assert found.finished
    assert found.form.facts["n_ranks"] == 2
    assert set(found.sentences) >= {"memory", "speed", "sending", "queue", "cost"}
    assert equal(last_checkpoint(tmp_path, job.number), whole)


@pytest.mark.slow
def test_the_local_runner_stops_it_before_its_time_is_up_and_starts_it_again(tmp_path):
    """The signal comes while the ranks still start: each run makes one step, saves it, and goes back into the queue."""
    prepared = prepare(replace(TWIN, n_steps=2), tmp_path / "twin.json", CALIBRATION)
    options = ["--time=5:00", "--signal=B:USR1@299"]
    job = submit(twin_script(prepared, tmp_path), tmp_path, local=True, options=options)
    (state,) = job.wait(HANG_S, progress=False)
    assert (state.state, state.restarts) == ("COMPLETED", 1), job.output()
    found = report(job.number, tmp_path)
    assert found.sentences["status"] == "finished: all 2 steps; started again once, and 0 steps were computed twice"


@pytest.mark.slow
def test_an_array_is_a_sweep_with_a_report_for_each_task(tmp_path):
    twins = [replace(TWIN, n_nodes=1, dp_size=1, batch_size=n, n_steps=2) for n in (1, 2)]
    prepared = [prepare(each, tmp_path / f"twin-{i}.json", CALIBRATION) for i, each in enumerate(twins, 1)]
    job = submit(twin_script(prepared, tmp_path), tmp_path, local=True)
    states = job.wait(HANG_S, progress=False)
    assert [state.state for state in states] == ["COMPLETED"] * 2, job.output()
    steps = [report(state.job, tmp_path).form.lines["a step"].predicted for state in states]
    assert 1 < steps[1] / steps[0] < 2


STRANGE = ["my runs", "it's", 'a "b" c', "$HOME", "`x`", "back\\slash", "\\'", "two\nlines", "*~#!;&"]


@pytest.mark.parametrize("name", STRANGE)
def test_the_script_is_clean_to_shellcheck(name, tmp_path):
    """Also as an array, and with a folder whose name a shell would take apart."""
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("there is no shellcheck here")
    folder = tmp_path / name
    prepared = prepare(TWIN, folder / "twin.json", CALIBRATION)
    for twins in (prepared, [prepared, prepared]):
        text = twin_script(twins, folder, account="PROJECT", partition="alvis", further=("--gpus-per-node=A40:1",))
        done = subprocess.run([shellcheck, "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", STRANGE)
def test_bash_reads_each_folder_and_python_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / name / "python"))
    script = twin_script(prepare(TWIN, tmp_path / "twin.json", CALIBRATION), tmp_path / name)
    settings = script[script.index("\nfolder=") : script.index("\njob=")]
    done = subprocess.run(["bash", "-c", settings + '\nprintf %s "$folder|$python"'], capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / name}|{tmp_path / name / 'python'}"


def test_what_makes_no_script_is_one_line(tmp_path):
    one = prepare(TWIN, tmp_path / "twin.json", CALIBRATION)
    other = prepare(replace(TWIN, n_nodes=1, ranks_per_node=2), tmp_path / "twin.json", CALIBRATION)
    with pytest.raises(BadScript, match="these twins are of 2 shapes"):
        twin_script([one, other], tmp_path)
    with pytest.raises(BadScript, match="these twins are of 0 shapes"):
        twin_script([], tmp_path)
    with pytest.raises(BadScript, match="a limit of 0 minutes"):
        twin_script(one, tmp_path, minutes=0)
    with pytest.raises(BadScript, match="a signal 600 s before a limit of 10 minutes would come before the job begins"):
        twin_script(one, tmp_path, minutes=10, signal_s=600)
    line = "x\ntouch here"
    for words in ({"partition": "a b"}, {"account": line}, {"further": (line,)}):
        with pytest.raises(BadScript, match="no line of a job script can be made of '"):
            twin_script(one, tmp_path, **words)
    with pytest.raises(BadScript, match=r"can be made of 'x\\ntouch here'"):
        twin_script(replace(one, twin=replace(TWIN, plan=line)), tmp_path)
