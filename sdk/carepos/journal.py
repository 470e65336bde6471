"""The till's journal: what a till promised, written before anything leaves the machine.

One SQLite file (WAL, synchronous=FULL), one process that writes it. `records` is the signed chain
and is never changed; `attempts` is where each stands by the table of `attempt.py`, with every event
that brought it there. Each public write is one transaction and so one fsync.

A write that fails closes the journal: what the disk holds is then known only after a restart.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal

from carepos import clock, durable, ids, jws, record
from carepos.attempt import Event, State, Step, step
from carepos.clock import Clock
from carepos.errors import (
    JournalClosed,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    Malformed,
    Refused,
)
from carepos.ids import RandomBytes
from carepos.keys import KeySet, PublicKey, SigningKey
from carepos.outcome import Outcome
from carepos.record import Content, DayReport, KeyChange, Record, Redeem, Reversal, Start
from carepos.refusals import Refusal
from carepos.signers import Signers
from carepos.token import VISIT

PrintState = Literal["queued", "printing", "printed", "failed", "unknown"]

VISITS_KEPT = timedelta(days=2)
"""How long a first use is remembered, long after its token has expired (docs/identity.md §5)."""

SLIPS_KEPT = timedelta(days=180)
"""How long a receipt can be shown and printed again: as long as a sale may be disputed."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE records (
  sequence    INTEGER PRIMARY KEY CHECK (sequence >= 1),
  kind        TEXT NOT NULL,
  id          TEXT NOT NULL,
  choice      TEXT CHECK (choice IN ('undo')),  -- what an unknown attempt became; at most one
  digest      TEXT NOT NULL UNIQUE,
  prev        TEXT NOT NULL UNIQUE,
  occurred_at TEXT NOT NULL,
  jws         TEXT NOT NULL,
  UNIQUE (id, choice)
) STRICT;
CREATE UNIQUE INDEX one_redeem_per_attempt ON records (id) WHERE kind = 'redeem';
CREATE TRIGGER records_stay BEFORE UPDATE ON records
  BEGIN SELECT RAISE(ABORT, 'a record is never changed'); END;
CREATE TRIGGER records_remain BEFORE DELETE ON records
  BEGIN SELECT RAISE(ABORT, 'a record is never deleted'); END;

CREATE TABLE outcomes (
  n           INTEGER PRIMARY KEY,
  sequence    INTEGER NOT NULL REFERENCES records,
  result      TEXT NOT NULL,
  jws         TEXT NOT NULL,
  received_at TEXT NOT NULL,
  UNIQUE (sequence, result)
) STRICT;
CREATE TRIGGER outcomes_stay BEFORE UPDATE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome is never changed'); END;
CREATE TRIGGER outcomes_remain BEFORE DELETE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome is never deleted'); END;

CREATE TABLE attempts (
  id           TEXT PRIMARY KEY,
  sequence     INTEGER NOT NULL UNIQUE REFERENCES records,
  checkout     TEXT NOT NULL,
  state        TEXT NOT NULL,
  programme    TEXT NOT NULL,
  currency     TEXT NOT NULL,
  amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
  slip         TEXT NOT NULL  -- JSON: what the receipt shows, made with the intent
) STRICT, WITHOUT ROWID;
-- The next attempt of a sale only when the one before is refused, reversed or being reversed.
CREATE UNIQUE INDEX one_live_attempt_per_checkout ON attempts (checkout)
  WHERE state IN ('open', 'unknown', 'interrupted', 'goods_asked', 'confirmed');
CREATE INDEX attempts_unfinished ON attempts (sequence) WHERE state NOT IN
  ('confirmed', 'refused', 'reversed', 'review');

CREATE TABLE attempt_events (
  n      INTEGER PRIMARY KEY,
  id     TEXT NOT NULL REFERENCES attempts,
  event  TEXT NOT NULL,
  before TEXT NOT NULL,
  after  TEXT NOT NULL,
  at     TEXT NOT NULL
) STRICT;

CREATE TABLE visits (
  iss        TEXT NOT NULL,
  jti_sha256 TEXT NOT NULL,
  first_at   TEXT NOT NULL,
  PRIMARY KEY (iss, jti_sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE print_jobs (
  n          INTEGER PRIMARY KEY,
  receipt_no TEXT NOT NULL,
  copy_no    INTEGER NOT NULL CHECK (copy_no >= 0),  -- 0: the original
  slip       TEXT NOT NULL,
  state      TEXT NOT NULL CHECK (state IN
               ('queued', 'printing', 'printed', 'failed', 'unknown')),
  queued_at  TEXT NOT NULL,
  ended_at   TEXT,
  UNIQUE (receipt_no, copy_no)
) STRICT;
"""
_SCHEMA_VERSION = "1"


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


class Journal(JournalView):
    """The journal as its one writer holds it: `Journal.start`, then use it as a context manager."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock_file: BinaryIO,
        *,
        key: SigningKey,
        former: Iterable[PublicKey],
        terminal: str,
        now: Clock,
        random_bytes: RandomBytes,
    ) -> None:
        super().__init__(connection, KeySet([*former, key.public]))
        self._lock_file = lock_file
        self._key = key
        self._terminal = terminal
        self._now = now
        self._random_bytes = random_bytes
        self._closed: str | None = None
        self.incarnation = ""
        self.sequence = 0  # the last number written
        self._head = ""

    # ── opening and closing ────────────────────────────────────────────────────────────────────

    @classmethod
    def start(
        cls,
        path: Path,
        *,
        key: SigningKey,
        terminal: str,
        software: str,
        former: Iterable[PublicKey] = (),
        now: Clock = clock.system_clock,
        random_bytes: RandomBytes = os.urandom,
    ) -> Journal:
        """Open or make the journal, recover it, and write a `start` record.

        `former`: keys that signed earlier records of this terminal.
        After this every attempt that was `open` or `unknown` is `interrupted`.
        Raises JournalLocked when another process has it, JournalCorrupt when the chain does not
        hold or it is another terminal's, JournalError when the file can't be used as wanted.
        """
        lock_file = _lock(path.with_name(path.name + ".lock"))
        try:
            durable.private(path)
            connection = _connect(path)
            journal = cls(
                connection,
                lock_file,
                key=key,
                former=former,
                terminal=terminal,
                now=now,
                random_bytes=random_bytes,
            )
            try:
                journal._recover(software)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            lock_file.close()
            raise JournalError(f"the journal can't be opened: {error}") from error
        except BaseException:
            lock_file.close()
            raise
        return journal

    def close(self) -> None:
        with self._mutex:
            self._closed = self._closed or "closed"
            self._db.close()
            self._lock_file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover(self, software: str) -> None:
        with self._transaction():
            if not self._db.execute("PRAGMA user_version").fetchone()[0]:
                self._create()
            meta = dict(self._db.execute("SELECT name, value FROM meta"))
            if meta.get("schema") != _SCHEMA_VERSION:
                raise JournalError(
                    f"the journal has format {meta.get('schema')}, this software writes "
                    f"{_SCHEMA_VERSION}: use the software that wrote it"
                )
            if meta.get("terminal") != self._terminal:
                raise JournalCorrupt("the journal belongs to another terminal")
            self.incarnation = meta.get("incarnation", "")
            self.sequence, self._head = self._check_chain()
            self._append(Start(software), self._own_id())
            for attempt in self.attempts("open", "unknown", "interrupted"):
                self._move(attempt, "restart")
            self._forget_visits()
            # A job that was being sent when the till stopped may or may not be on paper.
            self._db.execute(
                "UPDATE print_jobs SET state = 'unknown', ended_at = ? WHERE state = 'printing'",
                (self._at(),),
            )

    def _create(self) -> None:
        # executescript() would commit behind our back; the statements are split by hand instead.
        for statement in _statements(_SCHEMA):
            self._db.execute(statement)
        self._db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [
                ("schema", _SCHEMA_VERSION),
                ("terminal", self._terminal),
                ("incarnation", ids.new_incarnation(self._random_bytes)),
                ("created_at", self._at()),
            ],
        )
        self._db.execute("PRAGMA user_version = 1")

    def _check_chain(self) -> tuple[int, str]:
        """Walk the whole chain by digest; the last sequence and the digest the next one links."""
        sequence, head, last = 0, record.first_prev(self.incarnation), None
        for row in self._db.execute("SELECT sequence, digest, prev, jws FROM records ORDER BY 1"):
            sequence += 1
            whole = row[3].isascii() and jws.digest_of(row[3]) == row[1]
            if (row[0], row[2]) != (sequence, head) or not whole:
                raise JournalCorrupt("the chain of records does not hold", sequence=sequence)
            head, last = row[1], row[3]
        if last is not None:
            try:
                newest = record.read(last, keys=self._keys)
            except Malformed as error:
                raise JournalCorrupt("the newest record is not ours", sequence=sequence) from error
            if (newest.sequence, newest.incarnation) != (sequence, self.incarnation):
                raise JournalCorrupt("the newest record is of another chain", sequence=sequence)
        return sequence, head

    def verify(self) -> int:
        """Check every record's signature, number, link and columns; the number of records.

        Raises JournalCorrupt naming the first record that is not what was signed. A tail that was
        cut off is found only where an attempt or an outcome still tells of it.
        """
        head, count = record.first_prev(self.incarnation), 0
        signers = Signers()
        with self._mutex:
            try:
                for row in self._db.execute(
                    "SELECT sequence, kind, id, choice, digest, prev, occurred_at, jws "
                    "FROM records ORDER BY 1"
                ):
                    count += 1
                    head = self._verified(row, count, head, signers)
                if self._db.execute("PRAGMA foreign_key_check").fetchone() is not None:
                    raise JournalCorrupt("records are missing at the end", sequence=count + 1)
            except sqlite3.Error as error:
                raise JournalCorrupt(
                    f"record {count + 1} can't be read: {error}", sequence=count + 1
                ) from error
        return count

    def _verified(self, row: tuple[Any, ...], count: int, head: str, signers: Signers) -> str:
        """The digest of the record in `row`, if it is the one that belongs after `head`."""
        sequence, *columns, text = row
        try:
            found = record.read(text, keys=self._keys)
            signers.admit(found)
        except Malformed as error:
            raise JournalCorrupt(f"record {count}: {error}", sequence=count) from error
        link = (found.sequence, found.prev, found.incarnation, found.terminal)
        if (count, head, self.incarnation, self._terminal) != link or sequence != count:
            raise JournalCorrupt(f"record {count} is not in its place", sequence=count)
        choice = "undo" if found.kind == "reversal" else None
        at = clock.to_text(found.occurred_at)
        if columns != [found.kind, found.id, choice, found.digest, found.prev, at]:
            raise JournalCorrupt(f"record {count} is not what its row says", sequence=count)
        return found.digest

    # ── writing ────────────────────────────────────────────────────────────────────────────────

    def write_intent(
        self,
        content: Redeem,
        *,
        bucket: int,
        visit: Visit | None,
        slip: Callable[[Record], dict[str, Any]],
    ) -> tuple[Attempt, Record]:
        """Write the intent of one attempt: its id, its signed record, its visit. One fsync.

        `slip` makes the receipt's JSON object (with its `receipt_no`) from the record. Raises
        Refused (token_replayed) when the token was first used here longer ago than a visit,
        JournalError when the sale already has a live attempt, JournalClosed.
        """
        with self._transaction():
            if visit is not None:
                self._bind(visit)
            if self.live_attempt(content.checkout) is not None:
                raise JournalError("this sale already has an attempt that is not over")
            an_id = ids.new_attempt_id(bucket, self._now(), self._random_bytes)
            written = self._append(content, an_id)
            attempt = Attempt(
                an_id,
                written.sequence,
                content.checkout,
                "open",
                content.programme,
                content.currency,
                content.programme_minor,
                slip(written),
            )
            self._db.execute(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    an_id,
                    attempt.sequence,
                    attempt.checkout,
                    attempt.state,
                    attempt.programme,
                    attempt.currency,
                    attempt.amount_minor,
                    _to_json(attempt.slip),
                ),
            )
        return attempt, written

    def advance(
        self,
        attempt_id: str,
        event: Event,
        *,
        outcome: Outcome | None = None,
        slip: dict[str, Any] | None = None,
    ) -> Attempt:
        """Apply one event of the table, with the outcome that brought it. One fsync.

        `slip` replaces the one made with the intent; entering `confirmed` queues the receipt; a row
        that writes a reversal writes it here. Raises WrongState, JournalClosed.
        """
        with self._transaction():
            before = self.attempt(attempt_id)
            if outcome is not None:
                self._keep(before, outcome)
            taken = self._move(before, event)
            if taken.writes is not None:
                original = self.record_of(before)
                reversal = Reversal(original.digest, taken.writes)
                self._append(reversal, before.id, choice="undo")
            if slip is not None:
                # Also when the cashier is asked first: the receipt she releases is this one.
                self._db.execute(
                    "UPDATE attempts SET slip = ? WHERE id = ?", (_to_json(slip), attempt_id)
                )
            if taken.to == "confirmed":
                shown = slip or before.slip
                self._queue(str(shown["receipt_no"]), 0, shown)
        return self.attempt(attempt_id)

    def write_day_report(self, make: Callable[[int], DayReport]) -> Record:
        """Write the till's Z; `make` gets the last sequence before it. One fsync."""
        with self._transaction():
            return self._append(make(self.sequence), self._own_id())

    def write_key_change(self, following: SigningKey) -> Record:
        """Announce the key that will sign after the one in use. One fsync."""
        with self._transaction():
            content = KeyChange.make(
                following,
                terminal=self._terminal,
                incarnation=self.incarnation,
                sequence=self.sequence + 1,
            )
            return self._append(content, self._own_id())

    def use_key(self, key: SigningKey) -> None:
        """Sign every record from now on with `key`; those that are there stay readable."""
        with self._mutex:
            self._keys = KeySet([*self._keys, key.public])
            self._key = key

    def write_start(self, software: str) -> Record:
        """Write a `start` of its own: the first word of a new key. One fsync."""
        with self._transaction():
            return self._append(Start(software), self._own_id())

    def keep_outcome(self, written: Record, outcome: Outcome) -> None:
        """Keep the outcome of a record that is no attempt's (`record.PLAIN`). One fsync."""
        with self._transaction():
            self._insert_outcome(written.sequence, outcome)

    def queue_copy(self, receipt_no: str) -> PrintJob:
        """Queue a reprint, marked COPY, of a receipt that was printed before. Raises KeyError."""
        with self._transaction():
            row = self._db.execute(
                "SELECT slip, (SELECT max(copy_no) FROM print_jobs WHERE receipt_no = ?1) "
                "FROM print_jobs WHERE receipt_no = ?1 AND copy_no = 0",
                (receipt_no,),
            ).fetchone()
            if row is None:
                raise KeyError(receipt_no)
            slip = {**json.loads(row[0]), "is_copy": True}
            self._queue(receipt_no, row[1] + 1, slip)
        return self.print_jobs(receipt_no)[-1]

    def print_started(self, n: int) -> None:
        """Mark that bytes may now reach paper: a crash from here leaves the job `unknown`."""
        with self._transaction():
            self._db.execute("UPDATE print_jobs SET state = 'printing' WHERE n = ?", (n,))

    def print_ended(self, n: int, state: PrintState) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE print_jobs SET state = ?, ended_at = ? WHERE n = ?", (state, self._at(), n)
            )

    def forget(self, slips_kept: timedelta = SLIPS_KEPT) -> tuple[int, int]:
        """Forget visits and slips that are past their time: how many (visits, slips).

        The signed chain stays whole, and so does every sale that is not over. One fsync; the
        write-ahead log is emptied, unless somebody reads it.
        """
        with self._transaction():
            gone = self._forget_visits(), self._forget_slips(slips_kept)
        with self._mutex:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One durable transaction. A failure of the disk closes the journal for good."""
        with self._mutex:
            if self._closed is not None:
                raise JournalClosed(f"the journal is closed ({self._closed}); restart the till")
            head = (self.sequence, self._head)
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.IntegrityError as error:
                self._roll_back(head)
                raise JournalError(f"the journal refused the write: {error}") from error
            except (sqlite3.Error, OSError) as error:
                self._closed = f"a write failed: {error}"
                self._roll_back(head)
                raise JournalClosed(f"{self._closed}; restart the till") from error
            except BaseException:
                self._roll_back(head)
                raise

    def _roll_back(self, head: tuple[int, str]) -> None:
        self.sequence, self._head = head
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._closed = f"a rollback failed: {error}"

    def _append(self, content: Content, an_id: str, choice: str | None = None) -> Record:
        made = record.make(
            content,
            attempt_id=an_id,
            terminal=self._terminal,
            incarnation=self.incarnation,
            sequence=self.sequence + 1,
            prev=self._head,
            occurred_at=self._now(),
            key=self._key,
        )
        self._db.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                made.sequence,
                made.kind,
                made.id,
                choice,
                made.digest,
                made.prev,
                clock.to_text(made.occurred_at),
                made.jws,
            ),
        )
        self.sequence, self._head = made.sequence, made.digest
        return made

    def _move(self, attempt: Attempt, event: Event) -> Step:
        taken = step(attempt.state, event)
        if taken.to != attempt.state:
            self._db.execute("UPDATE attempts SET state = ? WHERE id = ?", (taken.to, attempt.id))
        self._db.execute(
            "INSERT INTO attempt_events (id, event, before, after, at) VALUES (?, ?, ?, ?, ?)",
            (attempt.id, event, attempt.state, taken.to, self._at()),
        )
        return taken

    def _keep(self, attempt: Attempt, outcome: Outcome) -> None:
        if outcome.kind is None:
            return  # a signed not_found answers no record
        written = self.record_of(attempt, "reversal" if outcome.kind == "reversal" else "redeem")
        self._insert_outcome(written.sequence, outcome)

    def _insert_outcome(self, sequence: int, outcome: Outcome) -> None:
        self._db.execute(
            "INSERT INTO outcomes (sequence, result, jws, received_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (sequence, result) DO NOTHING",
            (sequence, outcome.result, outcome.jws, self._at()),
        )

    def _bind(self, visit: Visit) -> None:
        first = self.first_use(visit)
        if first is not None and self._now() - first > VISIT:
            raise Refused(Refusal("token_replayed"))
        if first is None:
            self._db.execute(
                "INSERT INTO visits VALUES (?, ?, ?)", (visit.iss, visit.sha256, self._at())
            )

    def _queue(self, receipt_no: str, copy_no: int, slip: dict[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO print_jobs (receipt_no, copy_no, slip, state, queued_at) "
            "VALUES (?, ?, ?, 'queued', ?)",
            (receipt_no, copy_no, _to_json(slip), self._at()),
        )

    def _forget_visits(self) -> int:
        # What could still be presented is younger than a quarter of an hour.
        return self._db.execute(
            "DELETE FROM visits WHERE first_at < ?", (clock.to_text(self._now() - VISITS_KEPT),)
        ).rowcount

    def _forget_slips(self, slips_kept: timedelta) -> int:
        before = clock.to_text(self._now() - slips_kept)
        # Goods, balances and the family's reference of this shop; the record has its own copy of
        # what was sold, which the chain needs.
        slips = self._db.execute(
            "UPDATE attempts SET slip = json_object('forgotten', json('true'), "
            "'receipt_no', json_extract(slip, '$.receipt_no')) "
            "WHERE state IN ('confirmed', 'refused', 'reversed') "
            "AND json_extract(slip, '$.forgotten') IS NULL "
            "AND sequence IN (SELECT sequence FROM records WHERE occurred_at < ?)",
            (before,),
        ).rowcount
        self._db.execute(
            "DELETE FROM print_jobs WHERE receipt_no IN (SELECT receipt_no FROM print_jobs "
            "GROUP BY receipt_no HAVING max(queued_at) < ?) "
            "AND state IN ('printed', 'failed', 'unknown')",
            (before,),
        )
        return slips

    def _own_id(self) -> str:
        bucket = ids.terminal_bucket(self._terminal)
        return ids.new_attempt_id(bucket, self._now(), self._random_bytes)

    def _at(self) -> str:
        return clock.to_text(self._now())


def _connect(path: Path) -> sqlite3.Connection:
    """A connection whose durability is asserted, not hoped for."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        # What is forgotten is overwritten, not only left out of the table.
        connection.execute("PRAGMA secure_delete = ON")
        wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
        for name, value in wanted.items():
            if (found := connection.execute(f"PRAGMA {name}").fetchone()[0]) != value:
                raise JournalError(f"SQLite gives {name} = {found} instead of {value}")
    except BaseException:
        connection.close()
        raise
    return connection


def _lock(path: Path) -> BinaryIO:
    try:
        return durable.lock(path)
    except BlockingIOError:
        raise JournalLocked(
            "another process has this journal open; stop it first (is the till running?)"
        ) from None


def _statements(script: str) -> Iterator[str]:
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
