"""What the readers of model files share: their error, the one architecture that they read, and how much at a time."""

import struct
from pathlib import Path

from ..specs.settings import OneLine, shown

ARCHITECTURES = ("llama",)
MOST_JSON = 100_000_000  # bytes that safetensors itself accepts of a header
# A list takes fifty bytes and more, a number of a shape sixteen: so many of them in any header, and one more for so
# many letters. Real ones have three lists and nine commas and colons for each tensor, which takes them sixty or more.
MOST_SMALL, LETTERS_A_LIST, LETTERS_A_VALUE = 10_000, 15, 5
ROWS = 512  # of a tensor, read at a time: a megabyte or two, which the cache still holds when it is copied


class BadModelFile(OneLine, ValueError):
    """The file is there, but it is not a model that the course can read; the message says why."""


def check_safetensors(path: Path) -> None:
    """Before the safetensors library reads a file's header: `check_header`, where the file is as long as it says.

    Raises:
        ValueError: as `check_header`.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        begin = file.read(8)
        (length,) = struct.unpack("<Q", begin) if len(begin) == 8 else (0,)
        if length <= min(path.stat().st_size - 8, MOST_JSON):  # else the library refuses it as it is
            check_header(file.read(length))


def check_header(text: bytes) -> None:
    """Refuse a header of so many small things that they would take far more memory than the file.

    Raises:
        ValueError: it is one.
    """
    n_lists, n_values = text.count(b"[") + text.count(b"{"), text.count(b",") + text.count(b":")
    if n_lists > MOST_SMALL + len(text) // LETTERS_A_LIST or n_values > MOST_SMALL + len(text) // LETTERS_A_VALUE:
        raise ValueError(f"{n_lists:,} lists and {n_values:,} values in {len(text):,} letters of header")


def check_architecture(path: Path, found: object) -> None:
    """Refuse the file at `path` if `found`, which it calls its architecture, is not read here.

    Raises:
        BadModelFile: it is not.
    """
    if not isinstance(found, str) or found not in ARCHITECTURES:
        raise BadModelFile(f"{path} holds the architecture {shown(found)}; the course reads {', '.join(ARCHITECTURES)}")
