"""A folder of keys and values: blocks of a KV cache in files, which are still found when the program starts again.

A file holds one block under its key: whoever asks names the key, and what tensors it should hold. Nothing in a file is
believed: one that is damaged, short, of another kind or unreadable is a miss, as if it were not there. It is a cache:
to lose a file costs the time to compute it again, and nothing else.
"""

import os
import re
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

FORMAT = "llmhw-kv 1"  # a file begins with it; other formats are not read
OURS = re.compile(r"[0-9a-f]{32}(\.kv|\.\w+\.partial)")  # no other file is counted, or deleted
STALE = 600  # seconds after which a partial file is what a killed program has left
# What is deleted down to, and what is written until the folder is looked at again: two servers stay below the limit.
FULL, UNSEEN = 7 / 8, 1 / 16
# No waiting for a pipe that bears a block's name, and no following of links out of the folder.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class NoFolder(ValueError):
    """There is no such folder, and none can be made; or it could not hold anything."""


class KVFolder:
    """Blocks in the files of a folder, which may be shared by several programs, models and formats.

    A thread of its own writes; `write` only copies, and `read` finds what is still to be written, too. If a write fails
    (no space, no permission), one line on stderr says so, and no more is written: reading goes on.

    Files take no more than `max_bytes`, whatever was there before, and with two programs that give the same limit;
    every further one may add a sixteenth. (With blocks larger than a sixteenth: one block each.) Those unused for
    longest are deleted. Whoever may write to the folder may change the answers of those who use it, and who may read it
    can find out what they were asked: files are made for this user alone.

    Args:
        path: of the folder, which is made if it is missing.
        max_bytes: that all files may take together.
        backlog_bytes: of blocks that wait to be written, in memory; what does not fit is dropped.
        bytes_per_s: read no faster than this, to try what a slower storage would do.

    Attributes:
        failed: why nothing more is written; `None` while all is well.
        n_written, n_read: blocks, to files and back.
        n_missed: blocks that were asked for and not there.
        n_damaged: blocks whose file was no use, counted beside `n_missed`.
        n_dropped: blocks that were not written, as too many waited or they are too large.
        n_deleted: files that made room for others.

    Raises:
        NoFolder: it cannot be made, or `max_bytes` or a rate is not above 0.
    """

    def __init__(
        self,
        path: Path | str,
        max_bytes: float = 2e9,
        *,
        backlog_bytes: float = 256e6,
        bytes_per_s: float | None = None,
    ):
        if not max_bytes > 0 or not (bytes_per_s is None or bytes_per_s > 0):
            raise NoFolder(f"a folder of {max_bytes} bytes, read at {bytes_per_s} bytes/s: both have to be above 0")
        self.path, self.max_bytes, self.bytes_per_s = Path(path), max_bytes, bytes_per_s
        self.backlog_bytes, self.failed = backlog_bytes, None
        self.n_written = self.n_read = self.n_missed = self.n_damaged = self.n_dropped = self.n_deleted = 0
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(0)
        except OSError as error:
            raise NoFolder(f"no folder for keys and values at {self.path}: {error.strerror}") from None
        self._changed = threading.Lock()
        self._pending: dict[bytes, list[Tensor]] = {}
        self._backlog = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kv folder")

    def write(self, key: bytes, tensors: Sequence[Tensor]) -> bool:
        """Keep a copy of `tensors` under `key`, 16 bytes, in a while; whether that will be tried."""
        n_bytes = sum(each.nbytes for each in tensors)
        if self.failed is not None:
            return False
        if self._backlog + n_bytes > self.backlog_bytes or not self.takes(n_bytes):
            self.n_dropped += 1
            return False
        if key in self._pending:
            return True
        try:
            copies = [each.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for each in tensors]
        except MemoryError:
            self.n_dropped += 1
            return False
        with self._changed:
            self._pending[key] = copies
            self._backlog += n_bytes
        self._writer.submit(self._write, key, copies, n_bytes)
        return True

    def takes(self, n_bytes: int) -> bool:
        """Whether a block of `n_bytes` is small enough to be kept."""
        return n_bytes + 1024 <= FULL * self.max_bytes

    def holds(self, key: bytes) -> bool:
        """Whether something is there under `key`; `read` says whether it is any use."""
        return key in self._pending or self._file(key).exists()

    def read(self, key: bytes, out: Sequence[Tensor]) -> bool:
        """Fill `out`, whose shapes and formats say what should be there, with what is kept under `key`.

        Returns whether it was; if not, `out` is as it was.
        """
        found = self._pending.get(key) or self._load(key, out)
        if found is None or [_kind(each) for each in found] != [_kind(each) for each in out]:
            self.n_missed += 1
            return False
        for target, source in zip(out, found, strict=True):
            target.copy_(source)
        self.n_read += 1
        return True

    def touch(self, keys: Sequence[bytes]) -> None:
        """They have been used just now; the first is the last to be deleted."""
        for key in reversed(keys):
            with suppress(OSError):
                _set_time(self._file(key))

    def flush(self) -> None:
        """Wait until all that was handed over is in files."""
        self._writer.submit(int).result()

    def _file(self, key: bytes) -> Path:
        return self.path / f"{key.hex()}.kv"

    def _load(self, key: bytes, like: Sequence[Tensor]) -> list[Tensor] | None:
        """What the file holds, if it holds just that; nothing of it is used before all of it has been checked."""
        begin, path, head = time.perf_counter(), self._file(key), _head(key, like)
        content = bytearray(len(head) + 4 + sum(each.nbytes for each in like))
        try:
            with open(path, "rb", opener=lambda name, _: os.open(name, FLAGS)) as file:
                about = os.fstat(file.fileno())
                whole = about.st_size == len(content) and file.readinto(content) == len(content)  # else it is no file
        except FileNotFoundError:
            return None
        except OSError:  # no permission, no longer readable
            self.n_damaged += 1
            return None
        body = memoryview(content)[len(head) + 4 :]
        if not whole or content[: len(head) + 4] != head + _checksum(body):
            self.n_damaged += 1
            with suppress(OSError):
                path.unlink()
            return None
        if self.bytes_per_s is not None:
            time.sleep(max(0.0, len(content) / self.bytes_per_s - (time.perf_counter() - begin)))
        tensors, at = [], len(head) + 4
        for each in like:
            flat = torch.frombuffer(content, dtype=torch.uint8, count=each.nbytes, offset=at)
            tensors.append(flat.clone().view(each.dtype).view(each.shape))  # aligned, as `at` is not
            at += each.nbytes
        return tensors

    def _write(self, key: bytes, tensors: list[Tensor], n_bytes: int) -> None:
        try:
            if self.failed is None:
                self._store(key, tensors, n_bytes)
        except Exception as error:
            said = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self.failed = f"no more keys and values are written to {self.path}: {said}"
            print(self.failed, file=sys.stderr, flush=True)
        finally:
            with self._changed:
                del self._pending[key]
                self._backlog -= n_bytes

    def _store(self, key: bytes, tensors: list[Tensor], n_bytes: int) -> None:
        path, head = self._file(key), _head(key, tensors)
        n_bytes += len(head) + 4
        with suppress(FileNotFoundError):
            about = os.lstat(path)
            if about.st_size == n_bytes or not stat.S_ISREG(about.st_mode):  # written before, by us or another program
                _set_time(path)
                return
        if self._unseen + n_bytes > UNSEEN * self.max_bytes:
            self._make_room(n_bytes)
        self._unseen += n_bytes
        bodies = [memoryview(each.flatten().view(torch.uint8).numpy()) for each in tensors]
        handle, partial = tempfile.mkstemp(".partial", f"{key.hex()}.", self.path)
        try:
            with open(handle, "wb") as file:  # not forced to the disk: after a power failure, the checksum tells
                file.write(head + _checksum(*bodies))
                for body in bodies:
                    file.write(body)
            _set_time(partial)
            os.replace(partial, path)  # a name always belongs to a whole file
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
        self.n_written += 1

    def _make_room(self, n_bytes: int) -> None:
        """Look at the folder as it is now, whoever wrote to it, and delete until `n_bytes` more leave some room."""
        files, total, now = [], n_bytes, time.time()
        for entry in os.scandir(self.path):
            with suppress(OSError):  # another program may delete as well
                if OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    about, partial = entry.stat(follow_symlinks=False), entry.name.endswith(".partial")
                    total += about.st_size
                    if not partial or about.st_mtime < now - STALE:
                        files.append((0 if partial else about.st_mtime_ns, about.st_size, entry.path))
        for when, size, path in sorted(files):
            if when and total <= FULL * self.max_bytes:
                break
            with suppress(OSError):
                os.unlink(path)
                total -= size
                self.n_deleted += 1
        self._unseen = 0


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}".replace(" ", "")


def _head(key: bytes, tensors: Sequence[Tensor]) -> bytes:
    """What a file begins with: a line that says all about it. The checksum of the rest follows, in four bytes."""
    return f"{FORMAT} {key.hex()} {' '.join(map(_kind, tensors))}\n".encode()


def _checksum(*bodies: memoryview) -> bytes:
    """CRC-32: any damage within 32 bits is found, of others all but one in four thousand million."""
    crc = 0
    for body in bodies:
        crc = zlib.crc32(body, crc)
    return crc.to_bytes(4, "little")


def _set_time(path: Path | str) -> None:
    """It is used now; to the nanosecond, while the kernel's own clock may stand still between two blocks."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))
