"""A programme's money in one look, and the proof that its two sums hold (INV-2).

funded = unreserved + loss_reserve + issued + lost - returned; issued = available + allotted +
saved + redeemed + returned. Redeemed is what stands: what was voided, reversed or refunded is not.
Returned went back to the programme: what erased people's vouchers still held, and what an expired
voucher held before or got by a refund that nobody can use. Lost is what the loss reserve paid for
sales without the ledger that no voucher covered. Everything is summed from entries; beside it stand
the balances that postings changed, which must say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, func, literal, select, union_all

from carepos_ledger import accounts, schema
from carepos_ledger.problems import Problem

_ALLOTTED = "allotted"  # to whichever till


@dataclass(frozen=True, slots=True)
class Quantities:
    """Goods promised by item vouchers of one unit."""

    issued: int
    available: int
    allotted: int
    redeemed: int
    returned: int


@dataclass(frozen=True, slots=True)
class ProgrammeSums:
    """Amounts in minor units of `currency`. `differences` names what does not add up: nothing."""

    programme: str
    currency: str
    funded_minor: int
    unreserved_minor: int
    loss_reserve_minor: int
    lost_minor: int
    issued_minor: int
    available_minor: int
    allotted_minor: int
    saved_minor: int
    redeemed_minor: int
    returned_minor: int
    vouchers: int
    quantities: Mapping[str, Quantities]
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "programme": self.programme,
            "currency": self.currency,
            "funded_minor": self.funded_minor,
            "unreserved_minor": self.unreserved_minor,
            "loss_reserve_minor": self.loss_reserve_minor,
            "lost_minor": self.lost_minor,
            "issued_minor": self.issued_minor,
            "available_minor": self.available_minor,
            "allotted_minor": self.allotted_minor,
            "saved_minor": self.saved_minor,
            "redeemed_minor": self.redeemed_minor,
            "returned_minor": self.returned_minor,
            "vouchers": self.vouchers,
            "quantities": {
                unit: {
                    "issued": q.issued,
                    "available": q.available,
                    "allotted": q.allotted,
                    "redeemed": q.redeemed,
                    "returned": q.returned,
                }
                for unit, q in sorted(self.quantities.items())
            },
            "differences": list(self.differences),
        }


def read_sums(connection: Connection, programme: str) -> ProgrammeSums:
    """Raises Problem `not_found`."""
    table = schema.programmes.c
    currency = connection.scalars(
        select(table.currency).where(table.programme == programme)
    ).one_or_none()
    if currency is None:
        raise Problem("not_found", "no such programme", field="programme")
    # One statement is one snapshot, at READ COMMITTED too: sums taken one after the other would
    # differ while the ledger posts.
    found = {
        (what, kind, account, unit): int(amount or 0)
        for what, kind, account, unit, amount in connection.execute(
            union_all(
                _entries(programme),
                *_balances(programme),
                _unbalanced(programme),
                _vouchers_that_differ(programme, currency),
            )
        )
    }
    return _judged(programme, currency, found)


def _judged(
    programme: str, currency: str, found: Mapping[tuple[str, str, str, str], int]
) -> ProgrammeSums:
    by_account: Counter[tuple[str, str]] = Counter()
    issued: Counter[str] = Counter()
    returned = lost = 0
    for (what, kind, account, unit), amount in found.items():
        if what == "entries":
            if accounts.is_allotted(account):
                account = _ALLOTTED
            by_account[account, unit] += amount
            if kind == "issue" and account == accounts.AVAILABLE:
                issued[unit] += amount
            if kind == "forfeit" and account == accounts.UNRESERVED:
                returned += amount
            if kind != "fund" and account == accounts.LOSS_RESERVE:
                lost -= amount

    def money(account: str) -> int:
        return by_account[account, currency]

    def balance(name: str) -> int:
        return found[("balance", "", name, "")]

    funded, unreserved = -money(accounts.FUNDER), money(accounts.UNRESERVED)
    loss_reserve, redeemed = money(accounts.LOSS_RESERVE), money(accounts.PAYABLE) - lost
    available, saved = money(accounts.AVAILABLE), money(accounts.SAVED)
    allotted = money(_ALLOTTED)
    units = sorted({unit for _, unit in by_account} - {currency})
    quantities = {
        unit: Quantities(
            issued[unit],
            by_account[accounts.AVAILABLE, unit],
            by_account[_ALLOTTED, unit],
            by_account[accounts.REDEEMED_QUANTITY, unit],
            by_account[accounts.RETURNED_QUANTITY, unit],
        )
        for unit in units
    }
    promises = {
        "funded is not unreserved + loss_reserve + issued + lost - returned": (
            funded == unreserved + loss_reserve + issued[currency] + lost - returned
        ),
        "issued is not available + allotted + saved + redeemed + returned": (
            issued[currency] == available + allotted + saved + redeemed + returned
        ),
        "what is allotted is not what the allotments have left": (
            balance("allotted_minor") == allotted
            and balance("allotted_quantity") == sum(q.allotted for q in quantities.values())
        ),
        "the programme's unreserved balance is not the sum of its entries": (
            balance("unreserved_minor") == unreserved
        ),
        "the programme's loss reserve is not the sum of its entries": (
            balance("loss_reserve_minor") == loss_reserve
        ),
        "a posting does not sum to zero": balance("unbalanced") == 0,
        "a voucher's balance is not the sum of its entries": balance("differing") == 0,
        **{
            f"issued {unit} is not available + allotted + redeemed + returned": (
                q.issued == q.available + q.allotted + q.redeemed + q.returned
            )
            for unit, q in quantities.items()
        },
    }
    return ProgrammeSums(
        programme=programme,
        currency=currency,
        funded_minor=funded,
        unreserved_minor=unreserved,
        loss_reserve_minor=loss_reserve,
        lost_minor=lost,
        issued_minor=issued[currency],
        available_minor=available,
        allotted_minor=allotted,
        saved_minor=saved,
        redeemed_minor=redeemed,
        returned_minor=returned,
        vouchers=balance("vouchers"),
        quantities=quantities,
        differences=tuple(sentence for sentence, holds in promises.items() if not holds),
    )


_Query = Select[*tuple[Any, ...]]


def _number(name: str, amount: ColumnElement[int]) -> list[ColumnElement[Any]]:
    return [
        literal("balance", Text).label("what"),
        literal("", Text).label("kind"),
        literal(name, Text).label("account"),
        literal("", Text).label("unit"),
        amount,
    ]


def _entries(programme: str) -> _Query:
    entries, postings = schema.entries.c, schema.postings.c
    return (
        select(
            literal("entries", Text).label("what"),
            postings.kind,
            entries.account,
            entries.unit,
            func.sum(entries.amount).label("amount"),
        )
        .join(
            schema.postings,
            (postings.bucket == entries.bucket) & (postings.posting == entries.posting),
        )
        .where(entries.programme == programme)
        .group_by(postings.kind, entries.account, entries.unit)
    )


def _balances(programme: str) -> list[_Query]:
    programmes, vouchers = schema.programmes.c, schema.vouchers.c
    allotments = schema.allotments.c
    return [
        *(
            select(*_number(column.name, column)).where(programmes.programme == programme)
            for column in (programmes.unreserved_minor, programmes.loss_reserve_minor)
        ),
        select(*_number("vouchers", func.count())).where(vouchers.programme == programme),
        *(
            select(*_number(f"allotted_{name}", func.coalesce(func.sum(left), 0)))
            .join(
                schema.vouchers,
                (vouchers.bucket == allotments.bucket) & (vouchers.voucher == allotments.voucher),
            )
            .where(vouchers.programme == programme, allotments.closed == 0)
            for name, left in (
                ("minor", allotments.left_minor),
                ("quantity", allotments.left_quantity),
            )
        ),
    ]


def _unbalanced(programme: str) -> _Query:
    entries = schema.entries.c
    postings = (
        select(entries.posting)
        .where(entries.programme == programme)
        .group_by(entries.bucket, entries.posting, entries.unit)
        .having(func.sum(entries.amount) != 0)
        .subquery()
    )
    return select(*_number("unbalanced", func.count())).select_from(postings)


def _vouchers_that_differ(programme: str, currency: str) -> _Query:
    vouchers, entries = schema.vouchers.c, schema.entries.c

    def total(account: str, of_money: bool) -> ColumnElement[int]:
        unit_fits = entries.unit == currency if of_money else entries.unit != currency
        return func.coalesce(
            func.sum(entries.amount).filter((entries.account == account) & unit_fits), 0
        )

    summed = (
        select(
            entries.bucket,
            entries.holder,
            total(accounts.AVAILABLE, True).label("available_minor"),
            total(accounts.SAVED, True).label("saved_minor"),
            total(accounts.AVAILABLE, False).label("available_quantity"),
        )
        .where(entries.programme == programme)
        .where(entries.account.in_([accounts.AVAILABLE, accounts.SAVED]))
        .group_by(entries.bucket, entries.holder)
        .subquery()
    )
    query = (
        select(*_number("differing", func.count()))
        .select_from(schema.vouchers)
        .outerjoin(
            summed, (summed.c.bucket == vouchers.bucket) & (summed.c.holder == vouchers.voucher)
        )
        .where(vouchers.programme == programme)
    )
    return query.where(
        (func.coalesce(summed.c.available_minor, 0) != vouchers.available_minor)
        | (func.coalesce(summed.c.saved_minor, 0) != vouchers.saved_minor)
        | (func.coalesce(summed.c.available_quantity, 0) != vouchers.available_quantity)
    )
