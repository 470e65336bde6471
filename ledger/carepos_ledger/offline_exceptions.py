"""Sales made without the ledger that a person looks at: listed, and closed with a note.

Closing moves no money: what is to be paid or charged is an operator's own act (docs/offline.md §8).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text, update

from carepos import clock, ids, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem

EXCEPTIONS_AT_ONCE = 500


class OfflineExceptions:
    """What operators read and close. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def listed(self, after: int = 0) -> list[dict[str, Any]]:
        """At most 500 numbered above `after`; none comes in between later. `receipt_no` is the
        sale's, as till and receipt have it; None where the ledger doesn't know the sale's record.
        """
        strict_json.integer(after, "after", high=2**31 - 1)
        table, records, terminals = schema.exceptions.c, schema.records.c, schema.terminals.c
        attempts, sale = schema.attempts.c, schema.records.alias("sale")

        def work(connection: Any) -> list[dict[str, Any]]:
            if not self._database.is_sqlite:
                # Numbers are given out before their transactions commit: wait for those under way.
                connection.execute(text("LOCK TABLE exceptions IN SHARE MODE"))
            rows = connection.execute(
                select(
                    schema.exceptions,
                    records.occurred_at,
                    terminals.terminal_no,
                    terminals.merchant,
                    terminals.store,
                    sale.c.sequence,
                )
                .join(
                    schema.records,
                    (records.bucket == table.bucket) & (records.digest == table.digest),
                )
                .join(schema.terminals, terminals.terminal == table.terminal)
                # What is listed is the acceptance; receipts bear the number of the sale's record.
                .outerjoin(
                    schema.attempts,
                    (attempts.bucket == records.bucket)
                    & (attempts.terminal == records.terminal)
                    & (attempts.id == records.id),
                )
                .outerjoin(
                    sale,
                    (sale.c.bucket == attempts.bucket) & (sale.c.digest == attempts.record_sha256),
                )
                .where(table.n > after)
                .order_by(table.n)
                .limit(EXCEPTIONS_AT_ONCE)
            ).mappings()
            return [
                {
                    "exception": row["n"],
                    "state": "open" if row["closed_at"] is None else "closed",
                    "receipt_no": None
                    if row["sequence"] is None
                    else ids.receipt_no(row["terminal_no"], row["sequence"]),
                    "reason": row["reason"],
                    "liability": row["liability"],
                    "amount_minor": row["amount_minor"],
                    "currency": row["currency"],
                    "merchant": row["merchant"],
                    "store": row["store"],
                    "terminal": row["terminal"],
                    "occurred_at": row["occurred_at"],
                    "recorded_at": row["at"],
                    "closed_at": row["closed_at"],
                    "note": row["note"],
                }
                for row in rows
            ]

        return act(self._database, work)

    def close(self, n: int, note: str, *, operator: str) -> Done:
        """Close one, for good, with what was done. Raises Malformed, Problem `not_found`,
        `already_exists_differently`."""
        strict_json.integer(n, "exception", low=1, high=2**31 - 1)
        strict_json.text(note, "note", high=200)
        if not note.strip():
            raise Malformed("must say something", field="note")
        table = schema.exceptions

        def work(connection: Any) -> Done:
            held = find(connection, table, {"n": n}, for_update=True)
            if held is None:
                raise Problem("not_found", "no such exception", field="exception")
            if held.closed_at is not None:
                if held.note == note:
                    return "exists"
                raise Problem("already_exists_differently", "it was closed before", field="note")
            connection.execute(
                update(table)
                .where(table.c.n == n)
                .values(closed_at=clock.to_text(self._now()), closed_by=operator, note=note)
            )
            return "changed"

        return act(self._database, work)
