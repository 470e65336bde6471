"""A sale is taken back at the till, over real HTTP: void and refund, each exactly once.

The same till, ledger and proxy as of a redemption. The rule is the same too: the intent is durable
before anything leaves, and only a signed answer bound to it decides.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from carepos import (
    Correction,
    JournalClosed,
    Line,
    Malformed,
    NotDecided,
    Refused,
    ReturnedLine,
    Till,
    Unreachable,
    WrongState,
    jws,
    outcome,
    receipt,
    receipt_layout,
    slip,
)
from carepos.errors import JournalError
from carepos.outcome import VoucherState
from carepos.record import Record
from carepos.till import POINTS
from tests.faulty_proxy import Mode
from tests.sdk.test_journal import FailingDisk
from tests.stories.test_redemption import DEAFENING, LOSING, Crash, Shop, a_shop
from tests.world import MILK, PROGRAMME, Family, World, milk, world

REFUNDS = {"window_s": 14 * 86_400, "grace_s": 3 * 86_400}


def taking_refunds(made: World) -> World:
    made.families = 1_000
    made.ledger.programmes.put_programme({**PROGRAMME, "refunds": REFUNDS})
    return made


@pytest.fixture(scope="module")
def one_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A ledger on SQLite that many tills come to; each test has its own till."""
    with world(tmp_path_factory.mktemp("ledger")) as made:
        yield taking_refunds(made)


@pytest.fixture
def shop(one_ledger: World, tmp_path: Path) -> Iterator[Shop]:
    with a_shop(one_ledger, tmp_path / "till") as made:
        yield made


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[Shop]:
    """A new ledger, once on SQLite and once on PostgreSQL."""
    with world(tmp_path, database_url) as alone, a_shop(taking_refunds(alone), tmp_path / "t") as s:
        yield s


@pytest.fixture
def family(shop: Shop) -> Family:
    return shop.world.family(12_000)


def sold(shop: Shop, family: Family, *lines: Line, checkout: str = "S1") -> str:
    """A confirmed sale (three pieces of milk for 60.00 unless told): its receipt number."""
    sale = shop.redeem(family, *(lines or [milk(6_000, 3)]), checkout=checkout)
    assert sale.state == "confirmed", sale
    return sale.receipt_no


def void(till: Till, checkout: str = "S1", **more: Any) -> Correction:
    return till.void(checkout, **{"cashier": "c01", "reason": "wrong_goods", **more})


def refund(till: Till, receipt_no: str, *lines: tuple[int, int], **more: Any) -> Correction:
    return till.refund(
        receipt_no,
        [ReturnedLine(*line) for line in lines],
        **{"cashier": "c01", "reason": "returned", "approved_by": "c02", **more},
    )


def agrees(shop: Shop) -> bool:
    """Whether till and ledger hold the same of this till: every void and refund that the till calls
    posted was posted there once, and no other (INV-6)."""
    terminal, journal = shop.till.enrolment.terminal, shop.till.journal
    with shop.world.ledger.database.read() as connection:
        rows = connection.exec_driver_sql(
            f"SELECT kind, posting FROM postings WHERE terminal = '{terminal}' "
            "AND kind IN ('void', 'refund')"
        )
        there = {(kind, posting) for kind, posting in rows}
    here = [(u.kind, journal.record_at(u.sequence).digest) for u in journal.undos("posted")]
    assert journal.verify() == journal.sequence
    return there == set(here) and len(here) == len(there)


def undos_sent(shop: Shop) -> list[str]:
    """Digests of the voids and refunds that went out, in order."""
    read = [shop.read(item["record"]) for each in shop.proxy.sent for item in each.items()]
    return [found.digest for found in read if found.kind in ("void", "refund")]


# the way it should be


def test_a_sale_is_voided(either: Shop) -> None:
    """All of it is on the voucher again, the sale is voided and its checkout free; the slip says
    VOIDED under the sale's number, with the ledger's balances; the Z tells of it once."""
    number = sold(either, either.world.family(12_000))
    done = void(either.till, approved_by="c09")
    assert (done.kind, done.state, done.checkout) == ("void", "posted", "S1")
    assert (done.sale_receipt_no, done.amount_minor, done.currency) == (number, 6_000, "CNY")
    assert done.final and done.message("en") == "Taken back, the voucher has it again."
    assert either.balance() == 12_000 and agrees(either)
    assert either.till.status("S1").state == "voided"
    assert either.till.status("S1").message("en") == "VOIDED, the voucher has it back."
    job = either.till.journal.print_jobs(number)[-1]
    shown = receipt.from_json_object(job.slip)
    assert (shown.kind, shown.receipt_no, shown.approved_by) == ("VOIDED", number, "c09")
    assert [(b.before, b.after) for b in shown.balances] == [(6_000, 12_000)]
    assert void(either.till) == done and agrees(either)
    day = either.till.close_day()
    assert day.acknowledged and day.report.confirmed == 1
    assert [(s.count, s.amount_minor) for s in day.report.sums] == [(1, 6_000)]
    assert [(s.count, s.amount_minor) for s in day.report.undone] == [(1, 6_000)]
    sold(either, Family(either.world.family(9_000).sub, either.world))
    again = either.till.close_day()
    assert again.acknowledged and (again.report.confirmed, again.report.undone) == (1, ())


def test_a_sale_is_refunded_piece_by_piece(either: Shop) -> None:
    """Each piece once, with a number and slip of its own; together exactly what was paid, and then
    nothing is left."""
    family = either.world.family(12_000)
    number = sold(either, family, milk(1_000, 3))
    amounts, balances = [], []
    for n in range(3):
        done = refund(either.till, number, (1, 1), reference=f"R{n}")
        assert done.state == "posted" and done.sale_receipt_no == number != done.receipt_no
        amounts.append(done.amount_minor)
        (job,) = either.till.journal.print_jobs(done.receipt_no)
        shown = receipt.from_json_object(job.slip)
        assert (shown.kind, shown.sale_no, shown.approved_by) == ("REFUND", number, "c02")
        assert shown.lines[0].quantity == 1 and shown.programme_minor == done.amount_minor
        balances.append(shown.balances[0].after)
    assert amounts == [334, 333, 333] and either.balance() == 12_000 == balances[-1]
    wishes: list[Callable[[], object]] = [
        lambda: refund(either.till, number, (1, 1)),
        lambda: void(either.till),
    ]
    for wrong in wishes:
        with pytest.raises(Refused) as refused:
            wrong()
        assert refused.value.code == "already_undone"
    assert agrees(either) and either.till.status("S1").state == "confirmed"
    day = either.till.close_day()
    assert day.acknowledged
    assert [(s.count, s.amount_minor) for s in day.report.undone] == [(3, 1_000)]
    with pytest.raises(Malformed, match="another return"):
        refund(either.till, number, (1, 2), reference="R0")
    assert refund(either.till, number, (1, 1), reference="R0").amount_minor == 334


def test_what_the_shop_gives_back_itself(shop: Shop) -> None:
    """Of a fixed-price voucher the beneficiary's part comes back as it was paid; a broken portion
    does not come back, and the till knows before anything is written."""
    terms = {"unit": "piece", "cap_minor": 3_000, "fixed_minor": 500, "cap_quantity": 2}
    family = shop.world.family(0, kind="fixed_price", quantity=6, terms=terms, categories=["dairy"])
    number = sold(shop, family, milk(4_000, 4))
    sequence = shop.till.journal.sequence
    with pytest.raises(Refused) as refused:
        refund(shop.till, number, (1, 1))
    assert refused.value.code == "refund_not_whole" and shop.till.journal.sequence == sequence
    done = refund(shop.till, number, (1, 2))
    assert (done.state, done.amount_minor, done.beneficiary_minor) == ("posted", 1_500, 500)
    shown = receipt.from_json_object(shop.till.journal.print_jobs(done.receipt_no)[0].slip)
    assert (shown.programme_minor, shown.own_minor, shown.total_minor) == (1_500, 500, 2_000)
    assert [(b.before, b.after, b.unit) for b in shown.balances] == [(2, 4, "piece")]
    text = receipt_layout.render_text(shown, 42)
    assert "退货" in text and "退还自付" in text and "原单号" in text
    assert agrees(shop)


def test_a_receipts_qr_is_as_good_as_its_number(shop: Shop, family: Family) -> None:
    """The code in it tells this journal's sale from another's with the same number."""
    number = sold(shop, family)
    qr = shop.till.journal.print_jobs(number)[0].slip["qr_text"]
    found = shop.till.returnable(qr)
    assert (found.receipt_no, found.checkout, found.sold.refunded) == (number, "S1", {})
    assert found.descriptions == {1: "纯牛奶 250ml*24"} and found.sold.basket[0].key == MILK
    assert refund(shop.till, qr, (1, 1)).state == "posted"
    assert shop.till.returnable(number).sold.refunded == {1: 1}
    other = qr[:-16] + slip.receipt_code("A" * 43)
    with pytest.raises((Refused, Unreachable, NotDecided)):
        refund(shop.till, other, (1, 1))  # not this one: the ledger is asked
    for text in ("", "0001-000002-0", qr + "A", "CP1*x*CNY1*" + "A" * 16):
        with pytest.raises(Malformed):
            shop.till.returnable(text)


# before anything is written


def test_what_can_be_seen_here_is_refused_here(shop: Shop, family: Family) -> None:
    """Too late, already undone, more than is left, not booked: a coded refusal and no record."""
    number = sold(shop, family)
    sequence, sent = shop.till.journal.sequence, len(shop.proxy.sent)

    def code(wish: Callable[[], object]) -> str:
        with pytest.raises(Refused) as refused:
            wish()
        return refused.value.code

    assert code(lambda: refund(shop.till, number, (1, 4))) == "refund_exceeds"
    assert code(lambda: refund(shop.till, number, (2, 1))) == "refund_exceeds"
    now = shop.world.now()
    shop.till._corrector._now = lambda: now + timedelta(hours=1)
    assert code(lambda: void(shop.till)) == "void_too_late"
    shop.till._corrector._now = lambda: now + timedelta(days=14)
    assert code(lambda: refund(shop.till, number, (1, 1))) == "refund_too_late"
    shop.till._corrector._now = shop.world.now
    wishes: list[Callable[[], object]] = [
        lambda: void(shop.till, cashier="Zhang San"),
        lambda: refund(shop.till, number, (1, 0)),
        lambda: refund(shop.till, number),
        lambda: refund(shop.till, number, (1, 1), reason="because"),
    ]
    for wrong in wishes:
        with pytest.raises(Malformed):
            wrong()
    with pytest.raises(KeyError):
        void(shop.till, "never")
    with pytest.raises(KeyError):
        void(shop.till, receipt_no="0001-000099-0")
    assert (shop.till.journal.sequence, len(shop.proxy.sent)) == (sequence, sent)
    shop.proxy.fail("drop_before")
    offer = shop.offer(shop.world.family(12_000))
    unknown = shop.till.redeem(offer, checkout="S2", cashier="c01")
    assert unknown.state == "unknown"
    with pytest.raises(WrongState):
        void(shop.till, "S2")
    with pytest.raises(WrongState):
        refund(shop.till, unknown.receipt_no, (1, 1))
    assert shop.till.cancel("S2").state == "reversed"
    assert code(lambda: void(shop.till, "S2")) == "original_not_booked"
    assert code(lambda: refund(shop.till, unknown.receipt_no, (1, 1))) == "original_not_booked"
    assert void(shop.till).state == "posted"
    assert code(lambda: refund(shop.till, number, (1, 1))) == "already_undone"


def test_a_voided_checkout_may_be_voided_again_only_by_its_new_sale(
    shop: Shop, family: Family
) -> None:
    """A late double click about the first attempt finds the first void, not the second sale."""
    first = sold(shop, family)
    done = void(shop.till, receipt_no=first)
    second = sold(shop, family, milk(2_000))
    assert void(shop.till, receipt_no=first) == done
    assert shop.till.status("S1").state == "confirmed" and shop.balance() == 10_000
    assert void(shop.till, receipt_no=second).receipt_no != done.receipt_no
    assert shop.balance() == 12_000 and agrees(shop)


# answers that are none


@pytest.mark.parametrize("kind", ["void", "refund"])
@pytest.mark.parametrize("fault", [*LOSING, *DEAFENING, "stale_answer"])
def test_no_answer_leaves_it_waiting(shop: Shop, family: Family, fault: Mode, kind: str) -> None:
    """Whatever is not the ledger's signed word decides nothing; the same record is sent again and
    booked once, whether the first copy arrived or not. Until then no slip, and no second one."""
    number = sold(shop, family)
    shop.till.settle()
    slips = shop.till.journal.print_jobs()
    shop.proxy.fail(fault)

    def wish() -> Correction:
        return void(shop.till) if kind == "void" else refund(shop.till, number, (1, 3))

    begun = wish()
    assert (begun.state, begun.refusal) == ("waiting", None) and begun.problem, begun
    assert begun.message("en") == "Not taken back yet. Give nothing back."
    assert shop.till.status("S1").state == "confirmed"
    assert shop.till.journal.print_jobs() == slips
    sequence = shop.till.journal.sequence
    assert wish().receipt_no == begun.receipt_no and shop.till.journal.sequence == sequence
    with pytest.raises(WrongState):
        refund(shop.till, number, (1, 1))
    assert shop.balance() == (6_000 if fault in LOSING else 12_000)
    shop.till.settle()
    (done,) = shop.till.corrections()
    assert done.state == "posted" and done == shop.till.correction(begun.receipt_no)
    assert shop.balance() == 12_000 and agrees(shop)
    assert len(shop.till.journal.print_jobs()) == len(slips) + 1
    assert len(set(undos_sent(shop))) == 1
    shop.till.settle()
    assert len(shop.till.journal.print_jobs()) == len(slips) + 1


@pytest.mark.parametrize("wrong", ["amount", "voucher", "currency"])
@pytest.mark.parametrize("kind", ["void", "refund"])
def test_an_outcome_that_gives_back_something_else_is_not_believed(
    shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch, kind: str, wrong: str
) -> None:
    """Signed by the ledger and bound to the record, but not what the sale booked or the refund
    says: nothing is decided."""
    number = sold(shop, family)
    (entry,) = shop.till.journal.record_of(shop.till.journal.of_checkout("S1")[0]).redeem.allocation
    state = VoucherState(entry.voucher, 6_000, 0, None, 12_000, 0)
    changed = {
        "amount": ("CNY", VoucherState(entry.voucher, 5_999, 0, None, 12_000, 0)),
        "voucher": ("CNY", VoucherState("X" * 22, 6_000, 0, None, 12_000, 0)),
        "currency": ("JPY", state),
    }

    def answer(said: tuple[str, VoucherState]) -> Any:
        def send(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{"outcome": signed(shop.read(i["record"]), *said)} for i in items]

        return send

    def signed(of: Record, currency: str, back: VoucherState) -> str:
        more: dict[str, Any] = {}
        if of.kind in ("void", "refund"):
            more = {
                "currency": currency, "amount_minor": back.amount_minor, "vouchers": (back,),
            }  # fmt: skip
        body = outcome.payload("posted", of, recorded_at=shop.world.now(), epoch=1, **more)
        return outcome.sign(body, shop.world.ledger.keyring.signing)

    monkeypatch.setattr(shop.till._client, "send", answer(changed[wrong]))
    begun = void(shop.till) if kind == "void" else refund(shop.till, number, (1, 3))
    assert begun.state == "waiting" and "can't be trusted" in (begun.problem or "")
    assert shop.till.status("S1").state == "confirmed"
    monkeypatch.setattr(shop.till._client, "send", answer(("CNY", state)))
    shop.till.settle()
    assert shop.till.corrections()[0].state == "posted"


def test_it_waits_for_the_sales_before_it(shop: Shop, family: Family) -> None:
    """The ledger decides an undo when all before it is: the till says which sale has to end first;
    once it has, the undo goes through by itself."""
    sold(shop, family)
    other = shop.world.family(9_000)
    offer = shop.offer(other)
    shop.proxy.fail("drop_before")
    open_sale = shop.till.redeem(offer, checkout="S2", cashier="c01")
    assert open_sale.state == "unknown"
    begun = void(shop.till)
    assert begun.state == "waiting" and "sequence_gap" in (begun.problem or "")
    assert begun.waits_for == open_sale.receipt_no
    assert f"Sale {open_sale.receipt_no} has to end first." in begun.message("en")
    assert open_sale.receipt_no in begun.message("zh")
    assert shop.till.retry("S2").state == "confirmed"
    shop.till.settle()
    (done,) = shop.till.corrections()
    assert (done.state, done.waits_for) == ("posted", None) and agrees(shop)


def test_two_that_wait_go_up_in_order(shop: Shop, family: Family) -> None:
    """Written without a network, sent in one request in the order of their numbers."""
    numbers = [sold(shop, family, milk(1_000, 2), checkout=f"S{n}") for n in range(3)]
    shop.proxy.fail("drop_before", times=3)
    assert void(shop.till, "S0").state == "waiting"
    assert refund(shop.till, numbers[1], (1, 1)).state == "waiting"
    day = shop.till.close_day()
    assert not day.acknowledged and day.report.undone == ()
    shop.proxy.clear()
    sent = len(shop.proxy.sent)
    done = refund(shop.till, numbers[2], (1, 2))  # takes those before it along
    assert done.state == "posted" and len(shop.proxy.sent) == sent + 1
    assert [c.state for c in shop.till.corrections()] == ["posted"] * 3 and agrees(shop)
    assert shop.till.corrections(waiting=True) == []
    shop.till.settle()
    second = shop.till.close_day()
    assert second.acknowledged
    assert [(s.count, s.amount_minor) for s in second.report.undone] == [(3, 2_500)]
    assert shop.till.journal.outcomes_of(day.record.sequence)


def test_the_ledger_refuses_and_another_may_follow(shop: Shop, family: Family) -> None:
    """A signed no leaves the sale as it was, with its code; a refund may then be tried."""
    number = sold(shop, family)
    shop.world.now.forward(hours=2)
    early = shop.world.now() - timedelta(hours=2)
    shop.till.journal._now = shop.till._corrector._now = lambda: early
    done = void(shop.till)
    assert done.state == "refused" and done.refusal is not None
    assert done.refusal.code == "void_too_late" and "Make a refund" in done.message("en")
    assert shop.till.status("S1").state == "confirmed" and shop.balance() == 6_000
    slips = shop.till.journal.print_jobs()
    shop.till.journal._now = shop.till._corrector._now = shop.world.now
    assert refund(shop.till, number, (1, 3)).state == "posted"
    assert shop.balance() == 12_000 and agrees(shop)
    assert len(shop.till.journal.print_jobs()) == len(slips) + 1


def late(shop: Shop, begin: Callable[[], Correction]) -> Correction:
    """What is begun without a network and comes to the ledger when it is too late for it."""
    shop.proxy.fail("drop_before", times=9)
    begun = begin()
    assert begun.state == "waiting"
    shop.proxy.clear()
    shop.world.now.forward(days=20)
    shop.till.settle()
    return begun


@pytest.mark.parametrize("kind", ["void", "refund"])
def test_a_refusal_behind_the_cashiers_back_is_told_until_it_is_seen(
    either: Shop, kind: str
) -> None:
    """What waited and was refused later is not forgotten: the repeated call tells it and writes
    nothing, and only then may another be tried. Also after a restart."""
    number = sold(either, either.world.family(12_000))

    def begin() -> Correction:
        return void(either.till) if kind == "void" else refund(either.till, number, (1, 1))

    begun = late(either, begin)
    (told,) = either.till.corrections()
    assert (told.state, told.seen, told.receipt_no) == ("refused", False, begun.receipt_no)
    assert told.refusal is not None and told.refusal.sentence("zh") in told.message("zh")
    either.reopen()
    written = either.till.journal.sequence
    again = begin()
    assert (again.receipt_no, again.state, again.seen) == (begun.receipt_no, "refused", True)
    assert again.repeated and either.till.journal.sequence == written
    assert either.till.corrections()[0].seen
    with pytest.raises(Refused):  # another is tried, and is too late by the till's own rules
        begin()
    assert agrees(either)


def test_a_refusal_is_seen_when_somebody_says_so(shop: Shop, family: Family) -> None:
    """By its number, as often as they like; not while it waits, and of nothing else."""
    sold(shop, family)
    shop.proxy.fail("drop_before", times=9)
    begun = void(shop.till)
    with pytest.raises(WrongState):
        shop.till.seen(begun.receipt_no)
    shop.proxy.clear()
    shop.world.now.forward(hours=2)
    shop.till.settle()
    (unseen,) = shop.till.journal.unseen_undos()
    assert shop.till.seen(begun.receipt_no).seen and shop.till.seen(begun.receipt_no).seen
    assert shop.till.journal.unseen_undos() == []
    events = [event for event, _ in shop.till.journal.events_of_undo(unseen.id)]
    assert events.count("seen") == 1
    with pytest.raises(KeyError):
        shop.till.seen(shop.till.status("S1").receipt_no)


def test_what_is_refused_at_once_is_seen_at_once(shop: Shop, family: Family) -> None:
    """Who asked has the answer: it is not told again."""
    sold(shop, family)
    shop.world.now.forward(hours=2)
    early = shop.world.now() - timedelta(hours=2)
    shop.till.journal._now = shop.till._corrector._now = lambda: early
    assert void(shop.till).state == "refused"
    assert shop.till.corrections()[0].seen and shop.till.journal.unseen_undos() == []


def test_a_suspended_tills_void_waits(shop: Shop, family: Family) -> None:
    """A problem document decides nothing."""
    sold(shop, family)
    terminals, terminal = shop.world.ledger.terminals, shop.till.enrolment.terminal
    terminals.set_status(terminal, "suspended")
    begun = void(shop.till)
    assert begun.state == "waiting" and "terminal_suspended" in (begun.problem or "")
    terminals.set_status(terminal, "active")
    shop.till.settle()
    assert shop.till.corrections()[0].state == "posted" and agrees(shop)


def test_an_undo_that_waits_outlives_a_change_of_key(shop: Shop, family: Family) -> None:
    """Signed by the key before, sent after the change: what it signed at earlier numbers counts."""
    sold(shop, family)
    shop.proxy.fail("drop_before")
    assert void(shop.till).state == "waiting"
    before = shop.till.enrolment.key.kid
    assert not shop.till.change_key().changing and shop.till.enrolment.key.kid != before
    shop.till.settle()
    assert shop.till.corrections()[0].state == "posted" and agrees(shop)
    assert shop.till.close_day().acknowledged


def test_many_clicks_are_one_void(either: Shop) -> None:
    """From however many threads, beside the upkeep that sends what waits."""
    sold(either, either.world.family(12_000))
    found: list[Correction] = []
    clicks = [threading.Thread(target=lambda: found.append(void(either.till))) for _ in range(4)]
    clicks += [threading.Thread(target=either.till.settle) for _ in range(2)]
    for each in clicks:
        each.start()
    for each in clicks:
        each.join()
    assert {c.state for c in found} == {"posted"} and len({c.receipt_no for c in found}) == 1
    assert len(set(undos_sent(either))) == 1 and agrees(either) and either.balance() == 12_000


# another till's sale


def test_fg_7_a_sale_of_a_journal_that_is_gone_is_refunded(either: Shop) -> None:
    """What this till sold before its journal was made anew, or put back to an older copy, is found
    at the ledger like another till's; of which checkout it was nobody here knows any more."""
    number = sold(either, either.world.family(12_000))
    qr = either.till.journal.print_jobs(number)[0].slip["qr_text"]
    either.till.close()
    for file in either.folder.glob("journal.db*"):
        file.unlink()
    till = either.reopen()
    done = refund(till, qr, (1, 1))
    assert (done.state, done.checkout, done.sale_receipt_no) == ("posted", None, number)
    assert till.corrections() == [done] and till.settle() == []
    assert either.balance() == 8_000


def test_a_sale_of_another_till_is_refunded(either: Shop) -> None:
    """Found at the ledger by the number on its receipt; the till that sold it learns of that by
    asking too, once its own proposal was refused."""
    number = sold(either, either.world.family(12_000))
    qr = either.till.journal.print_jobs(number)[0].slip["qr_text"]
    with a_shop(either.world, either.folder.parent / "second") as second:
        second.till.refresh_pack()
        sequence = second.till.journal.sequence
        for receipt_no, lines, code in (
            ("0999-000001-4", (1, 1), "original_unknown"),
            (qr[:-16] + "A" * 16, (1, 1), "original_unknown"),
            (number, (1, 4), "refund_exceeds"),
        ):
            with pytest.raises(Refused) as refused:
                refund(second.till, receipt_no, lines)
            assert refused.value.code == code
        assert second.till.journal.sequence == sequence
        done = refund(second.till, qr, (1, 1), reference="R1")
        assert (done.state, done.checkout, done.amount_minor) == ("posted", None, 2_000)
        assert refund(second.till, number, (1, 1), reference="R1") == done
        assert agrees(second) and either.balance() == 8_000
        shown = receipt.from_json_object(second.till.journal.print_jobs()[0].slip)
        assert (shown.sale_no, shown.lines[0].description) == (number, MILK)
        assert [(b.label, b.before, b.after) for b in shown.balances] == [
            ("奶制品卡", 6_000, 8_000)
        ]
        second.proxy.fail("drop_after")
        assert refund(second.till, number, (1, 1), reference="R2").state == "waiting"
        second.reopen()
        second.till.settle()
        assert [c.state for c in second.till.corrections()] == ["posted"] * 2 and agrees(second)
    stale = refund(either.till, number, (1, 3))
    assert stale.state == "refused" and stale.refusal is not None
    assert stale.refusal.code == "refund_exceeds"
    assert either.till.returnable(number).sold.refunded == {1: 2}
    assert refund(either.till, number, (1, 1)).state == "posted"
    assert either.balance() == 12_000 and agrees(either)


def test_a_foreign_sale_without_a_signed_answer_is_nothing(shop: Shop, family: Family) -> None:
    """No network, a portal, half an answer, the answer to another question: nothing is written."""
    number, other = sold(shop, family, milk(1_000)), sold(shop, family, milk(2_000), checkout="S2")
    with a_shop(shop.world, shop.folder.parent / "second") as second:
        sequence = second.till.journal.sequence
        faults: tuple[Mode, ...] = ("drop_before", "html_200", "truncate", "redirect")
        for fault in faults:
            second.proxy.fail(fault, target="POST /v1/sales/find")
            with pytest.raises(Unreachable):
                refund(second.till, number, (1, 1))
        assert second.till.returnable(other).sold.basket[0].line_amount_minor == 2_000
        second.proxy.fail("stale_answer", target="POST /v1/sales/find")
        with pytest.raises(Unreachable, match="another question"):
            refund(second.till, number, (1, 1))
        assert second.till.journal.sequence == sequence


# a restart in the middle


def crash(shop: Shop, point: str, kind: str) -> None:
    def reached(name: str) -> None:
        if name == point:
            raise Crash

    number = shop.till.status("S1").receipt_no
    shop.reopen(reached=reached)
    with pytest.raises(Crash):
        _ = void(shop.till) if kind == "void" else refund(shop.till, number, (1, 3))


@pytest.mark.parametrize("kind", ["void", "refund"])
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_takes_back_once(
    shop: Shop, family: Family, point: str, kind: str
) -> None:
    """Wherever the till dies, the restart finds the intent and sends it; recovering three times is
    recovering once (INV-8), and till and ledger agree."""
    sold(shop, family)
    crash(shop, point, kind)
    booked = point in ("answer_read", "outcome_written")
    assert shop.balance() == (12_000 if booked else 6_000)
    shop.reopen()
    once = shop.till.corrections()
    shop.reopen()
    shop.reopen()
    assert shop.till.corrections() == once
    assert once[0].state == ("posted" if point == "outcome_written" else "waiting")
    shop.till.settle()
    (done,) = shop.till.corrections()
    assert done.state == "posted" and shop.balance() == 12_000 and agrees(shop)
    jobs = [j for j in shop.till.journal.print_jobs() if j.slip["kind"] in ("VOIDED", "REFUND")]
    assert len(jobs) == 1 and len(set(undos_sent(shop))) == 1
    assert shop.till.close_day().acknowledged


_TAKE_BACK = """
import os, signal, sys
from datetime import datetime
from carepos import ReturnedLine, Till

folder, point, at, kind, number = sys.argv[1:]

def reached(name):
    if name == point:
        os.kill(os.getpid(), signal.SIGKILL)

at = datetime.fromisoformat(at)
till = Till.open(folder, now=lambda: at, reached=reached)
if kind == "void":
    till.void("S1", cashier="c01", reason="other")
else:
    till.refund(number, [ReturnedLine(1, 3)], cashier="c01", reason="other")
"""


@pytest.mark.parametrize("kind", ["void", "refund"])
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_process_takes_back_once(
    shop: Shop, family: Family, point: str, kind: str
) -> None:
    """The same with a process that really dies."""
    number = sold(shop, family)
    shop.till.close()
    at = shop.world.now().isoformat()
    command = [sys.executable, "-c", textwrap.dedent(_TAKE_BACK), str(shop.folder), point, at]
    done = subprocess.run([*command, kind, number], check=False)
    assert done.returncode == -signal.SIGKILL
    shop.reopen()
    (found,) = shop.till.corrections()
    assert found.state == ("posted" if point == "outcome_written" else "waiting")
    shop.till.settle()
    (found,) = shop.till.corrections()
    assert found.state == "posted" and shop.balance() == 12_000 and agrees(shop)
    assert len(shop.till.journal.print_jobs()) == 2 and os.name == "posix"


def test_no_undo_leaves_without_a_durable_intent(shop: Shop, family: Family) -> None:
    """When the intent can't be written nothing goes out; when the outcome can't, nothing is printed
    and the restart sends it again."""
    sold(shop, family)
    sent = len(shop.proxy.sent)
    whole = shop.till.journal._db
    shop.till.journal._db = FailingDisk(whole, "COMMIT", after=False)  # type: ignore[assignment]
    with pytest.raises(JournalClosed):
        void(shop.till)
    shop.till.journal._db = whole
    assert len(shop.proxy.sent) == sent and shop.balance() == 6_000
    shop.reopen()
    assert shop.till.corrections() == []
    whole = shop.till.journal._db

    def reached(name: str) -> None:
        if name == "answer_read":
            failing: Any = FailingDisk(whole, "COMMIT", after=False)
            shop.till.journal._db = failing

    shop.till._reached = reached
    with pytest.raises(JournalError):
        void(shop.till)
    shop.till.journal._db = whole
    assert shop.balance() == 12_000 and len(shop.till.journal.print_jobs()) == 1
    shop.reopen()
    assert [c.state for c in shop.till.corrections()] == ["waiting"]
    shop.till.settle()
    assert [c.state for c in shop.till.corrections()] == ["posted"] and agrees(shop)


def test_a_void_stands_behind_its_signed_record(shop: Shop, family: Family) -> None:
    """INV-3 of an undo: the record in the journal, and the ledger's outcome bound to it."""
    sold(shop, family)
    void(shop.till)
    (undo,) = shop.till.journal.undos()
    written = shop.till.journal.record_at(undo.sequence)
    (text,) = shop.till.journal.outcomes_of(undo.sequence)
    payload = jws.verify(text, typ=jws.OUTCOME, keys=shop.till.enrolment.ledger_keys.keys).payload
    assert payload["record_sha256"] == written.digest and payload["result"] == "posted"
    assert (payload["kind"], written.kind, payload["amount_minor"]) == ("void", "void", 6_000)
