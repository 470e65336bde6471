"""Double entry: which accounts a funding, an issue, a redemption, its undo and a forfeit move.

Pure. The entries of one posting sum to zero per unit (a currency, or piece/g/ml); what a voucher
holds is the sum of its entries. An item voucher moves twice: its quantity, and the money that
issuing set aside for it. What a cheaper price leaves stays the voucher's, as `saved`, because a
reversal or refund needs it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from carepos.basket import Entry as AllocationEntry
from carepos.voucher import Terms

FUNDER = "funder"
UNRESERVED = "unreserved"
LOSS_RESERVE = "loss_reserve"
AVAILABLE = "available"
SAVED = "saved"
PAYABLE = "payable"
ISSUED_QUANTITY = "issued_quantity"
REDEEMED_QUANTITY = "redeemed_quantity"
RETURNED_QUANTITY = "returned_quantity"

_ALLOTTED = "allotted:"


def allotted_to(terminal: str) -> str:
    """The account of a voucher that holds what is set aside for one till."""
    return f"{_ALLOTTED}{terminal}"


def is_allotted(account: str) -> bool:
    """Whether it holds what is set aside for some till."""
    return account.startswith(_ALLOTTED)


def is_vouchers(account: str) -> bool:
    """Whether its holder is a voucher."""
    return account in (AVAILABLE, SAVED) or is_allotted(account)


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


def loss_reserve(amount_minor: int, currency: str) -> list[Entry]:
    """Set aside what pays for sales without the ledger that no voucher covers."""
    return _without_zeros(
        [
            Entry(UNRESERVED, "", currency, -amount_minor),
            Entry(LOSS_RESERVE, "", currency, amount_minor),
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


Taken = Mapping[str, tuple[int, int]]
"""By voucher: money in minor units, and a quantity in its terms' unit (0 of a value voucher)."""


def taken_by(allocation: Iterable[AllocationEntry]) -> dict[str, tuple[int, int]]:
    """What an allocation takes of each voucher, over all its lines."""
    taken: dict[str, tuple[int, int]] = {}
    for entry in allocation:
        minor, quantity = taken.get(entry.voucher, (0, 0))
        taken[entry.voucher] = (minor + entry.programme_minor, quantity + entry.quantity)
    return taken


def redemption(
    balances: Iterable[Balance], taken: Taken, merchant: str, programme: str
) -> list[Entry]:
    """The legs of a redemption that `rules.check` accepted, in order of voucher.

    For an item voucher, `available` afterwards is what the remaining quantity can still cost and
    `saved` is the rest; together they always cover it (docs/protocol.md §7, `Terms.reserve`).
    """
    legs: list[Entry] = []
    for balance in sorted(balances, key=lambda b: b.voucher):
        minor, quantity = taken[balance.voucher]
        legs += _leave(balance, minor, quantity)
        if balance.terms is not None:
            legs.append(Entry(REDEEMED_QUANTITY, programme, balance.terms.unit, quantity))
        legs.append(Entry(PAYABLE, merchant, balance.currency, minor))
    return _without_zeros(legs)


def drawn(
    balance: Balance, minor: int, quantity: int, *, terminal: str, merchant: str, programme: str
) -> list[Entry]:
    """The legs of what a redemption draws on allotments of one voucher."""
    account = allotted_to(terminal)
    legs = [
        Entry(account, balance.voucher, balance.currency, -minor),
        Entry(PAYABLE, merchant, balance.currency, minor),
    ]
    if balance.terms is not None:
        unit = balance.terms.unit
        legs += [
            Entry(account, balance.voucher, unit, -quantity),
            Entry(REDEEMED_QUANTITY, programme, unit, quantity),
        ]
    return _without_zeros(legs)


def set_aside(balance: Balance, minor: int, quantity: int, *, terminal: str) -> list[Entry]:
    """Move a part of a voucher to what is set aside for a till; negative: back again."""
    account = allotted_to(terminal)
    legs = _leave(balance, minor, quantity)
    legs.append(Entry(account, balance.voucher, balance.currency, minor))
    if balance.terms is not None:
        legs.append(Entry(account, balance.voucher, balance.terms.unit, quantity))
    return _without_zeros(legs)


def given_back(balance: Balance, minor: int, quantity: int) -> list[Entry]:
    """As an outcome tells what goes back to a voucher: the legs as if they had left it."""
    unit = balance.currency if balance.terms is None else balance.terms.unit
    return [
        entry
        for entry in (
            Entry(AVAILABLE, balance.voucher, balance.currency, -minor),
            Entry(AVAILABLE, balance.voucher, unit, -quantity),
        )
        if entry.amount
    ]


def _leave(balance: Balance, minor: int, quantity: int) -> list[Entry]:
    """The legs by which this much leaves (or, negative, enters) a voucher's own accounts."""
    left = balance.available_minor + balance.saved_minor - minor
    if balance.terms is None:
        return [Entry(AVAILABLE, balance.voucher, balance.currency, -minor)]
    available = min(left, balance.terms.reserve(balance.available_quantity - quantity))
    return [
        Entry(AVAILABLE, balance.voucher, balance.terms.unit, -quantity),
        Entry(AVAILABLE, balance.voucher, balance.currency, available - balance.available_minor),
        Entry(SAVED, balance.voucher, balance.currency, left - available - balance.saved_minor),
    ]


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
    given = {voucher: (-minor, -quantity) for voucher, (minor, quantity) in taken_by(parts).items()}
    return redemption(balances, given, merchant, programme)


def net(postings: Iterable[Iterable[Entry]]) -> list[Entry]:
    """What a redemption and everything that took it back come to, account by account."""
    sums: dict[tuple[str, str, str], int] = {}
    for entries in postings:
        for entry in entries:
            key = (entry.account, entry.holder, entry.unit)
            sums[key] = sums.get(key, 0) + entry.amount
    return _without_zeros([Entry(*key, amount) for key, amount in sums.items()])


def moves(entries: Iterable[Entry]) -> bool:
    """Whether anything comes to or leaves anybody: money that only changes between what a voucher
    has `available`, `saved` and set aside does not."""
    purses = [
        replace(entry, account=AVAILABLE) if is_vouchers(entry.account) else entry
        for entry in entries
    ]
    return bool(net([purses]))


def reversed_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Every leg negated: a reversal undoes exactly what was posted. What was drawn on an allotment
    goes back to `available`: by then it may be closed."""
    return [
        replace(
            entry,
            account=AVAILABLE if is_allotted(entry.account) else entry.account,
            amount=-entry.amount,
        )
        for entry in entries
    ]


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
