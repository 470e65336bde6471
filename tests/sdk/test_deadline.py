"""One limit for all of a call (FB-8, FB-12): whatever the other side does, the till is answered.

Servers drip and hang here for as long as their answer has bytes; none of these tests reads a clock.
What shows that a limit held is that the call ended although the answer, in the end, was a good one.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from carepos import deadline
from carepos.client import MAX_RETRY_AFTER_S, Transport
from carepos.errors import NotDecided, Unreachable
from tests.key_server import KeyServer, http, key_server, says
from tests.sdk.test_key_store import SOON_S, _certificate

ANSWER = http(b'{"good":true,"padding":"' + b"x" * 400 + b'"}')


def asked(server: KeyServer, **more: Any) -> dict[str, Any]:
    """What a till's transport makes of this server's answer to one call."""
    transport = Transport(server.url.removesuffix("/keys"), answer_timeout_s=SOON_S)
    for name, value in more.items():
        setattr(transport._session, name, value)
    try:
        return transport.json("GET", "/keys")[0]
    finally:
        transport.close()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as made:
        yield made


def test_an_answer_in_time_is_read(server: KeyServer) -> None:
    """The limit costs an answer nothing that comes."""
    server.answer = says(ANSWER)
    assert asked(server)["good"] is True


@pytest.mark.parametrize("begin", [0, 20, len(ANSWER) - 400], ids=["status", "headers", "body"])
@pytest.mark.parametrize("how", ["drips", "hangs"])
def test_fb8_fb12_an_answer_that_does_not_come_whole_is_none(
    server: KeyServer, how: str, begin: int
) -> None:
    """FB-8, FB-12: each byte comes in time, and all of them together do not."""
    answering: Callable[..., Any] = server.drips if how == "drips" else server.hangs
    server.answer = answering(ANSWER, begin)
    with pytest.raises(Unreachable):
        asked(server)
    assert server.asked == 1  # and nothing was tried again


@pytest.mark.parametrize("begin", [0, len(ANSWER) - 400], ids=["status", "body"])
def test_fb8_tls_drips_no_longer(tmp_path: Path, begin: int) -> None:
    """FB-8 inside of TLS, whose socket is another one than the one that was opened."""
    pem = _certificate(tmp_path, "127.0.0.1")
    with key_server(pem) as server:
        trusted = str(tmp_path / "127.0.0.1.crt")
        server.answer = says(ANSWER)
        assert asked(server, verify=trusted)["good"] is True
        server.answer = server.drips(ANSWER, begin)
        with pytest.raises(Unreachable):
            asked(server, verify=trusted)


@contextmanager
def speaking(play: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server of one connection, which `play` plays: its address."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as connection:
                play(connection, closing)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (part := connection.recv(4_096)):
        head += part
    return head


def drip(connection: socket.socket, data: bytes, closing: threading.Event) -> None:
    for n in range(len(data)):
        if closing.wait(0.02):
            return
        connection.sendall(data[n : n + 1])


def test_fb12_a_connection_kept_alive_is_cut_too() -> None:
    """FB-12: the second call of one connection hangs; it ends, and the connection with it."""
    kept = ANSWER.replace(b"Connection: close\r\n", b"")
    cut = threading.Event()

    def play(connection: socket.socket, closing: threading.Event) -> None:
        read_head(connection)
        connection.sendall(kept)
        read_head(connection)
        try:
            drip(connection, kept * 20, closing)
        except OSError:
            cut.set()

    with speaking(play) as at:
        transport = Transport(f"http://{at}", answer_timeout_s=SOON_S)
        assert transport.json("GET", "/first")[0]["good"] is True
        with pytest.raises(Unreachable, match="within"):
            transport.json("GET", "/second")
        assert cut.wait(30)
        transport.close()


def test_fb12_a_greeting_that_drips_is_cut() -> None:
    """FB-12: TCP answers, TLS does not come about: a record of it that never ends."""
    cut = threading.Event()

    def play(connection: socket.socket, closing: threading.Event) -> None:
        connection.recv(4_096)
        try:
            drip(connection, b"\x16\x03\x03\x40\x00" + b"\x02" * 4_000, closing)
        except OSError:
            cut.set()

    with speaking(play) as at:
        transport = Transport(f"https://{at}", answer_timeout_s=SOON_S)
        with pytest.raises(Unreachable):
            transport.json("GET", "/")
        assert cut.wait(30)
        transport.close()


def test_fb1_a_name_that_is_not_found_in_time_is_left_and_nothing_is_sent_there_later(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FB-1: the look-up of a name can't be broken off. When it ends after all, the record that was
    to be sent is not sent: the till may have begun its reversal."""
    found, tried, real = threading.Event(), threading.Event(), deadline._Running.watch

    def slow(*args: Any, **more: Any) -> Any:
        assert found.wait(30)
        return lookup(*args, **more)

    def watching(running: Any, connection: socket.socket) -> None:
        tried.set()
        real(running, connection)

    lookup = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(deadline._Running, "watch", watching)
    server.answer = says(ANSWER)
    with pytest.raises(Unreachable, match="within"):
        asked(server)
    left = [each for each in threading.enumerate() if each.name == "carepos-call"]
    found.set()
    for thread in left:
        thread.join(30)
        assert not thread.is_alive()
    assert tried.is_set() and server.asked == 0


def test_a_failure_is_the_callers() -> None:
    """What the work raises is raised where it was asked for; outside of a call nobody watches."""
    with pytest.raises(ZeroDivisionError):
        deadline.within(30, lambda: 1 // 0)
    with socket.socket() as free:
        deadline.watch(free)
        deadline.watch(None)


# FB-15


def says_wait(status: str, asked_s: str, kind: str = "application/problem+json") -> bytes:
    body = b'{"code":"try_again","status":429,"detail":"busy"}'
    return http(body, status=status, kind=kind, more=f"Retry-After: {asked_s}\r\n")


@pytest.mark.parametrize(
    ("asked_s", "kept"),
    [
        ("7", 7),
        ("0", 0),
        ("86400", MAX_RETRY_AFTER_S),
        ("999999999", MAX_RETRY_AFTER_S),
        ("9" * 400, None),
        ("-5", None),
        ("1e9", None),
        ("Wed, 21 Oct 2099 07:28:00 GMT", None),
        ("٣", None),
    ],
)
def test_fb15_a_wish_to_be_left_alone_is_kept_within_bounds(
    server: KeyServer, asked_s: str, kept: int | None
) -> None:
    """FB-15: seconds up to five minutes, whoever says it; anything else is no wish."""
    server.answer = says(says_wait("429 Too Many Requests", asked_s).decode().encode("utf-8"))
    with pytest.raises(NotDecided) as problem:
        asked(server)
    assert problem.value.retry_after_s == kept
    server.answer = says(says_wait("503 Busy", asked_s, "text/html"))
    with pytest.raises(Unreachable) as nothing:
        asked(server)
    assert nothing.value.retry_after_s == kept
