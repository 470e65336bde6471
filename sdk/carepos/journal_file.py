"""The journal as a file: its tables, its formats, and a connection whose durability is asserted.

Format 1 knew sales; format 2 knows what takes them back too; format 3 knows what is sold without a
network, and finds by index what happened to each sale. A newer format only ever adds: an older file
is brought up in the transaction that opens it, and no record of it is touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from carepos import durable
from carepos.errors import JournalError, JournalLocked

FORMAT: Final = "3"
WITHOUT_CORRECTIONS: Final = "1"

_TABLES: Final = """
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

_SINCE_2: Final = """
CREATE INDEX attempts_unfinished ON attempts (sequence) WHERE state NOT IN
  ('confirmed', 'refused', 'reversed', 'review', 'voided');

CREATE TABLE sold_terms (  -- of item and fixed-price vouchers, as a refund needs them
  id      TEXT NOT NULL REFERENCES attempts,
  voucher TEXT NOT NULL,
  terms   TEXT NOT NULL,  -- JSON
  PRIMARY KEY (id, voucher)
) STRICT, WITHOUT ROWID;

CREATE TABLE corrections (
  id                TEXT PRIMARY KEY,
  sequence          INTEGER NOT NULL UNIQUE REFERENCES records,
  kind              TEXT NOT NULL CHECK (kind IN ('void', 'refund')),
  original_terminal TEXT NOT NULL,
  original          TEXT NOT NULL,  -- id of the sale's attempt, perhaps another till's
  sale_receipt_no   TEXT NOT NULL,
  state             TEXT NOT NULL,
  programme         TEXT NOT NULL,
  currency          TEXT NOT NULL,
  amount_minor      INTEGER NOT NULL CHECK (amount_minor >= 0),
  beneficiary_minor INTEGER NOT NULL CHECK (beneficiary_minor >= 0),
  reference         TEXT UNIQUE,    -- the register's own number of a return
  slip              TEXT NOT NULL   -- JSON, as of an attempt
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_waiting_correction_per_sale ON corrections (original_terminal, original)
  WHERE state = 'waiting';
CREATE UNIQUE INDEX one_void_per_sale ON corrections (original_terminal, original)
  WHERE kind = 'void' AND state = 'posted';
CREATE INDEX corrections_of_sale ON corrections (original_terminal, original);

CREATE TABLE correction_events (
  n      INTEGER PRIMARY KEY,
  id     TEXT NOT NULL REFERENCES corrections,
  event  TEXT NOT NULL,
  before TEXT NOT NULL,
  after  TEXT NOT NULL,
  at     TEXT NOT NULL
) STRICT;
"""

_SINCE_3: Final = """
CREATE UNIQUE INDEX one_choice_per_attempt ON records (id)
  WHERE kind IN ('reversal', 'accept_offline');
DROP INDEX one_live_attempt_per_checkout;
CREATE UNIQUE INDEX one_live_attempt_per_checkout ON attempts (checkout)
  WHERE state IN ('open', 'unknown', 'interrupted', 'goods_asked', 'confirmed',
                  'accepted', 'accept_asked', 'provisional', 'held', 'short', 'exception');
DROP INDEX attempts_unfinished;
CREATE INDEX attempts_unfinished ON attempts (sequence) WHERE state NOT IN
  ('confirmed', 'refused', 'reversed', 'review', 'voided', 'short', 'exception');

CREATE TABLE acceptances (
  id           TEXT PRIMARY KEY REFERENCES attempts,
  sequence     INTEGER NOT NULL UNIQUE REFERENCES records,
  beneficiary  TEXT NOT NULL,  -- as in the record: what one was given is limited
  accepted_at  TEXT NOT NULL,
  beyond_minor INTEGER NOT NULL CHECK (beyond_minor >= 0),  -- of it beyond allotments
  evidence     TEXT  -- the token, sealed to the ledger; gone with the final outcome
) STRICT, WITHOUT ROWID;
CREATE INDEX acceptances_of_beneficiary ON acceptances (beneficiary, accepted_at);

CREATE TABLE taken (  -- what each attempt takes of a voucher, and of which allotment
  id           TEXT NOT NULL REFERENCES attempts,
  voucher      TEXT NOT NULL,
  allotment    INTEGER NOT NULL CHECK (allotment >= 0),  -- 0: of none
  is_later     INTEGER NOT NULL CHECK (is_later IN (0, 1)),  -- 1: of one behind that number
  amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
  quantity     INTEGER NOT NULL CHECK (quantity >= 0),
  decided_at   TEXT,  -- by the ledger's clock; null while it is not decided
  PRIMARY KEY (id, voucher, allotment, is_later)
) STRICT, WITHOUT ROWID;
CREATE INDEX taken_of_voucher ON taken (voucher);

CREATE TABLE returned_allotments (
  voucher   TEXT NOT NULL,
  allotment INTEGER NOT NULL CHECK (allotment >= 1),
  sequence  INTEGER NOT NULL REFERENCES records,
  PRIMARY KEY (voucher, allotment)
) STRICT, WITHOUT ROWID;

CREATE TABLE pin_tries (  -- wrong ones since the last right one, without a network
  card    TEXT PRIMARY KEY,  -- jti_sha256
  wrong   INTEGER NOT NULL CHECK (wrong >= 1),
  last_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX events_of_attempt ON attempt_events (id, n);
CREATE INDEX events_of_correction ON correction_events (id, n);
"""


def make(connection: sqlite3.Connection, about: Mapping[str, str]) -> None:
    """Make the tables of an empty file, within the caller's transaction; `about` goes into `meta`
    beside the format."""
    _run(connection, _TABLES + _SINCE_2 + _SINCE_3)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", [("schema", FORMAT), *about.items()])
    connection.execute("PRAGMA user_version = 1")


def is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("PRAGMA user_version").fetchone()[0]


def bring_up(connection: sqlite3.Connection, found: str | None) -> None:
    """From the format `found` to this one, within the caller's transaction.

    Raises JournalError for a format that this software knows nothing of.
    """
    must_know(found)
    if found == WITHOUT_CORRECTIONS:
        connection.execute("DROP INDEX attempts_unfinished")
        _run(connection, _SINCE_2)
    if found != FORMAT:
        _run(connection, _SINCE_3)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (FORMAT,))


def must_know(found: str | None) -> None:
    """Raises JournalError for a format that this software knows nothing of."""
    if found not in ("1", "2", FORMAT):
        raise JournalError(
            f"the journal has format {found}, this software reads up to {FORMAT}: "
            "use the software that wrote it"
        )


def connect(path: Path) -> sqlite3.Connection:
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


def lock(path: Path) -> BinaryIO:
    try:
        return durable.lock(path)
    except BlockingIOError:
        raise JournalLocked(
            "another process has this journal open; stop it first (is the till running?)"
        ) from None


def _run(connection: sqlite3.Connection, script: str) -> None:
    # executescript() would commit behind our back; the statements are split by hand instead.
    for statement in _statements(script):
        connection.execute(statement)


def _statements(script: str) -> Iterator[str]:
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
