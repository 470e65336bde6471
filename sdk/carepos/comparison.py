"""Comparing the two sides of a booking: which differences there are, and why.

Both sides are signed: the till's records by the terminal, its outcomes and the files by the ledger.
The effects of a booking's differences sum to (till − files) of it, to the last minor unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from carepos import attempt, clock, outcome
from carepos.attempt import State
from carepos.differences import Cause, Difference
from carepos.errors import Malformed
from carepos.keys import KeySet
from carepos.money import format_amount
from carepos.outcome import Outcome
from carepos.record import Kind
from carepos.sides import Booking, FiledLine, Sides

IN_FLIGHT: Final = timedelta(seconds=60)
"""A booking that was decided this shortly before a close may have been committed after it; no
transaction of a ledger lives longer."""

_DECIDED_REVERSED: Final[frozenset[State]] = frozenset({"filling", "reversed"})
_NOT_UNDONE: Final[frozenset[State]] = frozenset({"open", "unknown", "interrupted", "goods_asked"})
"""States that are not over and have no reversal yet."""


class Comparison:
    """Names the differences between `sides`. `keys`: the ledger's, for outcomes in journals."""

    def __init__(self, sides: Sides, keys: KeySet) -> None:
        self._sides = sides
        self._keys = keys

    def differences(self, booking: Booking) -> Iterator[Difference]:
        """The differences of one booking; none when its sides agree."""
        for extra in (*booking.redeems[1:], *booking.reversals[1:]):
            first = (booking.redeems if extra.line.kind == "redeem" else booking.reversals)[0]
            yield _named(
                booking,
                "duplicate_line",
                -extra.amount_minor,
                f"{extra.where} is the same {extra.line.kind} as {first.where}.",
            )
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
        if state == "confirmed":
            if paid is None:
                yield self._not_paid(booking)
            yield from _taken_back(booking, back)
        elif state in _DECIDED_REVERSED:
            if back is None and paid is not None:
                yield self._not_taken_back(booking, paid)
            elif paid is None and back is not None:
                why = f"{back.where} takes back a sale that no file paid."
                yield _named(booking, "reversal_without_sale", booking.amount_minor, why)
        elif state in _NOT_UNDONE:
            yield _unfinished(booking, paid, None)
            yield from _taken_back(booking, back)
        elif state == "reversing" or state == "review":
            yield _unfinished(booking, paid, back)
        elif (settled := paid or back) is not None:
            assert state == "refused"
            why = f"The ledger refused this sale, yet {settled.where} settles it."
            yield _named(booking, "paid_but_refused", _effect(booking, paid, back), why)

    def _not_paid(self, booking: Booking) -> Difference:
        posted = self._answer(booking, "redeem", "posted")
        if posted is None:
            return _named(
                booking,
                "missing_in_settlement",
                booking.amount_minor,
                "No file pays this sale, and the journal holds no signed confirmation of it.",
            )
        at, closed_at = posted.recorded_at, self._sides.closed_at.get(booking.programme)
        booked = f"Booked {clock.to_text(at)}"
        if closed_at is None:
            why = f"{booked}; no settlement of this programme is here yet."
        elif at > closed_at:
            why = f"{booked}, after the last close at {clock.to_text(closed_at)}: in the next file."
        elif closed_at - at < IN_FLIGHT:
            why = (
                f"{booked}, while the last close at {clock.to_text(closed_at)} was being made: "
                "in the next file."
            )
        else:
            return _named(
                booking,
                "missing_in_settlement",
                booking.amount_minor,
                f"{booked} by the ledger's signed confirmation, before the last close at "
                f"{clock.to_text(closed_at)}, yet no file pays it.",
            )
        return _named(booking, "not_settled_yet", booking.amount_minor, why)

    def _not_taken_back(self, booking: Booking, paid: FiledLine) -> Difference:
        """Reversed at the till, paid by a file, taken back by none."""
        undone = self._answer(booking, "reversal", "reversed")
        closed_at = self._sides.closed_at[booking.programme]
        cause: Cause = "reversal_not_in_file"
        if undone is None:
            why = (
                f"{paid.where} pays a sale that the till reversed; the journal holds no signed "
                "answer to the reversal."
            )
        elif undone.amount_minor < booking.amount_minor:
            why = (
                f"{paid.where} pays it, though the ledger signed that its reversal "
                f"{clock.to_text(undone.recorded_at)} put back "
                f"{_money(undone.amount_minor, booking)}."
            )
        elif closed_at - undone.recorded_at < IN_FLIGHT:
            cause = "paid_but_reversed"
            why = (
                f"{paid.where} pays it; it was reversed {clock.to_text(undone.recorded_at)}, the "
                f"last close was at {clock.to_text(closed_at)}: the next file takes it back."
            )
        else:
            why = (
                f"{paid.where} pays it, and no file takes it back, though the ledger signed its "
                f"reversal {clock.to_text(undone.recorded_at)}, before the last close at "
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
        last_sale = self._sides.last_sale.get(booking.journal)
        if last_sale is None:
            return (
                f"{line.where} is of another journal of this till (incarnation "
                f"{booking.incarnation[:8]}…), which was not given."
            )
        if booking.sequence > last_sale:
            return (
                f"{line.where} is number {booking.sequence}, but the last sale in the till's "
                f"journal is number {last_sale}: is it an older copy?"
            )
        if self._sides.is_sale_elsewhere(booking):
            return f"{line.where} settles this sale under another programme or currency."
        return f"{line.where} is number {booking.sequence}, which is no sale in the till's journal."


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
            yield _named(
                booking,
                "amount_differs",
                due_minor - filed.amount_minor,
                f"By the till's signed record it is {_money(due_minor, booking)}, "
                f"{filed.where} says {_money(filed.amount_minor, booking)}.",
            )


def _taken_back(booking: Booking, back: FiledLine | None) -> Iterator[Difference]:
    """A reversal in the files of a sale that the till did not reverse."""
    if back is not None:
        yield _named(
            booking,
            "reversed_in_settlement",
            booking.amount_minor,
            f"{back.where} takes this sale back, but the till's journal holds no reversal of "
            "it: is this journal an older copy?",
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
