"""What a client gets, in OpenAI's form: whole answers, the pieces of a stream, and errors."""

import json
import time
import uuid
from http import HTTPStatus

from ..serving.request import AnswerFailed
from .fields import Refused
from .protocol import Ask
from .worker import Busy, Closed, EngineFailed, Piece

DONE = "data: [DONE]\n\n"


class Reply:
    """The answer to one `Ask`, built up from the pieces that the worker delivers.

    Args:
        ask: what was asked for.
        model: the name of the model that answers.
    """

    def __init__(self, ask: Ask, model: str):
        kind = "chatcmpl" if ask.chat else "cmpl"
        self._ask, self._head = ask, {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        n_answers = ask.n * len(ask.prompts)
        self._texts, self._last = [""] * n_answers, [Piece(i, "", None, 0, 0) for i in range(n_answers)]

    def add(self, piece: Piece) -> None:
        """One piece more."""
        self._texts[piece.answer] += piece.text
        self._last[piece.answer] = piece

    @property
    def done(self) -> bool:
        """Every answer has ended."""
        return all(piece.finished for piece in self._last)

    def usage(self) -> dict:
        """The tokens so far; a prompt counts once, however many answers it gets."""
        n_prompt = sum(map(len, self._ask.prompts))
        n_written = sum(piece.n_written for piece in self._last)
        n_reused = sum(piece.n_reused for piece in self._last[:: self._ask.n])
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_written,
            "total_tokens": n_prompt + n_written,
            "prompt_tokens_details": {"cached_tokens": n_reused},
        }

    def whole(self) -> dict:
        """All answers."""
        choices = [
            self._choice(i, {"role": "assistant", "content": text, "refusal": None} if self._ask.chat else text, why)
            for i, (text, why) in enumerate(zip(self._texts, [piece.finished for piece in self._last], strict=True))
        ]
        return self._object([*choices], "") | {"usage": self.usage()}

    def opening(self) -> list[dict]:
        """What a stream begins with: in a conversation, who speaks."""
        if not self._ask.chat:
            return []
        return [self._chunk(i, {"role": "assistant", "content": ""}, None) for i in range(len(self._last))]

    def chunks(self, piece: Piece) -> list[dict]:
        """What a stream says about `piece`."""
        if not self._ask.chat:
            return [self._chunk(piece.answer, piece.text, piece.finished)]
        said = [self._chunk(piece.answer, {"content": piece.text}, None)] if piece.text else []
        return said + ([self._chunk(piece.answer, {}, piece.finished)] if piece.finished else [])

    def closing(self) -> list[dict]:
        """What a stream ends with: the count of tokens, if it was asked for."""
        return [self._object([], ".chunk") | {"usage": self.usage()}] if self._ask.include_usage else []

    def _chunk(self, answer: int, content: dict | str, finished: str | None) -> dict:
        usage = {"usage": None} if self._ask.include_usage else {}
        return self._object([self._choice(answer, content, finished, "delta")], ".chunk") | usage

    def _choice(self, answer: int, content: dict | str, finished: str | None, name: str = "message") -> dict:
        content = {name if self._ask.chat else "text": content}
        return {"index": answer, **content, "logprobs": None, "finish_reason": finished}

    def _object(self, choices: list[dict], suffix: str) -> dict:
        kind = "chat.completion" + suffix if self._ask.chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}


def event(content: dict) -> str:
    """One event of a stream, as ``text/event-stream`` writes it."""
    return f"data: {json.dumps(content)}\n\n"


def error_of(error: Exception) -> tuple[int, dict]:
    """HTTP's status and OpenAI's form of what went wrong."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    if isinstance(error, Refused):
        status = error.status
    elif isinstance(error, ValueError):  # what Engine.submit refuses
        status = 400
    else:
        status = {Busy: 429, Closed: 503}.get(type(error), 500)
    known = ValueError | Busy | Closed | EngineFailed | AnswerFailed
    said = str(error) if isinstance(error, known) else "the server made a mistake"
    kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": said, "type": kind, "param": param, "code": code}}


def whole_error(status: int, said: str) -> bytes:
    """An error as it goes over the wire, for a connection that ends with it before a request has come to a page."""
    body = json.dumps(error_of(Refused(said, status=status))[1])
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "Connection: close", "", body]).encode()


def model_card(name: str, created: int) -> dict:
    """A model, as ``/v1/models`` lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "llmhw"}
