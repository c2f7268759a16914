"""What a process that serves is told from outside."""

import asyncio
import signal
import threading
import time

from .worker import Worker


class Signals:
    """Ctrl-C ends it now. SIGTERM and SIGHUP let the answers that are open end first; told twice, it ends now, too.

    Args:
        worker: takes no more requests from then on.
        grace: seconds that the open answers have.
    """

    def __init__(self, worker: Worker, grace: float):
        self._worker, self._grace = worker, grace
        self._until: float | None = None

    def listen(self) -> None:
        """From now on, in the running loop; what is ignored, as by nohup, stays so."""
        if threading.current_thread() is threading.main_thread():  # others are told nothing
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(each) is not signal.SIG_IGN:
                    asyncio.get_running_loop().add_signal_handler(each, self._told, each)

    def stopped(self) -> bool:
        """Whether it is time to end."""
        return self._until is not None and (time.monotonic() >= self._until or not self._worker.n_open)

    def _told(self, which: signal.Signals) -> None:
        now = which == signal.SIGINT or self._until is not None
        self._worker.closing = True
        self._until = time.monotonic() + (0 if now else self._grace)
