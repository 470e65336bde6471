"""What can be read from a journal: attempts, what takes them back, records, outcomes, slips.

Nothing here writes.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from carepos import clock, correction, journal_file, jws, record
from carepos.attempt import Event, State
from carepos.errors import JournalError
from carepos.keys import KeySet
from carepos.outcome import NotServed
from carepos.record import Record
from carepos.set_aside import Taken
from carepos.voucher import Terms

STOPPED = "stopped"
"""The note that holds the ledger's signed word by which this till is stopped; "": it is over."""
SUSPENDED = "suspended"
"""The note that the ledger said so, without a signature: it is shown, and no rule reads it."""
LET_IN_AT = "let_in_at"
"""The note of when the ledger let a stopped till in again, by the ledger's clock."""
_COUNTED: Final[tuple[record.Kind, ...]] = (
    "redeem",
    "reversal",
    "accept_offline",
    "void",
    "refund",
    "day_report",
)

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
class Undo:
    """Where one void or refund of this till stands; `slip` as of an `Attempt`.

    (`original_terminal`, `original`) is the sale's attempt, perhaps another till's. `amount_minor`
    goes back to the vouchers, `beneficiary_minor` the shop gives back itself. `reference`: the
    register's own number of a return.
    """

    id: str
    sequence: int
    kind: correction.Kind
    original_terminal: str
    original: str
    sale_receipt_no: str
    state: correction.State
    programme: str
    currency: str
    amount_minor: int
    beneficiary_minor: int
    reference: str | None
    slip: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PrintJob:
    """One slip to print. `copy_no` counts the slips of a number: 0 is the receipt, what follows is
    a reprint, which says COPY, or says VOIDED."""

    n: int
    receipt_no: str
    copy_no: int
    slip: dict[str, Any]
    state: PrintState


@dataclass(frozen=True, slots=True)
class Kept:
    """Sales of one programme that have no final outcome; `since` when the first of them was, `held`
    how many of them the ledger has, for a person; of `asked` the cashier has to say whether the
    goods left, and of `accepted` that is not marked yet: a restart asks about them too."""

    currency: str
    count: int
    amount_minor: int
    since: datetime
    held: int
    asked: int
    accepted: int


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
            found = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        except sqlite3.Error as error:
            raise JournalError(f"{path.name} can't be read as a journal: {error}") from error
        try:
            journal_file.must_know(None if found is None else found[0])
        except JournalError:
            connection.close()
            raise
        return cls(connection, keys)

    def close(self) -> None:
        self._db.close()

    def about(self) -> dict[str, str]:
        """Names and values the journal was made with: terminal, incarnation, created_at, schema;
        and what was noted since."""
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
        return self._attempts(
            "WHERE state NOT IN ('confirmed', 'refused', 'reversed', 'review', 'voided', "
            "'short', 'exception')"
        )

    def newest(self, state: State, most: int) -> list[Attempt]:
        """At most so many of the newest attempts in this state, newest first."""
        found = self._attempts(
            "WHERE sequence IN (SELECT sequence FROM attempts WHERE state = ? "
            "ORDER BY sequence DESC LIMIT ?)",
            state,
            most,
        )
        return found[::-1]

    def count(self, *states: State) -> int:
        """How many attempts are in these states; by index."""
        with self._mutex:
            row = self._db.execute(
                f"SELECT count(*) FROM attempts WHERE state IN ({','.join('?' * len(states))})",
                states,
            ).fetchone()
        return int(row[0])

    def attempt_at(self, sequence: int) -> Attempt | None:
        """The attempt with this number, if it is one's."""
        found = self._attempts("WHERE sequence = ?", sequence)
        return found[0] if found else None

    def of_checkout(self, checkout: str) -> list[Attempt]:
        """Every attempt of a sale, oldest first."""
        return self._attempts("WHERE checkout = ?", checkout)

    def live_attempt(self, checkout: str) -> Attempt | None:
        """The attempt that keeps this sale from making another one, if any."""
        live = self._attempts(
            "WHERE checkout = ? AND state IN "
            "('open', 'unknown', 'interrupted', 'goods_asked', 'confirmed', "
            "'accepted', 'accept_asked', 'provisional', 'held', 'short', 'exception')",
            checkout,
        )
        return live[0] if live else None

    def record_of(self, attempt: Attempt, kind: record.Kind = "redeem") -> Record:
        """The attempt's own record, its reversal or acceptance. Raises KeyError for none."""
        found = self._records("WHERE id = ? AND kind = ?", attempt.id, kind)
        if not found:
            raise KeyError(attempt.id)
        return found[0]

    def record_at(self, sequence: int) -> Record:
        """Raises KeyError for a number that is not in this journal."""
        found = self._records("WHERE sequence = ?", sequence)
        if not found:
            raise KeyError(sequence)
        return found[0]

    def undos(self, *states: correction.State) -> list[Undo]:
        """Voids and refunds in these states (all without any), in the order they were begun."""
        if not states:
            return self._undos("")
        return self._undos(f"WHERE state IN ({','.join('?' * len(states))})", *states)

    def undos_of(self, terminal: str, attempt_id: str) -> list[Undo]:
        """What this till wrote to take one sale back, oldest first."""
        return self._undos("WHERE original_terminal = ? AND original = ?", terminal, attempt_id)

    def unseen_undos(self) -> list[Undo]:
        """Those that were refused and that nobody was told yet, in the order they were begun."""
        return self._undos(
            "WHERE state = 'refused' AND NOT EXISTS (SELECT 1 FROM correction_events AS events "
            "WHERE events.id = corrections.id AND events.event = 'seen')"
        )

    def is_seen(self, undo_id: str) -> bool:
        """Whether somebody was told how a void or refund ended."""
        return any(event == "seen" for event, _ in self.events_of_undo(undo_id))

    def is_being_voided(self, attempt_id: str) -> bool:
        """Whether a void of this till's own sale waits for the ledger."""
        return bool(
            self._undos("WHERE original = ? AND kind = 'void' AND state = 'waiting'", attempt_id)
        )

    def undo(self, undo_id: str) -> Undo:
        """Raises KeyError for an id that is none's here."""
        found = self._undos("WHERE id = ?", undo_id)
        if not found:
            raise KeyError(undo_id)
        return found[0]

    def undo_by_reference(self, reference: str) -> Undo | None:
        """The refund that the register named so."""
        found = self._undos("WHERE reference = ?", reference)
        return found[0] if found else None

    def sold_terms(self, attempt_id: str) -> dict[str, Terms]:
        """By voucher: the terms of a sale's item and fixed-price vouchers, as far as kept."""
        with self._mutex:
            rows = self._db.execute(
                "SELECT voucher, terms FROM sold_terms WHERE id = ?", (attempt_id,)
            ).fetchall()
        return {voucher: Terms.from_json(json.loads(terms), "terms") for voucher, terms in rows}

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

    def not_uploaded(self) -> int:
        """How many sales (a sale with its reversal or acceptance is one), voids, refunds and day
        reports have a record that the ledger never answered.

        What a till writes for the chain's sake, as each start, is not counted: nothing is lost
        with it, and a till that is only looked after would never come to 0.
        """
        marks = ",".join("?" * len(_COUNTED))
        with self._mutex:
            row = self._db.execute(
                f"SELECT count(DISTINCT id) FROM records WHERE kind IN ({marks}) "
                "AND sequence NOT IN (SELECT sequence FROM outcomes)",
                _COUNTED,
            ).fetchone()
        return int(row[0])

    def to_upload(self, states: Collection[State] | None) -> list[tuple[int, bool]]:
        """(number, whether sealed evidence goes with it) of every record that goes up by file, in
        sequence order: those of sales in these states, of voids and refunds that wait, and of no
        sale and without an answer. None: the whole chain."""
        names = [] if states is None else sorted(states)
        # A journal that no till has opened since is looked at as it is.
        known = self.about().get("schema")
        undos = "SELECT id FROM corrections WHERE state = 'waiting'"
        sealed = "SELECT id FROM acceptances WHERE evidence IS NOT NULL"
        if known == journal_file.WITHOUT_CORRECTIONS:
            undos = "SELECT NULL"
        if known != journal_file.FORMAT:
            sealed = "SELECT NULL"
        waiting = (
            f"""CASE
            WHEN kind IN ('redeem', 'reversal', 'accept_offline') THEN id IN
              (SELECT id FROM attempts WHERE state IN ({",".join("?" * len(names))}))
            WHEN kind IN ('void', 'refund') THEN id IN ({undos})
            ELSE sequence NOT IN (SELECT sequence FROM outcomes) END"""
            if states is not None
            else "1"
        )
        with self._mutex:
            rows = self._db.execute(
                f"SELECT sequence, kind IN ('redeem', 'accept_offline') AND id IN ({sealed}) "
                f"FROM records WHERE {waiting} ORDER BY sequence",
                names,
            ).fetchall()
        return [(sequence, bool(has)) for sequence, has in rows]

    def stopped_for(self) -> NotServed | None:
        """Why the ledger lets only people decide what this till sends, for good
        (docs/offline.md §9); None where it has not said so, or has let it in again."""
        told = self.about().get(STOPPED)
        if not told:
            return None
        # Verified when it was kept.
        return cast(NotServed, jws.peek(told, typ=jws.OUTCOME)[1]["reason"])

    def not_served_for(self) -> NotServed | None:
        """What a person is told: why the ledger does not serve this till, for good or, as it said
        last, while it is suspended."""
        suspended = self.about().get(SUSPENDED) == "yes"
        return self.stopped_for() or ("terminal_suspended" if suspended else None)

    def envelope_at(self, sequence: int, *, sealed: bool) -> dict[str, Any]:
        """A record as it travels, read without looking at its signature; with `sealed` its evidence
        goes with it, unless that is gone by now. Raises KeyError."""
        with self._mutex:
            row = self._db.execute(
                "SELECT jws, id FROM records WHERE sequence = ?", (sequence,)
            ).fetchone()
            if row is None:
                raise KeyError(sequence)
            evidence = self.evidence_of(row[1]) if sealed else None
        return record.envelope(str(row[0]), evidence=evidence)

    def _records(self, where: str, *values: object) -> list[Record]:
        with self._mutex:
            rows = self._db.execute(
                f"SELECT jws FROM records {where} ORDER BY sequence",
                values,
            ).fetchall()
        return [record.read(row[0], keys=self._keys) for row in rows]

    def answered(self) -> list[int]:
        """The numbers of records that have a final outcome, in order."""
        with self._mutex:
            return [
                row[0]
                for row in self._db.execute(
                    "SELECT DISTINCT sequence FROM outcomes WHERE result <> 'held' ORDER BY 1"
                )
            ]

    def digests(self, sequences: Collection[int]) -> dict[int, str]:
        """By number: the digest of the record."""
        marks = ", ".join("?" * len(sequences))
        with self._mutex:
            return dict(
                self._db.execute(
                    f"SELECT sequence, digest FROM records WHERE sequence IN ({marks})",
                    tuple(sequences),
                ).fetchall()
            )

    def digests_of(self, attempt_id: str, *kinds: record.Kind) -> set[str]:
        """Of an attempt's records of these kinds the digests."""
        marks = ",".join("?" * len(kinds))
        with self._mutex:
            rows = self._db.execute(
                f"SELECT digest FROM records WHERE id = ? AND kind IN ({marks})",
                (attempt_id, *kinds),
            ).fetchall()
        return {row[0] for row in rows}

    def evidence(self, sequence: int) -> list[tuple[str, str]]:
        """The record with this number, with each final outcome of it, oldest first."""
        with self._mutex:
            return self._db.execute(
                "SELECT records.jws, outcomes.jws FROM outcomes JOIN records USING (sequence) "
                "WHERE sequence = ? AND result <> 'held' ORDER BY n",
                (sequence,),
            ).fetchall()

    def is_decided(self, sequence: int) -> bool:
        """Whether the record with this number has a final outcome."""
        with self._mutex:
            row = self._db.execute(
                "SELECT 1 FROM outcomes WHERE sequence = ? AND result <> 'held'", (sequence,)
            ).fetchone()
        return row is not None

    def newest_start(self) -> int:
        """The number of the newest `start` record; 0 without one."""
        with self._mutex:
            row = self._db.execute(
                "SELECT coalesce(max(sequence), 0) FROM records WHERE kind = 'start'"
            ).fetchone()
        return int(row[0])

    def outcomes_of(self, sequence: int) -> list[str]:
        """The ledger's signed answers to one record, oldest first."""
        with self._mutex:
            return [
                row[0]
                for row in self._db.execute(
                    "SELECT jws FROM outcomes WHERE sequence = ? ORDER BY n", (sequence,)
                )
            ]

    def events_of(self, attempt_id: str) -> list[tuple[Event, datetime]]:
        """What happened to an attempt since its intent, and when; oldest first."""
        return self._events("attempt_events", attempt_id)

    def events_of_undo(self, undo_id: str) -> list[tuple[correction.Event, datetime]]:
        """What happened to a void or refund since its intent, and when; oldest first."""
        return self._events("correction_events", undo_id)

    def _events(self, table: str, an_id: str) -> list[tuple[Any, datetime]]:
        with self._mutex:
            rows = self._db.execute(
                f"SELECT event, at FROM {table} WHERE id = ? ORDER BY n", (an_id,)
            ).fetchall()
        return [(event, clock.from_text(at)) for event, at in rows]

    def newest_outcome(self) -> str | None:
        """The ledger's signed answer that came last."""
        with self._mutex:
            row = self._db.execute("SELECT jws FROM outcomes ORDER BY n DESC LIMIT 1").fetchone()
        return None if row is None else str(row[0])

    def print_jobs(self, receipt_no: str | None = None, *, queued: bool = False) -> list[PrintJob]:
        where = "WHERE receipt_no = ?" if receipt_no else "WHERE state = 'queued'" if queued else ""
        values = (receipt_no,) if receipt_no else ()
        with self._mutex:
            rows = self._db.execute(
                f"SELECT n, receipt_no, copy_no, slip, state FROM print_jobs {where} ORDER BY n",
                values,
            ).fetchall()
        return [PrintJob(n, no, copy, json.loads(slip), state) for n, no, copy, slip, state in rows]

    # ── sold without the ledger ────────────────────────────────────────────────────────────────

    def evidence_of(self, attempt_id: str) -> str | None:
        """The sealed token of an acceptance that has no final outcome yet."""
        with self._mutex:
            row = self._db.execute(
                "SELECT evidence FROM acceptances WHERE id = ?", (attempt_id,)
            ).fetchone()
        return None if row is None else row[0]

    def stored(self, programme: str) -> tuple[int, int]:
        """(minor units, count) of a programme's acceptances that have no final outcome."""
        found = [a for a in self._stored() if a.programme == programme]
        return sum(each.amount_minor for each in found), len(found)

    def stored_by_programme(self) -> dict[str, Kept]:
        """Of every programme of which something is stored: what, and since when."""
        with self._mutex:
            rows = self._db.execute(
                "SELECT programme, currency, count(*), sum(amount_minor), min(sequence), "
                "sum(state = 'held'), sum(state = 'accept_asked'), sum(state = 'accepted') "
                "FROM attempts WHERE state IN ('accepted', 'accept_asked', 'provisional', 'held') "
                "GROUP BY programme, currency"
            ).fetchall()
        return {
            programme: Kept(currency, count, minor, self.record_at(first).occurred_at, *states)
            for programme, currency, count, minor, first, *states in rows
        }

    def drawn_since(self, at: datetime) -> dict[str, int]:
        """By currency: minor units of allotments that attempts took, or may have taken, and that a
        ledger's word of `at` does not count yet."""
        with self._mutex:
            try:
                rows = self._db.execute(
                    "SELECT currency, sum(taken.amount_minor) FROM taken JOIN attempts USING (id) "
                    "WHERE (allotment > 0 OR is_later) AND (decided_at IS NULL OR decided_at > ?) "
                    "GROUP BY currency",
                    (clock.to_text(at),),
                ).fetchall()
            except sqlite3.OperationalError:
                # A journal that no till has opened since is looked at as it is.
                if self.about().get("schema") == journal_file.FORMAT:
                    raise
                return {}
        return dict(rows)

    def _stored(self) -> list[Attempt]:
        return self.attempts("accepted", "accept_asked", "provisional", "held")

    def beyond_of(self, beneficiary: str, programme: str, since: datetime) -> int:
        """Minor units that this till gave a beneficiary beyond a programme's allotments after
        `since`; what was not booked counts too, for the goods are gone."""
        with self._mutex:
            row = self._db.execute(
                "SELECT coalesce(sum(beyond_minor), 0) FROM acceptances JOIN attempts USING (id) "
                "WHERE beneficiary = ? AND programme = ? AND accepted_at > ?",
                (beneficiary, programme, clock.to_text(since)),
            ).fetchone()
        return int(row[0])

    def taken_of(self, voucher: str, but: str | None = None) -> list[Taken]:
        """What this till's attempts, `but` one, took or may have taken of a voucher."""
        return self._taken("voucher = ? AND id != ?", voucher, but or "")

    def taken_by(self, attempt_id: str) -> list[Taken]:
        """What one attempt took, or may have taken."""
        return self._taken("id = ?", attempt_id)

    def _taken(self, where: str, *values: object) -> list[Taken]:
        with self._mutex:
            rows = self._db.execute(
                "SELECT voucher, allotment, is_later, amount_minor, quantity, decided_at "
                f"FROM taken WHERE {where} ORDER BY id, voucher, allotment, is_later",
                values,
            ).fetchall()
        return [
            Taken(
                voucher,
                allotment,
                bool(later),
                minor,
                quantity,
                None if at is None else clock.from_text(at),
            )
            for voucher, allotment, later, minor, quantity, at in rows
        ]

    def returned_allotments(self) -> frozenset[tuple[str, int]]:
        """(voucher, number) of every allotment that this journal gave back."""
        with self._mutex:
            rows = self._db.execute("SELECT voucher, allotment FROM returned_allotments").fetchall()
        return frozenset((voucher, number) for voucher, number in rows)

    def wrong_pins(self, card: str) -> int:
        """How many wrong PINs in a row were tried at this till without a network."""
        with self._mutex:
            row = self._db.execute("SELECT wrong FROM pin_tries WHERE card = ?", (card,)).fetchone()
        return 0 if row is None else int(row[0])

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

    def _undos(self, where: str, *values: object) -> list[Undo]:
        with self._mutex:
            try:
                rows = self._db.execute(
                    "SELECT id, sequence, kind, original_terminal, original, sale_receipt_no, "
                    "state, programme, currency, amount_minor, beneficiary_minor, reference, slip "
                    f"FROM corrections {where} ORDER BY sequence",
                    values,
                ).fetchall()
            except sqlite3.OperationalError:
                # A journal that no till has opened since is looked at as it is.
                if self.about().get("schema") != journal_file.WITHOUT_CORRECTIONS:
                    raise
                return []
        return [Undo(*row[:-1], slip=json.loads(row[-1])) for row in rows]  # type: ignore[misc]
