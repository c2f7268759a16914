"""The panels of the course's dashboard: what each shows, for Grafana and for a notebook without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .quantities import Age, Level, PerEach, PerSecond, Quantile, Quantity
from .scrapes import Scrape
from .series import Series

RANK = ("job_id", "rank")  # of several jobs in one Prometheus, each has its ranks; a run by hand has no job_id


@dataclass(frozen=True)
class Panel:
    """Lines over time with one unit.

    Attributes:
        title: what they show.
        unit: ``"s"``, ``"1"`` for shares of 1, ``"1/s"``, ``"B"``, or empty for plain numbers.
        lines: by name. A quantity that is split by a label is a line for each of its values.
    """

    title: str
    unit: str
    lines: Mapping[str, Quantity]

    def series(self, scrapes: Sequence[Scrape], window_s: float = 10.0) -> Series:
        """The lines as `scrapes` have them, each point over the `window_s` before it.

        A column is named after its line, with the label's value behind it. NaN is where there was nothing to tell.

        Raises:
            ValueError: no scrape at all.
        """
        if not scrapes:
            raise ValueError("no page has been scraped yet: there is nothing to show")
        columns: dict[str, np.ndarray] = {}
        first = 0
        for i, each in enumerate(scrapes):
            while scrapes[first].when < each.when - window_s:
                first += 1
            for line, quantity in self.lines.items():
                for value, number in quantity.of(scrapes[first : i + 1]).items():
                    name = f"{line} {value}".strip()
                    columns.setdefault(name, np.full(len(scrapes), np.nan))[i] = number
        seconds = np.array([each.when for each in scrapes]) - scrapes[0].when
        return Series(seconds, columns, dict.fromkeys(columns, self.unit))


SERVING = (
    Panel(
        "Answers",
        "",
        {"in the batch": Level("vllm:num_requests_running"), "waiting": Level("vllm:num_requests_waiting")},
    ),
    Panel(
        "Tokens a second",
        "1/s",
        {"read": PerSecond("vllm:prompt_tokens_total"), "written": PerSecond("vllm:generation_tokens_total")},
    ),
    Panel(
        "Time to the first token",
        "s",
        {f"{q:.0%} below": Quantile(q, "vllm:time_to_first_token_seconds") for q in (0.5, 0.95)},
    ),
    Panel(
        "Time between tokens",
        "s",
        {f"{q:.0%} below": Quantile(q, "vllm:inter_token_latency_seconds") for q in (0.5, 0.95)},
    ),
    Panel("KV cache in use", "1", {"of all blocks": Level("vllm:kv_cache_usage_perc", ("instance",))}),
    Panel(
        "Prompt tokens found in the cache",
        "1",
        {"of those asked for": PerEach("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")},
    ),
    Panel("Answers that end, a second", "1/s", {"": PerSecond("vllm:request_success_total", ("finished_reason",))}),
    Panel("Answers that give their blocks back, a second", "1/s", {"": PerSecond("vllm:num_preemptions_total")}),
)
TRAINING = (
    Panel("Tokens trained on, a second", "1/s", {"all ranks": PerSecond("train_tokens_total")}),
    Panel("Loss", "", {"rank": Level("train_loss", RANK)}),
    Panel("A step", "s", {"rank": PerEach("train_step_seconds_sum", "train_step_seconds_count", RANK)}),
    Panel(
        "Of a step, busy: who is high holds up the others",
        "s",
        {"rank": PerEach("train_busy_seconds_total", "train_step_seconds_count", RANK)},
    ),
    Panel("Ranks that wait", "", {"for": PerSecond("train_waiting_seconds_total", ("waits_for",))}),
    Panel("Since the last step", "s", {"rank": Age("train_last_step_timestamp_seconds", RANK)}),
)
NODE = (
    Panel("Cores, by what they do", "", {"": PerSecond("node_cpu_seconds_total", ("mode",))}),
    Panel("Memory that is available", "B", {"": Level("node_memory_MemAvailable_bytes", ("instance",))}),
    Panel(
        "Share of the time in which something waits",
        "1",
        {
            "for a core": PerSecond("node_pressure_cpu_waiting_seconds_total", ("instance",)),
            "for the disk": PerSecond("node_pressure_io_waiting_seconds_total", ("instance",)),
            "for memory": PerSecond("node_pressure_memory_waiting_seconds_total", ("instance",)),
        },
    ),
    Panel("Bytes received, a second", "B/s", {"": PerSecond("node_network_receive_bytes_total", ("device",))}),
)
GPU = (
    Panel("A kernel runs (no more than that)", "%", {"GPU": Level("DCGM_FI_DEV_GPU_UTIL", ("instance", "gpu"))}),
    Panel("Tensor cores that work", "1", {"GPU": Level("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", ("instance", "gpu"))}),
    Panel("Memory that is read or written", "1", {"GPU": Level("DCGM_FI_PROF_DRAM_ACTIVE", ("instance", "gpu"))}),
    Panel("Power", "W", {"GPU": Level("DCGM_FI_DEV_POWER_USAGE", ("instance", "gpu"))}),
)
ROWS = {"Serving": SERVING, "Training": TRAINING, "Nodes": NODE, "GPUs": GPU}
