"""Who may talk to the plugin: the paired register, and no web page (FAULTS T-8).

A browser on the shop's PC opens any page, and any page can send requests to 127.0.0.1. So every
request must name us as its host (a page behind `127.0.0.1.nip.io` names itself), must not come
from another origin, must be JSON (which a page can't send without asking, and nothing here answers
that question), and must show the pairing secret, which no page can know.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping

from flask import Flask, Response, request

from carepos_plugin import pairing
from carepos_plugin.problems import Problem

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253})(?::[0-9]{1,5})?")
_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def install(app: Flask, *, names: Iterable[str], secret: str) -> None:
    """Put the checks before every route, those of unknown addresses too.

    `names` are the hosts under which the plugin answers, IPv6 addresses in brackets.
    """
    allowed = frozenset(names)
    expected = secret.encode("ascii")
    # With these, Flask itself would answer OPTIONS to anyone who has come this far.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    @app.before_request
    def check() -> None:
        host = str(request.environ.get("HTTP_HOST", "")).lower()
        found = _HOST.fullmatch(host)
        if found is None or found[1] not in allowed:
            raise Problem("host_not_allowed")
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}":
            raise Problem("foreign_origin")
        # same-site is foreign too: another port of localhost is the same site.
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Problem("foreign_origin")
        shown = request.headers.get(pairing.HEADER, "").encode("utf-8", "replace")
        if not hmac.compare_digest(shown, expected):
            raise Problem("unauthorised")
        if request.method not in ("GET", "HEAD") and request.mimetype != "application/json":
            raise Problem("unsupported_media_type")

    @app.after_request
    def close_doors(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response
