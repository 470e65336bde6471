"""Double entry: which accounts a funding, an issue, a redemption, its undo and a forfeit move.

Pure. The entries of one posting sum to zero per unit (a currency, or piece/g/ml); what a voucher
holds is the sum of its entries. An item voucher moves twice: its quantity, and the money that
issuing set aside for it. What a cheaper price leaves stays the voucher's, as `saved`, because a
reversal or refund needs it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from carepos.basket import Entry as AllocationEntry
from carepos.voucher import Terms

FUNDER = "funder"
UNRESERVED = "unreserved"
AVAILABLE = "available"
SAVED = "saved"
PAYABLE = "payable"
ISSUED_QUANTITY = "issued_quantity"
REDEEMED_QUANTITY = "redeemed_quantity"
RETURNED_QUANTITY = "returned_quantity"


@dataclass(frozen=True, slots=True)
class Entry:
    """One leg: `amount` of `unit` into (or, negative, out of) an account of `holder`."""

    account: str
    holder: str
    unit: str
    amount: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What a voucher holds, and the terms that say what its quantity may cost."""

    voucher: str
    currency: str
    available_minor: int
    saved_minor: int
    available_quantity: int
    terms: Terms | None

    def after(self, entries: Iterable[Entry]) -> Balance:
        """The balance once the voucher's entries among `entries` are applied."""
        available, saved, quantity = (
            self.available_minor,
            self.saved_minor,
            self.available_quantity,
        )
        for entry in entries:
            if entry.holder != self.voucher:
                continue
            if entry.account == SAVED:
                saved += entry.amount
            elif entry.account == AVAILABLE and entry.unit == self.currency:
                available += entry.amount
            elif entry.account == AVAILABLE:
                quantity += entry.amount
        return replace(
            self, available_minor=available, saved_minor=saved, available_quantity=quantity
        )


def funding(funder: str, amount_minor: int, currency: str) -> list[Entry]:
    return _without_zeros(
        [
            Entry(FUNDER, funder, currency, -amount_minor),
            Entry(UNRESERVED, "", currency, amount_minor),
        ]
    )


def issue(
    voucher: str,
    programme: str,
    currency: str,
    amount_minor: int,
    quantity: int,
    terms: Terms | None,
) -> list[Entry]:
    """Set money aside for a new voucher: its amount, or what its quantity can cost at most."""
    reserved = amount_minor if terms is None else terms.reserve(quantity)
    legs = [
        Entry(UNRESERVED, "", currency, -reserved),
        Entry(AVAILABLE, voucher, currency, reserved),
    ]
    if terms is not None:
        legs += [
            Entry(ISSUED_QUANTITY, programme, terms.unit, -quantity),
            Entry(AVAILABLE, voucher, terms.unit, quantity),
        ]
    return _without_zeros(legs)


def redemption(
    balances: Iterable[Balance],
    allocation: Iterable[AllocationEntry],
    merchant: str,
    programme: str,
) -> list[Entry]:
    """The legs of a redemption that `rules.check` accepted, in order of voucher.

    For an item voucher, `available` afterwards is what the remaining quantity can still cost and
    `saved` is the rest; together they always cover it (docs/protocol.md §7, `Terms.reserve`).
    """
    taken: dict[str, tuple[int, int]] = {}
    for entry in allocation:
        minor, quantity = taken.get(entry.voucher, (0, 0))
        taken[entry.voucher] = (minor + entry.programme_minor, quantity + entry.quantity)
    legs: list[Entry] = []
    for balance in sorted(balances, key=lambda b: b.voucher):
        minor, quantity = taken[balance.voucher]
        left = balance.available_minor + balance.saved_minor - minor
        if balance.terms is None:
            available = balance.available_minor - minor
        else:
            available = min(left, balance.terms.reserve(balance.available_quantity - quantity))
            unit = balance.terms.unit
            legs += [
                Entry(AVAILABLE, balance.voucher, unit, -quantity),
                Entry(REDEEMED_QUANTITY, programme, unit, quantity),
            ]
        legs += [
            Entry(
                AVAILABLE, balance.voucher, balance.currency, available - balance.available_minor
            ),
            Entry(SAVED, balance.voucher, balance.currency, left - available - balance.saved_minor),
            Entry(PAYABLE, merchant, balance.currency, minor),
        ]
    return _without_zeros(legs)


def refund(
    balances: Iterable[Balance],
    parts: Iterable[AllocationEntry],
    merchant: str,
    programme: str,
) -> list[Entry]:
    """The legs that give these parts of a redemption back, in order of voucher.

    A redemption of less than nothing: what a cap saved follows the quantity again. What was kept
    of an item voucher's money was rounded down (docs/offline.md §3), so it covers its quantity.
    """
    given = [
        replace(part, quantity=-part.quantity, programme_minor=-part.programme_minor)
        for part in parts
    ]
    return redemption(balances, given, merchant, programme)


def net(postings: Iterable[Iterable[Entry]]) -> list[Entry]:
    """What a redemption and everything that took it back come to, account by account."""
    sums: dict[tuple[str, str, str], int] = {}
    for entries in postings:
        for entry in entries:
            key = (entry.account, entry.holder, entry.unit)
            sums[key] = sums.get(key, 0) + entry.amount
    return _without_zeros([Entry(*key, amount) for key, amount in sums.items()])


def reversed_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Every leg negated: a reversal undoes exactly what was posted."""
    return [replace(entry, amount=-entry.amount) for entry in entries]


def evened(balances: Iterable[Balance], entries: list[Entry]) -> list[Entry]:
    """What must move between `available` and `saved` once `entries` are applied.

    Where a cap does not divide, what a redemption left as saved depends on the ones before it.
    Undone in another order, the negated legs alone would draw `saved` below zero.
    """
    legs = []
    for before in balances:
        balance = before.after(entries)
        if balance.terms is None:
            continue
        money = balance.available_minor + balance.saved_minor
        shift = (
            min(money, balance.terms.reserve(balance.available_quantity)) - balance.available_minor
        )
        legs += [
            Entry(AVAILABLE, balance.voucher, balance.currency, shift),
            Entry(SAVED, balance.voucher, balance.currency, -shift),
        ]
    return _without_zeros(legs)


def forfeit(balance: Balance, programme: str) -> list[Entry]:
    """All that a voucher still holds goes back to what the programme has not reserved."""
    left = balance.available_minor + balance.saved_minor
    legs = [
        Entry(AVAILABLE, balance.voucher, balance.currency, -balance.available_minor),
        Entry(SAVED, balance.voucher, balance.currency, -balance.saved_minor),
        Entry(UNRESERVED, "", balance.currency, left),
    ]
    if balance.terms is not None:
        unit, quantity = balance.terms.unit, balance.available_quantity
        legs += [
            Entry(AVAILABLE, balance.voucher, unit, -quantity),
            Entry(RETURNED_QUANTITY, programme, unit, quantity),
        ]
    return _without_zeros(legs)


def sums_to_zero(entries: Iterable[Entry]) -> bool:
    """Whether the legs balance in every unit (INV-2)."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry.unit] = sums.get(entry.unit, 0) + entry.amount
    return not any(sums.values())


def _without_zeros(legs: list[Entry]) -> list[Entry]:
    kept = [leg for leg in legs if leg.amount]
    assert sums_to_zero(kept)
    return kept
