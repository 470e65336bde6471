"""What can be read from a journal: attempts, records, outcomes, slips. Nothing here writes."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from carepos import clock, record
from carepos.attempt import State
from carepos.errors import JournalError
from carepos.keys import KeySet
from carepos.record import Record

PrintState = Literal["queued", "printing", "printed", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Where one attempt stands; `slip` is the JSON object its receipt is made from, or, past its
    time, `{"forgotten": true, "receipt_no"}`."""

    id: str
    sequence: int
    checkout: str
    state: State
    programme: str
    currency: str
    amount_minor: int
    slip: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PrintJob:
    """One slip to print. `copy_no` 0 is the original; reprints count from 1 and say COPY."""

    n: int
    receipt_no: str
    copy_no: int
    slip: dict[str, Any]
    state: PrintState


@dataclass(frozen=True, slots=True)
class Visit:
    """First use of a token or presentation, bound in the intent's transaction.

    `sha256` is `IdentityToken.visit_sha256`.
    """

    iss: str
    sha256: str


class JournalView:
    """What can be read from a journal, by the till itself or beside it (`JournalView.open`)."""

    def __init__(self, connection: sqlite3.Connection, keys: KeySet) -> None:
        self._db = connection
        self._keys = keys
        self._mutex = threading.RLock()

    @classmethod
    def open(cls, path: Path, keys: KeySet) -> JournalView:
        """Look at a journal without a lock, while a till may be writing it.

        `keys`: the terminal's, also those it had before (`Enrolment.terminal_keys`). Raises
        JournalError when there is no journal, as in the folder of a till that was never started.
        """
        if not path.exists():
            raise JournalError(
                f"there is no {path.name} in {path.parent} yet: the till was never started "
                "(carepos till serve)"
            )
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            # Only the writer checkpoints (SQLite before 3.51.3 may corrupt when two do).
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT count(*) FROM meta").fetchone()
        except sqlite3.Error as error:
            raise JournalError(f"{path.name} can't be read as a journal: {error}") from error
        return cls(connection, keys)

    def close(self) -> None:
        self._db.close()

    def about(self) -> dict[str, str]:
        """Names and values the journal was made with: terminal, incarnation, created_at, schema."""
        with self._mutex:
            return dict(self._db.execute("SELECT name, value FROM meta").fetchall())

    def attempt(self, attempt_id: str) -> Attempt:
        """Raises KeyError for an id that is not in this journal."""
        found = self._attempts("WHERE id = ?", attempt_id)
        if not found:
            raise KeyError(attempt_id)
        return found[0]

    def attempts(self, *states: State) -> list[Attempt]:
        """Attempts in these states (all without any), in the order they were begun."""
        if not states:
            return self._attempts("")
        return self._attempts(f"WHERE state IN ({','.join('?' * len(states))})", *states)

    def unfinished(self) -> list[Attempt]:
        """Attempts that are not over; by index, however long the journal is."""
        return self._attempts("WHERE state NOT IN ('confirmed', 'refused', 'reversed', 'review')")

    def of_checkout(self, checkout: str) -> list[Attempt]:
        """Every attempt of a sale, oldest first."""
        return self._attempts("WHERE checkout = ?", checkout)

    def live_attempt(self, checkout: str) -> Attempt | None:
        """The attempt that keeps this sale from making another one, if any."""
        live = self._attempts(
            "WHERE checkout = ? AND state IN "
            "('open', 'unknown', 'interrupted', 'goods_asked', 'confirmed')",
            checkout,
        )
        return live[0] if live else None

    def record_of(self, attempt: Attempt, kind: record.Kind = "redeem") -> Record:
        """The attempt's own record, or its reversal. Raises KeyError when there is none."""
        found = self._records("WHERE id = ? AND kind = ?", attempt.id, kind)
        if not found:
            raise KeyError(attempt.id)
        return found[0]

    def records(self, *kinds: record.Kind) -> list[Record]:
        """Every record of these kinds (all without any), in sequence order."""
        if not kinds:
            return self._records("")
        return self._records(f"WHERE kind IN ({','.join('?' * len(kinds))})", *kinds)

    def unanswered(self, *kinds: record.Kind) -> list[Record]:
        """Records of these kinds that have no outcome yet, in sequence order."""
        return self._records(
            f"WHERE sequence NOT IN (SELECT sequence FROM outcomes) "
            f"AND kind IN ({','.join('?' * len(kinds))})",
            *kinds,
        )

    def _records(self, where: str, *values: object) -> list[Record]:
        with self._mutex:
            rows = self._db.execute(
                f"SELECT jws FROM records {where} ORDER BY sequence",
                values,
            ).fetchall()
        return [record.read(row[0], keys=self._keys) for row in rows]

    def outcomes_of(self, sequence: int) -> list[str]:
        """The ledger's signed answers to one record, oldest first."""
        with self._mutex:
            return [
                row[0]
                for row in self._db.execute(
                    "SELECT jws FROM outcomes WHERE sequence = ? ORDER BY n", (sequence,)
                )
            ]

    def print_jobs(self, receipt_no: str | None = None, *, queued: bool = False) -> list[PrintJob]:
        where = "WHERE receipt_no = ?" if receipt_no else "WHERE state = 'queued'" if queued else ""
        values = (receipt_no,) if receipt_no else ()
        with self._mutex:
            rows = self._db.execute(
                f"SELECT n, receipt_no, copy_no, slip, state FROM print_jobs {where} ORDER BY n",
                values,
            ).fetchall()
        return [PrintJob(n, no, copy, json.loads(slip), state) for n, no, copy, slip, state in rows]

    def first_use(self, visit: Visit) -> datetime | None:
        """When this till first used the token, if it did."""
        with self._mutex:
            row = self._db.execute(
                "SELECT first_at FROM visits WHERE iss = ? AND jti_sha256 = ?",
                (visit.iss, visit.sha256),
            ).fetchone()
        return None if row is None else clock.from_text(row[0])

    def _attempts(self, where: str, *values: object) -> list[Attempt]:
        with self._mutex:
            rows = self._db.execute(
                "SELECT id, sequence, checkout, state, programme, currency, amount_minor, slip "
                f"FROM attempts {where} ORDER BY sequence",
                values,
            ).fetchall()
        return [
            Attempt(an_id, sequence, checkout, state, programme, currency, minor, json.loads(slip))
            for an_id, sequence, checkout, state, programme, currency, minor, slip in rows
        ]
