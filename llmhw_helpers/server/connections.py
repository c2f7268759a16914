"""A client's connection, as uvicorn keeps it: closed when nothing comes or goes, and errors in OpenAI's form.

A head of more than 16 kB is too large (431), unless it came whole in one piece: h11 counts what is incomplete. A client
that is still sending when it is refused may see a reset in the place of the answer, as TCP has it.
"""

import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .replies import whole_error

IDLE_SECONDS = 30.0  # a client has so long to send the head of a request, and to read what it was sent


class Connection(H11Protocol):
    """One client. uvicorn's own limit, of 5 seconds, is for the pause after an answer alone."""

    _idle = _unread = None  # timers

    def connection_made(self, transport) -> None:
        """It has come: its first request is waited for."""
        super().connection_made(transport)
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Part of a request, or several."""
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        """It is answered, and its next request is waited for."""
        super().on_response_complete()
        self._settle()

    def connection_lost(self, error: Exception | None) -> None:
        """It has gone."""
        super().connection_lost(error)
        self._idle, self._unread = _stop(self._idle), _stop(self._unread)

    def pause_writing(self) -> None:
        """It does not read as fast as it is written to; a client that does not read at all is let go."""
        super().pause_writing()
        self._unread = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._unread = _stop(self._unread)

    def send_400_response(self, message: str) -> None:
        """What is no HTTP is answered in one line, unless an answer has begun: then it ends there."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status = getattr(sys.exc_info()[1], "error_status_hint", 400)  # of h11's own error
            said = "the head of the request is too large" if status == 431 else "this is no valid HTTP request"
            self.transport.write(whole_error(status, said))
        self.transport.close()

    def _settle(self) -> None:
        """The client's time runs, unless it waits for an answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle = _stop(self._idle)
        elif self._idle is None:
            self._idle = self.loop.call_later(IDLE_SECONDS, self.transport.abort)


def _stop(timer) -> None:
    if timer is not None:
        timer.cancel()
