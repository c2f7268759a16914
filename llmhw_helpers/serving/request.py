"""One request to the engine: its text so far, where its cache lies, how it wants to go on, and when it got what."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ..llm.tokenizer import Tokenizer
from .sampling import GREEDY, Sampling


class AnswerFailed(RuntimeError):
    """One answer ended in an error of its own; the message says which. All others go on."""


@dataclass(eq=False)
class Request:
    """A text that is being written.

    Attributes:
        prompt: its tokens.
        n_new: tokens to write, at most (vLLM: `max_tokens`).
        arrival: its place in the order of arrival.
        sampling: how it goes on.
        tokens: the prompt and what has been written.
        block_table: the blocks of its cache, in the order of the text; empty while it waits.
        block_hashes: of the full blocks of its text, as far as they were needed.
        n_cached: tokens whose keys and values the blocks hold (vLLM: `num_computed_tokens`).
        n_reused: prompt tokens that were found in the cache when it was first let in (vLLM: `num_cached_tokens`).
        n_reloaded: of these, from the cache's folder.
        n_preempted: how often it had to give its blocks back.
        finished: why it ended: "stop", "length", "cancelled" or "error"; `None` while it goes on.
        error: what went wrong.
        writer: makes text of its tokens; `None` in an engine without a tokenizer.
        siblings: other answers to the same prompt, which begin when it has been read.
        times: when it was submitted, and when each token came, in seconds.
    """

    prompt: list[int]
    n_new: int
    arrival: tuple[int, int]
    sampling: Sampling = GREEDY
    writer: "Writer | None" = None
    generator: torch.Generator | None = None
    tokens: list[int] = field(default_factory=list)
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    n_cached: int = 0
    n_reused: int = 0
    n_reloaded: int = 0
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

    def fail(self, error: Exception) -> None:
        """It ends here, and its first error is the reason."""
        self.finished = "error"
        self.error = self.error or f"{type(error).__name__}: {error}"

    def check(self) -> None:
        """Nothing, unless it ended in an error.

        Raises:
            AnswerFailed: it did.
        """
        if self.finished == "error":
            raise AnswerFailed(self.error)

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

    Special tokens have no text, so that an answer never shows the control tokens of a conversation.

    Attributes:
        text: what is certain.
        stopped: a stop string has come; the text ends before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Iterable[str] = ()):
        self._characters, self._stops = tokenizer.characters(special=False), tuple(stop_strings)
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
        end = len(self._pending)
        if any(stop in self._pending for stop in self._stops):
            self.stopped, end = True, _cut(self._pending, self._stops)
        elif not last:
            end -= max((_overlap(self._pending, stop) for stop in self._stops), default=0)
        new, self._pending = self._pending[:end], self._pending[end:]
        self.text += new
        return new


def _cut(text: str, stops: Iterable[str]) -> int:
    """Where `text` ends: before the stop string that is complete first, of several before the longest of them."""
    begins = {stop: text.find(stop) for stop in stops if stop in text}
    complete = min(begin + len(stop) for stop, begin in begins.items())
    return min(begin for stop, begin in begins.items() if begin + len(stop) == complete)


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
