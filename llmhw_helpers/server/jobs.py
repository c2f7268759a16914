"""What clients wait for, what they get of it piece by piece, and why they may get nothing."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..serving.request import Request
from ..serving.sampling import Sampling

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
class Answer:
    """How much of a request's text its client has, and how much of it has been counted."""

    request: Request
    prompt_of: Request  # the first answer to its prompt: the one that the prompt was read for
    n_sent: int = 0  # characters
    ended: bool = False
    began: float | None = None  # when the step did that first read of it, as a monitor saw it
    n_seen: int = 0  # tokens that a monitor has counted
    seen_prompt: bool = False
    seen_end: bool = False


@dataclass(eq=False)
class Job:
    """What one client waits for: `n` answers to each of its prompts.

    Attributes:
        arrived: when its request did, in seconds of ``time.perf_counter``.
        accepted: done as soon as the engine has taken all of it; raises what `Engine.submit` raises. Cancelled if the
            job is before.
        unwanted: nobody waits for it any more.
        ended: the worker has nothing to do for it any more.
    """

    prompts: Sequence[Sequence[int]]
    n_new: int
    sampling: Sampling
    n: int
    deliver: Callable[[Piece | Exception], object]
    arrived: float = field(default_factory=time.perf_counter)
    accepted: Future = field(default_factory=Future)
    unwanted: bool = False
    ended: bool = False
    answers: list[Answer] = field(default_factory=list)

    @property
    def n_answers(self) -> int:
        """How many answers it asks for."""
        return self.n * len(self.prompts)
