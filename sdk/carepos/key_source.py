"""Where an issuer publishes its keys, and fetching them from there (docs/identity.md §3).

Over the standard library's HTTP and not over requests: there what is compressed is unpacked before
its size is known.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from carepos import deadline
from carepos.errors import Malformed, Unreachable
from carepos.issuer_keys import MAX_SET_BYTES

DEADLINE_S: Final = 10.0
CONTENT_TYPES: Final = frozenset({"application/json", "application/jwk-set+json"})  # RFC 7517 §8.5

_URL = re.compile(r"[\x21-\x7e]{1,500}")
_HEADERS: Final = {
    "Accept": "application/jwk-set+json, application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "carepos",
}


def source_url(value: object, field: str = "jwks_url") -> str:
    """`value` if keys may be fetched from there: https, or http on this machine. Raises Malformed.

    User names, passwords and fragments have no place in it.
    """
    if not isinstance(value, str) or _URL.fullmatch(value) is None:
        raise Malformed("must be an address of 1 to 500 ASCII characters", field=field)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Malformed("is no address", field=field) from None
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise Malformed("must be https://host/path and nothing more", field=field)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise Malformed("must begin with https:// (http:// only on this machine)", field=field)
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fetch(url: str, *, deadline_s: float = DEADLINE_S, ca_file: Path | None = None) -> bytes:
    """The document at `url`: at most 64 KiB, whole, as JSON, without a redirect, in `deadline_s`.

    The deadline is for all of it, however slowly it comes. `ca_file` (PEM) names the only
    authorities to be believed for this address. No proxy and no credentials of this machine's
    environment are used. Raises Unreachable.
    """
    at = urlsplit(source_url(url))
    try:
        return deadline.within(
            deadline_s, lambda: _fetch(at, deadline_s, ca_file), name="carepos-keys"
        )
    except Unreachable:
        raise
    except (TimeoutError, BlockingIOError):  # the latter where there is no time at all
        raise Unreachable(_too_late(deadline_s)) from None
    except Exception as error:  # noqa: BLE001
        # Whatever a library makes of bytes from outside. Its text could quote them.
        why = f"the keys could not be fetched ({type(error).__name__})"
        raise Unreachable(why) from None


def _fetch(at: SplitResult, timeout_s: float, ca_file: Path | None) -> bytes:
    connection = _connection(at, timeout_s, ca_file)
    try:
        connection.connect()
        deadline.watch(connection.sock)
        return _read(connection, at)
    finally:
        connection.close()


def _connection(
    at: SplitResult, timeout_s: float, ca_file: Path | None
) -> http.client.HTTPConnection:
    host = str(at.hostname)
    if at.scheme != "https":
        return http.client.HTTPConnection(host, at.port, timeout=timeout_s)
    trusted = str(ca_file or DEFAULT_CA_BUNDLE_PATH)
    context = ssl.create_default_context(cafile=trusted)
    return http.client.HTTPSConnection(host, at.port, timeout=timeout_s, context=context)


def _read(connection: http.client.HTTPConnection, at: SplitResult) -> bytes:
    query = f"?{at.query}" if at.query else ""
    connection.request("GET", f"{at.path or '/'}{query}", headers=_HEADERS)
    with connection.getresponse() as answer:
        _check(answer)
        body = answer.read(MAX_SET_BYTES + 1)
        if len(body) > MAX_SET_BYTES:
            raise Unreachable(f"the answer has more than {MAX_SET_BYTES} bytes")
        if answer.length:
            raise Unreachable("the answer was cut off")
        return body


def _too_late(deadline_s: float) -> str:
    return f"the keys did not come whole within {deadline_s:g} s"


def _check(answer: http.client.HTTPResponse) -> None:
    if 300 <= answer.status < 400:
        raise Unreachable(f"sent elsewhere (HTTP {answer.status}): redirects are not followed")
    if answer.status != 200:
        raise Unreachable(f"answered HTTP {answer.status}")
    kind = (answer.getheader("Content-Type") or "").split(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise Unreachable("answered something that is not JSON (a sign-in page of a network?)")
    if (answer.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
        raise Unreachable("the answer is compressed, which was not asked for")
