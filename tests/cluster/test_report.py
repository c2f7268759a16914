"""Reports: of jobs that finished, were killed, or never began, from real jobs of the local runner."""

import json

import pytest

from llmhw_helpers.cluster import cli
from llmhw_helpers.cluster.forms import BadForm, Form, Line
from llmhw_helpers.cluster.report import report
from llmhw_helpers.cluster.runs import submit
from llmhw_helpers.course.ledger import Ledger

HANG_S = 120
LINES = {
    "memory of a rank": Line("B", 100e6, 120e6, "memory"),
    "tokens per second": Line("", 4000.0, 1000.0, "compute"),
    "a step": Line("s", 0.1, 0.4, "compute"),
    "the work": Line("s", 2.0, 8.0, "compute"),
    "bytes sent in a step": Line("B", 50e6, 55e6, "network"),
    "the job": Line("s", 2.0, 20.0, "compute"),
    "price, A40-hour": Line("", 0.001, 0.01),
}
FACTS = {
    **{"n_ranks": 2.0, "n_steps": 20.0, "steps_done": 20.0, "restarts": 1.0, "steps_lost": 3.0, "saving_s": 1.5},
    **{"process_bytes": 620e6, "step_computed_s": 0.3, "sending_s": 0.05},
    **{"rank_flops_per_s": 25e9, "rank_flops_per_s_predicted": 50e9},
}
FORM = Form(
    "JOB", "bf16 on 2 x A40", "fine-tune", "finished", LINES, FACTS, {"machine": "here", "predicted_for": "here"}
)


def job_with(folder, form, lines="", head="#SBATCH --time=1"):
    """A real job whose script leaves `form` under its own number, and runs `lines`."""
    form.write(folder).rename(folder / "form.json")
    fill_in = 'sed "s/JOB/$SLURM_JOB_ID/" form.json > "job-$SLURM_JOB_ID.json"'
    job = submit(f"#!/bin/bash\n{head}\n{fill_in}\n{lines}\n", folder, local=True)
    job.wait(HANG_S, progress=False)
    return report(job.number, folder)


def changed(status, **facts):
    return Form("JOB", "a plan", "fine-tune", status, LINES, FACTS | {"restarts": 0.0, "steps_lost": 0.0} | facts, {})


def test_a_finished_job_says_what_was_off_and_by_which_figures(tmp_path):
    found = job_with(tmp_path, FORM)
    said = found.sentences
    assert found.finished
    assert list(said) == ["status", "memory", "speed", "efficiency", "energy", "sending", "start-up", "queue", "cost"]
    assert said["status"] == "finished: all 20 steps; started again once, and 3 steps were computed twice"
    memory = "the tensors of a rank took ~120 MB, ~1.2 times as predicted; its process held ~500 MB besides, which "
    assert said["memory"] == memory + "counts against --mem as well"
    assert said["speed"] == (
        "a step took ~400 ms, and the roofline allows ~100 ms; a rank computed for ~300 ms of it and waited for "
        "~100 ms, where what a step sends takes ~50 ms by itself; the machine multiplied ~2 times as slowly as when "
        "it was calibrated"
    )
    assert said["efficiency"] == (
        "~25% of the speed that the roofline allows, when a rank multiplied at ~25 GFLOP/s; ~50 GFLOP/s were calibrated"
    )
    assert said["energy"] == "nobody may read the processor's counters there, so it is not known"
    assert said["sending"] == "all ranks sent ~55 MB in a step, ~1.1 times as predicted"
    assert said["start-up"] == (
        "the job took ~20 s, its work ~8 s: ~12 s went to starting, the first step and checkpoints (~1.5 s)"
    )
    assert said["queue"].startswith("it waited ~")
    assert said["cost"] == "2 ranks for ~20 s, of which ~40% was work: ~0.01 A40-hour, ~10 times as predicted"
    assert str(found).splitlines()[0].endswith("fine-tune as bf16 on 2 x A40; finished")


def test_a_machine_as_fast_as_calibrated_is_not_blamed(tmp_path):
    facts = FACTS | {"rank_flops_per_s": 60e9, "energy_j": 250.0}
    said = job_with(tmp_path, Form("JOB", "a plan", "serve", "finished", LINES, facts, FORM.words)).sentences
    assert "slowly" not in said["speed"]
    assert said["energy"].startswith("the processors of the first node used ~250 joules")
    other = Form("JOB", "a plan", "serve", "finished", LINES, facts, {"machine": "here", "predicted_for": "there"})
    assert job_with(tmp_path, other).sentences["efficiency"].endswith("for another machine: there, not here")


def test_a_job_killed_before_its_first_checkpoint_has_lost_its_steps(tmp_path):
    found = job_with(tmp_path, changed("running", steps_done=4.0), "sleep 600", "#SBATCH --time=0:02")
    assert found.sentences["status"] == (
        "killed after about 4 of 20 steps: its time was up; no checkpoint was there yet, so the 4 steps are lost"
    )
    assert not found.finished


def test_a_job_killed_after_a_checkpoint_goes_on_from_there(tmp_path):
    lines = """
    for step in 2 4; do mkdir -p "checkpoints-$SLURM_JOB_ID/step-$step"; done
    touch "checkpoints-$SLURM_JOB_ID/step-2/contents.json"  # of step 4, not all is there
    exit 137"""
    found = job_with(tmp_path, changed("running", steps_done=5.0), lines)
    kept = "step 2 is saved, and a job of the same number goes on from there"
    assert found.sentences["status"] == f"killed after about 5 of 20 steps: its script failed; {kept}"


@pytest.mark.parametrize(
    ("status", "words", "line"),
    [
        ("stopped", {}, "stopped after 5 of 20 steps, as it was asked to: nothing is saved"),
        ("failed", {"why": "rank 1: ValueError: no"}, "failed after 5 of 20 steps: rank 1: ValueError: no"),
        ("running", {}, "5 of 20 steps when it wrote its form last, and no scheduler knows whether it still runs"),
    ],
)
def test_how_far_a_job_came_is_said_from_its_form_alone(tmp_path, status, words, line):
    form = changed(status, steps_done=5.0)
    path = Form("9", form.plan, form.task, form.status, form.lines, form.facts, words).write(tmp_path)
    found = report(str(path))
    assert found.sentences["status"] == line
    assert "queue" not in found.sentences


def test_a_job_that_ended_before_its_ranks_began_says_its_last_words(tmp_path):
    job = submit("#!/bin/bash\necho no container\nexit 3\n", tmp_path, local=True)
    job.wait(HANG_S, progress=False)
    assert report(job.number, tmp_path).sentences == {
        "status": f"job {job.number} ended before its ranks began: its script failed, with exit code 3; it has printed "
        "no container"
    }


def test_a_job_that_never_started_is_told_from_one_that_waits_and_one_that_nobody_knows(tmp_path, capsys):
    job = submit("#!/bin/bash\n#SBATCH --array=1-2\nsleep 600\n", tmp_path, local=True)
    waiting = report(f"{job.number}_2", tmp_path).sentences["status"]
    assert waiting.startswith(f"job {job.number}_2 has not started: it has waited ~")
    assert waiting.endswith("and the scheduler says Resources")
    with pytest.raises(BadForm, match=f"is an array, and each task has a report of its own: {job.number}_1"):
        report(job.number, tmp_path)
    job.cancel()
    job.wait(HANG_S, progress=False)
    never = f"job {job.number}_2 never started: it was cancelled"
    assert report(f"{job.number}_2", tmp_path).sentences["status"] == never
    assert cli.main([f"{job.number}_2", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [f"status: {never}"]
    assert cli.main(["3", "--folder", str(tmp_path)]) == 1
    line = f"llmhw-report: no form job-3.json in {tmp_path}, and no scheduler knows a job 3 of that folder\n"
    assert capsys.readouterr().err == line


def test_what_was_predicted_before_stays_in_the_ledger(tmp_path):
    path = Form("9", "a plan", "serve", "finished", LINES, FACTS, {}).write(tmp_path)
    ledger = Ledger("a test of reports")
    ledger.predict("serve: a step", 0.1, guess=0.7)
    report(str(path)).to_ledger(ledger)
    entries = ledger.entries()
    assert set(entries) == {f"serve: {name}" for name in LINES}
    assert (entries["serve: a step"]["guess"], entries["serve: a step"]["measured"]) == (0.7, 0.4)
    assert entries["serve: bytes sent in a step"]["predicted"] == 50e6


@pytest.mark.parametrize("content", ['{"kind": "llmhw job", "version"', '{"kind": "llmhw job", "version": 7}'])
def test_a_bad_form_is_one_line_of_the_command(tmp_path, capsys, content):
    (tmp_path / "job-5.json").write_text(content)
    assert cli.main(["5", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("llmhw-report: job-5.json is ")


@pytest.mark.parametrize(
    ("lines", "facts"),
    [
        ({}, {"steps_done": None}),
        ({}, {"n_ranks": None}),
        ({"the job": None}, {}),
        ({"a step": Line("s", 0.1, 0.0)}, {}),
        ({"a step": Line("s", None, 0.4)}, {}),
        ({"bytes sent in a step": None}, {}),
        ({"the job": Line("s", 2.0, 0.0)}, {}),
    ],
)
def test_a_form_that_lacks_a_figure_is_one_line_of_the_command(tmp_path, capsys, lines, facts):
    lines = {name: line for name, line in (LINES | lines).items() if line}
    facts = {name: fact for name, fact in (FACTS | facts).items() if fact is not None}
    path = str(Form("9", "a plan", "serve", "finished", lines, facts, {}).write(tmp_path))
    assert cli.main([path]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("llmhw-report: job-9.json lacks a figure")


@pytest.mark.parametrize(
    ("predicted", "sent", "words"), [(0.0, 0.0, ", as predicted"), (0.0, 5.0, ", where none were predicted")]
)
def test_where_nothing_is_sent_that_is_as_predicted(tmp_path, predicted, sent, words):
    lines = LINES | {"bytes sent in a step": Line("B", predicted, sent)}
    path = str(Form("9", "a plan", "serve", "finished", lines, FACTS, {}).write(tmp_path))
    assert report(path).sentences["sending"].endswith(words)


def test_a_folder_that_is_no_checkpoint_is_passed_over(tmp_path):
    form = Form("9", "a plan", "serve", "stopped", LINES, FACTS, {}).write(tmp_path)
    for step in ("step-7", "step-x"):
        (tmp_path / "checkpoints-9" / step).mkdir(parents=True)
        (tmp_path / "checkpoints-9" / step / "contents.json").touch()
    assert "step 7 is saved" in report(str(form)).sentences["status"]


def test_the_command_prints_for_people_and_for_programs(tmp_path, capsys):
    path = str(Form("9", "a plan", "serve", "finished", LINES, FACTS, {}).write(tmp_path))
    assert cli.main([path, "--no-ledger"]) == 0
    assert "status: finished: all 20 steps" in capsys.readouterr().out
    assert cli.main([path, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["form"]["lines"]["a step"]["measured"] == 0.4
    assert Ledger(cli.NOTEBOOK).entries()["serve: a step"]["measured"] == 0.4
