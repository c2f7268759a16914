"""Bodies: what they ask for, and one clear line for whatever is wrong with them."""

import copy
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmhw_helpers.llm.tokenizer import Tokenizer
from llmhw_helpers.server.fields import Refused
from llmhw_helpers.server.protocol import CHAT, COMPLETION, IGNORED, NOT_HERE, SHARED, check_model, read_ask, read_json
from llmhw_helpers.server.replies import Reply, error_of
from llmhw_helpers.server.worker import Busy, Closed, EngineFailed, Piece
from llmhw_helpers.serving.request import AnswerFailed
from llmhw_helpers.serving.sampling import Sampling

HI = [{"role": "user", "content": "hi"}]
LONGEST = 200


@pytest.fixture
def read(letters):
    def read(chat=False, **fields):
        fields = {"messages": HI} | fields if chat else {"prompt": "hi"} | fields
        return read_ask(read_json(json.dumps(fields).encode()), chat, letters, ["tiny-model"], LONGEST)

    return read


def test_the_defaults_are_openais(read, letters):
    ask = read()
    sampling = Sampling(temperature=1.0, stop=(letters.end,))
    assert (ask.prompts, ask.n_new, ask.n, ask.sampling) == ([letters.encode("hi")], 16, 1, sampling)
    assert (ask.chat, ask.stream, ask.include_usage) == (False, False, False)
    ask = read(chat=True)
    assert ask.prompts == [letters.chat_tokens(HI)]
    assert ask.n_new == LONGEST - len(ask.prompts[0])
    assert ask.chat


@pytest.mark.parametrize("chat", [False, True])
def test_a_text_too_long_for_the_context_is_refused_before_it_is_cut_into_tokens(read, letters, chat, monkeypatch):
    """Each token has 12 characters at most: so many times the context's tokens there may be."""
    assert letters.longest == len("<|im_start|>") == 12

    def ask(n_characters):
        text = "a" * n_characters
        return read(chat, messages=[HI[0] | {"content": text}]) if chat else read(prompt=["hi", text])

    with pytest.raises(Refused, match="tokens of prompt"):  # let through, and found too long then
        ask(2400)
    for way in ("encode", "prompt", "chat_tokens"):
        monkeypatch.setattr(letters, way, lambda *arguments: 1 / 0)
    with pytest.raises(Refused, match="2401 characters, too many even for 200 tokens of up to 12 characters") as error:
        ask(2401)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "messages" if chat else "prompt")


def test_every_setting_arrives(read, letters):
    how = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": -3}
    ask = read(**how, stop=["a", "bc"], max_tokens=9, n=2, stream=True, stream_options={"include_usage": True})
    assert ask.sampling == Sampling(**how, stop=(letters.end,), stop_strings=("a", "bc"))
    assert ask.how == how | {"stop": (letters.end,), "stop_strings": ("a", "bc")}  # the same as a mapping
    assert (ask.n_new, ask.n, ask.stream, ask.include_usage) == (9, 2, True, True)
    assert read(stop="a").how["stop_strings"] == ("a",)
    assert read(ignore_eos=True).sampling.stop == ()
    assert read(temperature=0).how["temperature"] == 0
    assert read(temperature=1e-40).how["temperature"] == 0.01  # the logits divided by it are still numbers
    assert read(chat=True, max_tokens=5).n_new == 5
    assert read(chat=True, max_tokens=5, max_completion_tokens=6).n_new == 6


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("hi", [[7, 8]]),
        (["hi", "a"], [[7, 8], [0]]),
        ([7, 8], [[7, 8]]),
        ([[7, 8], [0]], [[7, 8], [0]]),
        ("<|im_start|>a", [[47, 0]]),  # as in vLLM, a prompt may be a conversation written by hand
        ("a\u4e00", [[0]]),  # bytes that this vocabulary lacks
    ],
)
def test_a_prompt_is_text_or_tokens_one_or_several(read, prompt, tokens):
    assert read(prompt=prompt).prompts == tokens


def test_a_conversation_may_have_roles_parts_and_the_answers_of_before(read, letters):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    before = {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []}
    found = read(chat=True, messages=[{"role": "developer", "content": parts, "name": "me"}, before, *HI]).prompts[0]
    plain = [{"role": "system", "content": "ab"}, {"role": "assistant", "content": "c"}, *HI]
    assert found == letters.chat_tokens(plain)


def test_what_changes_nothing_is_taken(read):
    nothing = dict.fromkeys(IGNORED, "me") | {name: values[0] for name, values in NOT_HERE.items() if values}
    assert read(**nothing, model="tiny-model") == read(model="") == read(model=None, tools=None, stop=None, n=None)
    assert read(stop=[]) == read()


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        *[{"top_k": off} for off in (-1, 0)],
        {"seed": -1},
        *[{"n": n, "best_of": n} for n in (1, 2)],
        *[{name: off} for name in ("min_p", "frequency_penalty", "presence_penalty") for off in (0, 0.0, -0.0)],
        *[{"repetition_penalty": off} for off in (1, 1.0)],
        *[{"stream_options": off} for off in ({}, {"include_usage": False}, {"include_usage": None}, None)],
        {"skip_special_tokens": True, "spaces_between_special_tokens": False},
        {"min_tokens": 0, "stop_token_ids": [], "bad_words": [], "use_beam_search": False, "logit_bias": {}},
        {"echo": None, "suffix": None, "logprobs": None, "tools": [], "tool_choice": "none"},
        {"detokenize": True, "include_reasoning": True, "logits_processors": [], "mm_processor_kwargs": {}},
        {"guided_json": None, "guided_choice": [], "structured_outputs": {}, "add_special_tokens": None},
        {"reasoning_effort": "none", "verbosity": "medium", "length_penalty": 1.0, "early_stopping": False},
        {**dict.fromkeys(SHARED), **dict.fromkeys(NOT_HERE), "best_of": None},
    ],
    ids=str,
)
def test_a_value_that_asks_for_nothing_is_as_good_as_left_out(read, fields, chat):
    assert read(chat, **fields) == read(chat, n=fields.get("n"))


@pytest.mark.parametrize(
    "fields",
    [
        *[{"best_of": 1, "n": 2}, {"best_of": 2}, {"best_of": True}, {"min_p": False}, {"repetition_penalty": True}],
        *[{"skip_special_tokens": False}, {"skip_special_tokens": 1}, {"min_p": 0.1}, {"repetition_penalty": 1.1}],
        *[{"stop_token_ids": [1]}, {"logit_bias": {"1": 0}}, {"tools": [{}]}, {"min_tokens": 1}],
        *[{"detokenize": False}, {"guided_choice": ["a"]}, {"structured_outputs": {"regex": "a"}}],
        *[{"verbosity": "low"}, {"add_special_tokens": False}],
    ],
    ids=str,
)
def test_a_value_that_asks_for_something_is_refused(read, fields):
    with pytest.raises(Refused, match="this server has no ") as error:
        read(**fields)
    assert error.value.param in fields


@pytest.mark.parametrize("chat", [False, True])
def test_special_tokens_are_added_where_vllm_adds_them(read, chat):
    assert read(chat, add_special_tokens=not chat) == read(chat)
    with pytest.raises(Refused, match="this server has no add_special_tokens"):
        read(chat, add_special_tokens=chat)


def test_a_template_may_write_the_name_of_who_speaks(letters):
    by_name = Tokenizer(letters.library, letters.end, "{% for m in messages %}{{ m.name }}:{{ m.content }}{% endfor %}")
    body = {"messages": [{"role": "user", "content": "b", "name": "a<|im_end|>"}, {"role": "user", "content": "c"}]}
    found = read_ask(body, True, by_name, ["m"], 100).prompts[0]
    assert found == by_name.encode("a<|im_end|>:b:c")


def test_a_prompt_begins_and_an_answer_ends_as_the_file_says(letters):
    """BOS, where the file asks for it; all tokens that end a turn. Not with tokens that the client made itself."""
    llama = copy.copy(letters)
    llama.prompt = lambda text: [49, *letters.encode(text)]
    llama.ends = frozenset({48, 47})

    def ask(**fields):
        return read_ask({"prompt": "hi"} | fields, False, llama, ["m"], LONGEST)

    assert ask().prompts == [[49, 7, 8]]
    assert ask(prompt=["a", [7, 8]]).prompts == [[49, 0], [7, 8]]
    assert ask(prompt="").prompts == [[49]]
    assert ask().sampling.stop == (47, 48)
    assert ask(ignore_eos=True).sampling.stop == ()


REFUSED = [
    # what is not here, or nowhere
    *[({name: {"a": 1}}, name, f"has no {name}: leave it out") for name in NOT_HERE],
    ({"logprobs": 0}, "logprobs", "no logprobs"),
    ({"echo": True}, "echo", "no echo"),
    ({"best_of": 2}, "best_of", "no best_of"),
    ({"max_token": 5}, "max_token", "unknown field 'max_token', did you mean max_tokens?"),
    ({"messages": HI}, "messages", "unknown field 'messages'"),
    ({"x" * 999: 5}, "x" * 60, "unknown field 'xxx"),
    ({"\ud800": 5}, "\ud800", r"unknown field '\\ud800'"),
    # numbers
    *[({"max_tokens": value}, "max_tokens", "whole number, at least 1, not ") for value in (0, -1, 2.0, "5", True, [])],
    ({"max_tokens": 10**400}, "max_tokens", "2 tokens of prompt and 1000"),
    ({"max_tokens": 199}, "max_tokens", "2 tokens of prompt and 199 to be written: at most 200 together"),
    ({"prompt": [1] * 300}, None, "300 tokens of prompt and 16 to be written: at most 200"),
    *[({"n": value}, "n", "whole number, from 1 to 16, not ") for value in (0, -5, 17, 1.5, False)],
    ({"prompt": ["a"] * 5, "n": 4}, "n", "5 prompts with 4 answers each: at most 16"),
    *[
        ({"temperature": value}, "temperature", "number, from 0 to 2, not ")
        for value in (-0.1, 2.1, 10**400, "1", True)
    ],
    *[({"top_p": value}, "top_p", "number, above 0 and at most 1, not ") for value in (0, -1, 1.01, [])],
    *[({"top_k": value}, "top_k", "whole number, at least 1") for value in (-2, 1.0, 0.0, "0", True, False, [])],
    *[({"seed": value}, "seed", "seed has to be a whole number, from -9223372036854775808") for value in (2**63, 0.5)],
    # texts
    *[({"prompt": value}, "prompt", "an empty prompt") for value in ("", [""], ["a", ""], [[]], [[1], []], "\u4e00")],
    ({"prompt": []}, "prompt", "prompt is an empty list: a model goes on from at least one token"),
    *[({"prompt": value}, "prompt", "prompt has to be a string, a list") for value in ({}, 5, True)],
    *[({"prompt": value}, "prompt", "tokens are whole numbers, from 0") for value in ([1, "a"], [[1, 2.0]], [[True]])],
    *[({"prompt": value}, "prompt", "tokens are whole numbers, from 0") for value in ([-1], [10**400], [[2**31]])],
    ({"prompt": ["a", 1]}, "prompt", "prompt has to be a string, not 1"),
    ({"prompt": [True]}, "prompt", "prompt has to be a string, not true"),
    ({"prompt": ["a"] * 17}, "prompt", "17 prompts: at most 16"),
    ({"prompt": "a\ud800"}, "prompt", r"half a character \(a lone surrogate\) at position 1"),
    *[({"stop": value}, "stop", "up to 4 strings of at least one") for value in ("", [""], list("abcde"), 0, {})],
    ({"stop": [5]}, "stop", "stop has to be a string, not 5"),
    ({"stop": ["\udfff"]}, "stop", "half a character"),
    ({"model": 5}, "model", "model has to be a string, not 5"),
    # the stream
    ({"stream": 1}, "stream", "true or false, not 1"),
    ({"ignore_eos": "no"}, "ignore_eos", "true or false, not 'no'"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream to be true"),
    ({"stream": True, "stream_options": 5}, "stream_options", "an object, not 5"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "true or false"),
    ({"stream": True, "stream_options": {"continuous": 1}}, "stream_options", "no 'continuous'"),
]
REFUSED_CHATS = [
    ({"messages": None}, "messages", "messages is missing, like"),
    ({"messages": []}, "messages", "messages is an empty list: give at least one message"),
    *[({"messages": value}, "messages", "a list of messages, not ") for value in ({}, "hi", 5)],
    ({"messages": [5]}, "messages[0]", "an object with role and content, not 5"),
    ({"messages": [*HI, {"role": "user"}]}, "messages[1].content", "content has to be a string, not null"),
    *[({"messages": [{"role": r, "content": ""}]}, "messages[0]", "one of system, dev") for r in ("tool", 5, None, [])],
    ({"messages": [HI[0] | {"tool_calls": [1]}]}, "messages[0]", "no 'tool_calls' in a message"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]", "parts of type text only"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0]", "parts of type text only"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "a string, not null"),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, "messages[0].content", "half a character"),
    ({"prompt": "hi"}, "prompt", "unknown field 'prompt'"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
    ({"messages": [{"role": "user", "content": "a" * 300}]}, None, "at most 200 together"),
]


@pytest.mark.parametrize(
    ("chat", "fields", "param", "words"),
    [(False, *row) for row in REFUSED] + [(True, *row) for row in REFUSED_CHATS],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else "",
)
def test_what_is_wrong_is_said_in_one_line_with_its_field(read, chat, fields, param, words):
    with pytest.raises(Refused, match=words) as error:
        read(chat, **fields)
    said = str(error.value)
    assert said.isascii()
    assert "\n" not in said
    assert len(said) < 250
    assert error.value.status == 400
    assert (error.value.param or "").startswith(param or "")


def test_a_missing_prompt_is_named(letters):
    with pytest.raises(Refused, match='prompt is missing, like "Hello"'):
        read_ask({}, False, letters, ["m"], LONGEST)


def test_another_model_is_refused_with_the_nearest_name():
    names = ["SmolLM2-135M-Instruct", "llama"]
    check_model("", names), check_model("llama", names)
    for asked in ("SmolLM2-135M", "smollm2-135m-instruct", "SmolLM2-135M-Instruct" * 9999):
        with pytest.raises(Refused, match="there is no model 'S.*here; did you mean 'SmolLM2-135M-Instruct'") as error:
            check_model(asked.replace("s", "S", 1), names)
        assert (error.value.status, error.value.code) == (404, "model_not_found")
        assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no valid JSON: Expecting value"),
        (b'{"prompt": "hi"', "no valid JSON"),
        (b'{"temperature": NaN}', "NaN is no number in JSON"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"n": ' + b"9" * 5000 + b"}", "no valid JSON: Exceeds the limit"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' * 100_000, "nested too deep"),
        (b'"\xff"', "no valid JSON"),
        (b"[]", "a JSON object, like .*, not a list"),
        (b"null", "not null"),
        (b'"hi"', "not 'hi'"),
        (b"5", "not 5"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body, words):
    with pytest.raises(Refused, match=words) as error:
        read_json(body)
    assert "\n" not in str(error.value)


NAMES = st.sampled_from(sorted({*COMPLETION, *CHAT, *NOT_HERE, *IGNORED, "role", "content", "type", "text"}))
TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["user", "text", "tiny-model", "\ud800"]), NAMES)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 40), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXTS, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": VALUES}), max_size=3)
STARTS = st.sampled_from([{"prompt": "hi", "messages": HI}, {"prompt": ["a", "b"], "messages": HI * 2}])
FIELDS = st.dictionaries(NAMES, VALUES, max_size=2) | st.dictionaries(NAMES | TEXTS, VALUES, max_size=5)
TEXT = st.fixed_dictionaries({}, optional={"prompt": VALUES}) | st.fixed_dictionaries(
    {}, optional={"messages": MESSAGES}
)
BODIES = st.tuples(STARTS, TEXT, FIELDS).map(lambda parts: parts[0] | parts[1] | parts[2])


@settings(max_examples=300)
@given(BODIES, st.booleans())
@example({"prompt": "a", "temperature": float("inf")}, False)
@example({"prompt": "a", "stream_options": {}}, False)
def test_any_body_is_understood_or_refused(letters, body, chat):
    body.pop("prompt" if chat else "messages", None)
    try:
        ask = read_ask(body, chat, letters, ["tiny-model"], LONGEST)
    except Refused as error:
        refused = error
    else:
        assert all(0 < len(prompt) <= LONGEST - ask.n_new for prompt in ask.prompts)
        assert ask.n_new >= 1
        assert 1 <= ask.n * len(ask.prompts) <= 16
        assert ask.sampling.temperature == 0 or 0.01 <= ask.sampling.temperature <= 2
        return
    assert "\n" not in str(refused)
    assert len(str(refused)) < 300
    json.dumps(error_of(refused)[1]).encode()


def test_usage_counts_a_prompt_once(read):
    reply = Reply(read(prompt=["hi", "abc"], n=2), "tiny-model")
    for piece in (Piece(0, "x", None, 1, 0), Piece(1, "y", "stop", 5, 0), Piece(2, "", "stop", 0, 2)):
        reply.add(piece)
    assert not reply.done
    reply.add(Piece(0, "z", "length", 2, 0)), reply.add(Piece(3, "w", "stop", 4, 2))
    assert reply.done
    usage = {"prompt_tokens": 5, "completion_tokens": 11, "total_tokens": 16}
    assert reply.usage() == usage | {"prompt_tokens_details": {"cached_tokens": 2}}
    choices = reply.whole()["choices"]
    assert [(c["index"], c["text"], c["finish_reason"]) for c in choices] == [
        *[(0, "xz", "length"), (1, "y", "stop"), (2, "", "stop"), (3, "w", "stop")]
    ]


def test_errors_have_openais_form():
    for error, status, kind in (
        (Refused("no", "n", code="c"), 400, "invalid_request_error"),
        (ValueError("no"), 400, "invalid_request_error"),
        (Busy("no"), 429, "rate_limit_error"),
        (Closed("no"), 503, "server_error"),
        (EngineFailed("no"), 500, "server_error"),
        (AnswerFailed("no"), 500, "server_error"),
    ):
        said = {"message": "no", "type": kind, "param": getattr(error, "param", None)}
        assert error_of(error) == (status, {"error": said | {"code": getattr(error, "code", None)}})
    status, said = error_of(KeyError("/home/me/secret"))
    assert (status, said["error"]["message"]) == (500, "the server made a mistake")  # a client learns no more
