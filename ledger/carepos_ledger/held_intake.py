"""The held intake: what only people can decide is kept, signed for, and decided by nobody yet.

Of a quarantined till that is everything, written in its own short transaction (`chain_check`),
under its lock; of any other, sales that went out of the door, written where they were judged.
`held_rulings` decides later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, insert, select, tuple_, update

from carepos import clock, outcome
from carepos.acceptance import AcceptOffline
from carepos.outcome import HeldReason
from carepos_ledger import held_proof, schema
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Decided, NewHeld, Shelf

MAX_HELD: Final = 10_000
"""Undecided records of one terminal; then it is answered a problem, and keeps what it has."""


def hold(
    connection: Connection,
    commands: Sequence[Command],
    reasons: Mapping[str, HeldReason],
    *,
    shelf: Shelf,
    keyring: Keyring,
    now: datetime,
) -> dict[str, Decided | Problem]:
    """The held outcome of each undecided record of locked terminals, by digest: the one it has, or
    a new one. `shelf` has what was read about their identities.

    A terminal with MAX_HELD undecided records gets the problem of its status instead.
    """
    known = {row.digest: row for row in _known(connection, commands)}
    answers: dict[str, Decided | Problem] = {}
    made: list[NewHeld] = []
    room = _room(connection, [c for c in commands if c.record.digest not in known])
    for command in commands:
        record = command.record
        proof = held_proof.columns(command, shelf, keyring, now)
        row = known.get(record.digest)
        if row is not None:
            answers[record.digest] = Decided("held", row.outcome)
            if row.proof is None and proof["proof"] is not None:
                # It came without its token first, perhaps from somebody else who replayed it.
                _keep_proof(connection, row.n, proof)
            continue
        if room[record.terminal] == 0:
            detail = f"{MAX_HELD} records of this till wait to be looked at"
            answers[record.digest] = Problem(reasons[record.digest], detail)
            continue
        room[record.terminal] -= 1
        held = _signed(command, reasons[record.digest], keyring, now)
        answers[record.digest] = held
        made.append(NewHeld(command, reasons[record.digest], held))
    write(connection, made, shelf=shelf, keyring=keyring, now=now)
    return answers


def write(
    connection: Connection,
    made: Sequence[NewHeld],
    *,
    shelf: Shelf,
    keyring: Keyring,
    now: datetime,
) -> None:
    """Keep records that are held from now on."""
    rows = [
        {
            "bucket": each.command.record.bucket,
            "digest": each.command.record.digest,
            "terminal": each.command.record.terminal,
            "id": each.command.record.id,
            "kind": each.command.record.kind,
            "incarnation": each.command.record.incarnation,
            "sequence": each.command.record.sequence,
            "occurred_at": clock.to_text(each.command.record.occurred_at),
            "held_at": clock.to_text(now),
            "reason": each.reason,
            "jws": each.command.record.jws.encode("ascii"),
            "outcome": each.decided.jws,
            **held_proof.columns(each.command, shelf, keyring, now, each.refusal),
        }
        for each in made
    ]
    if rows:
        connection.execute(insert(schema.held_records), rows)


def read_held(connection: Connection, commands: Sequence[Command]) -> dict[str, Decided]:
    """By digest, the held outcomes of those of these that nobody has decided. Asked only of sales
    that went out of the door: no other is held while its terminal is not quarantined."""
    late = [
        c
        for c in commands
        if c.ruling is None and (c.is_late or isinstance(c.record.content, AcceptOffline))
    ]
    if not late:
        return {}
    return {
        row.digest: Decided("held", row.outcome)
        for row in _known(connection, late)
        if row.resolved_at is None
    }


def digests_held(connection: Connection, keys: Sequence[tuple[int, str]]) -> set[str]:
    """Which of these (bucket, digest) are in the held intake, decided or not."""
    if not keys:
        return set()
    table = schema.held_records.c
    return set(
        connection.scalars(
            select(table.digest).where(tuple_(table.bucket, table.digest).in_(sorted(keys)))
        )
    )


def _known(connection: Connection, commands: Sequence[Command]) -> Sequence[Any]:
    table = schema.held_records.c
    keys = sorted((c.record.bucket, c.record.digest) for c in commands)
    return connection.execute(
        select(table.n, table.digest, table.outcome, table.proof, table.resolved_at).where(
            tuple_(table.bucket, table.digest).in_(keys)
        )
    ).all()


def _room(connection: Connection, commands: Sequence[Command]) -> dict[str, int]:
    """How many more records of each terminal may be held."""
    table = schema.held_records.c
    terminals = sorted({c.record.terminal for c in commands})
    found = dict.fromkeys(terminals, MAX_HELD)
    rows = connection.execute(
        select(table.terminal, func.count())
        .where(table.terminal.in_(terminals), table.resolved_at.is_(None))
        .group_by(table.terminal)
    )
    return {**found, **{terminal: max(0, MAX_HELD - count) for terminal, count in rows}}


def _signed(command: Command, reason: HeldReason, keyring: Keyring, now: datetime) -> Decided:
    body = outcome.payload(
        "held", command.record, recorded_at=now, epoch=keyring.epoch, reason=reason
    )
    return Decided("held", outcome.sign(body, keyring.signing))


def _keep_proof(connection: Connection, n: int, proof: Mapping[str, Any]) -> None:
    table = schema.held_records
    connection.execute(
        update(table).where(table.c.n == n, table.c.resolved_at.is_(None)).values(**proof)
    )
