"""tokenizer.json, held against what the tokenizers library would take for it, and read by that library."""

import re
from pathlib import Path

from tokenizers import Tokenizer as Library

from ..specs.json_text import read_file
from .model_files import BadModelFile

# Commas, colons and opening brackets: real files have one in four letters, or fewer
MOST_SMALL, LETTERS_EACH = 10_000, 3
MOST_STEPS = 1_000  # of pipelines, which have twenty
MOST_LETTERS = 10_000  # of an added token
LONG_TOKEN = re.compile(rb'"content"\s*:\s*"[^"]{%d}' % (MOST_LETTERS + 1))


def read_library(folder: Path) -> Library:
    """The tokenizers library's object for the tokenizer.json in `folder`.

    The library takes 32 bytes and more for each value, and a kilobyte for each step of a pipeline: what it would take
    is bounded before it sees the file.

    Raises:
        BadModelFile: there is no such file, or none that can be read.
    """
    try:
        content = read_file(folder / "tokenizer.json")
        if sum(map(content.count, (b",", b":", b"[", b"{"))) > MOST_SMALL + len(content) // LETTERS_EACH:
            raise ValueError(f"more values than {len(content):,} letters of a tokenizer have")
        if LONG_TOKEN.search(content):
            raise ValueError(f"a token of more than {MOST_LETTERS:,} letters")
        if (n_steps := content.count(b'"type"')) > MOST_STEPS:
            raise ValueError(f"{n_steps:,} steps")
        return Library.from_buffer(content)
    except BaseException as error:  # the library raises plain ones
        if isinstance(error, Exception) or panicked(error):
            raise BadModelFile(f"{folder}: no tokenizer.json that can be read ({error})") from None
        raise


def panicked(error: BaseException) -> bool:
    """Whether the tokenizers library met what its authors took for impossible: it raises no `Exception` then."""
    return type(error).__name__ == "PanicException"


def check_length(text: str) -> None:
    """Refuse an added token for which the library would take long: a microsecond and 100 bytes for each letter.

    Raises:
        ValueError: it has more letters than `MOST_LETTERS`.
    """
    if len(text) > MOST_LETTERS:
        raise ValueError(f"a token of {len(text):,} letters")
