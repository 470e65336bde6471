"""Withdrawing keys, tokens and cards (docs/identity.md §9): what operators do with the list."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert, select, update

from carepos import clock, ids, strict_json
from carepos.clock import Clock
from carepos.issuer_keys import issuer_text, kid_text
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem
from carepos_ledger.programmes import raise_rules
from carepos_ledger.trust import REVOCATIONS_VERSION

Kind = Literal["key", "token"]


class Revoking:
    """The list of what is withdrawn. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def key(self, iss: str, kid: str, *, reason: str) -> Done:
        """Stop believing one key of an issuer at once. For ever: it can't be taken back."""
        return self._withdraw(iss, "key", kid_text(kid), reason, None)

    def token(
        self, iss: str, jti_sha256: str, *, reason: str, until: datetime | None = None
    ) -> Done:
        """Withdraw a token or a card. `until`: its `exp`, after which the entry may go."""
        name = ids.digest_text(jti_sha256, "jti_sha256")
        return self._withdraw(iss, "token", name, reason, until)

    def all(self, *, after: int = 0, most: int = 1_000) -> list[dict[str, Any]]:
        """What is withdrawn, why and since when: `most` of them after the first `after`, oldest
        first. Raises Malformed."""
        strict_json.integer(after, "after", high=2**31 - 1)
        table = schema.revocations
        query = (
            select(table)
            .order_by(table.c.at, table.c.iss, table.c.kind, table.c.name)
            .offset(after)
            .limit(most)
        )
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def forget_expired(self) -> int:
        """Drop the entries of tokens whose `exp` has passed; how many."""
        at = clock.to_text(self._now())
        table = schema.revocations

        def work(connection: Connection) -> int:
            gone = connection.execute(
                delete(table).where(table.c.kind == "token", table.c.until <= at)
            ).rowcount
            if gone:
                _raise_version(connection)
            return gone

        return act(self._database, work)

    def _withdraw(
        self, iss: str, kind: Kind, name: str, reason: str, until: datetime | None
    ) -> Done:
        key = {"iss": issuer_text(iss), "kind": kind, "name": name}
        why = strict_json.text(reason, "reason", high=200)

        def work(connection: Connection) -> Done:
            if find(connection, schema.issuers, {"iss": iss}) is None:
                raise Problem("not_found", "no such issuer", field="iss")
            if find(connection, schema.revocations, key) is not None:
                return "exists"
            connection.execute(
                insert(schema.revocations).values(
                    **key,
                    reason=why,
                    at=clock.to_text(self._now()),
                    until=None if until is None else clock.to_text(until),
                )
            )
            _raise_version(connection)
            # By their programme's number tills see that their pack is behind.
            raise_rules(connection, lambda rules: bool(rules["issuer"] == iss))
            return "created"

        return act(self._database, work)


def _raise_version(connection: Connection) -> None:
    table = schema.meta
    key = {"name": REVOCATIONS_VERSION}
    held = find(connection, table, key, for_update=True)
    if held is None:
        connection.execute(insert(table).values(**key, value="1"))
    else:
        connection.execute(
            update(table)
            .where(table.c.name == REVOCATIONS_VERSION)
            .values(value=str(int(held.value) + 1))
        )
