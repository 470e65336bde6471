"""Redemptions that somebody made for a beneficiary: what was paid so before, and the audit of each.

docs/identity.md §8. A household may hold several vouchers, and what one actor is paid spans
buckets: so an acted redemption (and no other) also locks its household and its actor, in this order
and after all vouchers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, tuple_, update

from carepos import clock, ids, strict_json
from carepos.claims import Acting
from carepos.rules import Acted
from carepos.voucher import Programme
from carepos_ledger import schema
from carepos_ledger.actions import find
from carepos_ledger.database import Database, insert_or_ignore
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import ActedPosting


def lock_households(connection: Connection, households: Iterable[tuple[int, str]]) -> None:
    """Hold the rows of these (bucket, beneficiary) until the transaction ends."""
    wanted = sorted(set(households))
    if not wanted:
        return
    people = schema.beneficiaries.c
    connection.execute(
        select(people.beneficiary)
        .where(tuple_(people.bucket, people.beneficiary).in_(wanted))
        .order_by(people.bucket, people.beneficiary)
        .with_for_update(key_share=True)
    ).all()


def lock_actors(connection: Connection, actors: Iterable[tuple[str, str]]) -> None:
    """Hold the rows of these (programme, actor_sha256) until the transaction ends."""
    wanted = sorted(set(actors))
    if not wanted:
        return
    table = schema.actors
    connection.execute(
        insert_or_ignore(connection, table),
        [{"programme": programme, "actor_sha256": actor} for programme, actor in wanted],
    )
    connection.execute(
        select(table.c.programme)
        .where(tuple_(table.c.programme, table.c.actor_sha256).in_(wanted))
        .order_by(table.c.programme, table.c.actor_sha256)
        .with_for_update()
    ).all()


def read_sums(
    connection: Connection,
    programme: Programme,
    *,
    bucket: int,
    beneficiary: str,
    actor_sha256: str,
    now: datetime,
) -> Acted:
    """What the programme paid in acted redemptions within its window, and was not reversed."""
    if programme.acting is None:
        return Acted(0, 0)
    table = schema.acted.c
    since = clock.to_text(now - timedelta(seconds=programme.acting.window_s))
    counted = [
        table.programme == programme.programme,
        table.reversed == 0,
        table.recorded_at > since,
    ]
    total = select(func.coalesce(func.sum(table.amount_minor), 0)).where(*counted)
    household = total.where(table.bucket == bucket, table.beneficiary == beneficiary)
    actor = total.where(table.actor_sha256 == actor_sha256)
    return Acted(
        int(connection.execute(household).scalar_one()), int(connection.execute(actor).scalar_one())
    )


def read_acted(
    connection: Connection, postings: Iterable[tuple[int, str]]
) -> dict[str, ActedPosting]:
    """Which of these (bucket, posting) were acted."""
    wanted = sorted(set(postings))
    if not wanted:
        return {}
    table = schema.acted
    rows = connection.execute(
        select(table).where(tuple_(table.c.bucket, table.c.posting).in_(wanted))
    )
    return {row.posting: _from_row(row) for row in rows}


def write_acted(
    connection: Connection, made: Sequence[ActedPosting], undone: Sequence[ActedPosting]
) -> None:
    """Keep the acted redemptions of a batch, and mark those that it reversed."""
    if made:
        connection.execute(insert(schema.acted), [_row(each) for each in made])
    table = schema.acted
    for each in undone:
        connection.execute(
            update(table)
            .where(table.c.bucket == each.bucket, table.c.posting == each.posting)
            .values(reversed=1)
        )


def rename_actor(connection: Connection, actor_sha256: str, name: str) -> None:
    """Keep what an actor was paid, or would be if a held record is decided, under another name."""
    # `actors` first: whoever is paying them holds that row, and `acted` is read when it is booked.
    for table in (schema.actors, schema.acted, schema.held_records):
        connection.execute(
            update(table).where(table.c.actor_sha256 == actor_sha256).values(actor_sha256=name)
        )


def audit(
    database: Database, programme: str, *, after: int = 0, most: int = 1_000
) -> list[dict[str, Any]]:
    """The acted redemptions of a programme, for operators: `most` of them after the first `after`,
    oldest first, each with its currency.

    Raises Problem `not_found`, Malformed.
    """
    ids.name(programme, "programme")
    strict_json.integer(after, "after", high=2**31 - 1)
    table = schema.acted
    with database.read() as connection:
        held = find(connection, schema.programmes, {"programme": programme})
        if held is None:
            raise Problem("not_found", "no such programme", field="programme")
        rows = connection.execute(
            select(table)
            .where(table.c.programme == programme)
            .order_by(table.c.recorded_at, table.c.posting)
            .offset(after)
            .limit(most)
        )
        return [
            {
                "recorded_at": row.recorded_at,
                "posting": row.posting,
                "beneficiary": row.beneficiary,
                "actor_sha256": row.actor_sha256,
                "way": row.way,
                "reason": row.reason,
                "amount_minor": row.amount_minor,
                "currency": held.currency,
                "reversed": bool(row.reversed),
            }
            for row in rows
        ]


def _row(each: ActedPosting) -> dict[str, Any]:
    return {
        "bucket": each.bucket,
        "posting": each.posting,
        "programme": each.programme,
        "beneficiary": each.beneficiary,
        "actor_sha256": each.acting.actor_sha256,
        "way": each.acting.way,
        "reason": each.acting.reason,
        "amount_minor": each.amount_minor,
        "recorded_at": each.recorded_at,
        "reversed": int(each.reversed),
    }


def _from_row(row: Any) -> ActedPosting:
    return ActedPosting(
        row.bucket,
        row.posting,
        row.programme,
        row.beneficiary,
        Acting(row.actor_sha256, row.way, row.reason),
        row.amount_minor,
        row.recorded_at,
        bool(row.reversed),
    )
