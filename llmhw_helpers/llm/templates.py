"""Chat templates: programs in Jinja, from a model's file, that write a conversation as the model was trained to see it.

They run as transformers runs them (`apply_chat_template`), in Jinja's sandbox. What is more: which control tokens of
the text the template wrote, and which only stand in somebody's message.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from ..specs.settings import OneLine
from .bounded_templates import BoundedEnvironment, purses

# Who speaks, in OpenAI's words. Templates build control tokens of them: Phi's is '<|' + message['role'] + '|>'.
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
REASONING = ("reasoning_content", "thinking", "reasoning")  # one field by three names, as transformers knows them
WORD = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 20_000  # of a template; the longest that are known have some 6,000
MOST_LETTERS = 100_000  # of a template, and of what one writes beside its messages
TIMES_WRITTEN = 10  # that a message may be written: as it is, as JSON, in a list of tools
NOTHING = "(?!)"  # an expression that fits nowhere
RARE = range(
    0x20000, 0x2A6D7
)  # Chinese characters that hardly anybody writes: JSON, Python and capitals leave them alone


class BadText(OneLine, ValueError):
    """A text that has no tokens, or tokens that have no text: the message says which."""


class ChatTemplate:
    """One model's way to write a conversation.

    Args:
        source: the template.
        names: special tokens by the names that the template may call them by, `bos_token` and the like.
    """

    def __init__(self, source: str, names: Mapping[str, str]):
        self._source, self._names = source, dict(names)

    def render(self, messages: Sequence[Mapping[str, object]], answer: bool = True) -> str:
        """The conversation as the model was trained to see it; with `answer`, up to where its answer begins.

        Raises:
            BadText: the template is none, or it refuses these messages.
        """
        return self._write([_message(message) for message in messages], answer, datetime.now())

    def pieces(self, messages: Sequence[Mapping[str, object]], answer: bool, words: Collection[str]) -> list[str]:
        """The same, cut at those of `words` that the template wrote: text, word, text, ..., word, text.

        The conversation is written again with characters of the messages hidden behind others that occur nowhere.
        Where that makes the same text, all that is hidden came from a message, and a word that can still be read is
        the template's. A template may look into messages (for ``</think>``) or change them (upper case, JSON), and
        then write something else; so less is hidden with each try: whole messages, what a word may begin with (but for
        other texts that the template names), whole words, nothing. The last two would not see a word that is put
        together of pieces: there the words must be those of the first try.

        Raises:
            BadText: as `render`; or the template looks for a word in the messages that one of them holds.
        """
        said, now = [_message(message) for message in messages], datetime.now()
        text = self._write(said, answer, now)
        if not words:
            return [text]
        whole = _any_of(words)
        begin = _any_of({case for word in words for case in word[0] + word[0].lower() + word[0].upper()})
        lower = [word.lower() for word in words]
        others = [text for text in self._literals if not any(text.lower() in w or w in text.lower() for w in lower)]
        begin = f"(?!{_any_of(others)}){begin}" if others else begin
        hide, shown = _mask(said, text + self._source)
        sure, unsure = ((r"\S", begin), (begin, begin)), ((whole, whole), (NOTHING, NOTHING))
        opaque = None
        for of_values, of_keys in sure + unsure:
            hidden = _each(said, partial(hide, of_values), partial(hide, of_keys))
            try:
                found = self._write(hidden, answer, now)
            except BadText:
                continue
            pieces = re.split(f"({whole})", found)
            opaque = pieces[1::2] if opaque is None else opaque
            if found.translate(shown) == text and ((of_values, of_keys) in sure or pieces[1::2] == opaque):
                return [piece.translate(shown) for piece in pieces]
        raise BadText(
            "the chat template looks for control tokens in the messages, and one holds some: write it otherwise"
        )

    @cached_property
    def _template(self) -> Template:
        if len(self._source) > MOST_LETTERS:  # they become tokens, each of which takes a hundred bytes
            raise BadText(f"the chat template has {len(self._source):,} letters; up to {MOST_LETTERS:,} are read")
        n_words = sum(1 for _ in WORD.finditer(self._source))
        if n_words > MOST_WORDS:  # Jinja takes some microseconds and a kilobyte for each
            raise BadText(f"the chat template has {n_words:,} words and signs; up to {MOST_WORDS:,} are read")
        try:
            return ENVIRONMENT.from_string(self._source)
        except TemplateSyntaxError as error:
            raise BadText(f"the chat template is not as Jinja's language asks, line {error.lineno}: {error}") from None
        except Exception as error:  # nested deeper than Jinja's or Python's compiler goes
            raise BadText(f"the chat template cannot be compiled ({type(error).__name__}: {error})") from None

    @cached_property
    def _literals(self) -> list[str]:
        """Texts between the template's quotes."""
        return [each.value for each in ENVIRONMENT.parse(self._source).find_all(nodes.Const) if type(each.value) is str]

    def _write(self, said: list, answer: bool, now: datetime) -> str:
        given = {"messages": said, "tools": None, "documents": None, "add_generation_prompt": answer}
        template = self._template
        try:
            with purses():
                text = template.render(self._names | given, strftime_now=lambda form: now.strftime(form))
        except Exception as error:  # a program from elsewhere can fail in every way
            raise BadText(f"the chat template refuses these messages: {error}") from None
        lengths: list[int] = []
        _each(said, lambda each: lengths.append(len(each)), str)
        if len(text) > (most := MOST_LETTERS + TIMES_WRITTEN * sum(lengths)):
            raise BadText(
                f"the chat template writes {len(text):,} letters, and these messages ask for {most:,} at most"
            )
        return text


class Generation(Extension):
    """``{% generation %}`` says which text is the model's, for training; in the text itself it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own form)

    def parse(self, parser: Parser) -> nodes.Node:
        """What stands within, with its own names as in a macro."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_within"), [], [], body).set_lineno(line)

    def _within(self, caller: Callable[[], str]) -> str:
        return caller()


def _any_of(texts: Collection[str]) -> str:
    """An expression; the longest text that fits is found, as by the tokenizers library."""
    return f"(?:{'|'.join(map(re.escape, sorted(texts, key=len, reverse=True)))})"


def _message(message: Mapping[str, object]) -> dict[str, object]:
    """Without fields that are `None`, and reasoning by all its names, as transformers hands it on."""
    if not isinstance(message, Mapping):
        raise BadText(f"a message is an object with role and content, not {type(message).__name__}")
    said = _each({key: value for key, value in message.items() if value is not None}, str, str)
    reasoning = next((said[name] for name in REASONING if name in said), None)
    return said if reasoning is None else {"thinking": reasoning} | said | {"reasoning_content": reasoning}


def _each(value: object, change: Callable[[str], object], change_key: Callable[[str], object], key: object = None):
    """A copy of JSON's kinds of values with each text changed, but for the roles that everybody knows."""
    if isinstance(value, str):
        return value if key == "role" and value in ROLES else change(value)
    if isinstance(value, Mapping):
        items = value.items()
        return {change_key(k) if isinstance(k, str) else k: _each(v, change, change_key, k) for k, v in items}
    if isinstance(value, list | tuple):
        return [_each(each, change, change_key) for each in value]
    return value if value is None or isinstance(value, int | float) else f"<{type(value).__name__}>"


def _mask(said: list, written: str) -> tuple[Callable[[str, str], str], dict[int, int]]:
    """A function that hides what fits a pattern, character by character, and the table that shows it again."""
    letters = set()
    _each(said, letters.update, letters.update)
    used = letters | set(written)
    free = (code for code in RARE if chr(code) not in used)
    behind = dict(zip(map(ord, sorted(letters)), free, strict=False))
    if len(behind) < len(letters):
        raise BadText(f"the messages hold {len(letters)} different characters, more than can be told from each other")
    hide = lambda pattern, text: re.sub(pattern, lambda found: found[0].translate(behind), text)  # noqa: E731
    return hide, {code: letter for letter, code in behind.items()}


def _refuse(why: str) -> None:
    raise TemplateError(why)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as transformers writes it; Jinja's own filter would escape HTML's signs."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = BoundedEnvironment(  # as transformers sets it
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
)
ENVIRONMENT.globals["raise_exception"] = _refuse
ENVIRONMENT.filters["tojson"] = _tojson
