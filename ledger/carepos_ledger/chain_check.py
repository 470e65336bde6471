"""Whether what a terminal sends is one chain (docs/offline.md §9); a second line is a fork.

All of it is in the terminal's own short transaction, which locks the terminal's row first: so
neighbours that arrive at two servers at one moment see each other, and other terminals wait for
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sqlalchemy import Connection, select, tuple_, update

from carepos.outcome import HeldReason
from carepos.record import Record
from carepos_ledger import schema, terminal_keys
from carepos_ledger.shelf import Command

QUARANTINED: Final[Mapping[str, HeldReason]] = {
    "revoked": "terminal_revoked",
    "forked": "terminal_forked",
}
"""Statuses in which nothing of a terminal is decided any more but by people."""

ALARM: Final = "fork"

Place = tuple[str, str, int]
"""(terminal, incarnation, sequence)."""


class Link(NamedTuple):
    """A record as its chain sees it; `has_bucket` is False where it was noted before its bucket
    was kept."""

    digest: str
    prev: str
    has_bucket: bool = True


@dataclass(slots=True)
class Checked:
    """A batch held against its chains, in order.

    `admitted` may be decided: by digest, with the status that their terminal had; `new` of them
    were not noted before, `unplaced` were, without their bucket. `held` may not, and why. `forks`
    are the records that contradicted: one for each terminal that became forked here, and those
    under a key that is closed.
    """

    admitted: dict[str, str] = field(default_factory=dict)
    new: list[Command] = field(default_factory=list)
    unplaced: list[Command] = field(default_factory=list)
    held: dict[str, HeldReason] = field(default_factory=dict)
    forks: list[Command] = field(default_factory=list)


def lock(connection: Connection, batch: Sequence[Command]) -> dict[str, str]:
    """The status of each terminal of the batch; nobody else notes a record of theirs, or changes
    their status, until this transaction ends. Always in one order."""
    return lock_terminals(connection, {c.record.terminal for c in batch})


def lock_terminals(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """As `lock`, of terminals by name."""
    table = schema.terminals.c
    rows = connection.execute(
        select(table.terminal, table.status)
        .where(table.terminal.in_(sorted(set(names))))
        .order_by(table.terminal)
        # NO KEY UPDATE: rows that only refer to the terminal need not wait.
        .with_for_update(key_share=True)
    )
    return {row.terminal: row.status for row in rows}


def check(connection: Connection, batch: Sequence[Command], statuses: dict[str, str]) -> Checked:
    """Hold records of locked terminals against what was noted of their chains.

    `statuses` is of those terminals, and follows what is found. A contradiction under a key whose
    place another one has taken is held alone: else whoever copied a key could stop the till that
    changed it.
    """
    found = Checked()
    links = _read(connection, [c for c in batch if statuses[c.record.terminal] not in QUARANTINED])
    for command in batch:
        record = command.record
        if statuses[record.terminal] not in QUARANTINED and contradicts(links, record):
            found.forks.append(command)
            if terminal_keys.is_closed(connection, record.kid):
                found.held[record.digest] = QUARANTINED["forked"]
                continue
            statuses[record.terminal] = "forked"
        status = statuses[record.terminal]
        if status in QUARANTINED:
            found.held[record.digest] = QUARANTINED[status]
            continue
        found.admitted[record.digest] = status
        noted = links.get(place(record))
        if noted is None:
            links[place(record)] = Link(record.digest, record.prev)
            found.new.append(command)
        elif not noted.has_bucket:
            found.unplaced.append(command)
    return found


def contradicts(links: Mapping[Place, Link], record: Record) -> bool:
    """Whether this record and what is held at its number, or beside it, are two lines."""
    terminal, incarnation, sequence = place(record)
    own = links.get((terminal, incarnation, sequence))
    if own is not None:
        return own.digest != record.digest
    before = links.get((terminal, incarnation, sequence - 1))
    behind = links.get((terminal, incarnation, sequence + 1))
    return (before is not None and before.digest != record.prev) or (
        behind is not None and behind.prev != record.digest
    )


def place(record: Record) -> Place:
    return record.terminal, record.incarnation, record.sequence


def mark_forked(connection: Connection, statuses: Mapping[str, str], checked: Checked) -> None:
    """From here on those terminals are forked that `check` found to be."""
    stop(
        connection,
        {c.record.terminal for c in checked.forks if statuses[c.record.terminal] == "forked"},
    )


def stop(connection: Connection, terminals: Collection[str]) -> None:
    """From here on these are forked, but for those that are revoked."""
    table = schema.terminals
    if terminals:
        connection.execute(
            update(table)
            .where(table.c.terminal.in_(sorted(terminals)), table.c.status != "revoked")
            .values(status="forked")
        )


def news(connection: Connection, forks: Sequence[Command]) -> list[Command]:
    """Those of these contradictions of which no operator was told yet."""
    if not forks:
        return []
    table = schema.alarms.c
    told = set(
        connection.scalars(
            select(table.digest).where(
                table.kind == ALARM, table.digest.in_([c.record.digest for c in forks])
            )
        )
    )
    return [c for c in forks if c.record.digest not in told]


def further_journals(connection: Connection, new: Sequence[Command]) -> list[Command]:
    """Those of records that begin a journal whose terminal has written another one before: it was
    made anew, or the key is on two machines."""
    table = schema.terminal_notes.c
    return [
        c
        for c in new
        if c.record.sequence == 1
        and connection.scalars(
            select(table.incarnation)
            .where(table.terminal == c.record.terminal)
            .where(table.incarnation != c.record.incarnation)
            .limit(1)
        ).first()
        is not None
    ]


def _read(connection: Connection, batch: Sequence[Command]) -> dict[Place, Link]:
    """What is noted at the numbers of these records, and at those beside them."""
    if not batch:
        return {}
    near = {
        (c.record.terminal, c.record.incarnation, c.record.sequence + step)
        for c in batch
        for step in (-1, 0, 1)
    }
    table = schema.terminal_notes.c
    rows = connection.execute(
        select(schema.terminal_notes).where(
            tuple_(table.terminal, table.incarnation, table.sequence).in_(sorted(near))
        )
    )
    return {
        (row.terminal, row.incarnation, row.sequence): Link(
            row.digest, row.prev, row.bucket is not None
        )
        for row in rows
    }
