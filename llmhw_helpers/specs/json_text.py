"""JSON from elsewhere: read in one way by all that reads a model's or the course's own files."""

import errno
import json
from pathlib import Path

MOST_DIGITS = 100  # of a whole number; transformers writes 31 where it means "no limit"
MOST_NESTED_JSON = 64  # lists and objects within each other; real files have fewer than ten
# An empty list is two letters and takes 64 bytes or more: so many of them in any text, and one more for so many letters
MOST_SMALL_JSON, LETTERS_EACH = 10_000, 20
MOST_NAMES, LETTERS_A_NAME = 50_000, 18  # a name in an object takes 170 bytes
MOST_TEXTS, LETTERS_A_TEXT = 100_000, 7  # a text takes 64 bytes, and each of its letters at least one


def parse_json(content: bytes | str) -> object:
    r"""What JSON says, in a form that can be shown, compared, copied and written again.

    Refused are whole numbers of very many digits, with which computing takes long; what is nested so deep that going
    through it fails; so many small lists, objects, names or texts that they take far more memory than the text; and
    halves of characters, which no file and no screen can take.

    Raises:
        ValueError: not JSON in UTF-8, or one of these.

    >>> parse_json(b'{"n_layers": 30}')
    {'n_layers': 30}
    >>> parse_json("[" * 10_000)
    Traceback (most recent call last):
        ...
    ValueError: lists and objects are nested more than 64 deep
    """
    text = content if isinstance(content, str) else content.decode()
    check_lists(text)
    _check_count("names", text.count('":'), len(text), MOST_NAMES, LETTERS_A_NAME)
    _check_count("texts", text.count('"') // 2, len(text), MOST_TEXTS, LETTERS_A_TEXT)
    try:
        found = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError(f"lists and objects are nested more than {MOST_NESTED_JSON} deep") from None
    level = [found]
    for _ in range(MOST_NESTED_JSON + 1):
        inner = []
        for each in level:
            if isinstance(each, str) and not each.isascii():
                _check_whole_characters(each)
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, dict):
                inner += [*each, *each.values()]
        level = inner
        if not level:
            return found
    raise ValueError(f"lists and objects are nested more than {MOST_NESTED_JSON} deep")


def check_lists(text: bytes | str, letters_each: int = LETTERS_EACH) -> None:
    """Refuse JSON with more than a few small lists and objects, before any of them is made.

    Raises:
        ValueError: there are `MOST_SMALL_JSON`, and more than one for each so many letters besides.
    """
    opens = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    _check_count("lists and objects", sum(map(text.count, opens)), len(text), MOST_SMALL_JSON, letters_each)


def read_file(path: Path) -> bytes:
    """All of a file, and of nothing else: a pipe waits for a writer for ever, and a device may never end.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no file, but a folder, a pipe or a device", str(path))
    return path.read_bytes()


def _check_count(what: str, n: int, n_letters: int, least: int, letters_each: int) -> None:
    most = least + n_letters // letters_each
    if n > most:
        raise ValueError(f"{n:,} {what} in {n_letters:,} letters, which are more than the {most:,} read")


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits")
    return int(digits)


def _check_whole_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[error.start]!r} is half a character") from None
