"""One beneficiary as an operator names them: by the issuer's `sub`, or by a row of a list.

Neither stands in an address or a log. Only the ledger's own names of vouchers lead on from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from sqlalchemy import Connection, Row, select, tuple_

from carepos import ids, strict_json
from carepos.keys import digest
from carepos_ledger import schema
from carepos_ledger.problems import Problem


@dataclass(frozen=True, slots=True)
class Who:
    """Whom an operator means: a `sub`, or the keyed hash of a list's row under an import key."""

    iss: str
    sub: str | None = field(repr=False)
    import_key_id: str | None
    ref: str | None = field(repr=False)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """`{"iss","sub"}` or `{"iss","import_key_id","ref"}`. Raises Malformed."""
        by_row = isinstance(value, dict) and "ref" in value
        wanted = {"iss", "import_key_id", "ref"} if by_row else {"iss", "sub"}
        names = strict_json.exact_names(value, wanted, where="person")
        iss = strict_json.text(names["iss"], "person.iss")
        if not by_row:
            return cls(iss, strict_json.text(names["sub"], "person.sub", high=64), None, None)
        key_id = strict_json.text(names["import_key_id"], "person.import_key_id", low=16, high=16)
        return cls(iss, None, key_id, ids.digest_text(names["ref"], "person.ref"))


@dataclass(frozen=True, slots=True)
class Person:
    """A beneficiary's row. `beneficiary` is None for a `sub` that only acted for others."""

    iss: str
    sub: str = field(repr=False)
    bucket: int
    beneficiary: str | None

    @property
    def actor(self) -> str:
        """How they are remembered where they acted for somebody (docs/identity.md §8)."""
        return digest(f"{self.iss}|{self.sub}".encode())


def find_person(connection: Connection, who: Who) -> Person:
    """Raises Problem `not_found`: never issued to, erased before, or another issuer's."""
    people = schema.beneficiaries.c
    query = select(people.bucket, people.beneficiary, people.sub).where(people.iss == who.iss)
    if who.sub is not None:
        row = connection.execute(query.where(people.sub == who.sub)).one_or_none()
    else:
        enrolled = schema.enrolments.c
        row = connection.execute(
            query.where(
                tuple_(people.bucket, people.beneficiary).in_(
                    select(enrolled.bucket, enrolled.beneficiary).where(
                        enrolled.iss == who.iss,
                        enrolled.import_key_id == who.import_key_id,
                        enrolled.ref == who.ref,
                    )
                )
            )
        ).one_or_none()
    if row is not None:
        return Person(who.iss, row.sub, row.bucket, row.beneficiary)
    if who.sub is not None:
        person = Person(who.iss, who.sub, 0, None)
        table = schema.acted.c
        acted = select(table.posting).where(table.actor_sha256 == person.actor).limit(1)
        if connection.execute(acted).first() is not None:
            return person
    raise Problem("not_found", "nothing is held about such a person", field="person")


def lock_person(connection: Connection, person: Person) -> None:
    """Hold the person's row against everybody until the transaction ends."""
    people = schema.beneficiaries.c
    connection.execute(
        select(people.sub)
        .where(people.bucket == person.bucket, people.beneficiary == person.beneficiary)
        .with_for_update()
    ).all()


def find_holder(connection: Connection, iss: str, sub: str) -> Row[Any] | None:
    """The row of a beneficiary, who is not erased before the transaction ends: what it writes of
    them is there to be erased."""
    people = schema.beneficiaries
    return connection.execute(
        select(people)
        .where(people.c.iss == iss, people.c.sub == sub)
        .with_for_update(read=True, key_share=True)
    ).one_or_none()


def vouchers_of(connection: Connection, person: Person, *, lock: bool = False) -> list[Any]:
    """Their vouchers' rows, with the currency of each, in order of voucher."""
    table = schema.vouchers
    query = (
        select(table, schema.programmes.c.currency)
        .join(schema.programmes, schema.programmes.c.programme == table.c.programme)
        .where(table.c.bucket == person.bucket, table.c.beneficiary == person.beneficiary)
        .order_by(table.c.voucher)
    )
    if lock:
        query = query.with_for_update(of=table)
    return list(connection.execute(query).mappings().all())
