"""Who may operate the ledger: a name, and the digest of a secret that the ledger never keeps."""

from __future__ import annotations

import re
import secrets

from sqlalchemy import Connection, insert, select

from carepos import ids
from carepos.ids import RandomBytes
from carepos.keys import b64, digest
from carepos_ledger import schema
from carepos_ledger.actions import act, find
from carepos_ledger.database import Database
from carepos_ledger.problems import Problem

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def new_secret(random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """What an operator shows with each call."""
    return b64(random_bytes(32))


class Operators:
    """The operators of one ledger. Safe to call from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, secret: str) -> None:
        """A new operator with a secret of `new_secret`, of which the ledger keeps the digest."""
        ids.name(name, "operator")
        ids.digest_text(secret, "secret")
        table, wanted = schema.operators, digest(secret.encode("ascii"))

        def work(connection: Connection) -> None:
            held = find(connection, table, {"name": name})
            if held is None:
                connection.execute(insert(table).values(name=name, secret_sha256=wanted))
            elif held.secret_sha256 != wanted:
                raise Problem(
                    "already_exists_differently", "there is an operator of this name", field="name"
                )

        act(self._database, work)

    def any(self) -> bool:
        """Whether there is one. A ledger is founded with its first operator."""
        with self._database.read() as connection:
            found = connection.execute(select(schema.operators.c.name).limit(1)).one_or_none()
        return found is not None

    def named(self, secret: object) -> str | None:
        """Whose secret this is. The look-up is by digest: its time tells nothing of the secret."""
        if not isinstance(secret, str) or _SECRET.fullmatch(secret) is None:
            return None
        table = schema.operators.c
        with self._database.read() as connection:
            return connection.scalars(
                select(table.name).where(table.secret_sha256 == digest(secret.encode("ascii")))
            ).one_or_none()
