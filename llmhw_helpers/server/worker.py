"""The engine's own thread: requests come in from any other one, and text goes out as it is written.

Nothing but this thread touches the engine while it works, so that nothing in the engine needs a lock.
"""

import atexit
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from ..serving.engine import Engine
from ..serving.request import AnswerFailed, Request
from ..serving.sampling import GREEDY, Sampling

STOPPED = "the server is being stopped"


class Busy(RuntimeError):
    """As many answers are being written, or waited for, as are allowed: ask again later."""


class EngineFailed(RuntimeError):
    """A step of the engine went wrong, for all who waited; the message says how."""


class Closed(RuntimeError):
    """The worker takes no more requests."""


@dataclass(frozen=True)
class Piece:
    """What one answer has grown by.

    Attributes:
        answer: its number; all answers to the first prompt come before those to the second.
        text: the new text, perhaps none.
        finished: "stop" or "length" with the last piece, before that `None`.
        n_written: tokens of the whole answer so far.
        n_reused: tokens of its prompt that were found in the cache.
    """

    answer: int
    text: str
    finished: str | None
    n_written: int
    n_reused: int


@dataclass(eq=False)
class _Answer:
    """How much of a request's text its client has."""

    request: Request
    prompt_of: Request  # the first answer to its prompt: the one that the prompt was read for
    n_sent: int = 0  # characters
    ended: bool = False


@dataclass(eq=False)
class Job:
    """What one client waits for: `n` answers to each of its prompts.

    Attributes:
        accepted: done as soon as the engine has taken all of it; raises what `Engine.submit` raises.
        unwanted: nobody waits for it any more.
        ended: the worker has nothing to do for it any more.
    """

    prompts: Sequence[Sequence[int]]
    n_new: int
    sampling: Sampling
    n: int
    deliver: Callable[[Piece | Exception], object]
    accepted: Future = field(default_factory=Future)
    unwanted: bool = False
    ended: bool = False
    answers: list[_Answer] = field(default_factory=list)
    n_reused: dict[Request, int] = field(default_factory=dict)

    @property
    def n_answers(self) -> int:
        """How many answers it asks for."""
        return self.n * len(self.prompts)


class Worker:
    """A thread that steps the engine while there is something to do, and sleeps while there is nothing.

    Args:
        engine: with a tokenizer. It belongs to the worker until `close`.
        max_open: answers that are being written or waited for, at most.

    Attributes:
        failed: why the engine cannot go on; `None` while it can.
        last_failure: how its last failed step went wrong; `None` if none has.

    Raises:
        ValueError: an engine without a tokenizer, or no answers allowed.
    """

    def __init__(self, engine: Engine, max_open: int = 64):
        if engine.tokenizer is None:
            raise ValueError("answers are texts: give the engine a tokenizer")
        if max_open < 1:
            raise ValueError(f"at least one answer has to be allowed, not {max_open}")
        self.engine, self.max_open = engine, max_open
        self.failed: str | None = None
        self.last_failure: str | None = None
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._open: list[Job] = []
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread in the middle of a step would crash Python as it ends

    @property
    def n_open(self) -> int:
        """Answers that are being written or waited for."""
        with self._changed:
            return sum(job.n_answers for job in self._arrived + self._open)

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        n_new: int,
        deliver: Callable[[Piece | Exception], object],
        sampling: Sampling = GREEDY,
        *,
        n: int = 1,
        **changes,
    ) -> Job:
        """Hand over a request, from any thread and without waiting.

        Args:
            prompts: tokens of each.
            n_new, sampling, n, changes: as in `Engine.submit`.
            deliver: called in the worker's thread with each piece, or with the one exception that ends the job. If it
                raises, the job is cancelled.

        Raises:
            Busy: too many answers are open.
            Closed: `close` was called.
            EngineFailed: the engine cannot go on.
            ValueError: no prompt, more answers than may ever be open, or a setting out of its range.
        """
        job = Job(prompts, n_new, replace(sampling, **changes), n, deliver)
        with self._changed:
            self.check(job.n_answers)
            self._arrived.append(job)
            self._changed.notify()
        return job

    def check(self, n_answers: int = 1) -> None:
        """Refuse now what `submit` would refuse, with its errors."""
        if not 1 <= n_answers <= self.max_open:
            raise ValueError(f"{n_answers} answers at once: at least 1, and at most {self.max_open}")
        if self._closed:
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
        """End the thread after the step it is in; whoever waits is told. The engine is left with all blocks free."""
        with self._changed:
            self._closed = True
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
        for job in self._open if self.failed is None else ():
            self._cancel(job)
        self._open = []

    def _wait(self) -> bool:
        """Until there is something to do; whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.failed or self._arrived or self._open)
            self._open, self._arrived = self._open + self._arrived, []
            return not self._closed and self.failed is None

    def _step(self) -> None:
        for job in self._open:
            if job.unwanted:
                self._cancel(job)
            elif not job.answers:
                self._admit(job)
        self._keep_open()
        if self._open and not self.engine.step():
            raise RuntimeError("requests are open, and none of them is scheduled")
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
                job.answers += [_Answer(each, first) for each in (first, *first.siblings)]
        except Exception as error:
            self._cancel(job)
            job.accepted.set_exception(error)
        else:
            job.accepted.set_result(None)

    def _deliver(self, job: Job) -> None:
        for number, answer in enumerate(job.answers):
            request, first = answer.request, answer.prompt_of
            if request.finished == "error":
                self._cancel(job)
                self._tell(job, AnswerFailed(request.error))
                return
            if first.output or first.finished:  # later it may be preempted, and find what it wrote itself
                job.n_reused.setdefault(first, first.n_reused)
            text = request.text[answer.n_sent :]
            if not answer.ended and (text or request.finished):
                piece = Piece(number, text, request.finished, len(request.output), job.n_reused.get(first, 0))
                answer.n_sent, answer.ended = len(request.text), request.finished is not None
                self._tell(job, piece)
        job.ended = all(answer.ended for answer in job.answers)

    def _recover(self, error: Exception) -> None:
        """All who wait are told; the engine goes on if all of its blocks could be freed."""
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
        with self._changed:
            self._open = [job for job in self._open if not job.ended]
