"""Reads of files, honestly: from the disk or from memory, whole or in places, and how many bytes the disk gave.

The kernel keeps what it has read in memory (the page cache), and reads ahead of who asks. So a read is timed together
with the bytes that came from the disk, as the kernel counts them; on a virtual machine "the disk" may have a cache of
its own below. Linux tells all of this. Where a system does not tell, a figure is None and a refusal is one line.
"""

import contextlib
import mmap
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from .pages import MappedFile

CHUNK = 1 << 20  # bytes that a read asks for at once
PAGE = mmap.PAGESIZE
IN_MEMORY = ("tmpfs", "ramfs")  # file systems with no disk below
NETWORK = ("nfs", "nfs4", "lustre", "wekafs", "gpfs", "beegfs", "ceph", "cifs", "9p", "virtiofs")


class CannotMeasure(OSError):
    """This system or file system does not let a read be measured so; the message says why in one line."""


@contextlib.contextmanager
def scratch(n_bytes: int, folder: str | Path | None = None) -> Iterator[Path]:
    """A folder for `n_bytes` of files, which is deleted at the end, whatever happens.

    Args:
        folder: where to make it; the system's place for temporary files, or the home folder where that has no disk.

    Raises:
        CannotMeasure: there is no room for twice as much.
    """
    places = [Path(folder)] if folder else [Path(tempfile.gettempdir()), Path.home()]
    place = next((each for each in places if file_system(each) not in IN_MEMORY), places[0])
    if (free := shutil.disk_usage(place).free) < 2 * n_bytes:
        raise CannotMeasure(f"{place} has {free / 1e6:.0f} MB free, and twice {n_bytes / 1e6:.0f} MB are asked for")
    with tempfile.TemporaryDirectory(prefix="llmhw-", dir=place) as made:
        yield Path(made)


def file_system(path: str | Path) -> str | None:
    """The kind of file system that `path` lies on, such as ``"ext4"``; None where that is not told."""
    path, found = Path(path).resolve(), {}
    with contextlib.suppress(OSError, psutil.Error):
        for each in psutil.disk_partitions(all=True):
            if path.is_relative_to(each.mountpoint):
                found[len(each.mountpoint)] = each.fstype  # the longest is the nearest
    return found[max(found)] if found else None


def about(path: str | Path) -> str:
    """What a reader should know of where `path` lies: one line, empty where the reads come from a disk."""
    kind = file_system(path)
    if kind in IN_MEMORY:
        return f"{path} is a {kind}: it lies in memory, and nothing here comes from a disk"
    if kind == "overlay":
        return f"{path} is an overlay, as containers have: the disk lies below it, and metadata takes longer"
    if kind in NETWORK:
        return f"{path} is on a network file system ({kind}): the kernel may not count what comes from there as read"
    return "" if sys.platform == "linux" else "this system does not tell what came from the disk: times only"


def write_file(path: str | Path, n_bytes: int, seed: int = 0) -> Path:
    """A file of random bytes, on the disk when this returns."""
    draw = random.Random(seed)
    with open(path, "wb") as file:
        for start in range(0, n_bytes, CHUNK):
            file.write(draw.randbytes(min(CHUNK, n_bytes - start)))
        file.flush()
        os.fsync(file.fileno())
    return Path(path)


def write_files(folder: str | Path, n_files: int, file_bytes: int, seed: int = 0) -> list[Path]:
    """`n_files` of random bytes in `folder`, all on the disk when this returns."""
    draw, paths = random.Random(seed), [Path(folder) / f"{i:06d}" for i in range(n_files)]
    for path in paths:
        path.write_bytes(draw.randbytes(file_bytes))
    os.sync()
    return paths


def forget(*paths: str | Path) -> bool:
    """Ask the kernel to drop these files from memory, so that the next read is cold; whether the system can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        with _opened(path) as file:
            os.fsync(file)  # what is not on the disk yet is not dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def resident(path: str | Path) -> float | None:
    """The share of a file that lies in memory; None where that is not told."""
    with MappedFile(path) as mapped:
        pages = mapped.cached_pages()
        return None if pages is None else pages / mapped.n_pages


@dataclass(frozen=True)
class Read:
    """What a read took.

    Attributes:
        n_bytes: that it got.
        seconds: by the clock.
        disk_bytes: that came from the disk meanwhile, for this process; None where that is not told.
    """

    n_bytes: int
    seconds: float
    disk_bytes: int | None

    @property
    def bytes_per_s(self) -> float:
        """Bytes got over seconds."""
        return self.n_bytes / self.seconds


def measure_read(read: Callable[[], int]) -> Read:
    """Run `read`, which returns how many bytes it got."""
    before, start = disk_bytes(), time.perf_counter()
    n_bytes = read()
    seconds, after = time.perf_counter() - start, disk_bytes()
    return Read(n_bytes, seconds, None if None in (before, after) else after - before)


def disk_bytes() -> int | None:
    """Bytes that the kernel has fetched from a disk for this process so far, read-ahead included; None: not told."""
    try:
        return psutil.Process().io_counters().read_bytes if sys.platform == "linux" else None
    except (psutil.Error, OSError, AttributeError, NotImplementedError):
        return None  # a hardened kernel or container keeps /proc/self/io to itself


def read_whole(path: str | Path, start: int = 0, n_bytes: int | None = None) -> int:
    """Read a file, or `n_bytes` of it from `start` on, from front to back, and keep nothing; the bytes read."""
    end, buffer = os.path.getsize(path) if n_bytes is None else start + n_bytes, memoryview(bytearray(CHUNK))
    at = start
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while at < end and (got := file.readinto(buffer[: min(CHUNK, end - at)])):
            at += got
    return at - start


def read_direct(path: str | Path) -> int:
    """The same past the page cache (O_DIRECT): the disk writes into our own buffer, and the kernel keeps nothing.

    Raises:
        CannotMeasure: the system or the file system has no such reads.
    """
    if not hasattr(os, "O_DIRECT"):
        raise CannotMeasure("this system has no reads past the page cache (O_DIRECT): Linux has")
    at = 0
    try:
        with _opened(path, os.O_DIRECT) as file, mmap.mmap(-1, CHUNK) as buffer:  # a map begins with a page, as asked
            while got := os.preadv(file, [buffer], at):
                at += got
    except OSError as error:
        raise CannotMeasure(f"{file_system(path)} has no reads past the page cache here: {error.strerror}") from error
    return at


def read_places(path: str | Path, n_places: int, read_ahead: bool = True, seed: int = 0) -> int:
    """Touch one byte in `n_places` random pages of a mapped file; the bytes of those pages.

    Without `read_ahead` the kernel is told that the places are random (MADV_RANDOM).
    """
    with MappedFile(path, read_ahead) as mapped:
        places = random.Random(seed).choices(range(mapped.n_bytes), k=n_places)
        for place in places:
            mapped.touch(place, 1)
    return len({place // PAGE for place in places}) * PAGE


def read_files(paths: Sequence[str | Path]) -> int:
    """Open, read and close one file after the other; the bytes read."""
    total = 0
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            total += len(file.read())
    return total


def read_parallel(path: str | Path, n_readers: int) -> int:
    """`n_readers` threads read one file, each a part of it; Python lets go of its lock while the kernel reads."""
    size = os.path.getsize(path)
    edges = [size * i // n_readers for i in range(n_readers + 1)]
    with ThreadPoolExecutor(n_readers) as pool:
        parts = [pool.submit(read_whole, path, a, b - a) for a, b in pairwise(edges)]
        return sum(part.result() for part in parts)


def read_throttled(path: str | Path, bytes_per_s: float) -> bytes:
    """A file's bytes, no faster than a disk of that rate would give them: it sleeps for what is left of the time.

    Raises:
        ValueError: a rate that is not above 0.
    """
    if not bytes_per_s > 0:
        raise ValueError(f"a disk of {bytes_per_s} bytes/s: the rate has to be above 0")
    start, pieces, got = time.perf_counter(), [], 0
    step = max(1, min(CHUNK, int(bytes_per_s / 50)))  # so that a rate is held within a fiftieth of a second
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(step):
            pieces.append(piece)
            got += len(piece)
            time.sleep(max(0.0, start + got / bytes_per_s - time.perf_counter()))
    return b"".join(pieces)


@contextlib.contextmanager
def _opened(path: str | Path, flags: int = 0) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | flags)
    try:
        yield file
    finally:
        os.close(file)
