"""Where a server listens: an address of its own, and files enough for whoever comes in."""

import errno
import resource
import socket
import time
from contextlib import suppress

from .replies import whole_error

LOCAL = "127.0.0.1"
KEPT_FREE = 16  # files, for all that is no connection
AT_ONCE = 100  # clients are taken in or sent away before others get their turn


class NoPort(OSError):
    """The address cannot be listened at."""


class Listening(socket.socket):
    """A socket that sends away whoever would take one of the last files of this process.

    asyncio, where no file is left, tries and complains without a pause, as often as clients may wait.
    """

    def accept(self) -> tuple[socket.socket, object]:
        """The next client for whom there is room.

        Raises:
            BlockingIOError: nobody else waits, or it is others' turn.
        """
        for _ in range(AT_ONCE):
            try:
                connection, address = super().accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                time.sleep(0.1)  # somebody else has all files; asked at once, the system would say so again
                break
            if _is_to_spare(connection.fileno()):
                return connection, address
            with connection, suppress(OSError):  # it may have gone already
                connection.setblocking(False)
                connection.send(whole_error(503, "too many connections: ask again in a moment"))
        raise BlockingIOError


def bind(host: str, port: int) -> Listening:
    """A socket that has `host` and `port` to itself.

    Raises:
        NoPort: in one line, with a free port where this one is taken.
    """
    try:
        return _listen(host, port)
    except (socket.gaierror, UnicodeError) as error:
        raise NoPort(f"no address is known for {host!r}: {error}") from None
    except OSError as error:
        free = ""
        if port:  # it is taken, or not ours to take: is another one to be had?
            with suppress(OSError), _listen(host, 0) as other:
                free = f"; port {other.getsockname()[1]} is free"
        raise NoPort(f"cannot listen at {host} port {port}: {error.strerror}{free}") from None


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine finds it: OpenAI's `base_url`."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": LOCAL, "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def is_local(listening: socket.socket) -> bool:
    """Whether programs of this machine alone can reach it."""
    host = listening.getsockname()[0]
    return host.startswith("127.") or host == "::1"


def _is_to_spare(file: int) -> bool:
    """Files are numbered from 0, the lowest free number first."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most == resource.RLIM_INFINITY or file < max(most - KEPT_FREE, most // 2)


def _listen(host: str, port: int) -> Listening:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = Listening(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free as soon as nobody listens
        listening.bind(address)
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening
