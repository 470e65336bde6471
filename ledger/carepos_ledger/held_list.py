"""What people read of the held intake: what waits, one record in full, a terminal's chains.

A record's bytes are shown without what names a family or its code; they were verified when they
came.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, select, text

from carepos import ids, strict_json
from carepos.keys import unb64
from carepos_ledger import held_proof, schema
from carepos_ledger.actions import act, find
from carepos_ledger.database import Database
from carepos_ledger.decide import MISSING_SHOWN
from carepos_ledger.problems import Problem

HELD_AT_ONCE: Final = 500
NUMBERED: Final = ("redeem", "refund")
"""Kinds of records whose number is that of a receipt."""
# `presentment` is the record's form, not how it was sold: that is what `sold_offline` says.
_NOT_SHOWN: Final = ("beneficiary", "token_sha256", "presentment")


class HeldList:
    """The held intake as operators see it. Safe to call from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listed(self, after: int = 0) -> list[dict[str, Any]]:
        """At most 500 undecided records numbered above `after`; none comes in between later."""
        strict_json.integer(after, "after", high=2**31 - 1)
        table = schema.held_records

        def work(connection: Connection) -> list[dict[str, Any]]:
            if not self._database.is_sqlite:
                # Numbers are given out before their transactions commit: wait for those under way.
                connection.execute(text("LOCK TABLE held_records IN SHARE MODE"))
            rows = connection.execute(
                _query()
                .where(table.c.n > after, table.c.resolved_at.is_(None))
                .order_by(table.c.n)
                .limit(HELD_AT_ONCE)
            ).all()
            return [_shown(row) for row in rows]

        return act(self._database, work)

    def one(self, n: int) -> dict[str, Any]:
        """Everything about one, decided or not; its `content` as long as it is undecided.

        Raises Problem `not_found`.
        """
        strict_json.integer(n, "n", low=1, high=2**31 - 1)
        with self._database.read() as connection:
            row = connection.execute(_query().where(schema.held_records.c.n == n)).one_or_none()
            if row is None:
                raise Problem("not_found", "no such held record", field="n")
            decided = schema.records.c
            result = connection.scalars(
                select(decided.result).where(
                    decided.bucket == row.bucket, decided.digest == row.digest
                )
            ).one_or_none()
            content = None if row.jws is None else dict(_payload(row.jws)["content"])
            for name in _NOT_SHOWN:
                if content is not None:
                    content.pop(name, None)
            return {
                **_shown(row),
                "content": content,
                "resolved_at": row.resolved_at,
                "operator": row.operator,
                "sentence": row.sentence,
                "result": result,
            }

    def chains(self, terminal: str) -> dict[str, Any]:
        """What of a terminal's journals has come: up to which number, the first hundred numbers
        that are missing, the first hundred that are held. Raises Problem `not_found`."""
        ids.name(terminal, "terminal")
        notes, held = schema.terminal_notes.c, schema.held_records.c
        with self._database.read() as connection:
            owner = find(connection, schema.terminals, {"terminal": terminal})
            if owner is None:
                raise Problem("not_found", "no such terminal", field="terminal")
            arrived = _by_incarnation(
                connection.execute(
                    select(notes.incarnation, notes.sequence).where(notes.terminal == terminal)
                ).all()
            )
            waiting = _by_incarnation(
                connection.execute(
                    select(held.incarnation, held.sequence).where(
                        held.terminal == terminal, held.resolved_at.is_(None)
                    )
                ).all()
            )
            ruled = _by_incarnation(
                connection.execute(
                    select(held.incarnation, held.sequence).where(
                        held.terminal == terminal, held.resolved_at.is_not(None)
                    )
                ).all()
            )
        chains = []
        for incarnation in sorted(arrived.keys() | waiting.keys() | ruled.keys()):
            here, kept = arrived.get(incarnation, set()), waiting.get(incarnation, set())
            known = here | kept | ruled.get(incarnation, set())
            gaps = (n for n in range(1, max(known)) if n not in known)
            chains.append(
                {
                    "incarnation": incarnation,
                    "arrived_to": max(here, default=0),
                    "missing": list(islice(gaps, MISSING_SHOWN)),
                    "held": sorted(kept)[:MISSING_SHOWN],
                }
            )
        return {"terminal": terminal, "status": owner.status, "chains": chains}


def _by_incarnation(rows: Sequence[Any]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row.incarnation, set()).add(row.sequence)
    return found


def _query() -> Any:
    held, terminals, stores = schema.held_records, schema.terminals, schema.stores
    return (
        select(held, terminals.c.terminal_no, terminals.c.store, stores.c.name.label("store_name"))
        .join(terminals, terminals.c.terminal == held.c.terminal)
        .join(stores, stores.c.store == terminals.c.store)
    )


def _shown(row: Any) -> dict[str, Any]:
    content = {} if row.jws is None else _payload(row.jws)["content"]
    numbered = row.kind in NUMBERED
    amounts = content.get("allocation") or content.get("parts") or ()
    return {
        "n": row.n,
        "decision": row.decision,
        "terminal": row.terminal,
        "store": row.store,
        "store_name": row.store_name,
        "kind": row.kind,
        "record_sha256": row.digest,
        "incarnation": row.incarnation,
        "sequence": row.sequence,
        "receipt_no": ids.receipt_no(row.terminal_no, row.sequence) if numbered else None,
        "occurred_at": row.occurred_at,
        "held_at": row.held_at,
        "reason": row.reason,
        "sold_offline": bool(row.late),
        "programme": content.get("programme"),
        "currency": content.get("currency"),
        "amount_minor": sum(each["programme_minor"] for each in amounts) if amounts else None,
        "token": _proved(row) if row.kind == "redeem" and row.jws is not None else None,
    }


def _proved(row: Any) -> str:
    """`proved`, `missing`, or the code of what was wrong with it."""
    identity, pin_proved = held_proof.proved_of(row, "")
    if identity is None:
        return "missing"
    if not isinstance(identity, held_proof.KeptIdentity):
        code: str = json.loads(row.proof)["refusal"]["code"]
        return code
    if identity.revoked:
        return "token_revoked"
    return "pin_required" if identity.needs_pin and not pin_proved else "proved"


def _payload(jws: bytes) -> dict[str, Any]:
    return strict_json.read_object(unb64(bytes(jws).decode("ascii").split(".")[1]))
