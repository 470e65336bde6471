"""Whom the ledger believes: issuers' keys and what is withdrawn, as a verifier of tokens.

Read anew for each request, parsed only when something changed: a key that is withdrawn stops
counting with the request that follows.
"""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import Connection, select

from carepos.clock import Clock
from carepos.issuer_keys import IssuerKeys
from carepos.revocation import Revocations
from carepos.token import TokenVerifier
from carepos_ledger import schema
from carepos_ledger.database import Database

REVOCATIONS_VERSION = "revocations_version"
"""Row of `meta`: grows with each change of the list."""


class Trust:
    """Issuers and revocations as they stand. Safe to call from several threads."""

    def __init__(self, database: Database, audience: str, now: Clock) -> None:
        self._database = database
        self._audience = audience
        self._now = now
        # Replaced as a whole, never changed: what a thread holds stays consistent.
        self._parsed: dict[str, IssuerKeys] = {}
        self._revocations: Revocations | None = None

    def verifier(self) -> TokenVerifier:
        with self._database.read() as connection:
            issuers = self._read_issuers(connection)
            revoked = self._read_revocations(connection)
        return TokenVerifier(issuers, self._audience, revoked)

    def issuers(self) -> dict[str, IssuerKeys]:
        """Every issuer's keys, by `iss`; those whose time has run out are still in."""
        with self._database.read() as connection:
            return self._read_issuers(connection)

    def revocations(self) -> Revocations:
        with self._database.read() as connection:
            return self._read_revocations(connection)

    def believed_keys(self, now: datetime | None = None) -> list[dict[str, object]]:
        """The issuers of a pack: `{"iss","keys"}` with the keys that count now, by `iss`."""
        at = now or self._now()
        return [
            {"iss": iss, "keys": [dict(key.jwk) for key in held if held.get(key.kid, at)]}
            for iss, held in sorted(self.issuers().items())
        ]

    def _read_issuers(self, connection: Connection) -> dict[str, IssuerKeys]:
        table = schema.issuers.c
        rows = connection.execute(select(table.iss, table["keys"])).all()
        parsed = {text: self._parsed.get(text) or _parse(text) for _, text in rows}
        self._parsed = parsed
        return {iss: parsed[text] for iss, text in rows}

    def _read_revocations(self, connection: Connection) -> Revocations:
        version = int(
            connection.scalars(
                select(schema.meta.c.value).where(schema.meta.c.name == REVOCATIONS_VERSION)
            ).one_or_none()
            or 0
        )
        held = self._revocations
        if held is None or held.version != version:
            held = read_revocations(connection, version)
            self._revocations = held
        return held


def _parse(text: str) -> IssuerKeys:
    return IssuerKeys.from_json(json.loads(text))


def read_revocations(connection: Connection, version: int) -> Revocations:
    """The list as it stands; `version` is that of the same transaction."""
    table = schema.revocations.c
    named: dict[str, set[tuple[str, str]]] = {"key": set(), "token": set()}
    for row in connection.execute(select(table.iss, table.kind, table.name)):
        named[row.kind].add((row.iss, row.name))
    return Revocations(version, frozenset(named["key"]), frozenset(named["token"]))
