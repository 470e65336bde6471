"""Whether what tills offer of a lost part of the book is one line of a chain (docs/offline.md §12).

A till and its copy count with the same numbers, and people may have decided what both of them sold:
all of it is booked again. But then a number says nothing of whose record it is, and the terminal is
stopped as by any other fork (§9).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, tuple_

from carepos import record
from carepos.record import Record
from carepos_ledger import chain_check, evidence_rows, schema, terminal_keys
from carepos_ledger.chain_check import Place, place

_Known = dict[Place, dict[str, str | None]]
"""By number of a chain the records that are noted, or were offered: by digest, the one before it,
as far as that can still be read."""


def find(connection: Connection, offered: Sequence[Record], at: str) -> None:
    """Stop the terminals of records that contradict what is known beside them, and tell the
    operator, once of each. One whose key another has taken the place of stops nothing."""
    # Till and copy may come to two servers at one moment: one of them sees the other.
    statuses = chain_check.lock_terminals(connection, {each.terminal for each in offered})
    known = _near(connection, offered)
    for each in offered:
        if statuses[each.terminal] in chain_check.QUARANTINED or not _contradicts(known, each):
            continue
        evidence_rows.alarm(connection, chain_check.ALARM, each.terminal, each.digest, at)
        if not terminal_keys.is_closed(connection, each.kid):
            statuses[each.terminal] = "forked"
            chain_check.stop(connection, {each.terminal})


def is_known(connection: Connection, terminal: str) -> bool:
    """Whether records of this terminal contradict each other, or may: what one that is revoked
    sends nobody looks at."""
    alarms, terminals = schema.alarms.c, schema.terminals.c
    status = connection.scalars(select(terminals.status).where(terminals.terminal == terminal))
    if status.one() in chain_check.QUARANTINED:
        return True
    told = select(alarms.n).where(alarms.terminal == terminal, alarms.kind == chain_check.ALARM)
    return connection.scalars(told.limit(1)).first() is not None


def _contradicts(known: _Known, each: Record) -> bool:
    terminal, incarnation, sequence = place(each)
    own, before, behind = (
        known.get((terminal, incarnation, sequence + step), {}) for step in (0, -1, 1)
    )
    return (
        bool(own.keys() - {each.digest})
        or bool(before.keys() - {each.prev})
        or bool(set(behind.values()) - {each.digest, None})
    )


def _near(connection: Connection, offered: Sequence[Record]) -> _Known:
    """What is known at the numbers of these records, and at those beside them."""
    near = sorted(
        {
            (each.terminal, each.incarnation, each.sequence + step)
            for each in offered
            for step in (-1, 0, 1)
        }
    )
    found: _Known = {}
    notes, told = schema.terminal_notes.c, schema.heal_evidence.c
    for row in connection.execute(
        select(schema.terminal_notes).where(
            tuple_(notes.terminal, notes.incarnation, notes.sequence).in_(near)
        )
    ):
        found.setdefault((row.terminal, row.incarnation, row.sequence), {})[row.digest] = row.prev
    for row in connection.execute(
        select(told.terminal, told.incarnation, told.sequence, told.digest, told.record).where(
            tuple_(told.terminal, told.incarnation, told.sequence).in_(near)
        )
    ):
        at = found.setdefault((row.terminal, row.incarnation, row.sequence), {})
        if at.get(row.digest) is None:
            at[row.digest] = None if row.record is None else _prev(row.record, row.digest)
    return found


def _prev(text: bytes, digest: str) -> str:
    return record.vouched_for(bytes(text).decode("ascii"), sha256=digest).prev
