"""What the server tells a monitor: a page of numbers in Prometheus' text format, by its official client library.

Names that begin with ``vllm:`` mean what they mean at vLLM (https://docs.vllm.ai/en/stable/usage/metrics/), so that one
dashboard reads both; those that vLLM has not begin with ``llmhw:``.

- ``vllm:num_requests_running`` (gauge): answers in the engine's batch
- ``vllm:num_requests_waiting`` (gauge): answers that wait for a place in it
- ``vllm:kv_cache_usage_perc`` (gauge): share of the blocks that somebody holds; 1 is all
- ``vllm:cache_config_info`` (gauge): always 1; blocks and their size are its labels
- ``vllm:num_preemptions_total`` (counter): how often an answer gave its blocks back
- ``vllm:prompt_tokens_total`` (counter): of the prompts that have been read, found ones too
- ``vllm:prompt_tokens_cached_total`` (counter): of these, found in the cache or its folder
- ``vllm:generation_tokens_total`` (counter): tokens written
- ``vllm:prefix_cache_queries_total``, ``_hits_total`` (counter): tokens looked for in the cache, and found
- ``vllm:external_prefix_cache_queries_total``, ``_hits_total`` (counter): the same of a ``--kv-dir``
- ``vllm:request_success_total`` (counter): answers that ended, by ``finished_reason``: stop, length, abort, error
- ``vllm:iteration_tokens_total`` (histogram): tokens that a step reads (so it is called, but it is no counter)
- ``vllm:time_to_first_token_seconds`` (histogram): from the request's arrival
- ``vllm:inter_token_latency_seconds`` (histogram): between two tokens of an answer
- ``vllm:request_time_per_output_token_seconds`` (histogram): the mean of these, one for each answer
- ``vllm:e2e_request_latency_seconds`` (histogram): from the request's arrival to its answer's end
- ``vllm:request_queue_time_seconds`` (histogram): until the step that first reads of it
- ``vllm:request_prefill_time_seconds`` (histogram): from then to the first token
- ``vllm:request_decode_time_seconds`` (histogram): from the first token to the last
- ``vllm:request_inference_time_seconds`` (histogram): these two together
- ``vllm:request_prompt_tokens``, ``vllm:request_generation_tokens`` (histogram): of an answer that ended
- ``llmhw:step_seconds`` (histogram): a step of the engine
- ``llmhw:step_failures_total`` (counter): steps that went wrong for all
- ``llmhw:requests_refused_total`` (counter): requests answered with an error, by HTTP's ``status``
- ``process_...`` (both): processor time, memory and files of the process (Linux)

Where a request asks for several answers, its prompt is read, and counted, once; vLLM counts it once an answer.

Not exported: adapters, sleep, speculation, pictures, transfers between engines and floating-point estimates
(``vllm:lora_requests_info``, ``engine_sleep_state``, ``spec_decode_*``, ``mm_cache_*``, ``nixl_*``, ``estimated_*``),
since this engine has none of them; what a request asked for (``request_params_*``), which says nothing of the machine;
``num_requests_waiting_by_reason``, ``prompt_tokens_by_source`` and ``kv_block_*``, which split what is here; and the
names that vLLM gave up (``gpu_cache_usage_perc``, ``time_per_output_token_seconds``).
"""

import time
from collections.abc import Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..serving.request import Request
from .jobs import Answer, Job
from .worker import Worker

COUNTERS = {
    "vllm:prompt_tokens": "tokens of prompts that have been read",
    "vllm:prompt_tokens_cached": "of these, found in the cache or its folder",
    "vllm:generation_tokens": "tokens written",
    "vllm:prefix_cache_queries": "prompt tokens looked for in the cache",
    "vllm:prefix_cache_hits": "prompt tokens found in the cache",
    "vllm:external_prefix_cache_queries": "prompt tokens looked for in the folder",
    "vllm:external_prefix_cache_hits": "prompt tokens found in the folder",
}
DURATIONS = {
    "vllm:time_to_first_token_seconds": "from the request's arrival",
    "vllm:inter_token_latency_seconds": "between two tokens of an answer",
    "vllm:request_time_per_output_token_seconds": "mean time between the tokens of an answer",
    "vllm:e2e_request_latency_seconds": "from the request's arrival to its answer's end",
    "vllm:request_queue_time_seconds": "until the step that first reads of it",
    "vllm:request_prefill_time_seconds": "from then to the first token",
    "vllm:request_decode_time_seconds": "from the first token to the last",
    "vllm:request_inference_time_seconds": "from the step that first reads of it to the last token",
    "llmhw:step_seconds": "a step of the engine",
}
SIZES = {
    "vllm:iteration_tokens_total": "tokens that a step reads",
    "vllm:request_prompt_tokens": "tokens of an ended answer's prompt",
    "vllm:request_generation_tokens": "tokens of an ended answer",
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = tuple(digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5))  # buckets: 1 ms to 500 s
REASONS = {"stop": "stop", "length": "length", "cancelled": "abort", "error": "error"}  # ours, and vLLM's word


class ServingMetrics:
    """Counts what a worker does, beside it: it is told after each step what there is, and asked for a page at any time.

    Args:
        worker: its `watch` is set.
        model_name: a label of every number, beside ``engine="0"``: vLLM numbers the engines behind one address.
    """

    def __init__(self, worker: Worker, model_name: str):
        self._worker, self._labels = worker, {"model_name": model_name, "engine": "0"}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        longest = worker.engine.served.spec.context_length
        sizes = [digit * 10**power for power in range(8) for digit in (1, 2, 5) if digit * 10**power < 2 * longest]
        self._counts = {name: self._new(Counter, name, what).labels(**self._labels) for name, what in COUNTERS.items()}
        self._times = self._histograms(DURATIONS, SECONDS)
        self._sizes = self._histograms(SIZES, sizes)
        ended = self._new(Counter, "vllm:request_success", "answers that ended", "finished_reason")
        self._ended = {ours: ended.labels(**self._labels, finished_reason=theirs) for ours, theirs in REASONS.items()}
        self._refused = self._new(Counter, "llmhw:requests_refused", "requests answered with an error", "status")
        self._n_read = worker.engine.statistics.n_read
        self._n_preempted = worker.engine.statistics.n_preempted
        worker.watch = self.watch

    def page(self) -> bytes:
        """All numbers as they are now, in the text form of `CONTENT_TYPE`.

        Always in this one, although Prometheus would take OpenMetrics': there the client library (0.26) writes
        ``vllm_`` where the name says ``vllm:``, and no dashboard would find it.
        """
        return generate_latest(self._registry)

    def refused(self, status: int) -> None:
        """A request was answered with an error."""
        self._refused.labels(**self._labels, status=str(status)).inc()

    def watch(self, jobs: Sequence[Job], began: float | None) -> None:
        """Count what is new in `jobs`, some of which may have ended; `began` is the step's, if one was done."""
        now = time.perf_counter()
        if began is not None:
            n_read = self._worker.engine.statistics.n_read
            self._times["llmhw:step_seconds"].observe(now - began)
            self._sizes["vllm:iteration_tokens_total"].observe(n_read - self._n_read)
            self._n_read = n_read
        for job in jobs:
            for answer in job.answers:
                if not answer.seen_end:
                    self._see(job, answer, now if began is None else began, now)

    def collect(self) -> Iterator[Metric]:
        """What is looked up when somebody asks."""
        worker, engine = self._worker, self._worker.engine
        n_running, blocks = len(engine.scheduler.running), engine.blocks
        gauges = {
            "vllm:num_requests_running": ("answers in the engine's batch", n_running),
            "vllm:num_requests_waiting": ("answers that wait for a place", max(0, worker.n_unfinished - n_running)),
            "vllm:kv_cache_usage_perc": (
                "share of the blocks that are held; 1 is all",
                1 - blocks.n_free / blocks.n_blocks,
            ),
        }
        for name, (what, value) in gauges.items():
            metric = GaugeMetricFamily(name, what, labels=[*self._labels])
            metric.add_metric([*self._labels.values()], value)
            yield metric
        sizes = {"num_gpu_blocks": str(blocks.n_blocks), "block_size": str(blocks.block_size)}
        info = GaugeMetricFamily("vllm:cache_config_info", "blocks and their size", labels=[*self._labels, *sizes])
        info.add_metric([*self._labels.values(), *sizes.values()], 1)
        yield info
        counters = {
            "vllm:num_preemptions": (
                "answers that gave their blocks back",
                engine.statistics.n_preempted - self._n_preempted,
            ),
            "llmhw:step_failures": ("steps that went wrong for all", worker.n_failures),
        }
        for name, (what, value) in counters.items():
            metric = CounterMetricFamily(name, what, labels=[*self._labels])
            metric.add_metric([*self._labels.values()], value)
            yield metric

    def _see(self, job: Job, answer: Answer, began: float, now: float) -> None:
        request, times = answer.request, answer.request.times
        is_first = request is answer.prompt_of  # the one that the prompt is read for
        was_read = bool(request.output) or request.finished in ("stop", "length", "error")
        if answer.began is None and (was_read or request.n_cached):
            answer.began = began if is_first else next(a.began for a in job.answers if a.request is answer.prompt_of)
            if is_first:
                self._look_up(request)
        if is_first and was_read and not answer.seen_prompt:
            answer.seen_prompt = True
            self._counts["vllm:prompt_tokens"].inc(len(request.prompt))
            self._counts["vllm:prompt_tokens_cached"].inc(request.n_reused)
        for n in range(answer.n_seen, len(request.output)):
            if n:
                self._times["vllm:inter_token_latency_seconds"].observe(times[n + 1] - times[n])
            else:
                self._times["vllm:time_to_first_token_seconds"].observe(times[1] - job.arrived)
        self._counts["vllm:generation_tokens"].inc(len(request.output) - answer.n_seen)
        answer.n_seen = len(request.output)
        if request.finished is not None:
            answer.seen_end = True
            self._ended[request.finished].inc()
            if request.finished in ("stop", "length"):
                self._end(job, answer, now)

    def _look_up(self, request: Request) -> None:
        engine, n_prompt = self._worker.engine, len(request.prompt)
        n_hits = request.n_reused - request.n_reloaded
        if engine.scheduler.sharing:
            self._counts["vllm:prefix_cache_queries"].inc(n_prompt)
            self._counts["vllm:prefix_cache_hits"].inc(n_hits)
        if engine.spill is not None:
            self._counts["vllm:external_prefix_cache_queries"].inc(n_prompt - n_hits)
            self._counts["vllm:external_prefix_cache_hits"].inc(request.n_reloaded)

    def _end(self, job: Job, answer: Answer, now: float) -> None:
        request, times, began = answer.request, answer.request.times, answer.began
        self._times["vllm:e2e_request_latency_seconds"].observe(now - job.arrived)
        self._sizes["vllm:request_prompt_tokens"].observe(len(request.prompt))
        self._sizes["vllm:request_generation_tokens"].observe(len(request.output))
        if request.output:
            self._times["vllm:request_queue_time_seconds"].observe(began - job.arrived)
            self._times["vllm:request_prefill_time_seconds"].observe(times[1] - began)
            self._times["vllm:request_decode_time_seconds"].observe(times[-1] - times[1])
            self._times["vllm:request_inference_time_seconds"].observe(times[-1] - began)
        if len(request.output) > 1:
            self._times["vllm:request_time_per_output_token_seconds"].observe(request.time_per_output_token)

    def _new(self, kind: type, name: str, what: str, *labels: str, **how) -> Counter | Histogram:
        return kind(name, what, [*self._labels, *labels], registry=self._registry, **how)

    def _histograms(self, named: dict[str, str], buckets: Sequence[float]) -> dict[str, Histogram]:
        return {
            name: self._new(Histogram, name, what, buckets=buckets).labels(**self._labels)
            for name, what in named.items()
        }
