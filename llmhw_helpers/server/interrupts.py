"""What a server is told while it starts: to end, which it does in one line, whatever a library makes of that."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPED = "Stopped."


class Interrupts:
    """Remembers a Ctrl-C, SIGTERM or SIGHUP: a library that it stops half-way may answer with any error, or none.

    Attributes:
        told: whether there was one.
    """

    def __init__(self) -> None:
        self.told = False
        self._at_once = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # others are told nothing
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if (before := signal.getsignal(each)) not in (signal.SIG_IGN, None):  # as nohup has it
                    self._before[each] = before
                    signal.signal(each, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """In this block an interrupt ends the process at once, with status 0: half of a library is of no use."""
        self._at_once = True
        yield
        self._at_once = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody has swallowed it."""
        if self.told:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        if self._at_once:
            with suppress(OSError):
                os.write(1, f"{STOPPED}\n".encode())
            os._exit(0)
        raise KeyboardInterrupt
