"""Reconciliation: what the tills promised against what the settlement files pay.

Both sides are signed: the till's records by the terminal, its outcomes and the files by the ledger.
Bookings meet by (terminal, incarnation, sequence) within a programme and currency. Every difference
has a cause and an effect in minor units; the effects sum to (till − files), to the last one.
Work and memory grow with the number of records and lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from carepos import attempt, clock, outcome
from carepos.attempt import State
from carepos.errors import Malformed
from carepos.journal import Attempt, JournalView
from carepos.keys import KeySet
from carepos.money import format_amount
from carepos.outcome import Outcome
from carepos.receipt import text_width
from carepos.record import Kind, Record
from carepos.settlement import Batch, SettlementLine

Cause = Literal[
    "not_settled_yet",
    "paid_but_reversed",
    "open_at_till",
    "in_review",
    "missing_in_settlement",
    "amount_differs",
    "reversed_in_settlement",
    "reversal_not_in_file",
    "reversal_without_sale",
    "paid_but_refused",
    "not_in_journal",
    "duplicate_line",
    "other_terminal",
]

LABEL: Final[dict[Cause, str]] = {
    "not_settled_yet": "not settled yet 尚未结算",
    "paid_but_reversed": "reversal in the next file 撤销待下期冲减",
    "open_at_till": "still open at the till 收银端未完结",
    "in_review": "in review at the office 项目办公室处理中",
    "missing_in_settlement": "missing in the files 结算文件缺少",
    "amount_differs": "amount differs 金额不符",
    "reversed_in_settlement": "taken back in the files 结算已冲减",
    "reversal_not_in_file": "reversal missing in the files 结算缺少撤销",
    "reversal_without_sale": "reversal without its sale 有撤销无核销",
    "paid_but_refused": "paid though refused 已拒绝却结算",
    "not_in_journal": "not in the till's journal 收银端无此笔",
    "duplicate_line": "paid twice 重复结算",
    "other_terminal": "another till 其他收银端",
}
"""What a clerk reads for each cause."""

EXPLAINED: Final[frozenset[Cause]] = frozenset(
    {"not_settled_yet", "paid_but_reversed", "open_at_till"}
)
"""Causes that the order of events explains; they go away without anybody correcting anything."""

IN_FLIGHT: Final = timedelta(seconds=60)
"""A booking that was decided this shortly before a close may have been committed after it; no
transaction of a ledger lives longer."""

_DECIDED_REVERSED: Final[frozenset[State]] = frozenset({"filling", "reversed"})
_OPEN: Final[frozenset[State]] = frozenset(
    {"open", "unknown", "interrupted", "goods_asked", "reversing"}
)

Place = tuple[str, str, int]
"""(terminal, incarnation, sequence of the redeem record)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference with its cause. `effect_minor` is its part of (till − files).

    `receipt_no` and `checkout` are None where only one side is there and doesn't know them.
    """

    cause: Cause
    terminal: str
    incarnation: str
    sequence: int
    receipt_no: str | None
    checkout: str | None
    programme: str
    currency: str
    effect_minor: int
    sentence: str

    @property
    def explained(self) -> bool:
        return self.cause in EXPLAINED

    def to_json(self) -> dict[str, object]:
        return {
            "cause": self.cause,
            "explained": self.explained,
            "terminal": self.terminal,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "receipt_no": self.receipt_no,
            "checkout": self.checkout,
            "programme": self.programme,
            "currency": self.currency,
            "effect_minor": self.effect_minor,
            "sentence": self.sentence,
        }


@dataclass(slots=True)
class Sums:
    """Both sides of one programme and currency, counts and minor units.

    `till`: confirmed sales. `redeemed` and `reversed`: lines of these tills. `others`: lines of
    tills whose journal was not given; they are part of the files' side only when asked for.
    """

    programme: str
    currency: str
    till_count: int = 0
    till_minor: int = 0
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
        return self.till_minor - self.files_minor

    def to_json(self) -> dict[str, object]:
        return {
            "programme": self.programme,
            "currency": self.currency,
            "till": {"count": self.till_count, "amount_minor": self.till_minor},
            "redeemed": {"count": self.redeemed_count, "amount_minor": self.redeemed_minor},
            "reversed": {"count": self.reversed_count, "amount_minor": self.reversed_minor},
            "other_terminals": {"count": self.others_count, "amount_minor": self.others_minor},
            "files_minor": self.files_minor,
            "difference_minor": self.difference_minor,
        }


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What came out. `differences` are in the order of till and receipt number."""

    tills: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    sums: tuple[Sums, ...]
    differences: tuple[Difference, ...]
    matched: int

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        return tuple(each for each in self.differences if not each.explained)

    def to_json(self) -> dict[str, object]:
        return {
            "tills": [{"terminal": t, "incarnation": i} for t, i in self.tills],
            "files": list(self.files),
            "sums": [each.to_json() for each in self.sums],
            "matched": self.matched,
            "differences": [each.to_json() for each in self.differences],
            "unexplained": len(self.unexplained),
        }

    def to_text(self) -> str:
        return "\n".join(_text(self)) + "\n"


@dataclass(frozen=True, slots=True)
class _Line:
    """A settlement line and where it stands."""

    line: SettlementLine
    batch: Batch
    number: int

    @property
    def where(self) -> str:
        return f"{self.batch.name} line {self.number}"


@dataclass(slots=True)
class _Pair:
    """What both sides have under one place of one programme and currency."""

    terminal: str
    incarnation: str
    sequence: int
    programme: str
    currency: str
    sale: Attempt | None = None
    amount_minor: int = 0  # what the signed record asked the programme to pay
    redeems: list[_Line] = field(default_factory=list)
    reversals: list[_Line] = field(default_factory=list)


def reconcile(
    journals: Sequence[JournalView],
    batches: Sequence[Batch],
    keys: KeySet,
    *,
    every_terminal: bool = False,
) -> Reconciliation:
    """Compare tills' journals with settlement files; name each difference with its cause.

    `keys`: the ledger's, for the outcomes in the journals. `batches` were verified (`read_batch`,
    `check_sequence`). `every_terminal`: lines of tills whose journal is not given are differences
    too. Raises Malformed when a journal is given twice or a record in it does not verify.
    """
    return _Work(journals, batches, keys, every_terminal).done()


class _Work:
    def __init__(
        self,
        journals: Sequence[JournalView],
        batches: Sequence[Batch],
        keys: KeySet,
        every_terminal: bool,
    ) -> None:
        self._keys = keys
        self._batches = batches
        self._every_terminal = every_terminal
        self._pairs: dict[tuple[Place, str, str], _Pair] = {}
        self._sums: dict[tuple[str, str], Sums] = {}
        self._journals: dict[tuple[str, str], JournalView] = {}
        self._last_sale: dict[tuple[str, str], int] = {}
        self._closed_at: dict[str, datetime] = {}
        self._others: dict[tuple[str, str, str], list[_Line]] = {}
        for journal in journals:
            self._take_journal(journal)
        self._terminals = {terminal for terminal, _ in self._journals}
        for batch in batches:
            self._take_batch(batch)

    def done(self) -> Reconciliation:
        differences: list[Difference] = []
        matched = 0
        for pair in sorted(
            self._pairs.values(),
            key=lambda p: (p.terminal, p.incarnation, p.sequence, p.programme, p.currency),
        ):
            found = list(self._compare(pair))
            differences += found
            matched += not found
        if self._every_terminal:
            differences += map(self._other_terminal, self._others.values())
        self._assert_explained(differences)
        return Reconciliation(
            tuple(sorted(self._journals)),
            tuple(batch.name for batch in self._batches),
            tuple(self._sums[key] for key in sorted(self._sums)),
            tuple(differences),
            matched,
        )

    def _assert_explained(self, differences: Iterable[Difference]) -> None:
        effects = dict.fromkeys(self._sums, 0)
        for each in differences:
            effects[each.programme, each.currency] += each.effect_minor
        for key, sums in self._sums.items():
            # A reconciliation that leaves a rest unnamed must not be shown to anybody.
            if effects[key] != sums.difference_minor:
                raise AssertionError(f"the differences of {key} do not explain the sums")

    # ── gathering ──────────────────────────────────────────────────────────────────────────────

    def _take_journal(self, journal: JournalView) -> None:
        about = journal.about()
        own = (about["terminal"], about["incarnation"])
        if own in self._journals:
            raise Malformed("the same journal was given twice", field=own[0])
        self._journals[own] = journal
        # Records first: a running till may add a sale between the two reads, which then shows up
        # in `attempts` only and is left out as a whole.
        written = journal.records("redeem")
        attempts = {each.id: each for each in journal.attempts()}
        for each in written:
            if (each.terminal, each.incarnation) != own or each.id not in attempts:
                raise Malformed("holds a record that is not of this journal", field=own[0])
            self._take_sale(each, attempts[each.id])
        self._last_sale[own] = written[-1].sequence if written else 0

    def _take_sale(self, written: Record, sale: Attempt) -> None:
        redeem = written.redeem
        place = (written.terminal, written.incarnation, written.sequence)
        pair = self._pair(place, redeem.programme, redeem.currency)
        pair.sale, pair.amount_minor = sale, redeem.programme_minor
        if sale.state == "confirmed":
            sums = self._sum(redeem.programme, redeem.currency)
            sums.till_count += 1
            sums.till_minor += redeem.programme_minor

    def _take_batch(self, batch: Batch) -> None:
        manifest = batch.manifest
        earlier = self._closed_at.get(manifest.programme, manifest.closed_at)
        self._closed_at[manifest.programme] = max(earlier, manifest.closed_at)
        for number, line in enumerate(batch.lines, 2):
            found = _Line(line, batch, number)
            sums = self._sum(manifest.programme, line.currency)
            if line.terminal not in self._terminals:
                sums.others_count += 1
                sums.others_minor += line.amount_minor
                sums.others_counted = self._every_terminal
                key = (line.terminal, manifest.programme, line.currency)
                self._others.setdefault(key, []).append(found)
                continue
            place = (line.terminal, line.incarnation, line.sequence)
            pair = self._pair(place, manifest.programme, line.currency)
            if line.kind == "redeem":
                pair.redeems.append(found)
                sums.redeemed_count += 1
                sums.redeemed_minor += line.amount_minor
            else:
                pair.reversals.append(found)
                sums.reversed_count += 1
                sums.reversed_minor += line.amount_minor

    def _pair(self, place: Place, programme: str, currency: str) -> _Pair:
        key = (place, programme, currency)
        if key not in self._pairs:
            self._pairs[key] = _Pair(*place, programme, currency)
            self._sum(programme, currency)
        return self._pairs[key]

    def _sum(self, programme: str, currency: str) -> Sums:
        return self._sums.setdefault((programme, currency), Sums(programme, currency))

    # ── comparing ──────────────────────────────────────────────────────────────────────────────

    def _compare(self, pair: _Pair) -> Iterator[Difference]:
        """The differences under one place. Their effects sum to (till − files) of it."""
        named = _namer(pair)
        for extra in (*pair.redeems[1:], *pair.reversals[1:]):
            first = (pair.redeems if extra.line.kind == "redeem" else pair.reversals)[0]
            yield named(
                "duplicate_line",
                -extra.line.amount_minor,
                f"{extra.where} is the same {extra.line.kind} as {first.where}.",
            )
        paid = pair.redeems[0] if pair.redeems else None
        back = pair.reversals[0] if pair.reversals else None
        net_minor = sum(each.line.amount_minor for each in (paid, back) if each is not None)
        if pair.sale is None:
            yield named("not_in_journal", -net_minor, self._why_unknown(pair, paid or back))
        elif pair.sale.state == "confirmed":
            yield from self._confirmed(pair, paid, back, named)
        elif pair.sale.state in _DECIDED_REVERSED:
            yield from self._reversed(pair, paid, back, named)
        elif pair.sale.state in _OPEN:
            yield named(
                "open_at_till",
                -net_minor,
                f"The till has not finished this sale ({pair.sale.state}): "
                f"{attempt.MEANING[pair.sale.state].next}.{_in_file(paid)}",
            )
        elif pair.sale.state == "review":
            yield named(
                "in_review",
                -net_minor,
                "The ledger did not accept the till's reversal; a person at the programme's "
                f"office has to look at it.{_in_file(paid)}",
            )
        elif (settled := paid or back) is not None:
            assert pair.sale.state == "refused"
            yield named(
                "paid_but_refused",
                -net_minor,
                f"The ledger refused this sale, yet {settled.where} settles it.",
            )

    def _confirmed(
        self, pair: _Pair, paid: _Line | None, back: _Line | None, named: _Named
    ) -> Iterator[Difference]:
        if paid is None:
            yield self._not_paid(pair, named)
        elif paid.line.amount_minor != pair.amount_minor:
            yield named(
                "amount_differs",
                pair.amount_minor - paid.line.amount_minor,
                f"The till's signed record says {_money(pair.amount_minor, pair)}, "
                f"{paid.where} says {_money(paid.line.amount_minor, pair)}.",
            )
        if back is not None:
            yield named(
                "reversed_in_settlement",
                -back.line.amount_minor,
                f"{back.where} takes this sale back, but the till's journal holds no reversal of "
                "it: is this journal an older copy?",
            )

    def _not_paid(self, pair: _Pair, named: _Named) -> Difference:
        posted = self._answer(pair, "redeem", "posted")
        if posted is None:
            return named(
                "missing_in_settlement",
                pair.amount_minor,
                "No file pays this sale, and the journal holds no signed confirmation of it.",
            )
        at, closed_at = posted.recorded_at, self._closed_at.get(pair.programme)
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
            return named(
                "missing_in_settlement",
                pair.amount_minor,
                f"{booked} by the ledger's signed confirmation, before the last close at "
                f"{clock.to_text(closed_at)}, yet no file pays it.",
            )
        return named("not_settled_yet", pair.amount_minor, why)

    def _reversed(
        self, pair: _Pair, paid: _Line | None, back: _Line | None, named: _Named
    ) -> Iterator[Difference]:
        if paid is None and back is None:
            return
        if paid is None or back is None:
            yield self._half_reversed(pair, paid, back, named)
        elif paid.line.amount_minor + back.line.amount_minor:
            rest = paid.line.amount_minor + back.line.amount_minor
            yield named(
                "amount_differs",
                -rest,
                f"{paid.where} pays {_money(paid.line.amount_minor, pair)}, {back.where} takes "
                f"back {_money(-back.line.amount_minor, pair)}.",
            )

    def _half_reversed(
        self, pair: _Pair, paid: _Line | None, back: _Line | None, named: _Named
    ) -> Difference:
        if paid is None:
            assert back is not None
            return named(
                "reversal_without_sale",
                -back.line.amount_minor,
                f"{back.where} takes back a sale that no file paid.",
            )
        effect = -paid.line.amount_minor
        undone = self._answer(pair, "reversal", "reversed")
        closed_at = self._closed_at[pair.programme]
        if undone is None:
            return named(
                "reversal_not_in_file",
                effect,
                f"{paid.where} pays a sale that the till reversed; the journal holds no signed "
                "answer to the reversal.",
            )
        at = undone.recorded_at
        if at > closed_at or closed_at - at < IN_FLIGHT:
            return named(
                "paid_but_reversed",
                effect,
                f"{paid.where} pays it; it was reversed {clock.to_text(at)}, the last close was at "
                f"{clock.to_text(closed_at)}: the next file takes it back.",
            )
        return named(
            "reversal_not_in_file",
            effect,
            f"{paid.where} pays it, and no file takes it back, though the ledger signed its "
            f"reversal {clock.to_text(at)}, before the last close at {clock.to_text(closed_at)}.",
        )

    def _answer(self, pair: _Pair, kind: Kind, result: str) -> Outcome | None:
        """The ledger's signed word on the sale's own record or its reversal, if the till has it."""
        assert pair.sale is not None
        journal = self._journals[pair.terminal, pair.incarnation]
        try:
            written = journal.record_of(pair.sale, kind)
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

    def _why_unknown(self, pair: _Pair, line: _Line | None) -> str:
        assert line is not None
        own = (pair.terminal, pair.incarnation)
        if own not in self._journals:
            return (
                f"{line.where} is of another journal of this till (incarnation "
                f"{pair.incarnation[:8]}…), which was not given."
            )
        if pair.sequence > self._last_sale[own]:
            return (
                f"{line.where} is number {pair.sequence}, but the last sale in the till's journal "
                f"is number {self._last_sale[own]}: is it an older copy?"
            )
        elsewhere = any(
            key[0] == (pair.terminal, pair.incarnation, pair.sequence) and found.sale is not None
            for key, found in self._same_place(pair)
        )
        if elsewhere:
            return f"{line.where} settles this sale under another programme or currency."
        return f"{line.where} is number {pair.sequence}, which is no sale in the till's journal."

    def _same_place(self, pair: _Pair) -> Iterator[tuple[tuple[Place, str, str], _Pair]]:
        place = (pair.terminal, pair.incarnation, pair.sequence)
        for programme, currency in self._sums:
            key = (place, programme, currency)
            if key in self._pairs:
                yield key, self._pairs[key]

    def _other_terminal(self, lines: Sequence[_Line]) -> Difference:
        first = lines[0]
        amount_minor = sum(each.line.amount_minor for each in lines)
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


_Named = Callable[[Cause, int, str], Difference]


def _namer(pair: _Pair) -> _Named:
    """Makes this place's differences: (cause, effect, sentence)."""
    lines = pair.redeems + pair.reversals
    receipt_no = lines[0].line.receipt_no if lines else None
    if pair.sale is not None:
        receipt_no = str(pair.sale.slip.get("receipt_no", receipt_no or "")) or None

    def named(cause: Cause, effect_minor: int, sentence: str) -> Difference:
        return Difference(
            cause,
            pair.terminal,
            pair.incarnation,
            pair.sequence,
            receipt_no,
            None if pair.sale is None else pair.sale.checkout,
            pair.programme,
            pair.currency,
            effect_minor,
            sentence,
        )

    return named


def _money(amount_minor: int, pair: _Pair) -> str:
    return f"{format_amount(amount_minor, pair.currency)} {pair.currency}"


def _in_file(paid: _Line | None) -> str:
    return "" if paid is None else f" {paid.where} pays it."


# ── for people ─────────────────────────────────────────────────────────────────────────────────


def _text(found: Reconciliation) -> Iterator[str]:
    yield "Reconciliation 对账"
    for terminal, incarnation in found.tills:
        yield f"  till 收银端 {terminal}, journal 日志 {incarnation[:8]}…"
    yield f"  settlement files 结算文件 {len(found.files)}"
    for sums in found.sums:
        yield ""
        yield f"{sums.programme} ({sums.currency})"
        yield from _sums_table(sums)
    explained = len(found.differences) - len(found.unexplained)
    yield ""
    yield (
        f"Agreed 相符 {found.matched} · explained 已说明 {explained} · "
        f"unexplained 待查 {len(found.unexplained)}"
    )
    for title, shown in (
        ("UNEXPLAINED 待查", found.unexplained),
        ("EXPLAINED 已说明", [each for each in found.differences if each.explained]),
    ):
        if shown:
            yield ""
            yield title
        for each in shown:
            amount = format_amount(each.effect_minor, each.currency)
            checkout = "" if each.checkout is None else f" · sale 单号 {each.checkout}"
            yield (
                f"  {each.receipt_no or each.terminal}{checkout} · {LABEL[each.cause]} "
                f"· {amount} {each.currency}"
            )
            yield f"    {each.sentence}"
    yield ""
    yield ("NOT RECONCILED 对账不平" if found.unexplained else "RECONCILED 对账完成，无待查差异")


def _sums_table(sums: Sums) -> Iterator[str]:
    rows = [
        ("till: confirmed 收银端已核销", sums.till_count, sums.till_minor),
        ("files: redeemed 结算核销", sums.redeemed_count, sums.redeemed_minor),
        ("files: reversed 结算撤销", sums.reversed_count, sums.reversed_minor),
    ]
    if sums.others_count:
        counted = "" if sums.others_counted else ", not compared 不比对"
        rows.append(
            (f"files: other tills 其他收银端{counted}", sums.others_count, sums.others_minor)
        )
    shown: list[tuple[str, str, str]] = [
        (label, str(count), format_amount(minor, sums.currency)) for label, count, minor in rows
    ]
    shown.append(("till − files 差额", "", format_amount(sums.difference_minor, sums.currency)))
    wide = max(text_width(label) for label, _, _ in shown)
    counts = max(len(count) for _, count, _ in shown)
    amounts = max(len(amount) for _, _, amount in shown)
    for label, count, amount in shown:
        yield f"  {label}{' ' * (wide - text_width(label))}  {count:>{counts}}  {amount:>{amounts}}"
