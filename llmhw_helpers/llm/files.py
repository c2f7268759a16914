"""Files that appear whole or not at all."""

import os
from pathlib import Path


class NotSaved(OSError):
    """A file could not be written; the one before, if there was one, is still there."""


def write_whole(path: Path, content: bytes, what: str = "file") -> None:
    """Write beside `path`, force it to the disk, and only then let it take the name.

    A name always belongs to a whole file, the old or the new: renaming is one step to the file system. Killed in
    between, a program leaves ``*.partial`` behind, which the next one overwrites.

    Args:
        path: where it will be.
        content: all of it.
        what: it is, for the message.

    Raises:
        NotSaved: no space, no permission.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the new name could reach the disk before the content does
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        before = f"{path.name} is as it was" if path.exists() else "there is no earlier one"
        said = f"{what} not saved ({error.strerror}); {before}: make room and save again"
        raise NotSaved(error.errno, said) from None
