"""Taking a confirmed sale back at the till: void and refund, each exactly once.

The order is that of a sale: what can be seen here refuses first, then the intent is written, then
the record is sent with all that must go before it, then the outcome. Nothing is chosen afterwards:
what has no signed answer stays `waiting`, and the same record is sent until it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from carepos import attempt, correction, found_sale, ids, outcome, slip, undo
from carepos.attempt import State
from carepos.client import Client
from carepos.clock import Clock
from carepos.correction import Correction
from carepos.enrolment import Enrolment
from carepos.errors import Malformed, NotDecided, Refused, Unreachable, WrongState
from carepos.forwarder import Parcel
from carepos.found_sale import FoundSale
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView, Undo
from carepos.keys import Keys
from carepos.outcome import Outcome
from carepos.pack_keeper import PackKeeper
from carepos.record import Record, envelope
from carepos.refusals import Refusal
from carepos.slip import SoldBefore
from carepos.undo import Refund, RefundReason, ReturnedLine, Sold, Void, VoidReason
from carepos.voucher import Programme

_STANDING: frozenset[State] = attempt.BOOKED | {"voided"}
_ANEW = frozenset({"proposal_changed", "already_undone", "refund_exceeds"})
"""Refusals by which another till has taken something of a sale back: the journal isn't enough."""


class Corrector:
    """Voids and refunds of one till. The caller holds the lock of the sale.

    `forward` sends all that waits up to a number and says what is not decided, and why; `heard` is
    told every time that the ledger signed.
    """

    def __init__(
        self,
        journal: Journal,
        client: Client,
        packs: PackKeeper,
        *,
        enrolled: Callable[[], Enrolment],
        keys: Keys,
        now: Clock,
        reached: Callable[[str], None],
        paper: slip.Paper,
        forward: Callable[[int], Mapping[int, str]],
        heard: Callable[[datetime], None],
    ) -> None:
        self._journal = journal
        self._client = client
        self._packs = packs
        self._enrolled = enrolled
        self._keys = keys
        self._now = now
        self._reached = reached
        self._paper = paper
        self._forward = forward
        self._heard = heard

    # ── void ───────────────────────────────────────────────────────────────────────────────────

    def void(
        self, sale: Attempt, *, cashier: str, reason: VoidReason, approved_by: str | None
    ) -> Correction:
        """As `Till.void`, of the attempt that is meant."""
        before = self._newest_of(sale.id, "void")
        if before is not None and self._still_tells(before):
            return self._again(before)
        is_stored = sale.state in attempt.STORED
        if not is_stored:
            self._must_stand(sale, "void")
        found = self._own(sale)
        programme, refusal = self._programme(found.programme), None
        if programme is not None:
            now = self._now()
            refusal = undo.void_refusal(
                found.sold, programme, occurred_at=now, now=now, reason=reason
            )
        elif found.sold.undone or found.sold.refunded:
            refusal = Refusal("already_undone")
        if refusal is not None:
            raise Refused(refusal, exactly=undo.more_exactly(refusal, found.sold))
        redeem = found.record.redeem
        content = Void.from_json(
            Void(found.original, cashier, approved_by, reason).to_json()
        )  # a caller's slip is found before anything is written
        shown = self._shown(found, sale)
        written, _ = self._journal.write_undo(
            content,
            sale_receipt_no=shown.receipt_no,
            programme=redeem.programme,
            currency=redeem.currency,
            amount_minor=sale.amount_minor,
            beneficiary_minor=sum(entry.beneficiary_minor for entry in redeem.allocation),
            slip=lambda made: slip.draft_void(made, shown, self._enrolled(), self._paper),
            sale_event="goods_kept" if sale.state in ("accepted", "accept_asked") else None,
        )
        if is_stored:
            # It goes up behind the sale: nobody waits at the counter for a ledger that is away.
            return self.standing(written)
        return self._begun(written)

    # ── refund ─────────────────────────────────────────────────────────────────────────────────

    def find(self, receipt_no: str, code: str | None) -> FoundSale:
        """The sale with this number, as the journal knows it or else the ledger.

        Raises Refused and WrongState for one of which nothing can come back, Unreachable,
        NotDecided.
        """
        own = self.own_attempt(receipt_no, code)
        if own is not None:
            self._must_stand(own, "refund")
        if own is None or self._others_took_back(own):
            try:
                return self._ask(receipt_no, code)
            except (Unreachable, NotDecided):
                if own is None:
                    raise
        assert own is not None
        return self._own(own)

    def refund(
        self,
        found: FoundSale,
        receipt_no: str,
        lines: Sequence[ReturnedLine],
        *,
        cashier: str,
        reason: RefundReason,
        approved_by: str | None,
        reference: str | None,
    ) -> Correction:
        """As `Till.refund`, of the sale that was found."""
        before = self._repeated(found, lines, reference)
        if before is not None:
            return self._again(before)
        refusal = self._refund_refusal(found, lines)
        if refusal is not None:
            raise Refused(refusal, exactly=undo.more_exactly(refusal, found.sold, lines))
        redeem = found.record.redeem
        parts = undo.parts_of(found.sold, lines)
        content = Refund.from_json(
            Refund(
                found.original, cashier, approved_by, reason, redeem.currency, tuple(lines), parts
            ).to_json()
        )
        sale = self._attempt(found)
        shown = self._shown(found, sale, receipt_no)
        written, _ = self._journal.write_undo(
            content,
            sale_receipt_no=receipt_no,
            programme=redeem.programme,
            currency=redeem.currency,
            amount_minor=content.programme_minor,
            beneficiary_minor=content.beneficiary_minor,
            reference=None if reference is None else ids.label(reference, "reference"),
            slip=lambda made: slip.draft_refund(made, shown, self._enrolled(), self._paper),
        )
        return self._begun(written)

    def own_attempt(self, receipt_no: str, code: str | None) -> Attempt | None:
        """This till's own sale with that number; another journal's has another code."""
        terminal_no, sequence = ids.parse_receipt_no(receipt_no)
        if terminal_no != self._enrolled().terminal_no:
            return None
        sale = self._journal.attempt_at(sequence)
        if sale is None or code is None:
            return sale
        digest = self._journal.record_of(sale).digest
        return sale if slip.receipt_code(digest) == code else None

    def _refund_refusal(self, found: FoundSale, lines: Sequence[ReturnedLine]) -> Refusal | None:
        programme = self._programme(found.programme)
        if programme is not None:
            return undo.refund_refusal(found.sold, programme, found.terms, lines, now=self._now())
        if found.sold.is_used_up:
            return Refusal("already_undone")
        return undo.excess_refusal(found.sold, lines)

    def _repeated(
        self, found: FoundSale, lines: Sequence[ReturnedLine], reference: str | None
    ) -> Undo | None:
        """The refund that this call asks for again. Raises WrongState while another one of the
        sale waits, Malformed for a reference that stands for something else."""
        original = found.original
        same = None if reference is None else self._journal.undo_by_reference(reference)
        if same is not None:
            content = self._journal.record_at(same.sequence).content
            assert isinstance(content, Refund)
            if (content.original, content.lines) != (original, tuple(lines)):
                raise Malformed("stands for another return already", field="reference")
            return same
        mine = self._journal.undos_of(original.terminal, original.id)
        waiting = next((each for each in mine if each.state == "waiting"), None)
        if reference is None:
            for each in mine:
                content = self._journal.record_at(each.sequence).content
                is_same = isinstance(content, Refund) and content.lines == tuple(lines)
                if is_same and each.state != "posted" and self._still_tells(each):
                    return each
        if waiting is not None:
            raise WrongState("waiting", "refund")
        return None

    # ── sending ────────────────────────────────────────────────────────────────────────────────

    def waiting(self) -> list[Parcel]:
        """Every void and refund that is not decided."""
        return [self._parcel(each) for each in self._journal.undos("waiting")]

    def standing(self, of: Undo, problem: str | None = None) -> Correction:
        """For the screen."""
        return standing(self._journal, of, self._enrolled(), keys=self._keys, problem=problem)

    def seen(self, of: Undo) -> Correction:
        """Somebody was told how it ended, which asks for nothing more then. Raises WrongState while
        it waits."""
        if of.state == "waiting":
            raise WrongState("waiting", "seen")
        if not self.standing(of).seen:
            self._journal.advance_undo(of.id, "seen")
        return self.standing(of)

    def _begun(self, written: Undo) -> Correction:
        self._reached("intent_written")
        problem = self._forward(written.sequence).get(written.sequence)
        return self._told(self._journal.undo(written.id), problem)

    def _told(self, of: Undo, problem: str | None = None) -> Correction:
        """As `standing`, for whoever asked for it: a refusal is seen with that."""
        return self.standing(of, problem) if of.state != "refused" else self.seen(of)

    def _again(self, of: Undo) -> Correction:
        return replace(self._told(of), repeated=True)

    def _still_tells(self, of: Undo) -> bool:
        """Whether a repeated call is answered with it. After a refusal another may be tried, but
        not before somebody was told of it."""
        return of.state != "refused" or not self.standing(of).seen

    def _parcel(self, of: Undo) -> Parcel:
        written = self._journal.record_at(of.sequence)
        return Parcel(
            (written,),
            (envelope(written),),
            lambda results: self._opened(of.id, written, results[0]),
            lambda _: self._missed(of.id),
        )

    def _missed(self, undo_id: str) -> None:
        if self._journal.undo(undo_id).state == "waiting":
            self._journal.advance_undo(undo_id, "no_answer")

    def _opened(self, undo_id: str, written: Record, result: Mapping[str, Any]) -> str | None:
        self._reached("answer_read")
        of = self._journal.undo(undo_id)
        if of.state != "waiting":
            return None
        is_void = isinstance(written.content, Void)
        sale = self._booked(of.original) if is_void else None
        found, problem = outcome.read_result(result, written, keys=self._keys, sale=sale)
        if found is not None and found.result == "posted" and is_void and sale is None:
            # The answer to the sale itself was lost or is not to be trusted: it comes again.
            found, problem = None, "what became of the sale is not known yet"
        if found is None:
            self._journal.advance_undo(of.id, "no_answer")
            return problem
        self._heard(found.recorded_at)
        event = correction.event_of(found)
        shown = slip.with_undo(of.slip, found) if event == "undo_posted" else None
        self._journal.advance_undo(of.id, event, outcome=found, slip=shown)
        self._reached("outcome_written")
        return None

    # ── what is known of a sale ────────────────────────────────────────────────────────────────

    def _must_stand(self, sale: Attempt, kind: correction.Kind) -> None:
        if sale.state in _STANDING:
            if sale.state == "voided":
                raise Refused(Refusal("already_undone"))
            return
        if sale.state in ("refused", "reversing", "filling", "reversed"):
            raise Refused(Refusal("original_not_booked"))
        raise WrongState(sale.state, kind)

    def _newest_of(self, attempt_id: str, kind: correction.Kind) -> Undo | None:
        """The newest undo of an own sale. Raises WrongState while one of another kind waits."""
        mine = self._journal.undos_of(self._enrolled().terminal, attempt_id)
        for each in mine:
            if each.state == "waiting" and each.kind != kind:
                raise WrongState("waiting", kind)
        return next((each for each in reversed(mine) if each.kind == kind), None)

    def _own(self, sale: Attempt) -> FoundSale:
        """An own confirmed sale, by the journal alone."""
        written = self._journal.record_of(sale)
        posted = self._booked(sale.id)
        is_stored = sale.state in attempt.STORED
        if posted is None and not is_stored:
            raise Refused(Refusal("original_not_booked"))
        redeem = written.redeem
        refunded: dict[int, int] = {}
        for each in self._journal.undos_of(written.terminal, sale.id):
            content = self._journal.record_at(each.sequence).content
            if each.state == "posted" and isinstance(content, Refund):
                for line in content.lines:
                    refunded[line.line] = refunded.get(line.line, 0) + line.quantity
        sold = Sold(
            redeem.basket,
            redeem.allocation,
            redeem.currency,
            written.occurred_at,
            written.occurred_at if posted is None else posted.recorded_at,
            accepted_offline=is_stored or self._accept_record(sale) is not None,
            is_short=posted is not None and posted.result == "posted_short",
            undone=sale.state == "voided",
            refunded=refunded,
        )
        used = sorted({entry.voucher for entry in redeem.allocation})
        kept = self._journal.sold_terms(sale.id)
        balances = sale.slip.get("balances", [])
        labels = [str(each["label"]) for each in balances]
        return FoundSale(
            written,
            sold,
            {voucher: kept.get(voucher) for voucher in used},
            dict(zip(used, labels, strict=False)),
        )

    def _booked(self, attempt_id: str) -> Outcome | None:
        """The signed outcome that booked an own sale."""
        sale = self._journal.attempt(attempt_id)
        written = self._accept_record(sale) or self._journal.record_of(sale)
        for text in self._journal.outcomes_of(written.sequence):
            found = outcome.read_any(text, keys=self._keys)
            if found.result in ("posted", "posted_short"):
                return found
        return None

    def _accept_record(self, sale: Attempt) -> Record | None:
        """Of a sale that was accepted offline, what says so: its outcome counts."""
        try:
            return self._journal.record_of(sale, "accept_offline")
        except KeyError:
            return None

    def _others_took_back(self, sale: Attempt) -> bool:
        mine = self._journal.undos_of(self._enrolled().terminal, sale.id)
        if not mine or mine[-1].state != "refused":
            return False
        refusal = self.standing(mine[-1]).refusal
        return refusal is not None and refusal.code in _ANEW

    def _ask(self, receipt_no: str, code: str | None) -> FoundSale:
        try:
            answer, sale_record, request = self._client.find_sale(receipt_no, code)
        except NotDecided as error:
            if error.code == "not_found":
                raise Refused(Refusal("original_unknown")) from None
            raise
        try:
            return found_sale.read(
                answer,
                sale_record,
                request=request,
                terminal=self._enrolled().terminal,
                keys=self._keys,
            )
        except Malformed as error:
            raise Unreachable(f"the ledger's answer can't be trusted: {error}") from error

    def _attempt(self, found: FoundSale) -> Attempt | None:
        if found.record.terminal != self._enrolled().terminal:
            return None
        sale = self._journal.attempt_at(found.record.sequence)
        return sale if sale is not None and sale.id == found.record.id else None

    def _shown(
        self, found: FoundSale, sale: Attempt | None, receipt_no: str | None = None
    ) -> SoldBefore:
        own = {} if sale is None else sale.slip
        lines = own.get("lines", [])
        programme = self._programme(found.programme)
        name = own.get("programme_name") or (
            found.programme if programme is None else programme.name
        )
        units = {v: None if terms is None else terms.unit for v, terms in found.terms.items()}
        number = receipt_no or ids.receipt_no(self._enrolled().terminal_no, found.record.sequence)
        return SoldBefore(
            found.record,
            number,
            cast(str, name),
            {n: str(line["description"]) for n, line in enumerate(lines, 1)},
            units,
            found.labels,
        )

    def _programme(self, name: str) -> Programme | None:
        """Its rules as the pack has them, if it has: the ledger's decide."""
        held = self._packs.held
        return None if held is None else held.programmes.get(name)


def standing(
    journal: JournalView,
    of: Undo,
    enrolled: Enrolment,
    *,
    keys: Keys,
    problem: str | None = None,
) -> Correction:
    """Where a void or refund stands, as far as the journal tells: why it waits stands only in the
    last answer (`problem`)."""
    checkout, waits = None, of.state == "waiting"
    # Where the ledger is away, or says something else, no sale is what it waits for.
    for_a_sale = waits and (problem is None or problem.startswith("sequence_gap"))
    decided = None if waits else _decided(journal, of, keys)
    if of.original_terminal == enrolled.terminal:
        # Not known where another journal of this till sold it.
        with suppress(KeyError):
            checkout = journal.attempt(of.original).checkout
    return Correction(
        of.kind,
        of.state,
        ids.receipt_no(enrolled.terminal_no, of.sequence),
        of.sale_receipt_no,
        checkout,
        of.currency,
        of.amount_minor,
        of.beneficiary_minor,
        None if decided is None else decided.refusal,
        problem if waits else None,
        _first_open(journal, of, enrolled) if for_a_sale else None,
        None if decided is None else decided.recorded_at,
        seen=of.state != "refused" or journal.is_seen(of.id),
    )


def _decided(journal: JournalView, of: Undo, keys: Keys) -> Outcome | None:
    """The outcome that ended it."""
    found = [outcome.read_any(text, keys=keys) for text in journal.outcomes_of(of.sequence)]
    return next((each for each in reversed(found) if each.result == of.state), None)


_STANDS_ALONE: frozenset[State] = attempt.NOT_DECIDED - {"provisional", "held"}
"""States of a sale that is not decided and that can be ended by itself: what is only stored goes up
with all that is behind it, and what is held is the office's."""


def _first_open(journal: JournalView, of: Undo, enrolled: Enrolment) -> str | None:
    """The receipt number of the first sale before it that has to end before the ledger decides."""
    for each in journal.unfinished():
        if each.sequence < of.sequence and each.state in _STANDS_ALONE:
            return ids.receipt_no(enrolled.terminal_no, each.sequence)
    return None
