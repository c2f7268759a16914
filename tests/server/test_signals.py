"""What a serving process is told from outside, in real processes: what is open ends well, and the status is 0."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest

from llmhw_helpers.server.signals import Signals
from llmhw_helpers.server.worker import Worker

WAIT = 60  # seconds
PROGRAM = """
import sys, time
from dataclasses import replace
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.server import cli, server
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.specs.models import model

sizes = {"n_layers": 1, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48}
engine = Engine(Served(Transformer(replace(model("SmolLM2-135M"), **sizes))), 64, tokenizer=load_tokenizer())
step, seconds = engine.step, float(sys.argv.pop(1))
engine.step = lambda: time.sleep(seconds) or step()
server._load = lambda options: (engine, "tiny")
server.LAST_SECONDS = 1
sys.exit(cli.main(["--port", "0", *sys.argv[1:]]))
"""
HOW = {"model": "tiny", "prompt": "a", "extra_body": {"ignore_eos": True}}


def dispositions(ignored):
    """Of a fresh shell, whatever started the tests: nohup turns SIGHUP off for all that comes after it."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN if each == ignored else signal.SIG_DFL)


@contextmanager
def serving(*options, ignored=None, step_seconds=0.01):
    """A process, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(step_seconds), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: dispositions(ignored),
    )
    try:
        url = process.stdout.readline().split()[4]
        with openai.OpenAI(base_url=url, api_key="any", timeout=WAIT, max_retries=0) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def refusal(client):
    """What a client is told as soon as the process has heard its signal."""
    for _ in range(1000):
        try:
            client.completions.create(**HOW, max_tokens=1)
        except openai.APIStatusError as error:
            return error.status_code, error.body["message"]
    return None


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGHUP])
def test_it_takes_nobody_and_finishes_what_is_open(which):
    with serving("--grace", "1000") as (process, client):  # of which it takes what it needs
        stream = client.completions.create(**HOW, max_tokens=150, stream=True)
        next(stream)
        process.send_signal(which)
        assert refusal(client) == (503, "the server is being stopped")
        answer = httpx.get(str(client.base_url).replace("/v1/", "/health"))
        assert (answer.status_code, answer.json()["status"]) == (503, "the server is being stopped")
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
        out, err = process.communicate(timeout=WAIT)
        assert (process.returncode, out, err) == (0, "Stopped.\n", "")


def test_it_waits_no_longer_than_it_was_told():
    with serving("--grace", "0") as (process, client):
        stream = client.completions.create(**HOW, max_tokens=900, stream=True)
        next(stream)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            list(stream)
        out, err = process.communicate(timeout=WAIT)
        assert (process.returncode, out, err) == (0, "Stopped.\n", "")


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_waits_is_told_even_if_the_step_takes_longer_than_clients_have_to_read(stream):
    with serving("--grace", "0", step_seconds=3) as (process, client), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: list(client.completions.create(**HOW, max_tokens=9, stream=stream)))
        health = str(client.base_url).replace("/v1/", "/health")
        while not httpx.get(health).json()["n_open"]:
            pass
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            asked.result(WAIT)
        out, err = process.communicate(timeout=WAIT)
        assert (process.returncode, out, err) == (0, "Stopped.\n", "")


def test_told_twice_it_ends_now_and_what_is_ignored_stays_so():
    with serving("--grace", "1000", ignored=signal.SIGHUP) as (process, client):
        stream = client.completions.create(**HOW, max_tokens=900, stream=True)
        next(stream)
        process.send_signal(signal.SIGHUP)  # as nohup has it
        for _ in range(20):
            next(stream)
        assert client.completions.create(**HOW, max_tokens=1).usage.completion_tokens == 1
        process.send_signal(signal.SIGTERM)
        assert refusal(client) == (503, "the server is being stopped")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            list(stream)
        out, err = process.communicate(timeout=WAIT)
        assert (process.returncode, out, err) == (0, "Stopped.\n", "")


def test_a_thread_that_is_not_the_main_one_is_told_nothing(new_engine):
    worker, before = Worker(new_engine()), signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(Signals(worker, 1.0).listen).result() is None
    assert signal.getsignal(signal.SIGTERM) == before
    worker.close()
