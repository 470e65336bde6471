"""Somebody edits the journal of a till that is switched off (T-5): the till must not go on with it.

Whatever is done to the signed records is done to a copy; what opening it says is the answer.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from random import Random
from typing import Final

from carepos import Till
from carepos.disk_room import DiskRoom
from carepos.errors import JournalCorrupt
from tests.properties.ledger_model import sha256
from tests.sim.shop import Shop
from tests.sim.witness import Violation


def check(shop: Shop, rng: Random) -> None:
    """Raises Violation if the till starts on a journal in which something was changed."""
    way = rng.choice(WAYS)
    folder = shop.folder.with_name(f"{shop.name}-tampered")
    folder.mkdir()
    for name in ("terminal.key", "enrolment.json"):
        shutil.copy(shop.folder / name, folder)
    journal = folder / "journal.db"
    with (
        closing(sqlite3.connect(shop.database)) as there,
        closing(sqlite3.connect(journal)) as here,
    ):
        there.backup(here)
        _let_change(here)
        last = here.execute("SELECT max(sequence) FROM records").fetchone()[0]
        way(here, rng.randrange(1, last))
        here.commit()
    try:
        Till.open(folder, disk=DiskRoom(folder, free=lambda _: 0)).close()
    except JournalCorrupt:
        return
    raise Violation("T-5", f"{shop.name} starts though somebody did this: {way.__doc__}")


def _let_change(journal: sqlite3.Connection) -> None:
    triggers = journal.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        journal.execute(f"DROP TRIGGER {name}")


# ── ways, each to a record that is not the last ────────────────────────────────────────────────


def _other(text: str) -> str:
    """The same record with one character of its payload changed."""
    head, payload, signature = text.split(".")
    at = len(payload) // 2
    return ".".join((head, payload[:at] + ("A" if payload[at] != "A" else "B") + payload[at + 1 :],
                     signature))  # fmt: skip


def change(journal: sqlite3.Connection, sequence: int) -> None:
    """a record says something else"""
    text = _text(journal, sequence)
    journal.execute("UPDATE records SET jws = ? WHERE sequence = ?", (_other(text), sequence))


def change_with_digest(journal: sqlite3.Connection, sequence: int) -> None:
    """a record says something else, and its row has the digest of that"""
    text = _other(_text(journal, sequence))
    signing_input = text.rsplit(".", 1)[0]
    digest = sha256(signing_input.encode())
    journal.execute(
        "UPDATE records SET jws = ?, digest = ? WHERE sequence = ?", (text, digest, sequence)
    )


def swap(journal: sqlite3.Connection, sequence: int) -> None:
    """two records changed places"""
    one, two = _text(journal, sequence), _text(journal, sequence + 1)
    journal.execute("UPDATE records SET jws = ? WHERE sequence = ?", (two, sequence))
    journal.execute("UPDATE records SET jws = ? WHERE sequence = ?", (one, sequence + 1))


def delete(journal: sqlite3.Connection, sequence: int) -> None:
    """a record is gone"""
    journal.execute("DELETE FROM records WHERE sequence = ?", (sequence,))


def _text(journal: sqlite3.Connection, sequence: int) -> str:
    found: str = journal.execute(
        "SELECT jws FROM records WHERE sequence = ?", (sequence,)
    ).fetchone()[0]
    return found


WAYS: Final[tuple[Callable[[sqlite3.Connection, int], None], ...]] = (
    change,
    change_with_digest,
    swap,
    delete,
)
