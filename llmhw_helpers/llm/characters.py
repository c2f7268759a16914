"""Text from tokens as they come, in whole characters, whatever the vocabulary writes a character with."""

import codecs
import re
from collections.abc import Callable, Collection

from tokenizers import Tokenizer as Library
from tokenizers import decoders

BYTE = re.compile("<0x([0-9A-F]{2})>")  # how a vocabulary that falls back to bytes writes one
HALF = "\N{REPLACEMENT CHARACTER}"


class Characters:
    """Text from tokens as they come, in whole characters: see `Tokenizer.stream`.

    All of it together is, to the letter, what `Tokenizer.decode` says of all the tokens.

    Args:
        library: makes text of tokens.
        check: raises an error where a number is no token.
        left_out: tokens that the text leaves out.
    """

    def __init__(self, library: Library, check: Callable[[int], None], left_out: Collection[int] = ()):
        self._library, self._check, self._left_out = library, check, left_out
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._bytes = isinstance(self._library.decoder, decoders.ByteLevel)
        self._held = []  # tokens whose text is not out yet
        self._said = []  # the last ones whose text is, as many as the next one's depends on

    def push(self, token: int) -> str:
        """What can be said after `token`; nothing, where it ends within a character.

        Raises:
            BadText: a number that is no token, by `check`.
        """
        self._check(token)
        if token in self._left_out:
            return ""
        if self._bytes:
            return self._utf8.decode(raw(self._library.id_to_token(token)))
        self._held.append(token)
        if BYTE.fullmatch(self._library.id_to_token(token)):  # bytes in a row are characters all, or none is one
            return ""
        text = self._text()
        if text.endswith(HALF):
            return ""
        recent = self._said + self._held
        shortest = (recent[-n:] for n in (1, 2) if self._library.decode(recent[-n:], skip_special_tokens=False))
        self._said, self._held = next(shortest, recent), []
        return text

    def close(self) -> str:
        """No token more: what was held, as it is."""
        text = self._utf8.decode(b"", final=True) if self._bytes else self._text()
        self._held = []
        return text

    def _text(self) -> str:
        """What the held tokens add; the first token of a text is often written otherwise than those that follow."""
        if not self._held:
            return ""
        before = self._library.decode(self._said, skip_special_tokens=False) if self._said else ""
        return self._library.decode(self._said + self._held, skip_special_tokens=False)[len(before) :]


def raw(written: str) -> bytes:
    """The bytes of a token that is written in GPT-2's letters; with any other letter in it, it is text as it stands."""
    try:
        return bytes(BYTE_OF[letter] for letter in written)
    except KeyError:
        return written.encode()


def _byte_of() -> dict[str, int]:
    """GPT-2 writes a byte as a letter: printable ones as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_of()
