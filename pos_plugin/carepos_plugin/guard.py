"""Who may talk to the plugin: the paired register, pad and device, and no web page (FAULTS T-8).

A browser on the shop's PC opens any page, and any page can send requests to 127.0.0.1. So every
request must name us as its host (a page behind `127.0.0.1.nip.io` names itself), must not come
from another origin, must be JSON (which a page can't send without asking, and nothing here answers
that question), and must show the pairing secret, which no page can know.

The pad and the device that face the beneficiary have doors of their own, each with its own secret:
none opens another's, and the register's opens neither. Only these doors can be reached from
another address of this computer, and only where the settings name one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class Door:
    """Addresses under `prefix`, for whoever shows in `header` a secret that `opens`.

    `without` are those answered to anyone who passes the other checks. `refusal` is the code of the
    problem for everybody else. `from_outside`: whether it is there at the devices' address too.
    """

    prefix: str
    header: str
    opens: Callable[[str], bool]
    refusal: str
    without: frozenset[str] = frozenset()
    from_outside: bool = True

    def leads_to(self, path: str) -> bool:
        return path == self.prefix or path.startswith(f"{self.prefix}/")


_OUTSIDE: Final = "carepos.outside"


def outside(wsgi: Callable[..., Any]) -> Callable[..., Any]:
    """`wsgi` as it answers at the beneficiary's devices' address: only through their doors.

    The mark can't come with a request: what a request carries is in names of its own.
    """

    def marked(environ: dict[str, Any], start_response: Any) -> Any:
        return wsgi({**environ, _OUTSIDE: True}, start_response)

    return marked


def install(
    app: Flask,
    *,
    names: Iterable[str],
    secret: str,
    doors: Sequence[Door] = (),
    names_outside: Iterable[str] = (),
) -> None:
    """Put the checks before every route, those of unknown addresses too.

    `names` are the hosts under which the plugin answers, IPv6 addresses in brackets;
    `names_outside` those under which `outside` does.
    """
    allowed, allowed_outside = frozenset(names), frozenset(names_outside)
    expected = secret.encode("ascii")

    def is_register(shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "replace"), expected)

    register = Door("", pairing.HEADER, is_register, "unauthorised", from_outside=False)
    # With these, Flask itself would answer OPTIONS to anyone who has come this far.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False

    @app.before_request
    def check() -> None:
        host = str(request.environ.get("HTTP_HOST", "")).lower()
        found = _HOST.fullmatch(host)
        from_outside = _OUTSIDE in request.environ
        if found is None or found[1] not in (allowed_outside if from_outside else allowed):
            raise Problem("host_not_allowed")
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}":
            raise Problem("foreign_origin")
        # same-site is foreign too: another port of localhost is the same site.
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Problem("foreign_origin")
        door = next((each for each in doors if each.leads_to(request.path)), register)
        if from_outside and not door.from_outside:
            raise Problem("not_found")
        if request.path not in door.without and not door.opens(
            request.headers.get(door.header, "")
        ):
            raise Problem(door.refusal)
        if request.method not in ("GET", "HEAD") and request.mimetype != "application/json":
            raise Problem("unsupported_media_type")

    @app.after_request
    def close_doors(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response
