"""The fields of a request's body: a check for each kind of value, which gives it back or refuses it in one line.

A check takes the field's name and its value.
"""

import json
import math
from collections.abc import Callable

from ..specs.settings import OneLine

MAX_ANSWERS = 16  # of one request
MAX_STOPS = 4
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Refused(OneLine, ValueError):
    """A request that is not answered: the message says what was wrong, and what would be right.

    Attributes:
        status: HTTP's number for it.
        param: the field.
        code: OpenAI's word for it.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def short(text: str) -> str:
    """`text` in quotes, as far as it is fit for a message."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def kind(value: object) -> str:
    """`value` where that is short, else what kind of thing it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return short(value)
    return short(json.dumps(value)).strip("'")


def whole(low: int, high: float = math.inf) -> Callable[[str, object], int]:
    """A check for a whole number in this range."""

    def check(name: str, value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise Refused(f"{name} has to be a whole number, {allowed}, not {kind(value)}", name)
        return value

    return check


def top_k(name: str, value: object) -> int | None:
    """How many tokens to keep; all of them with vLLM's two ways to say so, -1 and 0."""
    if type(value) is int and value in (-1, 0):
        return None
    return whole(1)(name, value)


def seed(name: str, value: object) -> int | None:
    """Where random numbers begin; -1, as in vLLM, stands for no seed."""
    value = whole(-(2**63), 2**63 - 1)(name, value)
    return None if value == -1 else value


def number(low: float, high: float, above: bool = False) -> Callable[[str, object], float]:
    """A check for a number in this range, `above` it not the lowest one."""

    def check(name: str, value: object) -> float:
        if type(value) not in (int, float) or not low <= value <= high or (above and value == low):
            allowed = f"above {low} and at most {high}" if above else f"from {low} to {high}"
            raise Refused(f"{name} has to be a number, {allowed}, not {kind(value)}", name)
        return float(value)

    return check


def flag(name: str, value: object) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise Refused(f"{name} has to be true or false, not {kind(value)}", name)
    return value


def text(name: str, value: object) -> str:
    """A string of whole characters."""
    if not isinstance(value, str):
        raise Refused(f"{name} has to be a string, not {kind(value)}", name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"{name} holds half a character (a lone surrogate) at position {error.start}", name) from None
    return value


def stop_strings(name: str, value: object) -> list[str]:
    """A stop string, or a few of them."""
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MAX_STOPS or not all(texts):
        raise Refused(f"{name} has to be up to {MAX_STOPS} strings of at least one character each", name)
    return [text(name, each) for each in texts]


def prompt(name: str, value: object) -> list[str | list[int]]:
    """A string, a list of strings, tokens, or a list of lists of tokens."""
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if value == []:
        raise Refused(f"{name} is an empty list: a model goes on from at least one token", name)
    if not isinstance(value, list):
        raise Refused(f"{name} has to be a string, a list of strings, or lists of tokens, not {kind(value)}", name)
    if len(value) > MAX_ANSWERS:
        raise Refused(f"{len(value)} prompts: at most {MAX_ANSWERS} answers in all", name)
    for each in value:
        if not isinstance(each, list):
            text(name, each)
        elif not all(type(token) is int and 0 <= token < 2**31 for token in each):
            raise Refused(f"{name}: tokens are whole numbers, from 0 on", name)
    return value


def messages(name: str, value: object) -> list[dict[str, str]]:
    """A conversation; what its parts of type text say is put together."""
    if value == []:
        raise Refused(f"{name} is an empty list: give at least one message", name)
    if not isinstance(value, list):
        raise Refused(f"{name} has to be a list of messages, not {kind(value)}", name)
    return [_message(f"{name}[{i}]", message) for i, message in enumerate(value)]


def _message(name: str, message: object) -> dict[str, str]:
    if not isinstance(message, dict):
        raise Refused(f"{name} has to be an object with role and content, not {kind(message)}", name)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(f"{name}.role has to be one of {', '.join(ROLES)}, not {kind(role)}", name)
    for extra in sorted(message.keys() - {"role", "content", "name", "annotations"}):
        if message[extra]:
            raise Refused(f"{name}: this server has no {short(extra)} in a message", name)
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise Refused(f"{name}.content: this server reads parts of type text only", name)
            parts.append(text(f"{name}.content", part.get("text")))
        content = "".join(parts)
    said = {"role": ROLES[role], "content": text(f"{name}.content", content)}
    speaker = message.get("name")  # templates may write it
    return said if speaker is None else said | {"name": text(f"{name}.name", speaker)}


def stream_options(name: str, value: object) -> bool:
    """Whether a stream should hold the count of tokens besides the answers."""
    if not isinstance(value, dict):
        raise Refused(f"{name} has to be an object, not {kind(value)}", name)
    for extra in sorted(value.keys() - {"include_usage", "include_obfuscation"}):
        if value[extra]:
            raise Refused(f"{name}: this server has no {short(extra)}", name)
    included = value.get("include_usage")
    return included is not None and flag(f"{name}.include_usage", included)
