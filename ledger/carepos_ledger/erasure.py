"""Cutting the tie between a person and their vouchers; what goes, what stays: docs/privacy.md.

Ids, postings and sums stay for ever (INV-1, INV-2). What leads from the person to them goes: the
`sub`, the list's keyed hashes, cards, and the names that several rows share only because they are
one person's. It can't be taken back.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from carepos import clock
from carepos.clock import Clock
from carepos.ids import RandomBytes
from carepos.keys import b64, digest
from carepos_ledger import accounts, acting, held_proof, schema
from carepos_ledger.accounts import Balance
from carepos_ledger.actions import act
from carepos_ledger.allotting import release_all
from carepos_ledger.book import entry_rows, holding_from
from carepos_ledger.database import Database
from carepos_ledger.issuing import issue_posting
from carepos_ledger.person import Person, Who, find_person, lock_person, vouchers_of
from carepos_ledger.problems import Problem

NOBODY: Final = ""
"""What stands in a row in the place of somebody who was erased."""


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of which kind; `forfeited_minor` by programme."""

    vouchers: int
    enrolments: int
    cards: int
    acted: int
    forfeited_minor: dict[str, int]

    def to_json(self) -> dict[str, object]:
        return {
            "vouchers": self.vouchers,
            "enrolments": self.enrolments,
            "cards": self.cards,
            "acted": self.acted,
            "forfeited_minor": self.forfeited_minor,
        }


class Erasure:
    """Erases people. Safe to call from several threads."""

    def __init__(
        self, database: Database, now: Clock, random_bytes: RandomBytes = secrets.token_bytes
    ) -> None:
        self._database = database
        self._now = now
        self._random_bytes = random_bytes

    def erase(self, who: Who, *, forfeit: bool, operator: str, dry_run: bool = False) -> Erased:
        """Erase a person in one transaction; with `dry_run` only say what would go.

        What their vouchers hold goes back to the programme. While something could still be spent
        this wants `forfeit`. Raises Problem `not_found`, `still_worth`.
        """
        return act(
            self._database,
            lambda c: self._erase(c, who, forfeit=forfeit, operator=operator, dry_run=dry_run),
        )

    def _erase(
        self, connection: Connection, who: Who, *, forfeit: bool, operator: str, dry_run: bool
    ) -> Erased:
        lock_programmes(connection)
        person, now = find_person(connection, who), self._now()
        # In the order of a redemption: vouchers, their holder, an actor.
        locked = vouchers_of(connection, person, lock=True)
        lock_person(connection, person)
        vouchers = release_all(connection, locked, now, dry_run=dry_run)
        if not forfeit and not dry_run:
            _refuse_what_can_be_spent(vouchers, now)
        found = _count(connection, person, vouchers)
        if dry_run:
            return found
        self._forfeit(connection, vouchers, now)
        self._cut_vouchers(connection, vouchers)
        self._forget(connection, person)
        connection.execute(
            insert(schema.erasures).values(
                at=clock.to_text(now), operator=operator, erased=json.dumps(found.to_json())
            )
        )
        return found

    def _forfeit(self, connection: Connection, vouchers: Sequence[Any], now: datetime) -> None:
        unreserved: Counter[str] = Counter()
        for row in vouchers:
            programme = row["programme"]
            legs = accounts.forfeit(_balance(row), programme)
            if not legs:
                continue
            posting = digest(f"carepos/forfeit/v1|{row['voucher']}".encode("ascii"))
            connection.execute(
                insert(schema.postings).values(
                    bucket=row["bucket"],
                    posting=posting,
                    kind="forfeit",
                    programme=programme,
                    recorded_at=clock.to_text(now),
                )
            )
            connection.execute(
                insert(schema.entries), entry_rows(row["bucket"], posting, programme, legs)
            )
            unreserved[programme] += _left_minor(row)
        table = schema.programmes
        for programme, amount_minor in unreserved.items():
            connection.execute(
                update(table)
                .where(table.c.programme == programme)
                .values(unreserved_minor=table.c.unreserved_minor + amount_minor)
            )

    def _cut_vouchers(self, connection: Connection, vouchers: Sequence[Any]) -> None:
        """Empty; no two of one person known by one name; no row of a list leads to them."""
        table, issues = schema.vouchers, schema.issues
        for row in vouchers:
            connection.execute(
                update(table)
                .where(table.c.bucket == row["bucket"], table.c.voucher == row["voucher"])
                .values(
                    beneficiary=b64(self._random_bytes(16)),
                    available_minor=0,
                    saved_minor=0,
                    available_quantity=0,
                )
            )
        stops = schema.voucher_stops.c
        connection.execute(
            delete(schema.voucher_stops).where(
                tuple_(stops.bucket, stops.voucher).in_(
                    [(row["bucket"], row["voucher"]) for row in vouchers]
                )
            )
        )
        names = [row["voucher"] for row in vouchers]
        for row in connection.execute(select(issues).where(issues.c.voucher.in_(names))).all():
            # The posting's name can be told from the ref; the row stays, so that the same list
            # does not issue again, but leads nowhere.
            known = issue_posting(row.programme, row.ref)
            unknown = b64(self._random_bytes(32))
            for each in (schema.postings, schema.entries):
                connection.execute(
                    update(each)
                    .where(each.c.bucket == row.bucket, each.c.posting == known)
                    .values(posting=unknown)
                )
            connection.execute(
                update(issues)
                .where(issues.c.programme == row.programme, issues.c.ref == row.ref)
                .values(bucket=0, voucher=NOBODY)
            )

    def _forget(self, connection: Connection, person: Person) -> None:
        held = {"bucket": person.bucket, "beneficiary": person.beneficiary}
        cards, visits = schema.cards.c, schema.pin_visits.c
        # Held first: a PIN that is being proved opens its visit before this, or never.
        theirs = connection.execute(
            select(cards.bucket, cards.iss, cards.jti_sha256)
            .where(cards.bucket == person.bucket, cards.beneficiary == person.beneficiary)
            .order_by(cards.iss, cards.jti_sha256)
            .with_for_update()
        )
        connection.execute(
            delete(schema.pin_visits).where(
                tuple_(visits.bucket, visits.iss, visits.jti_sha256).in_(
                    [tuple(card) for card in theirs]
                )
            )
        )
        for table in (
            schema.cards,
            schema.enrolments,
            schema.holder_sessions,
            schema.holder_marks,
            schema.homes,
            schema.beneficiaries,
        ):
            connection.execute(
                delete(table).where(*(table.c[name] == value for name, value in held.items()))
            )
        # Tills that are fetching a pack ask for another, in which they are not.
        connection.execute(delete(schema.pack_files))
        # What somebody did for them, and what they said of a purchase, stays without them.
        for table in (schema.acted, schema.disputes):
            connection.execute(
                update(table)
                .where(*(table.c[name] == value for name, value in held.items()))
                .values(beneficiary=NOBODY)
            )
        # What a quarantined till sent about them can be decided still, but finds nobody.
        waiting = schema.held_records
        connection.execute(
            update(waiting)
            .where(waiting.c.bucket == person.bucket)
            .where(waiting.c.beneficiary == person.beneficiary)
            .values(beneficiary=NOBODY, actor_sha256=None, proof=held_proof.NOBODY_PROVED)
        )
        # What they were paid for others still counts against limits, under a name of no one.
        acting.rename_actor(connection, person.actor, b64(self._random_bytes(32)))


def lock_programmes(connection: Connection) -> None:
    """Hold every programme until the transaction ends: nothing is issued to anybody meanwhile.

    Redemptions don't wait for it. What finds people and vouchers afterwards finds them all.
    """
    table = schema.programmes.c
    connection.execute(select(table.programme).order_by(table.programme).with_for_update()).all()


def _count(connection: Connection, person: Person, vouchers: Sequence[Any]) -> Erased:
    def rows(table: Any, *conditions: Any) -> int:
        return len(connection.execute(select(table.c.bucket).where(*conditions)).all())

    forfeited: Counter[str] = Counter()
    for row in vouchers:
        forfeited[row["programme"]] += _left_minor(row)

    def theirs(table: Any) -> Any:
        return (table.c.bucket == person.bucket) & (table.c.beneficiary == person.beneficiary)

    acted = schema.acted
    return Erased(
        len(vouchers),
        rows(schema.enrolments, theirs(schema.enrolments)),
        rows(schema.cards, theirs(schema.cards)),
        rows(acted, theirs(acted) | (acted.c.actor_sha256 == person.actor)),
        {name: amount for name, amount in sorted(forfeited.items()) if amount},
    )


def _refuse_what_can_be_spent(vouchers: Sequence[Any], now: datetime) -> None:
    worth = [
        {
            "programme": row["programme"],
            "currency": row["currency"],
            "available_minor": row["available_minor"],
            "available_quantity": row["available_quantity"],
        }
        for row in vouchers
        if clock.from_text(row["expires_at"]) > now
        and (row["available_minor"] or row["available_quantity"])
    ]
    if worth:
        raise Problem(
            "still_worth",
            "vouchers of this person can still be spent; with forfeit what they hold goes back to "
            "the programme",
            extra={"vouchers": worth},
        )


def _balance(row: Any) -> Balance:
    return holding_from(row).balance


def _left_minor(row: Any) -> int:
    return int(row["available_minor"] + row["saved_minor"])
