"""Where a household shops: the store for whose tills its vouchers are set aside.

It is the store of the latest redemption in a programme that works offline, until an operator pins
another; written only when it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from carepos.record import Redeem
from carepos.token import IdentityToken
from carepos_ledger import schema
from carepos_ledger.shelf import Command, Holder, Shelf


def read(
    connection: Connection, shelf: Shelf, batch: Sequence[Command]
) -> dict[Holder, tuple[str, bool]]:
    """(store, pinned) of whoever redeems in a programme that works offline."""
    wanted = set()
    for command in batch:
        content, identity = command.record.content, command.identity
        if not isinstance(content, Redeem) or not isinstance(identity, IdentityToken):
            continue
        programme = shelf.programmes.get(content.programme)
        person = shelf.beneficiaries.get((identity.iss, identity.sub))
        if programme is not None and programme.offline is not None and person is not None:
            wanted.add(person)
    if not wanted:
        return {}
    table = schema.homes.c
    rows = connection.execute(
        select(schema.homes).where(tuple_(table.bucket, table.beneficiary).in_(sorted(wanted)))
    )
    found: dict[Holder, tuple[str, bool]] = dict.fromkeys(wanted, ("", False))
    found |= {(row.bucket, row.beneficiary): (row.store, bool(row.pinned)) for row in rows}
    return found


def write(connection: Connection, moved: Mapping[Holder, str]) -> None:
    """Whoever redeemed at another store than before, unless an operator pinned it."""
    if not moved:
        return
    rows = [
        {"bucket": bucket, "beneficiary": beneficiary, "store": store, "pinned": 0}
        for (bucket, beneficiary), store in sorted(moved.items())
    ]
    made: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(schema.homes)
    table = schema.homes.c
    connection.execute(
        made.on_conflict_do_update(
            index_elements=[table.bucket, table.beneficiary],
            set_={"store": made.excluded.store},
            where=table.pinned == 0,
        ),
        rows,
    )
