"""A server that publishes an issuer's keys, and every way in which it can go wrong (T-13).

A plain socket, so that it can do what no HTTP library would let it.
"""

from __future__ import annotations

import gzip
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from carepos.issuer_keys import MAX_SET_BYTES, public_numbers
from carepos.keys import SigningKey

Answer = Callable[[socket.socket], None]
"""Told the connection once a request has come; what it sends is the answer."""

LATER_S = 0.02
MANY = 1_000


def jwks(*keys: SigningKey | dict[str, Any], **more: Any) -> bytes:
    """A JWKS document of these public keys."""
    listed = [key.public.to_jwk() if isinstance(key, SigningKey) else key for key in keys]
    return json.dumps({"keys": listed, **more}).encode()


def http(
    body: bytes,
    *,
    status: str = "200 OK",
    kind: str = "application/json",
    length: int | None = None,
    more: str = "",
) -> bytes:
    """An HTTP answer; `length` may be another than the body's."""
    announced = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {announced}\r\n"
    return f"{head}Connection: close\r\n{more}\r\n".encode() + body


def says(answer: bytes) -> Answer:
    """Sends these bytes and closes."""
    return lambda connection: connection.sendall(answer)


@dataclass
class KeyServer:
    """Answers every request by `answer` and counts them. `paths` were asked for."""

    url: str
    answer: Answer = field(default_factory=lambda: says(b""))
    paths: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> int:
        return len(self.paths)

    def publishes(self, *keys: SigningKey | dict[str, Any]) -> None:
        self.answer = says(http(jwks(*keys)))

    def drips(self, answer: bytes, begin: int = 0) -> Answer:
        """A byte at a time from the byte `begin`, and in the end whole, for who waits so long."""

        def answering(connection: socket.socket) -> None:
            connection.sendall(answer[:begin])
            for n in range(begin, len(answer)):
                if self.closing.wait(LATER_S):
                    return
                connection.sendall(answer[n : n + 1])

        return answering

    def hangs(self, answer: bytes, begin: int = 0) -> Answer:
        """Nothing more after the byte `begin` for as long as `drips` would take."""

        def answering(connection: socket.socket) -> None:
            connection.sendall(answer[:begin])
            if not self.closing.wait(LATER_S * len(answer)):
                connection.sendall(answer[begin:])

        return answering


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        connection = self.request
        with suppress(OSError):
            if server.tls is not None:
                connection = server.tls.wrap_socket(connection, server_side=True)
            with connection:
                self._answer(connection, server.told)

    def _answer(self, connection: socket.socket, told: KeyServer) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            got = connection.recv(4_096)
            if not got:
                return
            head += got
        told.paths.append(head.split(b" ")[1].decode())
        told.answer(connection)
        connection.shutdown(socket.SHUT_WR)
        # Until the other side has read it all; a close with unread bytes would cut it short.
        while connection.recv(4_096):
            pass


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    tls: ssl.SSLContext | None = None
    told: KeyServer

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def key_server(certificate: Path | None = None) -> Iterator[KeyServer]:
    """On a free port of loopback; over TLS with a PEM file of key and certificate."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        scheme = "http"
        if certificate is not None:
            server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.tls.load_cert_chain(certificate)
            scheme = "https"
        server.told = KeyServer(f"{scheme}://127.0.0.1:{server.server_address[1]}/keys")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.told
        finally:
            server.told.closing.set()
            server.shutdown()
            thread.join()


# ── every way in which it can go wrong ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Wrong:
    """How a server answers that must not be believed. `slow`: only a deadline ends it."""

    answer: Callable[[KeyServer, SigningKey, SigningKey], Answer]
    slow: bool = False


def _body(document: Callable[[SigningKey, SigningKey], bytes], **how: Any) -> Wrong:
    """A document that must be refused; of the key held and the key of an attacker."""
    return Wrong(lambda _, held, evil: says(http(document(held, evil), **how)))


def _whole(**how: Any) -> Wrong:
    """A good set with another key in it, in an answer that must be refused."""
    return _body(jwks, **how)


def _raw(answer: Callable[[bytes], bytes]) -> Wrong:
    """An answer made by hand around a good set with another key in it."""
    return Wrong(lambda _, held, evil: says(answer(jwks(held, evil))))


def _slow(answer: Callable[[KeyServer, bytes], Answer]) -> Wrong:
    return Wrong(lambda server, held, evil: answer(server, http(jwks(held, evil))), slow=True)


def _jwk(key: SigningKey, **more: Any) -> dict[str, Any]:
    return {**key.public.to_jwk(), **more}


def _weak() -> dict[str, Any]:
    private = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)  # noqa: S505  the point
    return {**public_numbers(private.public_key()), "kid": "weak"}


_PORTAL = b"<!DOCTYPE html><title>Sign in to this network</title><form>...</form>"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED = "Transfer-Encoding: chunked\r\n"


def _chunks(body: bytes, announced: int) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{_CHUNKED}\r\n"
    return head.encode() + f"{announced:x}\r\n".encode() + body


WRONG: dict[str, Wrong] = {
    # captive portals, and other answers that are not the issuer's
    "captive portal": _body(lambda *_: _PORTAL, kind="text/html; charset=utf-8"),
    "captive portal that says JSON": _body(lambda *_: _PORTAL),
    "another content type": _whole(kind="text/plain"),
    "no content type": _whole(kind=""),
    "redirect": _whole(status="302 Found", more="Location: /elsewhere\r\n"),
    "permanent redirect": _whole(status="308 Permanent Redirect", more="Location: /elsewhere\r\n"),
    "an error with a good body": _whole(status="500 Internal Server Error"),
    "a part": _whole(status="206 Partial Content"),
    "not HTTP": _raw(lambda body: body),
    "nothing": _raw(lambda _: b""),
    # sets that are none, or poorer, or others
    "empty set": _body(lambda *_: jwks()),
    "no keys member": _body(lambda *_: b"{}"),
    "keys is no list": _body(lambda *_: b'{"keys":{}}'),
    "a list": _body(lambda held, evil: json.dumps([_jwk(held), _jwk(evil)]).encode()),
    "other keys": _body(lambda _, evil: jwks(evil)),
    "the same kid for another key": _body(lambda held, evil: jwks(_jwk(evil, kid=held.kid))),
    "duplicate kids": _body(lambda held, evil: jwks(held, evil, _jwk(evil, kid=held.kid))),
    "a private key": _body(lambda held, evil: jwks(held, _jwk(evil, d="A" * 43))),
    "a private key of another kind": _body(
        lambda held, evil: jwks(held, evil, {"kty": "RSA", "use": "enc", "p": "AQAB"})
    ),
    "a symmetric key": _body(lambda held, evil: jwks(held, evil, {"kty": "oct", "k": "AAAA"})),
    "only a weak RSA key": _body(lambda *_: jwks(_weak())),
    "only keys for encryption": _body(
        lambda held, evil: jwks(_jwk(held, use="enc"), _jwk(evil, use="enc"))
    ),
    "more than twenty keys": _body(
        lambda held, evil: jwks(held, evil, *(SigningKey.generate() for _ in range(19)))
    ),
    # JSON that two parsers read differently
    "a name twice": _body(lambda held, evil: b'{"keys":[],' + jwks(held, evil)[1:]),
    "NaN": _body(lambda held, evil: jwks(held, evil, ttl=float("nan"))),
    "deep nesting": _body(
        lambda held, evil: jwks(held, evil)[:-1] + b',"x":' + b"[" * 99 + b"]" * 99 + b"}"
    ),
    "UTF-16": _body(lambda held, evil: jwks(held, evil).decode().encode("utf-16")),
    # sizes
    "over 64 KiB": _body(lambda held, evil: jwks(held, evil) + b" " * MAX_SET_BYTES),
    "over 64 KiB in chunks": _raw(
        lambda body: (
            _chunks(body + b" " * MAX_SET_BYTES, len(body) + MAX_SET_BYTES) + b"\r\n0\r\n\r\n"
        )
    ),
    "over 64 KiB without a length": _raw(
        lambda body: (
            b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
            + body
            + b" " * MAX_SET_BYTES
        )
    ),
    "a gzip bomb": _body(
        lambda held, evil: gzip.compress(jwks(held, evil) + b" " * 20_000_000),
        more="Content-Encoding: gzip\r\n",
    ),
    "compressed though not asked for": _body(
        lambda held, evil: gzip.compress(jwks(held, evil)), more="Content-Encoding: gzip\r\n"
    ),
    "a thousand headers": _whole(more="X-A: b\r\n" * 1_000),
    # not whole
    "cut off": _raw(lambda body: http(body, length=len(body) + 1)),
    "cut off within": _raw(lambda body: http(body[:-20], length=len(body))),
    "cut off without a length": _raw(
        lambda body: b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body[:-1]
    ),
    "cut off in a chunk": _raw(lambda body: _chunks(body, len(body) + 5)),
    # slow
    "hangs": _slow(lambda server, answer: server.hangs(answer)),
    "hangs in the headers": _slow(lambda server, answer: server.hangs(answer, 20)),
    "hangs before the end": _slow(lambda server, answer: server.hangs(answer, len(answer) - 1)),
    "drips": _slow(lambda server, answer: server.drips(answer)),
    "drips its body": _slow(lambda server, answer: server.drips(answer, answer.index(b"{"))),
    "goes on announcing": _slow(lambda server, answer: server.drips(_CONTINUE * 400 + answer, 0)),
}
