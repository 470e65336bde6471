"""What lies in the files of ledger and tills, read without the product."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.properties.ledger_model import Opened

Row = dict[str, Any]


def tables(path: Path, names: Iterable[str]) -> dict[str, list[Row]]:
    """Every row of these tables, while whoever owns the file may have it open; none of a file that
    nobody ever got to write a table to."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        if connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
            return {name: [] for name in names}
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]
            for name in names
        }


def looked_at(path: Path, names: Iterable[str]) -> dict[str, list[Row]]:
    """As `tables`, of a file whose owner may be dead: what its next start would find there."""
    copy = path.with_name(f"{path.name}.looked-at")
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).exists():
            shutil.copy(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    found = tables(copy, names)
    copy.unlink()
    return found


_JOURNAL = ("records", "outcomes", "attempts", "corrections")


@dataclass(frozen=True)
class Journal:
    """One till's journal as it is on the disk."""

    terminal: str
    records: list[Row]
    opened: list[Opened]
    outcomes: list[Row]
    attempts: list[Row]
    undos: list[Row]
    events: list[Row]
    """What happened to the attempts, in order."""
    till: str = ""
    line: str = ""
    shared: int = 0
    """Of one that began as a copy: its name, and up to which number it is its original."""
    is_lost: bool = False

    def line_at(self, sequence: int) -> str:
        """Whose this number is."""
        return self.terminal if sequence <= self.shared or not self.line else self.line

    @classmethod
    def read(cls, path: Path, terminal: str) -> Journal:
        found = tables(path, (*_JOURNAL, "attempt_events"))
        records = sorted(found["records"], key=lambda row: row["sequence"])
        return cls(
            terminal,
            records,
            [Opened.of(row["jws"]) for row in records],
            found["outcomes"],
            sorted(found["attempts"], key=lambda row: row["sequence"]),
            sorted(found["corrections"], key=lambda row: row["sequence"]),
            sorted(found["attempt_events"], key=lambda row: row["n"]),
        )


LEDGER = (
    "records attempts postings entries vouchers issues programmes alarms batches batch_postings"
    " terminals terminal_keys terminal_notes allotments exceptions held_records heal_evidence"
    " heal_rows"
).split()


@dataclass(frozen=True)
class Book:
    """The ledger's tables as they are on the disk, by name."""

    rows: dict[str, list[Row]]

    @classmethod
    def read(cls, path: Path) -> Book:
        return cls(tables(path, LEDGER))

    def __getitem__(self, table: str) -> list[Row]:
        return self.rows[table]
