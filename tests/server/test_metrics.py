"""The page for monitors: what a test counted by hand, at vLLM's names, while the engine goes on as before."""

import queue
import time

import httpx
import openai
import pytest

from llmhw_helpers.measure.scrapes import read_page, scrape
from llmhw_helpers.server import metrics
from llmhw_helpers.server.metrics import ServingMetrics
from llmhw_helpers.server.server import served_at
from llmhw_helpers.server.worker import EngineFailed, Worker
from llmhw_helpers.serving.kv_folder import KVFolder

WAIT = 20  # seconds
STEP = 0.25  # seconds on the clock of these tests, which stands still between steps


class Watched:
    """A worker on a clock of its own, its page, and what its engine's steps read."""

    def __init__(self, engine, monkeypatch):
        self.now, self.read = 100.0, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        step = engine.step

        def stepped():
            before = engine.statistics.n_read
            self.now += STEP
            requests = step()
            self.read.append(engine.statistics.n_read - before)
            return requests

        monkeypatch.setattr(engine, "step", stepped)
        self.engine, self.worker = engine, Worker(engine)
        self.metrics = ServingMetrics(self.worker, "tiny")

    def ask(self, prompts, n_new, **how):
        events, texts = queue.Queue(), 0
        job = self.worker.submit(prompts, n_new, events.put, **how)
        while texts < job.n_answers:
            event = events.get(timeout=WAIT)
            if isinstance(event, Exception):
                raise event
            texts += event.finished is not None
        return job

    def page(self):
        return read_page(self.metrics.page().decode())


@pytest.fixture
def watched(new_engine, monkeypatch):
    watched = Watched(new_engine(max_step_tokens=16), monkeypatch)
    yield watched
    watched.worker.close()


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def mean(page, name):
    return page.total(f"{name}_sum") / page.total(f"{name}_count")


def test_one_answer_on_a_clock(watched):
    """A prompt of 20 tokens in steps of 16: two steps to the first token, and one for each of the four others.

    The request came two seconds before the engine had it.
    """
    watched.ask([[*range(20)]], 5, arrived=watched.now - 2)
    page = watched.page()
    assert watched.read == [16, 4, 1, 1, 1, 1]
    for name, seconds in (
        ("vllm:time_to_first_token_seconds", 2 + 2 * STEP),
        ("vllm:request_prefill_time_seconds", 2 * STEP),
        ("vllm:request_queue_time_seconds", 2.0),
        ("vllm:inter_token_latency_seconds", STEP),
        ("vllm:request_time_per_output_token_seconds", STEP),
        ("vllm:request_decode_time_seconds", 4 * STEP),
        ("vllm:request_inference_time_seconds", 6 * STEP),
        ("vllm:e2e_request_latency_seconds", 2 + 6 * STEP),
        ("llmhw:step_seconds", STEP),
    ):
        assert mean(page, name) == pytest.approx(seconds), name
    for name, count in (
        ("vllm:inter_token_latency_seconds_count", 4),
        ("llmhw:step_seconds_count", 6),
        ("vllm:iteration_tokens_total_sum", 24),
        ("vllm:prompt_tokens_total", 20),
        ("vllm:prompt_tokens_cached_total", 0),
        ("vllm:generation_tokens_total", 5),
        ("vllm:request_prompt_tokens_sum", 20),
        ("vllm:request_generation_tokens_sum", 5),
        ("vllm:prefix_cache_queries_total", 20),
        ("vllm:prefix_cache_hits_total", 0),
        ("vllm:num_requests_running", 0),
        ("vllm:num_requests_waiting", 0),
        ("vllm:kv_cache_usage_perc", 0),
    ):
        assert page.total(name) == count, name
    assert page.total("vllm:time_to_first_token_seconds_bucket", le="5.0") == 1
    assert page.total("vllm:time_to_first_token_seconds_bucket", le="2.0") == 0
    assert page.by("vllm:request_success_total", "finished_reason") == {"length": 1, "stop": 0, "abort": 0, "error": 0}
    (labels, one), *_ = page.samples["vllm:cache_config_info"]
    assert (labels["num_gpu_blocks"], labels["block_size"], labels["model_name"], one) == ("256", "4", "tiny", 1)


def test_what_is_found_in_the_cache_and_several_answers(watched):
    prompt = [*range(20)]
    watched.ask([prompt], 2)
    watched.ask([prompt, [7, 7, 7]], 3, n=2)
    page = watched.page()
    assert page.total("vllm:prompt_tokens_total") == 20 + 20 + 3  # once a prompt
    assert page.total("vllm:prefix_cache_queries_total") == 43
    assert page.total("vllm:prefix_cache_hits_total") == page.total("vllm:prompt_tokens_cached_total") == 16
    assert page.total("vllm:generation_tokens_total") == 2 + 4 * 3
    assert page.total("vllm:time_to_first_token_seconds_count") == 5
    assert page.total("vllm:inter_token_latency_seconds_count") == 1 + 4 * 2
    assert page.total("vllm:request_queue_time_seconds_count") == 5
    assert page.total("vllm:request_success_total", finished_reason="length") == 5
    assert "vllm:external_prefix_cache_hits_total" in page.samples
    assert page.total("vllm:external_prefix_cache_queries_total") == 0  # there is no folder


def test_who_waits_for_a_place_has_waited_in_the_queue(new_engine, monkeypatch):
    """Two places for three answers: the third begins when the first two have ended, after five steps."""
    watched = Watched(new_engine(max_batch_size=2), monkeypatch)
    seen = []
    step = watched.engine.step

    def stepped():
        seen.append(watched.page())
        return step()

    monkeypatch.setattr(watched.engine, "step", stepped)
    watched.ask([[1], [2], [3]], 5)
    watched.worker.close()
    page = watched.page()
    assert page.total("vllm:request_queue_time_seconds_sum") == pytest.approx(5 * STEP)
    assert page.total("vllm:time_to_first_token_seconds_sum") == pytest.approx((1 + 1 + 6) * STEP)
    assert page.total("vllm:e2e_request_latency_seconds_sum") == pytest.approx((5 + 5 + 10) * STEP)
    waiting, running = ([each.total(f"vllm:num_requests_{name}") for each in seen] for name in ("waiting", "running"))
    assert waiting == [3, 1, 1, 1, 1, 1, 0, 0, 0, 0]  # before each step
    assert running == [0, 2, 2, 2, 2, 0, 1, 1, 1, 1]
    assert seen[1].total("vllm:kv_cache_usage_perc") == pytest.approx(2 / 256)


def test_how_answers_end(watched, new_engine, monkeypatch):
    first = new_engine().generate([[3, 1, 4]], 1)[0][0]
    watched.ask([[3, 1, 4]], 9, stop=[first])  # with no token at all
    page = watched.page()
    assert page.total("vllm:request_success_total", finished_reason="stop") == 1
    assert page.total("vllm:prompt_tokens_total") == 3
    assert page.total("vllm:generation_tokens_total") == page.total("vllm:time_to_first_token_seconds_count") == 0
    events = queue.Queue()
    job = watched.worker.submit([[5]], 400, events.put)
    events.get(timeout=WAIT)
    watched.worker.cancel(job)
    until(lambda: job.ended)
    until(lambda: watched.page().total("vllm:request_success_total", finished_reason="abort") == 1)
    page = watched.page()
    assert page.total("vllm:e2e_request_latency_seconds_count") == 1  # of the one that came to its end
    assert page.total("vllm:generation_tokens_total") == len(job.answers[0].request.output) > 0
    monkeypatch.setattr(watched.engine.served, "forward", None)
    with pytest.raises(EngineFailed):
        watched.ask([[1]], 2)
    assert watched.page().total("llmhw:step_failures_total") == 1


def test_blocks_that_were_given_back_and_a_folder(new_engine, monkeypatch, tmp_path):
    watched = Watched(new_engine(n_blocks=12, kv_folder=KVFolder(tmp_path / "kv", 1e6)), monkeypatch)
    watched.ask([[1] * 9, [2] * 9], 30)
    page = watched.page()
    assert page.total("vllm:num_preemptions_total") == watched.engine.statistics.n_preempted > 0
    assert page.total("vllm:prompt_tokens_total") == 18  # once, however often they were read again
    watched.worker.close()
    again = Watched(new_engine(n_blocks=12, kv_folder=KVFolder(tmp_path / "kv", 1e6)), monkeypatch)
    again.ask([[1] * 9], 2)
    page = again.page()
    again.worker.close()
    assert page.total("vllm:external_prefix_cache_queries_total") == 9
    assert page.total("vllm:external_prefix_cache_hits_total") == page.total("vllm:prompt_tokens_cached_total") == 8
    assert page.total("vllm:prefix_cache_hits_total") == 0


def test_over_http(new_engine, letters):
    with served_at(new_engine(), name="tiny") as url:
        address = url.removesuffix("/v1") + "/metrics"
        with openai.OpenAI(base_url=url, api_key="any", timeout=WAIT, max_retries=0) as client:
            how = {"model": "tiny", "prompt": "hello", "temperature": 0, "max_tokens": 7}
            usages = [client.completions.create(**how).usage for _ in range(3)]
            with pytest.raises(openai.NotFoundError):
                client.completions.create(**(how | {"model": "huge"}))
        page = scrape(url)
        assert page.total("vllm:generation_tokens_total") == sum(usage.completion_tokens for usage in usages)
        assert page.total("vllm:prompt_tokens_total") == sum(usage.prompt_tokens for usage in usages)
        found = sum(usage.prompt_tokens_details.cached_tokens for usage in usages)
        assert page.total("vllm:prefix_cache_hits_total") == found > 0
        assert page.by("llmhw:requests_refused_total", "status") == {"404": 1}
        assert page.by("vllm:request_success_total", "model_name").keys() == {"tiny"}
        asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"  # as Prometheus does
        answer = httpx.get(address, headers={"Accept": asked})
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "\nvllm:num_requests_running{" in answer.text
        assert httpx.post(address).status_code == 405


def test_two_servers_count_for_themselves(new_engine):
    with served_at(new_engine(), name="a") as one, served_at(new_engine(), name="b") as other:
        httpx.post(f"{one}/completions", json={"prompt": "a", "max_tokens": 3, "ignore_eos": True}, timeout=WAIT)
        assert scrape(one).total("vllm:generation_tokens_total", model_name="a") == 3
        assert scrape(other).total("vllm:generation_tokens_total", model_name="b") == 0


def test_every_number_is_in_the_rooms_table():

    for name in [*metrics.COUNTERS, *metrics.DURATIONS, *metrics.SIZES]:
        assert f"``{name}" in metrics.__doc__ or name.replace("hits", "queries") in metrics.__doc__, name
