"""An operator's desk for tests: a ledger on either database with a small relief programme in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from carepos.errors import Malformed
from carepos.keys import SigningKey, digest
from carepos_ledger import migrations, schema
from carepos_ledger.database import Database
from carepos_ledger.issuers import Issuers
from carepos_ledger.keyring import Keyring
from carepos_ledger.office import Office
from carepos_ledger.operators import Operators, new_secret
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import Programmes
from carepos_ledger.terminals import Terminals

AUDIENCE = "https://relief.example"
ISS = "https://care.example/county"
IMPORT_KEY_ID = "0123456789abcdef"
STARTS, ENDS = "2026-11-01T00:00:00.000Z", "2027-03-01T00:00:00.000Z"

RULES: dict[str, Any] = {
    "programme": "flood-dairy",
    "name": "奶制品援助",
    "currency": "CNY",
    "starts_at": STARTS,
    "ends_at": ENDS,
    "paused": False,
    "product_list": "dairy-list",
    "issuer": ISS,
    "classes": ["once", "card"],
    "amr_any": [],
    "limit_per_redemption_minor": None,
    "top_up_allowed": False,
    "undo_window_s": 1800,
    "quotas": [],
}
ENTRIES = {
    "06913046198782": "dairy",
    "06923867151224": "infant-formula",
    "cat:rice-loose": "staples",
}


@dataclass
class SetClock:
    """A clock that stands still until it is told otherwise."""

    at: datetime = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **by: int) -> None:
        self.at += timedelta(**by)


@dataclass
class Desk:
    """What operators do, what it works on, and the clock it reads."""

    database: Database
    keyring: Keyring
    operators: Operators
    issuers: Issuers
    programmes: Programmes
    office: Office
    terminals: Terminals
    clock: SetClock
    issuer_key: SigningKey = field(default_factory=SigningKey.generate)

    def settle_in(self, *, funded_minor: int = 0) -> None:
        """An issuer, a product list, a programme, two funders, a shop that takes part."""
        office, programmes = self.office, self.programmes
        self.issuers.put(ISS, [self.issuer_key.public.to_jwk()])
        programmes.put_product_list("dairy-list", 1, ENTRIES)
        programmes.put_programme(RULES)
        office.put_funder("red-cross", "红十字会")
        office.put_funder("city-fund", "City Fund")
        office.put_merchant("guzhou", "古州超市")
        office.put_store("guzhou-1", "guzhou", "古州超市一店")
        programmes.admit_store("flood-dairy", "guzhou-1")
        if funded_minor:
            office.fund("flood-dairy", "red-cross", funded_minor, "TRANSFER-1")

    def operator(self, name: str) -> str:
        """The secret of a new operator."""
        secret = new_secret()
        self.operators.add(name, secret)
        return secret

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        with self.database.read() as connection:
            return {
                table.name: sorted(
                    (tuple(row) for row in connection.execute(select(table))), key=repr
                )
                for table in schema.metadata.sorted_tables
            }


@contextmanager
def open_desk(url: str, folder: Path) -> Iterator[Desk]:
    """A ledger with its tables made and nothing in them."""
    database = Database(url)
    try:
        migrations.upgrade(database)
        keyring = Keyring.create(folder / "keys")
        now = SetClock()
        yield Desk(
            database,
            keyring,
            Operators(database),
            Issuers(database, now),
            Programmes(database),
            Office(database, now),
            Terminals(database, keyring, now, AUDIENCE),
            now,
        )
    finally:
        database.close()


def ref(n: int) -> str:
    """What an import key makes of household `n`."""
    return digest(f"household {n}".encode())


def value_row(n: int, amount_minor: int = 36_000, **changed: object) -> dict[str, object]:
    """A row for household `n`: a value voucher for dairy."""
    return {
        "ref": ref(n),
        "kind": "value",
        "label": "奶制品卡",
        "categories": ["dairy", "infant-formula"],
        "starts_at": STARTS,
        "expires_at": ENDS,
        "amount_minor": amount_minor,
        **changed,
    }


def item_row(n: int, quantity: int, **terms: object) -> dict[str, object]:
    """A row for household `n`: ten-yuan portions of rice, 500 g each."""
    row = value_row(n)
    del row["amount_minor"]
    wanted = {"unit": "g", "cap_minor": 1000, "fixed_minor": 0, "cap_quantity": 500, **terms}
    kind = "fixed_price" if wanted["fixed_minor"] else "item"
    return {
        **row,
        "kind": kind,
        "categories": ["staples"],
        "quantity": quantity,
        "terms": wanted,
    }


def refused(code: str, call: Callable[[], object], desk: Desk) -> Problem:
    """The problem that `call` is, having changed nothing."""
    before = desk.tables()
    with pytest.raises(Problem) as caught:
        call()
    assert caught.value.code == code
    assert desk.tables() == before
    return caught.value


def malformed(field: str, call: Callable[[], object], desk: Desk) -> None:
    before = desk.tables()
    with pytest.raises(Malformed) as caught:
        call()
    assert caught.value.field == field
    assert desk.tables() == before


def until_it_waits(database: Database, running: Future[Any]) -> None:
    """Return when `running` waits for a lock of the database, or is done. On SQLite, where a
    writer waits for the whole of the one before it, at once."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while not running.done() and not database.is_sqlite:
        with database.read() as connection:
            if connection.exec_driver_sql(waiting).scalar():
                return
