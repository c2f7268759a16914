"""Files that appear whole or not at all, whoever else writes them, and whenever a writer is killed."""

import errno
import glob
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import FileLock, Timeout

LOCK_SECONDS = 10  # that a writer waits for another one
T = TypeVar("T")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NotSaved(OSError):
    """A file could not be written; the one before, if there was one, is still there."""


def write_whole(path: Path, content: bytes, what: str = "file") -> None:
    """Write a file that appears whole or not at all, as `saving` does.

    Args:
        path: where it will be; its folder is made.
        content: all of it.
        what: it is, for the message.

    Raises:
        NotSaved: no space, no permission, or another program that is saving it for too long.
    """
    with saving(what, path) as (file,):
        file.write(content)


@contextmanager
def saving(what: str, path: Path, *beside: Path) -> Iterator[list[BinaryIO]]:
    """Open files for one writer at a time; where the block ends well, they take their names, as `drafts` says.

    Raises:
        NotSaved: no space, no permission, or another program that is saving it for too long.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path), drafts(path, *beside) as files:
            yield files
    except OSError as error:
        before, todo = "there is no earlier one", "choose a folder that can be written"
        with suppress(OSError):
            before = f"{path.name} is as it was" if path.exists() else before
        if error.errno in FULL:
            todo = "make room and save again"
        elif error.errno == errno.EBUSY:
            todo = "save again"
        raise NotSaved(error.errno, f"{what} not saved ({error.strerror or error}); {before}: {todo}") from None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, which no other thread or program has meanwhile; drafts of killed writers are deleted.

    Raises:
        OSError: its folder cannot be written, or another one has held the lock for `LOCK_SECONDS`.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=LOCK_SECONDS, poll_interval=0.01):
            for stray in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
                stray.unlink(missing_ok=True)
            try:
                yield
            finally:
                with suppress(OSError):  # whoever waits for it finds it deleted, and makes a new one
                    lock.unlink()
    except Timeout:
        raise OSError(errno.EBUSY, f"another kernel or program has held it for {LOCK_SECONDS} s") from None


@contextmanager
def drafts(path: Path, *beside: Path) -> Iterator[list[BinaryIO]]:
    """Open files beside the named ones, force them to the disk, and only then let them take the names.

    A name always belongs to a whole file, the old or the new: renaming is one step to the file system. Of several
    files, `path` is the one that counts. Those `beside` it are empty from before it changes until after: killed in
    between, a program leaves `path` with empty ones, and never an old file beside a new one. Only the holder of the
    lock of `path` may call this (`alone`).

    Raises:
        OSError: no space, no permission. The files before are still there then.
    """
    # All are named after `path`, whose lock it is: its next holder finds and deletes what a killed program leaves.
    partials = [path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial") for _ in (path, *beside, *beside)]
    last = len(partials) - len(beside)
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(open(partial, "xb")) for partial in partials]
            yield files[:last]
            for file in files[:last]:
                file.flush()
                os.fsync(file.fileno())  # else the new name could reach the disk before the content does
        emptied = {}
        try:
            for empty, each in zip(partials[last:], beside, strict=True):
                if each.exists():
                    content = each.read_bytes()
                    os.replace(empty, each)
                    emptied[each] = content
            os.replace(partials[0], path)
        except OSError:
            for each, content in emptied.items():
                each.write_bytes(content)
            raise
        for partial, each in zip(partials[1:last], beside, strict=True):
            os.replace(partial, each)
    finally:
        for partial in partials:
            with suppress(OSError):  # gone, or nothing can be deleted: neither may hide what went wrong
                partial.unlink()


def settled(read: Callable[[], T], *paths: Path) -> T:
    """What `read` finds in files that it opens by name, each perhaps more than once: of one version of all of them.

    It reads again where another file has taken one of the names meanwhile. Raises what `read` raises.
    """
    while True:
        with ExitStack() as held:
            before = [_version(path, held) for path in paths]
            found, failed = None, None
            try:
                found = read()
            except Exception as error:  # of two versions, anything may come
                failed = error
            if before == [_version(path, held) for path in paths]:
                if failed is not None:
                    raise failed
                return found


def _version(path: Path, held: ExitStack) -> tuple[int, int] | None:
    """The file's number, which no other file can be given while it is open; None where none can be opened."""
    try:
        if not path.is_file():  # a pipe waits for a writer for ever
            return None
        file = held.enter_context(open(path, "rb"))  # noqa: SIM115 (the stack closes it)
    except OSError:
        return None
    about = os.fstat(file.fileno())
    return about.st_dev, about.st_ino
