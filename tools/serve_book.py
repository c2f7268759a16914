"""Serve the book of _build/html on this computer alone, say where, and open it.

Usage: python tools/serve_book.py [PORT]     (8000, or the next that is free)
"""

import errno
import functools
import sys
import threading
import webbrowser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = Path(__file__).resolve().parents[1] / "_build/html"
FIRST = "book/intro.html"


class Handler(SimpleHTTPRequestHandler):
    """Files as they are, the book's own page for what is not there, and a word of what is missing alone."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The 404 page, as a publisher's server sends it; other errors as usual."""
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.is_file():
            super().send_error(code, message, explain)
            return
        body = page.read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, code="-", size="-") -> None:
        """Say what was asked for and is not there."""
        if str(getattr(code, "value", code)) == "404":
            super().log_request(code, size)


def server(port: int, folder: Path = HTML, tries: int = 20) -> ThreadingHTTPServer:
    """A server of `folder` at `port` or the next that is free, on this computer alone.

    Raises OSError where none of them is free.
    """
    handler = functools.partial(Handler, directory=folder)
    for candidate in range(port, port + tries):
        try:
            return ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"ports {port} to {port + tries - 1} are taken: name another one")


def main() -> int:
    if not (HTML / FIRST).is_file():
        print("The book is not built: `make book` builds it.", file=sys.stderr)
        return 1
    try:
        served = server(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    except (OSError, ValueError, OverflowError) as error:
        print(f"Cannot serve the book: {error}", file=sys.stderr)
        return 1
    address = f"http://localhost:{served.server_port}/{FIRST}"
    print(f"The book: {address}    (Ctrl+C ends it)", flush=True)
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()  # a browser may take its time
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
