"""Opening a ledger that heals: everything that was offered is booked again, then tills may go on.

Each piece in its own transaction, a few hundred in one step, so that whoever is killed in between
goes on where it stopped: what is stored is not booked twice. What does not fit yet is tried again
in the next turn; what never fits is a person's (docs/offline.md §12).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select

from carepos import clock, outcome, record
from carepos.acceptance import AcceptOffline
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.keys import KeySet, PublicKey, unb64
from carepos.outcome import Outcome
from carepos.record import Record, Redeem
from carepos_ledger import (
    evidence_rows,
    healing,
    restored_rows,
    schema,
    terminal_keys,
    told_allotments,
)
from carepos_ledger.actions import act
from carepos_ledger.book import Reached, pass_by
from carepos_ledger.database import Database
from carepos_ledger.healing import Progress
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.replay_book import ReplayBook, resolve_held
from carepos_ledger.replaying import Reason, Replayer, Told, Unplaced
from carepos_ledger.shelf import Command, Decided, Shelf

AT_ONCE: Final = 200
POINTS: Final = ("replayed", "turned", "opened")


class Opening:
    """Books what was offered. Safe to call from several threads; one at a time does."""

    def __init__(
        self, database: Database, keyring: Keyring, now: Clock, reached: Reached = pass_by
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now
        self._reached = reached
        self._one_at_a_time = threading.Lock()
        self._at = now()
        self._told: Mapping[str, Told] = {}
        self._book = ReplayBook(database, keyring, lambda: self._at, reached, self._replayer)

    def _replayer(self, shelf: Shelf, keyring: Keyring, now: datetime) -> Replayer:
        return Replayer(shelf, keyring, now, self._told)

    # ── opening ────────────────────────────────────────────────────────────────────────────────

    def not_reported(self) -> list[str]:
        """Tills that are not revoked and have not said in this epoch that they offered all."""
        table = schema.terminals.c
        with self._database.read() as connection:
            heard = evidence_rows.reports(connection, self._keyring.epoch)
            names = connection.scalars(
                select(table.terminal).where(table.status != "revoked").order_by(table.terminal_no)
            ).all()
        return [name for name in names if name not in heard or not heard[name].complete]

    def is_under_way(self) -> bool:
        """Whether the ledger heals still: what is offered waits then."""
        with self._database.read() as connection:
            return healing.read(connection) is not None

    def left(self) -> int:
        """How many pieces of evidence wait to be booked."""
        table = schema.heal_evidence.c
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).where(table.state == "staged")) or 0

    def step(self, *, early: bool, most: int = AT_ONCE) -> bool:
        """Go on with the opening, or begin it; whether the ledger is open now.

        Raises Problem not_reported while tills have not offered all that they have, unless it is
        `early`: what they bring later may find its voucher spent.
        """
        with self._one_at_a_time:
            with self._database.read() as connection:
                progress = healing.read(connection)
            if progress is None:
                return True
            if not progress.opening:
                missing = self.not_reported()
                if missing and not early:
                    raise Problem(
                        "not_reported",
                        f"{len(missing)} tills have not offered all that they have",
                        extra={"terminals": missing[:100]},
                    )
                progress = self._note(lambda held: replace(held, opening=True, early=bool(missing)))
            return self._go_on(progress, most)

    def _go_on(self, progress: Progress, most: int) -> bool:
        self._set_aside(told_allotments.known)
        with self._database.read() as connection:
            rows = evidence_rows.untried(connection, progress.turn, most)
        if rows:
            for row in rows:
                self._try(row, progress)
            return False
        if not self._moved(progress):
            # Last, for no sale needs it: what is set aside is not there for one of before.
            self._set_aside(told_allotments.staged)
        if self._moved(progress):
            self._note(lambda held: replace(held, turn=held.turn + 1, moved=0))
        elif progress.exactly:
            self._note(lambda held: replace(held, turn=held.turn + 1, moved=0, exactly=False))
        elif not self._make_room(most):
            return self._end(progress, most)
        self._reached("turned")
        return False

    def _make_room(self, most: int) -> bool:
        """Free what is past its date, as whoever wants it next would, before anything is given up:
        what found no room is tried once more then. Whether there was any."""
        now = self._now()

        def work(connection: Connection) -> bool:
            freed = told_allotments.reclaim(connection, now, most)
            held = healing.read(connection, for_update=True)
            if freed and held is not None:
                healing.write(connection, replace(held, turn=held.turn + 1, moved=0))
            return bool(freed)

        return act(self._database, work)

    def _moved(self, progress: Progress) -> bool:
        with self._database.read() as connection:
            return bool((healing.read(connection) or progress).moved)

    def _note(self, change: Callable[[Progress], Progress]) -> Progress:
        def work(connection: Connection) -> Progress:
            held = healing.read(connection, for_update=True)
            if held is None:
                raise Problem("try_again", "it was opened meanwhile")
            changed = change(held)
            healing.write(connection, changed)
            return changed

        return act(self._database, work)

    def _end(self, progress: Progress, most: int) -> bool:
        with self._database.read() as connection:
            left = evidence_rows.waiting(connection, most)
            aside = told_allotments.staged(connection, most)
        for row in left:
            self._give_up(row)
        for row in aside:
            act(self._database, partial(told_allotments.give_up, row=row))
        now = self._now()
        if left or aside:
            return False

        def work(connection: Connection) -> bool:
            if healing.read(connection, for_update=True) is None:
                return True
            if evidence_rows.waiting(connection, 1) or told_allotments.staged(connection, 1):
                return False  # somebody has offered more meanwhile
            restored_rows.place_all(connection)
            healing.write_report(connection, make_report(connection, progress, now))
            healing.write(connection, None)
            return True

        if not act(self._database, work):
            return False
        self._reached("opened")
        return True

    # ── one piece ──────────────────────────────────────────────────────────────────────────────

    def _try(self, row: Row[Any], progress: Progress) -> None:
        """Book it; else why not is noted, and it waits for the next turn."""
        reason = self._book_again(row, exactly=progress.exactly)

        def work(connection: Connection) -> None:
            if reason is None:
                evidence_rows.move(connection, row.n, "placed", reason=None)
                _note_moved(connection)
            else:
                evidence_rows.move(connection, row.n, "staged", tried=progress.turn, reason=reason)

        act(self._database, work)
        self._reached("replayed")

    def _give_up(self, row: Row[Any]) -> None:
        """Its id is used up, nothing is booked, a person looks at it."""
        reason = self._replay(row, gives_up=True)
        with self._database.write() as connection:
            evidence_rows.move(connection, row.n, "excepted", reason=row.reason or reason)

    def _book_again(self, row: Row[Any], *, exactly: bool, again: bool = False) -> Reason | None:
        """As `_replay`; what it draws on is set aside now, when it is known to have been."""
        reason = self._replay(row, exactly=exactly, again=again)
        if reason != "allotment_missing":
            return reason
        _, told = self._read(row)
        named = {state.voucher for state in told.vouchers}
        self._set_aside(partial(told_allotments.of_terminal, terminal=row.terminal, vouchers=named))
        return self._replay(row, exactly=exactly, again=again)

    def _replay(
        self,
        row: Row[Any],
        *,
        exactly: bool = True,
        gives_up: bool = False,
        again: bool = False,
    ) -> Reason | None:
        """Book one as it was decided; why it can't be."""
        try:
            written, told = self._read(row)
        except Malformed:
            return "signature_invalid"
        terminal = terminal_keys.find(self._database, written.kid)
        if terminal is None:
            return "signature_invalid"
        sale, reserve = self._about(written)
        self._told = {written.digest: Told(told, sale, reserve, exactly, gives_up, again)}
        self._at = told.recorded_at
        try:
            beside = [] if sale is None else [Command(sale, terminal, None)]
            answers = self._book.post([*beside, Command(written, terminal, None)])
        except Unplaced as error:
            return error.reason
        match answers[written.digest]:
            case Problem(code="signature_invalid"):
                return "signature_invalid"
            case Problem(code="in_flight") as problem:
                raise problem
            case Decided():
                with self._database.write() as connection:
                    booked = told.result in ("posted", "posted_short", "reversed")
                    resolve_held(
                        connection, row.bucket, row.digest, booked=booked, now=told.recorded_at
                    )
            case Problem():
                # The database's own checks did not let it through, however often it was tried.
                return "balance_insufficient"
        return None

    def _read(self, row: Row[Any]) -> tuple[Record, Outcome]:
        """Verified when it was offered, and again: rows are not believed. Raises Malformed."""
        text = bytes(row.record).decode("ascii")
        table = schema.terminal_keys.c
        with self._database.read() as connection:
            rows = connection.scalars(select(table.x).where(table.terminal == row.terminal)).all()
        own = KeySet(PublicKey(unb64(x)) for x in rows)
        written = record.read(text, keys=own)
        return written, outcome.read_bound(row.outcome, written, keys=self._keyring.keys.keys)

    def _about(self, written: Record) -> tuple[Record | None, int]:
        """Of an acceptance the sale, as far as it is known; and what the loss reserve of a sale's
        programme holds."""
        sale: Record | None = None
        with self._database.read() as connection:
            if isinstance(written.content, AcceptOffline):
                named = written.content.record_sha256
                text = evidence_rows.sale_text(connection, written.bucket, named)
                if text is not None:
                    sale = _sale_of(text, named)
            sold = sale or written
            if not isinstance(sold.content, Redeem):
                return sale, 0
            table = schema.programmes.c
            reserve = connection.scalars(
                select(table.loss_reserve_minor).where(table.programme == sold.redeem.programme)
            ).one_or_none()
            return sale, reserve or 0

    def _set_aside(self, which: told_allotments.Which) -> None:
        """Set aside what packs told of, as far as vouchers hold it."""
        now, after = self._now(), told_allotments.FIRST
        while True:
            with self._database.read() as connection:
                rows = which(connection, AT_ONCE, after)
            if not rows:
                return
            for row in rows:
                act(self._database, partial(_set_aside, row=row, now=now))
            after = (rows[-1].bucket, rows[-1].voucher, rows[-1].allotment)

    # ── what comes late ────────────────────────────────────────────────────────────────────────

    def place_late(self, terminal: str) -> None:
        """Book what a till brought after the opening, as far as it fits, and with it what only
        waited for that; the rest is excepted at once."""
        with self._one_at_a_time:
            self._set_aside(told_allotments.known)
            with self._database.read() as connection:
                rows = evidence_rows.late(connection, terminal, self._keyring.epoch)
            # One with a reason was being given up when that was cut short.
            waiting = self._place([row for row in rows if row.reason is None], exactly=True)
            self._set_aside(told_allotments.staged)
            for row in self._place(waiting, exactly=False):
                reason = self._replay(row, exactly=False)
                with self._database.write() as connection:
                    evidence_rows.move(connection, row.n, "staged", reason=reason)
            with self._database.read() as connection:
                rows_left = evidence_rows.late(connection, terminal, self._keyring.epoch)
            for row in rows_left:
                if row.reason is not None:
                    self._give_up(row)
            if rows:
                self._place_excepted()
            with self._database.read() as connection:
                aside = told_allotments.staged(connection, AT_ONCE)
            for row in aside:
                act(self._database, partial(told_allotments.give_up, row=row))
            act(self._database, restored_rows.place_all)

    def _place(self, rows: Sequence[Row[Any]], *, exactly: bool) -> Sequence[Row[Any]]:
        """Book these, again while any moves; those that do not fit."""
        while rows:
            left = [row for row in rows if not self._placed(row, exactly=exactly)]
            if len(left) == len(rows):
                break
            rows = left
        return rows

    def _placed(self, row: Row[Any], *, exactly: bool, again: bool = False) -> bool:
        reason = self._book_again(row, exactly=exactly, again=again)
        if reason is None:
            with self._database.write() as connection:
                evidence_rows.move(connection, row.n, "placed", reason=None)
        return reason is None

    def _place_excepted(self) -> None:
        """What was excepted only because something was missing that has come now."""
        with self._database.read() as connection:
            rows = evidence_rows.in_state(connection, "excepted")
        for row in rows:
            self._placed(row, exactly=False, again=True)


def _sale_of(text: str, sha256: str) -> Record | None:
    try:
        found = record.vouched_for(text, sha256=sha256)
    except Malformed:
        return None
    return found if isinstance(found.content, Redeem) else None


def _note_moved(connection: Connection) -> None:
    """Something was booked in this turn: what waited for it may fit in the next."""
    held = healing.read(connection, for_update=True)
    if held is not None and not held.moved:
        healing.write(connection, replace(held, moved=1))


def _set_aside(connection: Connection, row: Row[Any], now: datetime) -> None:
    if told_allotments.set_aside(connection, row, now):
        _note_moved(connection)


def make_report(connection: Connection, progress: Progress, now: datetime) -> dict[str, object]:
    """What the opening came to: counts and sums, and what a person has to look at."""
    table, aside = schema.heal_evidence.c, schema.heal_allotments.c
    restored = connection.execute(
        select(
            table.kind,
            table.result,
            table.currency,
            func.count().label("pieces"),
            func.sum(table.amount_minor).label("amount_minor"),
        )
        .where(table.state == "placed")
        .group_by(table.kind, table.result, table.currency)
    ).all()
    excepted = connection.execute(
        select(
            table.reason,
            table.currency,
            func.count().label("pieces"),
            func.sum(table.amount_minor).label("amount_minor"),
        )
        .where(table.state == "excepted")
        .group_by(table.reason, table.currency)
    ).all()
    allotted = {
        row.state: int(row.pieces)
        for row in connection.execute(
            select(aside.state, func.count().label("pieces")).group_by(aside.state)
        )
    }
    heard = evidence_rows.reports(connection, progress.epoch)
    tills = connection.scalars(select(schema.terminals.c.terminal)).all()
    return {
        "epoch": progress.epoch,
        "since": progress.since,
        "opened_at": clock.to_text(now),
        "early": progress.early,
        "restored": [_line(row, "kind", "result") for row in sorted(restored, key=_place)],
        "excepted": [_line(row, "reason") for row in sorted(excepted, key=_place)],
        "allotments": {name: allotted.get(name, 0) for name in ("placed", "excepted")},
        "not_reported": sorted(
            name for name in tills if name not in heard or not heard[name].complete
        ),
        "paid_not_booked": len(restored_rows.waiting(connection)),
    }


def _place(row: Row[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in row)


def _line(row: Row[Any], *names: str) -> dict[str, object]:
    return {
        **{name: getattr(row, name) for name in names},
        "currency": row.currency,
        "count": int(row.pieces),
        "amount_minor": int(row.amount_minor),
    }
