"""What of a voucher a till may still give without the ledger: what its pack says, less what this
journal took since (docs/offline.md §4 and §6).

An allotment is taken up once: whatever was drawn on it, online or not, stays drawn, also where a
newer pack names it again. What is not decided yet counts as drawn. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from carepos.households import Household, PackedVoucher
from carepos.offline import Allotted, Plan
from carepos.outcome import Outcome
from carepos.voucher import Voucher

UNCERTAINTY: Final = timedelta(seconds=60)
"""How far a till's clock that is not known to be wrong may be behind the ledger's."""

Dates = Sequence[tuple[datetime, datetime]]
"""A pack's (`spend_until`, `reclaim_after`)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one attempt takes of a voucher: of the allotment with this number, 0 for none.

    `is_later`: more than the till expected at most, of an allotment behind that number which it did
    not know of, or of one up to it. `decided_at` is the ledger's time, None while there is none.
    """

    voucher: str
    allotment: int
    is_later: bool
    amount_minor: int
    quantity: int
    decided_at: datetime | None = None


def planned(plan: Plan) -> tuple[Taken, ...]:
    """What an allocation takes at most, before the ledger has said what it drew on."""
    drawn = [
        Taken(use.voucher, use.allotment, False, use.amount_minor, use.quantity) for use in plan.use
    ]
    beyond = [
        Taken(voucher, 0, False, minor, quantity)
        for voucher, (minor, quantity) in sorted(plan.beyond.items())
    ]
    return (*drawn, *beyond)


def actual(before: Iterable[Taken], outcome: Outcome) -> tuple[Taken, ...]:
    """What a booked redemption took, by the signed outcome: `before` says which allotments the till
    knew of. The ledger draws on them in order of their number."""
    known = sorted((t for t in before if t.allotment), key=lambda t: t.allotment)
    at, made = outcome.recorded_at, []
    for state in outcome.vouchers:
        minor, quantity = state.from_allotment_minor, state.from_allotment_quantity
        own = state.amount_minor - minor, state.quantity - quantity
        last = 0
        for each in (t for t in known if t.voucher == state.voucher and not t.is_later):
            money, units = min(minor, each.amount_minor), min(quantity, each.quantity)
            minor, quantity, last = minor - money, quantity - units, each.allotment
            if money or units:
                made.append(Taken(state.voucher, each.allotment, False, money, units, at))
        if minor or quantity:
            made.append(Taken(state.voucher, last, True, minor, quantity, at))
        if any(own):
            made.append(Taken(state.voucher, 0, False, max(0, own[0]), max(0, own[1]), at))
    return tuple(made)


def left(
    vouchers: Iterable[PackedVoucher],
    dates: Dates,
    taken: Iterable[Taken],
    returned: Collection[tuple[str, int]],
    now: datetime,
) -> tuple[Allotted, ...]:
    """What this till's allotments of these vouchers still hold and may be spent at `now`."""
    drawn = list(taken)
    found = []
    for voucher in vouchers:
        own = [each for each in drawn if each.voucher == voucher.voucher]
        spent = {
            each.allotment
            for each in voucher.allotments
            if dates[each.date][0] - UNCERTAINTY <= now
            or (voucher.voucher, each.allotment) in returned
        }
        found += [each for each in _of(voucher, own, spent) if each.allotment not in spent]
    return tuple(found)


def _of(voucher: PackedVoucher, taken: Sequence[Taken], spent: set[int]) -> list[Allotted]:
    held = {a.allotment: [a.amount_minor, a.quantity] for a in voucher.allotments}
    for each in taken:
        if each.allotment in held and not each.is_later:
            _draw(held[each.allotment], each.amount_minor, each.quantity)
    for each in taken:
        if each.is_later:
            # It may be of one that the till did not know of, or of one that another sale, undecided
            # then, drew less on in the end: what may be gone of either is not given out again.
            order = sorted(held, key=lambda n: (n in spent, n))
            for behind in (True, False):
                minor, quantity = each.amount_minor, each.quantity
                for number in order:
                    if (number > each.allotment) is behind:
                        minor, quantity = _draw(held[number], minor, quantity)
    return [Allotted(voucher.voucher, n, *rest) for n, rest in sorted(held.items())]


def _draw(held: list[int], minor: int, quantity: int) -> tuple[int, int]:
    """Take as much of it as there is; what is still to be drawn."""
    money, units = min(minor, held[0]), min(quantity, held[1])
    held[0], held[1] = held[0] - money, held[1] - units
    return minor - money, quantity - units


def vouchers_of(
    household: Household,
    kinds: Sequence[Mapping[str, object]],
    taken: Iterable[Taken],
    issued_at: datetime,
) -> tuple[Voucher, ...]:
    """The household's vouchers: `available` as the pack of `issued_at` knew it, less what this till
    took of it since."""
    drawn = list(taken)
    found = []
    for packed in household.vouchers:
        since = [
            each
            for each in drawn
            if each.voucher == packed.voucher
            and each.allotment == 0
            and not each.is_later
            and (each.decided_at is None or each.decided_at > issued_at)
        ]
        told = {
            **kinds[packed.kind],
            "voucher": packed.voucher,
            "frozen": packed.frozen,
            "available_minor": packed.available_minor,
            "available_quantity": packed.available_quantity,
        }
        voucher = Voucher.from_json(told, household.beneficiary, "household.v")
        minor = voucher.available_minor - sum(each.amount_minor for each in since)
        quantity = voucher.available_quantity - sum(each.quantity for each in since)
        if voucher.terms is None:
            voucher = replace(voucher, available_minor=max(0, minor))
        else:
            voucher = replace(voucher, available_quantity=max(0, quantity))
        found.append(voucher)
    return tuple(found)
