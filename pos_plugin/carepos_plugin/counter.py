"""What happens at the counter, whatever register stands on it: offer, redeem, take back, close.

Register adapters translate their own protocol into these calls and back; no rule is in them.
Everything returned is a JSON object of `shown`. Raises Problem and CareposError.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from carepos import (
    Correction,
    Holder,
    Line,
    Malformed,
    NotDecided,
    Paper,
    Refusal,
    Refused,
    ReturnedLine,
    Sale,
    Till,
    Unreachable,
    WrongState,
    attempt,
    clock,
    day_end,
    ids,
)
from carepos.clock import Clock
from carepos.clock_ratchet import ResetTaken
from carepos.journal_view import PrintJob
from carepos.receipt import Receipt, mask
from carepos.record import DayReport
from carepos.undo import RefundReason, VoidReason
from carepos_plugin import drill, exceptions, pin_pad, shown
from carepos_plugin.held_code import HeldCode
from carepos_plugin.offers import Held, OfferBook
from carepos_plugin.pad_link import PadLink
from carepos_plugin.pin_pad import PinPad, Standing
from carepos_plugin.print_queue import Slip
from carepos_plugin.problems import Problem
from carepos_plugin.put_back_words import put_back_said
from carepos_plugin.sentences import refusal_of, refusal_said
from carepos_plugin.settings import Settings
from carepos_plugin.upkeep import Contact

_LEFT = attempt.GOODS_MAY_LEAVE | {"held", "short"}
"""States of a sale whose goods are out of the door, or may go, with a slip."""
LOOKED_AT = 50
"""Of how many sales the page for taking back shows those that can be voided."""

GIVING_BACK = "giving-back"
"""What stands for a sale's number at the PIN pad when an allotment is given back."""

T = TypeVar("T")


class _PinAwaited(Exception):
    """There is no holder yet: the card's PIN was not proved, and why. None: there is no pad."""

    def __init__(self, standing: Standing | None) -> None:
        super().__init__()
        self.pin = standing.shown if standing is not None else pin_pad.WITHOUT_PAD
        answered = standing is not None and standing.shown["state"] in ("waiting", "refused")
        told = standing.refusal if standing is not None and answered else None
        self.refusal = told or refusal_of(Refusal("pin_required"))


class Counter:
    """One till's counter. `after_sale` is called when a sale may have made a slip or is unknown."""

    def __init__(
        self,
        till: Till,
        settings: Settings,
        offers: OfferBook,
        contact: Contact,
        pad: PinPad,
        link: PadLink,
        held: HeldCode,
        *,
        now: Clock,
        after_sale: Callable[[], None],
        has_printer: bool,
    ) -> None:
        self._till = till
        self._settings = settings
        self._offers = offers
        self._contact = contact
        self._pad = pad
        self._link = link
        self._held_code = held
        self._now = now
        self._after_sale = after_sale
        self._has_printer = has_printer
        self._closing = threading.Lock()
        self._reprinting = threading.Lock()

    # ── scan and offer ─────────────────────────────────────────────────────────────────────────

    def offer(
        self, checkout: str, code: str | None, lines: Sequence[Line], programme: str | None
    ) -> dict[str, Any]:
        """What could be redeemed; takes nothing. `lines` after discounts; `code` as scanned, None
        for what the face or palm device read.

        A printed card gets no offer yet but a PIN request (`pin`); `offer_after_pin` goes on.
        Raises Problem already_redeemed or sale_not_over when this sale has a live redemption,
        pin_pad_busy, no_code_held. The sale's earlier offer is over, even if nothing comes of it.
        """
        self._must_be_free(checkout)
        if code is None:
            code = self._held_code.take(checkout)
        else:
            self._held_code.end(checkout)
        # Whoever waited with a card does so no more, unless this is that card again.
        self._pad.end(checkout, unless=code)
        scanned = code
        return self._offered(checkout, lines, programme, lambda: self._holder(checkout, scanned))

    def offer_after_pin(
        self, checkout: str, pin_request: str, lines: Sequence[Line], programme: str | None
    ) -> dict[str, Any]:
        """As `offer`, for a card whose PIN was asked; until it is proved, where that stands.

        Asking ends nothing: a late question about a card must not end the next customer's offer.
        Raises Problem pin_request_gone, and what the lookup failed with.
        """
        self._must_be_free(checkout)
        standing = self._pad.standing(pin_request, checkout)
        if standing.problem is not None:
            raise standing.problem.with_traceback(None)
        holder = standing.holder
        if holder is None:
            awaited = _PinAwaited(standing)
            return shown.not_offered(checkout, lines, awaited.refusal, pin=awaited.pin)
        return self._offered(checkout, lines, programme, lambda: holder)

    def _offered(
        self,
        checkout: str,
        lines: Sequence[Line],
        programme: str | None,
        who: Callable[[], Holder],
    ) -> dict[str, Any]:
        offer_id = None
        try:
            offer = self._till.propose(who(), lines, programme=programme)
            if offer.refusal is None:
                put = self._offers.put(checkout, offer)
                self._must_be_free(checkout)  # redeemed while this code was looked up
                if put is None:
                    raise Problem("sale_not_over")
                offer_id = put
        except Refused as error:
            return shown.not_offered(checkout, lines, refusal_said(error))
        except _PinAwaited as awaited:
            return shown.not_offered(checkout, lines, awaited.refusal, pin=awaited.pin)
        finally:
            if offer_id is None:
                self._offers.end(checkout)
        until = self._now() + timedelta(seconds=self._settings.offer_life_s)
        return shown.offered(checkout, offer, offer_id, until)

    def _holder(self, checkout: str, code: str) -> Holder:
        """Who presents the code; of a card, once the PIN pad was told. Raises _PinAwaited."""
        identity = self._asking(lambda: self._till.identify(code))
        if not identity.needs_pin:
            return self.scan(code)
        if not self._link.paired:
            raise _PinAwaited(None)
        raise _PinAwaited(self._pad.ask(checkout, code, mask(identity.jti)))

    def _must_be_free(self, checkout: str) -> None:
        live = self._till.journal.live_attempt(checkout)
        if live is not None:
            has_left = live.state in _LEFT
            code = "already_redeemed" if has_left else "sale_not_over"
            raise Problem(code, more={"sale": self.sale(checkout)})

    def scan(self, code: str, pin: str | None = None) -> Holder:
        """Who presents the code; notes whether the ledger answered. Raises as `Till.scan`."""
        holder = self._asking(lambda: self._till.scan(code, pin=pin))
        if holder.away is None:
            self._contact.heard()
        else:
            self._contact.missed(holder.away)  # the pack has answered
        return holder

    def told_of(self, code: str, pin: str | None) -> dict[str, Any]:
        """What a code is good for, without a basket. Raises as `scan`."""
        holder = self.scan(code, pin)
        return shown.held_by(holder, self._till.held_pack)

    def _asking(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except (Unreachable, NotDecided) as error:
            self._contact.missed(error)
            raise

    # ── redeem ─────────────────────────────────────────────────────────────────────────────────

    def redeem(self, offer_id: str, checkout: str, cashier: str) -> dict[str, Any]:
        """Redeem what was offered and accepted. Repeated, it answers the same and does nothing.

        Raises Problem offer_gone, offer_of_other_checkout.
        """
        held = self._offers.get(offer_id)
        if held is None:
            return self._without_offer(checkout)
        if held.checkout != checkout:
            raise Problem("offer_of_other_checkout")
        with held.working:  # a double click waits for the first
            if held.sale is not None:
                return self._of_spent(held, held.sale)
            offer = self._offers.offer_of(held)
            if offer is None:
                raise Problem("offer_gone")
            try:
                sale = self._till.redeem(offer, checkout=checkout, cashier=cashier)
            except Refused as error:
                return shown.refused_before(checkout, offer, error.refusal)
            self._offers.spend(held, sale)
            self._pad.over(checkout)
            self._held_code.end(checkout)
        return self._told(sale)

    def _without_offer(self, checkout: str) -> dict[str, Any]:
        """The till was restarted, or the register repeats itself late: what the journal says."""
        if self._till.journal.live_attempt(checkout) is None:
            raise Problem("offer_gone")
        return self.sale(checkout)

    def _of_spent(self, held: Held, became: Sale) -> dict[str, Any]:
        newest = self._till.status(held.checkout)
        if newest.receipt_no == became.receipt_no:
            return self._shown(newest)
        # Another scan has begun the sale's next attempt: tell where this offer's stands by now.
        sequence = ids.parse_receipt_no(became.receipt_no)[1]
        attempts = self._till.journal.of_checkout(held.checkout)
        state = next(each.state for each in attempts if each.sequence == sequence)
        return self._shown(replace(became, state=state, problem=None))

    # ── afterwards ─────────────────────────────────────────────────────────────────────────────

    def sale(self, checkout: str) -> dict[str, Any]:
        """Where the sale's newest attempt stands. Raises Problem checkout_unknown."""
        return self._shown(self._known(checkout, self._till.status))

    def sale_with_attempts(self, checkout: str) -> dict[str, Any]:
        """As `sale`, with every attempt of it."""
        number = self._till.enrolment.terminal_no
        attempts = shown.attempts_of(self._till.journal, checkout, number)
        return {**self.sale(checkout), "attempts": attempts}

    def retry(self, checkout: str) -> dict[str, Any]:
        """Ask again, and send the same record again while the code is still in memory."""
        return self._told(self._known(checkout, self._till.retry))

    def cancel(self, checkout: str) -> dict[str, Any]:
        """Reverse a sale whose outcome is unknown; repeated, where it stands. Raises WrongState."""
        return self._told(self._known(checkout, self._till.cancel))

    def accept(self, checkout: str) -> dict[str, Any]:
        """Let a sale whose outcome is unknown leave without the ledger's word. Raises WrongState,
        Refused where the rules do not allow it."""
        return self._told(self._known(checkout, self._till.accept))

    def seen(self, checkout: str) -> None:
        """The register has been told that the goods of an accepted sale may leave."""
        try:
            self._till.answer_goods(checkout, handed_over=True)
        except (KeyError, WrongState):
            return  # somebody else has answered meanwhile

    def answer_goods(self, checkout: str, *, handed_over: bool) -> dict[str, Any]:
        """Whether the goods left; the same again does nothing. Raises WrongState when nobody asked,
        or the other answer was given."""
        return self._told(
            self._known(
                checkout, lambda known: self._till.answer_goods(known, handed_over=handed_over)
            )
        )

    def _known(self, checkout: str, ask: Callable[[str], Sale]) -> Sale:
        try:
            return ask(ids.label(checkout, "checkout"))
        except KeyError:
            raise Problem("checkout_unknown") from None

    def _told(self, sale: Sale) -> dict[str, Any]:
        if sale.problem is not None:
            self._contact.missed(sale.problem)
        self._after_sale()
        return self._shown(sale)

    def _shown(self, sale: Sale) -> dict[str, Any]:
        text = None
        newest = self._till.journal.of_checkout(sale.checkout)[-1]
        if sale.state in _LEFT:
            text = self._text(newest.slip)
        return shown.sold(
            sale,
            text,
            self._now(),
            self._till.void_until(sale.checkout),
            can_accept=self._till.can_accept(sale.checkout),
            is_being_voided=self._till.journal.is_being_voided(newest.id),
        )

    def _text(self, slip: dict[str, Any]) -> str | None:
        if slip.get("forgotten"):
            return None
        return shown.receipt_text(slip, self._settings.columns, copy=False)

    # ── giving back what is set aside ──────────────────────────────────────────────────────────

    def give_back(self, code: str | None, pin_request: str | None) -> dict[str, Any]:
        """Give back what is set aside here for the holder of a code, so that it can be used
        elsewhere; of a printed card once its PIN is proved, asked for as for an offer.

        Raises Problem pin_request_gone, pin_pad_busy, and what the lookup failed with.
        """
        try:
            holder = self._giving_back(code, pin_request)
        except Refused as error:
            return shown.not_given_back(refusal_said(error))
        except _PinAwaited as awaited:
            return shown.not_given_back(awaited.refusal, pin=awaited.pin)
        count = self._till.give_back(holder)
        self._pad.over(GIVING_BACK)
        if count:
            self._till.settle()
        waiting = bool(self._till.journal.unanswered("return_allotment"))
        return shown.given_back(count, sent=not waiting)

    def _giving_back(self, code: str | None, pin_request: str | None) -> Holder:
        """Raises Refused, _PinAwaited."""
        if pin_request is None:
            assert code is not None
            self._pad.end(GIVING_BACK, unless=code)
            return self._holder(GIVING_BACK, code)
        standing = self._pad.standing(pin_request, GIVING_BACK)
        if standing.problem is not None:
            raise standing.problem.with_traceback(None)
        if standing.holder is None:
            raise _PinAwaited(standing)
        return standing.holder

    # ── taking back ────────────────────────────────────────────────────────────────────────────

    def void(
        self,
        checkout: str,
        receipt_no: str,
        *,
        cashier: str,
        reason: VoidReason,
        approved_by: str | None,
    ) -> dict[str, Any]:
        """Take a whole sale back. Repeated, it says what became of it and does nothing.

        Raises Problem checkout_unknown, Refused, WrongState.
        """
        try:
            done = self._till.void(
                checkout,
                receipt_no=receipt_no,
                cashier=cashier,
                reason=reason,
                approved_by=approved_by,
            )
        except KeyError:
            raise Problem("checkout_unknown") from None
        return self._undone(done)

    def returnable(self, receipt: str) -> dict[str, Any]:
        """What of a sale can come back, by its number or its QR. Raises Refused, WrongState."""
        found = self._asking(lambda: self._till.returnable(receipt))
        until = None if found.checkout is None else self._till.void_until(found.checkout)
        return shown.returnable(found, until)

    def refund(
        self,
        refund: str,
        receipt: str,
        lines: Sequence[ReturnedLine],
        *,
        cashier: str,
        reason: RefundReason,
        approved_by: str | None,
    ) -> dict[str, Any]:
        """Give lines back. `refund` is the register's number of it: repeated, it does nothing.

        Raises Refused, WrongState, Malformed for a number that stands for another return.
        """
        done = self._asking(
            lambda: self._till.refund(
                receipt,
                lines,
                cashier=cashier,
                reason=reason,
                approved_by=approved_by,
                reference=refund,
            )
        )
        return self._undone(done)

    def correction(self, receipt_no: str) -> dict[str, Any]:
        """Where a void or refund stands, by its own number. Raises Problem undo_unknown."""
        try:
            return self._shown_undo(self._till.correction(receipt_no))
        except KeyError:
            raise Problem("undo_unknown") from None

    def undo_seen(self, receipt_no: str) -> dict[str, Any]:
        """The cashier has seen how a void or refund ended. Raises Problem undo_unknown, WrongState
        while it waits."""
        try:
            return self._shown_undo(self._till.seen(receipt_no))
        except KeyError:
            raise Problem("undo_unknown") from None

    def drill(
        self, code: str | None, pin: str | None, prints: Callable[[Receipt], Slip] | None
    ) -> dict[str, Any]:
        """An outage played (`drill.played`). `pin`: of a printed card, counted as at a sale."""
        till = self._till
        return drill.played(
            till.folder,
            till.enrolment,
            till.journal,
            ratchet=till.ratchet,
            disk=till.room(),
            paper=Paper(self._settings.language, self._settings.zone),
            code=code,
            pin=pin,
            pin_tried=till.journal.pin_tried,
            prints=prints,
        )

    def exceptions(self) -> dict[str, Any]:
        """The sales that a person must look at."""
        return exceptions.document(self._till.journal, self._till.enrolment)

    def tick_off(self, receipt_no: str, note: str) -> dict[str, Any]:
        """One of them was dealt with (`exceptions.tick_off`)."""
        journal, enrolled = self._till.journal, self._till.enrolment
        return exceptions.tick_off(journal, enrolled, receipt_no, note, self._now())

    def taking_back(self) -> dict[str, Any]:
        """The newest sales that can be voided now, newest first; every void and refund that
        waits, or was refused and is not seen yet."""
        journal, enrolled = self._till.journal, self._till.enrolment
        voidable = []
        for sale in journal.newest("confirmed", LOOKED_AT):
            until = self._till.void_until(sale.checkout)
            if until is not None:
                voidable.append(shown.voidable(sale, enrolled.terminal_no, until))
        return {
            "shop": enrolled.store_name,
            "voidable": voidable,
            "waiting": shown.open_undos(journal, enrolled),
        }

    def _undone(self, done: Correction) -> dict[str, Any]:
        if done.problem is not None:
            self._contact.missed(done.problem)
        self._after_sale()
        return self._shown_undo(done)

    def _shown_undo(self, done: Correction) -> dict[str, Any]:
        text = None
        if done.state == "posted":
            sequence = ids.parse_receipt_no(done.receipt_no)[1]
            slips = (u.slip for u in self._till.journal.undos("posted") if u.sequence == sequence)
            text = self._text(next(slips))
        return shown.taken_back(done, text, zone=self._settings.zone)

    # ── receipts ───────────────────────────────────────────────────────────────────────────────

    def receipt(self, receipt_no: str) -> dict[str, Any]:
        """A receipt as data and as text (marked COPY), and what became of each slip."""
        jobs = self._jobs(receipt_no)
        # Of a sale that was voided the slip that says so.
        newest = [job.slip for job in jobs if not job.slip.get("is_copy")][-1]
        return {
            "receipt_no": receipt_no,
            "slips": [{"copy_no": job.copy_no, "state": job.state} for job in jobs],
            "text": shown.receipt_text(newest, self._settings.columns, copy=True),
            "receipt": {**newest, "is_copy": True},
        }

    def reprint(self, receipt_no: str) -> dict[str, Any]:
        """Queue one more slip, marked COPY; repeated while it waits, it does nothing.

        Raises Problem receipt_unknown, no_printer.
        """
        with self._reprinting:
            job = self._jobs(receipt_no)[-1]
            if not self._has_printer:
                raise Problem("no_printer")
            if not (job.slip.get("is_copy") and job.state == "queued"):
                job = self._till.journal.queue_copy(receipt_no)
        self._after_sale()
        return {"receipt_no": receipt_no, "copy_no": job.copy_no, "state": job.state}

    def _jobs(self, receipt_no: str) -> list[PrintJob]:
        """The slips of a redeemed sale; before that there is none (INV-4)."""
        ids.parse_receipt_no(receipt_no)
        jobs = self._till.journal.print_jobs(receipt_no)
        if not jobs:
            raise Problem("receipt_unknown")
        return jobs

    # ── the clock ──────────────────────────────────────────────────────────────────────────────

    def reset_clock(self, text: str) -> dict[str, Any]:
        """Take an operator's reset. Raises Problem reset_taken, no_reset; OSError."""
        try:
            return {"time": clock.to_text(self._till.reset_clock(text))}
        except ResetTaken:
            raise Problem("reset_taken") from None
        except Malformed as error:
            raise Problem("no_reset", str(error)) from None

    # ── a till that was put back ───────────────────────────────────────────────────────────────

    def sell_on(self) -> dict[str, Any]:
        """The office lets it sell without a network again. Raises Problem sales_lost."""
        if not self._till.sell_on():
            raise Problem("sales_lost")
        return {"put_back": put_back_said(self._till.journal)}

    # ── what was carried here ──────────────────────────────────────────────────────────────────

    def take_ledger_keys(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The ledger's key set from a file: `{"news"}`. Raises Malformed, SignatureInvalid,
        OSError."""
        return {"news": self._till.take_ledger_keys(document)}

    def take_answers(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Outcomes from a file: `{"taken", "problems": [{"sequence", "problem"}]}`."""
        done = self._till.take_answers(answers)
        self._after_sale()
        return {
            "taken": done.taken,
            "problems": [{"sequence": n, "problem": why} for n, why in done.problems.items()],
        }

    # ── the day ────────────────────────────────────────────────────────────────────────────────

    def close_day(self, business_date: str | None) -> dict[str, Any]:
        """Write and send the till's Z, by default for today on the shop's clock; for no later day.
        With it, by programme, what was sold without the ledger and is in no Z's sums (`stored`).

        The same day again with nothing new to tell gives the same Z, so a double click makes one.
        """
        journal = self._till.journal
        clock_says = f"{self._now().astimezone(ZoneInfo(self._settings.zone)):%Y-%m-%d}"
        # After a day with a clock that ran ahead, the last report's date counts.
        today = day_end.date_for(journal, None, clock_says)
        day = business_date or today
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", day) is None:
            raise Malformed("must look like 2026-11-22", field="business_date")
        try:
            date.fromisoformat(day)
        except ValueError:
            raise Malformed("no such day", field="business_date") from None
        if day > today:
            raise Malformed("has not begun yet on the shop's clock", field="business_date")
        day_end.date_for(journal, day, today)
        with self._closing:
            reports = journal.records("day_report")
            newest = reports[-1].content if reports else None
            if not isinstance(newest, DayReport) or newest.business_date != day:
                newest = None
            else:
                self._till.settle()  # what ends now is news
            if newest is not None and day_end.is_told(journal, newest):
                acknowledged = bool(journal.outcomes_of(reports[-1].sequence))
                closed, problem = newest, None if acknowledged else self._contact.problem
            else:
                made = self._till.close_day(day)
                closed, acknowledged, problem = made.report, made.acknowledged, made.problem
                if problem is not None:
                    self._contact.missed(problem)
        self._after_sale()
        stored = [
            {
                "programme": programme,
                "currency": kept.currency,
                "count": kept.count,
                "amount_minor": kept.amount_minor,
            }
            for programme, kept in sorted(journal.stored_by_programme().items())
        ]
        return {
            **closed.to_json(),
            "stored": stored,
            "acknowledged": acknowledged,
            "problem": problem,
        }
