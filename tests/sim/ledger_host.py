"""The ledger as a process: the real WSGI application, called without a socket."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from requests.structures import CaseInsensitiveDict

from carepos import pin
from carepos_ledger import app, migrations
from carepos_ledger.book import Book
from carepos_ledger.desk import Desk, _Job, _undecided
from carepos_ledger.problems import Problem
from carepos_ledger.settings import Settings
from carepos_ledger.shelf import Command, Decided
from tests.quick_starts import remember_addresses
from tests.sim.process import Dead, Process
from tests.sim.story import Story

# ── only for speed: what a new process would work out again, word for word ─────────────────────


class _Compiled(dict[Any, Any]):
    """SQLAlchemy's statements as SQL text, for every engine: its own dialect is in its keys."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key[1:], value)


_COMPILED = _Compiled()


def quick_starts() -> None:
    """From here on, ledgers of this Python process don't compile their addresses anew, nor read
    the migrations: a run starts the ledger several times."""
    migrations.is_current = lambda database: True
    pin.proof = functools.cache(pin.proof)  # slow on purpose
    remember_addresses()


@dataclass(frozen=True)
class Request:
    """What a till sends, as it would stand on the wire."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None

    @classmethod
    def of(
        cls, method: str, target: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> Request:
        """With what the real transport adds."""
        sent = {"Accept": "application/json", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        return cls(method, target, sent, body)

    @property
    def path(self) -> str:
        """Which kind of request it is: `POST /v1/records`."""
        parts = self.target.split("?")[0].split("/")
        return f"{self.method} {'/'.join(parts[:3])}{'/…' if len(parts) > 3 else ''}"


@dataclass(frozen=True)
class Answer:
    """What comes back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Down(Exception):
    """Nobody listens."""


class StraightDesk(Desk):
    """A desk without a thread: what waits is posted with the request that comes, as one batch.

    A request for which `lingers` is true puts its records down and goes away unanswered, as one
    that came in just before the next.
    """

    def __init__(self, book: Book, lingers: Callable[[], bool]) -> None:
        self._book = book
        self._lingers = lingers
        self._before: list[_Job] = []

    def post(self, commands: Sequence[Command]) -> dict[str, Decided | Problem]:
        job = _Job(commands)
        if commands and self._lingers():
            self._before.append(job)
            return _undecided(commands)
        if commands:
            jobs, self._before = [*self._before, job], []
            self._post(jobs)
        return job.answers

    def close(self) -> None:
        pass


class LedgerHost(Process):
    """Starts, serves, dies."""

    def __init__(
        self,
        folder: Path,
        story: Story,
        *,
        now: Callable[[], datetime],
        ids: Callable[[int], bytes],
    ) -> None:
        super().__init__("the ledger", folder / "ledger.db", story)
        self.settings = Settings(folder / "ledger", f"sqlite:///{self.database}")
        self.now = now
        self._ids = ids
        self.running: app.Ledger | None = None
        self.lingers = False
        self.may_be_healed: Callable[[], None] = lambda: None
        """Told when this may be a ledger that has just been healed."""

    def start(self) -> None:
        self.running = app.build(
            self.settings,
            now=self.now,
            random_bytes=self._ids,
            reached=self.reached,
            make_desk=lambda book: StraightDesk(book, lambda: self.lingers),
        )
        for engine in (self.running.database._writer, self.running.database._reader):
            engine.update_execution_options(compiled_cache=_COMPILED)
        self.may_be_healed()

    def reached(self, point: str) -> None:
        if point == "opened":
            self.may_be_healed()
        super().reached(point)

    def stop(self) -> None:
        if self.running is not None:
            self.running.close()
            self.running = None

    def call(self, request: Request, *, cut: bool = False) -> Answer:
        """The answer, if there is a ledger and it lives to give one. Raises Down."""
        if self.running is None:
            raise Down
        heads: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            heads.append((status, headers))

        try:
            parts: Any = self.running.wsgi.wsgi_app(_environ(request, cut), start_response)  # type: ignore[arg-type]
            body = b"".join(parts)
        except Dead as death:
            if death.process is not self:
                raise
            self.bury()
            raise Down from None
        [(status, headers)] = heads
        return Answer(int(status[:3]), CaseInsensitiveDict(headers), body)


def _environ(request: Request, cut: bool) -> dict[str, Any]:
    path, _, query = request.target.partition("?")
    body = request.body or b""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "ledger.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body[: len(body) // 2] if cut else body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    if request.body is not None:
        environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE")
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ
