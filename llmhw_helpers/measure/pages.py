"""A file through a memory map: which of its pages are read, when, and what that costs. Counted to the page on Linux."""

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None


class FileShrank(OSError):
    """A mapped file has become shorter: to read on would end the process (SIGBUS)."""


@dataclass(frozen=True)
class Faults:
    """Page faults of this process: `major` waited for the disk, `minor` found the page in memory. None: not told."""

    minor: int | None
    major: int | None


class MappedFile:
    """A file's bytes as an array that is read from the disk page by page, when it is touched.

    Args:
        path: of the file; it must not be empty.
        read_ahead: whether the kernel may read pages around the one that is asked for. Without, it reads just that.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(bytes(range(100)) * 1000)
    ...     file.flush()
    ...     with MappedFile(file.name) as mapped:
    ...         mapped.touch(50, 10), mapped.n_bytes
    (50, 100000)
    """

    def __init__(self, path: Path | str, read_ahead: bool = True):
        with open(path, "rb") as file:
            self._file = os.dup(file.fileno())
        self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        self.bytes: np.ndarray | None = np.frombuffer(self._map, np.uint8)
        self.n_bytes = len(self.bytes)
        self.n_pages = -(-self.n_bytes // mmap.PAGESIZE)
        if not read_ahead and hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)

    def touch(self, offset: int, n_bytes: int) -> int:
        """Read one byte of each page that holds any of the `n_bytes` from `offset` on; the first byte's value.

        Raises:
            FileShrank: the file is now shorter than it was when it was mapped.
            ValueError: no such bytes.
        """
        if not 0 <= offset < offset + n_bytes <= self.n_bytes:
            raise ValueError(f"no {n_bytes} bytes at {offset} in a file of {self.n_bytes}")
        if (now := os.fstat(self._file).st_size) < self.n_bytes:
            raise FileShrank(f"the file has shrunk from {self.n_bytes} to {now} bytes under its map: open it again")
        first = offset // mmap.PAGESIZE * mmap.PAGESIZE
        self.bytes[first : offset + n_bytes : mmap.PAGESIZE].max()
        return int(self.bytes[offset])

    def forget(self) -> bool:
        """Ask the kernel to drop the file from memory, so that the next reading comes from the disk; whether it did.

        It keeps pages that are mapped, here or elsewhere, that are not yet on the disk, or that have no disk (tmpfs).
        """
        if not hasattr(os, "posix_fadvise"):
            return False
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # unmaps: a mapped page is not dropped
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        return self.cached_pages() == 0

    def cached_pages(self) -> int | None:
        """Pages of the file that lie in the machine's memory, whoever read them. None where that is not told."""
        if sys.platform != "linux":
            return None
        pages = (ctypes.c_ubyte * self.n_pages)()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(self.bytes.ctypes.data), ctypes.c_size_t(self.n_bytes), pages):
            return None
        return int((np.frombuffer(pages, np.uint8) & 1).sum())

    def mapped_pages(self) -> int | None:
        """Pages of the file that this process has in its own table: its resident memory. None where not told."""
        address, inside = self.bytes.ctypes.data, False
        with contextlib.suppress(OSError), open("/proc/self/smaps") as lines:
            for line in lines:
                head = line.split(maxsplit=1)[0]
                if not head.endswith(":"):  # a new range of addresses
                    begin, end = (int(edge, 16) for edge in head.split("-"))
                    inside = begin <= address < end
                elif inside and head == "Rss:":
                    return int(line.split()[1]) * 1024 // mmap.PAGESIZE
        return None

    def __enter__(self) -> "MappedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = None
        with contextlib.suppress(BufferError):  # somebody keeps a view of it: the map goes when that goes
            self._map.close()
        os.close(self._file)


def count_faults(run: Callable[[], object]) -> Faults:
    """Page faults while `run` runs."""
    if resource is None:
        run()
        return Faults(None, None)
    before = resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Faults(after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt)
