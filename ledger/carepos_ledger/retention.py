"""What has served its purpose goes, a little at a time (docs/privacy.md says what and when).

A step is a slice of buckets, in transactions of at most `MAX_ROWS` rows, so that postings hardly
wait. Nothing that money or an answer needs is touched: ids, outcomes, postings and entries stay for
ever (INV-1, INV-2). A step may be repeated; one that never came is made up by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    delete,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    tuple_,
    update,
)

from carepos import clock, strict_json
from carepos.clock import Clock
from carepos.ids import BUCKETS
from carepos.voucher import Programme
from carepos_ledger import schema
from carepos_ledger.actions import act
from carepos_ledger.book import read_programmes
from carepos_ledger.database import Database
from carepos_ledger.erasure import lock_programmes
from carepos_ledger.revoking import Revoking

VISITS_KEPT: Final = timedelta(days=2)
"""A `once` token lives 15 minutes and a presentation 5: a day later neither can come again
(docs/identity.md §5). The other day is for clocks."""
ACTIVATIONS_KEPT: Final = timedelta(days=30)
"""How long a code that can't be used any more is told from one that never was."""
PACKS_KEPT: Final = timedelta(days=7)
"""A till asks for a pack every day; what it holds is on its own disk."""
STEP_BUCKETS: Final = 128
MAX_ROWS: Final = 1_000

_Where = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Step:
    """Rows deleted (or due) by table; `next_bucket` is None after the last step."""

    tables: dict[str, int]
    next_bucket: int | None

    def to_json(self) -> dict[str, object]:
        return {"tables": self.tables, "next_bucket": self.next_bucket}


class Retention:
    """Deletes what is past its time. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock, dispute_days: int) -> None:
        self._database = database
        self._now = now
        self._dispute = timedelta(days=dispute_days)

    def step(self, from_bucket: int, *, dry_run: bool = False) -> Step:
        """One slice of buckets; with the last, what lies in no bucket. Raises Malformed."""
        low = strict_json.integer(from_bucket, "from_bucket", high=BUCKETS - 1)
        high = min(low + STEP_BUCKETS, BUCKETS)
        now = self._now()
        closed = self._closed(now)
        found = self._of_buckets(low, high, now, closed, dry_run)
        if high < BUCKETS:
            return Step(found, high)
        found |= self._of_no_bucket(now, closed, dry_run)
        if not dry_run:
            self._database.clear_log()
        return Step(found, None)

    def _closed(self, now: datetime) -> list[str]:
        """Programmes that ended longer ago than anybody may complain."""
        with self._database.read() as connection:
            programmes = read_programmes(connection)
        return [each.programme for each in programmes if each.ends_at < now - self._dispute]

    def _of_buckets(
        self, low: int, high: int, now: datetime, closed: list[str], dry_run: bool
    ) -> dict[str, int]:
        used_up = clock.to_text(now - VISITS_KEPT)
        settled = clock.to_text(now - self._dispute)
        with self._database.read() as connection:
            programmes = read_programmes(connection)
        visits, pin_visits, acted = schema.visits, schema.pin_visits, schema.acted
        due: list[tuple[Table, _Where]] = [
            (visits, visits.c.first_at < used_up),
            (pin_visits, pin_visits.c.proved_at < used_up),
            (schema.disputes, schema.disputes.c.answered_at < settled),
            (schema.record_bytes, _past_dispute(settled) & not_(_refundable(programmes, now))),
            # Who decided what; what nobody has decided stays.
            (schema.held_records, schema.held_records.c.resolved_at < settled),
            (acted, acted.c.programme.in_(closed)),
            (schema.beneficiaries, _only_in(closed)),
            (schema.cards, _without_person(schema.cards)),
            (schema.holder_marks, _without_person(schema.holder_marks)),
            (schema.homes, _without_person(schema.homes)),
        ]
        return {
            table.name: self._delete(table, table.c.bucket.between(low, high - 1) & where, dry_run)
            for table, where in due
        }

    def _of_no_bucket(self, now: datetime, closed: list[str], dry_run: bool) -> dict[str, int]:
        if closed and not dry_run:
            act(self._database, lambda connection: _forget_lists(connection, closed, now))
        codes, issues, actors = schema.activations, schema.issues, schema.actors
        sessions, packs = schema.holder_sessions, schema.pack_files
        found = {
            table.name: self._delete(table, where, dry_run)
            for table, where in (
                (issues, issues.c.programme.in_(closed)),
                (actors, actors.c.programme.in_(closed)),
                (schema.enrolments, _without_person(schema.enrolments)),
                (codes, codes.c.expires_at < clock.to_text(now - ACTIVATIONS_KEPT)),
                (sessions, sessions.c.opened_at < clock.to_text(now - VISITS_KEPT)),
                (packs, packs.c.made_at < clock.to_text(now - PACKS_KEPT)),
            )
        }
        found["revocations"] = self._revocations(now, dry_run)
        return found

    def _revocations(self, now: datetime, dry_run: bool) -> int:
        if not dry_run:
            return Revoking(self._database, lambda: now).forget_expired()
        table = schema.revocations.c
        with self._database.read() as connection:
            return _count(
                connection,
                schema.revocations,
                (table.kind == "token") & (table.until <= clock.to_text(now)),
            )

    def _delete(self, table: Table, where: _Where, dry_run: bool) -> int:
        with self._database.read() as connection:
            due = _count(connection, table, where)
        if dry_run or not due:
            return due
        gone = 0
        while count := act(self._database, _deleting(table, where)):
            gone += count
        return gone


def _deleting(table: Table, where: _Where) -> Callable[[Connection], int]:
    key = list(table.primary_key)

    def work(connection: Connection) -> int:
        if table is schema.beneficiaries:
            # Nobody is issued a new voucher while it is judged that all of theirs are over.
            lock_programmes(connection)
        first = select(*key).where(where).order_by(*key).limit(MAX_ROWS)
        return connection.execute(delete(table).where(tuple_(*key).in_(first))).rowcount

    return work


def _forget_lists(connection: Connection, closed: list[str], now: datetime) -> None:
    """Before the rows go: from now on nothing is issued there, where it might be twice."""
    lock_programmes(connection)
    table = schema.programmes
    connection.execute(
        update(table)
        .where(table.c.programme.in_(closed), table.c.list_forgotten_at.is_(None))
        .values(list_forgotten_at=clock.to_text(now))
    )


def _past_dispute(settled: str) -> _Where:
    """Signed bytes of records decided before `settled`; of a sale or what took one back, once it
    was also paid before and no dispute about the sale is kept."""
    kept, records = schema.record_bytes.c, schema.records.c
    postings, batched, batches = schema.postings.c, schema.batch_postings.c, schema.batches.c
    posted = exists().where(postings.bucket == kept.bucket, postings.posting == kept.digest)
    paid = exists().where(
        batched.bucket == kept.bucket,
        batched.posting == kept.digest,
        batches.merchant == batched.merchant,
        batches.programme == batched.programme,
        batches.batch_no == batched.batch_no,
        batches.closed_at < settled,
    )
    decided = exists().where(
        records.bucket == kept.bucket,
        records.digest == kept.digest,
        records.recorded_at < settled,
    )
    disputes, about = schema.disputes.c, schema.postings.alias("about")
    disputed = exists().where(
        disputes.bucket == kept.bucket,
        about.c.bucket == kept.bucket,
        about.c.posting == kept.digest,
        disputes.posting.in_([about.c.posting, about.c.original]),
    )
    return and_(decided, or_(not_(posted), and_(paid, not_(disputed))))


def _refundable(programmes: Sequence[Programme], now: datetime) -> _Where:
    """Signed bytes of sales that may come back still, line by line: a refund is judged by them."""
    kept, postings = schema.record_bytes.c, schema.postings.c
    open_since = [
        and_(
            postings.programme == each.programme,
            postings.recorded_at > clock.to_text(now - timedelta(seconds=each.refunds.window_s)),
        )
        for each in programmes
        if each.refunds is not None
    ]
    if not open_since:
        return false()
    return exists().where(
        postings.bucket == kept.bucket,
        postings.posting == kept.digest,
        postings.kind == "redeem",
        or_(*open_since),
    )


def _only_in(closed: list[str]) -> _Where:
    """People all of whose vouchers are of closed programmes."""
    people, vouchers = schema.beneficiaries.c, schema.vouchers.c
    return not_(
        exists().where(
            vouchers.bucket == people.bucket,
            vouchers.beneficiary == people.beneficiary,
            vouchers.programme.not_in(closed),
        )
    )


def _without_person(table: Table) -> _Where:
    people = schema.beneficiaries.c
    return not_(
        exists().where(people.bucket == table.c.bucket, people.beneficiary == table.c.beneficiary)
    )


def _count(connection: Connection, table: Table, where: Any) -> int:
    return int(connection.scalar(select(func.count()).select_from(table).where(where)) or 0)
