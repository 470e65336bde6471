"""Reconciliation: real journals, signed files, every planted difference named and summed up."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carepos import ids, jws, outcome, settlement, ticked_off
from carepos.basket import Entry, Line
from carepos.differences import EXPLAINED, LABEL, Difference
from carepos.errors import Malformed
from carepos.journal import Journal
from carepos.journal_view import Attempt, JournalView
from carepos.keys import KeySet, SigningKey, digest
from carepos.outcome import Outcome, VoucherState
from carepos.reconcile import Reconciliation, reconcile
from carepos.record import Record, Redeem
from carepos.refusals import Refusal
from carepos.settlement import Batch, LineKind, Manifest, SettlementLine, read_batch
from carepos.undo import Original, Refund, ReturnedLine, Void

LEDGER = SigningKey(b"L" * 32)
TILL = SigningKey(b"T" * 32)
LEDGER_KEYS = KeySet([LEDGER.public])
START = datetime(2026, 11, 22, 8, tzinfo=UTC)

Fate = Literal[
    "confirmed",
    "refused",
    "cancelled",  # reversed, and never posted
    "undone",  # posted, then reversed
    "filling",
    "reversing",
    "unknown",
    "goods_asked",
    "review",
]


@dataclass
class FakeClock:
    at: datetime = START

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Shop:
    """One till's journal, the ledger that answers it, and the bookings no batch holds yet."""

    journal: Journal
    clock: FakeClock
    waiting: dict[str, list[SettlementLine]] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)

    def sell(self, amount_minor: int, programme: str = "flood-dairy") -> Attempt:
        self.clock.at += timedelta(minutes=5)
        content = Redeem(
            checkout=f"S1-{self.journal.sequence}",
            cashier="c01",
            programme=programme,
            rules_version=1,
            currency="CNY",
            beneficiary="B" * 22,
            token_sha256=digest(b"a token"),
            basket=(Line("cat:rice-loose", 1, "piece", amount_minor),),
            allocation=(Entry(1, "V" * 22, 0, amount_minor, 0),),
        )
        attempt, _ = self.journal.write_intent(
            content,
            bucket=7,
            visit=None,
            slip=lambda written: {"receipt_no": ids.receipt_no(1, written.sequence)},
        )
        return attempt

    def sale(self, amount_minor: int, fate: Fate, programme: str = "flood-dairy") -> Attempt:
        """A sale that ends as `fate`; what the ledger booked of it waits for the next close."""
        sale = self.sell(amount_minor, programme)
        advance = self.journal.advance
        if fate == "refused":
            return advance(sale.id, "sale_refused", outcome=self.answer(sale, "refused"))
        if fate == "confirmed":
            self.book(sale)
            return advance(sale.id, "sale_posted", outcome=self.answer(sale, "posted"))
        if fate == "goods_asked":
            self.book(sale)
            advance(sale.id, "restart")
            return advance(sale.id, "sale_posted", outcome=self.answer(sale, "posted"))
        sale = advance(sale.id, "no_answer")
        if fate in ("undone", "review"):
            self.book(sale)
        if fate == "unknown":
            return sale
        if fate == "undone":
            return sale  # `undo` goes on, perhaps after a close
        sale = advance(sale.id, "reverse_chosen")
        if fate == "reversing":
            return sale
        if fate == "review":
            return advance(sale.id, "undo_refused", outcome=self.answer(sale, "refused", True))
        sale = advance(sale.id, "undo_reversed", outcome=self.answer(sale, "reversed", True))
        if fate == "filling":
            return sale
        return advance(sale.id, "sale_reversed", outcome=self.answer(sale, "reversed"))

    def undo(self, sale: Attempt) -> Attempt:
        """Reverse a sale that the ledger had posted."""
        self.clock.at += timedelta(minutes=5)
        advance = self.journal.advance
        advance(sale.id, "reverse_chosen")
        self.book(sale, undo=True)
        advance(sale.id, "undo_reversed", outcome=self.answer(sale, "reversed", True, booked=True))
        return advance(sale.id, "sale_reversed", outcome=self.answer(sale, "reversed"))

    def take_back(self, sale: Attempt, word: str, *, refund_minor: int | None = None) -> Record:
        """Void a sale, or refund so much of it, and what the ledger made of that: `posted`,
        `refused`, or nothing that came back (`waiting`)."""
        self.clock.at += timedelta(minutes=5)
        written = self.journal.record_of(sale)
        return self.take_back_of(written, "c01", word, refund_minor)

    def take_back_of(
        self, sale: Record, cashier: str, word: str, refund_minor: int | None
    ) -> Record:
        """As `take_back`, of a sale in whatever journal."""
        original = Original(sale.terminal, sale.id, sale.digest)
        content: Void | Refund = Void(original, cashier, None, "changed_mind")
        if refund_minor is not None:
            content = Refund(
                original, cashier, None, "returned", "CNY",
                (ReturnedLine(1, 1),), (Entry(1, "V" * 22, 0, refund_minor, 0),),
            )  # fmt: skip
        with self.journal._transaction():
            written = self.journal._append(content, ids.new_attempt_id(7, self.clock()))
        amount_minor = sale.redeem.programme_minor if refund_minor is None else refund_minor
        if word != "waiting":
            posted = word == "posted"
            body = outcome.payload(
                "posted" if posted else "refused",
                written,
                recorded_at=self.clock(),
                epoch=1,
                refusal=None if posted else Refusal("already_undone"),
                currency="CNY" if posted else None,
                amount_minor=amount_minor if posted else 0,
                vouchers=(VoucherState("V" * 22, amount_minor, 0, None, 0, 0),) if posted else (),
            )
            answer = outcome.read_bound(outcome.sign(body, LEDGER), written, keys=LEDGER_KEYS)
            self.journal.keep_outcome(written, answer)
        if word == "posted":
            of = sale if refund_minor is None else written
            self.waiting.setdefault(sale.redeem.programme, []).append(
                self.undo_line(of, "void" if refund_minor is None else "refund", amount_minor)
            )
        return written

    def undo_line(self, of: Record, kind: LineKind, amount_minor: int) -> SettlementLine:
        """A void's stands under its sale's number, a refund's under its own."""
        return SettlementLine(
            kind, 1, of.sequence, self.journal.incarnation, "t-1", "shop-1",
            self.clock(), self.clock(), -amount_minor, "CNY",
        )  # fmt: skip

    def answer(
        self, sale: Attempt, result: outcome.Result, undo: bool = False, *, booked: bool = False
    ) -> Outcome:
        """What the ledger signs about the sale's record, or its reversal; a reversal puts something
        back when the sale had been `booked`."""
        written: Record = self.journal.record_of(sale, "reversal" if undo else "redeem")
        moves = booked or result == "posted"
        state = VoucherState("V" * 22, sale.amount_minor, 0, None, 0, 0)
        body = outcome.payload(
            result,
            written,
            recorded_at=self.clock(),
            epoch=1,
            refusal=Refusal("voucher_expired") if result == "refused" else None,
            currency="CNY" if moves else None,
            amount_minor=sale.amount_minor if moves else 0,
            vouchers=(state,) if moves else (),
        )
        return outcome.read_bound(outcome.sign(body, LEDGER), written, keys=LEDGER_KEYS)

    def line(self, sale: Attempt, *, undo: bool = False, **changed: Any) -> SettlementLine:
        made = SettlementLine(
            kind="reversal" if undo else "redeem",
            terminal_no=1,
            sequence=sale.sequence,
            incarnation=self.journal.incarnation,
            terminal="t-1",
            store="shop-1",
            occurred_at=self.clock(),
            recorded_at=self.clock(),
            amount_minor=-sale.amount_minor if undo else sale.amount_minor,
            currency="CNY",
        )
        return replace(made, **changed)

    def book(self, sale: Attempt, *, undo: bool = False) -> None:
        self.waiting.setdefault(sale.programme, []).append(self.line(sale, undo=undo))

    def close(self) -> None:
        """Close every programme, after an hour in which nothing happened."""
        self.clock.at += timedelta(hours=1)
        for programme, lines in sorted(self.waiting.items()):
            if lines:
                self.batches.append(self.batch(lines, programme))
        self.waiting = {}
        self.clock.at += timedelta(hours=1)

    def batch(self, lines: list[SettlementLine], programme: str = "flood-dairy") -> Batch:
        earlier = [b for b in self.batches if b.manifest.programme == programme]
        data = settlement.render_csv(lines)
        redeemed, undone = settlement.totals(lines)
        manifest = Manifest(
            merchant="mart",
            programme=programme,
            currency="CNY",
            batch_no=len(earlier) + 1,
            closed_at=self.clock(),
            epoch=1,
            sha256=digest(data),
            length=len(data),
            rows=len(lines),
            redeemed=redeemed,
            reversed=undone,
            funders={"fund": redeemed.amount_minor + undone.amount_minor},
            previous=earlier[-1].digest
            if earlier
            else settlement.first_previous("mart", programme),
        )
        return read_batch(
            data, jws.sign(manifest.to_json(), typ=jws.MANIFEST, key=LEDGER), LEDGER_KEYS
        )

    def reconcile(self, **options: Any) -> Reconciliation:
        return reconcile([self.journal], self.batches, LEDGER_KEYS, **options)


@contextmanager
def a_shop(folder: Path) -> Iterator[Shop]:
    clock = FakeClock()
    with Journal.start(
        folder / "journal.db", key=TILL, terminal="t-1", software="test", now=clock
    ) as journal:
        yield Shop(journal, clock)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with a_shop(tmp_path) as made:
        yield made


def causes(found: Reconciliation) -> list[tuple[int, str, int]]:
    return [(each.sequence, each.cause, each.effect_minor) for each in found.differences]


def only(found: Reconciliation) -> Difference:
    assert len(found.differences) == 1
    return found.differences[0]


# ── what agrees ────────────────────────────────────────────────────────────────────────────────


def test_a_day_that_agrees(shop: Shop) -> None:
    """Confirmed, refused, cancelled and undone sales of a settled day leave no difference."""
    shop.sale(6000, "confirmed")
    shop.sale(700, "refused")
    shop.sale(80, "cancelled")
    shop.sale(9, "filling")
    shop.undo(shop.sale(1200, "undone"))
    shop.close()
    found = shop.reconcile()
    assert found.differences == () and found.matched == 5
    (sums,) = found.sums
    assert (sums.till_minor, sums.redeemed_minor, sums.reversed_minor) == (6000, 7200, -1200)
    assert sums.difference_minor == 0
    assert "RECONCILED" in found.to_text() and "NOT RECONCILED" not in found.to_text()


def test_nothing_at_all(shop: Shop) -> None:
    """A till that never sold and no files agree."""
    assert shop.reconcile().to_json()["unexplained"] == 0


# ── what time explains ─────────────────────────────────────────────────────────────────────────


def test_a_sale_after_the_last_close_waits_for_the_next(shop: Shop) -> None:
    """A sale booked after the last close is not settled yet, shown with both times."""
    shop.sale(6000, "confirmed")
    shop.close()
    late = shop.sale(500, "confirmed")
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("not_settled_yet", 500)
    assert difference.explained and difference.sequence == late.sequence
    assert "2026-11-22T10:10:00.000Z, after the last close at 2026-11-22T09:05:00.000Z" in (
        difference.sentence
    )
    shop.close()
    assert shop.reconcile().differences == ()


def test_a_sale_booked_while_the_batch_closed_is_no_reproach(shop: Shop) -> None:
    """Decided just before the close and committed after it: in the next file (FH-9)."""
    shop.sale(6000, "confirmed")
    shop.close()
    shop.clock.at += timedelta(hours=3)
    shop.sale(500, "confirmed")
    (line,) = shop.waiting.pop("flood-dairy")
    shop.clock.at += timedelta(seconds=59)
    shop.batches.append(shop.batch([shop.line(shop.sale(1, "confirmed"), recorded_at=START)]))
    early = replace(
        shop.batches[-1],
        manifest=replace(
            shop.batches[-1].manifest, closed_at=line.recorded_at + timedelta(seconds=59)
        ),
    )
    shop.batches[-1] = early
    assert [cause for _, cause, _ in causes(shop.reconcile())] == ["not_settled_yet"]
    shop.batches[-1] = replace(
        early, manifest=replace(early.manifest, closed_at=line.recorded_at + timedelta(seconds=60))
    )
    assert [cause for _, cause, _ in causes(shop.reconcile())] == ["missing_in_settlement"]


def test_a_reversal_after_the_close_comes_in_the_next_file(shop: Shop) -> None:
    """Paid in one file, reversed after it closed: the next file takes it back."""
    sale = shop.sale(6000, "undone")
    shop.close()
    shop.undo(sale)
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("paid_but_reversed", -6000)
    assert difference.explained
    shop.close()
    assert shop.reconcile().differences == ()


@pytest.mark.parametrize(
    ("fate", "effect_minor"),
    [("unknown", 0), ("reversing", 0), ("goods_asked", -6000)],
)
def test_an_open_sale_is_listed(shop: Shop, fate: Fate, effect_minor: int) -> None:
    """A sale that the till has not finished is listed, with the money a file pays for it."""
    shop.sale(6000, fate)
    shop.close()
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("open_at_till", effect_minor)
    assert difference.explained


def test_a_sale_in_review_is_not_explained(shop: Shop) -> None:
    """A reversal that the ledger refused is for a person to look at."""
    shop.sale(6000, "review")
    shop.close()
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("in_review", -6000)
    assert not difference.explained


def test_a_tick_explains_no_money(shop: Shop) -> None:
    """Ticked off, a sale that a file pays though the till has not sold it stays a difference."""
    sale = shop.sale(6000, "review")
    ticked_off.tick_off(shop.journal, sale, "they said it is fine", shop.clock())
    shop.close()
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("in_review", -6000)


def test_other_tills_lines_are_counted_and_differ_only_when_asked(shop: Shop) -> None:
    """Lines of tills that were not given are counted beside the sums; asked for, they differ."""
    sale = shop.sale(6000, "confirmed")
    for number, (kind, minor) in enumerate((("redeem", 500), ("reversal", -200)), 1):
        shop.waiting["flood-dairy"].append(
            shop.line(
                sale,
                kind=kind,
                terminal="t-2",
                terminal_no=2,
                sequence=number,
                amount_minor=minor,
            )
        )
    shop.close()
    (sums,) = shop.reconcile().sums
    assert shop.reconcile().differences == ()
    assert (sums.others_count, sums.others_minor, sums.difference_minor) == (2, 300, 0)
    asked = shop.reconcile(every_terminal=True)
    assert (only(asked).cause, only(asked).effect_minor) == ("other_terminal", -300)
    assert asked.sums[0].difference_minor == -300


# ── what nothing explains ──────────────────────────────────────────────────────────────────────


def test_a_signed_confirmation_is_evidence_for_a_missing_line(shop: Shop) -> None:
    """A sale booked before the close and paid by no file is missing; the proof is named."""
    shop.sale(6000, "confirmed")
    shop.sale(500, "confirmed")
    shop.waiting["flood-dairy"].pop(0)
    shop.close()
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("missing_in_settlement", 6000)
    assert "by the ledger's signed confirmation" in difference.sentence


def test_an_older_copy_of_the_journal_is_suspected(shop: Shop) -> None:
    """Lines with numbers after the journal's last sale ask whether the journal is an old copy."""
    sale = shop.sale(6000, "confirmed")
    shop.waiting["flood-dairy"].append(shop.line(sale, sequence=sale.sequence + 9))
    shop.close()
    difference = only(shop.reconcile())
    assert difference.cause == "not_in_journal" and "older copy" in difference.sentence
    assert difference.receipt_no == ids.receipt_no(1, sale.sequence + 9)


def test_another_journal_of_the_same_till_is_told_apart(shop: Shop) -> None:
    """A line of an earlier incarnation says so, and is not taken for this journal's number."""
    sale = shop.sale(6000, "confirmed")
    shop.waiting["flood-dairy"].append(shop.line(sale, incarnation="0" * 32))
    shop.close()
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("not_in_journal", -6000)
    assert "another journal of this till (incarnation 00000000…)" in difference.sentence


def test_a_sale_settled_under_another_programme_differs_in_both(shop: Shop) -> None:
    """Money paid by the wrong programme is missing in one and too much in the other."""
    sale = shop.sale(6000, "confirmed")
    shop.sale(1, "confirmed")
    shop.waiting["flood-dairy"].pop(0)
    shop.waiting["winter-fuel"] = [shop.line(sale)]
    shop.close()
    found = shop.reconcile()
    assert causes(found) == [
        (sale.sequence, "missing_in_settlement", 6000),
        (sale.sequence, "not_in_journal", -6000),
    ]
    assert "under another programme" in found.differences[1].sentence


def test_a_journal_given_twice_is_refused(shop: Shop) -> None:
    """Counting a till twice would invent a difference."""
    with pytest.raises(Malformed, match="given twice"):
        reconcile([shop.journal, shop.journal], [], LEDGER_KEYS)


def test_an_outcome_the_ledger_did_not_sign_proves_nothing(shop: Shop) -> None:
    """Without an outcome that verifies, a missing sale is not called booked."""
    shop.sale(6000, "confirmed")
    shop.waiting.clear()
    found = reconcile([shop.journal], [], KeySet([TILL.public]))
    assert "holds no signed confirmation" in only(found).sentence
    assert only(found).cause == "missing_in_settlement"


def test_a_journal_is_read_beside_a_running_till(tmp_path: Path) -> None:
    """The reader takes no lock: it sees what the till has written, while the till writes on."""
    with a_shop(tmp_path) as shop:
        shop.sale(6000, "confirmed")
        view = JournalView.open(tmp_path / "journal.db", KeySet([TILL.public]))
        try:
            shop.close()
            assert reconcile([view], shop.batches, LEDGER_KEYS).differences == ()
            shop.sale(500, "confirmed")
            assert only(reconcile([view], shop.batches, LEDGER_KEYS)).cause == "not_settled_yet"
        finally:
            view.close()


def test_every_cause_has_a_label_and_the_text_shows_all(shop: Shop) -> None:
    """Text and JSON carry each difference; the text names cause and amount for a clerk."""
    assert set(EXPLAINED) < set(LABEL)
    shop.sale(6000, "confirmed")
    shop.waiting["flood-dairy"][0] = replace(shop.waiting["flood-dairy"][0], amount_minor=5990)
    shop.close()
    found = shop.reconcile()
    text = found.to_text()
    assert "0001-000002-1 · sale 单号 S1-1 · amount differs 金额不符 · 0.10 CNY" in text
    assert "NOT RECONCILED 对账不平" in text
    shown = json.loads(json.dumps(found.to_json()))
    assert shown["unexplained"] == 1 and shown["differences"][0]["effect_minor"] == 10


@pytest.mark.parametrize("fate", ["unknown", "goods_asked"])
def test_an_open_sale_that_the_files_take_back_is_not_explained(shop: Shop, fate: Fate) -> None:
    """A reversal in the files that the till never wrote is not what an open sale explains."""
    sale = shop.sale(6000, fate)
    shop.waiting["flood-dairy"] = [shop.line(sale), shop.line(sale, undo=True)]
    shop.close()
    found = shop.reconcile()
    assert causes(found) == [
        (sale.sequence, "open_at_till", -6000),
        (sale.sequence, "reversed_in_settlement", 6000),
    ]
    assert "older copy" in found.unexplained[0].sentence


def test_a_reversal_on_its_way_may_be_in_the_files_already(shop: Shop) -> None:
    """A till that waits for the answer to its reversal is not reproached when a file has both."""
    sale = shop.sale(6000, "reversing")
    shop.waiting["flood-dairy"] = [shop.line(sale), shop.line(sale, undo=True)]
    shop.close()
    assert causes(shop.reconcile()) == [(sale.sequence, "open_at_till", 0)]


@pytest.mark.parametrize("fate", ["unknown", "goods_asked", "reversing", "review"])
def test_a_wrong_amount_is_named_whatever_became_of_the_sale(shop: Shop, fate: Fate) -> None:
    """That a sale is open or in review explains its amount in the file, and no cent more."""
    sale = shop.sale(6000, fate)
    shop.waiting["flood-dairy"] = [shop.line(sale, amount_minor=6001)]
    shop.close()
    other = "in_review" if fate == "review" else "open_at_till"
    assert causes(shop.reconcile()) == [
        (sale.sequence, "amount_differs", -1),
        (sale.sequence, other, -6000),
    ]


def test_a_wrong_amount_that_was_taken_back_whole_is_named(shop: Shop) -> None:
    """Paid and taken back with the same wrong amount: nothing is owed, and both lines are named."""
    sale = shop.sale(6000, "undone")
    shop.undo(sale)
    shop.waiting["flood-dairy"] = [
        shop.line(sale, amount_minor=6001),
        shop.line(sale, undo=True, amount_minor=-6001),
    ]
    shop.close()
    assert causes(shop.reconcile()) == [
        (sale.sequence, "amount_differs", -1),
        (sale.sequence, "amount_differs", 1),
    ]


def test_a_wrong_amount_waits_for_no_reversal(shop: Shop) -> None:
    """Paid with a wrong amount, reversed later: the next file explains the sale's amount only."""
    sale = shop.sale(6000, "undone")
    shop.waiting["flood-dairy"] = [shop.line(sale, amount_minor=6001)]
    shop.close()
    shop.undo(sale)
    assert causes(shop.reconcile()) == [
        (sale.sequence, "amount_differs", -1),
        (sale.sequence, "paid_but_reversed", -6000),
    ]


def test_what_was_never_booked_is_not_taken_back_by_a_next_file(shop: Shop) -> None:
    """The ledger signed that the reversal had nothing to put back, yet a file pays the sale: no
    file will take that back by itself."""
    shop.sale(1, "confirmed")
    sale = shop.sell(6000)
    shop.book(sale)
    shop.close()
    shop.journal.advance(sale.id, "no_answer")
    shop.journal.advance(sale.id, "reverse_chosen")
    undone = shop.answer(sale, "reversed", True)
    shop.journal.advance(sale.id, "undo_reversed", outcome=undone)
    difference = only(shop.reconcile())
    assert (difference.cause, difference.effect_minor) == ("reversal_not_in_file", -6000)
    assert "put back 0.00 CNY" in difference.sentence


# ── void and refund ────────────────────────────────────────────────────────────────────────────


def test_a_day_with_voids_and_refunds_agrees(shop: Shop) -> None:
    """A void is listed under its sale's number, a refund under its own; both count as taken
    back."""
    shop.take_back(shop.sale(6000, "confirmed"), "posted")
    sold = shop.sale(900, "confirmed")
    shop.take_back(sold, "posted", refund_minor=300)
    shop.close()
    shop.take_back(sold, "posted", refund_minor=600)
    shop.take_back(sold, "refused", refund_minor=600)
    shop.close()
    found = shop.reconcile()
    assert found.differences == ()
    (sums,) = found.sums
    assert (sums.till_minor, sums.back_count, sums.back_minor) == (6900, 3, -6900)
    assert (sums.redeemed_minor, sums.reversed_minor, sums.difference_minor) == (6900, -6900, 0)
    assert sums.to_json()["taken_back"] == {"count": 3, "amount_minor": -6900}
    assert "till: taken back 收银端已退回" in found.to_text()


def test_what_was_taken_back_after_the_close_comes_in_the_next_file(shop: Shop) -> None:
    """The order of events explains it, for a void and for a refund."""
    voided, sold = shop.sale(6000, "confirmed"), shop.sale(900, "confirmed")
    shop.close()
    shop.take_back(voided, "posted")
    refund = shop.take_back(sold, "posted", refund_minor=300)
    found = shop.reconcile()
    assert causes(found) == [
        (voided.sequence, "paid_but_reversed", -6000),
        (refund.sequence, "not_settled_yet", -300),
    ]
    assert not found.unexplained and found.differences[1].receipt_no == ids.receipt_no(
        1, refund.sequence
    )
    assert "its void was" in found.differences[0].sentence
    shop.close()
    assert shop.reconcile().differences == ()


def test_a_refund_of_another_tills_sale_is_placed_by_the_file(shop: Shop, tmp_path: Path) -> None:
    """Its record does not name the programme: the other till's journal or the file does. Until then
    it is told, in no sum; once a close should have had it, that is no longer explained."""
    (tmp_path / "other").mkdir()
    shop.sale(50, "confirmed")
    with Journal.start(
        tmp_path / "other" / "journal.db", key=SigningKey(b"U" * 32), terminal="t-2",
        software="test", now=shop.clock,
    ) as journal:  # fmt: skip
        other = Shop(journal, shop.clock)
        sale = other.sale(900, "confirmed")
        written = journal.record_of(sale)
        refund = shop.take_back_of(written, "c01", "posted", 400)
        (late,) = shop.reconcile().differences[1:]
        assert (late.cause, late.sequence, late.effect_minor) == (
            "not_settled_yet", refund.sequence, 0,
        )  # fmt: skip
        line = shop.waiting["flood-dairy"].pop()
        shop.close()
        lost = only(shop.reconcile())
        assert (lost.cause, lost.programme, lost.explained) == ("refund_not_in_file", "", False)
        both = reconcile([shop.journal, journal], shop.batches, LEDGER_KEYS)
        assert (refund.sequence, "refund_not_in_file", -400) in causes(both)
        shop.waiting = {"flood-dairy": [line]}
        shop.close()
        assert shop.reconcile().differences == ()


def test_an_answer_that_is_not_the_ledgers_takes_nothing_back(shop: Shop) -> None:
    """An outcome in the journal that the ledger did not sign leaves a refund waiting."""
    sold = shop.sale(900, "confirmed")
    shop.take_back(sold, "posted", refund_minor=300)
    shop.close()
    found = reconcile([shop.journal], shop.batches, KeySet([SigningKey(b"X" * 32).public]))
    assert [(each.cause, each.effect_minor) for each in found.differences] == [
        ("open_at_till", 300)
    ]


# What was taken back and how it ended, what was done to the lines, and the causes to be named at
# the sale's number and at the refund's own.
UNDO_PLANTS: dict[str, tuple[list[str], list[str]]] = {
    "void posted": ([], []),
    "void posted, undo dropped": (["reversal_not_in_file"], []),
    "void posted, sale dropped": (["reversal_without_sale"], []),
    "void posted, undo changed": (["amount_differs"], []),
    "void posted, undo twice": (["duplicate_line"], []),
    "void waiting": (["open_at_till"], []),
    "void waiting, undo filed": (["open_at_till"], []),
    "void waiting, sale dropped": (["missing_in_settlement", "open_at_till"], []),
    "void refused": ([], []),
    "void refused, undo filed": (["reversed_in_settlement"], []),
    "refund posted": ([], []),
    "refund posted, undo dropped": ([], ["refund_not_in_file"]),
    "refund posted, sale dropped": (["missing_in_settlement"], []),
    "refund posted, undo changed": ([], ["amount_differs"]),
    "refund posted, undo twice": ([], ["duplicate_line"]),
    "refund waiting": ([], ["open_at_till"]),
    "refund waiting, undo filed": ([], ["open_at_till"]),
    "refund refused": ([], []),
    "refund refused, undo filed": ([], ["refunded_in_settlement"]),
    "refund posted, nobody's": ([], ["not_in_journal"]),
}


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(UNDO_PLANTS)), st.integers(2, 10**6)),
        min_size=1,
        max_size=6,
    )
)
def test_every_planted_difference_of_an_undo_is_named(plants: list[tuple[str, int]]) -> None:
    """Voids and refunds that were posted, refused or wait, and whatever was done to their lines:
    exactly the planted causes, and their effects come to (till − files)."""
    with tempfile.TemporaryDirectory() as folder, a_shop(Path(folder)) as shop:
        expected: Counter[tuple[int, str]] = Counter()
        again: list[SettlementLine] = []
        back_minor = sold_minor = 0
        for name, amount_minor in plants:
            what, _, damage = name.partition(", ")
            kind, _, word = what.partition(" ")
            part = amount_minor if kind == "void" else max(1, amount_minor // 3)
            earlier = shop.waiting.pop("flood-dairy", [])
            sale = shop.sale(amount_minor, "confirmed")
            undo = shop.take_back(sale, word, refund_minor=None if kind == "void" else part)
            number = sale.sequence if kind == "void" else undo.sequence
            own = shop.waiting["flood-dairy"]
            sold_minor += amount_minor
            back_minor += part * (word == "posted")
            if damage == "undo filed":
                of = shop.journal.record_of(sale) if kind == "void" else undo
                own.append(shop.undo_line(of, "void" if kind == "void" else "refund", part))
            if damage == "undo dropped":
                own.pop()
            if damage == "sale dropped":
                own.pop(0)
            if damage == "undo changed":
                own[-1] = replace(own[-1], amount_minor=own[-1].amount_minor + 1)
            if damage == "undo twice":
                again.append(own[-1])
            if damage == "nobody's":
                number += 100_000
                own.append(replace(own[-1], sequence=number))
            at_sale, at_undo = UNDO_PLANTS[name]
            expected += Counter((sale.sequence, cause) for cause in at_sale)
            expected += Counter((number, cause) for cause in at_undo)
            shop.waiting["flood-dairy"] = earlier + own
        # So that there is a close in any case.
        other = SettlementLine(
            "redeem", 2, 1, "0" * 32, "t-2", "shop-2", START, START, 77, "CNY"
        )  # fmt: skip
        shop.waiting["flood-dairy"].append(other)
        shop.close()
        if again:
            shop.waiting["flood-dairy"] = again
            shop.close()
        found = shop.reconcile()
        assert Counter((each.sequence, each.cause) for each in found.differences) == expected
        (sums,) = found.sums
        assert (sums.till_minor, sums.back_minor) == (sold_minor, -back_minor)
        effects = sum(each.effect_minor for each in found.differences)
        assert effects == sums.difference_minor == sold_minor - back_minor - sums.files_minor
        assert len(found.to_text().splitlines()) >= 2 * len(found.differences)


# ── any journal, any differences ───────────────────────────────────────────────────────────────

# What a sale was, what was done to its lines, and the causes that must then be named.
PLANTS: dict[str, tuple[Fate, list[str]]] = {
    "confirmed": ("confirmed", []),
    "confirmed, line dropped": ("confirmed", ["missing_in_settlement"]),
    "confirmed, amount changed": ("confirmed", ["amount_differs"]),
    "confirmed, paid twice": ("confirmed", ["duplicate_line"]),
    "confirmed, amount changed and paid twice": ("confirmed", ["amount_differs", "duplicate_line"]),
    "confirmed, taken back": ("confirmed", ["reversed_in_settlement"]),
    "confirmed, taken back only": (
        "confirmed",
        ["missing_in_settlement", "reversed_in_settlement"],
    ),
    "refused": ("refused", []),
    "refused, paid": ("refused", ["paid_but_refused"]),
    "cancelled": ("cancelled", []),
    "cancelled, paid": ("cancelled", ["reversal_not_in_file"]),
    "undone": ("undone", []),
    "undone, reversal dropped": ("undone", ["reversal_not_in_file"]),
    "undone, sale dropped": ("undone", ["reversal_without_sale"]),
    "undone, taken back in part": ("undone", ["amount_differs"]),
    "undone, taken back twice": ("undone", ["duplicate_line"]),
    "unknown": ("unknown", ["open_at_till"]),
    "goods_asked": ("goods_asked", ["open_at_till"]),
    "review": ("review", ["in_review"]),
    "nobody's": ("unknown", ["open_at_till", "not_in_journal"]),
}


def plant(shop: Shop, name: str, amount_minor: int) -> tuple[Counter[tuple[int, str]], int]:
    """Sell and damage; the causes to be named by number, and the effect on (till − files)."""
    fate, expected = PLANTS[name]
    sale = shop.sale(amount_minor, fate)
    if fate == "undone":
        shop.undo(sale)
    lines = shop.waiting.setdefault("flood-dairy", [])
    own = [each for each in lines if each.sequence == sale.sequence]
    before = sum(each.amount_minor for each in own)
    rest = [each for each in lines if each.sequence != sale.sequence]
    second: list[SettlementLine] = []
    causes_at = Counter((sale.sequence, cause) for cause in expected)
    damage = name.partition(", ")[2]
    if "amount changed" in damage or damage == "taken back in part":
        own[-1] = replace(own[-1], amount_minor=own[-1].amount_minor + 1)
    if damage in ("line dropped", "sale dropped"):
        own.pop(0)
    if damage == "reversal dropped":
        own.pop()
    if damage == "paid":
        own = [shop.line(sale)]
    if damage == "taken back":
        own.append(shop.line(sale, undo=True))
    if damage == "taken back only":
        own = [shop.line(sale, undo=True)]
    if "twice" in damage:
        second = [own[-1]]
    if name == "nobody's":
        own = [shop.line(sale, sequence=sale.sequence + 100_000)]
        causes_at = Counter(
            {(sale.sequence, "open_at_till"): 1, (sale.sequence + 100_000, "not_in_journal"): 1}
        )
    shop.waiting["flood-dairy"] = rest + own
    shop.waiting.setdefault("again", []).extend(second)
    if fate == "goods_asked" or fate == "review":
        before = 0  # booked, but the till does not count it
    after = sum(each.amount_minor for each in own + second)
    return causes_at, before - after


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(PLANTS)), st.integers(2, 10**6), st.booleans()),
        max_size=8,
    )
)
def test_every_planted_difference_is_named_and_the_sums_are_explained(
    sales: list[tuple[str, int, bool]],
) -> None:
    """Whatever sales there were and whatever was done to their lines: exactly the planted causes
    are named, and their effects come to (till − files) to the last minor unit."""
    with tempfile.TemporaryDirectory() as folder, a_shop(Path(folder)) as shop:
        expected: Counter[tuple[int, str]] = Counter()
        effect_minor = 0
        again: list[SettlementLine] = []

        def close() -> None:
            again.extend(shop.waiting.pop("again", []))
            shop.close()

        for name, amount_minor, then_close in sales:
            planted, effect = plant(shop, name, amount_minor)
            expected += planted
            effect_minor += effect
            if then_close:
                close()
        close()
        # A later file repeats lines, and another till's line is there in any case.
        other = SettlementLine(
            "redeem", 2, 1, "0" * 32, "t-2", "shop-2", START, START, 77, "CNY"
        )  # fmt: skip
        shop.waiting["flood-dairy"] = [*again, other]
        shop.close()
        found = shop.reconcile()
        named = Counter((each.sequence, each.cause) for each in found.differences)
        assert named == expected
        assert sum(each.effect_minor for each in found.differences) == effect_minor
        confirmed = [a.amount_minor for a in shop.journal.attempts("confirmed")]
        lines = [line for batch in shop.batches for line in batch.lines if line.terminal == "t-1"]
        (sums,) = found.sums
        assert sums.till_minor == sum(confirmed)
        assert sums.files_minor == sum(line.amount_minor for line in lines)
        assert sums.difference_minor == effect_minor
        assert bool(found.unexplained) == bool({cause for _, cause in expected} - EXPLAINED)
        assert len(found.to_text().splitlines()) >= 2 * len(found.differences)
