"""The names that a server answers to.

A page in a browser may be of a site whose name leads to this machine (DNS rebinding): the browser then takes the server
for a part of that site, and lets the page read what it says. The name that the page asks for stays the site's.
"""

import ipaddress
import json
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .fields import Refused, short
from .replies import error_of


class KnownHosts:
    """`app` for requests to an address, to localhost, or to one of `names`; others are refused, as Jupyter does."""

    def __init__(self, app: ASGIApp, names: Collection[str]):
        self._app, self._names = app, {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        asked = Headers(scope=scope).get("host", "localhost")  # HTTP/1.0 needs none, and no browser leaves it out
        if self._knows(asked):
            return await self._app(scope, receive, send)
        said = (
            f"this server is not called {short(asked)}: ask for localhost, or start it with --allow-host for this name"
        )
        answer = json.dumps(error_of(Refused(said, status=403))[1])
        return await Response(answer, 403, media_type="application/json")(scope, receive, send)

    def _knows(self, asked: str) -> bool:
        found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:/?#@\\]+))(?::\d*)?", asked)  # with a port, and nothing else
        if found is None:
            return False
        name = (found[1] or found[2]).lower().rstrip(".")
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # and nobody's name leads to it
