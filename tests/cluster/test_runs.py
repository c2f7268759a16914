"""Jobs through the local runner, with real processes, and what a script may ask it for."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from llmhw_helpers.cluster import local_runner
from llmhw_helpers.cluster.directives import BadJob, directives, limit_seconds, signal_of, task_numbers
from llmhw_helpers.cluster.runs import NotSubmitted, job_in, submit, why_no_slurm
from llmhw_helpers.specs.figures import UnknownName

HANG_S = 120


def run(tmp_path, lines, head="", wait=True):
    job = submit(f"#!/bin/bash\n{head}\nset -euo pipefail\n{lines}\n", tmp_path, local=True)
    return (job, job.wait(HANG_S, progress=False)) if wait else job


def until(true):
    late = time.monotonic() + HANG_S
    while not true():
        assert time.monotonic() < late
        time.sleep(0.05)


def test_a_script_runs_with_slurms_variables_and_its_own_srun(tmp_path):
    said = (
        "$SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME, node $SLURM_NODEID of $SLURM_NNODES, local $SLURM_LOCALID"
    )
    job, (state,) = run(
        tmp_path, f"srun sh -c 'echo \"{said}\"'", "#SBATCH --nodes=2 --ntasks-per-node=2 --job-name=hello"
    )
    assert (state.state, state.exit_code, state.name, state.nodes) == ("COMPLETED", 0, "hello", "local[1-2]")
    assert state.submitted_at <= state.started_at <= state.ended_at
    assert sorted(job.output().splitlines()) == [
        "0 of 4 on local1, node 0 of 2, local 0",
        "1 of 4 on local1, node 0 of 2, local 1",
        "2 of 4 on local2, node 1 of 2, local 0",
        "3 of 4 on local2, node 1 of 2, local 1",
    ]
    assert job_in(tmp_path, job.number) == job


def test_the_first_node_has_an_address(tmp_path):
    lines = 'scontrol show hostnames "$SLURM_JOB_NODELIST"; scontrol show hostnames "local[2-3]"\n'
    lines += 'scontrol show node local1 | grep -o "NodeAddr=[^ ]*"'
    job, _ = run(tmp_path, lines)
    assert job.output().split() == ["local1", "local2", "local3", "NodeAddr=127.0.0.1"]


def test_a_task_that_fails_ends_the_others_where_the_job_says_so(tmp_path):
    lines = "srun --kill-on-bad-exit=1 sh -c '[ $SLURM_PROCID = 1 ] && exit 7; sleep 600'"
    job, (state,) = run(tmp_path, lines, "#SBATCH --nodes=2 --ntasks-per-node=1")
    assert state.state == "FAILED"
    assert "srun: error: a task ended with exit code 7: the others are ended" in job.output()


def test_an_array_is_as_many_tasks_one_after_the_other(tmp_path):
    head = "#SBATCH --array=1-3 --output=%x-%A_%a.out --job-name=sweep"
    job, states = run(tmp_path, 'echo "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_JOB_ID"', head)
    assert [state.job for state in states] == [f"{job.number}_{i}" for i in (1, 2, 3)]
    assert all(before.ended_at <= after.started_at for before, after in itertools.pairwise(states))
    for i in (1, 2, 3):
        said = (tmp_path / f"sweep-{job.number}_{i}.out").read_text().split()
        assert said == [job.number, str(i), str(int(job.number) + i)]


def test_the_signal_comes_before_the_limit_and_the_job_may_go_back_into_the_queue(tmp_path):
    lines = """
    echo "start ${SLURM_RESTART_COUNT:-0}"
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0
    trap 'echo asked; scontrol requeue "$SLURM_JOB_ID"' USR1
    sleep 600 & wait $! || true
    sleep 600"""
    head = "#SBATCH --time=0:30 --signal=B:USR1@29 --open-mode=append"
    job, (state,) = run(tmp_path, lines, head)
    assert (state.state, state.restarts) == ("COMPLETED", 1)
    assert job.output().split("\n")[:3] == ["start 0", "asked", "start 1"]


def test_at_its_limit_a_job_is_ended_with_all_that_it_has_started(tmp_path):
    lines = "trap 'echo saving; exit 1' TERM\nsleep 600 & echo $! > child\nwait"
    job, (state,) = run(tmp_path, lines, "#SBATCH --time=0:01")
    assert (state.state, state.reason) == ("TIMEOUT", "TimeLimit")
    assert "cancelled due to its time limit" in job.output()
    assert "saving" in job.output()
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))


def test_a_job_is_cancelled_and_leaves_nothing(tmp_path):
    job = run(tmp_path, "trap '' TERM\nsleep 600 & echo $! > child\nwait", wait=False)
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    job.cancel()
    (state,) = job.wait(HANG_S, progress=False)
    assert state.state == "CANCELLED"
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))


def test_a_runner_that_is_killed_is_no_job_that_runs_for_ever(tmp_path):
    job = run(tmp_path, "echo $$ > shell; sleep 600", wait=False)
    until(lambda: (tmp_path / "shell").exists() and (tmp_path / "shell").read_text().strip())
    pid = int((tmp_path / local_runner.FOLDER / job.number / "runner.json").read_text().strip("[]").split(",")[0])
    os.kill(pid, signal.SIGKILL)
    os.killpg(int((tmp_path / "shell").read_text()), signal.SIGKILL)
    (state,) = job.wait(HANG_S, progress=False)
    assert (state.state, state.reason) == ("NODE_FAIL", "RunnerKilled")


def test_a_runner_that_nobody_has_asked_how_it_ended_does_not_run(tmp_path):
    program = "import os; pid = os.fork(); pid or os._exit(0); print(pid, flush=True); input()"
    parent = psutil.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    zombie = psutil.Process(int(parent.stdout.readline()))
    until(lambda: zombie.status() == psutil.STATUS_ZOMBIE)
    (tmp_path / "runner.json").write_text(json.dumps([zombie.pid, zombie.create_time()]))
    assert not local_runner._runs(tmp_path)
    parent.communicate(b"\n")


def test_a_job_that_ends_while_somebody_asks_has_not_failed(tmp_path, monkeypatch):
    job, _ = run(tmp_path, "true")
    spool = tmp_path / local_runner.FOLDER / job.number
    ended = (spool / "state.json").read_text()
    (spool / "state.json").write_text(ended.replace("COMPLETED", "RUNNING"))

    def ends_meanwhile(spool):
        (spool / "state.json").write_text(ended)
        return False

    monkeypatch.setattr(local_runner, "_runs", ends_meanwhile)
    assert [state.state for state in job.states()] == ["COMPLETED"]


def test_no_time_limit_and_another_interpreter_are_as_in_slurm(tmp_path):
    script = f"#!{sys.executable} -I\n#SBATCH --time=0\nimport sys\nprint(sys.flags.isolated)\n"
    job = submit(script, tmp_path, local=True)
    assert [state.state for state in job.wait(HANG_S, progress=False)] == ["COMPLETED"]
    assert job.output() == "1\n"


def test_a_folder_that_the_output_needs_and_nobody_has_made_fails_the_job(tmp_path):
    _, (state,) = run(tmp_path, "true", "#SBATCH --output=logs/%j.out")
    assert state.state == "FAILED"
    assert state.reason.startswith(f"No such file or directory: {tmp_path}/logs/")


def test_who_waits_too_long_is_told_how_the_job_stands(tmp_path):
    job = run(tmp_path, "sleep 600", wait=False)
    with pytest.raises(
        TimeoutError, match=r"job \d+ is not done after 0.1 s: (RUNNING|PENDING) .*; wait on, or cancel"
    ):
        job.wait(0.1, progress=False)
    job.cancel()
    job.wait(HANG_S, progress=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("srun --exclusive hostname", "srun (the course's local runner): does not know --exclusive"),
        ("srun --nodes=3 hostname", "3 nodes are more than the job's 1"),
        ("srun --ntasks=9 hostname", "9 tasks are more than 1 nodes x 1"),
        ("srun", "no command"),
        ("scontrol update x", "scontrol (the course's local runner): does not know: update x"),
        ("scontrol requeue 5", "does not know: requeue 5"),
        ("scontrol show hostnames alvis[1-2]", "alvis[1-2] are no nodes of this job"),
    ],
)
def test_what_the_tools_cannot_do_is_one_line(tmp_path, words, line):
    job, (state,) = run(tmp_path, words)
    assert state.state == "FAILED"
    assert line in job.output()
    assert len(job.output().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("echo hello", "a job script begins with a line such as #!/bin/bash"),
        ("#!/bin/bash\n#SBATCH --time=soon", "'soon' is no time limit"),
        ("#!/bin/bash\n#SBATCH --array=all", "'all' are no tasks of an array"),
        ("#!/bin/bash\n#SBATCH --signal=USR1@60", "'USR1@60' is no signal that the local runner sends: B:USR1@60"),
        ("#!/bin/bash\n#SBATCH --signal=B:NOSUCH@60", "'B:NOSUCH@60' is no signal"),
        ("#!/bin/bash\n#SBATCH --job-name='half", "No closing quotation"),
        ("#!/bin/bash\n#SBATCH --nodes=2-4", "--nodes=2-4: the local runner takes a whole number from 1 on"),
        ("#!/bin/bash\n#SBATCH --ntasks-per-node=-1", "--ntasks-per-node=-1: the local runner takes a whole number"),
        ("#!/bin/bash\n#SBATCH --cpus-per-task=0", "--cpus-per-task=0: the local runner takes a whole number"),
        ("#!/bin/bash\n#SBATCH --array=3-1", "from 3 to 1 by 1 are no tasks"),
        ("#!/bin/bash\n#SBATCH --array=1-3:0", "from 1 to 3 by 0 are no tasks"),
        ("#!/bin/bash\n#SBATCH --array=0-999999999", "more than 1000"),
        ("#!/bin/bash\n#SBATCH --open-mode=both", "--open-mode=both: it is append or truncate"),
        ("#!/bin/bash\n#SBATCH --output=%N.out", "knows %x, %j, %A, %a, and not %N"),
        ("#!/bin/bash\n#SBATCH --job-name=a/b", "--job-name=a/b: a name that may be a file's has no /"),
    ],
)
def test_a_script_that_cannot_be_run_is_refused_before(tmp_path, script, line):
    with pytest.raises(BadJob) as error:
        submit(script, tmp_path, local=True)
    assert line in str(error.value)
    assert not (tmp_path / local_runner.FOLDER).exists()


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"'--nodse=2'.*did you mean --nodes"):
        directives("#!/bin/bash\n#SBATCH --nodse=2")


def test_options_come_before_those_of_the_script(tmp_path):
    job = submit("#!/bin/bash\n#SBATCH --nodes=1\necho $SLURM_NNODES\n", tmp_path, local=True, options=["--nodes=2"])
    job.wait(HANG_S, progress=False)
    assert job.output().split() == ["2"]


def test_what_is_a_comment_to_slurm_is_one_here():
    script = "#!/bin/bash\n#SBATCH --nodes=2  # two\n\n# text\n#SBATCH --requeue\necho\n#SBATCH --nodes=3\n"
    assert directives(script) == {"nodes": "2", "requeue": ""}
    assert limit_seconds("1-00:30:00") == 88200
    assert task_numbers("3") == [3]
    assert task_numbers("3,1-2,2") == [1, 2, 3]
    assert limit_seconds("0") == math.inf
    assert signal_of("B:SIGTERM") == (signal.SIGTERM, 60)


def test_without_slurm_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_no_slurm() == "there is no sbatch on the path: jobs go through the local runner"
    with pytest.raises(NotSubmitted, match="there is no sbatch on the path"):
        submit("#!/bin/bash\ntrue\n", tmp_path, local=False)


def test_a_slurm_that_does_not_answer_is_one_line(monkeypatch, tmp_path):
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sinfo: error: no controller' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    line = "sbatch is there, but its Slurm does not answer (sinfo: no controller): jobs go through the local runner"
    assert why_no_slurm() == line
