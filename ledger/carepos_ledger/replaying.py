"""Booking again what the ledger had decided, by its own signed outcome (docs/offline.md §12).

The rules are not asked, they were; only whether what the outcome says can be booked in the book as
it is. What can't, raises `Unplaced`, and the caller's transaction leaves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from carepos.acceptance import AcceptOffline, ReturnAllotment
from carepos.errors import CareposError
from carepos.outcome import Outcome, Result, VoucherState
from carepos.record import KeyChange, Record, Redeem, Reversal
from carepos.refusals import Refusal
from carepos.undo import Refund, Void
from carepos.voucher import Terms
from carepos_ledger import accepting, key_rules
from carepos_ledger.accounts import Balance, Entry
from carepos_ledger.allotments import Allotment, Drawn
from carepos_ledger.decide import Decider
from carepos_ledger.keyring import Keyring
from carepos_ledger.problems import Problem
from carepos_ledger.shelf import (
    AttemptState,
    Command,
    Decided,
    Holder,
    ListedException,
    Posted,
    Shelf,
)

Reason = Literal[
    "programme_unknown",
    "voucher_unknown",
    "balance_insufficient",
    "allotment_missing",
    "original_unknown",
    "undone_differently",
    "signature_invalid",
    "decided_differently",
]
_STATES: Final[Mapping[str, str]] = {
    "posted": "posted",
    "posted_short": "posted",
    "reversed": "reversed",
    "refused": "refused",
    "exception": "refused",
}


class Unplaced(CareposError):
    """It can't be booked in the book as it is."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Told:
    """What is booked again: the signed outcome; of an acceptance its sale, where that is known; and
    what the programme's loss reserve holds. `exactly`: from allotments only what they give, as it
    was. `gives_up`: it is stored as decided and books nothing; `again`: so it was before."""

    outcome: Outcome
    sale: Record | None = None
    loss_reserve_minor: int = 0
    exactly: bool = True
    gives_up: bool = False
    again: bool = False


class Replayer(Decider):
    """Decides as the outcomes say, by digest of their records; `now` is when that was."""

    def __init__(
        self, shelf: Shelf, keyring: Keyring, now: datetime, told: Mapping[str, Told]
    ) -> None:
        super().__init__(shelf, keyring, now)
        self._told = told

    def decide(self, command: Command) -> Decided | Problem:
        """The outcome that was told. Raises Unplaced."""
        told = self._told.get(command.record.digest)
        stored = self._shelf.outcomes.get(command.record.digest)
        if told is None:
            # The sale of an acceptance, which only stands beside it.
            if stored is None:
                raise Unplaced("original_unknown")
            return stored
        if stored is not None and stored.result != told.outcome.result:
            raise Unplaced("decided_differently")
        if stored is not None and not told.again:
            return stored
        if told.gives_up:
            self._only_note(command, told.outcome)
        else:
            self._replay(command, told)
        decided = Decided(told.outcome.result, told.outcome.jws)
        if stored is None:
            self._keep(command, decided)
        return decided

    def _replay(self, command: Command, told: Told) -> None:
        match command.record.content:
            case Redeem() as redeem:
                self._sell(command, redeem, told)
            case Reversal() as reversal:
                self._reverse(command, reversal, told)
            case AcceptOffline():
                self._accepted(command, told)
            case ReturnAllotment() as given:
                self._give_back(command, given, told)
            case Void() | Refund() as wish:
                self._undone(command, wish, told)
            case KeyChange() as change if told.outcome.result == "posted":
                self._changed_key(command, change)
            case _:
                pass

    # ── sales ──────────────────────────────────────────────────────────────────────────────────

    def _sell(self, command: Command, redeem: Redeem, told: Told) -> None:
        record, result = command.record, told.outcome.result
        key = (record.terminal, record.id)
        known = self._shelf.attempts.get(key)
        if result in ("posted", "posted_short"):
            if known is not None and known.posting is not None:
                return  # booked already, under this record or an equal one
            if known is not None and known.state == "reversed":
                raise Unplaced("decided_differently")
            self._book_sale(command, redeem, told)
            self._enter(command, record.digest)
            return
        if told.outcome.refusal == Refusal("id_content_mismatch"):
            return  # of an attempt that means something else
        if known is None:
            self._begin_as(command, told.outcome)
        elif known.content_sha256 is None:
            # A tombstone met its late original.
            self._move(key, command, replace(known, content_sha256=record.content_sha256))

    def _book_sale(self, command: Command, redeem: Redeem, told: Told) -> None:
        shelf, outcome, record = self._shelf, told.outcome, command.record
        programme = shelf.programmes.get(redeem.programme)
        if programme is None or programme.currency != redeem.currency:
            raise Unplaced("programme_unknown")
        draws = {}
        for state in outcome.vouchers:
            held = shelf.holdings.get(state.voucher)
            if held is None:
                raise Unplaced("voucher_unknown")
            own = shelf.own(state.voucher, record.terminal, record.incarnation)
            draw, missing = drawn(state, held.balance.terms, own)
            if any(missing) and told.exactly:
                raise Unplaced("allotment_missing")
            draw = replace(draw, minor=draw.minor + missing[0], quantity=draw.quantity + missing[1])
            if not _holds(held.balance, draw.minor, draw.quantity):
                raise Unplaced("balance_insufficient")
            draws[state.voucher] = draw
        lost = outcome.shortfall_minor if outcome.liability == "programme" else 0
        if lost > told.loss_reserve_minor:
            raise Unplaced("balance_insufficient")
        more = accepting.loss(command.terminal.merchant, redeem.currency, lost)
        self._book_draws(command, redeem, draws, more)
        if programme.offline is not None:
            for voucher in draws:
                holder: Holder = (record.bucket, shelf.holdings[voucher].voucher.beneficiary)
                shelf.new_homes[holder] = command.terminal.store

    def _accepted(self, command: Command, told: Told) -> None:
        record, outcome = command.record, told.outcome
        known = self._shelf.attempts.get((record.terminal, record.id))
        if told.sale is None:
            raise Unplaced("original_unknown")
        if outcome.result != "exception" and (known is None or known.posting is None):
            if known is None or known.state != "refused":
                raise Unplaced("original_unknown")
            # Refused at first, and judged once more with its acceptance.
            sold = Command(told.sale, command.terminal, None)
            self._book_sale(sold, told.sale.redeem, told)
            self._enter(sold, told.sale.digest)
        if outcome.result == "posted":
            return
        # It was on the list of those that a person looks at, who perhaps has not yet.
        sale = told.sale.redeem
        refusal, is_short = outcome.refusal, outcome.result == "posted_short"
        self._shelf.new_exceptions.append(
            ListedException(
                command,
                "posted_short" if refusal is None else refusal.code,
                outcome.shortfall_minor if is_short else sale.programme_minor,
                sale.currency,
                outcome.liability or "programme",
            )
        )

    # ── what takes back ────────────────────────────────────────────────────────────────────────

    def _reverse(self, command: Command, reversal: Reversal, told: Told) -> None:
        record, outcome = command.record, told.outcome
        if outcome.result != "reversed":
            return
        key = (record.terminal, record.id)
        known = self._shelf.attempts.get(key)
        if known is None or known.posting is None:
            if outcome.vouchers and told.exactly:
                raise Unplaced("original_unknown")
            # Of a sale that nobody tells of nothing goes back: it comes to the same.
            if known is None:
                tombstone = AttemptState("reversed", None, reversal.record_sha256, None)
                self._begin(command, tombstone)
            elif known.state == "posted":
                self._move(key, command, replace(known, state="reversed"))
            return
        if known.state != "posted":
            return
        posted = self._posted(known)
        self._move(key, command, replace(known, state="reversed"))
        self._take_all_back(command, posted, outcome, kind="reversal")

    def _undone(self, command: Command, wish: Void | Refund, told: Told) -> None:
        record, outcome = command.record, told.outcome
        known = self._shelf.attempts.get((record.terminal, record.id))
        if known is not None and (known.posting is not None or outcome.result != "posted"):
            return
        if outcome.result != "posted":
            if outcome.refusal != Refusal("id_content_mismatch"):
                self._begin_as(command, outcome)
            return
        posted = self._taking_back.original(command, wish)
        if isinstance(posted, Refusal):
            raise Unplaced("original_unknown")
        if isinstance(wish, Void):
            self._take_all_back(command, posted, outcome, kind="void")
        else:
            self._refund(command, wish, posted)
        state = AttemptState("posted", record.content_sha256, record.digest, record.digest)
        if known is None:
            self._begin(command, state)
        else:
            self._move((record.terminal, record.id), command, state)

    def _take_all_back(
        self, command: Command, posted: Posted, outcome: Outcome, *, kind: str
    ) -> None:
        given: list[Entry] = []
        if posted.left():
            given = self._taking_back.take_back(command, posted, kind=kind)
            if (noted := self._shelf.acted.get(posted.posting)) is not None:
                self._shelf.undone_acted.append(noted)
        states = self._states(command, posted.currency, given)
        if _moved(states) != _moved(outcome.vouchers):
            # Another undo of it is still to come, or comes no more.
            raise Unplaced("undone_differently")

    def _refund(self, command: Command, refund: Refund, posted: Posted) -> None:
        sold = self._shelf.sold.get(posted.posting)
        if sold is None:
            raise Unplaced("original_unknown")
        for line in refund.lines:
            returned = sold.refunded.get(line.line, 0) + line.quantity
            if line.line > len(sold.basket) or returned > sold.basket[line.line - 1].quantity:
                raise Unplaced("undone_differently")
        self._taking_back.refund(command, refund, posted)

    def _give_back(self, command: Command, given: ReturnAllotment, told: Told) -> None:
        record, outcome = command.record, told.outcome
        if (record.terminal, record.id) in self._shelf.attempts:
            return
        found = False
        for voucher, number in given.allotments:
            for each in list(self._shelf.allotments.get(voucher, [])):
                if (each.number, each.terminal) == (number, record.terminal):
                    found = True
                    self._shelf.release(each, given_back=True)
        if outcome.vouchers and not found and told.exactly:
            raise Unplaced("allotment_missing")
        self._begin_as(command, outcome)

    def _posted(self, known: AttemptState) -> Posted:
        posted = self._shelf.posted.get(known.posting or "")
        if posted is None or posted.kind != "redeem":
            raise Unplaced("original_unknown")
        return posted

    # ── keys ───────────────────────────────────────────────────────────────────────────────────

    def _changed_key(self, command: Command, change: KeyChange) -> None:
        try:
            if key_rules.announce(self._shelf.keys, command.record, change):
                self._shelf.new_keys.append((command.record.terminal, change.key))
        except Problem:
            raise Unplaced("decided_differently") from None

    # ── without booking ────────────────────────────────────────────────────────────────────────

    def _only_note(self, command: Command, outcome: Outcome) -> None:
        """The id is used up, and that is all."""
        record = command.record
        own = isinstance(record.content, Redeem | Void | Refund | ReturnAllotment)
        if own and (record.terminal, record.id) not in self._shelf.attempts:
            self._begin_as(command, outcome)

    def _begin_as(self, command: Command, outcome: Outcome) -> None:
        """An attempt that booked nothing."""
        record = command.record
        state = _STATES[outcome.result]
        self._begin(command, AttemptState(state, record.content_sha256, record.digest, None))

    def _sign(self, result: Result, command: Command, **_: Any) -> Decided:
        """Nothing is signed anew."""
        outcome = self._told[command.record.digest].outcome
        return Decided(outcome.result, outcome.jws)


def drawn(
    state: VoucherState, terms: Terms | None, own: list[Allotment]
) -> tuple[Drawn, tuple[int, int]]:
    """How one voucher's part of a sale is paid, by what its outcome says; and the money and
    quantity that the till's open allotments lack for it."""
    minor, quantity = state.from_allotment_minor, state.from_allotment_quantity
    parts = []
    for allotment in own:
        units = min(quantity, allotment.left_quantity)
        money = min(minor, allotment.spare(terms, units))
        if money or units:
            parts.append((allotment, money, units))
        minor, quantity = minor - money, quantity - units
    available = (
        state.amount_minor - state.from_allotment_minor,
        state.quantity - state.from_allotment_quantity,
    )
    return Drawn(*available, tuple(parts)), (minor, quantity)


def _holds(balance: Balance, minor: int, quantity: int) -> bool:
    """Whether a voucher's own accounts can give this much."""
    if balance.terms is None:
        return minor <= balance.available_minor
    held = balance.available_minor + balance.saved_minor
    return minor <= held and quantity <= balance.available_quantity


def _moved(states: Any) -> dict[str, tuple[int, int]]:
    return {each.voucher: (each.amount_minor, each.quantity) for each in states}
