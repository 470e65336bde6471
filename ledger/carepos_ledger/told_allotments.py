"""What tills' packs say is set aside, read out of them and set aside again (docs/offline.md §12).

A pack is sealed to each household's own token; the ledger, which knows every `sub`, opens it as
whoever stands there would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, select, update

from carepos import clock, pack, strict_json
from carepos.clock import Clock
from carepos.errors import Malformed
from carepos.households import Household, HouseholdKey, read_segment
from carepos.keys import digest
from carepos.pack import Pack
from carepos_ledger import accounts, allotments, healing, schema
from carepos_ledger.actions import act
from carepos_ledger.allotments import Allotment
from carepos_ledger.allotting import allot_posting, write_balances, write_postings
from carepos_ledger.book import holding_from
from carepos_ledger.database import Database, insert_or_ignore
from carepos_ledger.keyring import Keyring
from carepos_ledger.shelf import Shelf, Terminal

PEOPLE_AT_ONCE: Final = 1_000
MAX_FILES: Final = 65


class ToldAllotments:
    """The ledger's side of `POST /v1/heal/pack`. Safe to call from several threads."""

    def __init__(self, database: Database, keyring: Keyring, now: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._now = now

    def take(
        self, caller: Terminal, incarnation: str, manifest: object, files: object
    ) -> list[str]:
        """Keep the files; the SHA-256 of those that are still missing. Once none is, what the pack
        says is kept instead of them. Raises Malformed."""
        terminal = caller.terminal
        told = pack.read_manifest(manifest, terminal=terminal, keys=self._keyring.keys.keys)
        texts = [
            strict_json.text(each, "files", high=2 * 2**20).encode()
            for each in strict_json.array(files, "files", high=MAX_FILES)
        ]
        with self._database.read() as connection:
            is_healing = healing.read(connection) is not None
        if told.epoch >= self._keyring.epoch and not is_healing:
            return []  # this ledger made it
        self._keep(terminal, texts)
        held = self._held(terminal)
        if told.sha256 not in held:
            return [told.sha256]
        found = pack.read(
            held[told.sha256], manifest, terminal=terminal, keys=self._keyring.keys.keys
        )
        missing = [sha256 for sha256 in found.files() if sha256 not in held]
        if not missing:
            self._note(caller, incarnation, found, held)
        return missing

    def _keep(self, terminal: str, texts: Sequence[bytes]) -> None:
        if not texts:
            return
        rows = {digest(data): data for data in texts}
        with self._database.write() as connection:
            connection.execute(
                insert_or_ignore(connection, schema.heal_files),
                [
                    {"terminal": terminal, "sha256": sha256, "data": data}
                    for sha256, data in sorted(rows.items())
                ],
            )

    def _held(self, terminal: str) -> dict[str, bytes]:
        table = schema.heal_files.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(table.sha256, table.data).where(table.terminal == terminal)
            )
            return {row.sha256: bytes(row.data) for row in rows}

    def _note(
        self, caller: Terminal, incarnation: str, found: Pack, files: Mapping[str, bytes]
    ) -> None:
        rows: list[dict[str, Any]] = []
        homes: list[dict[str, Any]] = []
        if found.households is not None and found.households.incarnation == incarnation:
            for holder, household in self._opened(caller, found, files):
                rows += _rows(caller, incarnation, found, household)
                homes.append(
                    {"bucket": holder[0], "beneficiary": holder[1], "store": caller.store,
                     "pinned": 0}
                )  # fmt: skip
        made = {
            "terminal": caller.terminal,
            "sha256": found.sha256,
            "made_at": clock.to_text(found.issued_at),
        }

        def work(connection: Connection) -> None:
            # Locked: the opening that ends sees it, or it comes behind that.
            healing.read(connection, for_update=True)
            connection.execute(insert_or_ignore(connection, schema.pack_issues), [made])
            if rows:
                connection.execute(insert_or_ignore(connection, schema.heal_allotments), rows)
            if homes:
                # Where somebody shopped since is told by their sales.
                connection.execute(insert_or_ignore(connection, schema.homes), homes)
            table = schema.heal_files
            connection.execute(delete(table).where(table.c.terminal == caller.terminal))

        act(self._database, work)

    def _opened(
        self, caller: Terminal, found: Pack, files: Mapping[str, bytes]
    ) -> Iterator[tuple[tuple[int, str], Household]]:
        told = found.households
        if told is None or not told.segments:
            return
        entries: dict[str, object] = {}
        for segment in told.segments:
            entries |= read_segment(files[segment.sha256])
        for person in self._people(caller, told.incarnation):
            if not entries:
                return
            key = HouseholdKey.of(
                person.iss, person.sub, terminal=caller.terminal, incarnation=told.incarnation
            )
            entry = entries.pop(key.tag, None)
            if entry is None:
                continue
            try:
                household = key.open(entry, kinds=len(told.kinds), dates=len(told.dates))
            except Malformed:
                continue
            yield (person.bucket, person.beneficiary), household

    def _people(self, caller: Terminal, incarnation: str) -> Iterator[Row[Any]]:
        """Those who are known to shop at the store first, and for whom something is set aside with
        the till: then hardly anybody else need be tried."""
        people, homes = schema.beneficiaries, schema.homes.c
        vouchers, held = schema.vouchers.c, schema.allotments.c
        at_home = (
            select(people)
            .join(
                schema.homes,
                (homes.bucket == people.c.bucket) & (homes.beneficiary == people.c.beneficiary),
            )
            .where(homes.store == caller.store)
        )
        set_aside = (
            select(people)
            .join(
                schema.vouchers,
                (vouchers.bucket == people.c.bucket)
                & (vouchers.beneficiary == people.c.beneficiary),
            )
            .join(
                schema.allotments,
                (held.bucket == vouchers.bucket) & (held.voucher == vouchers.voucher),
            )
            .where(held.terminal == caller.terminal, held.incarnation == incarnation)
            .distinct()
        )
        for query in (at_home, set_aside):
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            yield from rows
        last = (-1, "")
        while True:
            with self._database.read() as connection:
                rows = connection.execute(
                    select(people)
                    .where(
                        (people.c.bucket > last[0])
                        | ((people.c.bucket == last[0]) & (people.c.beneficiary > last[1]))
                    )
                    .order_by(people.c.bucket, people.c.beneficiary)
                    .limit(PEOPLE_AT_ONCE)
                ).all()
            if not rows:
                return
            yield from rows
            last = (rows[-1].bucket, rows[-1].beneficiary)


def _rows(
    caller: Terminal, incarnation: str, found: Pack, household: Household
) -> list[dict[str, Any]]:
    assert found.households is not None
    rows = []
    for voucher in household.vouchers:
        for each in voucher.allotments:
            spend_until, reclaim_after = found.households.dates[each.date]
            rows.append(
                {
                    "bucket": household.bucket,
                    "voucher": voucher.voucher,
                    "allotment": each.allotment,
                    "terminal": caller.terminal,
                    "incarnation": incarnation,
                    "amount_minor": each.amount_minor,
                    "quantity": each.quantity,
                    "spend_until": clock.to_text(spend_until),
                    "reclaim_after": clock.to_text(reclaim_after),
                    "state": "staged",
                }
            )
    return rows


# ── setting aside again ────────────────────────────────────────────────────────────────────────


Place = tuple[int, str, int]
"""(bucket, voucher, number)."""

FIRST: Final[Place] = (-1, "", 0)


class Which(Protocol):
    """Finds at most so many of what is still to be set aside, in order, behind the one named."""

    def __call__(self, connection: Connection, most: int, after: Place) -> Sequence[Row[Any]]: ...


def staged(
    connection: Connection,
    most: int,
    after: Place = FIRST,
    *,
    where: Iterable[ColumnElement[bool]] = (),
) -> Sequence[Row[Any]]:
    """Everything (`Which`); or of that what is `where`."""
    table = schema.heal_allotments.c
    bucket, voucher, number = after
    return connection.execute(
        select(schema.heal_allotments)
        .where(
            table.state == "staged",
            (table.bucket > bucket)
            | ((table.bucket == bucket) & (table.voucher > voucher))
            | ((table.bucket == bucket) & (table.voucher == voucher) & (table.allotment > number)),
            *where,
        )
        .order_by(table.bucket, table.voucher, table.allotment)
        .limit(most)
    ).all()


def known(connection: Connection, most: int, after: Place = FIRST) -> Sequence[Row[Any]]:
    """What was set aside before the loss: only its dates may be later ones (`Which`)."""
    told, held = schema.heal_allotments.c, schema.allotments.c
    same = exists().where(
        held.bucket == told.bucket,
        held.voucher == told.voucher,
        held.allotment == told.allotment,
    )
    return staged(connection, most, after, where=[same])


def of_terminal(
    connection: Connection,
    most: int,
    after: Place = FIRST,
    *,
    terminal: str,
    vouchers: Iterable[str],
) -> Sequence[Row[Any]]:
    """What is set aside of these vouchers for one till (`Which`)."""
    told = schema.heal_allotments.c
    ours = [told.terminal == terminal, told.voucher.in_(sorted(vouchers))]
    return staged(connection, most, after, where=ours)


def set_aside(connection: Connection, row: Row[Any], now: datetime) -> bool:
    """Set one aside as the pack says, or let it count as long as that says; False while its voucher
    does not hold as much. Repeating it changes nothing."""
    shelf = Shelf()
    place = (row.bucket, row.voucher)
    held = _locked(connection, place)
    if held is None:
        return False
    shelf.holdings[row.voucher] = holding_from(held)
    table = schema.allotments.c
    known = connection.execute(
        select(schema.allotments).where(
            table.bucket == row.bucket,
            table.voucher == row.voucher,
            table.allotment == row.allotment,
        )
    ).one_or_none()
    if known is None:
        balance = shelf.holdings[row.voucher].balance
        if row.amount_minor > balance.available_minor + (
            balance.saved_minor if balance.terms else 0
        ):
            return False
        if row.quantity > balance.available_quantity:
            return False
        made = Allotment(
            row.bucket, row.voucher, row.allotment, row.terminal, row.incarnation,
            row.amount_minor, row.quantity, row.amount_minor, row.quantity,
            clock.from_text(row.spend_until), clock.from_text(row.reclaim_after),
        )  # fmt: skip
        entries = accounts.set_aside(balance, row.amount_minor, row.quantity, terminal=row.terminal)
        shelf.apply(entries)
        programme = shelf.holdings[row.voucher].voucher.programme
        allotments.write_new(connection, [made])
        posting = allot_posting(made, programme, entries)
        write_postings(connection, [posting], clock.to_text(now))
        write_balances(connection, shelf, {row.voucher: row.bucket})
    elif not known.closed and row.reclaim_after > known.reclaim_after:
        # It was asked for again in what is lost: else it would be freed too early.
        [each] = [
            each
            for each in allotments.read_open(connection, [place])[row.voucher]
            if each.number == row.allotment
        ]
        later = replace(
            each,
            spend_until=clock.from_text(row.spend_until),
            reclaim_after=clock.from_text(row.reclaim_after),
        )
        allotments.write_changed(connection, [later])
    _move(connection, row, "placed")
    return True


def give_up(connection: Connection, row: Row[Any]) -> None:
    _move(connection, row, "excepted")


def _move(connection: Connection, row: Row[Any], state: str) -> None:
    table = schema.heal_allotments
    connection.execute(
        update(table)
        .where(
            table.c.bucket == row.bucket,
            table.c.voucher == row.voucher,
            table.c.allotment == row.allotment,
        )
        .values(state=state)
    )


def reclaim(connection: Connection, now: datetime, most: int) -> int:
    """Free what is past its `reclaim_after`, as whoever wants it next would; how many."""
    table = schema.allotments.c
    due = connection.execute(
        select(table.bucket, table.voucher)
        .where(table.closed == 0, table.reclaim_after <= clock.to_text(now))
        .distinct()
        .order_by(table.bucket, table.voucher)
        .limit(most)
    ).all()
    for bucket, voucher in due:
        shelf = Shelf()
        held = _locked(connection, (bucket, voucher))
        if held is None:
            continue
        shelf.holdings[voucher] = holding_from(held)
        shelf.allotments = allotments.read_open(connection, [(bucket, voucher)])
        for each in list(shelf.allotments[voucher]):
            if now >= each.reclaim_after:
                shelf.release(each)
        allotments.write_changed(connection, shelf.changed_allotments.values())
        write_postings(connection, shelf.new_postings, clock.to_text(now))
        write_balances(connection, shelf, {voucher: bucket})
    return len(due)


def _locked(connection: Connection, place: tuple[int, str]) -> Any:
    table = schema.vouchers
    return (
        connection.execute(
            select(table, schema.programmes.c.currency)
            .join(schema.programmes, schema.programmes.c.programme == table.c.programme)
            .where(table.c.bucket == place[0], table.c.voucher == place[1])
            .with_for_update(of=table)
        )
        .mappings()
        .one_or_none()
    )
