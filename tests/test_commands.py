"""Commands whose output is full, closed, or read by nobody: one line or none, and the right status."""

import io
import os
import subprocess
import sys

import pytest

from llmhw_helpers import commands

PLAN = ("llmhw_helpers.planning.cli", "Llama-3.1-8B", "serve", "A40", "--formats", "bf16")
COMMANDS = {
    "llmhw-plan": [PLAN, (*PLAN, "--json"), (*PLAN, "--script"), (*PLAN, "--vllm"), (PLAN[0], "--help")],
    "llmhw-report": [("llmhw_helpers.cluster.cli", "--help")],
    "llmhw-serve": [("llmhw_helpers.server.cli", "--help")],
}
CASES = [(name, words) for name, cases in COMMANDS.items() for words in cases]
FULL, CLOSED = "No space left on device", "it is closed"


def run(words, redirection, unbuffered=""):
    """The command through a shell, with all that it says on stderr."""
    command = f'"$0" -m "$@" {redirection}'
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", command, sys.executable, *words], capture_output=True, text=True, env=env)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("name", "words"), CASES, ids=lambda case: case if isinstance(case, str) else case[-1])
def test_an_answer_that_is_lost_is_one_line_and_status_1(name, words, unbuffered):
    for redirection, why in (("> /dev/full", FULL), (">&-", CLOSED)):
        said = f"{name}: cannot write to the standard output: {why}\n"
        assert run(words, redirection, unbuffered) == (1, said), redirection


@pytest.mark.parametrize(("name", "words"), CASES, ids=lambda case: case if isinstance(case, str) else case[-1])
def test_a_reader_that_has_gone_is_no_error_of_anybody(name, words):
    assert run(words, "| exit; exit ${PIPESTATUS[0]}") == (commands.NOBODY_READS, "")


def test_what_can_be_written_is_written_and_the_status_is_0(capsys):
    assert commands.put_out("a command", "ä\nb") == 0
    assert tuple(capsys.readouterr()) == ("ä\nb\n", "")


def test_what_comes_after_a_lost_answer_goes_nowhere(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, FULL)

    monkeypatch.setattr(sys, "stdout", Full())
    assert commands.put_out("a command", "first") == 1
    assert commands.put_out("a command", "second") == 0
    assert capsys.readouterr().err == f"a command: cannot write to the standard output: {FULL}\n"
