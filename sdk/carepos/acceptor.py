"""Selling while the ledger does not answer (docs/offline.md §6 to §8).

The pack says what this till may give, the journal what it gave; `offline` has the rules. What is
accepted is written with its evidence in one step and goes up when there is a network; then the
ledger says what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carepos import attempt, evidence, offline, rules
from carepos.acceptance import ReturnAllotment
from carepos.basket import Entry
from carepos.clock_ratchet import ClockRatchet
from carepos.enrolment import Enrolment
from carepos.errors import Refused
from carepos.forwarder import Parcel
from carepos.journal import Accepting, Journal
from carepos.journal_view import Attempt
from carepos.ledgers_word import LedgersWord
from carepos.offline import Plan
from carepos.outcome import HeldReason
from carepos.pack_keeper import PackKeeper
from carepos.record import Record, envelope
from carepos.refusals import Refusal
from carepos.rules import Situation
from carepos.scan import Holder
from carepos.shelf import Shelves
from carepos.voucher import Programme


class Acceptor:
    """One till's. The caller sees to it that two sales are not accepted at once."""

    def __init__(
        self,
        journal: Journal,
        packs: PackKeeper,
        ratchet: ClockRatchet,
        *,
        enrolled: Callable[[], Enrolment],
        stopped_for: Callable[[], HeldReason | None],
        reached: Callable[[str], None],
        word: LedgersWord,
    ) -> None:
        self._journal = journal
        self._packs = packs
        self._shelves = Shelves(journal, packs, ratchet, stopped_for=stopped_for)
        self._enrolled = enrolled
        self._reached = reached
        self._word = word

    # ── what may be given ──────────────────────────────────────────────────────────────────────

    def situation(self, holder: Holder, programme: Programme, asked: Situation) -> Situation:
        """As `Shelves.situation`."""
        return self._shelves.situation(holder, programme, asked)

    def accepting(
        self,
        holder: Holder,
        programme: Programme,
        asked: Situation,
        allocation: Sequence[Entry],
        *,
        own: str | None = None,
    ) -> Accepting:
        """How this allocation is accepted without the ledger, judged anew as things stand now.

        `own`: the attempt that it is of, which may draw on what was noted for it. Raises Refused:
        holder_not_in_pack, and what `Shelves.must_be_able`, `offline.refusal` and `rules.check`
        say.
        """
        self._shelves.must_be_able(holder)
        shelf = self._shelves.of(holder, programme, own)
        if all(entry.voucher in shelf.vouchers for entry in allocation):
            refusal = offline.refusal(shelf.vouchers, allocation, shelf.state)
            if refusal is not None:
                raise Refused(refusal)
        refusal = rules.check(self._shelves.situated(shelf, asked), allocation)
        if refusal is not None:
            raise Refused(refusal)
        held = self._packs.held
        assert programme.offline is not None and held is not None
        if held.evidence_key is None:
            raise Refused(Refusal("offline_not_allowed"))
        plan, key = offline.plan(shelf.vouchers, allocation, shelf.state), held.evidence_key
        return Accepting(
            held.sha256,
            plan,
            plan.liability(programme.offline),
            seal=lambda an_id: evidence.seal(
                holder.text,
                pin_proof=holder.pin_proof,
                key=key,
                terminal=self._enrolled().terminal,
                attempt_id=an_id,
            ),
        )

    def planned(
        self, holder: Holder, programme: Programme, allocation: Sequence[Entry]
    ) -> Plan | None:
        """What an online redemption may draw on at most; None where the pack has nothing of it."""
        if programme.offline is None:
            return None
        try:
            shelf = self._shelves.of(holder, programme)
        except Refused:
            return None
        if any(entry.voucher not in shelf.vouchers for entry in allocation):
            return None
        return offline.plan(shelf.vouchers, allocation, shelf.state)

    # ── forwarding ─────────────────────────────────────────────────────────────────────────────

    def waiting(self) -> list[Parcel]:
        """Every sale that left without the ledger's word, with its acceptance."""
        return [self.parcel(sale) for sale in self._journal.attempts("provisional")]

    def parcel(self, sale: Attempt) -> Parcel:
        """One of them; also one that the ledger holds, which is sent again until it is decided."""
        redeem = self._journal.record_of(sale)
        accept = self._journal.record_of(sale, "accept_offline")
        sealed = self._journal.evidence_of(sale.id)
        return Parcel(
            (redeem, accept),
            (envelope(redeem, evidence=sealed), envelope(accept, evidence=sealed)),
            lambda results: self._opened(sale.id, redeem, accept, results),
        )

    def _opened(
        self, an_id: str, redeem: Record, accept: Record, results: Sequence[Mapping[str, Any]]
    ) -> str | None:
        self._reached("answer_read")
        of_sale, problem = self._word.read(redeem, results[0])
        of_acceptance, other = self._word.read(accept, results[1])
        if of_sale is None or of_acceptance is None:
            return problem or other
        sale = self._journal.attempt(an_id)
        if sale.state in attempt.STORED:  # else another copy of the answer was first
            self._word.apply(self._word.apply(sale, of_sale), of_acceptance)
        return None

    # ── giving back ────────────────────────────────────────────────────────────────────────────

    def give_back(self, holder: Holder) -> int:
        """Write the return of every allotment that this till still holds of a household; how many.

        From then on nothing of them is given here; the ledger frees them when it decides it.
        """
        household = self._packs.household(holder.identity.iss, holder.identity.sub)
        if household is None:
            return 0
        left = self._shelves.left(household)
        numbers = sorted((each.voucher, each.allotment) for each in left)
        for at in range(0, len(numbers), 20):
            content = ReturnAllotment(tuple(numbers[at : at + 20]))
            self._journal.write_return(content, bucket=household.bucket)
        return len(numbers)
