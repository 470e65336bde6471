"""What tills offered of a lost part of the book: its rows (docs/offline.md §12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, case, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from carepos import clock, strict_json
from carepos.lost import MAX_LINES, MAX_RANGES, Evidence, Range, ranges_of
from carepos_ledger import chain_progress, epochs, schema
from carepos_ledger.chain_progress import Chain
from carepos_ledger.database import insert_or_ignore

LOOKED_AT: Final = 20_000
"""Numbers behind the last one of an unbroken chain that one answer goes through."""

State = str
"""staged, placed, excepted, closed"""


def stored_results(
    connection: Connection, offered: Sequence[Evidence]
) -> dict[tuple[str, str], State | None]:
    """By (digest, result) of those that are known: how they stand; None where this ledger decided
    the record itself. With another result the key is (digest, "")."""
    table, records = schema.heal_evidence.c, schema.records.c
    found: dict[tuple[str, str], State | None] = {}
    if not offered:
        return found
    keys = sorted({(each.record.bucket, each.record.digest) for each in offered})
    told = {(each.record.digest, each.outcome.result) for each in offered}
    for digest, result in connection.execute(
        select(records.digest, records.result).where(
            tuple_(records.bucket, records.digest).in_(keys)
        )
    ):
        found[digest, result if (digest, result) in told else ""] = None
    for digest, result, state in connection.execute(
        select(table.digest, table.result, table.state).where(
            table.digest.in_(sorted({digest for _, digest in keys}))
        )
    ):
        found[digest, result] = state
    return found


def stage(connection: Connection, offered: Sequence[Evidence], at: str) -> None:
    """Keep evidence until it is booked; what is kept already stays as it is."""
    if offered:
        connection.execute(
            insert_or_ignore(connection, schema.heal_evidence),
            [
                {
                    "bucket": each.record.bucket,
                    "digest": each.record.digest,
                    "terminal": each.record.terminal,
                    "incarnation": each.record.incarnation,
                    "sequence": each.record.sequence,
                    "id": each.record.id,
                    "kind": each.record.kind,
                    "result": each.outcome.result,
                    "recorded_at": clock.to_text(each.outcome.recorded_at),
                    "epoch": each.outcome.epoch,
                    "amount_minor": each.outcome.amount_minor,
                    "currency": each.outcome.currency,
                    "record": each.record.jws.encode("ascii"),
                    "outcome": each.outcome.jws,
                    "state": "staged",
                    "tried": 0,
                    "offered_at": at,
                }
                for each in offered
            ],
        )


def note_buckets(connection: Connection, held: Sequence[Evidence]) -> None:
    """Numbers that were noted before their bucket was kept are found by it from now on: else a till
    would offer them every time."""
    table = schema.terminal_notes
    for each in held:
        connection.execute(
            update(table)
            .where(
                table.c.terminal == each.record.terminal,
                table.c.incarnation == each.record.incarnation,
                table.c.sequence == each.record.sequence,
                table.c.digest == each.record.digest,
                table.c.bucket.is_(None),
            )
            .values(bucket=each.record.bucket)
        )


def untried(connection: Connection, turn: int, most: int) -> Sequence[Row[Any]]:
    """What waits and was not tried in this turn, in the order in which it was decided."""
    table = schema.heal_evidence.c
    return connection.execute(
        select(schema.heal_evidence)
        .where(table.state == "staged", table.tried < turn)
        .order_by(table.recorded_at, table.terminal, table.incarnation, table.sequence, table.n)
        .limit(most)
    ).all()


def waiting(connection: Connection, most: int) -> Sequence[Row[Any]]:
    """What waits, tried or not, in the same order."""
    return untried(connection, 2**31, most)


def late(connection: Connection, terminal: str, epoch: int) -> Sequence[Row[Any]]:
    """What waits of one till from before this epoch, in the same order."""
    table = schema.heal_evidence.c
    return connection.execute(
        select(schema.heal_evidence)
        .where(table.terminal == terminal, table.state == "staged", table.epoch < epoch)
        .order_by(table.recorded_at, table.incarnation, table.sequence, table.n)
    ).all()


def in_state(connection: Connection, state: State) -> Sequence[Row[Any]]:
    table = schema.heal_evidence.c
    return connection.execute(
        select(schema.heal_evidence)
        .where(table.state == state)
        .order_by(table.recorded_at, table.terminal, table.incarnation, table.sequence, table.n)
    ).all()


def move(connection: Connection, n: int, state: State, **values: object) -> None:
    """How one stands now. The signed bytes of what is placed are in `records` and go here."""
    gone: Mapping[str, object] = {"record": None, "outcome": None} if state == "placed" else {}
    table = schema.heal_evidence
    connection.execute(
        update(table).where(table.c.n == n).values(**{"state": state, **gone, **values})
    )


def sale_text(connection: Connection, bucket: int, digest: str) -> str | None:
    """The signed redeem record with this digest, if it is held or was offered."""
    kept, offered = schema.record_bytes.c, schema.heal_evidence.c
    found = connection.scalars(
        select(kept.jws).where(kept.bucket == bucket, kept.digest == digest)
    ).one_or_none()
    if found is None:
        found = connection.scalars(
            select(offered.record).where(offered.digest == digest, offered.record.is_not(None))
        ).first()
    return None if found is None else bytes(found).decode("ascii")


# ── which numbers are held ─────────────────────────────────────────────────────────────────────


def held(
    connection: Connection, chain: Chain, after: int = 0, last: int = strict_json.MAX_INTEGER
) -> tuple[list[Range], bool]:
    """Which numbers of a chain behind `after` and up to `last` are decided here or were offered,
    and whether there are more behind the last range."""
    reached = min(chain_progress.advance_chains(connection, [chain]).get(chain, 0), last)
    low = max(reached, after)
    notes, records, offered = schema.terminal_notes.c, schema.records.c, schema.heal_evidence.c
    decided = connection.scalars(
        select(notes.sequence)
        .select_from(
            schema.terminal_notes.join(
                schema.records,
                and_(records.bucket == notes.bucket, records.digest == notes.digest),
            )
        )
        .where(notes.terminal == chain[0], notes.incarnation == chain[1])
        .where(notes.sequence > low, notes.sequence <= last)
        .order_by(notes.sequence)
        .limit(LOOKED_AT)
    ).all()
    told = connection.scalars(
        select(offered.sequence)
        .where(
            offered.terminal == chain[0],
            offered.incarnation == chain[1],
            offered.sequence > low,
            offered.sequence <= last,
        )
        .order_by(offered.sequence)
        .limit(LOOKED_AT)
    ).all()
    cut = [numbers[-1] for numbers in (decided, told) if len(numbers) == LOOKED_AT]
    numbers = {n for n in (*decided, *told) if not cut or n <= min(cut)}
    behind = ranges_of(numbers)
    first = [(after + 1, low)] if low > after else []
    if first and behind and behind[0][0] == low + 1:
        first, behind = [(after + 1, behind[0][1])], behind[1:]
    ranges = [*first, *behind]
    return ranges[:MAX_RANGES], bool(cut) or len(ranges) > MAX_RANGES


def digests(connection: Connection, chain: Chain, numbers: Sequence[int]) -> dict[int, list[str]]:
    """By number of a chain: the records that are decided here or were offered under it."""
    notes, records, offered = schema.terminal_notes.c, schema.records.c, schema.heal_evidence.c
    decided = (
        select(notes.sequence, notes.digest)
        .select_from(
            schema.terminal_notes.join(
                schema.records,
                and_(records.bucket == notes.bucket, records.digest == notes.digest),
            )
        )
        .where(notes.terminal == chain[0], notes.incarnation == chain[1])
        .where(notes.sequence.in_(numbers))
    )
    told = select(offered.sequence, offered.digest).where(
        offered.terminal == chain[0],
        offered.incarnation == chain[1],
        offered.sequence.in_(numbers),
    )
    found: dict[int, set[str]] = {}
    for query in (decided, told):
        for sequence, digest in connection.execute(query):
            found.setdefault(sequence, set()).add(digest)
    return {number: sorted(known)[:MAX_LINES] for number, known in found.items()}


def gaps(ranges: Sequence[Range]) -> list[Range]:
    """The numbers between and before these."""
    found, after = [], 1
    for low, high in ranges:
        if low > after:
            found.append((after, low - 1))
        after = high + 1
    return found


def chains(connection: Connection) -> list[Chain]:
    """Every chain of which something was offered."""
    table = schema.heal_evidence.c
    rows = connection.execute(select(table.terminal, table.incarnation).distinct())
    return sorted((row.terminal, row.incarnation) for row in rows)


# ── who was heard ──────────────────────────────────────────────────────────────────────────────


def hear(
    connection: Connection,
    terminal: str,
    epoch: int,
    incarnation: str,
    *,
    complete: bool,
    at: str,
) -> None:
    """A till asked or offered; `complete`: it has nothing more."""
    table = schema.heal_reports
    made: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    connection.execute(
        made.on_conflict_do_update(
            index_elements=[table.c.terminal, table.c.epoch],
            set_={
                "incarnation": made.excluded.incarnation,
                # Who has reported once has: asking again takes nothing back.
                "complete": case(
                    (table.c.complete > made.excluded.complete, table.c.complete),
                    else_=made.excluded.complete,
                ),
                "heard_at": made.excluded.heard_at,
            },
        ),
        [
            {
                "terminal": terminal,
                "epoch": epoch,
                "incarnation": incarnation,
                "complete": int(complete),
                "heard_at": at,
            }
        ],
    )


def reports(connection: Connection, epoch: int) -> dict[str, Row[Any]]:
    """By terminal, in this epoch."""
    table = schema.heal_reports.c
    rows = connection.execute(select(schema.heal_reports).where(table.epoch == epoch))
    return {row.terminal: row for row in rows}


def unseen_loss(connection: Connection) -> int:
    """How many answers of the present epoch tills offered that are not in the book: what was lost
    and nobody heals. 0 from the moment a heal begins, for that is another epoch."""
    table = schema.heal_evidence.c
    epoch = epochs.read(connection)
    query = select(func.count()).where(table.state == "staged", table.epoch >= epoch)
    return int(connection.scalar(query) or 0)


def alarm(connection: Connection, kind: str, terminal: str, digest: str, at: str) -> None:
    """Once for each terminal and digest."""
    table = schema.alarms
    known = select(table.c.n).where(
        table.c.kind == kind, table.c.terminal == terminal, table.c.digest == digest
    )
    if connection.scalars(known).first() is None:
        connection.execute(insert(table).values(at=at, kind=kind, terminal=terminal, digest=digest))
