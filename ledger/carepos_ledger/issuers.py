"""The issuers whose tokens count, and when a newer set of their keys replaces the one held."""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy import Connection, insert, update

from carepos import strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.issuer_keys import MAX_KEYS, IssuerKey, IssuerKeys, SetRefused
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import raise_rules

_REMEDY: Final = "list an old key beside the new ones, or confirm that all keys are replaced"


class Issuers:
    """What operators say about issuers. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def put(self, iss: str, keys: list[Any], *, confirmed: bool = False) -> Done:
        """Believe an issuer's public JWKs from now on.

        A key that is not among them any more is believed for another day; a set that shares none
        with the one held needs to be `confirmed`, and then replaces it at once. Tills learn of it
        by their programmes' new rules. Raises Malformed, Problem already_exists_differently.
        """
        if not strict_json.text(iss, "iss").isascii():
            raise Malformed("must be ASCII", field="iss")
        listed = strict_json.array(keys, "keys", low=1, high=MAX_KEYS)
        wanted = IssuerKeys.of(map(IssuerKey.from_jwk, listed), self._now())
        return act(self._database, lambda connection: replace(connection, iss, wanted, confirmed))


def replace(connection: Connection, iss: str, wanted: IssuerKeys, confirmed: bool) -> Done:
    """Write `wanted` in place of the set held, as docs/identity.md §3 allows it."""
    table = schema.issuers
    row = find(connection, table, {"iss": iss}, for_update=True)
    if row is None:
        connection.execute(insert(table).values(iss=iss, keys=_text(wanted)))
        return "created"
    held = IssuerKeys.from_json(json.loads(row.keys))
    try:
        made = held.replaced_by(wanted, confirmed=confirmed)
    except SetRefused as error:
        raise Problem("already_exists_differently", f"{error}: {_REMEDY}", field="keys") from None
    changed = (dict(made.keys), made.retiring) != (dict(held.keys), held.retiring)
    connection.execute(
        update(table).where(table.c.iss == iss).values(keys=_text(made), problem=None)
    )
    if not changed:
        return "exists"
    raise_rules(connection, lambda rules: bool(rules["issuer"] == iss))
    return "changed"


def _text(keys: IssuerKeys) -> str:
    return json.dumps(keys.to_json(), sort_keys=True)
