"""What is set aside of vouchers for tills: rows, and what a redemption draws on them.

Every change of an allotment is made under its voucher's lock, so they are read behind it and never
locked themselves (docs/offline.md §4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, tuple_, update

from carepos import clock
from carepos.voucher import Terms, Voucher
from carepos_ledger import schema
from carepos_ledger.accounts import Balance

Place = tuple[int, str]
"""(bucket, voucher)."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """One allotment that is open: for which incarnation of which till, and what is left of it.

    `amount_minor` and `quantity` are what it was made with. `store_name`: where the till stands.
    Of a `closed` one nothing lies in it any more: `left_minor` is what was freed of it and no sale
    within it has said so of yet, 0 where the till gave it back.
    """

    bucket: int
    voucher: str
    number: int
    terminal: str
    incarnation: str
    amount_minor: int
    quantity: int
    left_minor: int
    left_quantity: int
    spend_until: datetime
    reclaim_after: datetime
    store_name: str = ""
    closed: bool = False

    def is_for(self, terminal: str, incarnation: str) -> bool:
        return (self.terminal, self.incarnation) == (terminal, incarnation)

    def spare(self, terms: Terms | None, quantity: int) -> int:
        """Money it can give with `quantity` and still hold what its rest may cost."""
        if terms is None:
            return self.left_minor
        return self.left_minor - terms.reserve(self.left_quantity - quantity)

    def less(self, minor: int, quantity: int) -> Allotment:
        return replace(
            self,
            left_minor=self.left_minor - minor,
            left_quantity=self.left_quantity - quantity,
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """How one voucher's part of a redemption is paid: from its own accounts, from allotments."""

    minor: int
    quantity: int
    allotments: tuple[tuple[Allotment, int, int], ...] = ()
    """(allotment as it was, money, quantity)."""

    @property
    def allotted(self) -> tuple[int, int]:
        """Money and quantity from allotments."""
        return (
            sum(minor for _, minor, _ in self.allotments),
            sum(quantity for _, _, quantity in self.allotments),
        )


def draw(balance: Balance, minor: int, quantity: int, own: Sequence[Allotment]) -> Drawn:
    """`available` first, then the till's own allotments in order of number (docs/offline.md §4).

    Together they hold enough: that was checked.
    """
    units = min(quantity, balance.available_quantity)
    held = balance.available_minor + balance.saved_minor
    if balance.terms is None:
        money = min(minor, balance.available_minor)
    else:
        money = min(minor, held - balance.terms.reserve(balance.available_quantity - units))
    rest_minor, rest_units = minor - money, quantity - units
    parts = []
    for allotment in own:
        taken = min(rest_units, allotment.left_quantity)
        given = min(rest_minor, allotment.spare(balance.terms, taken))
        if given or taken:
            parts.append((allotment, given, taken))
        rest_minor, rest_units = rest_minor - given, rest_units - taken
    assert (rest_minor, rest_units) == (0, 0)
    return Drawn(money, units, tuple(parts))


def newest_of(opened: Sequence[Allotment], terminal: str) -> list[Allotment]:
    """Those of this till's newest incarnation, as far as a voucher knows of it: a read does not say
    which journal it comes from."""
    own = [each for each in opened if each.terminal == terminal]
    if not own:
        return []
    newest = max(own, key=lambda each: each.number).incarnation
    return [each for each in own if each.incarnation == newest]


def with_own(voucher: Voucher, own: Iterable[Allotment]) -> Voucher:
    """The voucher as a till may use it: with what is set aside for it."""
    if voucher.terms is None:
        minor = voucher.available_minor + sum(each.left_minor for each in own)
        return replace(voucher, available_minor=minor)
    quantity = voucher.available_quantity + sum(each.left_quantity for each in own)
    return replace(voucher, available_quantity=quantity)


def place(voucher: Voucher) -> tuple[bool, datetime, str]:
    """Where a voucher stands among its holder's, as a till may use them: of many only the first are
    told, and one that is used up never crowds out one that is not."""
    used_up = not (voucher.available_minor or voucher.available_quantity)
    return used_up, voucher.expires_at, voucher.voucher


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


def read_open(connection: Connection, places: Iterable[Place]) -> dict[str, list[Allotment]]:
    """By voucher, in order of number: every allotment that is open."""
    return _read(connection, places, schema.allotments.c.closed == 0)


def read_freed(
    connection: Connection, places: Iterable[Place], terminals: Iterable[str]
) -> dict[str, list[Allotment]]:
    """By voucher: those of these tills that were freed, and of which something was left."""
    table = schema.allotments.c
    freed = (table.closed == 1) & (table.left_minor > 0)
    return _read(connection, places, freed & table.terminal.in_(sorted(set(terminals))))


def _read(
    connection: Connection, places: Iterable[Place], which: ColumnElement[bool]
) -> dict[str, list[Allotment]]:
    wanted = sorted(places)
    if not wanted:
        return {}
    table, terminals, stores = schema.allotments, schema.terminals, schema.stores
    rows = connection.execute(
        select(table, stores.c.name)
        .join(terminals, terminals.c.terminal == table.c.terminal)
        .join(stores, stores.c.store == terminals.c.store)
        .where(tuple_(table.c.bucket, table.c.voucher).in_(wanted), which)
        .order_by(table.c.voucher, table.c.allotment)
    )
    found: dict[str, list[Allotment]] = {}
    for row in rows:
        found.setdefault(row.voucher, []).append(
            Allotment(
                row.bucket,
                row.voucher,
                row.allotment,
                row.terminal,
                row.incarnation,
                row.amount_minor,
                row.quantity,
                row.left_minor,
                row.left_quantity,
                clock.from_text(row.spend_until),
                clock.from_text(row.reclaim_after),
                row.name,
                bool(row.closed),
            )
        )
    return found


def last_numbers(connection: Connection, places: Iterable[Place]) -> dict[str, int]:
    """By voucher: the highest number an allotment of it ever had."""
    wanted = sorted(places)
    if not wanted:
        return {}
    table = schema.allotments.c
    found: dict[str, int] = {}
    for voucher, number in connection.execute(
        select(table.voucher, table.allotment).where(
            tuple_(table.bucket, table.voucher).in_(wanted)
        )
    ):
        found[voucher] = max(number, found.get(voucher, 0))
    return found


def write_new(connection: Connection, made: Sequence[Allotment]) -> None:
    if made:
        connection.execute(
            insert(schema.allotments),
            [
                {
                    "bucket": each.bucket,
                    "voucher": each.voucher,
                    "allotment": each.number,
                    "terminal": each.terminal,
                    "incarnation": each.incarnation,
                    "amount_minor": each.amount_minor,
                    "quantity": each.quantity,
                    "left_minor": each.left_minor,
                    "left_quantity": each.left_quantity,
                    "spend_until": clock.to_text(each.spend_until),
                    "reclaim_after": clock.to_text(each.reclaim_after),
                    "closed": int(each.closed),
                }
                for each in made
            ],
        )


def write_changed(connection: Connection, changed: Iterable[Allotment]) -> None:
    """What is left of them, until when, and whether they are closed."""
    rows = [
        {
            "b_bucket": each.bucket,
            "b_voucher": each.voucher,
            "b_allotment": each.number,
            "b_left": each.left_minor,
            "b_quantity": each.left_quantity,
            "b_spend": clock.to_text(each.spend_until),
            "b_reclaim": clock.to_text(each.reclaim_after),
            "b_closed": int(each.closed),
        }
        for each in sorted(changed, key=lambda each: (each.bucket, each.voucher, each.number))
    ]
    if not rows:
        return
    table = schema.allotments
    connection.execute(
        update(table)
        .where(
            table.c.bucket == bindparam("b_bucket"),
            table.c.voucher == bindparam("b_voucher"),
            table.c.allotment == bindparam("b_allotment"),
        )
        .values(
            left_minor=bindparam("b_left"),
            left_quantity=bindparam("b_quantity"),
            spend_until=bindparam("b_spend"),
            reclaim_after=bindparam("b_reclaim"),
            closed=bindparam("b_closed"),
        ),
        rows,
    )
