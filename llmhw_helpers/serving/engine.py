"""The serving engine: many requests, one step after the other, each request as if it were alone.

A step is one pass through the model. The scheduler says whose tokens it reads; the paged cache keeps what it computes.
Logits are those of the text alone but for rounding: several rows may be added up in another order than one. Where two
tokens are equally likely to the last bits, the other one may be written.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import index

import torch

from ..llm.sampling import check_prompt, new_generator, tokens_of
from ..llm.tokenizer import Tokenizer
from .blocks import BlockManager
from .decoding import ServedModel
from .kv_folder import KVFolder, NoFolder
from .paged_cache import PagedCache
from .reading import Scores, read
from .request import Request, Writer
from .sampling import GREEDY, Sampling
from .scheduler import Scheduler
from .spill import Spill
from .statistics import Statistics


class Engine:
    """Requests come and go at any time; all that are running share every step.

    Args:
        served: the model.
        n_blocks, block_size: of the paged cache, which is set aside now (vLLM: `num_gpu_blocks`).
        max_batch_size, max_step_tokens, sharing, continuous: as in `Scheduler`.
        tokenizer: makes text of tokens; needed for stop strings. No token is drawn that it does not have.
        kv_folder: keeps blocks that have to leave the cache, and those of `flush`: they are found there again. The
            model's weights have to stay as they are.

    Attributes:
        cache, blocks, scheduler, spill: its parts; `spill` is `None` without a folder.

    Raises:
        ValueError: sizes below 1, or fewer tokens than requests in a step.
        NoFolder: the folder is too small for a block, or given to an engine that does not share.
    """

    def __init__(
        self,
        served: ServedModel,
        n_blocks: int,
        block_size: int = 16,
        *,
        max_batch_size: int = 8,
        max_step_tokens: int = 256,
        sharing: bool = True,
        continuous: bool = True,
        tokenizer: Tokenizer | None = None,
        kv_folder: KVFolder | None = None,
    ):
        self.served, self.tokenizer = served, tokenizer
        self.blocks = BlockManager(n_blocks, block_size)
        limits = (served.spec.context_length, max_batch_size, max_step_tokens)
        self.scheduler = Scheduler(self.blocks, *limits, sharing=sharing, continuous=continuous)
        self.cache = PagedCache(served.spec, n_blocks, block_size, served.dtype, served.device)
        self.spill = None
        if kv_folder is not None:
            if not sharing:
                raise NoFolder("blocks are found in a folder by their texts, which sharing=False says not to look for")
            self.spill = Spill(kv_folder, served, self.cache, self.blocks)
            self.blocks.evict, self.scheduler.spill = self.spill.evict, self.spill
        self._allowed = tokens_of(tokenizer, served.spec.vocab_size, served.device)
        self._n_submitted = self._n_steps = self._n_read = self._n_written = self._most_blocks = 0
        self._n_slots = self._n_empty = 0

    def submit(
        self, prompt: Sequence[int], n_new: int, sampling: Sampling = GREEDY, *, n: int = 1, **changes
    ) -> Request:
        """Let a request wait until it is scheduled; `step` does the rest (vLLM: `add_request`).

        Args:
            prompt: tokens.
            n_new: tokens to write, at most.
            sampling: how they are chosen, and what ends the answer.
            n: answers; the prompt is read once for all. The others are the request's `siblings`, with other seeds.
            changes: single settings of `sampling`, by name: ``temperature=0.8, seed=5``.

        Raises:
            TokenError: no prompt, one that leaves no room in the context, or a number that is no token.
            NeverFits: more tokens than the context or the cache could ever hold.
            ValueError: a setting out of its range, or stop strings without a tokenizer.
            TypeError: tokens or counts that are no whole numbers: in a step, they would fail for all.
        """
        prompt, n_new, n = [int(index(token)) for token in prompt], index(n_new), index(n)
        check_prompt(self.served.spec, prompt)
        if min(n_new, n) < 1:
            raise ValueError(f"at least one new token and one answer, not {n_new} and {n}")
        sampling = replace(sampling, **changes)
        if sampling.stop_strings and self.tokenizer is None:
            raise ValueError("stop strings need text: give the engine a tokenizer")
        if sampling.stop_strings:  # one that is a control token's has no text to be found in
            written = [self.tokenizer.control[stop] for stop in sampling.stop_strings if stop in self.tokenizer.control]
            sampling = replace(sampling, stop=(*sampling.stop, *written))
        requests = [self._request(prompt, n_new, each, i) for i, each in enumerate(sampling.of_each(n))]
        requests[0].siblings = requests[1:]
        self.scheduler.submit(requests[0])
        self._n_submitted += 1
        return requests[0]

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """One pass through the model; the requests that it read. An empty list: nothing is left to do.

        Whatever goes wrong with one request's scores or text ends it alone, with its reason in `Request.error`. What
        goes wrong with the pass itself is raised, as an interrupt is: the next step goes on where all were.
        """
        scheduled, copies = self.scheduler.schedule()
        if not scheduled:
            return []
        try:
            self.cache.copy(copies)
        except BaseException:  # their tables name the copies already: all is read again, or found where it still is
            for each in scheduled:
                self.scheduler.preempt(each)
            raise
        ready = [each for each, n in scheduled.items() if n == each.n_unread]
        scores, unsound = read(self.served, scheduled, self.cache, self._allowed)
        self._count(scheduled)
        self.scheduler.advance(scheduled, unsound)
        for request in ready:
            self._write(request, scores[request])
        return list(scheduled)

    def cancel(self, request: Request) -> None:
        """End `request` now, its blocks are free at once. One that has ended stays as it is."""
        if request.finished is None:
            self._finish(request, "cancelled")

    def flush(self) -> None:
        """All that can be found in the cache goes to the folder, as at the end of a server; without one, nothing."""
        if self.spill is not None:
            self.spill.flush()

    def generate(self, prompts: Sequence[Sequence[int]], n_new: int | Sequence[int], **how) -> list[list[int]]:
        """The tokens that follow each prompt.

        Args:
            prompts: tokens of each.
            n_new: tokens to write, at most; one number for all, or one each.
            how: as in `submit`.

        Raises:
            AnswerFailed: one of them ended in an error; the others are written to their end.
            what `submit` raises: before any is written.
        """
        counts = [n_new] * len(prompts) if isinstance(n_new, int) else n_new
        requests = []
        try:
            for prompt, count in zip(prompts, counts, strict=True):
                requests.append(self.submit(prompt, count, **how))
            while any(request.finished is None for request in requests):
                self.step()
        finally:  # refused, or interrupted: nobody waits for the others any more
            for request in requests:
                self.cancel(request)
        for request in requests:
            request.check()
        return [request.output for request in requests]

    def stream(self, prompt: Sequence[int], n_new: int, **how) -> Iterator[int]:
        """The tokens that follow `prompt`, as they come; others that wait go on meanwhile. Closing it cancels.

        Several may be read in turns, and `step` called beside them: each gives all of its own tokens.

        Raises:
            AnswerFailed: it ended in an error.
            what `submit` raises: at once.
        """
        stream = self._stream(self.submit(prompt, n_new, **how))
        next(stream)  # into its `try`: closing it cancels, even before its first token is asked for
        return stream

    @property
    def statistics(self) -> Statistics:
        """What the engine has done so far."""
        scheduler, counts = self.scheduler, (self._n_steps, self._n_read, self._n_written)
        found = (scheduler.n_asked, scheduler.n_reused, scheduler.n_preempted)
        waste, spill = self._n_empty / max(self._n_slots, 1), self.spill
        moved = () if spill is None else (spill.n_spilled, spill.n_reloaded, spill.n_missed, spill.folder.n_damaged)
        return Statistics(*counts, *found, self._most_blocks, waste, *moved)

    def _stream(self, request: Request) -> Iterator[int | None]:
        n_given = len(request.prompt)
        try:
            yield None
            while request.finished is None or n_given < len(request.tokens):
                if n_given < len(request.tokens):  # written by whoever's step
                    yield request.tokens[n_given]
                    n_given += 1
                else:
                    self.step()
            request.check()
        finally:
            self.cancel(request)

    def _request(self, prompt: Sequence[int], n_new: int, sampling: Sampling, answer: int) -> Request:
        writer = None if self.tokenizer is None else Writer(self.tokenizer, sampling.stop_strings)
        generator = new_generator(self.served.device, sampling.seed)
        request = Request(list(prompt), n_new, (self._n_submitted, answer), sampling, writer, generator)
        request.times.append(time.perf_counter())
        return request

    def _write(self, request: Request, scores: Scores) -> None:
        """The next token of `request`, and the first one of its siblings."""
        siblings = [each for each in request.siblings if each.finished is None and each not in self.scheduler]
        for sibling in siblings:
            self.scheduler.fork(request, sibling)
        for each in (request, *siblings):
            try:
                why = self._extend(each, scores)
            except Exception as error:  # its scores or its text: the others have nothing to do with it
                each.fail(error)
                why = each.finished
            if why is not None:
                self._finish(each, why)

    def _extend(self, request: Request, scores: Scores) -> str | None:
        """One token more; why it is the last one."""
        sampling, token = request.sampling, scores.best
        if sampling.temperature > 0 or token is None:
            token = sampling.draw(scores.logits, request.generator, self._allowed).item()
        if token in sampling.stop:
            return "stop"
        request.tokens.append(token)
        request.times.append(time.perf_counter())
        self._n_written += 1
        if request.writer is not None:
            request.writer.push(token)
            if request.writer.stopped:
                return "stop"
        return "length" if len(request.output) == request.n_new else None

    def _finish(self, request: Request, why: str) -> None:
        request.finished = why
        if request.writer is not None:
            try:
                request.writer.close()
            except Exception as error:  # what was kept back is no text
                request.fail(error)
        self.scheduler.remove(request)
        heirs = [each for each in request.siblings if each.finished is None and each not in self.scheduler]
        if heirs:  # it ended before its prompt was read for all of them
            heirs[0].siblings = heirs[1:]
            self.scheduler.submit(heirs[0])

    def _count(self, scheduled: dict[Request, int]) -> None:
        n_held = self.blocks.n_blocks - self.blocks.n_free
        self._n_steps += 1
        self._n_read += sum(scheduled.values())
        self._most_blocks = max(self._most_blocks, n_held)
        self._n_slots += n_held * self.blocks.block_size
        for each, n in scheduled.items():  # all that are running
            self._n_empty += len(each.block_table) * self.blocks.block_size - each.n_cached - n
