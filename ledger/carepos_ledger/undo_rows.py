"""Sales as an undo looks at them, and which lines of them came back: their SQL.

Read under the lock of the sale's vouchers, which every undo of it takes: two never see the same
rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, insert, select, tuple_

from carepos import clock, record
from carepos.keys import KeySet, PublicKey, unb64
from carepos.record import Record
from carepos.undo import Refund, Sold, Void
from carepos_ledger import schema
from carepos_ledger.accounts import Entry
from carepos_ledger.shelf import Command, Posted

Place = tuple[int, str]
"""(bucket, posting)."""


def read_undone(connection: Connection, sales: set[Place]) -> dict[str, list[Entry]]:
    """By sale: the legs of everything that took it back."""
    if not sales:
        return {}
    postings, entries = schema.postings.c, schema.entries.c
    rows = connection.execute(
        select(postings.original, schema.entries)
        .join(
            schema.entries,
            (entries.bucket == postings.bucket) & (entries.posting == postings.posting),
        )
        .where(tuple_(postings.bucket, postings.original).in_(sorted(sales)))
        .order_by(postings.bucket, postings.posting, entries.n)
    )
    undone: dict[str, list[Entry]] = {}
    for row in rows:
        leg = Entry(row.account, row.holder, row.unit, row.amount)
        undone.setdefault(row.original, []).append(leg)
    return undone


def read_sold(
    connection: Connection, batch: Sequence[Command], posted: Iterable[Posted]
) -> dict[str, Sold]:
    """By posting: the sales that an undo of this batch names, as far as their bytes are kept."""
    named = {
        command.record.content.original.record_sha256: command.record.bucket
        for command in batch
        if isinstance(command.record.content, Void | Refund)
    }
    sales = {
        each.posting: each for each in posted if each.kind == "redeem" and each.posting in named
    }
    places = sorted((named[posting], posting) for posting in sales)
    if not places:
        return {}
    postings, kept = schema.postings.c, schema.record_bytes.c
    times = {
        row.posting: row
        for row in connection.execute(
            select(postings.posting, postings.terminal, postings.recorded_at).where(
                tuple_(postings.bucket, postings.posting).in_(places)
            )
        )
    }
    keys = _keys(connection, {row.terminal for row in times.values()})
    settled, refunded = _settled(connection, places), read_refunded(connection, places)
    sales_read = {
        digest: record.read(text.decode("ascii"), keys=keys)
        for digest, text in connection.execute(
            select(kept.digest, kept.jws).where(tuple_(kept.bucket, kept.digest).in_(places))
        )
    }
    accepted = _accepted(connection, sales_read.values())
    found = {}
    for digest, sale in sales_read.items():
        found[digest] = Sold(
            sale.redeem.basket,
            sale.redeem.allocation,
            sale.redeem.currency,
            sale.occurred_at,
            clock.from_text(times[digest].recorded_at),
            accepted_offline=(sale.terminal, sale.id) in accepted,
            is_short=(sale.terminal, sale.id) in accepted
            and accepted[sale.terminal, sale.id] == "posted_short",
            settled=digest in settled,
            undone=not sales[digest].left(),
            refunded=refunded.get(digest, {}),
        )
    return found


def _keys(connection: Connection, terminals: set[str]) -> KeySet:
    """Every key that these terminals ever had: what is stored was believed when it came."""
    table = schema.terminal_keys.c
    rows = connection.scalars(select(table.x).where(table.terminal.in_(sorted(terminals))))
    return KeySet(PublicKey(unb64(x)) for x in rows)


def _accepted(connection: Connection, sales: Iterable[Record]) -> dict[tuple[str, str], str]:
    """By (terminal, id): the result of the acceptance of those that were sold offline."""
    keys = sorted((sale.bucket, sale.terminal, sale.id) for sale in sales)
    table = schema.records.c
    return {
        (row.terminal, row.id): row.result
        for row in connection.execute(
            select(table.terminal, table.id, table.result).where(
                tuple_(table.bucket, table.terminal, table.id).in_(keys),
                table.kind == "accept_offline",
            )
        )
    }


def _settled(connection: Connection, places: list[Place]) -> set[str]:
    table = schema.batch_postings.c
    return set(
        connection.scalars(
            select(table.posting).where(tuple_(table.bucket, table.posting).in_(places))
        )
    )


def read_refunded(connection: Connection, places: list[Place]) -> dict[str, dict[int, int]]:
    """By sale: how much of each line came back so far."""
    table = schema.returned_lines.c
    found: dict[str, dict[int, int]] = {}
    for row in connection.execute(
        select(schema.returned_lines).where(tuple_(table.bucket, table.original).in_(places))
    ):
        lines = found.setdefault(row.original, {})
        lines[row.line] = lines.get(row.line, 0) + row.quantity
    return found


def read_ownerless(connection: Connection, places: Iterable[Place]) -> set[str]:
    """Those of these (bucket, voucher) whose holder was erased."""
    vouchers, people = schema.vouchers.c, schema.beneficiaries.c
    wanted = sorted(places)
    if not wanted:
        return set()
    return set(
        connection.scalars(
            select(vouchers.voucher)
            .select_from(
                schema.vouchers.outerjoin(
                    schema.beneficiaries,
                    (people.bucket == vouchers.bucket)
                    & (people.beneficiary == vouchers.beneficiary),
                )
            )
            .where(
                tuple_(vouchers.bucket, vouchers.voucher).in_(wanted), people.beneficiary.is_(None)
            )
        )
    )


def write_returned(connection: Connection, returned: Sequence[tuple[Posted, Command]]) -> None:
    """Which lines came back, by refund."""
    rows = [
        {
            "bucket": command.record.bucket,
            "original": sale.posting,
            "posting": command.record.digest,
            "line": line.line,
            "quantity": line.quantity,
        }
        for sale, command in returned
        if isinstance(command.record.content, Refund)
        for line in command.record.content.lines
    ]
    if rows:
        connection.execute(insert(schema.returned_lines), rows)
