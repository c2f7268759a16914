"""The engine's thread: the same answers as the engine's own, blocks that come back, and nobody who waits for ever."""

import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from llmhw_helpers.llm.transformer import TokenError
from llmhw_helpers.server.worker import Busy, Closed, EngineFailed, Worker
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.request import AnswerFailed
from llmhw_helpers.serving.scheduler import NeverFits

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8, 2, 8, 1], [1], [9, 9, 9, 9, 9, 9, 9, 9, 9]]
WAIT = 20  # seconds: longer than anything here takes, and no test shall hang


class Client:
    """Takes what the worker delivers, in a thread of its own choice."""

    def __init__(self, worker, prompts, n_new, **how):
        self.events = queue.Queue()
        self.job = worker.submit(prompts, n_new, self.events.put, **how)

    def texts(self):
        texts, self.last, ended = {}, {}, 0
        while ended < self.job.n_answers:
            event = self.events.get(timeout=WAIT)
            if isinstance(event, Exception):
                raise event
            assert event.answer not in self.last or self.last[event.answer].finished is None
            texts[event.answer] = texts.get(event.answer, "") + event.text
            self.last[event.answer] = event
            ended += event.finished is not None
        return [texts[i] for i in range(len(texts))]


@pytest.fixture
def engine(new_engine):
    return new_engine()


@pytest.fixture
def worker(engine):
    worker = Worker(engine)
    yield worker
    worker.close()


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def slow(engine, seconds=0.005):
    """Steps that take a while, so that something may happen between them."""
    step = engine.step

    def slower():
        time.sleep(seconds)
        return step()

    engine.step = slower


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "drawn"])
def test_eight_threads_get_the_engines_own_answers(new_engine, letters, worker, how):
    prompts = PROMPTS + [[*prompt, 5] for prompt in PROMPTS]
    alone = new_engine()
    expected = [alone.generate([prompt], 12, **how)[0] for prompt in prompts]
    found = {}

    def ask(i):
        found[i] = Client(worker, [prompts[i]], 12, **how).texts()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert [found[i] for i in range(len(prompts))] == [[letters.decode(tokens, special=False)] for tokens in expected]
    until(lambda: worker.n_open == 0)
    assert worker.engine.blocks.n_free == worker.engine.blocks.n_blocks


def test_several_prompts_and_answers_are_numbered_prompt_by_prompt(new_engine, letters, worker):
    how = {"temperature": 1.0, "seed": 11}
    alone = new_engine()
    expected = []
    for prompt in PROMPTS[:2]:
        first = alone.submit(prompt, 6, n=3, **how)
        while alone.step():
            pass
        expected += [each.text for each in (first, *first.siblings)]
    client = Client(worker, PROMPTS[:2], 6, n=3, **how)
    assert client.texts() == expected
    assert len(set(expected)) > 2  # else the numbers could not be wrong
    assert [client.last[i].n_written for i in range(6)] == [6] * 6
    assert {piece.finished for piece in client.last.values()} == {"length"}


def test_what_was_found_in_the_cache_is_said(worker):
    prompt = [*range(20)]
    for n_found in (0, 16):  # of 20 tokens in blocks of 4, the last one is read in any case
        client = Client(worker, [prompt], 3, n=2)
        client.texts()
        assert [client.last[i].n_reused for i in range(2)] == [n_found] * 2


def test_what_it_finds_of_its_own_after_a_preemption_does_not_count(new_engine):
    engine = new_engine(n_blocks=12)
    worker = Worker(engine)
    clients = [Client(worker, [[i] * 9], 30) for i in range(2)]
    for client in clients:
        client.texts()
        assert client.last[0].n_reused == 0
    worker.close()
    assert engine.statistics.n_preempted > 0
    assert engine.statistics.n_reused > 0


def test_of_several_answers_one_that_has_ended_says_nothing_more(new_engine, letters, worker):
    how = {"temperature": 1.0, "seed": 11}
    first = new_engine().submit(PROMPTS[0], 30, n=3, **how)
    answers = new_engine().generate([PROMPTS[0]], 30, **how), first
    stop = answers[0][0][4]
    client = Client(worker, [PROMPTS[0]], 30, n=3, stop=[stop], **how)
    assert client.texts()[0] == letters.decode(answers[0][0][: answers[0][0].index(stop)], special=False)
    assert len({piece.n_written for piece in client.last.values()}) > 1  # else all ended at once


def test_whoever_is_not_taken_yet_when_it_closes_is_told_so_too(engine):
    in_step, go_on, step = threading.Event(), threading.Event(), engine.step

    def held():
        in_step.set()
        go_on.wait(WAIT)
        return step()

    engine.step = held
    worker = Worker(engine)
    clients = [Client(worker, [PROMPTS[0]], 400)]
    assert in_step.wait(WAIT)
    clients.append(Client(worker, [PROMPTS[1]], 3))
    closing = threading.Thread(target=worker.close)
    closing.start()
    until(lambda: worker.closing)
    go_on.set()
    closing.join(WAIT)
    for client in clients:
        with pytest.raises(Closed):
            client.texts()
    assert clients[0].job.accepted.result(WAIT) is None
    assert isinstance(clients[1].job.accepted.exception(WAIT), Closed)


def test_what_a_client_has_has_been_counted(engine):
    seen = []
    worker = Worker(engine)
    worker.watch = lambda jobs, began: seen.append(("counted", began is not None))
    worker.submit([PROMPTS[0]], 3, lambda piece: seen.append(("told", piece.finished)))
    until(lambda: ("told", "length") in seen)
    worker.close()
    told = [i for i, (what, _) in enumerate(seen) if what == "told"]
    assert [seen[i - 1] for i in told] == [("counted", True)] * 3


def test_stop_tokens_and_strings_end_an_answer(new_engine, letters, worker):
    tokens = new_engine().generate([PROMPTS[0]], 20)[0]
    text = letters.decode(tokens, special=False)
    stop = text[7:9]
    client = Client(worker, [PROMPTS[0]], 20, stop_strings=[stop])
    assert client.texts() == [text[: text.index(stop)]]
    assert client.last[0].finished == "stop"
    client = Client(worker, [PROMPTS[0]], 20, stop=[tokens[5]])
    assert client.texts() == [letters.decode(tokens[: tokens.index(tokens[5])], special=False)]


@pytest.mark.parametrize("n", [1, 3])
def test_a_cancelled_job_gives_its_blocks_back_and_the_others_go_on(engine, new_engine, letters, n):
    slow(engine)
    worker = Worker(engine)
    gone, stays = Client(worker, [PROMPTS[0]], 400, n=n), Client(worker, [PROMPTS[1]], 60)
    gone.events.get(timeout=WAIT)
    worker.cancel(gone.job)
    assert stays.texts() == [letters.decode(new_engine().generate([PROMPTS[1]], 60)[0], special=False)]
    until(lambda: worker.n_open == 0)
    assert engine.blocks.n_free == engine.blocks.n_blocks
    assert engine.statistics.n_written < 200
    worker.close()


def test_one_that_is_cancelled_before_it_came_in_never_does(engine):
    slow(engine, 0.05)
    worker = Worker(engine)
    first = Client(worker, [PROMPTS[0]], 3)
    until(lambda: engine.statistics.n_steps or not first.events.empty())
    second = Client(worker, [PROMPTS[1]], 3)
    second.job.accepted.cancel()
    third = Client(worker, [PROMPTS[1]], 3)
    worker.cancel(third.job)
    first.texts()
    until(lambda: worker.n_open == 0)
    assert engine.statistics.n_written == 3
    worker.close()


def test_whoever_waits_for_a_job_to_be_taken_hears_that_it_was_cancelled_before(engine):
    slow(engine, 0.05)
    worker = Worker(engine)
    first = Client(worker, [PROMPTS[0]], 3)
    until(lambda: engine.statistics.n_steps)
    second = Client(worker, [PROMPTS[1]], 3).job
    worker.cancel(second)
    with pytest.raises(CancelledError):
        second.accepted.result(WAIT)
    first.texts()
    worker.close()


def test_a_request_that_is_being_read_counts_as_open(engine):
    slow(engine)
    worker = Worker(engine, max_open=2)
    with worker.reading():
        assert worker.n_open == 1
        with pytest.raises(Busy, match="1 answers are open, and 2 may be"):
            worker.submit([[1]], 2, print, n=2)
        with worker.reading(), pytest.raises(Busy, match="2 answers are open"), worker.reading():
            pass
        client = Client(worker, [[1]], 3)
    client.texts()
    until(lambda: worker.n_open == 0)
    worker.close()


def test_a_worker_that_is_closing_takes_nobody_and_finishes_what_is_open(engine, letters, new_engine):
    slow(engine)
    worker = Worker(engine)
    client = Client(worker, [PROMPTS[0]], 30)
    client.events.get(timeout=WAIT)
    worker.closing = True
    with pytest.raises(Closed, match="the server is being stopped"):
        worker.submit([[1]], 2, print)
    with pytest.raises(Closed), worker.reading():
        pass
    client.texts()
    assert client.last[0].n_written == 30
    worker.close()


@pytest.mark.parametrize(
    ("prompts", "n_new", "how", "error", "words"),
    [
        ([[]], 5, {}, TokenError, "an empty prompt"),
        ([[1], [50]], 5, {}, TokenError, "token 50"),
        ([[1], [1] * 500], 50, {}, NeverFits, "500 tokens and 50 new ones"),
        ([[1]], 0, {}, ValueError, "at least one new token"),
    ],
)
def test_what_the_engine_refuses_is_told_and_leaves_nothing(worker, prompts, n_new, how, error, words):
    job = Client(worker, prompts, n_new, **how).job
    with pytest.raises(error, match=words):
        job.accepted.result(WAIT)
    until(lambda: worker.n_open == 0)
    scheduler, blocks = worker.engine.scheduler, worker.engine.blocks
    assert (scheduler.waiting, scheduler.running, blocks.n_free) == ([], [], blocks.n_blocks)
    assert len(Client(worker, [[1]], 2).texts()) == 1


def test_a_setting_out_of_its_range_is_refused_before_anything_is_open(worker):
    for how, words in (({"stop_strings": [""]}, "at least one character"), ({"top_p": 2.0}, "top_p in")):
        with pytest.raises(ValueError, match=words):
            worker.submit([[1]], 5, print, **how)
    assert worker.n_open == 0


def test_too_many_are_refused_with_the_numbers_until_some_are_done(engine):
    slow(engine)
    worker = Worker(engine, max_open=4)
    client = Client(worker, [[1], [2]], 20)
    with pytest.raises(Busy, match="2 answers are open, and 4 may be"):
        worker.submit([[1]], 2, print, n=3)
    with pytest.raises(ValueError, match="5 answers at once: at least 1, and at most 4"):
        worker.submit([[1]], 2, print, n=5)
    with pytest.raises(ValueError, match="0 answers at once"):
        worker.submit([], 2, print)
    other = Client(worker, [[3]], 2, n=2)
    other.texts()
    client.texts()
    until(lambda: worker.n_open == 0)
    Client(worker, [[1]], 2, n=3).texts()
    worker.close()


def test_closing_tells_whoever_waits_and_frees_the_engine(engine, letters, new_engine):
    slow(engine)
    worker = Worker(engine)
    clients = [Client(worker, [[i]], 400) for i in range(12)]  # more than the batch holds
    clients[0].events.get(timeout=WAIT)
    worker.close()
    for client in clients:
        with pytest.raises(Closed, match="the server is being stopped"):
            client.texts()
    assert engine.blocks.n_free == engine.blocks.n_blocks
    with pytest.raises(Closed):
        worker.submit([[1]], 2, print)
    worker.close()  # once more does no harm
    assert engine.generate([PROMPTS[0]], 9) == new_engine().generate([PROMPTS[0]], 9)


def test_a_step_that_fails_is_told_to_all_and_the_engine_goes_on(engine, worker, letters, new_engine, monkeypatch):
    """In the middle of a step, when blocks are given out and nothing has been written into them."""
    expected = letters.decode(new_engine().generate([PROMPTS[0]], 9)[0], special=False)
    forward, calls = engine.served.forward, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no more")
        return forward(*arguments)

    monkeypatch.setattr(engine.served, "forward", failing)
    clients = [Client(worker, [prompt], 300, n=2) for prompt in PROMPTS]
    for client in clients:
        with pytest.raises(EngineFailed, match="failed in a step: MemoryError: no more"):
            client.texts()
    assert (worker.failed, worker.last_failure) == (None, "the engine failed in a step: MemoryError: no more")
    assert engine.blocks.n_free == engine.blocks.n_blocks
    assert Client(worker, [PROMPTS[0]], 9).texts() == [expected]


@pytest.mark.parametrize("how", ["a block is lost", "cancelling fails, too"])
def test_an_engine_that_cannot_be_cleared_is_given_up(engine, how, monkeypatch):
    worker = Worker(engine)

    def failing():
        if how == "a block is lost":
            engine.blocks.allocate()
        raise RuntimeError("lost")

    def no_cancel(request):
        raise KeyError("gone")

    monkeypatch.setattr(engine, "step", failing)
    if how != "a block is lost":
        monkeypatch.setattr(engine, "cancel", no_cancel)
    client = Client(worker, [[1]], 9)
    with pytest.raises(EngineFailed, match="RuntimeError: lost; then it could not be cleared"):
        client.texts()
    with pytest.raises(EngineFailed, match="could not be cleared"):
        worker.submit([[1]], 2, print)
    until(lambda: not worker._thread.is_alive())
    assert worker.n_open == 0
    worker.close()


def test_requests_that_are_never_scheduled_are_an_error_and_no_wait_for_ever(engine, worker, monkeypatch):
    monkeypatch.setattr(engine, "step", lambda: [])
    with pytest.raises(EngineFailed, match="none of them is scheduled"):
        Client(worker, [[1]], 9).texts()


def test_logits_that_no_token_can_be_drawn_from_end_one_job_alone(engine, worker, letters, new_engine, monkeypatch):
    """Those of one text in a step of several; the other client has its answer to the end."""
    slow(engine)
    tokens = new_engine().generate([PROMPTS[1]], 40)[0]
    head = engine.served.head

    def failing(x):
        logits = head(x)
        if len(logits) > 1:
            logits[0] = float("nan")
        return logits

    monkeypatch.setattr(engine.served, "head", failing)
    clients = [Client(worker, [prompt], 40) for prompt in PROMPTS[:2]]
    with pytest.raises(AnswerFailed, match="the logits hold NaN"):
        clients[0].texts()
    assert clients[1].texts() == [letters.decode(tokens, special=False)]
    until(lambda: worker.n_open == 0)
    assert engine.blocks.n_free == engine.blocks.n_blocks
    assert (worker.failed, worker.last_failure) == (None, None)


@pytest.mark.parametrize("n", [1, 3])
def test_a_text_that_cannot_be_made_ends_one_job_alone(engine, letters, stumbling, new_engine, n):
    expected = [new_engine().generate([prompt], 60)[0] for prompt in PROMPTS[:2]]
    wrong = next(token for token in expected[0] if token not in expected[1])
    engine.tokenizer = stumbling(wrong)
    worker = Worker(engine)
    clients = [Client(worker, [prompt], 60, n=n) for prompt in PROMPTS[:2]]
    with pytest.raises(AnswerFailed, match=f"no text for token {wrong}"):
        clients[0].texts()
    assert clients[1].texts() == [letters.decode(expected[1], special=False)] * n
    until(lambda: worker.n_open == 0)
    assert (worker.failed, worker.last_failure) == (None, None)
    assert engine.blocks.n_free == engine.blocks.n_blocks
    worker.close()


def test_a_client_that_cannot_be_told_is_let_go_and_the_others_go_on(engine, worker, letters, new_engine):
    def gone(event):
        raise RuntimeError("Event loop is closed")

    worker.submit([[1]], 400, gone)
    tokens = new_engine().generate([PROMPTS[1]], 15)[0]
    assert Client(worker, [PROMPTS[1]], 15).texts() == [letters.decode(tokens, special=False)]
    until(lambda: worker.n_open == 0)
    assert engine.statistics.n_written < 35
    assert engine.blocks.n_free == engine.blocks.n_blocks


def test_it_sleeps_while_there_is_nothing_to_do(engine, worker, monkeypatch):
    Client(worker, [[1]], 3).texts()
    until(lambda: worker.n_open == 0)
    calls, step = [], engine.step
    monkeypatch.setattr(engine, "step", lambda: calls.append(1) or step())
    before = time.process_time()
    time.sleep(0.3)
    assert calls == []
    assert time.process_time() - before < 0.15  # a thread that asks again and again would take all of 0.3
    Client(worker, [[1]], 3).texts()
    assert len(calls) == 3


def test_an_engine_without_words_is_refused(new_engine):
    silent = Engine(new_engine().served, 4)
    with pytest.raises(ValueError, match="give the engine a tokenizer"):
        Worker(silent)
    with pytest.raises(ValueError, match="at least one answer has to be allowed, not 0"):
        Worker(new_engine(4), max_open=0)


PROGRAM = """
from dataclasses import replace
from llmhw_helpers.llm.tokenizer import load_tokenizer
from llmhw_helpers.llm.transformer import Transformer
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.weights import Served
from llmhw_helpers.server.worker import Worker
from llmhw_helpers.specs.models import model

sizes = {"n_layers": 3, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "vocab_size": 50}
served = Served(Transformer(replace(model("SmolLM2-135M"), **sizes)))
worker = Worker(Engine(served, 512, tokenizer=load_tokenizer()))
worker.submit([[1], [2]], 4000, lambda what: isinstance(what, Exception) and print(what, flush=True)).accepted.result()
"""


def test_a_program_that_forgets_it_ends_in_peace():
    """Python ends threads where they are; in the middle of a product that was an abort, two times in three."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "the server is being stopped\n", "")
