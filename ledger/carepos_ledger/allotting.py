"""Setting aside: parts of vouchers for the till of the store where a household shops.

Asked for with a till's pack, again whenever it has a network: what is set aside already gets later
dates, and only what was used is set aside anew (docs/offline.md §4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, tuple_, update

from carepos import clock
from carepos.clock import Clock
from carepos.keys import digest
from carepos.offline_rule import OfflineRule
from carepos.voucher import Programme
from carepos_ledger import accounts, allotments, epochs, schema
from carepos_ledger.accounts import Entry
from carepos_ledger.allotments import Allotment
from carepos_ledger.book import entry_rows, holding_from, read_programmes
from carepos_ledger.database import Database
from carepos_ledger.shelf import Holder, Holding, Posting, Shelf, Terminal

CHUNK = 100
"""Households in one transaction: a redemption never waits long for the vouchers of all of them."""


class Allotting:
    """Sets aside for tills. Safe to call from several threads."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    def households(self, terminal: Terminal) -> list[Holder]:
        """Whose home is the terminal's store."""
        homes = schema.homes.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(homes.bucket, homes.beneficiary)
                .where(homes.store == terminal.store)
                .order_by(homes.bucket, homes.beneficiary)
            )
            return [(row.bucket, row.beneficiary) for row in rows]

    def set_aside(self, terminal: Terminal, incarnation: str) -> list[Holder]:
        """Set aside for every household at home here; who they are. Repeating it is harmless."""
        found = self.households(terminal)
        with self._database.read() as connection:
            programmes = {
                each.programme: each
                for each in read_programmes(connection)
                if terminal.store in each.stores and each.offline is not None and not each.paused
            }
        for at in range(0, len(found), CHUNK):
            with self._database.write() as connection:
                chunk = _Chunk(connection, terminal, incarnation, programmes, self._now())
                chunk.work(found[at : at + CHUNK])
        return found

    def moved_on(
        self, terminal: Terminal, incarnation: str, at_home: Sequence[Holder]
    ) -> list[Holder]:
        """Who shops elsewhere by now: what waits here for them nobody else can give out yet."""
        vouchers, held = schema.vouchers.c, schema.allotments.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(vouchers.bucket, vouchers.beneficiary)
                .join(
                    schema.allotments,
                    (held.bucket == vouchers.bucket) & (held.voucher == vouchers.voucher),
                )
                .where(
                    held.terminal == terminal.terminal,
                    held.incarnation == incarnation,
                    held.closed == 0,
                    held.reclaim_after > clock.to_text(self._now()),
                )
                .distinct()
                .order_by(vouchers.bucket, vouchers.beneficiary)
            )
            found = [(row.bucket, row.beneficiary) for row in rows]
        here = set(at_home)
        return [holder for holder in found if holder not in here]


class _Chunk:
    """One transaction's households."""

    def __init__(
        self,
        connection: Connection,
        terminal: Terminal,
        incarnation: str,
        programmes: Mapping[str, Programme],
        now: datetime,
    ) -> None:
        self._connection = connection
        self._terminal = terminal
        self._incarnation = incarnation
        self._programmes = programmes
        self._now = now
        self._shelf = Shelf()
        self._made: list[Allotment] = []

    def work(self, households: Sequence[Holder]) -> None:
        shelf, connection = self._shelf, self._connection
        buckets: dict[str, int] = {}
        for row in _locked(connection, households, sorted(self._programmes)):
            shelf.holdings[row["voucher"]] = holding_from(row)
            buckets[row["voucher"]] = row["bucket"]
        places = [(bucket, voucher) for voucher, bucket in buckets.items()]
        shelf.allotments = allotments.read_open(connection, places)
        last, epoch = allotments.last_numbers(connection, places), epochs.read(connection)
        for voucher, bucket in sorted(buckets.items()):
            self._one(bucket, voucher, epochs.after_allotments(epoch, last.get(voucher, 0)))
        self._write(buckets)

    def _one(self, bucket: int, voucher: str, last: int) -> None:
        shelf, now = self._shelf, self._now
        for allotment in shelf.allotments.get(voucher, []):
            if now >= allotment.reclaim_after:
                shelf.release(allotment)
        held = shelf.holdings[voucher]
        rule = self._programmes[held.voucher.programme].offline
        assert rule is not None
        spend_until = min(now + timedelta(seconds=rule.spend_s), held.voucher.expires_at)
        reclaim_after = spend_until + timedelta(seconds=rule.upload_s)
        own = shelf.own(voucher, self._terminal.terminal, self._incarnation)
        for allotment in own:
            if spend_until > allotment.spend_until:
                shelf.change(
                    replace(allotment, spend_until=spend_until, reclaim_after=reclaim_after)
                )
        if held.voucher.frozen or not held.voucher.starts_at <= now < held.voucher.expires_at:
            return
        minor, quantity = _free(held, shelf.allotments.get(voucher, []), own, rule)
        if not minor and not quantity:
            return
        made = Allotment(
            bucket, voucher, last + 1, self._terminal.terminal, self._incarnation,
            minor, quantity, minor, quantity, spend_until, reclaim_after,
        )  # fmt: skip
        entries = accounts.set_aside(held.balance, minor, quantity, terminal=made.terminal)
        shelf.apply(entries)
        shelf.new_postings.append(allot_posting(made, held.voucher.programme, entries))
        self._made.append(made)

    def _write(self, buckets: Mapping[str, int]) -> None:
        shelf, connection = self._shelf, self._connection
        allotments.write_new(connection, self._made)
        allotments.write_changed(connection, shelf.changed_allotments.values())
        write_postings(connection, shelf.new_postings, clock.to_text(self._now))
        write_balances(connection, shelf, buckets)


def write_balances(connection: Connection, shelf: Shelf, buckets: Mapping[str, int]) -> None:
    """What the vouchers that were touched hold now; `buckets` by voucher."""
    if not shelf.touched:
        return
    table = schema.vouchers
    connection.execute(
        update(table)
        .where(table.c.bucket == bindparam("b_bucket"), table.c.voucher == bindparam("b_voucher"))
        .values(
            available_minor=bindparam("b_available"),
            saved_minor=bindparam("b_saved"),
            available_quantity=bindparam("b_quantity"),
        ),
        [
            {
                "b_bucket": buckets[voucher],
                "b_voucher": voucher,
                "b_available": shelf.holdings[voucher].balance.available_minor,
                "b_saved": shelf.holdings[voucher].balance.saved_minor,
                "b_quantity": shelf.holdings[voucher].balance.available_quantity,
            }
            for voucher in sorted(shelf.touched)
        ],
    )


def allot_posting(made: Allotment, programme: str, entries: list[Entry]) -> Posting:
    """The posting by which an allotment is made: one for each number, whoever makes it."""
    name = f"carepos/allot/v1|{made.voucher}|{made.number}"
    return Posting(digest(name.encode("ascii")), "allot", programme, made.bucket, None, entries)


def release_all(
    connection: Connection, rows: Sequence[Any], now: datetime, *, dry_run: bool = False
) -> list[dict[str, Any]]:
    """What is set aside of these vouchers, locked by the caller, goes back to them: their rows as
    they then are. A till that still sells against it sells at a loss (docs/privacy.md)."""
    shelf = Shelf()
    shelf.holdings = {row["voucher"]: holding_from(row) for row in rows}
    shelf.allotments = allotments.read_open(
        connection, [(row["bucket"], row["voucher"]) for row in rows]
    )
    for held in list(shelf.allotments.values()):
        for allotment in held:
            shelf.release(allotment)
    if not dry_run:
        allotments.write_changed(connection, shelf.changed_allotments.values())
        write_postings(connection, shelf.new_postings, clock.to_text(now))
    released = []
    for row in rows:
        balance = shelf.holdings[row["voucher"]].balance
        released.append(
            {
                **row,
                "available_minor": balance.available_minor,
                "saved_minor": balance.saved_minor,
                "available_quantity": balance.available_quantity,
            }
        )
    return released


def _free(
    held: Holding, opened: Sequence[Allotment], own: Sequence[Allotment], rule: OfflineRule
) -> tuple[int, int]:
    """Money and quantity that may be set aside besides what is."""
    terms, balance = held.voucher.terms, held.balance
    if terms is None:
        aside = sum(each.left_minor for each in opened)
        share = (balance.available_minor + aside) * rule.allotment_permille // 1_000
        return max(0, min(share - aside, balance.available_minor)), 0
    if any(each.left_quantity for each in own):
        # One that is not used up: two could not share what a cap that does not divide leaves.
        return 0, 0
    aside = sum(each.left_quantity for each in opened)
    share = (balance.available_quantity + aside) * rule.allotment_permille // 1_000
    quantity = terms.portion(max(0, min(share - aside, balance.available_quantity)))
    return (terms.reserve(quantity), quantity) if quantity else (0, 0)


def _locked(
    connection: Connection, households: Sequence[Holder], programmes: Sequence[str]
) -> Sequence[Any]:
    """The households' vouchers of these programmes, in the order in which all are locked."""
    table = schema.vouchers
    return (
        connection.execute(
            select(table, schema.programmes.c.currency)
            .join(schema.programmes, schema.programmes.c.programme == table.c.programme)
            .where(
                tuple_(table.c.bucket, table.c.beneficiary).in_(list(households)),
                table.c.programme.in_(programmes),
            )
            .order_by(table.c.bucket, table.c.voucher)
            .with_for_update(of=table)
        )
        .mappings()
        .all()
    )


def write_postings(connection: Connection, postings: Sequence[Posting], recorded_at: str) -> None:
    if not postings:
        return
    connection.execute(
        insert(schema.postings),
        [
            {
                "bucket": each.bucket,
                "posting": each.posting,
                "kind": each.kind,
                "programme": each.programme,
                "recorded_at": recorded_at,
            }
            for each in postings
        ],
    )
    legs: list[dict[str, Any]] = []
    for each in postings:
        entries: list[Entry] = each.entries
        legs += entry_rows(each.bucket, each.posting, each.programme, entries)
    connection.execute(insert(schema.entries), legs)
