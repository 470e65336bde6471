"""Where operators say that households shop, and where sales of before say so (docs/offline.md §4).

What is set aside is not touched: tills that may be without a network count on it until its
`reclaim_after`. So a household that is sent elsewhere has it twice nowhere, and for a few days less
of its voucher can be used without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from sqlalchemy import Connection, and_, func, insert, select, tuple_, update

from carepos import ids, strict_json
from carepos.errors import Malformed
from carepos.ids import BUCKETS
from carepos_ledger import schema
from carepos_ledger.actions import Done, act, find
from carepos_ledger.book import read_programmes
from carepos_ledger.database import Database, insert_or_ignore
from carepos_ledger.person import Who, find_holder, find_person
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import Holder

MAX_HOMES: Final = 500
STEP_BUCKETS: Final = 128


@dataclass(frozen=True, slots=True)
class Wish:
    """One household, and the store that shall be its home; None: it follows where it redeems."""

    who: Who
    store: str | None

    @classmethod
    def from_json(cls, value: object, where: str) -> Self:
        """Raises Malformed."""
        names = strict_json.exact_names(value, {"person", "store"}, where=where)
        store = names["store"]
        return cls(
            Who.from_json(names["person"]),
            None if store is None else ids.name(store, f"{where}.store"),
        )


@dataclass(frozen=True, slots=True)
class HomeAnswer:
    """What became of one wish of many. `detail` says why one is `refused`."""

    result: Done | Literal["refused"]
    detail: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Step:
    """How many homes were noted (or would be); `next_bucket` is None after the last step."""

    homes: int
    next_bucket: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _DryRun(Exception):
    """Takes back what a dry run wrote."""


class Pinning:
    """Safe to call from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pin_many(self, wishes: Sequence[Wish], *, dry_run: bool = False) -> list[HomeAnswer]:
        """Pin homes, or let them follow again, in one transaction; a wish that is refused keeps no
        other back.

        The answers are in the order of `wishes`. A dry run writes nothing. Raises Malformed for a
        household that is named twice.
        """
        if len({each.who for each in wishes}) < len(wishes):
            raise Malformed("a household stands twice", field="homes")
        answers: list[HomeAnswer] = []

        def work(connection: Connection) -> None:
            answers.clear()
            answers.extend(_pin_many(connection, wishes))
            if dry_run:
                raise _DryRun

        with suppress(_DryRun):
            act(self._database, work)
        return answers

    def by_store(self) -> list[dict[str, Any]]:
        """How many households are at home in each store, and how many of them are pinned there."""
        homes, stores = schema.homes.c, schema.stores.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(
                    homes.store,
                    stores.name.label("store_name"),
                    func.count().label("households"),
                    func.sum(homes.pinned).label("pinned"),
                )
                .join(schema.stores, stores.store == homes.store)
                .group_by(homes.store, stores.name)
                .order_by(homes.store)
            )
            return [{**row, "pinned": int(row["pinned"])} for row in rows.mappings()]

    def from_sales(self, from_bucket: int, *, dry_run: bool = False) -> Step:
        """Of one slice of buckets, give every household that has no home the store of its latest
        redemption in a programme that works offline now: what was redeemed before it did left none.
        Raises Malformed.
        """
        low = strict_json.integer(from_bucket, "from_bucket", high=BUCKETS - 1)
        high = min(low + STEP_BUCKETS, BUCKETS)
        noted = 0

        def work(connection: Connection) -> None:
            nonlocal noted
            noted = _note_from_sales(connection, low, high)
            if dry_run:
                raise _DryRun

        with suppress(_DryRun):
            act(self._database, work)
        return Step(noted, high if high < BUCKETS else None)


def _pin_many(connection: Connection, wishes: Sequence[Wish]) -> list[HomeAnswer]:
    stores = set(
        connection.scalars(
            select(schema.stores.c.store).where(
                schema.stores.c.store.in_({each.store for each in wishes if each.store})
            )
        )
    )
    answers: dict[int, HomeAnswer] = {}
    found: list[tuple[Holder, int]] = []
    for n, wish in enumerate(wishes):
        try:
            if wish.store is not None and wish.store not in stores:
                raise Problem("not_found", "no such store", field="store")
            found.append((_household(connection, wish.who), n))
        except Problem as problem:
            answers[n] = HomeAnswer("refused", problem.detail)
    # In the order in which redemptions write homes: neither waits for the other in a circle.
    for holder, n in sorted(found):
        answers[n] = HomeAnswer(_pin(connection, holder, wishes[n].store))
    return [answers[n] for n in range(len(wishes))]


def _household(connection: Connection, who: Who) -> Holder:
    """Its name here; it is not erased before the transaction ends. Raises Problem `not_found`."""
    person = find_person(connection, who)
    row = find_holder(connection, person.iss, person.sub)
    if row is None:
        raise Problem("not_found", "nothing was issued to such a person", field="person")
    return row.bucket, row.beneficiary


def _pin(connection: Connection, holder: Holder, store: str | None) -> Done:
    table = schema.homes
    key = {"bucket": holder[0], "beneficiary": holder[1]}
    held = find(connection, table, key, for_update=True)
    if held is None:
        if store is None:
            return "exists"
        connection.execute(insert(table).values(**key, store=store, pinned=1))
        return "created"
    # Left to itself again it stays where it is until it redeems elsewhere.
    wanted = (held.store, 0) if store is None else (store, 1)
    if (held.store, held.pinned) == wanted:
        return "exists"
    connection.execute(
        update(table)
        .where(*(table.c[name] == value for name, value in key.items()))
        .values(store=wanted[0], pinned=wanted[1])
    )
    return "changed"


def _note_from_sales(connection: Connection, low: int, high: int) -> int:
    offline = [each.programme for each in read_programmes(connection) if each.offline is not None]
    postings, lines, vouchers = schema.postings, schema.lines, schema.vouchers
    homes, people = schema.homes, schema.beneficiaries
    sold = connection.execute(
        select(vouchers.c.bucket, vouchers.c.beneficiary, postings.c.store)
        .select_from(postings)
        .join(
            lines,
            and_(lines.c.bucket == postings.c.bucket, lines.c.posting == postings.c.posting),
        )
        .join(
            vouchers,
            and_(vouchers.c.bucket == lines.c.bucket, vouchers.c.voucher == lines.c.voucher),
        )
        .outerjoin(
            homes,
            and_(
                homes.c.bucket == vouchers.c.bucket,
                homes.c.beneficiary == vouchers.c.beneficiary,
            ),
        )
        .where(
            postings.c.bucket >= low,
            postings.c.bucket < high,
            postings.c.kind == "redeem",
            postings.c.programme.in_(offline),
            homes.c.store.is_(None),
        )
        .order_by(postings.c.recorded_at, postings.c.posting)
    )
    latest: dict[Holder, str] = {(row.bucket, row.beneficiary): row.store for row in sold}
    if not latest:
        return 0
    # Of somebody who was erased only vouchers are left, and of whoever is there nobody is erased
    # before this is written.
    alive = connection.execute(
        select(people.c.bucket, people.c.beneficiary)
        .where(tuple_(people.c.bucket, people.c.beneficiary).in_(sorted(latest)))
        .order_by(people.c.bucket, people.c.beneficiary)
        .with_for_update(read=True, key_share=True)
    ).all()
    rows = [
        {"bucket": row.bucket, "beneficiary": row.beneficiary, "pinned": 0,
         "store": latest[row.bucket, row.beneficiary]}
        for row in alive
    ]  # fmt: skip
    if rows:
        # Where somebody redeemed or was pinned meanwhile, that stands.
        connection.execute(insert_or_ignore(connection, homes), rows)
    return len(rows)
