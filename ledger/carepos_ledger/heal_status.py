"""How far the healing is, for the operator: who was heard, what is missing, what needs a person."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from carepos import clock, ids, strict_json
from carepos.clock import Clock
from carepos_ledger import epochs, evidence_rows, healing, restored_rows, schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.held_list import NUMBERED
from carepos_ledger.problems import Problem

MISSING_SHOWN: Final = 20
EXCEPTIONS_AT_ONCE: Final = 500
ROWS_SHOWN: Final = 100


class HealStatus:
    """What operators ask of it. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def to_json(self) -> dict[str, Any]:
        """The answer of `GET /v1/operators/heal` (see /openapi.json)."""
        with self._database.read() as connection:
            progress, epoch = healing.read(connection), epochs.read(connection)
            counts = _by_state(connection, schema.heal_evidence)
            lost = evidence_rows.unseen_loss(connection)
            rows = restored_rows.waiting(connection)
            report = healing.read_report(connection)
            terminals = _terminals(connection, epoch)
            chains = evidence_rows.chains(connection)
            aside = _by_state(connection, schema.heal_allotments)
        missing: dict[str, list[dict[str, Any]]] = {}
        for chain in chains:
            (ranges, _) = act(self._database, partial(evidence_rows.held, chain=chain))
            gaps = evidence_rows.gaps(ranges)[:MISSING_SHOWN]
            if gaps:
                missing.setdefault(chain[0], []).append(
                    {"incarnation": chain[1], "numbers": [list(each) for each in gaps]}
                )
        state = "open"
        if progress is not None:
            state = "opening" if progress.opening else "healing"
        return {
            "state": state,
            "epoch": epoch,
            "since": None if progress is None else progress.since,
            "terminals": [
                {**each, "missing": missing.get(str(each["terminal"]), [])} for each in terminals
            ],
            "evidence": counts,
            "allotments": aside,
            "lost": 0 if progress is not None else lost,
            "paid_not_booked": [
                {
                    "merchant": row.merchant,
                    "programme": row.programme,
                    "batch_no": row.batch_no,
                    "terminal": row.terminal,
                    "sequence": row.sequence,
                    "kind": row.kind,
                    "amount_minor": row.amount_minor,
                    "offered": bool(row.offered),
                }
                for row in rows[:ROWS_SHOWN]
            ],
            "report": report,
        }

    def exceptions(self, after: int) -> list[dict[str, Any]]:
        """At most 500 by number behind `after`: what was decided and could not be booked again.
        `receipt_no` is of a sale or refund; nothing else bears a number of its own."""
        strict_json.integer(after, "after", high=2**31 - 1)
        table = schema.heal_evidence.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(
                    table.n,
                    table.state,
                    table.reason,
                    table.kind,
                    table.result,
                    table.terminal,
                    table.incarnation,
                    table.sequence,
                    table.recorded_at,
                    table.amount_minor,
                    table.currency,
                    table.closed_at,
                    table.note,
                    schema.terminals.c.terminal_no,
                )
                # What a till offered stays in the list, whatever is known of the till.
                .outerjoin(schema.terminals, schema.terminals.c.terminal == table.terminal)
                .where(table.n > after, table.state.in_(("excepted", "closed")))
                .order_by(table.n)
                .limit(EXCEPTIONS_AT_ONCE)
            ).mappings()
            return [
                {
                    **{
                        name: value
                        for name, value in row.items()
                        if name not in ("n", "terminal_no")
                    },
                    "exception": row["n"],
                    "receipt_no": ids.receipt_no(row["terminal_no"], row["sequence"])
                    if row["kind"] in NUMBERED and row["terminal_no"] is not None
                    else None,
                    "state": "open" if row["state"] == "excepted" else "closed",
                }
                for row in rows
            ]

    def close(self, exception: int, note: object, *, operator: str) -> Done:
        """That a person has dealt with it, for good. Moves no money. Raises Problem not_found."""
        strict_json.integer(exception, "exception", low=1, high=2**31 - 1)
        said = strict_json.text(note, "note", high=200)
        table = schema.heal_evidence

        def work(connection: Connection) -> Done:
            held = find(connection, table, {"n": exception}, for_update=True)
            if held is None or held.state not in ("excepted", "closed"):
                raise Problem("not_found", "no such exception", field="exception")
            if held.state == "closed":
                if held.note == said:
                    return "exists"
                raise Problem("already_exists_differently", "it is closed with another note")
            connection.execute(
                update(table)
                .where(table.c.n == exception)
                .values(
                    state="closed",
                    closed_at=clock.to_text(self._now()),
                    closed_by=operator,
                    note=said,
                    record=None,
                    outcome=None,
                )
            )
            return "changed"

        return act(self._database, work)


def _by_state(connection: Connection, table: Any) -> dict[str, int]:
    rows = connection.execute(
        select(table.c.state, func.count().label("pieces")).group_by(table.c.state)
    )
    return {row.state: int(row.pieces) for row in rows}


def _terminals(connection: Connection, epoch: int) -> list[dict[str, Any]]:
    terminals, offered = schema.terminals.c, schema.heal_evidence.c
    heard = evidence_rows.reports(connection, epoch)
    counts: dict[str, int] = dict(
        map(
            tuple,
            connection.execute(select(offered.terminal, func.count()).group_by(offered.terminal)),
        )
    )
    found = []
    for row in connection.execute(
        select(
            terminals.terminal, terminals.terminal_no, terminals.store, terminals.status
        ).order_by(terminals.terminal_no)
    ):
        report = heard.get(row.terminal)
        found.append(
            {
                "terminal": row.terminal,
                "terminal_no": row.terminal_no,
                "store": row.store,
                "status": row.status,
                "heard_at": None if report is None else report.heard_at,
                "complete": report is not None and bool(report.complete),
                "offered": counts.get(row.terminal, 0),
            }
        )
    return found
