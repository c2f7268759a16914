"""What is read of a real Slurm, in which jobs wait, run, fail, run out of memory, lose a node and start again."""

import time
from datetime import datetime
from pathlib import Path

import pytest

from llmhw_helpers.cluster.slurm import ACCOUNTED, NoSlurm, Slurm, UnknownJob

SOON_S = 60  # for what a quiet machine does in one or two


@pytest.fixture(scope="module")
def cluster(start_cluster):
    return start_cluster("alvis", count=2)


@pytest.fixture(scope="module")
def slurm(cluster):
    return Slurm(cluster.environment)


@pytest.fixture
def submit(cluster, tmp_path):
    def submit(command, *options):
        how = ["sbatch", "--parsable", f"--chdir={tmp_path}", "--constraint=NOGPU", *options, f"--wrap={command}"]
        done = cluster.run(*how)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


@pytest.fixture
def until(slurm):
    def until(job_id, *states):
        late = time.monotonic() + SOON_S
        while (job := slurm.job(job_id)).state not in states:
            assert time.monotonic() < late, job
            time.sleep(0.1)
        return job

    return until


def test_a_job_from_its_queue_to_its_end(slurm, submit, until, tmp_path):
    options = ["--job-name=a b|c=4 Reason=x", "--comment=JobState=x", "--gpus-per-node=A40:2", "--constraint=A40"]
    job_id = submit("sleep 30", "--nodes=2", "--cpus-per-task=3", "--mem=1G", "--time=1-00:30:00", *options)
    job = until(job_id, "RUNNING")
    [queued] = [each for each in slurm.queue() if each.id == job_id]
    for each in (job, queued):
        assert (each.name, each.state, each.partition) == ("a b|c=4 Reason=x", "RUNNING", "alvis")
        assert (each.nodes, each.n_nodes, each.n_cpus, each.n_gpus) == (("alvis5", "alvis6"), 2, 6, 4)
        assert each.limit_s == 86400 + 1800
        assert each.ended is None
        assert abs(each.submitted.timestamp() - time.time()) < SOON_S
    assert (job.memory_bytes, job.folder, job.restarts) == (2 * 2**30, str(tmp_path), 0)
    assert job.output == f"{tmp_path}/slurm-{job_id}.out"
    assert 0 <= job.waited_s < SOON_S
    slurm._ask("scancel", job_id)
    ended = until(job_id, "CANCELLED")
    assert isinstance(ended.ended, datetime)
    assert not ended.is_active
    assert job_id not in [each.id for each in slurm.queue()]


def test_names_of_several_lines_are_read(slurm, submit, until):
    name, comment = "two\nlines | JobState=x", "x\nJobState=FAILED\n\nmore"
    first = submit("sleep 60", f"--job-name={name}", f"--comment={comment}")
    assert until(first, "RUNNING").name == name
    assert [each.name for each in slurm.queue() if each.id == first] == [name]
    slurm._ask("scancel", first)


def test_one_that_waits_says_why(slurm, submit, until):
    job = until(submit("true", "--begin=now+1hour"), "PENDING")
    assert (job.reason, job.waited_s, job.nodes) == ("BeginTime", None, ())
    slurm._ask("scancel", job.id)


def test_one_that_was_refused_is_no_riddle(cluster, slurm, tmp_path):
    """Slurm keeps a submission that no nodes fit, with numbers that are none."""
    asked = ["--nodes=3", "--gpus-per-node=A40:4", f"--chdir={tmp_path}", "--wrap=true"]
    refused = cluster.run("sbatch", "--parsable", *asked)
    assert refused.returncode == 1
    assert "node configuration is not available" in refused.stderr
    kept = [slurm.job(block.split()[0]) for block in cluster.run("scontrol", "show", "job").stdout.split("JobId=")[1:]]
    assert [job.state for job in kept if "BadConstraints" in job.reason]


def test_how_a_script_ended(submit, until):
    assert until(submit("exit 3"), "FAILED").exit_code == 3
    assert until(submit("true"), "COMPLETED").exit_code == 0
    assert until(submit("kill -SEGV $$"), "FAILED").signal == 11


def test_the_tasks_of_an_array_are_jobs(slurm, submit, until):
    array = submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-2")
    assert [until(f"{array}_{task}", "COMPLETED", "FAILED").exit_code for task in range(3)] == [0, 1, 2]
    assert [task.id for task in slurm.tasks(array)] == [f"{array}_{task}" for task in range(3)]
    with pytest.raises(ValueError, match=rf"job {array} is an array of 3 tasks: ask for one of {array}_0"):
        slurm.job(array)


def test_what_runs_is_measured(slurm, submit, until):
    """Half of two processors busy, and 200 MB held."""
    work = "import time; held = bytearray(200 << 20)\nwhile time.process_time() < 60: pass"
    job_id = submit(f"python3 -c '{work}'", "--cpus-per-task=2", "--mem=1G")
    until(job_id, "RUNNING")
    late = time.monotonic() + SOON_S
    while not (used := slurm.efficiency(job_id)).cpu_s or used.memory_used_bytes < 100 << 20:
        assert time.monotonic() < late, used
        time.sleep(0.2)
    assert used.source == "sstat"
    assert (200 << 20) <= used.memory_used_bytes < (260 << 20)
    assert 0.2 < used.memory_share < 0.26
    assert used.cpu_share <= 0.75  # one thread of two processors, and times in whole seconds
    slurm._ask("scancel", job_id)
    until(job_id, "CANCELLED")
    assert slurm.efficiency(job_id).cpu_s is None  # nobody keeps accounts here


def test_more_memory_than_asked_for_ends_a_job(slurm, submit, until, tmp_path):
    job = until(submit("python3 -c 'x = bytearray(400 << 20); import time; time.sleep(60)'", "--mem=100M"), "FAILED")
    assert (job.signal, job.memory_bytes) == (9, 100 << 20)
    assert "exceeded memory limit" in (tmp_path / f"slurm-{job.id}.out").read_text()


def test_a_job_that_loses_one_of_its_nodes_waits_again(cluster, slurm, submit, until, tmp_path):
    job = until(submit("srun sleep 600", "--nodes=2"), "RUNNING")
    lost = job.nodes[1]
    cluster.kill_node(lost)
    slurm._ask("scontrol", "update", f"nodename={lost}", "state=down", "reason=power")  # what a timeout would do
    again = until(job.id, "PENDING")
    assert again.restarts == 1
    assert "DUE TO NODE FAILURE" in (tmp_path / f"slurm-{job.id}.out").read_text()
    assert until(submit("srun sleep 600", "--nodes=2"), "PENDING").nodes == ()
    for each in slurm.queue():
        slurm._ask("scancel", each.id)
    slurm._ask("scontrol", "update", f"nodename={lost}", "state=resume")
    cluster.revive_node(lost)
    late = time.monotonic() + SOON_S
    while "idle" not in cluster.run("sinfo", "--noheader", f"--nodes={lost}", "--format=%t").stdout:
        assert time.monotonic() < late
        time.sleep(0.1)


def test_a_job_put_back_into_the_queue_counts_its_starts(slurm, submit, until):
    job = until(submit("sleep 600"), "RUNNING")
    slurm._ask("scontrol", "requeue", job.id)
    assert until(job.id, "PENDING").restarts == 1
    slurm._ask("scancel", job.id)


@pytest.mark.parametrize("wrong", ["", "x", "17;18", "17_", "-1", "17.batch"])
def test_no_number_of_a_job(slurm, wrong):
    with pytest.raises(ValueError, match="no number of a job"):
        slurm.job(wrong)


def test_an_unknown_job(slurm):
    with pytest.raises(UnknownJob, match="Slurm knows no job 4711"):
        slurm.job(4711)


def test_what_a_user_has_set_changes_nothing(cluster, slurm, submit, until):
    job = until(submit("sleep 60"), "RUNNING")
    own = {"SQUEUE_FORMAT": "%i", "SQUEUE_STATES": "PENDING", "SQUEUE_USERS": "nobody", "SLURM_TIME_FORMAT": "relative"}
    changed = Slurm(cluster.environment | own)
    assert [each.submitted for each in changed.queue()] == [job.submitted]
    assert changed.job(job.id).submitted == job.submitted
    slurm._ask("scancel", job.id)


def test_without_slurm_a_line_says_so(tmp_path, monkeypatch):
    with pytest.raises(NoSlurm, match=r"no Slurm here \(no command squeue\)"):
        Slurm({"PATH": str(tmp_path)})


def test_a_controller_that_is_away(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("llmhw_helpers.cluster.slurm.ANSWER_S", 1)  # the command itself would try for half a minute
    away = Path(cluster.conf).read_text().replace("SlurmctldPort=", "SlurmctldPort=1\n#")
    (tmp_path / "slurm.conf").write_text(away)
    with pytest.raises(NoSlurm, match=r"^Slurm does not answer: squeue had no answer in 1 s$"):
        Slurm(cluster.environment | {"SLURM_CONF": str(tmp_path / "slurm.conf")}).queue()
    with pytest.raises(NoSlurm, match="^Slurm does not answer: ") as caught:
        Slurm(cluster.environment | {"SLURM_CONF": str(tmp_path / "none.conf")}).queue()
    assert "\n" not in str(caught.value)


# A database of accounts is not here: sacct's answers, in the form that its manual describes.
SACCT = """\
17|TIMEOUT|None|alvis|cid|2|alvis[1-2]|8|100|01:00:00|2026-11-01T10:00:00|2026-11-01T10:05:00|2026-11-01T10:06:40|\
billing=8,cpu=8,gres/gpu:a40=4,gres/gpu=4,mem=16G,node=2|0:0|06:40.000||||my|job
17.batch|CANCELLED||||1|alvis1|4|100||2026-11-01T10:05:00|2026-11-01T10:05:00|2026-11-01T10:06:40|\
cpu=4,gres/gpu=2,mem=8G,node=1|0:15|00:00.500|4000K|1|cpu=00:00:00,mem=4000K|batch
17.0|CANCELLED by 1000||||2|alvis[1-2]|8|99||2026-11-01T10:05:01|2026-11-01T10:05:01|2026-11-01T10:06:40|\
cpu=8,gres/gpu=4,mem=16G,node=2|0:15|06:39.500|2048M|2|cpu=00:03:19,gres/gpuutil=12,mem=2048M|python
"""


@pytest.fixture
def accounts(tmp_path, monkeypatch):
    """Commands that know a job from the accounts alone."""

    def made(text):
        (tmp_path / "rows").write_text(text)
        for name, does in {
            "squeue": "true",
            "sacct": f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/rows',
            "scontrol": '[ "$2" != hostnames ] || { echo alvis1; echo alvis2; exit 0; }\n'
            "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1",
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
        return Slurm({"PATH": f"{tmp_path}:/usr/bin:/bin"})

    return made


def test_a_job_of_long_ago_is_read_from_the_accounts(accounts, tmp_path):
    slurm = accounts(SACCT)
    job = slurm.job(17)
    assert f"--format={','.join(ACCOUNTED)}" in (tmp_path / "asked").read_text()
    assert (job.id, job.name, job.state, job.nodes) == ("17", "my|job", "TIMEOUT", ("alvis1", "alvis2"))
    assert (job.n_cpus, job.n_gpus, job.memory_bytes, job.limit_s, job.waited_s) == (8, 4, 16 * 2**30, 3600, 300)
    used = slurm.efficiency(17)
    # as seff: 400 s of 8 x 100 s; the largest step's 2 GiB for each of 2 tasks, of 16 GiB
    assert (used.cpu_share, used.memory_share, used.gpu_percent, used.source) == (0.5, 0.25, 12, "sacct")


@pytest.mark.parametrize("text", ["nonsense", "17|x", SACCT.replace("mem=16G", "mem=much"), SACCT.replace("0:0", "0")])
def test_accounts_in_another_form_are_one_line(accounts, text):
    with pytest.raises(NoSlurm, match=r"^sacct answers in a form that is not known here: .+$"):
        accounts(text).job(17)


@pytest.mark.parametrize("said", ["nonsense", "17|PENDING", "17|PENDING|x|p|u|some||8|0:00|1:00|N/A|N/A|N/A|name"])
def test_commands_that_print_something_else_are_one_line(accounts, tmp_path, said):
    slurm = accounts("")
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho nonsense\n")
    with pytest.raises(NoSlurm, match=r"^squeue answers in a form that is not known here: .+$"):
        slurm.queue()
    for ask in (slurm.job, slurm.efficiency):
        with pytest.raises(NoSlurm, match=r"^scontrol answers in a form that is not known here: .+$"):
            ask(17)


def test_accounts_that_know_nothing_of_a_job(accounts):
    with pytest.raises(UnknownJob):
        accounts("").job(17)
