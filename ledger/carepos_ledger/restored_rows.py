"""Rows of settlement batches that were restored, of bookings that are not held here yet.

Each belongs to its batch as soon as its booking is there, whether a till brought that back or sent
the sale again: it was paid with that batch (docs/offline.md §12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, func, insert, select

from carepos_ledger import accounts, schema


def place(connection: Connection, merchant: str, programme: str) -> None:
    """Let the bookings that restored batches told of stand in them, as far as they are held."""
    rows, postings, held = schema.heal_rows.c, schema.postings.c, schema.batch_postings.c
    entries = schema.entries.c
    found = connection.execute(
        select(
            schema.heal_rows,
            postings.bucket,
            postings.posting,
            func.coalesce(func.sum(entries.amount), 0).label("owed"),
        )
        .select_from(
            schema.heal_rows.join(
                schema.postings,
                and_(
                    postings.terminal == rows.terminal,
                    postings.incarnation == rows.incarnation,
                    postings.sequence == rows.sequence,
                    postings.kind == rows.kind,
                    postings.occurred_at == rows.occurred_at,
                    postings.merchant == rows.merchant,
                    postings.programme == rows.programme,
                ),
            )
            .outerjoin(
                schema.batch_postings,
                and_(held.bucket == postings.bucket, held.posting == postings.posting),
            )
            .outerjoin(
                schema.entries,
                and_(
                    entries.bucket == postings.bucket,
                    entries.posting == postings.posting,
                    entries.account == accounts.PAYABLE,
                    entries.holder == postings.merchant,
                ),
            )
        )
        .where(rows.merchant == merchant, rows.programme == programme, held.posting.is_(None))
        .group_by(*schema.heal_rows.c, postings.bucket, postings.posting)
    ).all()
    found = _one_to_one(found)
    if not found:
        return
    connection.execute(
        insert(schema.batch_postings),
        [
            {
                "bucket": row.bucket,
                "posting": row.posting,
                "merchant": merchant,
                "programme": programme,
                "batch_no": row.batch_no,
            }
            for row in found
        ],
    )
    different = [row for row in found if int(row.owed) != row.amount_minor]
    if different:
        connection.execute(
            insert(schema.alarms),
            [
                {
                    "at": closing_time(connection, row.batch_no, merchant, programme),
                    "kind": "paid_differently",
                    "terminal": row.terminal,
                    "digest": row.posting,
                }
                for row in different
            ],
        )
    key = schema.heal_rows.primary_key.columns
    # One by one: all of them in one statement are more than a database takes.
    connection.execute(
        delete(schema.heal_rows).where(*(each == bindparam(f"of_{each.name}") for each in key)),
        [{f"of_{each.name}": getattr(row, each.name) for each in key} for row in found],
    )


def _one_to_one(found: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Each row with one booking, and each booking with one row. Of a till and its copy two may have
    one number and one time: then what was paid says which it is, else the batch that came first."""
    rows, bookings, chosen = set[Any](), set[Any](), list[Row[Any]]()
    for each in sorted(found, key=lambda row: (int(row.owed) != row.amount_minor, row.batch_no)):
        row = each.batch_no, each.terminal, each.incarnation, each.sequence, each.kind
        booking = each.bucket, each.posting
        if row in rows or booking in bookings:
            continue
        rows.add(row)
        bookings.add(booking)
        chosen.append(each)
    return chosen


def closing_time(connection: Connection, batch_no: int, merchant: str, programme: str) -> str:
    """When a batch was closed, as its manifest says."""
    table = schema.batches.c
    found: str = connection.scalars(
        select(table.closed_at).where(
            table.merchant == merchant, table.programme == programme, table.batch_no == batch_no
        )
    ).one()
    return found


def place_all(connection: Connection) -> None:
    """As `place`, for every merchant and programme."""
    rows = schema.heal_rows.c
    pairs = connection.execute(select(rows.merchant, rows.programme).distinct()).all()
    for merchant, programme in sorted(map(tuple, pairs)):
        place(connection, merchant, programme)


def waiting(connection: Connection) -> Sequence[Row[Any]]:
    """Rows of restored batches that are not booked here. `offered`: whether a till brought the
    answer of that sale (of what takes one back: of the sale) or refund, so that it may be yet."""
    rows, offered = schema.heal_rows, schema.heal_evidence.c
    by_number = exists().where(
        offered.terminal == rows.c.terminal,
        offered.incarnation == rows.c.incarnation,
        offered.sequence == rows.c.sequence,
    )
    return connection.execute(
        select(rows, by_number.label("offered")).order_by(
            rows.c.merchant, rows.c.programme, rows.c.batch_no, rows.c.terminal, rows.c.sequence
        )
    ).all()
