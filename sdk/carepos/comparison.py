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
_OPEN: Final[frozenset[State]] = frozenset(
    {"open", "unknown", "interrupted", "goods_asked", "reversing"}
)


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
        net_minor = sum(each.amount_minor for each in (paid, back) if each is not None)
        if booking.sale is None:
            why = self._why_unknown(booking, paid or back)
            yield _named(booking, "not_in_journal", -net_minor, why)
        elif booking.sale.state == "confirmed":
            yield from self._confirmed(booking, paid, back)
        elif booking.sale.state in _DECIDED_REVERSED:
            yield from self._reversed(booking, paid, back)
        elif booking.sale.state in _OPEN:
            yield _named(
                booking,
                "open_at_till",
                -net_minor,
                f"The till has not finished this sale ({booking.sale.state}): "
                f"{attempt.MEANING[booking.sale.state].next}.{_in_file(paid)}",
            )
        elif booking.sale.state == "review":
            yield _named(
                booking,
                "in_review",
                -net_minor,
                "The ledger did not accept the till's reversal; a person at the programme's "
                f"office has to look at it.{_in_file(paid)}",
            )
        elif (settled := paid or back) is not None:
            assert booking.sale.state == "refused"
            yield _named(
                booking,
                "paid_but_refused",
                -net_minor,
                f"The ledger refused this sale, yet {settled.where} settles it.",
            )

    def _confirmed(
        self, booking: Booking, paid: FiledLine | None, back: FiledLine | None
    ) -> Iterator[Difference]:
        if paid is None:
            yield self._not_paid(booking)
        elif paid.amount_minor != booking.amount_minor:
            yield _named(
                booking,
                "amount_differs",
                booking.amount_minor - paid.amount_minor,
                f"The till's signed record says {_money(booking.amount_minor, booking)}, "
                f"{paid.where} says {_money(paid.amount_minor, booking)}.",
            )
        if back is not None:
            yield _named(
                booking,
                "reversed_in_settlement",
                -back.amount_minor,
                f"{back.where} takes this sale back, but the till's journal holds no reversal of "
                "it: is this journal an older copy?",
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

    def _reversed(
        self, booking: Booking, paid: FiledLine | None, back: FiledLine | None
    ) -> Iterator[Difference]:
        if paid is None and back is None:
            return
        if paid is None or back is None:
            yield self._half_reversed(booking, paid, back)
        elif paid.amount_minor + back.amount_minor:
            rest = paid.amount_minor + back.amount_minor
            yield _named(
                booking,
                "amount_differs",
                -rest,
                f"{paid.where} pays {_money(paid.amount_minor, booking)}, {back.where} takes "
                f"back {_money(-back.amount_minor, booking)}.",
            )

    def _half_reversed(
        self, booking: Booking, paid: FiledLine | None, back: FiledLine | None
    ) -> Difference:
        if paid is None:
            assert back is not None
            return _named(
                booking,
                "reversal_without_sale",
                -back.amount_minor,
                f"{back.where} takes back a sale that no file paid.",
            )
        effect = -paid.amount_minor
        undone = self._answer(booking, "reversal", "reversed")
        closed_at = self._sides.closed_at[booking.programme]
        if undone is None:
            return _named(
                booking,
                "reversal_not_in_file",
                effect,
                f"{paid.where} pays a sale that the till reversed; the journal holds no signed "
                "answer to the reversal.",
            )
        at = undone.recorded_at
        if at > closed_at or closed_at - at < IN_FLIGHT:
            return _named(
                booking,
                "paid_but_reversed",
                effect,
                f"{paid.where} pays it; it was reversed {clock.to_text(at)}, the last close was at "
                f"{clock.to_text(closed_at)}: the next file takes it back.",
            )
        return _named(
            booking,
            "reversal_not_in_file",
            effect,
            f"{paid.where} pays it, and no file takes it back, though the ledger signed its "
            f"reversal {clock.to_text(at)}, before the last close at {clock.to_text(closed_at)}.",
        )

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


def _in_file(paid: FiledLine | None) -> str:
    return "" if paid is None else f" {paid.where} pays it."
