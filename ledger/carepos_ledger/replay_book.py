"""The write path for what was decided before: booked as it was, and never held.

A till that was stopped since still has what it was answered before. Of a till and its copy, which
counted with the same numbers, people had decided what is offered of one line: all of it is booked,
and the terminal is forked again (docs/offline.md §9). All else is `book`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, update

from carepos import clock
from carepos.clock import Clock
from carepos_ledger import chain_check, chain_progress, evidence_rows, schema, terminal_keys
from carepos_ledger.book import Book, Reached, pass_by
from carepos_ledger.database import Database
from carepos_ledger.decide import Decider
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Decided, Shelf


class ReplayBook(Book):
    """Posts records with a decider that knows their answers: `decided_at` is when they were."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        now: Clock,
        decided_at: Clock,
        decider: Callable[[Shelf, Keyring, datetime], Decider],
        reached: Reached = pass_by,
    ) -> None:
        super().__init__(database, keyring, decided_at, reached, decider)
        self._found_at = now

    def _note(
        self, batch: list[Command], wait: bool, statuses: dict[str, str]
    ) -> dict[str, Decided | Problem]:
        """Note their numbers, as far as no other record has them, and which keys they close."""
        if not batch:
            return {}
        now = clock.to_text(self._now())
        with self._database.write(wait=wait) as connection:
            found = chain_check.lock(connection, batch)
            since = dict(found)
            late = terminal_keys.close_others(connection, batch)
            good = [c for c in batch if c.record.digest not in late]
            checked = chain_check.check(connection, good, since)
            self._write_notes(connection, good, now)
            chain_check.mark_forked(connection, since, checked)
            found_at = clock.to_text(self._found_at())
            for each in checked.forks:
                place = each.record.terminal, each.record.digest
                evidence_rows.alarm(connection, chain_check.ALARM, *place, found_at)
            chain_progress.advance(connection, [c for c in good if chain_progress.waits(c)])
        statuses |= {c.record.digest: found[c.record.terminal] for c in batch}
        return dict.fromkeys(late, Problem("signature_invalid"))


def resolve_held(
    connection: Connection, bucket: int, digest: str, *, booked: bool, now: datetime
) -> None:
    """A record that people had decided in what is lost is held no more."""
    table = schema.held_records
    connection.execute(
        update(table)
        .where(table.c.bucket == bucket, table.c.digest == digest, table.c.resolved_at.is_(None))
        .values(
            resolved_at=clock.to_text(now),
            decision="post" if booked else "refuse",
            jws=None,
            proof=None,
            beneficiary=None,
            actor_sha256=None,
        )
    )
