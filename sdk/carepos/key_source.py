"""Where an issuer publishes its keys, and fetching them from there (docs/identity.md §3).

Over the standard library's HTTP and not over requests: there the time limit is one per read, so a
server that drips a byte a second would hold it for hours, and what is compressed is unpacked before
its size is known.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

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
    fetching = _Fetching(source_url(url), deadline_s, ca_file)
    threading.Thread(target=fetching.run, name="carepos-keys", daemon=True).start()
    if not fetching.ended.wait(deadline_s):
        fetching.give_up()
        raise Unreachable(_too_late(deadline_s))
    if fetching.body is None:
        raise Unreachable(fetching.problem)
    return fetching.body


class _Fetching:
    """One fetch in a thread of its own: looking a name up can't be interrupted, only left."""

    def __init__(self, url: str, timeout_s: float, ca_file: Path | None) -> None:
        self.ended = threading.Event()
        self.body: bytes | None = None
        self.problem = ""
        self._url = urlsplit(url)
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._left = False
        self._socket: socket.socket | None = None

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connect()
            self.body = self._read(connection)
        except Unreachable as error:
            self.problem = str(error)
        except TimeoutError:
            self.problem = _too_late(self._timeout_s)
        except Exception as error:  # noqa: BLE001
            # Whatever a library makes of bytes from outside. Its text could quote them.
            self.problem = f"the keys could not be fetched ({type(error).__name__})"
        finally:
            if connection is not None:
                connection.close()
            self.ended.set()

    def give_up(self) -> None:
        """Make the thread's read end at once."""
        self._left = True
        if self._socket is not None:
            with suppress(OSError):
                # The plain socket's way: TLS would want to say goodbye first.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = str(self._url.hostname), self._url.port
        if self._url.scheme == "https":
            trusted = str(self._ca_file or DEFAULT_CA_BUNDLE_PATH)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host,
                port,
                timeout=self._timeout_s,
                context=ssl.create_default_context(cafile=trusted),
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection.connect()
        # Kept here: the connection lets go of it once it has an answer to read.
        self._socket = connection.sock
        if self._left:
            connection.close()
            raise Unreachable("too late")
        return connection

    def _read(self, connection: http.client.HTTPConnection) -> bytes:
        query = f"?{self._url.query}" if self._url.query else ""
        connection.request("GET", f"{self._url.path or '/'}{query}", headers=_HEADERS)
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
