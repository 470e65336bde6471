"""The write path for what was decided before: booked as it was, and never held.

Chains were checked when these records came first, and a till that was stopped since still has what
it was answered before. All else is `book`'s.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select, tuple_, update

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
        """Note their numbers, and which keys they close. One whose number another record has is
        not decided."""
        if not batch:
            return {}
        answers: dict[str, Decided | Problem] = {}
        with self._database.write(wait=wait) as connection:
            found = chain_check.lock(connection, batch)
            taken = _noted(connection, batch)
            for command in batch:
                if taken.get(chain_check.place(command.record), "") not in (
                    "",
                    command.record.digest,
                ):
                    answers[command.record.digest] = Problem("terminal_forked")
            late = terminal_keys.close_others(
                connection, [c for c in batch if c.record.digest not in answers]
            )
            answers |= dict.fromkeys(late, Problem("signature_invalid"))
            good = [c for c in batch if c.record.digest not in answers]
            self._write_notes(connection, good, clock.to_text(self._now()))
            chain_progress.advance(connection, [c for c in good if chain_progress.waits(c)])
        statuses |= {c.record.digest: found[c.record.terminal] for c in batch}
        return answers


def _noted(connection: Connection, batch: list[Command]) -> dict[chain_check.Place, str]:
    """The digests of the records that have these numbers."""
    table = schema.terminal_notes.c
    rows = connection.execute(
        select(table.terminal, table.incarnation, table.sequence, table.digest).where(
            tuple_(table.terminal, table.incarnation, table.sequence).in_(
                sorted({chain_check.place(c.record) for c in batch})
            )
        )
    )
    return {(row.terminal, row.incarnation, row.sequence): row.digest for row in rows}


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
