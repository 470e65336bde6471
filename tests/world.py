"""A small world to test in: a real ledger behind a real HTTP server, a programme, families, tills.

Everything is built through the operators' own calls, so a test starts where a charity would.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from waitress import wasyncore
from waitress.server import create_server

from carepos import Line, Till, token
from carepos.keys import SigningKey
from carepos_ledger import app
from carepos_ledger.book import Reached, pass_by
from carepos_ledger.database import Database
from carepos_ledger.keyring import Keyring
from carepos_ledger.settings import Settings
from tests.quick_starts import migrate

ISSUER = "https://issuer.test"
AUDIENCE = "urn:carepos:redeem"
MILK = "06913046198782"
FORMULA = "06936687862270"
RICE = "cat:rice-loose"
SOAP = "06965356619631"
PRODUCTS = {MILK: "dairy", FORMULA: "infant-formula", RICE: "grain"}

PROGRAMME: dict[str, Any] = {
    "programme": "flood-dairy",
    "name": "7·28 洪灾奶制品",
    "currency": "CNY",
    "starts_at": "2026-08-01T00:00:00.000Z",
    "ends_at": "2027-08-01T00:00:00.000Z",
    "paused": False,
    "product_list": "relief",
    "issuer": ISSUER,
    "classes": ["once"],
    "amr_any": [],
    "limit_per_redemption_minor": None,
    "top_up_allowed": True,
    "undo_window_s": 3600,
    "quotas": [],
}
IMPORT_KEY_ID = "0123456789abcdef"


class FakeClock:
    """The time, moved by hand."""

    def __init__(self, at: datetime = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: float) -> None:
        self.at += timedelta(**by)


@dataclass
class Family:
    """A beneficiary as the issuer knows them: the `sub` that enrolment gave."""

    sub: str
    world: World
    tokens: int = 0

    def token(self, **changes: Any) -> str:
        """A fresh care code, as a phone would show it."""
        self.tokens += 1
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": self.sub,
            "jti": f"{self.sub[:8]}-{self.tokens}",
            "issued_at": self.world.now(),
        }
        return token.mint(self.world.issuer_key, **{**claims, **changes})


@dataclass
class World:
    """One ledger and everybody around it."""

    folder: Path
    settings: Settings
    now: FakeClock
    ledger: app.Ledger
    issuer_key: SigningKey
    url: str
    server: Any
    tills: list[Till] = field(default_factory=list)
    families: int = 0

    def family(self, amount_minor: int = 12_000, **changes: Any) -> Family:
        """A household with one value voucher (`amount_minor`), or what `changes` make of it."""
        self.families += 1
        return self.issue([self.row(f"family-{self.families}", amount_minor, **changes)])[0]

    def row(self, ref: str, amount_minor: int = 12_000, **changes: Any) -> dict[str, Any]:
        """One issue row. `ref` is padded to the form that a keyed hash has."""
        row: dict[str, Any] = {
            "ref": ref.ljust(43, "_")[:43],
            "kind": "value",
            "label": "奶制品卡",
            "categories": [],
            "starts_at": PROGRAMME["starts_at"],
            "expires_at": PROGRAMME["ends_at"],
            "amount_minor": amount_minor,
            **changes,
        }
        if row["kind"] != "value":
            del row["amount_minor"]
        return row

    def issue(
        self, rows: Sequence[Mapping[str, Any]], programme: str = PROGRAMME["programme"]
    ) -> list[Family]:
        answers = self.ledger.office.issue(programme, IMPORT_KEY_ID, list(rows))
        assert [answer.result for answer in answers] == ["issued"] * len(rows), answers
        return [Family(str(answer.sub), self) for answer in answers]

    def till(self, name: str = "till-1", store: str = "zhou-shop", **options: Any) -> Till:
        """An enrolled till of a store, opened; opened again when the folder is there already."""
        folder = self.folder / name
        if not (folder / "enrolment.json").exists():
            code = self.ledger.terminals.new_activation(store, 3600).code
            Till.enrol(folder, url=self.url, activation=code)
        till = Till.open(folder, now=self.now, answer_timeout_s=20, **options)
        self.tills.append(till)
        return till

    def balance(self) -> int:
        """What every voucher of the programme holds together."""
        return self.ledger.office.programme_sums(PROGRAMME["programme"]).available_minor

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        with self.ledger.database.read() as connection:
            found = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()
        assert isinstance(found, int)
        return found


def milk(amount_minor: int = 6_490, quantity: int = 1) -> Line:
    return Line(MILK, quantity, "piece", amount_minor, "纯牛奶 250ml*24")


@contextmanager
def served(ledger: app.Ledger, port: int = 0) -> Iterator[tuple[str, Any]]:
    """The ledger behind a real waitress server on a free port of loopback."""
    server = create_server(ledger.wsgi, host="127.0.0.1", port=port, threads=8)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}", server
    finally:
        end(server)
        thread.join(timeout=5)


def end(server: Any) -> None:
    """Close a waitress server, once: first its workers end, then it closes its sockets itself.

    Closed from here, one might be selected on or written to at that moment.
    """
    if not server._map:
        return  # ended before
    server.task_dispatcher.shutdown(cancel_pending=True, timeout=5)
    ended = threading.Event()

    def close() -> None:
        wasyncore.close_all(server._map, ignore_all=True)
        ended.set()

    # As pull_trigger() does it, but under one lock: a server that is just awake would else run
    # `close`, and the pipe be gone, before it is written to.
    with server.trigger.lock:
        server.trigger.thunks.append(close)
        server.trigger._physical_pull()
    assert ended.wait(5)


@contextmanager
def world(
    folder: Path,
    database_url: str | None = None,
    *,
    reached: Reached = pass_by,
    funded_minor: int = 100_000_000,
    zone: ZoneInfo | None = None,
) -> Iterator[World]:
    """A ledger with one programme, one store, and nothing issued yet."""
    now = FakeClock()
    ledger_folder = folder / "ledger"
    url = database_url or f"sqlite:///{folder / 'ledger.db'}"
    settings = Settings(ledger_folder, url, zone=zone)
    Keyring.create(ledger_folder)
    database = Database(settings.database)
    migrate(database)
    database.close()
    ledger = app.build(settings, now=now, reached=reached)
    issuer_key = SigningKey.generate()
    try:
        set_up(ledger, issuer_key, funded_minor)
        with served(ledger) as (url, server):
            made = World(folder, settings, now, ledger, issuer_key, url, server)
            try:
                yield made
            finally:
                for till in made.tills:
                    till.close()
    finally:
        ledger.close()


def set_up(ledger: app.Ledger, issuer_key: SigningKey, funded_minor: int) -> None:
    """What an operator types before the first voucher."""
    office, programmes = ledger.office, ledger.programmes
    ledger.issuers.put(ISSUER, [issuer_key.public.to_jwk()])
    programmes.put_product_list("relief", 1, PRODUCTS)
    programmes.put_programme(PROGRAMME)
    office.put_funder("red-cross", "红十字会")
    office.put_funder("dairy-fund", "乳业基金")
    office.fund("flood-dairy", "red-cross", funded_minor * 2 // 3, "grant-1")
    office.fund("flood-dairy", "dairy-fund", funded_minor - funded_minor * 2 // 3, "grant-2")
    office.put_merchant("zhou", "周家超市")
    office.put_store("zhou-shop", "zhou", "周家超市 古州店")
    office.put_store("zhou-far", "zhou", "周家超市 忠诚店")
    programmes.admit_store("flood-dairy", "zhou-shop")
