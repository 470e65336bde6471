"""Reconciliation: what the tills promised against what the settlement files pay.

`sides` lays them beside each other, `comparison` names each difference with its cause, and here
they are summed: the effects of all differences come to (till − files), to the last minor unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from carepos.comparison import Comparison, of_other_terminal
from carepos.differences import LABEL, Difference
from carepos.journal_view import JournalView
from carepos.keys import KeySet
from carepos.money import format_amount
from carepos.paper_text import text_width
from carepos.settlement import Batch
from carepos.sides import Sides, Sums


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What came out. `differences` are in the order of till and receipt number, those of tills
    whose journal was not given last."""

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


def reconcile(
    journals: Sequence[JournalView],
    batches: Sequence[Batch],
    keys: KeySet,
    *,
    every_terminal: bool = False,
) -> Reconciliation:
    """Compare tills' journals with settlement files; name each difference with its cause.

    `keys`: the ledger's, for the outcomes in the journals. `batches` were verified and in order
    (`read_folder`). `every_terminal`: lines of tills whose journal is not given are differences
    too. Raises Malformed when a journal is given twice or a record in it does not verify.
    """
    sides = Sides(journals, batches, keys, every_terminal=every_terminal)
    comparison = Comparison(sides, keys)
    differences: list[Difference] = []
    matched = 0
    for booking in sides.bookings():
        found = list(comparison.differences(booking))
        differences += found
        matched += not found
    differences += map(comparison.unplaced, sides.unplaced)
    if every_terminal:
        differences += (of_other_terminal(lines) for _, lines in sorted(sides.others.items()))
    sums = tuple(sides.sums[key] for key in sorted(sides.sums))
    _assert_explained(sums, differences)
    return Reconciliation(
        tuple(sorted(sides.journals)),
        tuple(batch.name for batch in batches),
        sums,
        tuple(differences),
        matched,
    )


def _assert_explained(sums: Iterable[Sums], differences: Iterable[Difference]) -> None:
    effects: dict[tuple[str, str], int] = {}
    for each in differences:
        key = each.programme, each.currency
        effects[key] = effects.get(key, 0) + each.effect_minor
    for of in sums:
        # A reconciliation that leaves a rest unnamed must not be shown to anybody.
        if effects.get((of.programme, of.currency), 0) != of.difference_minor:
            raise AssertionError(f"{of.programme}, {of.currency}: a rest has no cause")


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
        *(
            [("till: taken back 收银端已退回", sums.back_count, sums.back_minor)]
            if sums.back_count
            else []
        ),
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
