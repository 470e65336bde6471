"""Redeeming without a network: what may be offered, what it draws on, and why not.

Pure, like `rules`, which judges basket and vouchers as ever; here is only what a missing ledger
adds (docs/offline.md §6). What `offered` shows, `propose` allocates and `rules.check` accepts,
`refusal` accepts too, as far as limits allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from carepos.basket import Entry
from carepos.offline_rule import FloorRule, Liability, OfflineRule
from carepos.refusals import Refusal
from carepos.voucher import Terms, Voucher


@dataclass(frozen=True, slots=True)
class Allotted:
    """What an allotment of this till still holds and may be spent now."""

    voucher: str
    allotment: int
    left_minor: int
    left_quantity: int

    def spare(self, terms: Terms, quantity: int) -> int:
        """Money it can give with `quantity` and still hold what the rest may cost."""
        return self.left_minor - terms.reserve(self.left_quantity - quantity)


@dataclass(frozen=True, slots=True)
class AllotmentUse:
    """What a redemption draws on one allotment."""

    voucher: str
    allotment: int
    amount_minor: int
    quantity: int

    def to_json(self) -> dict[str, object]:
        return {
            "voucher": self.voucher,
            "allotment": self.allotment,
            "amount_minor": self.amount_minor,
            "quantity": self.quantity,
        }


@dataclass(frozen=True, slots=True)
class OfflineState:
    """What a till knows of itself while the ledger does not answer.

    `pack_age_s` by the clock or by the hours that the till ran, whichever is more. `beyond_minor`:
    what it gave this beneficiary beyond allotments within the floor's window. `stored_*`: the
    acceptances of this programme that have no final outcome.
    """

    rule: OfflineRule | None
    allotted: tuple[Allotted, ...] = ()
    pack_age_s: int = 0
    is_clock_behind: bool = False
    is_acting: bool = False
    beyond_minor: int = 0
    stored_minor: int = 0
    stored_count: int = 0

    @property
    def floor(self) -> FloorRule | None:
        return None if self.rule is None else self.rule.floor

    @property
    def headroom_minor(self) -> int:
        """How much may still go beyond allotments in one redemption of this beneficiary."""
        if self.floor is None:
            return 0
        left = self.floor.beneficiary_minor - self.beyond_minor
        return max(0, min(self.floor.redemption_minor, left))

    def of(self, voucher: str) -> list[Allotted]:
        """The voucher's allotments, in the order in which they give."""
        own = [each for each in self.allotted if each.voucher == voucher]
        return sorted(own, key=lambda each: each.allotment)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an allocation draws on: allotments, and what lies beyond them."""

    use: tuple[AllotmentUse, ...] = ()
    beyond_minor: int = 0
    beyond: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By voucher: money and quantity beyond its allotments."""

    def liability(self, rule: OfflineRule) -> Liability:
        """Who bears the loss if the redemption turns out bad."""
        if self.beyond_minor == 0 or rule.floor is None:
            return "programme"
        return rule.floor.liability


def offered(vouchers: Mapping[str, Voucher], state: OfflineState) -> dict[str, Voucher]:
    """The vouchers as they may be used now: what is allotted, and what the floor limits leave of
    `available`, to the vouchers in their order."""
    headroom, shown = state.headroom_minor, {}
    for voucher in sorted(vouchers.values(), key=Voucher.order):
        own = state.of(voucher.voucher)
        if voucher.terms is None:
            beyond = min(headroom, voucher.available_minor)
            headroom -= beyond
            held = sum(each.left_minor for each in own) + beyond
            shown[voucher.voucher] = replace(voucher, available_minor=held)
        else:
            allotted = sum(each.left_quantity for each in own)
            units = _units_within(voucher.terms, allotted, voucher.available_quantity, headroom)
            headroom -= _costs(voucher.terms, allotted, units)
            held = allotted + units
            shown[voucher.voucher] = replace(voucher, available_quantity=held)
    return shown


def _costs(terms: Terms, allotted: int, beyond: int) -> int:
    """What `beyond` units may cost on top of those allotted: where a cap does not divide, a little
    more than they would alone."""
    return terms.reserve(allotted + beyond) - terms.reserve(allotted)


def _units_within(terms: Terms, allotted: int, most: int, headroom_minor: int) -> int:
    """The largest quantity beyond what is allotted that costs no more than `headroom_minor`
    (bisection: what a quantity may cost never falls as it grows)."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if _costs(terms, allotted, middle) <= headroom_minor:
            low = middle
        else:
            high = middle - 1
    return low


def plan(vouchers: Mapping[str, Voucher], allocation: Sequence[Entry], state: OfflineState) -> Plan:
    """What the allocation draws on which allotment, in their order, and what is beyond."""
    taken: dict[str, tuple[int, int]] = {}
    for entry in allocation:
        minor, quantity = taken.get(entry.voucher, (0, 0))
        taken[entry.voucher] = (minor + entry.programme_minor, quantity + entry.quantity)
    use: list[AllotmentUse] = []
    beyond = {}
    for voucher, (minor, quantity) in sorted(taken.items()):
        terms = vouchers[voucher].terms
        for each in state.of(voucher):
            units = min(quantity, each.left_quantity)
            money = min(minor, each.left_minor if terms is None else each.spare(terms, units))
            if terms is not None and units == 0:
                continue
            if money or units:
                use.append(AllotmentUse(voucher, each.allotment, money, units))
            minor, quantity = minor - money, quantity - units
        if minor or quantity:
            beyond[voucher] = (minor, quantity)
    return Plan(tuple(use), sum(minor for minor, _ in beyond.values()), beyond)


def refusal(
    vouchers: Mapping[str, Voucher], allocation: Sequence[Entry], state: OfflineState
) -> Refusal | None:
    """Why this allocation, which `rules.check` accepts, can't be redeemed without the ledger."""
    rule = state.rule
    if rule is None or state.is_acting:
        return Refusal("offline_not_allowed")
    if state.is_clock_behind:
        return Refusal("clock_behind")
    if state.pack_age_s >= rule.pack_age_s:
        return Refusal("pack_stale")
    planned = plan(vouchers, allocation, state)
    if state.floor is not None and planned.beyond_minor > state.headroom_minor:
        return Refusal("floor_limit")
    paid = sum(entry.programme_minor for entry in allocation)
    if state.stored_minor + paid > rule.stored_sum_minor:
        return Refusal("stored_sum")
    if state.stored_count >= rule.stored_count:
        return Refusal("stored_count")
    if planned.beyond and state.floor is None:
        return Refusal("allotment_exceeded", min(planned.beyond))
    return None
