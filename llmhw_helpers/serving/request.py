"""One request to the engine: its text so far, where its cache lies, how it wants to go on, and when it got what."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch

from ..llm.sampling import check_settings
from ..llm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, as in ``llm.sampling``, and when to end.

    Args:
        n_new: tokens at most.
        temperature, top_k, top_p: as in ``llm.sampling.probabilities``; the best token each time without.
        seed: the same one draws the same tokens, whoever shares the batch.
        stop: tokens that end the answer; they are not part of it.
        stop_strings: texts that do.

    Raises:
        ValueError: a setting out of its range.
    """

    n_new: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Collection[int] = ()
    stop_strings: Collection[str] = ()

    def __post_init__(self):
        check_settings(self.temperature, self.top_k, self.top_p)


@dataclass(eq=False)
class Request:
    """A text that is being written.

    Attributes:
        prompt: its tokens.
        sampling: how it goes on.
        arrival: its place in the order of arrival.
        tokens: the prompt and what has been written.
        block_table: the blocks of its cache, in the order of the text; empty while it waits.
        n_cached: tokens whose keys and values they hold.
        n_reused: prompt tokens that were found in the cache when it was first let in.
        n_preempted: how often it had to give its blocks back.
        finished: why it ended: "stop", "length", "cancelled" or "error"; `None` while it goes on.
        error: what went wrong.
        writer: makes text of its tokens; `None` in an engine without a tokenizer.
        siblings: other answers to the same prompt, which begin when it has been read.
        times: when it was submitted, and when each token came, in seconds.
    """

    prompt: list[int]
    sampling: Sampling
    arrival: tuple[int, int]
    writer: "Writer | None" = None
    generator: torch.Generator | None = None
    tokens: list[int] = field(default_factory=list)
    block_table: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    n_cached: int = 0
    n_reused: int = 0
    n_preempted: int = 0
    finished: str | None = None
    error: str | None = None
    siblings: list["Request"] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.tokens = list(self.prompt)

    @property
    def n_unread(self) -> int:
        """Tokens that the model has yet to read: one while it writes."""
        return len(self.tokens) - self.n_cached

    @property
    def output(self) -> list[int]:
        """The tokens written so far."""
        return self.tokens[len(self.prompt) :]

    @property
    def text(self) -> str:
        """What they say, as far as it can be told: see `Writer`."""
        return self.writer.text

    @property
    def time_to_first_token(self) -> float:
        """Seconds (TTFT)."""
        return self.times[1] - self.times[0]

    @property
    def time_per_output_token(self) -> float:
        """Mean seconds between the tokens after the first (TPOT); NaN where there is only one."""
        n_gaps = len(self.times) - 2
        return (self.times[-1] - self.times[1]) / n_gaps if n_gaps > 0 else float("nan")


class Writer:
    """Text from tokens as they come. It keeps back what may turn out to be half a character, or a stop string.

    Attributes:
        text: what is certain.
        stopped: a stop string has come; the text ends before it.

    Raises:
        ValueError: an empty stop string, which would stop everything.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Iterable[str] = ()):
        self._characters, self._stops = tokenizer.characters(), tuple(stop_strings)
        if not all(self._stops):
            raise ValueError("a stop string has at least one character")
        self._pending, self.text, self.stopped = "", "", False

    def push(self, token: int) -> str:
        """One token more; what it adds to the text."""
        return self._add(self._characters.push(token), last=False)

    def close(self) -> str:
        """No token more: what was kept back."""
        return self._add(self._characters.close(), last=True)

    def _add(self, piece: str, last: bool) -> str:
        if self.stopped:
            return ""
        self._pending += piece
        found = [(self._pending.find(stop) + len(stop), stop) for stop in self._stops if stop in self._pending]
        end = len(self._pending)
        if found:  # the first one to be complete counts, wherever the text was cut into tokens
            self.stopped, end = True, min(at - len(stop) for at, stop in found if at == min(found)[0])
        elif not last:
            end -= max((_overlap(self._pending, stop) for stop in self._stops), default=0)
        new, self._pending = self._pending[:end], self._pending[end:]
        self.text += new
        return new


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
