"""What a client may ask for, in OpenAI's words: a request's body, checked field by field.

The form is that of OpenAI's API reference for ``/v1/completions`` and ``/v1/chat/completions``; `top_k` and
`ignore_eos` are vLLM's additions to it. A field that is null, or that asks for nothing, is as good as left out. A
`top_p` of 0 is refused, as vLLM refuses it: off is 1, and the best token each time is a `temperature` of 0. Nothing
here knows of HTTP.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..llm.tokenizer import BadText, Tokenizer
from ..serving.sampling import Sampling
from . import fields
from .fields import MAX_ANSWERS, Refused, kind, short

LOWEST_TEMPERATURE = 0.01  # but for 0: below, the logits would overflow when they are divided by it
# Fields that change nothing here.
IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
IGNORED |= {"spaces_between_special_tokens"}  # an answer's text has none
# Fields that this server has not, OpenAI's and then vLLM's, with the values that ask for nothing.
NOT_HERE = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "top_logprobs"), (0,)),
    **dict.fromkeys(("tools", "functions"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("logprobs", "echo"), (False,)),
    **dict.fromkeys(("audio", "prediction", "web_search_options"), ()),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "logit_bias": ({},),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    **dict.fromkeys(("min_p", "min_tokens", "priority"), (0,)),
    **dict.fromkeys(("repetition_penalty", "length_penalty"), (1,)),
    **dict.fromkeys(("stop_token_ids", "bad_words", "allowed_token_ids", "documents", "logits_processors"), ([],)),
    **dict.fromkeys(("use_beam_search", "early_stopping", "include_stop_str_in_output"), (False,)),
    **dict.fromkeys(("continue_final_message", "return_token_ids", "return_tokens_as_token_ids"), (False,)),
    **dict.fromkeys(("skip_special_tokens", "add_generation_prompt", "detokenize", "include_reasoning"), (True,)),
    **dict.fromkeys(("prompt_logprobs", "chat_template", "truncate_prompt_tokens"), ()),
    **dict.fromkeys(("chat_template_kwargs", "mm_processor_kwargs", "structured_outputs"), ({},)),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_grammar", "guided_decoding_backend"), ()),
    "guided_choice": ([],),
}


@dataclass(frozen=True)
class Ask:
    """What a client wants.

    Attributes:
        prompts: tokens of each.
        n_new: tokens of an answer at most.
        n: answers to each prompt.
        sampling: how their tokens are chosen, and what ends them.
        chat: whether it is a conversation that goes on.
        stream: whether to send the answers as they come.
        include_usage: whether a stream ends with the count of tokens.
    """

    prompts: list[list[int]]
    n_new: int
    n: int
    sampling: Sampling
    chat: bool
    stream: bool
    include_usage: bool

    @property
    def how(self) -> dict:
        """The settings of `sampling` by name."""
        return asdict(self.sampling)


def read_json(body: bytes) -> dict:
    """The object that `body` holds.

    Raises:
        Refused: it holds no JSON, or another kind of it.
    """
    try:
        found = json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise Refused("the body is JSON that is nested too deep") from None
    except ValueError as error:
        raise Refused(f"the body is no valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f'the body has to be a JSON object, like {{"prompt": "Hello"}}, not {kind(found)}')
    return found


def read_ask(body: Mapping, chat: bool, tokenizer: Tokenizer, names: Sequence[str], longest: int) -> Ask:
    """What the fields of a body ask for.

    Args:
        body: its fields.
        chat: they are of ``/v1/chat/completions``, else of ``/v1/completions``.
        tokenizer: of the model.
        names: of the models that are here.
        longest: tokens of a text, the new ones included, at most.

    Raises:
        Refused: a field is not known, or its value is none that can be used.
    """
    given = {name: value for name, value in body.items() if value is not None}
    own = CHAT if chat else COMPLETION
    nothing = NOT_HERE | {"best_of": (given.get("n", 1),)}  # of as many answers as are wanted none is left out
    nothing |= {"add_special_tokens": (not chat,)}  # vLLM's default: a chat's are the template's
    for name, value in given.items():
        if name in nothing:
            if not any(_same(value, each) for each in nothing[name]):
                raise Refused(f"this server has no {name}: leave it out", name, code="unsupported_parameter")
        elif name not in own and name not in IGNORED:
            near = difflib.get_close_matches(name[:50], own, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise Refused(f"unknown field {short(name)}{hint}", name[:60], code="unknown_parameter")
    check_model(given.get("model", ""), names)
    wanted = {name: check(name, given[name]) for name, check in own.items() if name in given}
    prompts = (_conversation if chat else _prompts)(wanted, tokenizer, longest)
    n = wanted.get("n", 1)
    if n * len(prompts) > MAX_ANSWERS:
        raise Refused(f"{len(prompts)} prompts with {n} answers each: at most {MAX_ANSWERS} answers in all", "n")
    n_new = _n_new(wanted, chat, max(map(len, prompts)), longest)
    stream, include_usage = wanted.get("stream", False), wanted.get("stream_options", False)
    if include_usage and not stream:
        raise Refused("stream_options.include_usage needs stream to be true", "stream_options")
    return Ask(prompts, n_new, n, _sampling(wanted, tokenizer), chat, stream, include_usage)


def check_model(name: object, names: Sequence[str]) -> None:
    """Refuse a model that is not here; no name at all stands for the one that is.

    Raises:
        Refused: with the nearest name that is here.
    """
    if not isinstance(name, str):
        raise Refused(f"model has to be a string, not {kind(name)}", "model")
    if name and name not in names:
        near = (difflib.get_close_matches(name[:200], names, 1, cutoff=0.0) or list(names))[0]
        message = f"there is no model {short(name)} here; did you mean {near!r}?"
        raise Refused(message, "model", status=404, code="model_not_found")


def _conversation(wanted: Mapping, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    if "messages" not in wanted:
        raise Refused('messages is missing, like [{"role": "user", "content": "Hello"}]', "messages")
    _check_length("messages", sum(len(message["content"]) for message in wanted["messages"]), tokenizer, longest)
    try:
        return [tokenizer.chat_tokens(wanted["messages"])]
    except BadText as error:
        raise Refused(str(error), "messages") from None


def _prompts(wanted: Mapping, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    if "prompt" not in wanted:
        raise Refused('prompt is missing, like "Hello"', "prompt")
    for each in wanted["prompt"]:
        if isinstance(each, str):
            _check_length("prompt", len(each), tokenizer, longest)
    try:
        prompts = [tokenizer.prompt(each) if isinstance(each, str) else each for each in wanted["prompt"]]
    except BadText as error:
        raise Refused(str(error), "prompt") from None
    if not all(prompts):
        raise Refused("an empty prompt: a model goes on from at least one token", "prompt")
    return prompts


def _check_length(name: str, n_characters: int, tokenizer: Tokenizer, longest: int) -> None:
    """Refuse what cannot fit before it is cut into tokens, which takes seconds and memory for a long text."""
    if n_characters > longest * tokenizer.longest:
        limit = f"{longest} tokens of up to {tokenizer.longest} characters each"
        message = f"{name} has {n_characters} characters, too many even for {limit}"
        raise Refused(message, name, code="context_length_exceeded")


def _n_new(wanted: Mapping, chat: bool, n_prompt: int, longest: int) -> int:
    room = longest - n_prompt
    name = "max_completion_tokens" if "max_completion_tokens" in wanted else "max_tokens"
    n_new = wanted.get(name, max(room, 1) if chat else 16)  # OpenAI's own defaults
    if n_new > room:
        message = f"{n_prompt} tokens of prompt and {kind(n_new)} to be written: at most {longest} together"
        raise Refused(message, name if n_prompt < longest else None, code="context_length_exceeded")
    return n_new


def _sampling(wanted: Mapping, tokenizer: Tokenizer) -> Sampling:
    temperature = wanted.get("temperature", 1.0)
    return Sampling(
        temperature=max(temperature, LOWEST_TEMPERATURE) if temperature else 0.0,
        top_k=wanted.get("top_k"),
        top_p=wanted.get("top_p"),
        seed=wanted.get("seed"),
        stop=() if wanted.get("ignore_eos") else tuple(sorted(tokenizer.ends)),
        stop_strings=tuple(wanted.get("stop", ())),
    )


def _same(value: object, other: object) -> bool:
    """Whether JSON means the same by both: 1 and 1.0 are one number, and true is none."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


SHARED = {
    "model": lambda name, value: value,
    "max_tokens": fields.whole(1),
    "temperature": fields.number(0, 2),
    "top_p": fields.number(0, 1, above=True),
    "top_k": fields.top_k,
    "seed": fields.seed,
    "n": fields.whole(1, MAX_ANSWERS),
    "stop": fields.stop_strings,
    "stream": fields.flag,
    "stream_options": fields.stream_options,
    "ignore_eos": fields.flag,
}
COMPLETION = SHARED | {"prompt": fields.prompt}
CHAT = SHARED | {"messages": fields.messages, "max_completion_tokens": fields.whole(1)}
