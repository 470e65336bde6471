"""The two sides of a reconciliation, laid beside each other: what tills signed, what files pay.

They meet by (terminal, incarnation, sequence) within a programme and currency: the sequence of the
redeem record, which what the till takes back whole is listed under too; a refund has its own.
Work and memory grow with the number of records and lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from carepos import ids, outcome, taken_back, ticked_off
from carepos.errors import Malformed
from carepos.journal_view import Attempt, JournalView
from carepos.keys import KeySet
from carepos.record import Record
from carepos.settlement import Batch, SettlementLine
from carepos.taken_back import TakenBack
from carepos.ticked_off import Tick


def is_confirmed(sale: Attempt) -> bool:
    """Whether the goods left; of a sale that was voided later they came back."""
    state: str = sale.state
    return state in ("confirmed", "voided", "short")


@dataclass(slots=True)
class Sums:
    """Both sides of one programme and currency, counts and minor units.

    `till`: confirmed sales; `back`: what these tills voided and refunded, by the ledger's signed
    word, at most 0. `redeemed` and `reversed`: lines of these tills. `others`: lines of tills whose
    journal was not given; they are part of the files' side only when asked for.
    """

    programme: str
    currency: str
    till_count: int = 0
    till_minor: int = 0
    back_count: int = 0
    back_minor: int = 0
    redeemed_count: int = 0
    redeemed_minor: int = 0
    reversed_count: int = 0
    reversed_minor: int = 0
    others_count: int = 0
    others_minor: int = 0
    others_counted: bool = False

    @property
    def files_minor(self) -> int:
        others = self.others_minor if self.others_counted else 0
        return self.redeemed_minor + self.reversed_minor + others

    @property
    def difference_minor(self) -> int:
        return self.till_minor + self.back_minor - self.files_minor

    def to_json(self) -> dict[str, object]:
        return {
            "programme": self.programme,
            "currency": self.currency,
            "till": {"count": self.till_count, "amount_minor": self.till_minor},
            "taken_back": {"count": self.back_count, "amount_minor": self.back_minor},
            "redeemed": {"count": self.redeemed_count, "amount_minor": self.redeemed_minor},
            "reversed": {"count": self.reversed_count, "amount_minor": self.reversed_minor},
            "other_terminals": {"count": self.others_count, "amount_minor": self.others_minor},
            "files_minor": self.files_minor,
            "difference_minor": self.difference_minor,
        }


@dataclass(frozen=True, slots=True)
class FiledLine:
    """A settlement line and where it stands."""

    line: SettlementLine
    batch: Batch
    number: int

    @property
    def amount_minor(self) -> int:
        return self.line.amount_minor

    @property
    def where(self) -> str:
        return f"{self.batch.name} line {self.number}"


@dataclass(slots=True)
class Booking:
    """What both sides have under one number of one journal, in one programme and currency."""

    terminal: str
    incarnation: str
    sequence: int
    programme: str
    currency: str
    sale: Attempt | None = None
    amount_minor: int = 0  # what the signed record asks the programme to pay, less what it need not
    void: TakenBack | None = None
    refund: TakenBack | None = None  # of whatever sale; this is its own number
    number: str | None = None  # the receipt number, where the till's own is known
    redeems: list[FiledLine] = field(default_factory=list)
    reversals: list[FiledLine] = field(default_factory=list)  # and voids
    refunds: list[FiledLine] = field(default_factory=list)

    @property
    def journal(self) -> tuple[str, str]:
        return self.terminal, self.incarnation

    @property
    def receipt_no(self) -> str | None:
        """As the till printed it, else as the files spell it."""
        lines = self.redeems + self.reversals + self.refunds
        filed = lines[0].line.receipt_no if lines else self.number
        return filed if self.sale is None else self.sale.slip.get("receipt_no", filed)


class Sides:
    """Journals and batches, gathered. `every_terminal`: see `Sums.others`. `keys`: the ledger's.

    Raises Malformed when a journal is given twice or a record in it does not verify.
    """

    def __init__(
        self,
        journals: Sequence[JournalView],
        batches: Sequence[Batch],
        keys: KeySet,
        *,
        every_terminal: bool,
    ) -> None:
        self.sums: dict[tuple[str, str], Sums] = {}
        self.journals: dict[tuple[str, str], JournalView] = {}
        self.ticks: dict[tuple[str, str], dict[int, Tick]] = {}
        """Of each journal: what people said to be dealt with, by the number of the sale."""
        self.last: dict[tuple[str, str], int] = {}
        """The number of each journal's last sale or refund; 0 without one."""
        self.closed_at: dict[str, datetime] = {}
        """When each programme was last closed."""
        self.others: dict[tuple[str, str, str], list[FiledLine]] = {}
        """Lines of tills whose journal was not given, by (terminal, programme, currency)."""
        self.unplaced: list[TakenBack] = []
        """Refunds of other tills' sales, of which neither a journal nor a file tells the programme.
        """
        self._every_terminal = every_terminal
        self._keys = keys
        self._sales: dict[tuple[str, str], Booking] = {}
        self._bookings: dict[tuple[str, str, int, str, str], Booking] = {}
        for journal in journals:
            self._take_journal(journal)
        self._terminals = {terminal for terminal, _ in self.journals}
        for batch in batches:
            self._take_batch(batch)
        for own, journal in self.journals.items():
            self._take_back(own, journal)

    def bookings(self) -> Iterator[Booking]:
        """In the order of till, journal and number."""
        return (booking for _, booking in sorted(self._bookings.items(), key=lambda each: each[0]))

    def is_elsewhere(self, booking: Booking) -> bool:
        """Whether its number is a sale or refund of another programme or currency."""
        place = (*booking.journal, booking.sequence)
        there = (self._bookings.get((*place, *of)) for of in self.sums)
        return any(each is not None and (each.sale or each.refund) is not None for each in there)

    def _take_journal(self, journal: JournalView) -> None:
        about = journal.about()
        own = (about["terminal"], about["incarnation"])
        if own in self.journals:
            raise Malformed("the same journal was given twice", field=own[0])
        self.journals[own] = journal
        self.ticks[own] = ticked_off.ticks(journal)
        # Records first: a running till may add a sale between the two reads, which then shows up
        # in `attempts` only and is left out as a whole.
        written = journal.records("redeem")
        attempts = {each.id: each for each in journal.attempts()}
        for each in written:
            if (each.terminal, each.incarnation) != own or each.id not in attempts:
                raise Malformed("holds a record that is not of this journal", field=own[0])
            self._take_sale(journal, each, attempts[each.id])
        self.last[own] = written[-1].sequence if written else 0

    def _take_sale(self, journal: JournalView, written: Record, sale: Attempt) -> None:
        redeem = written.redeem
        booking = self._booking(
            written.terminal,
            written.incarnation,
            written.sequence,
            redeem.programme,
            redeem.currency,
        )
        booking.sale = sale
        booking.amount_minor = redeem.programme_minor - self._merchants_loss(journal, sale)
        self._sales[written.terminal, written.id] = booking
        if is_confirmed(sale):
            sums = self._sum(redeem.programme, redeem.currency)
            sums.till_count += 1
            sums.till_minor += booking.amount_minor

    def _merchants_loss(self, journal: JournalView, sale: Attempt) -> int:
        """What vouchers did not cover of a sale made without the ledger, at the merchant's risk, by
        the ledger's signed word."""
        try:
            accepted = journal.record_of(sale, "accept_offline")
        except KeyError:
            return 0
        for text in journal.outcomes_of(accepted.sequence):
            try:
                found = outcome.read_bound(text, accepted, keys=self._keys)
            except Malformed:
                continue  # not the ledger's word: as if it were not there
            if found.liability == "merchant":
                return found.shortfall_minor
        return 0

    def _take_batch(self, batch: Batch) -> None:
        manifest = batch.manifest
        earlier = self.closed_at.get(manifest.programme, manifest.closed_at)
        self.closed_at[manifest.programme] = max(earlier, manifest.closed_at)
        for number, line in enumerate(batch.lines, 2):
            found = FiledLine(line, batch, number)
            sums = self._sum(manifest.programme, line.currency)
            if line.terminal not in self._terminals:
                sums.others_count += 1
                sums.others_minor += line.amount_minor
                sums.others_counted = self._every_terminal
                key = (line.terminal, manifest.programme, line.currency)
                self.others.setdefault(key, []).append(found)
                continue
            booking = self._booking(
                line.terminal, line.incarnation, line.sequence, manifest.programme, line.currency
            )
            if line.kind == "redeem":
                booking.redeems.append(found)
                sums.redeemed_count += 1
                sums.redeemed_minor += line.amount_minor
            else:
                (booking.refunds if line.kind == "refund" else booking.reversals).append(found)
                sums.reversed_count += 1
                sums.reversed_minor += line.amount_minor

    def _take_back(self, own: tuple[str, str], journal: JournalView) -> None:
        """What a till took back; once all files are known, for they may tell the programme."""
        for found in taken_back.read(journal, self._keys):
            original = found.original
            sale = self._sales.get((original.terminal, original.id))
            if found.is_void:
                # Listed under its sale's number: without that journal there is nothing to compare.
                if sale is not None and sale.sale is not None and is_confirmed(sale.sale):
                    self._take_void(sale, found)
                continue
            self.last[own] = max(self.last[own], found.written.sequence)
            place = (*own, found.written.sequence)
            if sale is not None:
                of: tuple[str, str] | None = (sale.programme, sale.currency)
            else:
                of = next((of for of in self.sums if self._is_refund_line(place, of)), None)
            if of is not None:
                self._take_refund(self._booking(*place, *of), found)
            elif found.word != "refused":
                self.unplaced.append(found)

    def _take_void(self, sale: Booking, found: TakenBack) -> None:
        if sale.void is None or sale.void.word == "refused":
            # One that was refused does not hide the next one.
            sale.void = found
        if found.word == "posted":
            sums = self._sum(sale.programme, sale.currency)
            sums.back_count += 1
            sums.back_minor -= sale.amount_minor

    def _take_refund(self, booking: Booking, found: TakenBack) -> None:
        booking.refund = found
        booking.number = self._number(booking.journal, booking.sequence)
        if found.word == "posted":
            sums = self._sum(booking.programme, booking.currency)
            sums.back_count += 1
            sums.back_minor -= found.amount_minor

    def _is_refund_line(self, place: tuple[str, str, int], of: tuple[str, str]) -> bool:
        booking = self._bookings.get((*place, *of))
        return booking is not None and bool(booking.refunds)

    def _number(self, own: tuple[str, str], sequence: int) -> str | None:
        """A receipt number of this journal's: the till's number stands in those of its sales."""
        for booking in self._sales.values():
            if booking.journal == own and booking.receipt_no is not None:
                return ids.receipt_no(ids.parse_receipt_no(booking.receipt_no)[0], sequence)
        return None

    def _booking(
        self, terminal: str, incarnation: str, sequence: int, programme: str, currency: str
    ) -> Booking:
        key = (terminal, incarnation, sequence, programme, currency)
        if key not in self._bookings:
            self._bookings[key] = Booking(*key)
            self._sum(programme, currency)
        return self._bookings[key]

    def _sum(self, programme: str, currency: str) -> Sums:
        return self.sums.setdefault((programme, currency), Sums(programme, currency))
