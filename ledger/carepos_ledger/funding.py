"""Money from funders: one transfer is one reference, booked once.

Under the programme's row lock, so that what it holds and who gave it are looked at before anything
is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from carepos import clock, ids, strict_json
from carepos.errors import Malformed
from carepos.keys import digest
from carepos.settlement import MAX_FUNDERS
from carepos_ledger import accounts, schema
from carepos_ledger.accounts import Entry
from carepos_ledger.actions import Done, need
from carepos_ledger.book import entry_rows
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import locked_programme


def fund(
    connection: Connection,
    programme: str,
    funder: str,
    amount_minor: int,
    reference: str,
    *,
    now: datetime,
) -> Done:
    """Raises Problem `not_found`, or `already_exists_differently` for a reference that was booked
    with another funder or amount; Malformed for more than a programme can hold."""
    held = locked_programme(connection, programme)
    need(connection, schema.funders, "funder", funder)
    bucket = ids.terminal_bucket(programme)
    posting = digest(f"carepos/fund/v1|{programme}|{reference}".encode("ascii"))
    legs = accounts.funding(funder, amount_minor, held.currency)
    booked = _entries_of(connection, bucket, posting)
    if booked == legs:
        return "exists"
    if booked:
        raise Problem(
            "already_exists_differently",
            "this reference was booked with another funder or amount",
            field="reference",
        )
    if _funded(connection, bucket, programme) + amount_minor > strict_json.MAX_INTEGER:
        raise Malformed("more than a programme can hold", field="amount_minor")
    if len(_funders(connection, bucket, programme) | {funder}) > MAX_FUNDERS:
        # A settlement manifest names each of them and must fit into one signature.
        raise Malformed(f"a programme has at most {MAX_FUNDERS} funders", field="funder")
    _write(connection, bucket, posting, programme, legs, now)
    table = schema.programmes
    connection.execute(
        update(table)
        .where(table.c.programme == programme)
        .values(unreserved_minor=table.c.unreserved_minor + amount_minor)
    )
    return "created"


def reserve_for_losses(
    connection: Connection, programme: str, amount_minor: int, reference: str, *, now: datetime
) -> Done:
    """Raises Problem `not_found`, `not_funded`, or `already_exists_differently` for a reference
    that was booked with another amount."""
    held = locked_programme(connection, programme)
    bucket = ids.terminal_bucket(programme)
    posting = digest(f"carepos/loss-reserve/v1|{programme}|{reference}".encode("ascii"))
    legs = accounts.loss_reserve(amount_minor, held.currency)
    booked = _entries_of(connection, bucket, posting)
    if booked == legs:
        return "exists"
    if booked:
        raise Problem(
            "already_exists_differently",
            "this reference was booked with another amount",
            field="reference",
        )
    if amount_minor > held.unreserved_minor:
        raise Problem("not_funded", "the programme has less that is not reserved")
    _write(connection, bucket, posting, programme, legs, now)
    table = schema.programmes
    connection.execute(
        update(table)
        .where(table.c.programme == programme)
        .values(
            unreserved_minor=table.c.unreserved_minor - amount_minor,
            loss_reserve_minor=table.c.loss_reserve_minor + amount_minor,
        )
    )
    return "created"


def _write(
    connection: Connection,
    bucket: int,
    posting: str,
    programme: str,
    legs: Sequence[Entry],
    now: datetime,
) -> None:
    connection.execute(
        insert(schema.postings).values(
            bucket=bucket,
            posting=posting,
            kind="fund",
            programme=programme,
            recorded_at=clock.to_text(now),
        )
    )
    connection.execute(insert(schema.entries), entry_rows(bucket, posting, programme, legs))


def _entries_of(connection: Connection, bucket: int, posting: str) -> list[Entry]:
    table = schema.entries.c
    rows = connection.execute(
        select(table.account, table.holder, table.unit, table.amount)
        .where(table.bucket == bucket, table.posting == posting)
        .order_by(table.n)
    )
    return [Entry(*row) for row in rows]


def _funders(connection: Connection, bucket: int, programme: str) -> set[str]:
    table = schema.entries.c
    return set(
        connection.scalars(
            select(table.holder).where(
                table.bucket == bucket,
                table.programme == programme,
                table.account == accounts.FUNDER,
            )
        )
    )


def _funded(connection: Connection, bucket: int, programme: str) -> int:
    table = schema.entries.c
    total = connection.scalar(
        select(func.sum(table.amount)).where(
            table.bucket == bucket,
            table.programme == programme,
            table.account == accounts.FUNDER,
        )
    )
    return -int(total or 0)
