"""Each use of a voucher has a number, and issuers' apps read on from the last (protocol §9).

A number is given to a use that is committed already, under a lock: so the numbers have no gap, and
a posting that commits late gets a later one, whatever its time says. Amounts are not kept here,
they are sums of entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, text, tuple_

from carepos import ids, strict_json
from carepos_ledger import accounts, epochs, schema
from carepos_ledger.actions import act
from carepos_ledger.database import Database

USES_AT_ONCE: Final = 500
NUMBERED_AT_ONCE: Final = 2_000

KINDS: Final = ("redeem", "refund", "reversal", "void")
"""What is told of: each booking that took from somebody's vouchers or gave back to them."""

Key = tuple[int, str]
"""(bucket, posting)"""


class Page(NamedTuple):
    """A page of the feed; `next_n` is what to ask with as `after` for the one behind it."""

    uses: list[dict[str, Any]]
    next_n: int

    def to_json(self) -> dict[str, object]:
        return {"uses": self.uses, "next": self.next_n}


class Uses:
    """The feed. Safe to call from several threads and servers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def after(self, after: int) -> Page:
        """At most 500 uses numbered above `after`, in order; none comes in between later.

        Uses of somebody whose `sub` was erased are left out. Raises Problem `try_again`.
        """
        strict_json.integer(after, "after", high=2**53 - 1)
        with self._database.read() as connection:
            waiting = unnumbered(connection, limit=NUMBERED_AT_ONCE)
        if waiting:
            act(self._database, lambda connection: give_numbers(connection, waiting))
        with self._database.read() as connection:
            return _page(connection, after)


def unnumbered(
    connection: Connection, *only: ColumnElement[bool], limit: int | None = None
) -> list[Key]:
    """Committed uses that have no number yet, in order of time, a sale before its undo."""
    postings, numbered = schema.postings.c, schema.uses.c
    rows = connection.execute(
        select(postings.bucket, postings.posting)
        .select_from(
            schema.postings.outerjoin(
                schema.uses,
                and_(numbered.bucket == postings.bucket, numbered.posting == postings.posting),
            )
        )
        .where(postings.kind.in_(KINDS), numbered.posting.is_(None), *only)
        .order_by(postings.recorded_at, postings.kind, postings.bucket, postings.posting)
        .limit(limit)
    )
    return [(row.bucket, row.posting) for row in rows]


def give_numbers(connection: Connection, keys: Sequence[Key]) -> None:
    """The next numbers to those of `keys` that have none, in their order.

    A number is committed before a higher one is given: UNIQUE would see to it alone, by failing
    whoever is second; with the lock they wait instead.
    """
    if not keys:
        return
    if connection.dialect.name != "sqlite":
        connection.execute(text("LOCK TABLE uses IN SHARE ROW EXCLUSIVE MODE"))
    table = schema.uses.c
    held = set(
        map(
            tuple,
            connection.execute(
                select(table.bucket, table.posting).where(
                    tuple_(table.bucket, table.posting).in_(list(keys))
                )
            ),
        )
    )
    last = connection.scalar(select(func.max(table.n))) or 0
    last = epochs.after_uses(epochs.read(connection), last)
    rows = [
        {"n": n, "bucket": bucket, "posting": posting}
        for n, (bucket, posting) in enumerate((k for k in keys if k not in held), last + 1)
    ]
    if rows:
        connection.execute(insert(schema.uses), rows)


def _page(connection: Connection, after: int) -> Page:
    table, postings = schema.uses.c, schema.postings.c
    found = connection.execute(
        select(table.n, table.bucket, table.posting)
        .where(table.n > after)
        .order_by(table.n)
        .limit(USES_AT_ONCE)
    ).all()
    if not found:
        return Page([], after)
    keys = [(row.bucket, row.posting) for row in found]
    whose = _whose(connection, keys)
    amounts = paid(connection, tuple_(postings.bucket, postings.posting).in_(keys))
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
        .where(tuple_(postings.bucket, postings.posting).in_(keys))
    )
    by_key = {(row.bucket, row.posting): row for row in rows}
    listed = []
    for n, bucket, posting in found:
        person, row = whose.get((bucket, posting)), by_key[bucket, posting]
        if person is None:
            continue
        listed.append(
            {
                "n": n,
                "kind": row.kind,
                "iss": person[0],
                "sub": person[1],
                "receipt_no": ids.receipt_no(row.terminal_no, row.sequence),
                "store": row.store,
                "store_name": row.store_name,
                "programme": row.programme,
                "currency": row.currency,
                "amount_minor": amounts.get((bucket, posting), 0),
                "recorded_at": row.recorded_at,
            }
        )
    return Page(listed, found[-1].n)


def _whose(connection: Connection, keys: Sequence[Key]) -> dict[Key, tuple[str, str]]:
    """(iss, sub) by posting: the holder of the vouchers that it moved."""
    entries, vouchers, people = schema.entries.c, schema.vouchers.c, schema.beneficiaries.c
    rows = connection.execute(
        select(entries.bucket, entries.posting, people.iss, people.sub)
        .distinct()
        .join(
            schema.vouchers,
            and_(vouchers.bucket == entries.bucket, vouchers.voucher == entries.holder),
        )
        .join(
            schema.beneficiaries,
            and_(people.bucket == vouchers.bucket, people.beneficiary == vouchers.beneficiary),
        )
        .where(tuple_(entries.bucket, entries.posting).in_(list(keys)))
    )
    return {(row.bucket, row.posting): (row.iss, row.sub) for row in rows}


def paid(connection: Connection, which: ColumnElement[bool]) -> dict[Key, int]:
    """What a programme paid to the merchant with each posting, in minor units of its currency; of
    what takes back it is negative. As settlement sums it (docs/protocol.md §12)."""
    postings, entries = schema.postings.c, schema.entries.c
    rows = connection.execute(
        select(postings.bucket, postings.posting, func.sum(entries.amount).label("amount_minor"))
        .join(
            schema.entries,
            and_(entries.bucket == postings.bucket, entries.posting == postings.posting),
        )
        .join(schema.programmes, schema.programmes.c.programme == postings.programme)
        .where(
            which,
            entries.account == accounts.PAYABLE,
            entries.holder == postings.merchant,
            entries.unit == schema.programmes.c.currency,
        )
        .group_by(postings.bucket, postings.posting)
    )
    return {(row.bucket, row.posting): int(row.amount_minor) for row in rows}


def taken_back(connection: Connection, sales: Sequence[Key]) -> dict[Key, int]:
    """By sale: what everything that took it back paid the merchant, a negative amount."""
    postings = schema.postings.c
    which = tuple_(postings.bucket, postings.original).in_(list(sales))
    amounts = paid(connection, which)
    found: dict[Key, int] = {}
    for row in connection.execute(
        select(postings.bucket, postings.posting, postings.original).where(which)
    ):
        sale = (row.bucket, row.original)
        found[sale] = found.get(sale, 0) + amounts.get((row.bucket, row.posting), 0)
    return found
