"""A plugin beside a till, behind real HTTP, in front of a real ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from waitress.server import create_server

from carepos import Till
from carepos.till import Reached, pass_by
from carepos_plugin import app, pairing
from carepos_plugin.printing.printers import Printer
from carepos_plugin.settings import FILE, Settings
from tests.world import MILK, SOAP, World, end, world

Answer = dict[str, Any]


class Seconds:
    """A monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


class LedgerFault(Exception):
    """What a ledger process dies of at a named point."""


@dataclass
class Faults:
    """Points of the ledger at which the next record meets a failure."""

    points: set[str] = field(default_factory=set)

    def __call__(self, point: str) -> None:
        if point in self.points:
            self.points.discard(point)
            raise LedgerFault(point)


@dataclass
class Rig:
    """The register's place: it has the address and the secret, and nothing else."""

    world: World
    till: Till
    plugin: app.Plugin
    secret: str
    url: str
    seconds: Seconds
    faults: Faults
    marks: threading.Condition

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        sent = {pairing.HEADER: self.secret, **(headers or {})}
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
            return requests.request(method, self.url + path, data=data, headers=sent, timeout=30)
        return requests.request(method, self.url + path, json=body, headers=sent, timeout=30)

    def get(self, path: str) -> Answer:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def post(self, path: str, body: object) -> Answer:
        answer = self.call("POST", path, body)
        assert answer.ok, answer.text
        return dict(answer.json())

    def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """(status, code) of a problem document, which says it in both languages."""
        answer = self.call(method, path, body)
        assert answer.headers["Content-Type"] == "application/problem+json", answer.text
        document = answer.json()
        assert document["status"] == answer.status_code
        assert document["en"]
        assert document["zh"]
        return answer.status_code, document["code"]

    def offer(self, checkout: str, code: str, *lines: Answer, **more: Any) -> Answer:
        basket = list(lines) or [milk()]
        return self.post(
            "/api/offers", {"checkout": checkout, "code": code, "lines": basket, **more}
        )

    def redeem(self, checkout: str, offer: Answer, cashier: str = "c01") -> Answer:
        sale = self.post(
            "/api/redemptions",
            {"offer": offer["offer"], "checkout": checkout, "cashier": cashier},
        )
        self.await_goods_mark(checkout)
        return sale

    def await_goods_mark(self, checkout: str | None = None) -> None:
        """Until the goods of this sale, or of all, are marked as handed over, where they were told
        to leave: it is done behind the answer."""

        def is_marked() -> bool:
            accepted = self.till.journal.attempts("accepted")
            return not any(checkout in (None, each.checkout) for each in accepted)

        with self.marks:
            assert self.marks.wait_for(is_marked, timeout=30)

    def sell(self, checkout: str = "S1-000001") -> Answer:
        return self.redeem(checkout, self.offer(checkout, self.world.family().token()))

    def sell_unknown(self, checkout: str = "S1-000001", point: str = "committed") -> Answer:
        """A sale whose answer does not come because the ledger fails at `point`."""
        offer = self.offer(checkout, self.world.family().token())
        self.faults.points.add(point)
        sale = self.redeem(checkout, offer)
        assert sale["state"] == "unknown", sale
        return sale

    def cut_network(self) -> None:
        self.till._client._transport.url = "http://127.0.0.1:1"

    def mend_network(self) -> None:
        self.till._client._transport.url = self.world.url

    def written(self) -> tuple[int, int, int]:
        """What a request may have left behind: records, attempts, print jobs."""
        journal = self.till.journal
        return journal.sequence, len(journal.attempts()), len(journal.print_jobs())


def milk(amount_minor: int = 6_490) -> Answer:
    return {
        "key": MILK,
        "description": "纯牛奶 250ml*24",
        "quantity": 1,
        "unit": "piece",
        "line_amount_minor": amount_minor,
    }


def soap(amount_minor: int = 800) -> Answer:
    return {**milk(amount_minor), "key": SOAP, "description": "肥皂"}


@contextmanager
def rig(
    folder: Path,
    database_url: str | None = None,
    *,
    prints_on: Printer | None = None,
    reached: Reached = pass_by,
    background: bool = False,
    **changes: Any,
) -> Iterator[Rig]:
    """`changes` are settings; without `background` a test prints and settles when it wants to."""
    faults = Faults()
    with world(folder, database_url, reached=faults) as made:
        till = made.till()
        try:
            with plugged(
                made,
                till,
                faults,
                prints_on=prints_on,
                reached=reached,
                background=background,
                **changes,
            ) as rigged:
                yield rigged
        finally:
            end(made.server)


@contextmanager
def plugged(
    made: World,
    till: Till,
    faults: Faults,
    *,
    prints_on: Printer | None = None,
    reached: Reached = pass_by,
    background: bool = False,
    **changes: Any,
) -> Iterator[Rig]:
    """A plugin around a till that is open already."""
    pairing.make(till.folder)
    secret, seconds = pairing.read(till.folder), Seconds()
    plugin = app.build(
        till,
        Settings.read(changes, till.folder),
        secret,
        printer=prints_on,
        monotonic=seconds,
        reached=reached,
    )
    marks = threading.Condition()
    mark = plugin.counter.seen

    def seen(checkout: str) -> None:
        mark(checkout)
        with marks:
            marks.notify_all()

    plugin.counter.seen = seen  # type: ignore[method-assign]
    with listening(plugin.wsgi) as port:
        if background:
            till.refresh_pack()
            plugin.start()
        try:
            url = f"http://127.0.0.1:{port}"
            yield Rig(made, till, plugin, secret, url, seconds, faults, marks)
        finally:
            plugin.close()


@contextmanager
def listening(wsgi: Callable[..., Any]) -> Iterator[int]:
    """`wsgi` behind waitress on a free port of loopback."""
    server = create_server(wsgi, host="127.0.0.1", port=0, threads=8, ident=None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        end(server)
        thread.join(timeout=5)


def write_settings(folder: Path, **changes: Any) -> None:
    """Change single settings of a written plugin.toml, as a person would."""
    path = folder / FILE
    lines = path.read_text("utf-8").splitlines()
    for name, value in changes.items():
        spelled = f'"{value}"' if isinstance(value, str) else str(value)
        lines = [f"{name} = {spelled}" if x.startswith(f"{name} =") else x for x in lines]
    path.write_text("\n".join(lines) + "\n", "utf-8")
