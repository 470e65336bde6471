"""The write path for what was decided before: booked as it was, and never held.

A till that was stopped since still has what it was answered before, and of a till and its copy,
which count with the same numbers, both lines are booked (`evidence_forks`). All else is `book`'s.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, update

from carepos import clock
from carepos_ledger import chain_check, chain_progress, schema, terminal_keys
from carepos_ledger.book import Book
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Command, Decided


class ReplayBook(Book):
    """Posts records with a decider that knows their answers (`Book.__init__`)."""

    def _note(
        self, batch: list[Command], wait: bool, statuses: dict[str, str]
    ) -> dict[str, Decided | Problem]:
        """Note their numbers, as far as no other record has them, and which keys they close."""
        if not batch:
            return {}
        with self._database.write(wait=wait) as connection:
            found = chain_check.lock(connection, batch)
            late = terminal_keys.close_others(connection, batch)
            good = [c for c in batch if c.record.digest not in late]
            self._write_notes(connection, good, clock.to_text(self._now()))
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
