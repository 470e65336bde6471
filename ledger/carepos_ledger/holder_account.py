"""What a beneficiary holds and what was used, derived from the book (docs/identity.md §12).

Nothing is kept twice: what is left is the voucher's row, which every posting holds against its
entries; what was used are postings, entries and lines. One read, one snapshot.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from carepos import clock, ids
from carepos.voucher import Terms
from carepos_ledger import accounts, schema
from carepos_ledger.database import Database

VoucherState = Literal["good", "frozen", "not_yet", "over", "paused", "used_up"]


@dataclass(frozen=True, slots=True)
class Held:
    """One voucher. A value voucher counts minor units of `currency`; one with `terms` counts their
    unit. `issued` − `used` − `ended` = `left`; what was taken back is not used, and what had ended
    unused before a refund opened the voucher again went back to the programme."""

    voucher: str
    label: str
    programme_name: str
    currency: str
    terms: Terms | None
    issued: int
    used: int
    ended: int
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
class Back:
    """One booking that took a use back: whole (`reversal`, `void`) or some of its goods (`refund`).

    `receipt_no` is a refund's own, else the sale's. `goods` are (quantity, unit) of what vouchers
    count as goods; `amount_minor` is what the shop is owed less.
    """

    kind: str
    receipt_no: str
    store_name: str
    recorded_at: datetime
    amount_minor: int
    goods: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Use:
    """One redemption. `n` is its number in the feed, None while it has none; `way` and `reason`
    say who acted for the beneficiary, if somebody did. `backs`: what took it back, in order;
    `is_undone`: nothing of it stands."""

    posting: str
    n: int | None
    receipt_no: str
    store_name: str
    programme_name: str
    currency: str
    amount_minor: int
    occurred_at: datetime
    recorded_at: datetime
    way: str | None
    reason: str | None
    dispute: Answer | None
    parts: tuple[Part, ...] = ()
    backs: tuple[Back, ...] = ()
    is_undone: bool = False

    @property
    def is_cancelled(self) -> bool:
        """Taken back whole by the till that sold; else, if undone, its goods were returned."""
        return self.is_undone and any(back.kind != "refund" for back in self.backs)

    @property
    def refunds(self) -> tuple[Back, ...]:
        return tuple(back for back in self.backs if back.kind == "refund")

    @property
    def back_minor(self) -> int:
        return sum(back.amount_minor for back in self.backs)


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
            vouchers = [_held(row, now, connection, bucket) for row in rows]
        vouchers.sort(key=lambda each: (each.state != "good", each.expires_at, each.voucher))
        return Account(
            tuple(vouchers),
            tuple(
                sorted(
                    found,
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


def stands(connection: Connection, bucket: int, posting: str) -> bool:
    """Whether anything of this redemption was not taken back."""
    postings = schema.postings.c
    which = and_(
        postings.bucket == bucket, or_(postings.posting == posting, postings.original == posting)
    )
    left: Counter[str] = Counter()
    for taken in _taken(connection, which).values():
        left.update(taken)
    return any(left.values())


def _taken(connection: Connection, which: ColumnElement[bool]) -> dict[str, dict[str, int]]:
    """By posting: what it took from vouchers, by currency or unit of goods; of what takes back, the
    amounts are negative."""
    postings, entries = schema.postings.c, schema.entries.c
    rows = connection.execute(
        select(postings.posting, entries.unit, func.sum(entries.amount).label("amount"))
        .join(schema.entries, _same(entries, postings))
        .where(which, entries.account.in_([accounts.PAYABLE, accounts.REDEEMED_QUANTITY]))
        .group_by(postings.posting, entries.unit)
    )
    taken: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        taken[row.posting][row.unit] = int(row.amount)
    return taken


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


def _held(row: Any, now: datetime, connection: Connection, bucket: int) -> Held:
    terms = None if row.terms is None else Terms.from_json(json.loads(row.terms))
    rules = json.loads(row.rules)
    unit = row.currency if terms is None else terms.unit
    moved = _moved(connection, bucket, row.voucher, unit)
    issued, ended = moved.pop("issue", 0), -moved.pop("forfeit", 0)
    left = row.available_minor if terms is None else row.available_quantity
    return Held(
        voucher=row.voucher,
        label=row.label,
        programme_name=rules["name"],
        currency=row.currency,
        terms=terms,
        issued=issued,
        used=-sum(moved.values()),
        ended=ended,
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


def _moved(connection: Connection, bucket: int, voucher: str, unit: str) -> dict[str, int]:
    """By kind of posting: what came to the voucher, or (negative) left it."""
    entries, postings = schema.entries.c, schema.postings.c
    rows = connection.execute(
        select(postings.kind, func.sum(entries.amount).label("amount"))
        .join(schema.postings, _same(postings, entries))
        .where(
            entries.bucket == bucket,
            entries.holder == voucher,
            entries.account == accounts.AVAILABLE,
            entries.unit == unit,
        )
        .group_by(postings.kind)
    )
    return {row.kind: int(row.amount) for row in rows}


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


def _uses(connection: Connection, bucket: int, beneficiary: str) -> list[Use]:
    mine = of_holder(bucket, beneficiary)
    taken = _taken(connection, mine)
    lines = _lines(connection, bucket, mine)
    backs = _backs(connection, bucket, mine)
    return [
        _use(row, taken[row.posting], lines[row.posting], backs[row.posting])
        for row in connection.execute(_use_rows(mine))
    ]


def _backs(
    connection: Connection, bucket: int, mine: ColumnElement[bool]
) -> dict[str, list[tuple[Back, dict[str, int]]]]:
    """By redemption: what took it back, each with what it took from vouchers."""
    postings = schema.postings.c
    sales = select(postings.posting).where(mine).correlate(None)
    which = and_(postings.bucket == bucket, postings.original.in_(sales))
    taken = _taken(connection, which)
    rows = connection.execute(
        select(
            schema.postings,
            schema.programmes.c.currency,
            schema.terminals.c.terminal_no,
            schema.stores.c.name.label("store_name"),
        )
        .join(schema.programmes, schema.programmes.c.programme == postings.programme)
        .join(schema.terminals, schema.terminals.c.terminal == postings.terminal)
        .join(schema.stores, schema.stores.c.store == postings.store)
        .where(which)
        .order_by(postings.recorded_at, postings.posting)
    )
    found: dict[str, list[tuple[Back, dict[str, int]]]] = defaultdict(list)
    for row in rows:
        moved = taken[row.posting]
        back = Back(
            row.kind,
            ids.receipt_no(row.terminal_no, row.sequence),
            row.store_name,
            clock.from_text(row.recorded_at),
            -moved.get(row.currency, 0),
            tuple(
                (-amount, unit) for unit, amount in sorted(moved.items()) if unit != row.currency
            ),
        )
        found[row.original].append((back, moved))
    return found


def _use_rows(mine: ColumnElement[bool]) -> Any:
    postings, numbered, acted, disputes = (
        schema.postings.c, schema.uses.c, schema.acted.c, schema.disputes.c,
    )  # fmt: skip
    return (
        select(
            schema.postings,
            schema.programmes.c.rules,
            schema.programmes.c.currency,
            schema.terminals.c.terminal_no,
            schema.stores.c.name.label("store_name"),
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


def _use(
    row: Any,
    taken: dict[str, int],
    lines: list[Any],
    backs: list[tuple[Back, dict[str, int]]],
) -> Use:
    left = Counter(taken)
    for _, moved in backs:
        left.update(moved)
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
        amount_minor=taken.get(row.currency, 0),
        occurred_at=clock.from_text(row.occurred_at),
        recorded_at=clock.from_text(row.recorded_at),
        way=row.way,
        reason=row.reason,
        dispute=dispute,
        parts=_parts(lines),
        backs=tuple(back for back, _ in backs),
        is_undone=not any(left.values()),
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
