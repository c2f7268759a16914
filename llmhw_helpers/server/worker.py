"""The engine's own thread: requests come in from any other one, and text goes out as it is written.

Nothing but this thread touches the engine while it works, so that nothing in the engine needs a lock.
"""

import atexit
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..serving.engine import Engine
from ..serving.request import AnswerFailed
from ..serving.sampling import GREEDY, Sampling
from .jobs import STOPPED, Answer, Busy, Closed, EngineFailed, Job, Piece


class Worker:
    """A thread that steps the engine while there is something to do, and sleeps while there is nothing.

    Args:
        engine: with a tokenizer. It belongs to the worker until `close`.
        max_open: answers that are being written or waited for, at most.

    Attributes:
        closing: no more requests are taken; those that are open go on.
        failed: why the engine cannot go on; `None` while it can.
        last_failure: how its last failed step went wrong; `None` if none has.
        n_failures: steps that did.
        watch: told in the worker's thread of the open jobs, after each step (and when that began), and when some end.

    Raises:
        ValueError: an engine without a tokenizer, or no answers allowed.
    """

    def __init__(self, engine: Engine, max_open: int = 64):
        if engine.tokenizer is None:
            raise ValueError("answers are texts: give the engine a tokenizer")
        if max_open < 1:
            raise ValueError(f"at least one answer has to be allowed, not {max_open}")
        self.engine, self.max_open = engine, max_open
        self.closing = False
        self.failed: str | None = None
        self.last_failure: str | None = None
        self.n_failures = 0
        self.watch: Callable[[Sequence[Job], float | None], object] = lambda jobs, began: None  # nobody
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._open: list[Job] = []
        self._n_reading = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread in the middle of a step would crash Python as it ends

    @property
    def n_open(self) -> int:
        """Answers that are being written or waited for, and requests that are being read."""
        with self._changed:
            return self._n_reading + sum(job.n_answers for job in self._arrived + self._open)

    @property
    def n_unfinished(self) -> int:
        """Answers that are being written or waited for; of jobs with several, those that have not ended."""
        with self._changed:
            jobs = self._arrived + self._open
        return sum(
            sum(answer.request.finished is None for answer in job.answers) if job.answers else job.n_answers
            for job in jobs
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a request is being read, before it is known how many answers it asks for, it counts as one.

        Raises:
            as `submit`: there is no place for it.
        """
        with self._changed:
            self.check()
            self._n_reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_reading -= 1

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        n_new: int,
        deliver: Callable[[Piece | Exception], object],
        sampling: Sampling = GREEDY,
        *,
        n: int = 1,
        arrived: float | None = None,
        **changes,
    ) -> Job:
        """Hand over a request, from any thread and without waiting.

        Args:
            prompts: tokens of each.
            n_new, sampling, n, changes: as in `Engine.submit`.
            deliver: called in the worker's thread with each piece, or with the one exception that ends the job. If it
                raises, the job is cancelled.
            arrived: when the request did, in seconds of ``time.perf_counter``; now without.

        Raises:
            Busy: too many answers are open.
            Closed: the worker is closing.
            EngineFailed: the engine cannot go on.
            ValueError: no prompt, more answers than may ever be open, or a setting out of its range.
        """
        arrived = time.perf_counter() if arrived is None else arrived
        job = Job(prompts, n_new, replace(sampling, **changes), n, deliver, arrived)
        with self._changed:
            self.check(job.n_answers)
            self._arrived.append(job)
            self._changed.notify()
        return job

    def check(self, n_answers: int = 1) -> None:
        """Refuse now what `submit` would refuse, with its errors."""
        if not 1 <= n_answers <= self.max_open:
            raise ValueError(f"{n_answers} answers at once: at least 1, and at most {self.max_open}")
        if self.closing:
            raise Closed(STOPPED)
        if self.failed is not None:
            raise EngineFailed(self.failed)
        n_open = self.n_open
        if n_open + n_answers > self.max_open:
            raise Busy(f"{n_open} answers are open, and {self.max_open} may be: ask again in a moment")

    def cancel(self, job: Job) -> None:
        """Nobody waits for `job` any more: before the next step, its blocks are free. From any thread."""
        job.unwanted = True

    def close(self) -> None:
        """End the thread after the step it is in; whoever waits is told. The engine is left with all blocks free.

        What its cache holds goes to its folder, if it has one.
        """
        with self._changed:
            self.closing = self._closed = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _work(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception as error:  # whatever it was, nobody shall wait for ever
                self._recover(error)
        why = Closed(STOPPED) if self.failed is None else EngineFailed(self.failed)
        for job in self._open:
            self._tell(job, why)
            self._cancel(job)
        self._open = []
        if self.failed is None:
            self.engine.flush()

    def _wait(self) -> bool:
        """Until there is something to do; whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.failed or self._arrived or self._open)
            self._open, self._arrived = self._open + self._arrived, []
            return not self._closed and self.failed is None

    def _step(self) -> None:
        for job in self._open:
            if job.unwanted:
                job.accepted.cancel()  # whoever waits for it to be taken waits no longer
                self._cancel(job)
            elif not job.answers:
                self._admit(job)
        self._keep_open()
        began = time.perf_counter()
        if not self._open:
            return
        if not self.engine.step():
            raise RuntimeError("requests are open, and none of them is scheduled")
        self.watch(self._open, began)  # before its client has it, so that nobody has what is not counted
        for job in self._open:
            self._deliver(job)
        self._keep_open()

    def _admit(self, job: Job) -> None:
        if not job.accepted.set_running_or_notify_cancel():
            job.ended = True
            return
        try:
            for prompt in job.prompts:
                first = self.engine.submit(prompt, job.n_new, job.sampling, n=job.n)
                job.answers += [Answer(each, first) for each in (first, *first.siblings)]
        except Exception as error:
            self._cancel(job)
            job.accepted.set_exception(error)
        else:
            job.accepted.set_result(None)

    def _deliver(self, job: Job) -> None:
        for number, answer in enumerate(job.answers):
            request = answer.request
            if request.finished == "error":
                self._cancel(job)
                self._tell(job, AnswerFailed(request.error))
                return
            text = request.text[answer.n_sent :]
            if not answer.ended and (text or request.finished):
                piece = Piece(number, text, request.finished, len(request.output), answer.prompt_of.n_reused)
                answer.n_sent, answer.ended = len(request.text), request.finished is not None
                self._tell(job, piece)
        job.ended = all(answer.ended for answer in job.answers)

    def _recover(self, error: Exception) -> None:
        """All who wait are told; the engine goes on if all of its blocks could be freed."""
        self.n_failures += 1
        self.last_failure = why = f"the engine failed in a step: {type(error).__name__}: {error}"
        try:
            for job in self._open:
                self._cancel(job)
        except Exception as second:
            self.failed = f"{why}; then it could not be cleared: {second}"
        else:
            scheduler, blocks = self.engine.scheduler, self.engine.blocks
            if scheduler.waiting or scheduler.running or blocks.n_free < blocks.n_blocks:
                self.failed = f"{why}; then it could not be cleared"
        for job in self._open:
            self._tell(job, EngineFailed(self.failed or why))
            job.ended = True
        self._keep_open()

    def _cancel(self, job: Job) -> None:
        job.ended = True
        for answer in job.answers:
            self.engine.cancel(answer.request)

    def _tell(self, job: Job, what: Piece | Exception) -> None:
        try:
            if isinstance(what, Exception) and not job.accepted.done():
                job.accepted.set_exception(what)
            job.deliver(what)
        except Exception:  # its client's event loop is gone, and with it whoever waited
            job.unwanted = True

    def _keep_open(self) -> None:
        self.watch(self._open, None)
        with self._changed:
            self._open = [job for job in self._open if not job.ended]
