"""The one rule set: `propose` allocates vouchers to a basket, `check` judges an allocation.

No clock, no I/O, no framework. The till runs both, the ledger runs `check` with its own state and
never reallocates. docs/protocol.md §7 is the specification; what propose offers, check accepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from carepos.basket import Entry, Line
from carepos.money import split
from carepos.product import ProductList
from carepos.refusals import Refusal, first
from carepos.voucher import Programme, Quota, Terms, Voucher


@dataclass(frozen=True, slots=True)
class Acted:
    """What the programme paid in redemptions that were acted: for this household, by this actor."""

    household_minor: int
    actor_minor: int


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a decision looks at.

    `beneficiary` is whoever the token names, as a reference at this merchant; `at` is the instant
    that counts (online the ledger's clock); `lines` after discounts were spread; `acted` is set
    when somebody acts for the beneficiary: what was paid so before, within the programme's window.
    """

    programme: Programme
    products: ProductList
    vouchers: Mapping[str, Voucher]
    beneficiary: str
    store: str
    at: datetime
    lines: tuple[Line, ...]
    acted: Acted | None = None


@dataclass(frozen=True, slots=True)
class LineProposal:
    """One line of an offer. Σ entries + `rest_minor` = line amount; `reason` is set when
    something of the line is left for another tender."""

    line: Line
    entries: tuple[Entry, ...]
    rest_minor: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """An offer, shown before anything is taken.

    `refusal` is set when nothing can be redeemed here and now, whatever is in the basket;
    `after` are the vouchers as they would be, by voucher id.
    """

    lines: tuple[LineProposal, ...]
    refusal: Refusal | None
    before: Mapping[str, Voucher]
    after: Mapping[str, Voucher]

    @property
    def allocation(self) -> tuple[Entry, ...]:
        return tuple(entry for line in self.lines for entry in line.entries)

    @property
    def programme_minor(self) -> int:
        return sum(entry.programme_minor for entry in self.allocation)

    @property
    def beneficiary_minor(self) -> int:
        """What the beneficiary owes under fixed prices and top-ups."""
        return sum(entry.beneficiary_minor for entry in self.allocation)

    @property
    def rest_minor(self) -> int:
        """What no voucher touches: another tender."""
        return sum(line.rest_minor for line in self.lines)


# ── judging ────────────────────────────────────────────────────────────────────────────────────


def check(situation: Situation, allocation: Sequence[Entry]) -> Refusal | None:
    """The first refusal, in the order of `refusals.KINDS`, or None when the allocation holds.

    `allocation` is well formed (`basket.allocation_from_json`): sorted by line, lines in range.
    """
    return (
        _programme_refusal(situation)
        or first([r for e in allocation if (r := _holding_refusal(situation, e.voucher))])
        or _basket_refusal(situation, allocation)
        or _limit_refusal(situation, allocation)
        or first(_overdrawn(situation.vouchers, allocation))
        or _changed_refusal(situation, allocation)
    )


def _programme_refusal(situation: Situation) -> Refusal | None:
    programme = situation.programme
    if situation.at < programme.starts_at:
        return Refusal("programme_not_started")
    if situation.at >= programme.ends_at:
        return Refusal("programme_ended")
    if programme.paused:
        return Refusal("programme_paused")
    if situation.store not in programme.stores:
        return Refusal("store_not_in_programme")
    return None


def _holding_refusal(situation: Situation, voucher_id: str) -> Refusal | None:
    """Whether this beneficiary may use this voucher now."""
    voucher = situation.vouchers.get(voucher_id)
    if voucher is None or voucher.programme != situation.programme.programme:
        return Refusal("voucher_unknown", voucher_id)
    if voucher.beneficiary != situation.beneficiary:
        return Refusal("voucher_not_yours", voucher_id)
    if voucher.frozen:
        return Refusal("voucher_frozen", voucher_id)
    if situation.at < voucher.starts_at:
        return Refusal("voucher_not_started", voucher_id)
    if situation.at >= voucher.expires_at:
        return Refusal("voucher_expired", voucher_id)
    return None


def _basket_refusal(situation: Situation, allocation: Sequence[Entry]) -> Refusal | None:
    found: list[Refusal] = []
    used: dict[str, int] = {}
    for number, entries in _by_line(allocation):
        line = situation.lines[number - 1]
        category = situation.products.category_of(line.key)
        if category is None:
            found.append(Refusal("not_in_product_list", number))
            continue
        walk = _Walk(line)
        for entry in entries:
            voucher = situation.vouchers[entry.voucher]
            if not voucher.covers(category):
                found.append(Refusal("category_not_covered", number))
            if code := walk.take(entry, voucher, situation.programme.top_up_allowed):
                found.append(Refusal(code, number))
        quota = _quota(situation.programme, category)
        if quota is not None:
            if line.unit != quota.unit:
                found.append(Refusal("quantity_not_allowed", number))
            used[category] = used.get(category, 0) + walk.quantity_used()
            if used[category] > quota.quantity:
                found.append(Refusal("quota_exceeded", number))
    return first([refusal for refusal in found if refusal.code != "proposal_changed"])


def _limit_refusal(situation: Situation, allocation: Sequence[Entry]) -> Refusal | None:
    paid = sum(entry.programme_minor for entry in allocation)
    return first([Refusal(code) for limit, code in _limits(situation) if paid > limit])


def _limits(situation: Situation) -> list[tuple[int, str]]:
    """What the programme pays at most in this redemption, and the code of each limit."""
    programme, acted = situation.programme, situation.acted
    limits = []
    if programme.limit_per_redemption_minor is not None:
        limits.append((programme.limit_per_redemption_minor, "limit_exceeded"))
    if acted is not None and programme.acting is not None:
        limits += [
            (programme.acting.household_minor - acted.household_minor, "acting_limit"),
            (programme.acting.actor_minor - acted.actor_minor, "acting_limit"),
        ]
    return limits


def _overdrawn(vouchers: Mapping[str, Voucher], allocation: Sequence[Entry]) -> list[Refusal]:
    after = settle(vouchers, allocation)
    return [
        Refusal("balance_insufficient", voucher.voucher)
        for voucher in after.values()
        if voucher.available_minor < 0 or voucher.available_quantity < 0
    ]


def _changed_refusal(situation: Situation, allocation: Sequence[Entry]) -> Refusal | None:
    for number, entries in _by_line(allocation):
        walk = _Walk(situation.lines[number - 1])
        for entry in entries:
            voucher = situation.vouchers[entry.voucher]
            if walk.take(entry, voucher, situation.programme.top_up_allowed):
                return Refusal("proposal_changed", number)
    return None


def settle(vouchers: Mapping[str, Voucher], allocation: Iterable[Entry]) -> dict[str, Voucher]:
    """The touched vouchers after the allocation; balances may be negative, for `check` to see."""
    after: dict[str, Voucher] = {}
    for entry in allocation:
        voucher = after.get(entry.voucher) or vouchers[entry.voucher]
        after[entry.voucher] = voucher.less(entry.programme_minor, entry.quantity)
    return after


def _by_line(allocation: Sequence[Entry]) -> Iterable[tuple[int, list[Entry]]]:
    for number, entries in groupby(allocation, key=lambda entry: entry.line):
        yield number, list(entries)


def _quota(programme: Programme, category: str) -> Quota | None:
    return next((quota for quota in programme.quotas if quota.category == category), None)


# ── one line, entry by entry ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Part:
    """What an item voucher's formula gives for a quantity: L, programme's part, the rest of L."""

    covered_minor: int
    programme_minor: int
    refusal: str | None

    @property
    def beneficiary_minor(self) -> int:
        return self.covered_minor - self.programme_minor


def _item_part(
    terms: Terms, amount_minor: int, quantity: int, taken: int, top_up_allowed: bool
) -> _Part:
    """The formula of docs/protocol.md §7 for `taken` of `quantity` worth `amount_minor`."""
    covered = split(amount_minor, [taken, quantity - taken])[0]
    cap, fixed = terms.cap(taken), terms.fixed(taken)
    programme = max(0, min(covered, cap) - fixed)
    if covered <= fixed:
        refusal: str | None = "price_below_fixed"
    elif covered > cap and not top_up_allowed:
        refusal = "price_above_cap"
    elif programme == 0:
        refusal = "quantity_not_allowed"
    else:
        refusal = None
    return _Part(covered, programme, refusal)


@dataclass(slots=True)
class _Walk:
    """What is left of a line while its entries apply in order (A′ and n′ of the protocol)."""

    line: Line
    amount_minor: int = field(init=False)
    quantity: int = field(init=False)
    items: int = 0
    value_base: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.amount_minor = self.line.line_amount_minor
        self.quantity = self.line.quantity

    @property
    def value_minor(self) -> int:
        """What value entries cover so far."""
        return 0 if self.value_base is None else self.value_base[0] - self.amount_minor

    def quantity_used(self) -> int:
        """Quota use: items, and the least quantity that the covered money stands for."""
        if self.value_base is None or self.value_minor == 0:
            return self.items
        amount, quantity = self.value_base
        return self.items + -(-self.value_minor * quantity // amount)

    def take(self, entry: Entry, voucher: Voucher, top_up_allowed: bool) -> str | None:
        """Apply one entry; the code of what is wrong with it, if anything.

        A wrong entry is still applied as far as it can be, so that later ones are judged too.
        """
        if voucher.terms is None:
            return self._take_value(entry)
        return self._take_item(entry, voucher.terms, top_up_allowed)

    def _take_value(self, entry: Entry) -> str | None:
        if entry.quantity != 0:
            return "quantity_not_allowed"
        fits = 1 <= entry.programme_minor <= self.amount_minor and entry.beneficiary_minor == 0
        self.cover_value(min(entry.programme_minor, self.amount_minor))
        return None if fits else "proposal_changed"

    def _take_item(self, entry: Entry, terms: Terms, top_up_allowed: bool) -> str | None:
        taken = entry.quantity
        if (
            self.line.unit != terms.unit
            or not 1 <= taken <= self.quantity
            or terms.portion(taken) != taken
        ):
            return "quantity_not_allowed"
        if self.value_base is not None:
            return "proposal_changed"
        part = _item_part(terms, self.amount_minor, self.quantity, taken, top_up_allowed)
        self.cover_items(taken, part.covered_minor)
        if part.refusal is not None:
            return part.refusal
        agreed = (entry.programme_minor, entry.beneficiary_minor)
        return (
            None if agreed == (part.programme_minor, part.beneficiary_minor) else "proposal_changed"
        )

    def cover_value(self, minor: int) -> None:
        if self.value_base is None:
            self.value_base = (self.amount_minor, self.quantity)
        self.amount_minor -= minor

    def cover_items(self, taken: int, covered_minor: int) -> None:
        self.items += taken
        self.quantity -= taken
        self.amount_minor -= covered_minor


# ── offering ───────────────────────────────────────────────────────────────────────────────────


def propose(situation: Situation) -> Proposal:
    """The allocation we would offer: lines in basket order, vouchers in voucher order.

    Never raises for a basket that `lines_from_json` accepted; a line that can't be covered in
    full carries the first reason that stood in the way.
    """
    refusal = _programme_refusal(situation)
    # In voucher order throughout: of two that are barred alike, the same one is always named.
    held = sorted(situation.vouchers.values(), key=Voucher.order)
    barred = {
        voucher.voucher: found
        for voucher in held
        if (found := _holding_refusal(situation, voucher.voucher))
    }
    usable = [voucher for voucher in held if voucher.voucher not in barred]
    if refusal is None and not usable:
        # Nothing to redeem: say why of the voucher they do hold, else that there is none.
        refusal = first(list(barred.values())) or Refusal("voucher_unknown")
    if refusal is not None:
        return nothing(situation, refusal)
    offer = _Offer(situation, {voucher.voucher: voucher for voucher in usable}, barred)
    lines = tuple(offer.cover(number, line) for number, line in enumerate(situation.lines, 1))
    return Proposal(lines, None, situation.vouchers, {**situation.vouchers, **offer.vouchers})


def nothing(situation: Situation, refusal: Refusal) -> Proposal:
    """The proposal that covers nothing, for a reason that stands above the basket."""
    lines = tuple(
        LineProposal(line, (), line.line_amount_minor, refusal.code) for line in situation.lines
    )
    return Proposal(lines, refusal, situation.vouchers, situation.vouchers)


class _Offer:
    """The state of one `propose` run: what vouchers, limit and quotas still hold."""

    def __init__(
        self,
        situation: Situation,
        vouchers: dict[str, Voucher],
        barred: Mapping[str, Refusal],
    ) -> None:
        self._situation = situation
        self._barred = barred
        self.vouchers = vouchers
        self._order = list(vouchers)
        # All limits fall alike with what is paid, so the least stays the least.
        self._limit = min(_limits(situation), default=None)
        self._paid_minor = 0
        self._quota_left = {q.category: q.quantity for q in situation.programme.quotas}

    def cover(self, number: int, line: Line) -> LineProposal:
        if line.line_amount_minor == 0:
            return LineProposal(line, (), 0, None)
        category = self._situation.products.category_of(line.key)
        if category is None:
            return LineProposal(line, (), line.line_amount_minor, "not_in_product_list")
        covering = [i for i in self._order if self.vouchers[i].covers(category)]
        if not covering:
            return LineProposal(line, (), line.line_amount_minor, self._why_none_covers(category))
        quota = _quota(self._situation.programme, category)
        if quota is not None and quota.unit != line.unit:
            return LineProposal(line, (), line.line_amount_minor, "quantity_not_allowed")

        walk = _Walk(line)
        entries: list[Entry] = []
        reason: str | None = None
        for voucher_id in covering:
            if walk.amount_minor == 0:
                break
            voucher = self.vouchers[voucher_id]
            quota_left = None if quota is None else self._quota_left[category]
            entry, hindrance = (
                self._value_entry(number, voucher, walk, quota_left)
                if voucher.terms is None
                else self._item_entry(number, voucher, voucher.terms, walk, quota_left)
            )
            reason = reason or hindrance
            if entry is not None:
                entries.append(entry)
                self.vouchers[voucher_id] = voucher.less(entry.programme_minor, entry.quantity)
                self._paid_minor += entry.programme_minor
        if quota is not None:
            self._quota_left[category] -= walk.quantity_used()
        rest = walk.amount_minor
        return LineProposal(line, tuple(entries), rest, reason if rest else None)

    def _why_none_covers(self, category: str) -> str:
        """A voucher that would cover it but can't be used says more than that none covers it."""
        held = self._situation.vouchers
        barring = [r for v, r in self._barred.items() if held[v].covers(category)]
        named = [r for r in barring if r.code not in ("voucher_unknown", "voucher_not_yours")]
        refusal = first(named)
        return "category_not_covered" if refusal is None else refusal.code

    def _value_entry(
        self, number: int, voucher: Voucher, walk: _Walk, quota_left: int | None
    ) -> tuple[Entry | None, str | None]:
        ceilings = [(voucher.available_minor, "balance_insufficient")]
        if (limit := self._limit_left()) is not None:
            ceilings.append(limit)
        if quota_left is not None:
            amount, quantity = walk.value_base or (walk.amount_minor, walk.quantity)
            allowed = min(quota_left - walk.items, quantity)
            coverable = amount * allowed // quantity if quantity else 0
            ceilings.append((coverable - walk.value_minor, "quota_exceeded"))
        minor, hindrance = min([(walk.amount_minor, None), *ceilings], key=lambda c: c[0])
        if minor <= 0:
            return None, hindrance
        walk.cover_value(minor)
        return Entry(number, voucher.voucher, 0, minor, 0), hindrance

    def _item_entry(
        self, number: int, voucher: Voucher, terms: Terms, walk: _Walk, quota_left: int | None
    ) -> tuple[Entry | None, str | None]:
        if terms.unit != walk.line.unit or walk.quantity == 0:
            return None, "quantity_not_allowed"
        if walk.value_base is not None:
            # Money already covers a part of what is left, so pieces can't be told apart any more.
            return None, "balance_insufficient"
        ceilings = [(voucher.available_quantity, "balance_insufficient")]
        if quota_left is not None:
            ceilings.append((quota_left - walk.items, "quota_exceeded"))
        most, hindrance = min([(walk.quantity, None), *ceilings], key=lambda c: c[0])
        taken = terms.portion(most)
        if taken < most:
            hindrance = hindrance or "quantity_not_allowed"
        if taken <= 0:
            return None, hindrance
        part = self._part(terms, walk, taken)
        limit = self._limit_left()
        if limit is not None and part.programme_minor > limit[0]:
            hindrance = limit[1]
            taken = self._within_limit(terms, walk, taken, limit[0])
            if taken == 0:
                return None, hindrance
            part = self._part(terms, walk, taken)
        if part.refusal is not None:
            return None, part.refusal
        walk.cover_items(taken, part.covered_minor)
        entry = Entry(number, voucher.voucher, taken, part.programme_minor, part.beneficiary_minor)
        return entry, hindrance

    def _limit_left(self) -> tuple[int, str] | None:
        """What the programme may still pay in this redemption, and the code of what bounds it."""
        return None if self._limit is None else (self._limit[0] - self._paid_minor, self._limit[1])

    def _part(self, terms: Terms, walk: _Walk, taken: int) -> _Part:
        top_up_allowed = self._situation.programme.top_up_allowed
        return _item_part(terms, walk.amount_minor, walk.quantity, taken, top_up_allowed)

    def _within_limit(self, terms: Terms, walk: _Walk, most: int, limit_minor: int) -> int:
        """The largest quantity whose programme part the limit still allows, or 0 (bisection:
        the part never falls as the quantity grows, because the fixed price is below the cap)."""
        step = terms.cap_quantity if terms.fixed_minor else 1
        low, high = 0, most // step
        while low < high:
            middle = (low + high + 1) // 2
            if self._part(terms, walk, middle * step).programme_minor <= limit_minor:
                low = middle
            else:
                high = middle - 1
        return low * step
