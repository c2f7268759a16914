"""What a training run tells a monitor: each rank a page of numbers, in Prometheus' format, at a port of its own.

- ``train_step_seconds`` (histogram): a step, from its first wait to its end
- ``train_busy_seconds_total`` (counter): of these, in which this rank waited for nobody
- ``train_waiting_seconds_total`` (counter): in which it waited, by ``waits_for``: data, ranks
- ``train_tokens_total`` (counter): tokens trained on
- ``train_loss`` (gauge): of the last step
- ``train_last_step_timestamp_seconds`` (gauge): when the last step ended, or the page began; as ``time.time``
- ``process_...`` (both): processor time, memory and files of the process (Linux)

All have the label ``rank``. Ranks that wait for one another end their steps together: the slowest of them is found by
its busy seconds, which nobody shares.
"""

import json
import math
import socket
import time
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from ..files import write_whole

STEP_SECONDS = tuple(digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5))  # buckets: 1 ms to 500 s
LOCAL, EVERYBODY = "127.0.0.1", "0.0.0.0"


class PortTaken(OSError):
    """The port cannot be listened at: the message says why, and names a free one."""


class Exporter:
    """A page about one rank's training, for as long as it is open: by ``with``, or until `close`.

    Args:
        port: where to listen; 0 takes a free one. Give each rank a port of its own: the page is of one process.
        rank: the label of every number.
        host: for whom: by default for this machine alone; ``"0.0.0.0"`` for whoever reaches it over the network.

    Attributes:
        port, url: where the page is.

    Raises:
        PortTaken: somebody listens there, or nobody may.

    >>> with Exporter(rank=3) as exporter:
    ...     exporter.observe_step(0.25, tokens=2048, loss=3.5)
    ...     exporter.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(self, port: int = 0, rank: int = 0, host: str = LOCAL):
        self.rank = rank
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def new(kind: type, name: str, what: str, **how) -> Counter | Gauge | Histogram:
            return kind(name, what, ["rank"], registry=registry, **how).labels(rank=str(rank))

        self._step = new(Histogram, "train_step_seconds", "a step of this rank", buckets=STEP_SECONDS)
        self._busy = new(Counter, "train_busy_seconds", "of the steps' time, in which it waited for nobody")
        waiting = Counter("train_waiting_seconds", "in which it waited", ["rank", "waits_for"], registry=registry)
        self._waits = {what: waiting.labels(rank=str(rank), waits_for=what) for what in ("data", "ranks")}
        self._tokens = new(Counter, "train_tokens", "tokens trained on")
        self._loss = Gauge("train_loss", "of the last step", ["rank"], registry=registry)  # none before the first
        self._last = new(Gauge, "train_last_step_timestamp_seconds", "when the last step ended")
        self._last.set(time.time())
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            raise PortTaken(_why_not(host, port, error)) from None
        self.port = self._server.server_port
        self.url = f"http://{LOCAL if host == EVERYBODY else host}:{self.port}/metrics"
        self._announced: Path | None = None

    def observe_step(
        self,
        seconds: float,
        tokens: int,
        loss: float | None = None,
        *,
        waited_for_data: float = 0.0,
        waited_for_ranks: float = 0.0,
    ) -> None:
        """A step is done.

        Args:
            seconds: the whole step, waiting too.
            tokens: that this rank trained on in it.
            loss: of the step; the one before stays without.
            waited_for_data, waited_for_ranks: seconds of the step in which it waited for its batch, and for others.

        Raises:
            ValueError: fewer than no seconds or tokens, or endlessly many, or more waiting than there was time.
        """
        waited = waited_for_data + waited_for_ranks
        if not (0 <= waited <= seconds < math.inf and min(waited_for_data, waited_for_ranks) >= 0 <= tokens < math.inf):
            waits = f"{waited_for_data} s for data and {waited_for_ranks} s for ranks"
            raise ValueError(
                f"a step of {seconds} s and {tokens} tokens that waited {waits}: none may be below 0, or endless"
            )
        self._step.observe(seconds)
        self._busy.inc(seconds - waited_for_data - waited_for_ranks)
        self._waits["data"].inc(waited_for_data)
        self._waits["ranks"].inc(waited_for_ranks)
        self._tokens.inc(tokens)
        if loss is not None:
            self._loss.labels(rank=str(self.rank)).set(loss)
        self._last.set(time.time())

    def announce(self, folder: Path, host: str | None = None, **labels: str) -> Path:
        """Write where the page is into `folder`, as Prometheus' ``file_sd_configs`` reads it; `close` takes it away.

        Args:
            folder: one for all ranks, for example of a job in project storage.
            host: by which Prometheus reaches this node; its own name without.
            labels: more of them, such as ``job_id="1234"``.

        Raises:
            NotSaved: no space, no permission.
        """
        target = {"targets": [f"{host or socket.gethostname()}:{self.port}"], "labels": labels}
        self._announced = Path(folder) / f"rank{self.rank}.json"
        write_whole(self._announced, json.dumps([target]).encode(), "target")
        return self._announced

    def close(self) -> None:
        """Take the page away, and the port with it. A second time does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        if self._announced is not None:
            with suppress(OSError):
                self._announced.unlink()

    def __enter__(self) -> "Exporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _why_not(host: str, port: int, error: OSError | OverflowError) -> str:
    free = ""
    with suppress(OSError), socket.create_server((host, 0)) as other:
        free = f"; port {other.getsockname()[1]} is free, and port 0 takes one"
    return f"no page at port {port}: {getattr(error, 'strerror', None) or error}{free}"
