"""A county office's household list, from the file's bytes to rows that may be issued.

Personal data ends here. The ID number lives only while its row is judged; what leaves is a
keyed ref, the amount and the number of people. Names, phone numbers and notes are never looked
at but for formulas. Reasons name lines and columns, never a cell's value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from carepos.money import MAX_AMOUNT_MINOR, minor_unit_digits
from carepos_ledger.column_mapping import ColumnMapping
from carepos_ledger.import_key import ImportKey
from carepos_ledger.list_header import ListHeader, find_header
from carepos_ledger.list_reasons import refusal_sentences, warning_sentences
from carepos_ledger.list_records import ListUnreadable, decode_list, read_records
from carepos_ledger.list_totals import PrintedTotal, Sums, TotalLine, is_total, read_total
from carepos_ledger.listed_values import (
    RowRefusal,
    check_digit_right,
    header_key,
    holds_formula,
    read_amount,
    read_count,
    read_id_number,
    read_people,
    same_currency,
)
from carepos_ledger.row_checks import Number

__all__ = ["CountyList", "ListUnreadable", "ListWarning", "ListedRow", "RefusedRow", "read_list"]

LINES_NAMED_IN_WARNING = 10


@dataclass(frozen=True, slots=True)
class ListedRow:
    """A good row. `people` is None if the mapping names no such column."""

    line_no: int
    ref: str
    amount_minor: int
    people: int | None


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A refused row: its first physical line, 1-based, a stable code, the reason in words."""

    line_no: int
    code: str
    reason: str
    reason_zh: str


@dataclass(frozen=True, slots=True)
class ListWarning:
    """Something to look at that refuses nothing: how many lines, and the first ten of them.

    Codes: `id_check_digit`, `repeated_header`, `total_unreadable`, `total_differs`.
    """

    code: str
    count: int
    first_lines: tuple[int, ...]
    reason: str
    reason_zh: str


@dataclass(frozen=True, slots=True)
class CountyList:
    """A list as read: every row is in `rows` or in `refused`, in the order of lines.

    `title` is what stands above the header in lines of their own, without lines that name
    somebody. `all_rows` sums what could be read of good and refused rows, `good_rows` the good.
    """

    title: str
    currency: str
    key_id: str
    rows: tuple[ListedRow, ...]
    refused: tuple[RefusedRow, ...]
    warnings: tuple[ListWarning, ...]
    totals: tuple[TotalLine, ...]
    all_rows: Sums
    good_rows: Sums


def read_list(
    data: bytes, mapping: ColumnMapping, import_key: ImportKey, currency: str
) -> CountyList:
    """Judges every row of the file `data`.

    Raises ListUnreadable if the file as a whole is of no use, and carepos.errors.Malformed for
    an unknown `currency`; whatever else the bytes are, each row gets its verdict.
    """
    minor_digits = minor_unit_digits(currency)
    records = read_records(decode_list(data, mapping.encoding), mapping.delimiter)
    header, title = find_header(records, mapping)
    judge = _Judge(header, mapping, import_key, currency, minor_digits)
    verdicts: list[_Verdict] = []
    printed: list[tuple[int, PrintedTotal]] = []
    repeated: list[int] = []
    for record in records:
        cells = record.cells
        if cells is None:
            verdicts.append(_Verdict(record.line_no, refusal=RowRefusal.ROW_BROKEN))
        elif is_total(cells, header.id_number):
            total = read_total(cells, header.amount, header.people, currency, minor_digits)
            printed.append((record.line_no, total))
        elif len(cells) == len(header.keys) and header.repeated_by(cells):
            repeated.append(record.line_no)
        else:
            verdicts.append(judge.verdict(record.line_no, cells))
    _refuse_repeated_households(verdicts)
    good = [verdict for verdict in verdicts if verdict.refusal is None]
    all_sums, good_sums = _sums(verdicts), _sums(good)
    totals = _compared(printed, verdicts, all_sums, good_sums)
    readable = {total.line_no for total in totals if total.printed.readable}
    return CountyList(
        title=title,
        currency=currency,
        key_id=import_key.key_id,
        rows=tuple(verdict.listed() for verdict in good),
        refused=tuple(
            verdict.refused(currency) for verdict in verdicts if verdict.refusal is not None
        ),
        warnings=tuple(
            _warning(code, lines)
            for code, lines in (
                ("id_check_digit", [v.line_no for v in good if v.doubtful_id]),
                ("repeated_header", repeated),
                ("total_unreadable", [n for n, _ in printed if n not in readable]),
                (
                    "total_differs",
                    [
                        total.line_no
                        for total in totals
                        if total.printed.readable and total.agrees_with == "neither"
                    ],
                ),
            )
            if lines
        ),
        totals=totals,
        all_rows=all_sums,
        good_rows=good_sums,
    )


@dataclass(slots=True)
class _Verdict:
    line_no: int
    ref: str | None = None
    amount_minor: int | None = None
    people: int | None = None
    doubtful_id: bool = False
    refusal: RowRefusal | None = None
    detail: tuple[str, object] | None = None
    columns: tuple[int, int] | None = None

    def refuse(self, refusal: RowRefusal, detail: tuple[str, object] | None = None) -> None:
        """The first refusal stays."""
        if self.refusal is None:
            self.refusal, self.detail = refusal, detail

    def listed(self) -> ListedRow:
        assert self.ref is not None
        assert self.amount_minor is not None
        return ListedRow(self.line_no, self.ref, self.amount_minor, self.people)

    def refused(self, currency: str) -> RefusedRow:
        assert self.refusal is not None
        details: dict[str, object] = {"currency": currency}
        if self.detail is not None:
            details[self.detail[0]] = self.detail[1]
        if self.columns is not None:
            details["found"], details["wanted"] = self.columns
        return RefusedRow(
            self.line_no, self.refusal.value, *refusal_sentences(self.refusal, details)
        )


class _Judge:
    """Judges one row after the other; remembers none."""

    def __init__(
        self,
        header: ListHeader,
        mapping: ColumnMapping,
        import_key: ImportKey,
        currency: str,
        minor_digits: int,
    ) -> None:
        self._header = header
        self._mapping = mapping
        self._import_key = import_key
        self._currency = currency
        self._minor_digits = minor_digits

    def verdict(self, line_no: int, cells: Sequence[str]) -> _Verdict:
        header = self._header
        verdict = _Verdict(line_no)
        if len(cells) != len(header.keys):
            # Even empty cells too many: in `1,260,` the comma may belong to the amount.
            verdict.refuse(RowRefusal.WRONG_COLUMNS)
            verdict.columns = (len(cells), len(header.keys))
            return verdict
        if holds_formula(cells):
            verdict.refuse(RowRefusal.FORMULA)
        for name, at, kinds in header.only:
            if header_key(cells[at]) not in kinds:
                verdict.refuse(RowRefusal.OTHER_KIND, ("header", name))
        self._identify(verdict, cells[header.id_number])
        amount = read_amount(cells[header.amount], self._currency, self._minor_digits)
        if isinstance(amount, RowRefusal):
            verdict.refuse(amount)
        elif amount > MAX_AMOUNT_MINOR:
            # The ledger would refuse the whole chunk for it.
            verdict.refuse(RowRefusal.AMOUNT_TOO_LARGE)
        else:
            verdict.amount_minor = amount
        if header.people is not None:
            people = read_people(cells[header.people])
            if isinstance(people, RowRefusal):
                verdict.refuse(people)
            else:
                verdict.people = people
        if header.currency is not None and not same_currency(
            cells[header.currency], self._currency
        ):
            verdict.refuse(RowRefusal.CURRENCY_DIFFERS)
        if verdict.refusal is None:
            self._check(verdict, cells)
        return verdict

    def _identify(self, verdict: _Verdict, cell: str) -> None:
        id_number = read_id_number(cell)
        if isinstance(id_number, RowRefusal):
            verdict.refuse(id_number)
            return
        if self._mapping.id_check_digit != "off" and not check_digit_right(id_number):
            verdict.doubtful_id = True
            if self._mapping.id_check_digit == "refuse":
                verdict.refuse(RowRefusal.ID_CHECK_DIGIT)
        verdict.ref = self._import_key.ref(id_number)

    def _check(self, verdict: _Verdict, cells: Sequence[str]) -> None:
        if not self._mapping.checks:
            return
        values: dict[str, Number] = {}
        if verdict.amount_minor is not None:
            # Checks are written in the list's own unit (yuan), exactly, also for 60.50.
            scale = 10**self._minor_digits
            whole, rest = divmod(verdict.amount_minor, scale)
            values["amount"] = Fraction(verdict.amount_minor, scale) if rest else whole
        if verdict.people is not None:
            values["people"] = verdict.people
        for alias, at in self._header.numbers:
            number = read_count(cells[at])
            if number is None:
                verdict.refuse(RowRefusal.NUMBER_UNREADABLE, ("alias", alias))
                return
            values[alias] = number
        for check in self._mapping.checks:
            if not check.holds(values):
                verdict.refuse(RowRefusal.CHECK_FAILED, ("check", check.text))


def _refuse_repeated_households(verdicts: Sequence[_Verdict]) -> None:
    """Among rows that are otherwise good: the first of equal ones stays, of unequal ones none."""
    households: dict[str, list[_Verdict]] = {}
    for verdict in verdicts:
        if verdict.refusal is None and verdict.ref is not None:
            households.setdefault(verdict.ref, []).append(verdict)
    for same in households.values():
        first = same[0]
        other = next((v for v in same if v.amount_minor != first.amount_minor), None)
        if other is None:
            for verdict in same[1:]:
                verdict.refuse(RowRefusal.DUPLICATE, ("other_line", first.line_no))
            continue
        for verdict in same:
            against = first if verdict.amount_minor != first.amount_minor else other
            verdict.refuse(RowRefusal.CONFLICTING_AMOUNTS, ("other_line", against.line_no))


def _sums(verdicts: Sequence[_Verdict]) -> Sums:
    return Sums(
        rows=len(verdicts),
        people=sum(verdict.people or 0 for verdict in verdicts),
        amount_minor=sum(verdict.amount_minor or 0 for verdict in verdicts),
    )


def _compared(
    printed: Sequence[tuple[int, PrintedTotal]],
    verdicts: Sequence[_Verdict],
    all_sums: Sums,
    good_sums: Sums,
) -> tuple[TotalLine, ...]:
    totals: list[TotalLine] = []
    at = 0
    for line_no, total in printed:
        if total.scope == "list":
            totals.append(TotalLine(line_no, total, all_sums, good_sums))
            continue
        start = at
        while at < len(verdicts) and verdicts[at].line_no < line_no:
            at += 1
        section = verdicts[start:at]
        good = [verdict for verdict in section if verdict.refusal is None]
        totals.append(TotalLine(line_no, total, _sums(section), _sums(good)))
    return tuple(totals)


def _warning(code: str, lines: Sequence[int]) -> ListWarning:
    sentences = warning_sentences(code, len(lines))
    return ListWarning(code, len(lines), tuple(lines[:LINES_NAMED_IN_WARNING]), *sentences)
