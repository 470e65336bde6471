"""How far a terminal's chain is decided: an undo waits for every record before it.

`terminal_progress` remembers up to which number all are, so that each record is looked at once and
not again for every undo behind it. It is the terminal's own row, written with its notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from carepos.acceptance import ReturnAllotment
from carepos.undo import Refund, Void
from carepos_ledger import schema
from carepos_ledger.shelf import Command

LOOKED_AT = 2_000
"""Numbers that one look goes through at most."""

Chain = tuple[str, str]
"""(terminal, incarnation)."""


def waits(command: Command) -> bool:
    """Whether this record is decided only when all before it are."""
    return isinstance(command.record.content, Void | Refund | ReturnAllotment)


def advance(connection: Connection, commands: Sequence[Command]) -> None:
    """Note how far the chains of these commands are decided. Repeating it changes nothing."""
    advance_chains(connection, sorted({_chain(command) for command in commands}))


def advance_chains(connection: Connection, chains: Sequence[Chain]) -> dict[Chain, int]:
    """As `advance`; up to which number of each chain every record is decided then."""
    reached = _decided_to(connection, chains)
    rows = []
    for chain in chains:
        before = after = reached.get(chain, 0)
        while (step := _decided_behind(connection, chain, after)) > after:
            after = step
        if after > before:
            rows.append({"terminal": chain[0], "incarnation": chain[1], "decided_to": after})
            reached[chain] = after
    if rows:
        connection.execute(_upsert(connection), rows)
    return reached


def _decided_behind(connection: Connection, chain: Chain, after: int) -> int:
    """The last number behind `after` up to which every record is decided, in one look."""
    for sequence, _, is_decided in _behind(connection, chain, after, after + LOOKED_AT):
        if not is_decided or sequence != after + 1:
            break
        after = sequence
    return after


def read_waiting(
    connection: Connection, commands: Sequence[Command]
) -> dict[str, list[tuple[int, str | None]]]:
    """By digest of each command: the numbers before it that are not decided, with what arrived."""
    reached = _decided_to(connection, sorted({_chain(command) for command in commands}))
    found = {}
    for command in commands:
        low, high = reached.get(_chain(command), 0), command.record.sequence
        top = min(high, low + LOOKED_AT)
        held = {
            sequence: (digest, is_decided)
            for sequence, digest, is_decided in _behind(connection, _chain(command), low, top)
        }
        waiting: list[tuple[int, str | None]] = []
        for sequence in range(low + 1, top):
            digest, is_decided = held.get(sequence, (None, False))
            if not is_decided:
                waiting.append((sequence, digest))
        if top < high:
            waiting.append((top, None))
        found[command.record.digest] = waiting
    return found


def _chain(command: Command) -> Chain:
    return command.record.terminal, command.record.incarnation


def _decided_to(connection: Connection, chains: Sequence[Chain]) -> dict[Chain, int]:
    table = schema.terminal_progress.c
    if not chains:
        return {}
    rows = connection.execute(
        select(schema.terminal_progress).where(
            tuple_(table.terminal, table.incarnation).in_(chains)
        )
    )
    return {(row.terminal, row.incarnation): row.decided_to for row in rows}


def _behind(
    connection: Connection, chain: Chain, low: int, high: int
) -> list[tuple[int, str, bool]]:
    """(sequence, digest, whether it is decided) of what arrived between these numbers."""
    notes, records = schema.terminal_notes.c, schema.records.c
    rows = connection.execute(
        select(notes.sequence, notes.digest, records.digest.is_not(None).label("is_decided"))
        .select_from(
            schema.terminal_notes.outerjoin(
                schema.records,
                and_(records.bucket == notes.bucket, records.digest == notes.digest),
            )
        )
        .where(
            notes.terminal == chain[0],
            notes.incarnation == chain[1],
            notes.sequence > low,
            notes.sequence < high,
        )
        .order_by(notes.sequence)
    )
    return [(row.sequence, row.digest, bool(row.is_decided)) for row in rows]


def _upsert(connection: Connection) -> Any:
    """The row as high as anybody saw it."""
    if connection.dialect.name == "sqlite":
        made: Any = sqlite.insert(schema.terminal_progress)
    else:
        made = postgresql.insert(schema.terminal_progress)
    table = schema.terminal_progress.c
    return made.on_conflict_do_update(
        index_elements=[table.terminal, table.incarnation],
        set_={"decided_to": made.excluded.decided_to},
        where=table.decided_to < made.excluded.decided_to,
    )
