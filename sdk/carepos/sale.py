"""What a till shows of a sale: what could be redeemed, where it stands, what can come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from carepos import attempt, holding, ids, outcome
from carepos.acceptance import AcceptOffline
from carepos.attempt import State
from carepos.journal_view import Attempt, JournalView
from carepos.keys import Keys
from carepos.offline_rule import Liability
from carepos.outcome import HeldReason
from carepos.refusals import Refusal
from carepos.rules import Proposal, Situation
from carepos.scan import Holder
from carepos.undo import Sold
from carepos.voucher import Programme


@dataclass(frozen=True, slots=True)
class Offer:
    """A proposal for one programme, to be shown before anything is taken.

    `liability`: of one that was made without the ledger, who bears the loss if it turns out bad.
    """

    holder: Holder
    programme: Programme
    situation: Situation
    proposal: Proposal
    liability: Liability | None = None

    @property
    def presentment(self) -> Literal["online", "offline"]:
        """Whether the ledger was asked about the holder, or the pack."""
        return "online" if self.holder.household is None else "offline"

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing can be redeemed, or None when `redeem` may be called."""
        if self.proposal.refusal is not None:
            return self.proposal.refusal
        if self.proposal.allocation:
            return None
        reasons = [line.reason for line in self.proposal.lines if line.reason is not None]
        return Refusal(reasons[0]) if reasons else Refusal("category_not_covered")


@dataclass(frozen=True, slots=True)
class Sale:
    """Where one attempt stands, for the screen.

    `message` is the cashier's sentence; only `state == "confirmed"` means REDEEMED. `next_try_at`:
    when the till by itself asks or sends again, None where it waits for nobody or for a person.
    `liability`: of a sale without the ledger's word, who bears the loss if it turns out bad.
    `held` says why the ledger keeps it for a person to decide.
    """

    checkout: str
    state: State
    receipt_no: str
    currency: str
    amount_minor: int
    refusal: Refusal | None
    problem: str | None
    next_try_at: datetime | None = None
    liability: Liability | None = None
    held: HeldReason | None = None

    def message(self, language: str = "zh") -> str:
        """What the cashier reads: the state's sentence and the refusal's, or why it is held; "zh"
        or "en"."""
        meaning = attempt.MEANING[self.state]
        said = meaning.en if language == "en" else meaning.zh
        if self.refusal is not None:
            return f"{said} {self.refusal.sentence(language)}"
        if self.held is not None:
            return f"{said} {holding.sentence(self.held, language)}"
        return said

    @property
    def final(self) -> bool:
        return self.state in attempt.FINAL


@dataclass(frozen=True, slots=True)
class Returnable:
    """A sale that may be refunded, as far as is known: `sold.refunded` says what came back by
    line; `descriptions` by line, where this till sold it; `checkout` likewise."""

    receipt_no: str
    checkout: str | None
    sold: Sold
    descriptions: Mapping[int, str]


def sale_of(
    journal: JournalView,
    of: Attempt,
    *,
    keys: Keys,
    terminal_no: int,
    next_try_at: datetime | None,
    problem: str | None = None,
) -> Sale:
    """Where an attempt stands by its journal; `problem`: why the ledger did not decide it just now.

    `keys` are the ledger's, under which the stored answers are read.
    """
    refusal = None
    if of.state in ("refused", "exception"):
        for text in journal.outcomes_of(of.sequence):
            refusal = outcome.read_any(text, keys=keys).refusal or refusal
    held = None
    if of.state in ("unknown", "interrupted", "filling", "held"):
        held = holding.reason_of(journal, journal.record_of(of), keys=keys)
    elif of.state == "reversing":
        held = holding.reason_of(journal, journal.record_of(of, "reversal"), keys=keys)
    return Sale(
        of.checkout,
        of.state,
        ids.receipt_no(terminal_no, of.sequence),
        of.currency,
        of.amount_minor,
        refusal,
        problem,
        next_try_at,
        _liability(journal, of),
        held,
    )


def _liability(journal: JournalView, of: Attempt) -> Liability | None:
    if of.state not in attempt.STORED | {"short", "exception"}:
        return None
    content = journal.record_of(of, "accept_offline").content
    return content.liability if isinstance(content, AcceptOffline) else None
