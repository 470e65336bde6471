"""The till's journal: what a till promised, written before anything leaves the machine.

One SQLite file (WAL, synchronous=FULL), one process that writes it. `records` is the signed chain
and is never changed; `attempts` is where each sale stands by the table of `attempt.py`, and
`corrections` each void and refund by that of `correction.py`, with every event that brought it
there. Each public write is one transaction and so one fsync.

A write that fails closes the journal: what the disk holds is then known only after a restart. But
for want of room: SQLite undoes that as it undoes any write, and once the disk's reserve was let go,
what ends a sale or the day is written at a second try.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast

from carepos import attempt as life
from carepos import (
    clock,
    correction,
    disk_room,
    durable,
    holding,
    ids,
    journal_file,
    jws,
    record,
    set_aside,
)
from carepos.acceptance import AcceptOffline, ReturnAllotment
from carepos.attempt import Event, Step, step
from carepos.clock import Clock
from carepos.errors import (
    JournalClosed,
    JournalCorrupt,
    JournalError,
    Malformed,
    NotWritten,
    Refused,
    WrongState,
)
from carepos.ids import RandomBytes
from carepos.journal_view import (
    LET_IN_AT,
    STOPPED,
    SUSPENDED,
    Attempt,
    JournalView,
    PrintJob,
    PrintState,
    Undo,
    Visit,
)
from carepos.keys import KeySet, PublicKey, SigningKey
from carepos.offline import Plan
from carepos.offline_rule import Liability
from carepos.outcome import Outcome
from carepos.record import Content, DayReport, KeyChange, Record, Redeem, Reversal, Start
from carepos.refusals import Refusal
from carepos.set_aside import Taken
from carepos.signers import Signers
from carepos.token import VISIT
from carepos.undo import Refund, Void
from carepos.voucher import Terms

VISITS_KEPT = timedelta(days=2)
"""How long a first use is remembered, long after its token has expired (docs/identity.md §5)."""

SLIPS_KEPT = timedelta(days=180)
"""How long a receipt can be shown and printed again: as long as a sale may be disputed."""


P = ParamSpec("P")
T = TypeVar("T")

_DECIDED = frozenset({"posted", "refused", "reversed", "exception"})
"""What ends an attempt that was sent while the ledger answered."""


@dataclass(frozen=True, slots=True)
class Accepting:
    """How a sale leaves without the ledger's word: under which pack, what it draws on, who bears
    the loss. `seal` makes the evidence of an attempt's id (docs/offline.md §7)."""

    pack_sha256: str
    plan: Plan
    liability: Liability
    seal: Callable[[str], str]


def _also_from_the_reserve(
    write: Callable[Concatenate[Journal, P], T],
) -> Callable[Concatenate[Journal, P], T]:
    """A write that ends something: where it finds no room it is made once more, for by then the
    reserve was let go. No new sale may take from that."""

    @wraps(write)
    def made(self: Journal, /, *args: P.args, **named: P.kwargs) -> T:
        try:
            return write(self, *args, **named)
        except NotWritten:
            return write(self, *args, **named)

    return made


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
        follow: Callable[[datetime, datetime], datetime],
        failed: Callable[[Exception], None],
        random_bytes: RandomBytes,
    ) -> None:
        super().__init__(connection, KeySet([*former, key.public]))
        self._follow = follow
        self._failed = failed
        self._lock_file = lock_file
        self._key = key
        self._terminal = terminal
        self._now = now
        self._random_bytes = random_bytes
        self._closed: str | None = None
        self.on_written: Callable[[], None] = lambda: None
        """Called after every write, once it is on the disk; must not wait, nor call back."""
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
        follow: Callable[[datetime, datetime], datetime] = max,
        failed: Callable[[Exception], None] = lambda error: None,
        random_bytes: RandomBytes = os.urandom,
    ) -> Journal:
        """Open or make the journal, recover it, and write a `start` record.

        `former`: keys that signed earlier records of this terminal. `follow`: the time of a record
        at `now`, behind one of a time; the default never goes back. `failed` is told what closes
        the journal.
        After this every attempt that was `open` or `unknown` is `interrupted`.
        Raises JournalLocked when another process has it, JournalCorrupt when the chain does not
        hold or it is another terminal's, JournalError when the file can't be used as wanted.
        """
        lock_file = journal_file.lock(path.with_name(path.name + ".lock"))
        try:
            durable.private(path)
            connection = journal_file.connect(path)
            journal = cls(
                connection,
                lock_file,
                key=key,
                former=former,
                terminal=terminal,
                now=now,
                follow=follow,
                failed=failed,
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

    @property
    def is_closed(self) -> bool:
        """Whether a write failed, so that only a restart opens it again, or it was closed."""
        return self._closed is not None

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
            if journal_file.is_empty(self._db):
                self._make()
            meta = dict(self._db.execute("SELECT name, value FROM meta"))
            journal_file.bring_up(self._db, meta.get("schema"))
            if meta.get("terminal") != self._terminal:
                raise JournalCorrupt("the journal belongs to another terminal")
            self.incarnation = meta.get("incarnation", "")
            self.sequence, self._head = self._check_chain()
            self._append(Start(software), self._own_id())
            for attempt in self.attempts(
                "open", "unknown", "interrupted", "accepted", "accept_asked"
            ):
                self._move(attempt, "restart")
            for undo in self.undos("waiting"):
                self._move_undo(undo, "restart")
            self._forget_visits()
            # A job that was being sent when the till stopped may or may not be on paper.
            self._db.execute(
                "UPDATE print_jobs SET state = 'unknown', ended_at = ? WHERE state = 'printing'",
                (self._at(),),
            )

    def _make(self) -> None:
        about = {
            "terminal": self._terminal,
            "incarnation": ids.new_incarnation(self._random_bytes),
            "created_at": self._at(),
        }
        journal_file.make(self._db, about)

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
        terms: Mapping[str, Terms] | None = None,
        taken: Iterable[Taken] = (),
        accepting: Accepting | None = None,
    ) -> tuple[Attempt, Record]:
        """Write the intent of one attempt: its id, its signed record, its visit. One fsync.

        `slip` makes the receipt's JSON object (with its `receipt_no`) from the record; `terms` are
        those of its item and fixed-price vouchers, kept for a refund; `taken` what it may draw on.
        With `accepting` it is accepted offline in the same write, and `slip` is queued. Raises
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
            self._db.executemany(
                "INSERT INTO sold_terms VALUES (?, ?, ?)",
                [(an_id, of, _to_json(each.to_json())) for of, each in (terms or {}).items()],
            )
            self._insert_taken(an_id, taken)
            if accepting is not None:
                self._move(attempt, "accept_chosen")
                self._accept(attempt, written, accepting, attempt.slip)
        return self.attempt(an_id), written

    @_also_from_the_reserve
    def advance(
        self,
        attempt_id: str,
        event: Event,
        *,
        outcome: Outcome | None = None,
        slip: dict[str, Any] | None = None,
        accepting: Accepting | None = None,
    ) -> Attempt:
        """Apply one event of the table, with the outcome that brought it. One fsync.

        `slip` replaces the one made with the intent; entering `confirmed` or `accepted` queues the
        receipt; a row that writes a reversal or an acceptance (then `accepting`) writes it here,
        one that writes a void is `write_undo`'s. Raises WrongState, JournalClosed.
        """
        with self._transaction():
            before = self.attempt(attempt_id)
            if outcome is not None:
                self._keep(before, outcome)
            taken = self._move(before, event)
            if taken.writes == "accept_offline":
                assert accepting is not None
                self._accept(before, self.record_of(before), accepting, slip or before.slip)
            elif taken.writes == "void":
                raise WrongState(before.state, event)
            elif taken.writes is not None:
                original = self.record_of(before)
                reversal = Reversal(original.digest, taken.writes)
                self._append(reversal, before.id, choice="undo")
            if slip is not None:
                # Also when the cashier is asked first: the receipt she releases is this one.
                self._db.execute(
                    "UPDATE attempts SET slip = ? WHERE id = ?", (_to_json(slip), attempt_id)
                )
            if taken.to == "confirmed" and before.state not in life.STORED:
                shown = slip or before.slip
                self._queue(str(shown["receipt_no"]), 0, shown)
        return self.attempt(attempt_id)

    def _accept(
        self, of: Attempt, redeem: Record, accepting: Accepting, slip: dict[str, Any]
    ) -> None:
        """Within the caller's transaction: the acceptance, its evidence, what it draws on, and the
        PROVISIONAL slip."""
        plan = accepting.plan
        content = AcceptOffline(
            redeem.digest, accepting.liability, accepting.pack_sha256, tuple(plan.use)
        )
        written = self._append(content, of.id)
        self._db.execute(
            "INSERT INTO acceptances VALUES (?, ?, ?, ?, ?, ?)",
            (
                of.id,
                written.sequence,
                redeem.redeem.beneficiary,
                clock.to_text(written.occurred_at),
                plan.beyond_minor,
                accepting.seal(of.id),
            ),
        )
        self._insert_taken(of.id, set_aside.planned(plan))
        self._queue(str(slip["receipt_no"]), 0, slip)

    def write_return(self, content: ReturnAllotment, *, bucket: int) -> Record:
        """Give allotments back: from here on nothing is taken of them. One fsync."""
        with self._transaction():
            an_id = ids.new_attempt_id(bucket, self._now(), self._random_bytes)
            written = self._append(content, an_id)
            self._db.executemany(
                "INSERT INTO returned_allotments VALUES (?, ?, ?)",
                [(voucher, number, written.sequence) for voucher, number in content.allotments],
            )
            return written

    def pin_tried(self, card: str, *, right: bool) -> int:
        """Count a PIN that was tried without a network; wrong ones since the last right one."""
        with self._transaction():
            if right:
                self._db.execute("DELETE FROM pin_tries WHERE card = ?", (card,))
                return 0
            self._db.execute(
                "INSERT INTO pin_tries VALUES (?, 1, ?) ON CONFLICT (card) "
                "DO UPDATE SET wrong = wrong + 1, last_at = excluded.last_at",
                (card, self._at()),
            )
            return self.wrong_pins(card)

    @_also_from_the_reserve
    def write_undo(
        self,
        content: Void | Refund,
        *,
        sale_receipt_no: str,
        programme: str,
        currency: str,
        amount_minor: int,
        beneficiary_minor: int,
        slip: Callable[[Record], dict[str, Any]],
        reference: str | None = None,
        sale_event: Event | None = None,
    ) -> tuple[Undo, Record]:
        """Write the intent of a void or refund: its own id in the sale's bucket, its signed record,
        and `slip`, as of an attempt. One fsync.

        `sale_event`: what happens to the sale with it, as the goods of an acceptance that stayed.
        Raises JournalError when another one of the sale waits, WrongState, JournalClosed.
        """
        original = content.original
        with self._transaction():
            if sale_event is not None:
                sale = self.attempt(original.id)
                if self._move(sale, sale_event).writes != "void":
                    raise WrongState(sale.state, sale_event)
                self._do_not_print(str(sale.slip["receipt_no"]))
            bucket = ids.bucket_of(original.id)
            an_id = ids.new_attempt_id(bucket, self._now(), self._random_bytes)
            written = self._append(content, an_id)
            kind: correction.Kind = "void" if isinstance(content, Void) else "refund"
            self._db.execute(
                "INSERT INTO corrections VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?, ?, ?, ?, ?, ?)",
                (
                    an_id,
                    written.sequence,
                    kind,
                    original.terminal,
                    original.id,
                    sale_receipt_no,
                    programme,
                    currency,
                    amount_minor,
                    beneficiary_minor,
                    reference,
                    _to_json(slip(written)),
                ),
            )
        return self.undo(an_id), written

    @_also_from_the_reserve
    def advance_undo(
        self,
        undo_id: str,
        event: correction.Event,
        *,
        outcome: Outcome | None = None,
        slip: dict[str, Any] | None = None,
    ) -> Undo:
        """Apply one event of `correction.TABLE`, with the outcome that brought it. One fsync.

        Entering `posted` queues its slip (`slip`, else the one made with the intent), and with it a
        void makes its sale `voided`. Raises WrongState, JournalClosed.
        """
        with self._transaction():
            before = self.undo(undo_id)
            if outcome is not None:
                self._insert_outcome(before.sequence, outcome)
            taken = self._move_undo(before, event)
            if taken.to == "posted":
                shown = slip or before.slip
                self._db.execute(
                    "UPDATE corrections SET slip = ? WHERE id = ?", (_to_json(shown), undo_id)
                )
                number = str(shown["receipt_no"])
                if before.kind == "void":
                    sale = self.attempt(before.original)
                    self._move(sale, "void_posted")
                    # Written before it was booked, perhaps in part.
                    self._db.execute(
                        "UPDATE corrections SET amount_minor = ? WHERE id = ?",
                        (sale.amount_minor, undo_id),
                    )
                    # A receipt that was not printed yet says REDEEMED: it must not be any more.
                    self._do_not_print(number)
                self._queue(number, self._next_slip(number), shown)
        return self.undo(undo_id)

    @_also_from_the_reserve
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

    def note(self, name: str, value: str) -> None:
        """Keep a value under a name beside what the journal is `about`. One fsync."""
        with self._transaction():
            self._note(name, value)

    def keep_held(self, outcome: Outcome) -> None:
        """Keep that the ledger holds a record that is no attempt's, as far as it says that it holds
        for good what this till sends (`stopped_for`); the record waits for its answer all the same.
        One fsync where that is news."""
        if self._is_stop(outcome):
            with self._transaction():
                self._note(STOPPED, outcome.jws)

    def note_suspended(self, is_suspended: bool) -> None:
        """Note whether the ledger has just said that this till is suspended. One fsync where that
        is news."""
        if is_suspended != (self.about().get(SUSPENDED) == "yes"):
            self.note(SUSPENDED, "yes" if is_suspended else "no")

    def let_in(self, at: datetime) -> None:
        """The ledger has answered a read at `at` (its clock), which it does to no till that it
        stopped: what it said before of that is over. One fsync where that is news."""
        if self.stopped_for() is not None and self._stopped_at() < clock.to_text(at):
            with self._transaction():
                self._note(STOPPED, "")
                self._note(LET_IN_AT, clock.to_text(at))

    @_also_from_the_reserve
    def keep_outcome(self, written: Record, outcome: Outcome) -> None:
        """Keep the outcome of a record that is no attempt's (`record.PLAIN`). One fsync."""
        with self._transaction():
            self._insert_outcome(written.sequence, outcome)

    def queue_copy(self, receipt_no: str) -> PrintJob:
        """Queue a reprint, marked COPY, of a receipt that was printed before. Raises KeyError."""
        with self._transaction():
            # The newest slip that is no copy: of a sale that was voided the one that says so.
            row = self._db.execute(
                "SELECT slip FROM print_jobs WHERE receipt_no = ? "
                "AND NOT coalesce(json_extract(slip, '$.is_copy'), 0) "
                "ORDER BY copy_no DESC LIMIT 1",
                (receipt_no,),
            ).fetchone()
            if row is None:
                raise KeyError(receipt_no)
            slip = json.loads(row[0])
            if slip.get("kind") == "PROVISIONAL":
                # By now the ledger may have booked it.
                sale = self.attempt_at(ids.parse_receipt_no(receipt_no)[1])
                slip = slip if sale is None or sale.slip.get("forgotten") else sale.slip
            slip = {**slip, "is_copy": True}
            self._queue(receipt_no, self._next_slip(receipt_no), slip)
        return self.print_jobs(receipt_no)[-1]

    @_also_from_the_reserve
    def print_started(self, n: int) -> None:
        """Mark that bytes may now reach paper: a crash from here leaves the job `unknown`."""
        with self._transaction():
            self._db.execute("UPDATE print_jobs SET state = 'printing' WHERE n = ?", (n,))

    @_also_from_the_reserve
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
        """One durable transaction. A failure of the disk closes the journal for good; where there
        was no room, it is undone and nothing else happened."""
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
                self._roll_back(head)
                if self._closed is None and disk_room.found_no_room(error) and self._stands(head):
                    self._failed(error)
                    raise NotWritten(f"there was no room for it on the disk ({error})") from error
                self._closed = f"a write failed: {error}"
                self._failed(error)
                raise JournalClosed(f"{self._closed}; restart the till") from error
            except BaseException:
                self._roll_back(head)
                raise
            self.on_written()

    def _stands(self, head: tuple[int, str]) -> bool:
        """Whether what SQLite reads is the journal as it was at `head`."""
        try:
            return self._check_chain() == head
        except (sqlite3.Error, JournalCorrupt):
            return False

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
            occurred_at=self._next_time(),
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

    def _next_time(self) -> datetime:
        last = self._db.execute(
            "SELECT occurred_at FROM records WHERE sequence = ?", (self.sequence,)
        ).fetchone()
        now = self._now()
        return now if last is None else self._follow(now, clock.from_text(last[0]))

    def _move(self, attempt: Attempt, event: Event) -> Step:
        taken = step(attempt.state, event)
        if taken.to != attempt.state:
            self._db.execute("UPDATE attempts SET state = ? WHERE id = ?", (taken.to, attempt.id))
        self._db.execute(
            "INSERT INTO attempt_events (id, event, before, after, at) VALUES (?, ?, ?, ?, ?)",
            (attempt.id, event, attempt.state, taken.to, self._at()),
        )
        return taken

    def _move_undo(self, undo: Undo, event: correction.Event) -> correction.Step:
        taken = correction.step(undo.state, event)
        if taken.to != undo.state:
            self._db.execute("UPDATE corrections SET state = ? WHERE id = ?", (taken.to, undo.id))
        self._db.execute(
            "INSERT INTO correction_events (id, event, before, after, at) VALUES (?, ?, ?, ?, ?)",
            (undo.id, event, undo.state, taken.to, self._at()),
        )
        return taken

    def _keep(self, attempt: Attempt, outcome: Outcome) -> None:
        kind = outcome.kind
        if kind is None:
            return  # a signed not_found answers no record
        about = self.record_of(attempt, cast(record.Kind, kind))
        self._insert_outcome(about.sequence, outcome)
        # Of a sale that was accepted offline the acceptance's outcome says what became of it.
        if attempt.state in life.STORED:
            is_decided = kind == "accept_offline" and outcome.result != "held"
        else:
            is_decided = kind == "redeem" and outcome.result in _DECIDED
        if is_decided:
            self._decide(attempt, outcome)

    def _decide(self, attempt: Attempt, outcome: Outcome) -> None:
        """What it took is known from here on; and the evidence has served."""
        before = self.taken_by(attempt.id)
        self._insert_taken(attempt.id, set_aside.actual(before, outcome) if before else ())
        if outcome.kind == "accept_offline":
            self._db.execute("UPDATE acceptances SET evidence = NULL WHERE id = ?", (attempt.id,))
            if outcome.result in ("posted", "posted_short"):
                paid = attempt.amount_minor
                if outcome.liability == "merchant":
                    paid = outcome.amount_minor
                self._db.execute(
                    "UPDATE attempts SET amount_minor = ? WHERE id = ?", (paid, attempt.id)
                )

    def _insert_taken(self, attempt_id: str, taken: Iterable[Taken]) -> None:
        """Instead of what was noted of this attempt before."""
        self._db.execute("DELETE FROM taken WHERE id = ?", (attempt_id,))
        self._db.executemany(
            "INSERT INTO taken VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    attempt_id,
                    each.voucher,
                    each.allotment,
                    int(each.is_later),
                    each.amount_minor,
                    each.quantity,
                    None if each.decided_at is None else clock.to_text(each.decided_at),
                )
                for each in taken
            ],
        )

    def _do_not_print(self, receipt_no: str) -> None:
        self._db.execute(
            "UPDATE print_jobs SET state = 'failed', ended_at = ? "
            "WHERE receipt_no = ? AND state = 'queued'",
            (self._at(), receipt_no),
        )

    def _note(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _is_stop(self, outcome: Outcome) -> bool:
        """Whether it stops this till, newly or for the reason that goes before the one noted."""
        reasons, before = holding.FOR_GOOD, self.stopped_for()
        if outcome.reason not in reasons:
            return False
        if before is not None and reasons.index(before) <= reasons.index(outcome.reason):
            return False
        # What was held before has that answer also when it is sent again after the till was let in.
        return clock.to_text(outcome.recorded_at) > self.about().get(LET_IN_AT, "")

    def _stopped_at(self) -> str:
        told = self.about().get(STOPPED)
        return str(jws.peek(told, typ=jws.OUTCOME)[1]["recorded_at"]) if told else ""

    def _insert_outcome(self, sequence: int, outcome: Outcome) -> None:
        if self._is_stop(outcome):
            self._note(STOPPED, outcome.jws)
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

    def _next_slip(self, receipt_no: str) -> int:
        """The `copy_no` of this number's next slip: 0 where it has none yet."""
        found: int = self._db.execute(
            "SELECT coalesce(max(copy_no) + 1, 0) FROM print_jobs WHERE receipt_no = ?",
            (receipt_no,),
        ).fetchone()[0]
        return found

    def _forget_visits(self) -> int:
        # What could still be presented is younger than a quarter of an hour.
        before = clock.to_text(self._now() - VISITS_KEPT)
        self._db.execute("DELETE FROM pin_tries WHERE last_at < ?", (before,))
        return self._db.execute("DELETE FROM visits WHERE first_at < ?", (before,)).rowcount

    def _forget_slips(self, slips_kept: timedelta) -> int:
        before = clock.to_text(self._now() - slips_kept)
        # Goods, balances and the family's reference of this shop; the record has its own copy of
        # what was sold, which the chain needs.
        slips = sum(
            self._db.execute(
                f"UPDATE {table} SET slip = json_object('forgotten', json('true'), "
                "'receipt_no', json_extract(slip, '$.receipt_no')) "
                f"WHERE state IN ({','.join('?' * len(over))}) "
                "AND json_extract(slip, '$.forgotten') IS NULL "
                "AND sequence IN (SELECT sequence FROM records WHERE occurred_at < ?)",
                (*over, before),
            ).rowcount
            for table, over in (
                ("attempts", ("confirmed", "refused", "reversed", "voided", "short")),
                ("corrections", ("posted", "refused")),
            )
        )
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


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
