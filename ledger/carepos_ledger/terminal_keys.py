"""The table of terminals' keys: found by kid, closed, added, listed. Rules are in `key_rules`.

Finding a key is one statement per request, as before there were several. Whatever else is asked
here is asked only for a batch with a `key_change`, or with the first record under a new key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, insert, or_, select, update

from carepos.keys import PublicKey
from carepos.record import KeyChange
from carepos_ledger import key_rules, schema
from carepos_ledger.database import Database
from carepos_ledger.key_rules import ENROLLED, TerminalKey
from carepos_ledger.shelf import Command, Terminal


class InUse(NamedTuple):
    """What operators are told: the key that signs, since when it is known, and whether another one
    waits to take its place."""

    kid: str
    since: str
    changing: bool


def find(database: Database, kid: str) -> Terminal | None:
    """The terminal that has or had this key, whatever its status, and how the key stands."""
    keys, terminals = schema.terminal_keys, schema.terminals
    with database.read() as connection:
        row = connection.execute(
            select(
                keys,
                terminals.c.terminal_no,
                terminals.c.merchant,
                terminals.c.store,
                terminals.c.status,
            )
            .join(terminals, terminals.c.terminal == keys.c.terminal)
            .where(keys.c.kid == kid)
        ).one_or_none()
    if row is None:
        return None
    return Terminal(
        row.terminal,
        row.terminal_no,
        row.merchant,
        row.store,
        row.kid,
        row.x,
        row.status,
        _key(row),
    )


def enrol(connection: Connection, terminal: str, key: PublicKey, since: str) -> None:
    """Note the key that a terminal enrols with."""
    connection.execute(
        insert(schema.terminal_keys).values(
            kid=key.kid,
            terminal=terminal,
            x=key.x,
            since=since,
            first_incarnation=ENROLLED[0],
            first_sequence=ENROLLED[1],
        )
    )


def in_use(connection: Connection) -> dict[str, InUse]:
    """By terminal, the key in use."""
    table = schema.terminal_keys
    rows = connection.execute(select(table).where(table.c.until_sequence.is_(None))).all()
    waiting = {row.terminal for row in rows if row.first_sequence is None}
    return {
        row.terminal: InUse(row.kid, row.since, row.terminal in waiting)
        for row in rows
        if row.first_sequence is not None
    }


def is_closed(connection: Connection, kid: str) -> bool:
    """Whether another key has taken the place of this one by now, whatever was read before."""
    table = schema.terminal_keys.c
    until = connection.scalars(select(table.until_sequence).where(table.kid == kid))
    return until.one_or_none() is not None


def close_others(connection: Connection, batch: Sequence[Command]) -> set[str]:
    """Close what the batch's first records under new keys close, in the order of the batch;
    digests of the records that come too late behind one."""
    changing = {c.record.terminal for c in batch if key_rules.is_news(c.terminal.key, c.record)}
    if not changing:
        return set()
    keys = _held(connection, changing, ())
    before = dict(keys)
    late = {
        c.record.digest
        for c in batch
        if c.record.terminal in changing and not key_rules.arrive(keys, c.record)
    }
    table = schema.terminal_keys
    for kid in sorted(kid for kid, key in keys.items() if key != before[kid]):
        connection.execute(update(table).where(table.c.kid == kid).values(**_columns(keys[kid])))
    return late


def read_for_changes(connection: Connection, batch: Sequence[Command]) -> dict[str, TerminalKey]:
    """By kid, what the batch's key changes are decided by; nothing is asked where there is none."""
    announced, announcing = set(), set()
    for command in batch:
        if isinstance(command.record.content, KeyChange):
            announced.add(command.record.content.key.kid)
            announcing.add(command.record.terminal)
    return _held(connection, announcing, announced) if announced else {}


def _held(
    connection: Connection, terminals: Iterable[str], kids: Iterable[str]
) -> dict[str, TerminalKey]:
    """All keys of these terminals, and these keys whoever has them, until the transaction ends.

    The terminal's row is the lock: one of its keys could be added beside those that are locked.
    """
    wanted = sorted(terminals)
    owners, table = schema.terminals.c, schema.terminal_keys
    connection.execute(
        select(owners.terminal)
        .where(owners.terminal.in_(wanted))
        .order_by(owners.terminal)
        .with_for_update(key_share=True)
    ).all()
    rows = connection.execute(
        select(table).where(or_(table.c.terminal.in_(wanted), table.c.kid.in_(sorted(kids))))
    )
    return {row.kid: _key(row) for row in rows}


def write(connection: Connection, made: Sequence[tuple[str, PublicKey]], since: str) -> None:
    """Add the keys that were announced, each with its terminal."""
    if made:
        connection.execute(
            insert(schema.terminal_keys),
            [
                {"kid": key.kid, "terminal": terminal, "x": key.x, "since": since}
                for terminal, key in made
            ],
        )


def _key(row: Row[Any]) -> TerminalKey:
    return TerminalKey(
        row.terminal,
        None if row.first_sequence is None else (row.first_incarnation, row.first_sequence),
        None if row.until_sequence is None else (row.until_incarnation, row.until_sequence),
    )


def _columns(key: TerminalKey) -> dict[str, str | int | None]:
    first, until = key.first or (None, None), key.until or (None, None)
    return {
        "first_incarnation": first[0],
        "first_sequence": first[1],
        "until_incarnation": until[0],
        "until_sequence": until[1],
    }
