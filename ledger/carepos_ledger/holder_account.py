"""What a beneficiary holds and what was used, derived from the book (docs/identity.md §12).

Nothing is kept twice: what is left is the voucher's row, which every posting holds against its
entries; what was used are postings, entries and lines. One read, one snapshot.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, func, select

from carepos import clock, ids
from carepos.voucher import Terms
from carepos_ledger import accounts, schema, uses
from carepos_ledger.database import Database

VoucherState = Literal["good", "frozen", "not_yet", "over", "paused", "used_up"]


@dataclass(frozen=True, slots=True)
class Held:
    """One voucher. A value voucher counts minor units of `currency`; one with `terms` counts their
    unit. `issued` − `used` = `left`; what was reversed is not used."""

    voucher: str
    label: str
    programme_name: str
    currency: str
    terms: Terms | None
    issued: int
    used: int
    left: int
    starts_at: datetime
    expires_at: datetime
    state: VoucherState
    stopped_at: datetime | None
    categories: tuple[str, ...]
    stores: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What was used of one category: minor units that the programme paid and that the beneficiary
    paid as own part; `quantity` of `unit` where a voucher counts goods, else 0 and None."""

    category: str
    quantity: int
    unit: str | None
    programme_minor: int
    beneficiary_minor: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of "I did not buy this"."""

    reason: str
    state: str
    opened_at: datetime
    answered_at: datetime | None
    sentence: str | None


@dataclass(frozen=True, slots=True)
class Use:
    """One redemption. `n` is its number in the feed, None while it has none; `way` and `reason`
    say who acted for the beneficiary, if somebody did."""

    posting: str
    n: int | None
    receipt_no: str
    store_name: str
    programme_name: str
    currency: str
    amount_minor: int
    occurred_at: datetime
    recorded_at: datetime
    reversed_at: datetime | None
    way: str | None
    reason: str | None
    dispute: Answer | None
    parts: tuple[Part, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Account:
    """Vouchers, the usable first; uses, the latest first."""

    vouchers: tuple[Held, ...]
    uses: tuple[Use, ...]


class HolderAccounts:
    """Reads accounts; `now` says which vouchers have begun or ended."""

    def __init__(self, database: Database, now: clock.Clock) -> None:
        self._database = database
        self._now = now

    def read(self, bucket: int, beneficiary: str) -> Account:
        now = self._now()
        with self._database.read() as connection:
            rows = _voucher_rows(connection, bucket, beneficiary)
            found = _uses(connection, bucket, beneficiary)
            vouchers = [_held(row, now, connection, bucket, found) for row in rows]
        vouchers.sort(key=lambda each: (each.state != "good", each.expires_at, each.voucher))
        return Account(
            tuple(vouchers),
            tuple(
                sorted(
                    (use for use, _ in found),
                    key=lambda use: (use.recorded_at, use.occurred_at, use.posting),
                    reverse=True,
                )
            ),
        )


def of_holder(bucket: int, beneficiary: str) -> ColumnElement[bool]:
    """Which postings are redemptions of this beneficiary's vouchers: a condition on `postings`."""
    postings, lines, vouchers = schema.postings.c, schema.lines.c, schema.vouchers.c
    mine = select(vouchers.voucher).where(
        vouchers.bucket == bucket, vouchers.beneficiary == beneficiary
    )
    # Whatever the query around reads, these two are about these tables alone.
    touched = (
        select(lines.posting)
        .where(lines.bucket == bucket, lines.voucher.in_(mine.correlate(None)))
        .correlate(None)
    )
    return and_(postings.bucket == bucket, postings.kind == "redeem", postings.posting.in_(touched))


def reversal_of(connection: Connection, bucket: int, posting: str) -> bool:
    """Whether this redemption was reversed."""
    sale, undone = schema.postings.alias("sale"), schema.postings.alias("undone")
    return (
        connection.execute(
            select(undone.c.posting)
            .join(sale, _undoes(undone.c, sale.c))
            .where(sale.c.bucket == bucket, sale.c.posting == posting)
        ).first()
        is not None
    )


def _undoes(reversal: Any, sale: Any) -> ColumnElement[bool]:
    """A reversal is listed under the receipt number of the sale it undoes."""
    return and_(
        reversal.kind == "reversal",
        reversal.bucket == sale.bucket,
        reversal.terminal == sale.terminal,
        reversal.incarnation == sale.incarnation,
        reversal.sequence == sale.sequence,
    )


def _voucher_rows(connection: Connection, bucket: int, beneficiary: str) -> list[Any]:
    vouchers, stops = schema.vouchers.c, schema.voucher_stops.c
    return list(
        connection.execute(
            select(
                schema.vouchers,
                schema.programmes.c.rules,
                schema.programmes.c.currency,
                stops.stopped_at,
            )
            .join(schema.programmes, schema.programmes.c.programme == vouchers.programme)
            .outerjoin(
                schema.voucher_stops,
                and_(stops.bucket == vouchers.bucket, stops.voucher == vouchers.voucher),
            )
            .where(vouchers.bucket == bucket, vouchers.beneficiary == beneficiary)
        )
    )


def _held(
    row: Any,
    now: datetime,
    connection: Connection,
    bucket: int,
    found: list[tuple[Use, list[Any]]],
) -> Held:
    terms = None if row.terms is None else Terms.from_json(json.loads(row.terms))
    rules = json.loads(row.rules)
    used = sum(
        line.programme_minor if terms is None else line.quantity
        for use, lines in found
        if use.reversed_at is None
        for line in lines
        if line.voucher == row.voucher
    )
    left = row.available_minor if terms is None else row.available_quantity
    return Held(
        voucher=row.voucher,
        label=row.label,
        programme_name=rules["name"],
        currency=row.currency,
        terms=terms,
        issued=_issued(
            connection, bucket, row.voucher, row.currency if terms is None else terms.unit
        ),
        used=used,
        left=left,
        starts_at=max(clock.from_text(row.starts_at), clock.from_text(rules["starts_at"])),
        expires_at=min(clock.from_text(row.expires_at), clock.from_text(rules["ends_at"])),
        state=_state(row, rules, left, now),
        stopped_at=None if row.stopped_at is None else clock.from_text(row.stopped_at),
        categories=tuple(json.loads(row.categories)),
        stores=_stores(connection, row.programme),
    )


def _state(row: Any, rules: dict[str, Any], left: int, now: datetime) -> VoucherState:
    if row.frozen:
        return "frozen"
    if now >= min(clock.from_text(row.expires_at), clock.from_text(rules["ends_at"])):
        return "over"
    if left == 0:
        return "used_up"
    if now < max(clock.from_text(row.starts_at), clock.from_text(rules["starts_at"])):
        return "not_yet"
    return "paused" if rules["paused"] else "good"


def _issued(connection: Connection, bucket: int, voucher: str, unit: str) -> int:
    entries, postings = schema.entries.c, schema.postings.c
    return int(
        connection.execute(
            select(func.coalesce(func.sum(entries.amount), 0))
            .join(
                schema.postings,
                and_(postings.bucket == entries.bucket, postings.posting == entries.posting),
            )
            .where(
                entries.bucket == bucket,
                entries.holder == voucher,
                entries.account == accounts.AVAILABLE,
                entries.unit == unit,
                postings.kind == "issue",
            )
        ).scalar_one()
    )


def _stores(connection: Connection, programme: str) -> tuple[str, ...]:
    admitted, stores = schema.programme_stores.c, schema.stores.c
    return tuple(
        sorted(
            connection.scalars(
                select(stores.name)
                .join(schema.programme_stores, admitted.store == stores.store)
                .where(admitted.programme == programme)
            )
        )
    )


def _uses(connection: Connection, bucket: int, beneficiary: str) -> list[tuple[Use, list[Any]]]:
    """Each redemption, and its rows of `lines`."""
    mine = of_holder(bucket, beneficiary)
    amounts = uses.paid(connection, mine)
    lines = _lines(connection, bucket, mine)
    return [
        (_use(row, amounts.get((bucket, row.posting), 0), lines[row.posting]), lines[row.posting])
        for row in connection.execute(_use_rows(mine))
    ]


def _use_rows(mine: ColumnElement[bool]) -> Any:
    postings, numbered, acted, disputes = (
        schema.postings.c, schema.uses.c, schema.acted.c, schema.disputes.c,
    )  # fmt: skip
    undone = schema.postings.alias("undone")
    return (
        select(
            schema.postings,
            schema.programmes.c.rules,
            schema.programmes.c.currency,
            schema.terminals.c.terminal_no,
            schema.stores.c.name.label("store_name"),
            undone.c.recorded_at.label("reversed_at"),
            numbered.n,
            acted.way,
            acted.reason,
            disputes.reason.label("dispute_reason"),
            disputes.state.label("dispute_state"),
            disputes.opened_at,
            disputes.answered_at,
            disputes.answer,
        )
        .select_from(schema.postings)
        .join(schema.programmes, schema.programmes.c.programme == postings.programme)
        .join(schema.terminals, schema.terminals.c.terminal == postings.terminal)
        .join(schema.stores, schema.stores.c.store == postings.store)
        .outerjoin(undone, _undoes(undone.c, postings))
        .outerjoin(schema.uses, _same(numbered, postings))
        .outerjoin(schema.acted, _same(acted, postings))
        .outerjoin(schema.disputes, _same(disputes, postings))
        .where(mine)
    )


def _same(one: Any, other: Any) -> ColumnElement[bool]:
    return and_(one.bucket == other.bucket, one.posting == other.posting)


def _lines(connection: Connection, bucket: int, mine: ColumnElement[bool]) -> dict[str, list[Any]]:
    lines, postings, vouchers = schema.lines.c, schema.postings.c, schema.vouchers.c
    rows = connection.execute(
        select(schema.lines, vouchers.terms)
        .join(schema.postings, _same(postings, lines))
        .join(
            schema.vouchers,
            and_(vouchers.bucket == lines.bucket, vouchers.voucher == lines.voucher),
        )
        .where(lines.bucket == bucket, mine)
        .order_by(lines.posting, lines.line)
    )
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row.posting].append(row)
    return found


def _use(row: Any, amount_minor: int, lines: list[Any]) -> Use:
    dispute = None
    if row.dispute_state is not None:
        dispute = Answer(
            row.dispute_reason,
            row.dispute_state,
            clock.from_text(row.opened_at),
            None if row.answered_at is None else clock.from_text(row.answered_at),
            row.answer,
        )
    return Use(
        posting=row.posting,
        n=row.n,
        receipt_no=ids.receipt_no(row.terminal_no, row.sequence),
        store_name=row.store_name,
        programme_name=json.loads(row.rules)["name"],
        currency=row.currency,
        amount_minor=amount_minor,
        occurred_at=clock.from_text(row.occurred_at),
        recorded_at=clock.from_text(row.recorded_at),
        reversed_at=None if row.reversed_at is None else clock.from_text(row.reversed_at),
        way=row.way,
        reason=row.reason,
        dispute=dispute,
        parts=_parts(lines),
    )


def _parts(lines: list[Any]) -> tuple[Part, ...]:
    """By category and unit, in the order of the basket."""
    sums: dict[tuple[str, str | None], list[int]] = {}
    for line in lines:
        unit = None if line.terms is None else Terms.from_json(json.loads(line.terms)).unit
        held = sums.setdefault((line.category, unit), [0, 0, 0])
        held[0] += line.quantity
        held[1] += line.programme_minor
        held[2] += line.beneficiary_minor
    return tuple(Part(category, q, unit, p, b) for (category, unit), (q, p, b) in sums.items())
