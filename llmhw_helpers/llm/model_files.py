"""What the readers of model files share: their error, the one architecture that they read, and how much at a time."""

from pathlib import Path

from ..specs.settings import OneLine, shown

ARCHITECTURES = ("llama",)
ROWS = 512  # of a tensor, read at a time: a megabyte or two, which the cache still holds when it is copied


class BadModelFile(OneLine, ValueError):
    """The file is there, but it is not a model that the course can read; the message says why."""


def check_architecture(path: Path, found: object) -> None:
    """Refuse the file at `path` if `found`, which it calls its architecture, is not read here.

    Raises:
        BadModelFile: it is not.
    """
    if not isinstance(found, str) or found not in ARCHITECTURES:
        raise BadModelFile(f"{path} holds the architecture {shown(found)}; the course reads {', '.join(ARCHITECTURES)}")
