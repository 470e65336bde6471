"""What is held about a person, for the person: `carepos ledger export-person` (docs/privacy.md)."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, select

from carepos import clock
from carepos.clock import Clock
from carepos_ledger import accounts, schema
from carepos_ledger.database import Database
from carepos_ledger.person import Person, Who, find_person, vouchers_of

LINES_KEPT = ("line", "category", "quantity", "programme_minor", "beneficiary_minor")


def export(database: Database, who: Who, now: Clock) -> dict[str, Any]:
    """A JSON object; amounts are minor units. Nobody else is named in it, an actor neither.

    Raises Problem `not_found`.
    """
    with database.read() as connection:
        person = find_person(connection, who)
        return {
            "as_of": clock.to_text(now()),
            "iss": person.iss,
            "sub": person.sub,
            "vouchers": [_voucher(connection, row) for row in vouchers_of(connection, person)],
            "lists": _lists(connection, person),
            "cards": _cards(connection, person),
            "acted_for_me": _acted(connection, person, as_actor=False),
            "acted_by_me": _acted(connection, person, as_actor=True),
            "disputes": _disputes(connection, person),
            "waiting_to_be_decided": _waiting(connection, person),
            **_home(connection, person),
        }


def _voucher(connection: Connection, row: Any) -> dict[str, Any]:
    return {
        "voucher": row["voucher"],
        "programme": row["programme"],
        "kind": row["kind"],
        "label": row["label"],
        "categories": json.loads(row["categories"]),
        "starts_at": row["starts_at"],
        "expires_at": row["expires_at"],
        "frozen": bool(row["frozen"]),
        "stopped_by_me_at": _stopped_at(connection, row),
        "currency": row["currency"],
        "available_minor": row["available_minor"],
        "saved_minor": row["saved_minor"],
        "available_quantity": row["available_quantity"],
        "history": _history(connection, row),
    }


def _home(connection: Connection, person: Person) -> dict[str, Any]:
    """Where their vouchers are set aside, for a shop that redeems without a network, and whether
    an operator said so."""
    table = schema.homes.c
    row = connection.execute(
        select(table.store, table.pinned).where(
            table.bucket == person.bucket, table.beneficiary == person.beneficiary
        )
    ).one_or_none()
    return {
        "home_store": None if row is None else row.store,
        "home_pinned": row is not None and bool(row.pinned),
    }


def _stopped_at(connection: Connection, voucher: Any) -> str | None:
    table = schema.voucher_stops.c
    return connection.scalars(
        select(table.stopped_at).where(
            table.bucket == voucher["bucket"], table.voucher == voucher["voucher"]
        )
    ).one_or_none()


def _history(connection: Connection, voucher: Any) -> list[dict[str, Any]]:
    """Each booking that moved it: when, where, how much, of which kinds of goods, and how much of
    which line of a redemption came back."""
    entries, postings, lines = schema.entries.c, schema.postings.c, schema.lines.c
    moved = connection.execute(
        select(
            postings.posting,
            postings.kind,
            postings.recorded_at,
            postings.merchant,
            postings.store,
            entries.unit,
            entries.amount,
        )
        .join(
            schema.postings,
            (postings.bucket == entries.bucket) & (postings.posting == entries.posting),
        )
        .where(
            entries.bucket == voucher["bucket"],
            entries.holder == voucher["voucher"],
            entries.account.in_([accounts.AVAILABLE, accounts.SAVED]),
        )
        .order_by(postings.recorded_at, postings.posting, entries.n)
    )
    found: dict[str, dict[str, Any]] = {}
    for row in moved:
        each = found.setdefault(
            row.posting,
            {
                "at": row.recorded_at,
                "kind": row.kind,
                "merchant": row.merchant,
                "store": row.store,
                "moved": {},
                "lines": [],
                "returned": [],
            },
        )
        each["moved"][row.unit] = each["moved"].get(row.unit, 0) + row.amount
    for line in connection.execute(
        select(schema.lines)
        .where(lines.bucket == voucher["bucket"], lines.posting.in_(list(found)))
        .where(lines.voucher == voucher["voucher"])
        .order_by(lines.posting, lines.line)
    ).mappings():
        found[line["posting"]]["lines"].append({name: line[name] for name in LINES_KEPT})
    returned = schema.returned_lines.c
    for back in connection.execute(
        select(returned.posting, returned.line, returned.quantity)
        .where(returned.bucket == voucher["bucket"], returned.posting.in_(list(found)))
        .order_by(returned.posting, returned.line)
    ):
        found[back.posting]["returned"].append({"line": back.line, "quantity": back.quantity})
    return list(found.values())


def _lists(connection: Connection, person: Person) -> list[dict[str, Any]]:
    """That they stand in lists: the keyed hash of an ID number, whose key is the office's."""
    table = schema.enrolments.c
    rows = connection.execute(
        select(table.import_key_id, table.ref)
        .where(table.bucket == person.bucket, table.beneficiary == person.beneficiary)
        .order_by(table.import_key_id, table.ref)
    )
    return [dict(row) for row in rows.mappings()]


def _cards(connection: Connection, person: Person) -> list[dict[str, Any]]:
    cards, visits = schema.cards.c, schema.pin_visits.c
    found = []
    for card in connection.execute(
        select(cards.iss, cards.jti_sha256, cards.wrong_tries)
        .where(cards.bucket == person.bucket, cards.beneficiary == person.beneficiary)
        .order_by(cards.iss, cards.jti_sha256)
    ).mappings():
        proved = connection.execute(
            select(visits.terminal, visits.proved_at)
            .where(visits.bucket == person.bucket)
            .where(visits.iss == card["iss"], visits.jti_sha256 == card["jti_sha256"])
            .order_by(visits.proved_at)
        )
        found.append({**card, "pin_proved": [dict(row) for row in proved.mappings()]})
    return found


def _disputes(connection: Connection, person: Person) -> list[dict[str, Any]]:
    """What they said they had not bought, and what they were answered."""
    table = schema.disputes.c
    rows = connection.execute(
        select(table.reason, table.state, table.opened_at, table.answered_at, table.answer)
        .where(table.bucket == person.bucket, table.beneficiary == person.beneficiary)
        .order_by(table.opened_at, table.n)
    )
    return [dict(row) for row in rows.mappings()]


def _waiting(connection: Connection, person: Person) -> list[dict[str, Any]]:
    """What stopped tills sent in their name, or in another's for whom they acted, and nobody has
    decided yet."""
    table, terminals = schema.held_records.c, schema.terminals.c
    theirs = (table.bucket == person.bucket) & (table.beneficiary == person.beneficiary)
    rows = connection.execute(
        select(
            table.kind,
            table.occurred_at,
            table.held_at,
            table.reason,
            terminals.merchant,
            terminals.store,
        )
        .join(schema.terminals, terminals.terminal == table.terminal)
        .where(theirs | (table.actor_sha256 == person.actor))
        .order_by(table.held_at, table.n)
    )
    return [dict(row) for row in rows.mappings()]


def _acted(connection: Connection, person: Person, *, as_actor: bool) -> list[dict[str, Any]]:
    table = schema.acted.c
    if as_actor:
        mine = table.actor_sha256 == person.actor
    else:
        mine = (table.bucket == person.bucket) & (table.beneficiary == person.beneficiary)
    rows = connection.execute(
        select(table.programme, table.way, table.reason, table.amount_minor, table.recorded_at)
        .where(mine)
        .order_by(table.recorded_at, table.posting)
    )
    return [dict(row) for row in rows.mappings()]
