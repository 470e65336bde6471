"""A bad network between till and ledger: one HTTP request per connection, each with its fault.

Faults are queued with `fail` and used up one by one by the requests they are for; every other
request passes. What came by is kept in `seen`, so that a test can say what was never sent.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

Mode = Literal[
    "drop_before",  # the request never leaves
    "cut_request",  # the ledger gets the head and half of the body
    "drop_after",  # the ledger answers, nobody hears it
    "truncate",  # half of the answer
    "garble",  # one character of the last signature is another
    "garble_status",  # the answer is no HTTP
    "garble_encoding",  # …or claims to be compressed and is not
    "status_502_after",
    "html_200",  # a captive portal; the request never leaves
    "html_200_after",
    "unsigned_403_after",
    "unsigned_problem_after",  # 200, but the result is a problem that nobody signed
    "unsigned_refusal_after",  # 200, and an outcome in the clear that says refused
    "empty_after",
    "redirect",  # 307 to another host; the request never leaves
    "redirect_to_nowhere",  # …to something that is no address
    "duplicate",  # the ledger gets it twice; the second answer is heard
    "stale_answer",  # the ledger gets it; heard is the answer before, to the same path
    "silence",  # the ledger answers; the connection stays open and nothing comes
    "half_open",  # the connection stays open, nothing reaches the ledger and nothing comes
    "drip",  # the ledger answers; it comes whole, but a byte every fiftieth of a second
    "hold",  # dropped, but kept: it reaches the ledger when `deliver_held` is called
]
MODES: tuple[Mode, ...] = get_args(Mode)

HTML = b"<!doctype html><title>Welcome</title>Please accept our terms."


@dataclass
class Seen:
    """One request that came by, its answer if there was one, and the fault it met."""

    method: str
    target: str
    body: bytes
    raw: bytes
    fault: Mode | None
    answer: bytes = b""
    played: threading.Event = field(default_factory=threading.Event)
    """Set when the ledger has dealt with it, however much later than the till gave up."""

    def items(self) -> list[dict[str, Any]]:
        """The envelopes of a POST /v1/records."""
        items: list[dict[str, Any]] = json.loads(self.body)["items"]
        return items


@dataclass
class FaultyProxy:
    """Listens on `url`; forwards to the ledger unless a fault is due."""

    url: str
    upstream: tuple[str, int]
    elsewhere: str
    seen: list[Seen] = field(default_factory=list)
    is_away: bool = False
    """Nothing gets through, whatever is due."""
    strangers: list[bytes] = field(default_factory=list)
    _due: list[tuple[str, Mode]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: list[socket.socket] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def fail(self, mode: Mode, *, times: int = 1, target: str = "POST /v1/records") -> None:
        """The next `times` requests that begin with `target` meet `mode`."""
        self._due += [(target, mode)] * times

    def clear(self) -> None:
        self._due.clear()

    @property
    def sent(self) -> list[Seen]:
        """What the till sent to /v1/records, in order."""
        return [each for each in self.seen if each.method == "POST" and "records" in each.target]

    def deliver_held(self) -> bytes:
        """The late arrival of the first request that was held; the ledger's answer to it."""
        held = next(each for each in self.seen if each.fault == "hold")
        return self._forward(held.raw)

    def _fault(self, method: str, target: str) -> Mode | None:
        if self.is_away:
            return "drop_before"
        with self._lock:
            for n, (wanted, mode) in enumerate(self._due):
                if f"{method} {target}".startswith(wanted):
                    del self._due[n]
                    return mode
        return None

    def serve(self, client: socket.socket) -> None:
        """One connection, one request."""
        with suppress(OSError):
            head, body = _read_request(client)
            if not head:
                client.close()
                return
            method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ", 2)
            raw = _closing(head) + body
            seen = Seen(method, target, body, raw, self._fault(method, target))
            self.seen.append(seen)
            with suppress(OSError):
                seen.answer = self._play(seen)
            seen.played.set()
            if seen.fault in ("silence", "half_open"):
                self._open.append(client)
                return
            with client:
                if seen.fault == "drip":
                    self._drip(client, seen.answer)
                else:
                    client.sendall(self._heard(seen))

    def _drip(self, client: socket.socket, answer: bytes) -> None:
        for n in range(len(answer)):
            if self._stopping.wait(0.02):
                return
            client.sendall(answer[n : n + 1])

    def _play(self, seen: Seen) -> bytes:
        """What reaches the ledger, and what it says."""
        match seen.fault:
            case (
                "drop_before" | "html_200" | "redirect" | "redirect_to_nowhere" | "hold"
                | "half_open"
            ):  # fmt: skip
                return b""
            case "cut_request":
                head, _, body = seen.raw.partition(b"\r\n\r\n")
                with socket.create_connection(self.upstream) as upstream:
                    upstream.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
                return b""
            case "duplicate":
                self._forward(seen.raw)
        return self._forward(seen.raw)

    def _heard(self, seen: Seen) -> bytes:
        """What the till gets to read."""
        answer = seen.answer
        match seen.fault:
            case None | "duplicate":
                return answer
            case "truncate":
                head, _, body = answer.partition(b"\r\n\r\n")
                return head + b"\r\n\r\n" + body[: len(body) // 2]
            case "garble":
                at = len(answer) - 40
                other = b"A" if answer[at : at + 1] != b"A" else b"B"
                return answer[:at] + other + answer[at + 1 :]
            case "garble_status":
                return b"ICY " + answer[9:]
            case "garble_encoding":
                return answer.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)
            case "status_502_after":
                return _answer("502 Bad Gateway", "text/html", b"<h1>502 Bad Gateway</h1>")
            case "html_200" | "html_200_after":
                return _answer("200 OK", "text/html", HTML)
            case "unsigned_403_after":
                return _answer("403 Forbidden", "application/problem+json", _problem())
            case "unsigned_problem_after":
                results = [{"problem": json.loads(_problem())}] * len(seen.items())
                return _results(results)
            case "unsigned_refusal_after":
                plain = {"v": 1, "result": "refused", "refusal": {"code": "voucher_expired"}}
                return _results([{"outcome": plain}] * len(seen.items()))
            case "empty_after":
                return _answer("200 OK", "application/json", b"")
            case "redirect":
                return _answer("307 Temporary Redirect", "text/html", b"", self.elsewhere)
            case "redirect_to_nowhere":
                return _answer("307 Temporary Redirect", "text/html", b"", "http://[")
            case "stale_answer":
                same = [s.answer for s in self.seen if s.target == seen.target and s is not seen]
                return same[-1]
        return b""

    def _forward(self, raw: bytes) -> bytes:
        with socket.create_connection(self.upstream, timeout=30) as upstream:
            upstream.sendall(raw)
            answer = bytearray()
            while part := upstream.recv(65_536):
                answer += part
        return bytes(answer)

    def stop(self) -> None:
        self._stopping.set()
        for client in self._open:
            client.close()


def _read_request(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65_536)
        if not part:
            return b"", b""
        data += part
        if data[0] == 0x16:  # a TLS handshake: nobody here speaks it
            return b"", b""
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += client.recv(65_536)
    return head + b"\r\n\r\n", body


def _closing(head: bytes) -> bytes:
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([kept[0], b"Connection: close", *kept[1:]])


def _answer(status: str, kind: str, body: bytes, location: str = "") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    head += ["Connection: close"] + ([f"Location: {location}"] if location else [])
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _problem() -> bytes:
    problem = {
        "type": "urn:carepos:problem:terminal_revoked",
        "title": "no",
        "status": 403,
        "detail": "no",
        "code": "terminal_revoked",
    }
    return json.dumps(problem).encode()


def _results(results: list[Any]) -> bytes:
    return _answer("200 OK", "application/json", json.dumps({"results": results}).encode())


def _listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@contextmanager
def between(ledger_url: str) -> Iterator[FaultyProxy]:
    """A proxy in front of `ledger_url`, and a stranger's host that redirects lead to."""
    at = urlsplit(ledger_url)
    assert at.hostname is not None and at.port is not None
    with _listen() as here, _listen() as elsewhere:
        proxy = FaultyProxy(
            url=f"http://127.0.0.1:{here.getsockname()[1]}",
            upstream=(at.hostname, at.port),
            elsewhere=f"http://127.0.0.1:{elsewhere.getsockname()[1]}/v1/records",
        )

        def accept(listener: socket.socket, strange: bool) -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    if strange:
                        proxy.strangers.append(client.recv(65_536))
                        client.close()
                    else:
                        threading.Thread(target=proxy.serve, args=(client,), daemon=True).start()

        threads = [
            threading.Thread(target=accept, args=(listener, strange), daemon=True)
            for listener, strange in ((here, False), (elsewhere, True))
        ]
        for thread in threads:
            thread.start()
        try:
            yield proxy
        finally:
            proxy.stop()
            for listener in (here, elsewhere):
                # A thread in accept() is woken by shutdown, not by close alone.
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=5)
