"""Where compiled code is kept, so that only the first process on a machine waits for the compiler.

Numba looks for what it compiled before in files; it trusts them, and machine code from a damaged file would end the
process. So this room keeps the sum of each file, and deletes what has another one. One process at a time makes or
loads code: of two that begin together, the second finds what the first has made.
"""

import gc
import hashlib
import json
import shutil
import sys
import sysconfig
import tempfile
import threading
from atexit import register
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from ...files import write_whole
from ...measure.machine import home
from ...specs.json_text import parse_json, read_file

SOURCES = Path(__file__).parent
SUMS = "sums.json"
CODE = (".nbi", ".nbc")  # numba's index of a function, and the code itself
SAY_AFTER = 1.0  # seconds: whoever waits longer wants to know what for
LOCK_SECONDS = 300  # that another process may take to compile
MOST_TRIES = 50  # more than there are functions, each of whose code may not be saved
T = TypeVar("T")


@cache
def say(line: str) -> None:
    """A line on stderr, once; where that is full, or a pipe that nobody reads, all else goes on without it."""
    with suppress(OSError):
        print(f"llmhw: {line}", file=sys.stderr, flush=True)


class CodeFolder:
    """A folder of compiled code. Where it cannot be used, a temporary one takes its place, and one line says so.

    Args:
        path: where it is to be; None stands for a folder in the course's own, see `measure.machine.home`, or in the
            one that NUMBA_CACHE_DIR names.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path | None = None):
        path = _around() / f"compiled-{made_by()}" if path is None else path
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            path = self._temporary(path, error)
        self.path = path

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the context lasts nobody else makes or loads code here, and all that lies here is whole."""
        try:
            with FileLock(self.path / ".lock", timeout=LOCK_SECONDS):
                self._sweep()
                try:
                    yield
                finally:
                    self._sum_up()
        except Timeout:
            raise OSError(f"another process has held {self.path} for {LOCK_SECONDS} s") from None

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Functions jitted in this context keep their code here."""
        from numba import config

        before = config.CACHE_DIR
        config.CACHE_DIR = str(self.path)
        try:
            yield
        finally:
            config.CACHE_DIR = before

    def first(self, run: Callable[[], T]) -> T:
        """What `run` gives, which compiles or loads what it calls; a line says so where that takes a while."""
        told = threading.Timer(SAY_AFTER, say, [f"compiling the decode step for this processor, kept in {self.path}"])
        told.daemon = True
        told.start()
        try:
            with self.open(), _no_rubbish():
                for _ in range(MOST_TRIES):
                    try:
                        return run()
                    except OSError as error:  # no space to save one function's code: numba has it in memory now
                        self._say_lost(self.path, error)
                return run()
        finally:
            told.cancel()

    def _files(self) -> Iterator[Path]:
        """Whatever has a file's name, or is no folder: for a pipe, numba would wait for ever."""
        for path in self.path.rglob("*"):
            if path.name not in (SUMS, ".lock") and (path.suffix in CODE or path.is_symlink() or not path.is_dir()):
                yield path

    def _sweep(self) -> None:
        """Delete what is not as it was left: damaged, or made by a process that was killed before it was done."""
        try:
            if (self.path / SUMS).is_dir():
                _delete(self.path / SUMS)
            sums = dict(parse_json(read_file(self.path / SUMS)))
        except (OSError, ValueError, TypeError):
            sums = {}
        wrong = [path for path in self._files() if not self._is_whole(path, sums)]
        for path in wrong:
            _delete(path)
        if wrong:
            say(f"{len(wrong)} files of compiled code in {self.path} were damaged or unfinished: compiled again")

    def _sum_up(self) -> None:
        with suppress(OSError):  # no space: then the next process compiles again
            sums = {self._name(path): _sum(path) for path in self._files() if path.is_file()}
            write_whole(self.path / SUMS, json.dumps(sums, indent=1).encode(), "sums of compiled code")

    def _is_whole(self, path: Path, sums: dict) -> bool:
        try:
            return path.is_file() and not path.is_symlink() and sums.get(self._name(path)) == _sum(path)
        except OSError:
            return False

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _temporary(self, wanted: Path, error: OSError) -> Path:
        self._say_lost(wanted, error)
        folder = Path(tempfile.mkdtemp(prefix="llmhw-compiled-"))
        register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _say_lost(self, path: Path, error: OSError) -> None:
        why = error.strerror or error
        say(f"compiled code cannot be kept in {path} ({why}): the next program compiles again. LLMHW_HOME=FOLDER helps")


@contextmanager
def _no_rubbish() -> Iterator[None]:
    """A compiler makes a million objects that stay: Python would look for rubbish among them a sixth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _around() -> Path:
    from numba import config

    return Path(config.CACHE_DIR) if config.CACHE_DIR else home()


def made_by() -> str:
    """What compiled code depends on beside the processor, which numba notes itself: versions, and the code's text.

    Numba looks at the file of a function only, not at those of the functions that it calls.
    """
    import numba

    made = hashlib.sha256(f"{numba.__version__} {sys.version} {sysconfig.get_platform()}".encode())
    for source in sorted(SOURCES.glob("*.py")):
        made.update(source.read_bytes())
    return made.hexdigest()[:12]


def _delete(path: Path) -> None:
    if not path.is_symlink() and path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
