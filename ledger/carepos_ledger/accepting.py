"""What becomes of a sale that went out of the door without the ledger's word (docs/offline.md §8).

It has happened: it is never dropped, and refused only where the till knew better. What allotments
hold is paid in full, the rest as far as the vouchers cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from carepos import pin, rules, token
from carepos.acceptance import AcceptOffline
from carepos.offline_rule import Liability
from carepos.outcome import HeldReason
from carepos.record import Redeem
from carepos.refusals import ORDER, Refusal
from carepos.token import IdentityToken
from carepos.voucher import Programme
from carepos_ledger import accounts
from carepos_ledger.accounts import Balance, Entry
from carepos_ledger.allotments import Allotment, Drawn
from carepos_ledger.keyring import Keyring
from carepos_ledger.shelf import Command, Shelf


@dataclass(frozen=True, slots=True)
class Held:
    """Not decided: a person looks at it. `reason` is the outcome's; `refusal` says what was wrong
    with the token, where that is it."""

    reason: HeldReason
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class NotBooked:
    """Nothing is booked, for a reason that the till knew; a person looks at it."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Booked:
    """How it is paid, by voucher, and what nobody's voucher covers; `said`: how much of it the till
    drew on allotments that were freed since."""

    draws: Mapping[str, Drawn]
    shortfall_minor: int
    liability: Liability
    said: tuple[tuple[Allotment, int], ...] = ()


Verdict = Held | NotBooked | Booked

_ABOUT_RULES = range(ORDER["programme_not_started"], ORDER["voucher_unknown"])
_ABOUT_BASKET = range(ORDER["not_in_product_list"], ORDER["balance_insufficient"])


class Accepting:
    """Judges acceptances on `shelf`; `now` is the ledger's clock."""

    def __init__(self, shelf: Shelf, keyring: Keyring, now: datetime) -> None:
        self._shelf = shelf
        self._keyring = keyring
        self._now = now

    def judge(self, redeem: Command, accept: AcceptOffline, *, by_word: bool = False) -> Verdict:
        """What becomes of the sale in `redeem`, by the time at which it was made; `by_word` of
        somebody who has looked at it, which stands for its token."""
        content = redeem.record.redeem
        programme = self._shelf.programmes.get(content.programme)
        if programme is None or programme.currency != content.currency:
            return Held("malformed")
        if accept.record_sha256 != redeem.record.digest:
            return Held("malformed")
        if by_word:
            holder = owner(self._shelf, self._keyring, redeem)
            if holder is None:
                return NotBooked(Refusal("voucher_unknown"))
        else:
            identity = redeem.identity
            if not isinstance(identity, IdentityToken):
                return Held("token", identity)
            holder = self._holder(redeem, content, identity)
            if holder is None:
                return Held("malformed")
            wrong = self._token_refusal(redeem, identity, programme)
            if wrong is not None:
                return Held("token", wrong)
            if not _fits(accept, content):
                return Held("malformed")
        refusal = self._refusal(redeem, content, programme, holder)
        if refusal is not None:
            return NotBooked(refusal)
        booked = self._booked(redeem, content, accept, programme)
        reserve = self._shelf.loss_reserve.get(programme.programme, 0)
        is_programmes = booked.liability == "programme"
        if is_programmes and booked.shortfall_minor > reserve:
            # The loss reserve pays nothing by halves: it is filled, or a person decides.
            return NotBooked(Refusal("balance_insufficient"))
        if not is_programmes and booked.shortfall_minor == content.programme_minor:
            return NotBooked(Refusal("balance_insufficient"))
        return booked

    def _holder(self, redeem: Command, content: Redeem, identity: IdentityToken) -> str | None:
        """The ledger's name of whoever held the token, if the record is about them."""
        reference = self._keyring.beneficiary_ref(
            redeem.terminal.merchant, identity.iss, identity.sub
        )
        found = self._shelf.beneficiaries.get((identity.iss, identity.sub))
        if found is None or reference != content.beneficiary or found[0] != redeem.record.bucket:
            return None
        return found[1]

    def _token_refusal(
        self, redeem: Command, identity: IdentityToken, programme: Programme
    ) -> Refusal | None:
        return token.issuer_refusal(identity, programme) or token.fitness_refusal(
            identity, programme, pin_proved=is_pin_proved(self._shelf, redeem, identity)
        )

    def _refusal(
        self, redeem: Command, content: Redeem, programme: Programme, holder: str
    ) -> Refusal | None:
        """What the till could know and sold against all the same.

        Balances are not asked: what they don't cover is a loss, not a refusal. Rules that became
        other ones after the till's pack are not held against it.
        """
        identity = redeem.identity
        acting = isinstance(identity, IdentityToken) and identity.acting is not None
        if programme.offline is None or acting:
            # What was paid to whoever acts is known here alone: no till could keep to its limit.
            return Refusal("offline_not_allowed")
        enough = dict.fromkeys(accounts.taken_by(content.allocation), (10**12, 10**9))
        vouchers = {
            name: replace(
                held.voucher,
                frozen=held.voucher.frozen and self._knew_of_freeze(redeem, name),
                available_minor=enough.get(name, (0, 0))[0] if held.voucher.terms is None else 0,
                available_quantity=enough.get(name, (0, 0))[1],
            )
            for name, held in self._shelf.holdings.items()
        }
        situation = rules.Situation(
            programme=programme,
            products=self._shelf.products[programme.product_list],
            vouchers=vouchers,
            beneficiary=holder,
            store=redeem.terminal.store,
            at=redeem.record.occurred_at,
            lines=content.basket,
        )
        refusal = rules.check(situation, content.allocation)
        if refusal is not None and content.rules_version < programme.rules_version:
            place = ORDER[refusal.code]
            if place in _ABOUT_RULES or place in _ABOUT_BASKET:
                return None
        return refusal

    def _knew_of_freeze(self, redeem: Command, voucher: str) -> bool:
        """Whether the pack in the till said that the voucher is frozen."""
        frozen_at = self._shelf.frozen_at.get(voucher)
        pack_made_at = self._shelf.packs_made_at.get(redeem.record.digest)
        return frozen_at is None or pack_made_at is None or frozen_at <= pack_made_at

    # ── paying ─────────────────────────────────────────────────────────────────────────────────

    def _booked(
        self, redeem: Command, content: Redeem, accept: AcceptOffline, programme: Programme
    ) -> Booked:
        draws, missing_programme, missing_floor = {}, 0, 0
        said: list[tuple[Allotment, int]] = []
        for voucher, (minor, quantity) in accounts.taken_by(content.allocation).items():
            balance = self._shelf.holdings[voucher].balance
            parts, freed = self._from_allotments(redeem, accept, balance, minor, quantity)
            said += freed
            given = sum(each for _, each, _ in parts), sum(each for _, _, each in parts)
            rest = minor - given[0], quantity - given[1]
            money, units = _covered(balance, *rest)
            draws[voucher] = Drawn(money, units, tuple(parts))
            missing = rest[0] - money
            # What the vouchers cover pays first for what is beyond allotments.
            of_allotments = min(missing, sum(each for _, each in freed))
            missing_programme += of_allotments
            missing_floor += missing - of_allotments
        floor = None if programme.offline is None else programme.offline.floor
        liability: Liability = "programme"
        if missing_floor and (
            floor is None or floor.liability == "merchant" or missing_floor > floor.redemption_minor
        ):
            liability = "merchant"
        return Booked(draws, missing_programme + missing_floor, liability, tuple(said))

    def _from_allotments(
        self,
        redeem: Command,
        accept: AcceptOffline,
        balance: Balance,
        minor: int,
        quantity: int,
    ) -> tuple[list[tuple[Allotment, int, int]], list[tuple[Allotment, int]]]:
        """What the till's open allotments give of what it says it drew on them; and how much money
        it says so of such as were freed, of each what was left then and not more, once.

        What it says of others, or more, says nothing: it is beyond allotments.
        """
        record = redeem.record
        opened = {
            each.number: each
            for each in self._shelf.own(balance.voucher, record.terminal, record.incarnation)
        }
        parts, said = [], []
        for use in accept.allotment_use:
            if use.voucher != balance.voucher:
                continue
            allotment = opened.get(use.allotment)
            if allotment is None:
                freed = self._shelf.freed_of(
                    balance.voucher, use.allotment, record.terminal, record.incarnation
                )
                if freed is not None:
                    said.append((freed, min(use.amount_minor, freed.left_minor)))
                continue
            units = min(use.quantity, quantity, allotment.left_quantity)
            money = min(use.amount_minor, minor, allotment.spare(balance.terms, units))
            if money or units:
                parts.append((allotment, money, units))
                minor, quantity = minor - money, quantity - units
        return parts, said


def _fits(accept: AcceptOffline, content: Redeem) -> bool:
    """Whether an acceptance says no more of allotments than its sale takes of the vouchers."""
    taken = accounts.taken_by(content.allocation)
    for voucher in {use.voucher for use in accept.allotment_use}:
        uses = [use for use in accept.allotment_use if use.voucher == voucher]
        minor, quantity = taken.get(voucher, (0, 0))
        if minor < sum(use.amount_minor for use in uses):
            return False
        if quantity < sum(use.quantity for use in uses):
            return False
    return True


def is_pin_proved(shelf: Shelf, sale: Command, identity: IdentityToken) -> bool:
    """Whether the evidence proves the PIN of the card that was shown."""
    if not identity.needs_pin or sale.pin_proof is None:
        return False
    verifier = shelf.pin_verifiers.get((identity.iss, identity.jti_sha256))
    return verifier is not None and pin.matches(sale.pin_proof, verifier)


def owner(shelf: Shelf, keyring: Keyring, sale: Command) -> str | None:
    """The ledger's name of whom the record says it is about, if a voucher in it is theirs."""
    content, merchant = sale.record.redeem, sale.terminal.merchant
    for entry in content.allocation:
        found = shelf.owners.get(entry.voucher)
        if found is not None and content.beneficiary == keyring.beneficiary_ref(
            merchant, found.iss, found.sub
        ):
            return found.beneficiary
    return None


def _covered(balance: Balance, minor: int, quantity: int) -> tuple[int, int]:
    """Money and units that the voucher's own accounts give of this much."""
    if balance.terms is None:
        return min(minor, balance.available_minor), 0
    units = min(quantity, balance.available_quantity)
    if units < quantity:
        minor = minor * units // quantity
    spare = (
        balance.available_minor
        + balance.saved_minor
        - balance.terms.reserve(balance.available_quantity - units)
    )
    return min(minor, spare), units


def loss(merchant: str, currency: str, minor: int) -> list[Entry]:
    """The legs by which the programme's loss reserve pays what vouchers did not cover."""
    if not minor:
        return []
    return [
        Entry(accounts.LOSS_RESERVE, "", currency, -minor),
        Entry(accounts.PAYABLE, merchant, currency, minor),
    ]
