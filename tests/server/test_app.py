"""The pages, met by OpenAI's own client: the engine's answers, every error in one form, and blocks that come back."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from llmhw_helpers.llm.tokenizer import GPT2, BadText, Tokenizer
from llmhw_helpers.server import app, protocol
from llmhw_helpers.server.server import served_at
from llmhw_helpers.serving.engine import Engine
from llmhw_helpers.serving.kv_folder import KVFolder

HI = [{"role": "user", "content": "hi"}]
WAIT = 20  # seconds
POST = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
KEY = {"api_key": "any", "max_retries": 0, "timeout": WAIT}


@pytest.fixture(scope="module")
def engine(new_engine):
    return new_engine()


@pytest.fixture(scope="module")
def url(engine):
    with served_at(engine, name="tiny-model") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url, **KEY) as client:
        yield client


@pytest.fixture
def ours(new_engine, letters):
    """The engine's own greedy answer to a text or to tokens, with nobody else in the batch."""

    def answer(prompt, n_new, **how):
        tokens = letters.prompt(prompt) if isinstance(prompt, str) else prompt
        alone = new_engine()
        request = alone.submit(tokens, n_new, **({"stop": [letters.end]} | how))
        while alone.step():
            pass
        return request

    return answer


@pytest.fixture
def slow(engine):
    """Steps that take a while, so that something can happen in mid-stream."""
    step = engine.step

    def slower():
        time.sleep(0.005)
        return step()

    engine.step = slower
    yield
    del engine.step


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def all_free(engine):
    until(lambda: engine.blocks.n_free == engine.blocks.n_blocks)


def test_the_model_is_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("tiny-model", "model")
    assert client.models.retrieve("tiny-model").id == "tiny-model"
    with pytest.raises(openai.NotFoundError, match="no model 'tiny' here; did you mean 'tiny-model'"):
        client.models.retrieve("tiny")


def test_a_completion_is_the_engines_own(client, ours):
    for prompt in ("hello", [7, 8, 9]):
        answer = client.completions.create(model="tiny-model", prompt=prompt, temperature=0, max_tokens=20)
        expected = ours(prompt, 20)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected.text, expected.finished)
        assert answer.usage.completion_tokens == len(expected.output)
        assert answer.usage.prompt_tokens == len(expected.prompt)
        assert answer.usage.total_tokens == len(expected.tokens)
        assert (answer.object, answer.model) == ("text_completion", "tiny-model")


def test_a_chat_is_the_engines_own_after_the_models_template(client, ours, letters):
    answer = client.chat.completions.create(model="tiny-model", messages=HI, temperature=0, max_completion_tokens=20)
    expected = ours(letters.chat_tokens(HI), 20)
    message = answer.choices[0].message
    assert (message.role, message.content) == ("assistant", expected.text)
    assert answer.choices[0].finish_reason == expected.finished
    assert answer.object == "chat.completion"
    again = client.chat.completions.create(model="tiny-model", messages=HI, temperature=0, max_completion_tokens=1)
    n = len(expected.prompt)
    assert again.usage.prompt_tokens_details.cached_tokens == (n - 1) // 4 * 4


def test_a_stream_says_the_same_piece_by_piece(client, ours, letters):
    how = {"model": "tiny-model", "temperature": 0, "max_tokens": 20, "stream": True}
    how["stream_options"] = {"include_usage": True}
    for chat, expected in ((False, ours("hello", 20)), (True, ours(letters.chat_tokens(HI), 20))):
        make = client.chat.completions.create if chat else client.completions.create
        chunks = list(make(**how, **({"messages": HI} if chat else {"prompt": "hello"})))
        *said, last = chunks
        assert len({chunk.id for chunk in chunks}) == 1
        assert all(chunk.usage is None for chunk in said)
        texts = [(c.choices[0].delta.content if chat else c.choices[0].text) or "" for c in said]
        assert "".join(texts) == expected.text
        assert len([text for text in texts if text]) > 10
        assert [c.choices[0].finish_reason for c in said if c.choices[0].finish_reason] == [expected.finished]
        assert (last.choices, last.usage.completion_tokens) == ([], len(expected.output))
        assert chunks[0].object == ("chat.completion.chunk" if chat else "text_completion")
    assert chunks[0].choices[0].delta.role == "assistant"


def test_the_wire_is_server_sent_events_to_the_letter(url):
    body = {"prompt": "a", "max_tokens": 2, "temperature": 0, "stream": True, "ignore_eos": True}
    answer = httpx.post(f"{url}/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        if event:
            assert "usage" not in json.loads(event.removeprefix("data: "))


def test_several_prompts_and_answers_in_one_request(client, ours):
    how = {"model": "tiny-model", "max_tokens": 8, "seed": 5}
    prompts = ["hello", "abc"]
    answer = client.completions.create(**how, prompt=prompts, n=2)
    expected = [ours(prompt, 8, temperature=1.0, seed=5 + i).text for prompt in prompts for i in range(2)]
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 8
    texts = ["", "", "", ""]
    for chunk in client.completions.create(**how, prompt=prompts, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected


def test_stop_strings_end_an_answer_and_are_not_part_of_it(client, ours):
    text = ours("hello", 20).text
    stop = text[6:8]
    how = {"model": "tiny-model", "prompt": "hello", "temperature": 0, "max_tokens": 20}
    answer = client.completions.create(**how, stop=["never seen", stop])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text[: text.index(stop)], "stop")
    streamed = "".join(c.choices[0].text for c in client.completions.create(**how, stop=stop, stream=True))
    assert streamed == text[: text.index(stop)]


@pytest.mark.parametrize("stream", [False, True])
def test_eight_at_once_get_the_answers_that_each_gets_alone(url, engine, ours, letters, stream):
    prompts = ["hello", "abc", "a", "why not?", "1 2 3", "hello you", "hi", "xyz"]

    async def ask(client, i):
        if i % 2:
            how = {"messages": [{"role": "user", "content": prompts[i]}]}
            make = client.chat.completions.create
        else:
            how, make = {"prompt": prompts[i]}, client.completions.create
        answer = await make(model="tiny-model", temperature=0, max_tokens=15, stream=stream, **how)
        if not stream:
            return answer.choices[0].message.content if i % 2 else answer.choices[0].text
        return "".join([(c.choices[0].delta.content if i % 2 else c.choices[0].text) or "" async for c in answer])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=url, **KEY) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(8)))

    before, read = engine.statistics.n_steps, engine.statistics.n_written
    found = asyncio.run(ask_all())
    chats = [letters.chat_tokens([{"role": "user", "content": prompt}]) for prompt in prompts]
    assert found == [ours(chats[i] if i % 2 else prompts[i], 15).text for i in range(8)]
    written = engine.statistics.n_written - read
    assert engine.statistics.n_steps - before < written / 2  # they shared their steps
    all_free(engine)


def test_threads_with_the_plain_client_are_served_together(client, ours):
    def ask(prompt):
        return client.completions.create(model="tiny-model", prompt=prompt, temperature=0, max_tokens=9).choices[0].text

    prompts = ["hello", "abc", "a", "why"]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, prompts)) == [ours(prompt, 9).text for prompt in prompts]


def test_a_stream_that_is_closed_frees_its_blocks_at_once(client, engine, slow):
    stream = client.completions.create(model="tiny-model", prompt="hello", max_tokens=500, stream=True, n=2)
    next(stream)
    assert engine.blocks.n_free < engine.blocks.n_blocks
    written = engine.statistics.n_written
    stream.close()
    all_free(engine)
    assert engine.statistics.n_written - written < 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_dies_frees_its_blocks_at_once(url, engine, slow, stream):
    """No goodbye: its socket is gone, in mid-stream or while it waits for a whole answer."""
    body = json.dumps({"prompt": "hello", "max_tokens": 500, "ignore_eos": True, "stream": stream}).encode()
    head = f"{POST}Content-Type: application/json\r\nContent-Length: {len(body)}"
    port = int(url.split(":")[2].split("/")[0])
    written = engine.statistics.n_written
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        until(lambda: engine.statistics.n_written > written + 3)
        if stream:
            connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, as of a crash
    all_free(engine)
    assert engine.statistics.n_written - written < 200
    until(lambda: httpx.get(url.replace("/v1", "/health")).json()["n_open"] == 0)


def test_health_says_what_is_open(url, client, engine, slow):
    page = url.replace("/v1", "/health")
    stream = client.completions.create(model="tiny-model", prompt="hello", max_tokens=500, stream=True, n=3)
    next(stream)
    said = httpx.get(page).json()
    assert (said["status"], said["model"], said["n_open"]) == ("ok", "tiny-model", 3)
    assert said["n_free"] < said["n_blocks"] == 256
    stream.close()
    all_free(engine)


def test_a_server_with_a_folder_says_what_it_does_and_the_next_one_goes_on_from_it(new_engine, tmp_path, letters):
    text, how = "hello there, how are you today", {"model": "tiny-model", "max_tokens": 8, "temperature": 0}
    said, answers = [], []
    for _ in range(2):
        engine = new_engine(kv_folder=KVFolder(tmp_path))
        with served_at(engine, name="tiny-model") as url, openai.OpenAI(base_url=url, **KEY) as client:
            for _ in range(2):
                answers.append(client.completions.create(prompt=text, **how))
                said.append(httpx.get(url.replace("/v1", "/health")).json()["kv_folder"])
    assert len({answer.choices[0].text for answer in answers}) == 1
    n_prompt, n_full = answers[0].usage.prompt_tokens, (answers[0].usage.prompt_tokens - 1) // 4
    assert [each["n_reloaded"] for each in said] == [0, 0, n_full, n_full]
    assert [each["n_missed"] for each in said] == [n_full, n_full, 0, 0]
    assert [each.usage.prompt_tokens_details.cached_tokens for each in answers] == [0, *[4 * n_full] * 3]
    assert said[0] | {"n_missed": 0} == {
        **{"path": str(tmp_path), "failed": None, "n_spilled": 0, "n_reloaded": 0, "n_missed": 0},
        **{"n_damaged": 0, "n_dropped": 0, "n_deleted": 0},
    }
    assert n_prompt == len(letters.prompt(text))
    assert len(list(tmp_path.iterdir())) == engine.spill.n_spilled


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "words", "kind"),
    [
        ({"model": "gpt"}, "there is no model 'gpt' here", openai.NotFoundError),
        ({"prompt": ""}, "an empty prompt", openai.BadRequestError),
        ({"prompt": [1, 50]}, "token 50 is none of", openai.BadRequestError),
        ({"max_tokens": 508}, "5 tokens of prompt and 508 to be written: at most 512", openai.BadRequestError),
        ({"logprobs": 3}, "this server has no logprobs", openai.BadRequestError),
        ({"extra_body": {"colour": 1}}, "unknown field 'colour'", openai.BadRequestError),
    ],
)
def test_what_is_refused_is_an_error_of_openais_client(client, fields, words, kind, stream):
    how = {"model": "tiny-model", "prompt": "hello", "stream": stream} | fields
    with pytest.raises(kind, match=words) as error:
        client.completions.create(**how)
    assert set(error.value.body) == {"message", "type", "param", "code"}
    assert error.value.type == "invalid_request_error"


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "words"),
    [
        ("POST", "/completions", b"{", JSON, 400, "no valid JSON"),
        ("POST", "/completions", b'{"temperature": NaN}', JSON, 400, "NaN is no number"),
        ("POST", "/completions", b"[" * 100_000, JSON, 400, "nested too deep"),
        ("POST", "/completions", b"prompt=a", {"content-type": "text/plain"}, 400, "Content-Type: application/json"),
        ("POST", "/completions", b"{}", {}, 400, "Content-Type: application/json"),
        ("POST", "/completions", b"", JSON | {"content-length": "0"}, 400, "no valid JSON"),
        ("POST", "/completions", b'{"prompt": "\\ud800"}', JSON, 400, "half a character"),
        ("POST", "/completions", b'{"model": "\\ud800", "prompt": "a"}', JSON, 404, "no model '\\ud800' here"),
        ("POST", "/completions", b'"' + b"a" * (1 << 20), JSON, 413, "more than 1048576 bytes"),
        ("POST", "/chat/completions", b'"' + b"a" * (3 << 20), JSON, 413, "more than 1048576 bytes"),
        ("POST", "/chat/completions", b"{}", JSON, 400, "messages is missing"),
        ("POST", "/models", b"{}", JSON, 405, "POST is not possible here; use GET"),
        ("GET", "/completions", None, {}, 405, "GET is not possible here; use POST"),
        ("GET", "/completion", None, {}, 404, "there is no such path: try /v1/models"),
        ("GET", "/models/x", None, {}, 404, "no model 'x' here"),
        ("GET", "/", None, {}, 404, "there is no such path"),
        ("POST", "/completions/", b"{}", JSON, 404, "there is no such path"),
        ("POST", "/completions", b'{"\\ud800": 1, "prompt": "a"}', JSON, 400, "unknown field"),
    ],
)
def test_every_error_has_openais_form(url, method, path, content, headers, status, words):
    answer = httpx.request(method, url + path, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    if status == 405:
        assert answer.headers["allow"]


def test_a_body_in_chunks_is_counted_while_it_is_read(url):
    def endless():
        for _ in range(100):
            yield b" " * (1 << 18)

    try:  # the server answers at 16 MiB, and a client that is still sending may or may not hear it
        answer = httpx.post(f"{url}/completions", content=endless(), headers=JSON)
    except httpx.TransportError:
        pass
    else:
        assert answer.status_code == 413
    with socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])), timeout=WAIT) as connection:
        connection.sendall(f"{POST}Content-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        connection.sendall(b" " * (app.DRAINED + 1))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    few = (b" " * (1 << 18) for _ in range(5))
    assert httpx.post(f"{url}/completions", content=few, headers=JSON).status_code == 413
    enough = (chunk for chunk in (b'{"prompt": "hello"', b', "max_tokens": 1}', b" " * ((1 << 20) - 36)))
    assert httpx.post(f"{url}/completions", content=enough, headers=JSON).status_code == 200


def test_a_long_text_is_cut_into_tokens_beside_the_thread_that_answers_others(client, monkeypatch):
    threads = []

    def read(*arguments):
        threads.append(threading.current_thread().name)
        return protocol.read_ask(*arguments)

    monkeypatch.setattr(app, "read_ask", read)
    client.completions.create(model="tiny-model", prompt="hello", max_tokens=1)
    assert len(threads) == 1
    assert threads[0] not in ("server", "engine")


def test_long_texts_are_read_one_after_the_other_and_hold_up_nobody_else(new_engine, monkeypatch):
    """Twelve at once, of which the first is being read; meanwhile a small one is answered."""
    reading, go_on, most = [], threading.Event(), []

    def read(body, *arguments):
        if len(body["prompt"]) > 100:
            reading.append(1)
            most.append(len(reading))
            assert go_on.wait(WAIT)
            reading.pop()
        return protocol.read_ask(body, *arguments)

    monkeypatch.setattr(app, "read_ask", read)
    long = {"model": "tiny-model", "prompt": " " * app.LONG_BODY, "max_tokens": 1}
    with served_at(new_engine(), name="tiny-model", max_open=13) as url, httpx.Client(base_url=url) as small:
        page = url.replace("/v1", "/health")
        with ThreadPoolExecutor(12) as pool:
            large = [pool.submit(httpx.post, f"{url}/completions", json=long, timeout=WAIT) for _ in range(12)]
            until(lambda: httpx.get(page).json()["n_open"] == 12)
            body = {"prompt": "hello", "max_tokens": 1}
            assert small.post("/completions", json=body, timeout=WAIT).status_code == 200
            assert small.post("/completions", json=body | {"n": 2}).status_code == 429  # those that wait count
            assert not any(each.done() for each in large)
            go_on.set()
            assert {each.result().status_code for each in large} == {400}  # too long for the context
        assert most == [1] * 12
        assert httpx.get(page).json()["n_open"] == 0


def test_who_leaves_while_others_are_read_is_read_no_more(new_engine, monkeypatch):
    read, go_on = [], threading.Event()

    def slowly(body, *arguments):
        read.append(body["user"])
        assert go_on.wait(WAIT)
        return protocol.read_ask(body, *arguments)

    monkeypatch.setattr(app, "read_ask", slowly)
    with served_at(new_engine(), name="tiny-model") as url:
        page = url.replace("/v1", "/health")
        long = {"prompt": " " * app.LONG_BODY}
        with ThreadPoolExecutor(1) as pool:
            stays = pool.submit(httpx.post, f"{url}/completions", json=long | {"user": "stays"}, timeout=WAIT)
            until(lambda: read)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/completions", json=long | {"user": "leaves"}, timeout=0.3)
            until(lambda: httpx.get(page).json()["n_open"] == 1)
            go_on.set()
            stays.result()
    assert read == ["stays"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *dict.fromkeys(
            ("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:80", "[::1]:8000", "10.0.0.7"), 200
        ).items(),
        *dict.fromkeys(("evil.example", "evil.example:8000", "localhost.evil.example", "x", "[::1", ""), 403).items(),
        *dict.fromkeys(("127.0.0.1.evil.example", "localhost@evil.example", "evil.example/localhost"), 403).items(),
        *dict.fromkeys(("evil@localhost", "localhost/evil", "localhost#evil", "evil\\@localhost"), 403).items(),
        *dict.fromkeys(("localhost:evil", "[localhost", "::1"), 403).items(),
    ],
)
def test_a_name_that_is_not_ours_is_refused(url, host, status):
    """A page whose site's name leads to this machine would else read what the server says."""
    for page in ("/models", "/nowhere"):
        answer = httpx.get(url + page, headers={"host": host})
        assert (answer.status_code == 403) == (status == 403)
        if status == 403:
            assert "is not called" in answer.json()["error"]["message"]


def test_names_that_the_server_is_given_are_its_own_too(new_engine):
    with served_at(new_engine(), hosts=["Node7.example"]) as url:
        found = [
            httpx.get(f"{url}/models", headers={"host": host}).status_code for host in ("node7.example:1", "node8")
        ]
    assert found == [200, 403]
    with served_at(new_engine(), host="0.0.0.0") as url:  # names of this machine in the network are not known here
        assert httpx.get(f"{url}/models", headers={"host": "node8"}).status_code == 200
    with served_at(new_engine(), host="0.0.0.0", hosts=["node7"]) as url:
        assert httpx.get(f"{url}/models", headers={"host": "node8"}).status_code == 403


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_is_known_by_any_spelling(url, kind):
    content = b'{"prompt": "a", "max_tokens": 1}'
    assert httpx.post(f"{url}/completions", content=content, headers={"content-type": kind}).status_code == 200


def test_the_last_token_of_an_answer_needs_no_room_in_the_cache(small):
    for n_new, status in ((28, 200), (29, 400)):  # after 5 of prompt, in 8 blocks of 4
        answer = small.post("/completions", json={"prompt": "hello", "max_tokens": n_new})
        assert answer.status_code == status
    assert "at most 33 together" in answer.json()["error"]["message"]


def test_who_would_be_refused_is_told_before_the_body_has_come(new_engine):
    engine = new_engine()
    step = engine.step
    engine.step = lambda: time.sleep(0.005) or step()
    with served_at(engine, name="tiny-model", max_open=1) as url, openai.OpenAI(base_url=url, **KEY) as client:
        how = {"model": "tiny-model", "prompt": "hello", "max_tokens": 500, "extra_body": {"ignore_eos": True}}
        with client.completions.create(**how, stream=True) as stream:
            next(stream)
            port = int(url.split(":")[2].split("/")[0])
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
                connection.sendall(f"{POST}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())
                assert connection.recv(1000).startswith(b"HTTP/1.1 429")


def test_a_body_that_never_comes_is_not_waited_for(url, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    port = int(url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        connection.sendall(f"{POST}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_who_comes_when_too_many_wait_is_asked_to_come_again(new_engine):
    engine = new_engine()
    step = engine.step
    engine.step = lambda: time.sleep(0.005) or step()
    with served_at(engine, name="tiny-model", max_open=3) as url, openai.OpenAI(base_url=url, **KEY) as client:
        how = {"model": "tiny-model", "prompt": "hello", "max_tokens": 500, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(**how, stream=True, n=3)
        next(stream)
        with pytest.raises(openai.RateLimitError, match="3 answers are open, and 3 may be") as error:
            client.completions.create(**how)
        assert error.value.response.headers["retry-after"] == "1"
        stream.close()
        all_free(engine)
        patient = client.with_options(max_retries=3)
        assert patient.completions.create(**how | {"max_tokens": 3}).usage.completion_tokens == 3
        until(lambda: httpx.get(url.replace("/v1", "/health")).json()["n_open"] == 0)
        with pytest.raises(openai.BadRequestError, match="4 answers at once: at least 1, and at most 3"):
            client.completions.create(**how, n=4)


def test_an_engine_that_fails_is_said_to_those_who_stream_and_to_those_who_wait(new_engine, monkeypatch):
    engine = new_engine()
    step, forward = engine.step, engine.served.forward
    engine.step = lambda: time.sleep(0.005) or step()
    how = {"model": "tiny-model", "prompt": "hello", "max_tokens": 300, "extra_body": {"ignore_eos": True}}

    def failing(*arguments):
        raise RuntimeError("the card fell out")

    with served_at(engine, name="tiny-model") as url, openai.OpenAI(base_url=url, **KEY) as client:
        stream = client.completions.create(**how, stream=True)
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(client.completions.create, **how)
            until(lambda: len(engine.scheduler.running) == 2)
            monkeypatch.setattr(engine.served, "forward", failing)
            with pytest.raises(openai.APIError, match="RuntimeError: the card fell out"):
                list(stream)
            with pytest.raises(openai.InternalServerError, match="RuntimeError: the card fell out"):
                whole.result(WAIT)
        monkeypatch.setattr(engine.served, "forward", forward)
        assert client.completions.create(**how | {"max_tokens": 3}).usage.completion_tokens == 3
        said = httpx.get(url.replace("/v1", "/health")).json()
        assert (said["status"], said["n_free"]) == ("ok", said["n_blocks"])
        assert said["last_failure"] == "the engine failed in a step: RuntimeError: the card fell out"
        engine.step = lambda: engine.blocks.allocate() and step()  # now a block is lost for good
        monkeypatch.setattr(engine.served, "forward", failing)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError, match="then it could not be cleared"):
                client.completions.create(**how)
        answer = httpx.get(url.replace("/v1", "/health"))
        assert answer.status_code == 500
        assert "could not be cleared" in answer.json()["status"]


def of_few_words(letters):
    """A tokenizer of 38 of the tiny model's 50 rows: two of the first 40 are holes. The others have no text."""
    vocabulary = {word: i for word, i in letters.library.get_vocab().items() if i < 40 and i not in (3, 9)}
    library = Library(models.BPE(vocabulary, []))
    library.pre_tokenizer, library.decoder = GPT2, decoders.ByteLevel()
    few = Tokenizer(library, 0, None)
    for token in (3, 9, 40, 49):
        with pytest.raises(BadText):
            few.decode([token])
    return few


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 2}, {"temperature": 2, "top_p": 0.9}])
def test_rows_that_are_no_tokens_are_never_drawn(new_engine, letters, how):
    engine = Engine(new_engine().served, 256, 4, tokenizer=of_few_words(letters))
    with served_at(engine, name="tiny-model") as url, openai.OpenAI(base_url=url, **KEY) as client:
        for i in range(5):
            body = {"model": "tiny-model", "prompt": "hello", "max_tokens": 60, "seed": i, "n": 3, **how}
            answer = client.completions.create(**body, extra_body={"ignore_eos": True})
            assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
        assert httpx.get(url.replace("/v1", "/health")).json()["last_failure"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_told_is_an_error_of_its_own(new_engine, letters, stumbling, stream):
    """One client's text goes wrong, in mid-stream or while it waits; the other's comes to its end."""
    engine = new_engine()
    (expected,) = engine.generate([letters.prompt("abc")], 60)
    (other,) = engine.generate([letters.prompt("hello")], 60)
    wrong = next(token for token in other[1:] if token not in expected)
    engine.tokenizer = stumbling(wrong)
    how = {"model": "tiny-model", "max_tokens": 60, "temperature": 0, "extra_body": {"ignore_eos": True}}
    with served_at(engine, name="tiny-model") as url, openai.OpenAI(base_url=url, **KEY) as client:
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(client.completions.create, **how, prompt="abc")
            with pytest.raises(openai.APIError, match=f"no text for token {wrong}") as error:
                list(client.completions.create(**how, prompt="hello", stream=stream))
            assert error.value.type == "server_error"
            assert whole.result(WAIT).choices[0].text == letters.decode(expected, special=False)
        all_free(engine)
        assert httpx.get(url.replace("/v1", "/health")).json()["status"] == "ok"


def test_an_answer_shows_no_control_tokens(client, ours, letters):
    how = {"model": "tiny-model", "prompt": "hello", "seed": 1, "temperature": 2, "max_tokens": 200}
    request = ours("hello", 200, temperature=2.0, seed=1, stop=())
    assert {47, 48, 49} & set(request.output)
    answer = client.completions.create(**how, extra_body={"ignore_eos": True})
    assert answer.choices[0].text == letters.decode(request.output, special=False)
    assert "<|" not in answer.choices[0].text
    assert answer.usage.completion_tokens == 200


def test_whoever_streams_when_the_server_ends_is_told(new_engine):
    engine = new_engine()
    step = engine.step
    engine.step = lambda: time.sleep(0.005) or step()
    with served_at(engine, name="tiny-model") as url:
        client = openai.OpenAI(base_url=url, **KEY)
        how = {"model": "tiny-model", "prompt": "hello", "max_tokens": 500, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(**how, stream=True)
        next(stream)
    with pytest.raises(openai.APIError, match="the server is being stopped"):
        list(stream)
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
    client.close()
    assert engine.blocks.n_free == engine.blocks.n_blocks


@pytest.fixture(scope="module")
def small(new_engine):
    """Short answers, whatever is asked for."""
    with served_at(new_engine(n_blocks=8), name="tiny-model") as url, httpx.Client(base_url=url) as client:
        yield client


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 20) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
BODIES = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a", "hi", [1, 2], ["a", "b"]]) | VALUES},
    optional=dict.fromkeys(("max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream", "model"), VALUES),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40) | BODIES.map(lambda body: json.dumps(body).encode()), st.booleans())
def test_no_body_makes_the_server_stumble(small, body, chat):
    answer = small.post("/chat/completions" if chat else "/completions", content=body, headers=JSON)
    assert answer.status_code in (200, 400, 404)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
