"""Threads that take the parts of a step together, and sleep between steps.

All of them belong to the room: the caller waits meanwhile. So an interrupt, which Python sends to its main thread,
can never come between two parts of a step of which one waits for the other.
"""

import atexit
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

Part = Callable[[int, int], None]  # called with a worker's number, and how many there are


class Workers:
    """As many threads as the widest step so far had parts; steps of several callers come one after the other.

    >>> taken = []
    >>> Workers().run(lambda me, n: taken.append((me, n)), 3)
    >>> sorted(taken)
    [(0, 3), (1, 3), (2, 3)]
    """

    def __init__(self):
        self._steps = SimpleQueue()
        self._leader: threading.Thread | None = None
        self._hands: list[_Hand] = []
        self._starting, self._leading = threading.Lock(), threading.Lock()
        self._closed = False

    def run(self, part: Part, n: int) -> None:
        """Call ``part(me, n)`` for every `me` below `n`, each in a thread of its own, and wait until all have ended.

        An interrupt is raised as soon as this step has ended. `part` should let go of the interpreter's lock.

        Raises:
            whatever a part raised first; all others have ended by then.
            ValueError: less than one part.
            RuntimeError: the workers are closed, as they are when Python ends.
        """
        if n < 1:
            raise ValueError(f"a step has at least one part, not {n}")
        self._start()
        step = _Step(part, n)
        try:
            self._steps.put(step)  # one call that no interrupt divides: the step is taken as a whole, or not at all
            error = step.ended.get()
        except BaseException:
            nothing = _Step(lambda me, n: None, 1)
            self._steps.put(nothing)
            nothing.ended.get()  # steps are taken one after the other, so the one before has ended, too
            raise
        if error is not None:
            raise error

    def close(self) -> None:
        """End the threads, after the steps that were asked for."""
        with self._starting:
            self._closed = True
            if self._leader is not None:
                self._steps.put(None)
                self._leader.join()

    def _start(self) -> None:
        with self._starting:
            if self._closed:
                raise RuntimeError("the workers are closed: no step can be taken any more")
            if self._leader is None:
                leader = threading.Thread(target=self._lead, name="decode-0", daemon=True)
                leader.start()
                self._leader = leader

    def _lead(self) -> None:
        """Take part 0 of each step, and hand the others out."""
        if not self._leading.acquire(
            blocking=False
        ):  # interrupted as it started the first leader, a caller started two
            return
        while (step := self._steps.get()) is not None:
            error = None
            try:
                while len(self._hands) < step.n - 1:  # before anybody begins: perhaps there can be no more threads
                    self._hands.append(_Hand(len(self._hands) + 1))
                others = self._hands[: step.n - 1]
                for hand in others:
                    hand.steps.put(step)
                errors = [_taken(step, 0), *(hand.ended.get() for hand in others)]
                error = next((each for each in errors if each is not None), None)
            except BaseException as failed:
                error = failed
            step.ended.put(error)
            del step, error  # or a model would be held until the next step comes
        for hand in self._hands:
            hand.steps.put(None)
            hand.thread.join()


class _Step:
    """What is to be done, in how many parts, and where the caller waits for its end."""

    def __init__(self, part: Part, n: int):
        self.part, self.n = part, n
        self.ended = SimpleQueue()


class _Hand:
    """A thread that takes part `me` of the steps that it is given."""

    def __init__(self, me: int):
        self.me, self.steps, self.ended = me, SimpleQueue(), SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=f"decode-{me}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (step := self.steps.get()) is not None:
            error = _taken(step, self.me)
            del step
            self.ended.put(error)


def _taken(step: _Step, me: int) -> BaseException | None:
    """Do one part; what went wrong."""
    try:
        step.part(me, step.n)
    except BaseException as error:
        return error
    return None


def workers() -> Workers:
    """Those of this process, for all engines in it: what would compete for the same cores takes turns here.

    After a fork the child, which has none of its parent's threads, has its own.
    """
    return _of_this_process


def _anew() -> None:
    global _of_this_process
    atexit.unregister(_of_this_process.close)
    _of_this_process = Workers()
    atexit.register(_of_this_process.close)  # a thread in the middle of a step would use memory that is gone


_of_this_process = Workers()
atexit.register(_of_this_process.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)
