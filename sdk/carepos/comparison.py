"""Comparing the two sides of a booking: which differences there are, and why.

Both sides are signed: the till's records by the terminal, its outcomes and the files by the ledger.
The effects of a booking's differences sum to (till − files) of it, to the last minor unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from carepos import attempt, clock, outcome
from carepos.attempt import State
from carepos.differences import Cause, Difference
from carepos.errors import Malformed
from carepos.keys import KeySet
from carepos.money import format_amount
from carepos.outcome import Outcome
from carepos.record import Kind
from carepos.sides import Booking, FiledLine, Sides, is_confirmed
from carepos.taken_back import TakenBack
from carepos.undo import Refund

IN_FLIGHT: Final = timedelta(seconds=60)
"""A booking that was decided this shortly before a close may have been committed after it; no
transaction of a ledger lives longer."""

_DECIDED_REVERSED: Final[frozenset[State]] = frozenset({"filling", "reversed"})
_NOT_UNDONE: Final[frozenset[State]] = attempt.STORED | {
    "open",
    "unknown",
    "interrupted",
    "goods_asked",
}
"""States that are not over and have no reversal."""


class Comparison:
    """Names the differences between `sides`. `keys`: the ledger's, for outcomes in journals."""

    def __init__(self, sides: Sides, keys: KeySet) -> None:
        self._sides = sides
        self._keys = keys

    def differences(self, booking: Booking) -> Iterator[Difference]:
        """The differences of one booking; none when its sides agree."""
        for first, *more in filter(None, (booking.redeems, booking.reversals, booking.refunds)):
            for extra in more:
                yield _named(
                    booking,
                    "duplicate_line",
                    -extra.amount_minor,
                    f"{extra.where} is the same {extra.line.kind} as {first.where}.",
                )
        if booking.refund is not None or booking.refunds:
            yield from self._refunded(booking)
        if booking.sale is not None or booking.redeems or booking.reversals:
            yield from self._sold(booking)

    def _sold(self, booking: Booking) -> Iterator[Difference]:
        """A sale, and what its own till took back of it whole."""
        paid = booking.redeems[0] if booking.redeems else None
        back = booking.reversals[0] if booking.reversals else None
        if booking.sale is None:
            net_minor = sum(each.amount_minor for each in (paid, back) if each is not None)
            why = self._why_unknown(booking, paid or back)
            yield _named(booking, "not_in_journal", -net_minor, why)
            return
        yield from _wrong_amounts(booking, paid, back)
        # From here on each line counts with the amount that it should have.
        state = booking.sale.state
        if is_confirmed(booking.sale):
            yield from self._confirmed(booking, paid, back)
        elif state in _DECIDED_REVERSED:
            if back is None and paid is not None:
                undone = self._answer(booking, "reversal", "reversed")
                yield self._not_taken_back(booking, paid, undone, "reversal")
            elif paid is None and back is not None:
                why = f"{back.where} takes back a sale that no file paid."
                yield _named(booking, "reversal_without_sale", booking.amount_minor, why)
        elif state in _NOT_UNDONE:
            yield _unfinished(booking, paid, None)
            yield from _taken_back(booking, back)
        elif state in ("reversing", "review", "exception"):
            yield self._dealt_with(booking, _unfinished(booking, paid, back))
        elif (settled := paid or back) is not None:
            assert state == "refused"
            why = f"The ledger refused this sale, yet {settled.where} settles it."
            yield _named(booking, "paid_but_refused", _effect(booking, paid, back), why)

    def _dealt_with(self, booking: Booking, found: Difference) -> Difference:
        """As it is, unless a person at the shop ticked it off. Where a file moves money for it the
        tick explains nothing: then the sides say different things of that money."""
        sale = booking.sale
        assert sale is not None
        tick = self._sides.ticks[booking.journal].get(sale.sequence)
        if tick is None or not tick.ends(sale) or found.effect_minor:
            return found
        why = f"Ticked off at the shop {clock.to_text(tick.at)}: {tick.note}"
        return replace(found, cause="ticked_off", sentence=why)

    def _confirmed(
        self, booking: Booking, paid: FiledLine | None, back: FiledLine | None
    ) -> Iterator[Difference]:
        """A sale whose goods left; perhaps they came back the same day."""
        void = booking.void
        if void is not None and void.word == "posted":
            if back is None and paid is not None:
                yield self._not_taken_back(booking, paid, void.answer, "void")
            elif paid is None and back is not None:
                why = f"{back.where} takes back a sale that no file paid."
                yield _named(booking, "reversal_without_sale", booking.amount_minor, why)
            return
        if paid is None:
            yield self._not_paid(booking)
        if void is not None and void.word == "waiting":
            why = "The till waits for the ledger's answer to its void of this sale."
            if back is not None:
                why += f" {back.where} takes it back already."
            effect_minor = 0 if back is None else booking.amount_minor
            yield _named(booking, "open_at_till", effect_minor, why)
            return
        yield from _taken_back(booking, back)

    def _refunded(self, booking: Booking) -> Iterator[Difference]:
        """A refund of whatever sale, under the number of its own record."""
        filed = booking.refunds[0] if booking.refunds else None
        refund = booking.refund
        if refund is None:
            assert filed is not None
            why = self._why_unknown(booking, filed)
            yield _named(booking, "not_in_journal", -filed.amount_minor, why)
            return
        due_minor = -refund.amount_minor
        if filed is not None and filed.amount_minor != due_minor:
            yield _wrong_amount(booking, filed, due_minor)
        if refund.word == "posted":
            if filed is None:
                yield self._refund_not_filed(booking, refund)
            return
        effect_minor = 0 if filed is None else -due_minor
        if refund.word == "waiting":
            why = "The till waits for the ledger's answer to this refund."
            if filed is not None:
                why += f" {filed.where} has it already."
            yield _named(booking, "open_at_till", effect_minor, why)
        elif filed is not None:
            why = f"The ledger refused this refund, yet {filed.where} takes it back."
            yield _named(booking, "refunded_in_settlement", effect_minor, why)

    def _refund_not_filed(self, booking: Booking, refund: TakenBack) -> Difference:
        assert refund.answer is not None
        closed_at = self._sides.closed_at.get(booking.programme)
        cause, why = _when(refund.answer, closed_at, "refund_not_in_file", "has it")
        return _named(booking, cause, -refund.amount_minor, why)

    def unplaced(self, refund: TakenBack) -> Difference:
        """A refund of a sale that no journal here has and that no file has. In no sum."""
        content = refund.written.content
        assert isinstance(content, Refund)
        cause: Cause = "open_at_till"
        why = "The till waits for the ledger's answer to this refund."
        if refund.answer is not None:
            newest = max(self._sides.closed_at.values(), default=None)
            cause, why = _when(refund.answer, newest, "refund_not_in_file", "has it")
        return Difference(
            cause,
            refund.written.terminal,
            refund.written.incarnation,
            refund.written.sequence,
            None,
            None,
            "",
            content.currency,
            0,
            f"{why} The journal of the till that sold was not given: the programme is not known.",
        )

    def _not_paid(self, booking: Booking) -> Difference:
        posted = self._answer(booking, "redeem", "posted")
        if posted is None:
            return _named(
                booking,
                "missing_in_settlement",
                booking.amount_minor,
                "No file pays this sale, and the journal holds no signed confirmation of it.",
            )
        closed_at = self._sides.closed_at.get(booking.programme)
        cause, why = _when(posted, closed_at, "missing_in_settlement", "pays it")
        return _named(booking, cause, booking.amount_minor, why)

    def _not_taken_back(
        self, booking: Booking, paid: FiledLine, undone: Outcome | None, what: str
    ) -> Difference:
        """Reversed or voided at the till, paid by a file, taken back by none. `undone`: the
        ledger's word on it."""
        closed_at = self._sides.closed_at[booking.programme]
        cause: Cause = "reversal_not_in_file"
        if undone is None:
            why = (
                f"{paid.where} pays a sale that the till reversed; the journal holds no signed "
                "answer to the reversal."
            )
        elif undone.amount_minor < booking.amount_minor:
            why = (
                f"{paid.where} pays it, though the ledger signed that its {what} "
                f"{clock.to_text(undone.recorded_at)} put back "
                f"{_money(undone.amount_minor, booking)}."
            )
        elif closed_at - undone.recorded_at < IN_FLIGHT:
            cause = "paid_but_reversed"
            why = (
                f"{paid.where} pays it; its {what} was {clock.to_text(undone.recorded_at)}, the "
                f"last close at {clock.to_text(closed_at)}: the next file takes it back."
            )
        else:
            why = (
                f"{paid.where} pays it, and no file takes it back, though the ledger signed its "
                f"{what} {clock.to_text(undone.recorded_at)}, before the last close at "
                f"{clock.to_text(closed_at)}."
            )
        return _named(booking, cause, -booking.amount_minor, why)

    def _answer(self, booking: Booking, kind: Kind, result: str) -> Outcome | None:
        """The ledger's signed word on the sale's own record or its reversal, if the till has it."""
        assert booking.sale is not None
        journal = self._sides.journals[booking.journal]
        try:
            written = journal.record_of(booking.sale, kind)
        except KeyError:
            return None
        for text in journal.outcomes_of(written.sequence):
            try:
                found = outcome.read_bound(text, written, keys=self._keys)
            except Malformed:
                continue  # not the ledger's word: as if it were not there
            if found.result == result:
                return found
        return None

    def _why_unknown(self, booking: Booking, line: FiledLine | None) -> str:
        assert line is not None
        last = self._sides.last.get(booking.journal)
        if last is None:
            return (
                f"{line.where} is of another journal of this till (incarnation "
                f"{booking.incarnation[:8]}…), which was not given."
            )
        if booking.sequence > last:
            return (
                f"{line.where} is number {booking.sequence}, but the last sale or refund in the "
                f"till's journal is number {last}: is it an older copy?"
            )
        if self._sides.is_elsewhere(booking):
            return f"{line.where} settles it under another programme or currency."
        what = "refund" if line.line.kind == "refund" else "sale"
        return (
            f"{line.where} is number {booking.sequence}, which is no {what} in the till's journal."
        )


def _when(
    posted: Outcome, closed_at: datetime | None, otherwise: Cause, does: str
) -> tuple[Cause, str]:
    """Whether the order of events explains that no file has what the ledger booked, and why."""
    at = posted.recorded_at
    booked = f"Booked {clock.to_text(at)}"
    if closed_at is None:
        return "not_settled_yet", f"{booked}; no settlement of this programme is here yet."
    closed = f"the last close at {clock.to_text(closed_at)}"
    if at > closed_at:
        return "not_settled_yet", f"{booked}, after {closed}: in the next file."
    if closed_at - at < IN_FLIGHT:
        return "not_settled_yet", f"{booked}, while {closed} was being made: in the next file."
    return otherwise, (
        f"{booked} by the ledger's signed confirmation, before {closed}, yet no file {does}."
    )


def of_other_terminal(lines: Sequence[FiledLine]) -> Difference:
    """The one difference that all lines of a till are whose journal was not given."""
    first = lines[0]
    amount_minor = sum(each.amount_minor for each in lines)
    return Difference(
        "other_terminal",
        first.line.terminal,
        first.line.incarnation,
        first.line.sequence,
        first.line.receipt_no if len(lines) == 1 else None,
        None,
        first.batch.manifest.programme,
        first.line.currency,
        -amount_minor,
        f"{len(lines)} lines are of a till whose journal was not given; the first is "
        f"{first.where}.",
    )


def _wrong_amounts(
    booking: Booking, paid: FiledLine | None, back: FiledLine | None
) -> Iterator[Difference]:
    """Lines that say another amount than the till's signed record, whatever became of the sale."""
    for filed, due_minor in ((paid, booking.amount_minor), (back, -booking.amount_minor)):
        if filed is not None and filed.amount_minor != due_minor:
            yield _wrong_amount(booking, filed, due_minor)


def _wrong_amount(booking: Booking, filed: FiledLine, due_minor: int) -> Difference:
    return _named(
        booking,
        "amount_differs",
        due_minor - filed.amount_minor,
        f"By the till's signed record it is {_money(due_minor, booking)}, "
        f"{filed.where} says {_money(filed.amount_minor, booking)}.",
    )


def _taken_back(booking: Booking, back: FiledLine | None) -> Iterator[Difference]:
    """A reversal or void in the files of a sale that the till did not take back."""
    if back is not None:
        yield _named(
            booking,
            "reversed_in_settlement",
            booking.amount_minor,
            f"{back.where} takes this sale back, but the till's journal holds no {back.line.kind} "
            "of it that the ledger took: is this journal an older copy?",
        )


def _unfinished(booking: Booking, paid: FiledLine | None, back: FiledLine | None) -> Difference:
    """A sale that the till can't finish by itself, or has not yet."""
    assert booking.sale is not None
    state = booking.sale.state
    cause: Cause = "open_at_till"
    why = f"The till has not finished this sale ({state}): {attempt.MEANING[state].next}."
    if state == "review":
        cause = "in_review"
        why = (
            "The ledger did not accept the till's reversal; a person at the programme's office "
            "has to look at it."
        )
    elif state == "exception":
        cause = "in_review"
        why = (
            "The ledger did not book this sale, which was made without it; it stands in the "
            "programme's list of exceptions."
        )
    if paid is not None:
        why += f" {paid.where} pays it."
    return _named(booking, cause, _effect(booking, paid, back), why)


def _effect(booking: Booking, paid: FiledLine | None, back: FiledLine | None) -> int:
    """The part of (till − files) of lines whose sale the till does not count."""
    return ((back is not None) - (paid is not None)) * booking.amount_minor


def _named(booking: Booking, cause: Cause, effect_minor: int, sentence: str) -> Difference:
    return Difference(
        cause,
        booking.terminal,
        booking.incarnation,
        booking.sequence,
        booking.receipt_no,
        None if booking.sale is None else booking.sale.checkout,
        booking.programme,
        booking.currency,
        effect_minor,
        sentence,
    )


def _money(amount_minor: int, booking: Booking) -> str:
    return f"{format_amount(amount_minor, booking.currency)} {booking.currency}"
