"""Voids and refunds in everything else that the ledger tells, keeps and forgets."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from carepos.record import Record
from carepos.undo import ReturnedLine
from carepos_ledger import held, schema
from carepos_ledger.book import Book
from carepos_ledger.disputes import Disputes
from carepos_ledger.erasure import Erasure
from carepos_ledger.holder_account import HolderAccounts
from carepos_ledger.person import Who
from carepos_ledger.problems import Problem
from carepos_ledger.retention import Retention
from carepos_ledger.settlement import Settlement
from carepos_ledger.uses import Uses
from tests.ledger.rig import (
    IMPORT_KEY_ID,
    ISSUER,
    PROGRAMME,
    RULES,
    Envelope,
    Holder,
    Rig,
    code,
)
from tests.ledger.test_undo import MEAL, expiring, goods, sold

DISPUTE_DAYS = 30


def who(holder: Holder) -> Who:
    return Who(ISSUER, holder.sub, None, None)


def account(rig: Rig, holder: Holder) -> Any:
    return HolderAccounts(rig.database, rig.now).read(holder.bucket, holder.beneficiary)


def sums(rig: Rig) -> Any:
    found = rig.office.programme_sums(PROGRAMME)
    assert found.differences == ()
    return found


# ── the feed ───────────────────────────────────────────────────────────────────────────────────


def test_a_void_and_a_refund_are_told(rig: Rig) -> None:
    """A void under the sale's number; a refund under its own, at the store that took it back; so
    much less as went back. A sale is told before its undo, also of the same moment."""
    till, far, holder = rig.signer(), rig.signer("zhou-far"), rig.holder()
    first, second = sold(rig, till, holder, 3_000), sold(rig, till, holder, 600)
    rig.send_one(far.start())
    rig.send_one(far.refund(first, (1, 1)))
    rig.send_one(till.void(second))
    told = [
        (use["kind"], use["receipt_no"][:11], use["store"], use["amount_minor"])
        for use in Uses(rig.database).after(0).uses
    ]
    assert sorted(told[:2]) == [
        ("redeem", "0001-000001", "zhou-shop", 3_000),
        ("redeem", "0001-000002", "zhou-shop", 600),
    ]
    assert told[2:] == [
        ("refund", "0002-000002", "zhou-far", -1_000),
        ("void", "0001-000002", "zhou-shop", -600),
    ]
    assert {use["sub"] for use in Uses(rig.database).after(0).uses} == {holder.sub}


# ── the holder's account ───────────────────────────────────────────────────────────────────────


def test_what_was_taken_back_stands_with_its_use(rig: Rig) -> None:
    """Voided: cancelled whole. Partly refunded: how much, where, under which number. Refunded to
    the last line: undone, but not cancelled. Used is what stands."""
    till, far, holder = rig.signer(), rig.signer("zhou-far"), rig.holder()
    voided, some, all_of_it = (sold(rig, till, holder, minor) for minor in (300, 3_000, 600))
    rig.send_one(till.void(voided))
    rig.send_one(far.refund(some, (1, 1)))
    rig.send_one(far.refund(all_of_it, (1, 1)))
    rig.now.forward(seconds=1)
    rig.send_one(far.refund(all_of_it, (1, 2), before={1: 1}))
    found = account(rig, holder)
    uses = {use.posting: use for use in found.uses}
    assert len(uses) == len(found.uses) == 3
    gone, partly, returned = (uses[sale.digest] for sale in (voided, some, all_of_it))
    assert (gone.is_undone, gone.is_cancelled, gone.back_minor) == (True, True, 300)
    assert (partly.is_undone, partly.is_cancelled, partly.back_minor) == (False, False, 1_000)
    assert (returned.is_undone, returned.is_cancelled) == (True, False)
    assert [back.amount_minor for back in returned.backs] == [200, 400]
    [back] = partly.refunds
    assert (back.store_name, back.receipt_no[:11]) == ("周家超市 忠诚店", "0002-000001")
    [voucher] = found.vouchers
    assert (voucher.issued, voucher.used, voucher.ended, voucher.left) == (
        12_000,
        2_000,
        0,
        10_000,
    )


def test_goods_come_back_as_goods(rig: Rig) -> None:
    """A voucher that counts goods shows goods, also where the beneficiary paid a part."""
    till = rig.signer()
    holder = rig.holder({"kind": "fixed_price", "quantity": 10, "terms": MEAL})
    sale = goods(rig, till, holder, MEAL, 3, 2_997, 3)
    rig.send_one(till.refund(sale, (1, 2)))
    [use], [voucher] = account(rig, holder).uses, account(rig, holder).vouchers
    [back] = use.backs
    assert (back.goods, back.amount_minor) == (((2, "piece"),), 1_998)
    assert (voucher.issued, voucher.used, voucher.left) == (10, 1, 9)


def test_what_ended_unused_is_not_called_used(rig: Rig) -> None:
    """A refund opened an expired voucher again: what it had held went to the programme."""
    till, holder = rig.signer(), expiring(rig)
    sale = sold(rig, till, holder, 6_000)
    rig.now.forward(days=4)
    rig.send_one(till.refund(sale, (1, 1)))
    [voucher] = account(rig, holder).vouchers
    shown = (voucher.issued, voucher.used, voucher.ended, voucher.left, voucher.state)
    assert shown == (12_000, 4_000, 6_000, 2_000, "good")
    rig.now.forward(days=3)
    assert account(rig, holder).vouchers[0].state == "over"


# ── disputes ───────────────────────────────────────────────────────────────────────────────────


def test_what_stands_of_a_sale_can_be_disputed(rig: Rig) -> None:
    """A part that came back leaves the rest in dispute, and the operator sees how much it is; of
    what was taken back whole there is nothing to say."""
    till, holder = rig.signer(), rig.holder()
    voided, some, all_of_it = (sold(rig, till, holder, minor) for minor in (300, 3_000, 600))
    rig.send_one(till.void(voided))
    rig.send_one(till.refund(some, (1, 1)))
    rig.send_one(till.refund(all_of_it, (1, 3)))
    disputes = Disputes(rig.database, rig.now)
    for gone in (voided, all_of_it):
        with pytest.raises(Problem, match="not_found"):
            disputes.open(holder.bucket, holder.beneficiary, gone.digest, "not_me")
    assert disputes.open(holder.bucket, holder.beneficiary, some.digest, "not_me") == "created"
    [row] = disputes.listed()
    assert (row["amount_minor"], row["returned_minor"], row["reversed"]) == (3_000, 1_000, False)
    rig.send_one(till.refund(some, (1, 2), before={1: 1}))
    [row] = disputes.listed()
    assert (row["returned_minor"], row["reversed"]) == (3_000, True)
    for row in rig.tables(["postings"])["postings"]:
        if row["kind"] == "refund":
            with pytest.raises(Problem, match="not_found"):
                disputes.open(holder.bucket, holder.beneficiary, row["posting"], "not_me")


# ── what a person is told, and how it goes ─────────────────────────────────────────────────────


def test_a_person_is_told_what_came_back(rig: Rig) -> None:
    """The export has the void and the refund as bookings, and which lines came back."""
    till, holder = rig.signer(), rig.holder()
    rig.now.forward(seconds=1)
    first, second = sold(rig, till, holder, 3_000), sold(rig, till, holder, 600)
    rig.now.forward(seconds=1)
    rig.send_one(till.void(second))
    rig.now.forward(seconds=1)
    rig.send_one(till.refund(first, (1, 2)))
    [voucher] = held.export(rig.database, who(holder), rig.now)["vouchers"]
    shown = [(each["kind"], each["moved"], each["returned"]) for each in voucher["history"]]
    assert shown[0] == ("issue", {"CNY": 12_000}, [])
    assert sorted(shown[1:3], key=str) == [
        ("redeem", {"CNY": -3_000}, []),
        ("redeem", {"CNY": -600}, []),
    ]
    assert shown[3:] == [
        ("void", {"CNY": 600}, []),
        ("refund", {"CNY": 2_000}, [{"line": 1, "quantity": 2}]),
    ]


def kept(rig: Rig) -> set[str]:
    with rig.database.read() as connection:
        return set(connection.scalars(select(schema.record_bytes.c.digest)))


def retain(rig: Rig) -> None:
    retention, bucket = Retention(rig.database, rig.now, DISPUTE_DAYS), 0
    while True:
        step = retention.step(bucket)
        if step.next_bucket is None:
            return
        bucket = step.next_bucket


def test_nothing_that_can_be_refunded_is_forgotten(rig: Rig) -> None:
    """A refund is judged by the sale's signed bytes: they stay as long as the programme takes
    refunds of it, also where that is longer than the dispute period; then they go."""
    window = 3 * DISPUTE_DAYS * 86_400
    rig.programmes.put_programme({**RULES, "refunds": {"window_s": window, "grace_s": 0}})
    till, holder = rig.signer(), rig.holder()
    sale, gone = sold(rig, till, holder), sold(rig, till, holder, 300)
    rig.send_one(till.void(gone))
    Settlement(rig.database, rig.keyring, rig.now).close()
    rig.now.forward(days=2 * DISPUTE_DAYS)
    retain(rig)
    assert kept(rig) == {sale.digest, gone.digest}  # the void's own served its purpose
    assert rig.send_one(till.refund(sale, (1, 1))).result == "posted"
    Settlement(rig.database, rig.keyring, rig.now).close()
    rig.now.forward(days=DISPUTE_DAYS)
    retain(rig)
    assert not kept(rig) & {sale.digest, gone.digest}
    longer = {"window_s": 2 * window, "grace_s": 0}
    rig.programmes.put_programme({**RULES, "refunds": longer})
    assert code(rig.send_one(till.refund(sale, (1, 1), before={1: 1}))) == "refund_too_late"
    assert code(rig.send_one(till.void(sale))) in ("already_undone", "void_too_late")


def test_what_came_back_is_known_as_long_as_the_sale(rig: Rig) -> None:
    """Retention takes no returned line and no number: the next refund of the sale is held against
    the ones before."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.send_one(till.refund(sale, (1, 2)))
    before = rig.tables(["returned_lines", "terminal_progress"])
    rig.now.forward(days=13)
    retain(rig)
    assert rig.tables(["returned_lines", "terminal_progress"]) == before
    assert (
        code(rig.send_one(till.refund(sale, (1, 2), lines=(ReturnedLine(1, 2),))))
        == "refund_exceeds"
    )


def test_the_proof_of_a_disputed_sale_and_of_its_undo_is_kept(rig: Rig) -> None:
    """Who looks into it needs both, until the answer is as old."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    refund = till.refund(sale, (1, 1))
    rig.send_one(refund)
    disputes = Disputes(rig.database, rig.now)
    disputes.open(holder.bucket, holder.beneficiary, sale.digest, "not_me")
    Settlement(rig.database, rig.keyring, rig.now).close()
    rig.now.forward(days=2 * DISPUTE_DAYS)
    retain(rig)
    assert kept(rig) >= {sale.digest, refund.digest}
    disputes.answer(disputes.listed()[0]["dispute"], "rejected", "checked", operator="anna")
    rig.now.forward(days=DISPUTE_DAYS + 1)
    retain(rig)
    retain(rig)
    assert not kept(rig) & {sale.digest, refund.digest}


def test_a_refund_after_an_erasure_leads_to_nobody(rig: Rig) -> None:
    """Through the erasure itself: the money goes to the programme, nobody is told of it, nothing is
    left on a voucher."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder)
    rig.send_one(till.refund(sale, (1, 1)))
    before = sums(rig)
    erased = Erasure(rig.database, rig.now).erase(who(holder), forfeit=True, operator="anna")
    assert erased.forfeited_minor == {PROGRAMME: 8_000}
    answer = rig.send_one(till.refund(sale, (1, 2), before={1: 1}))
    assert (answer.result, answer.amount_minor) == ("posted", 4_000)
    assert rig.balance(holder.voucher) == (0, 0, 0)
    after = sums(rig)
    assert (after.returned_minor, after.redeemed_minor) == (12_000, 0)
    assert after.unreserved_minor - before.unreserved_minor == 12_000
    assert Uses(rig.database).after(0).uses == []


# ── the programme's sums ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("grace_s", [0, 86_400])
def test_the_sums_hold_through_every_kind_of_undo(rig: Rig, grace_s: int) -> None:
    """Redeemed is what stands, returned what went back to the programme; INV-2 after each step."""
    rig.programmes.put_programme({**RULES, "refunds": {"window_s": 10**6, "grace_s": grace_s}})
    till, ending = rig.signer(), expiring(rig)
    eater = rig.holder(
        {"kind": "fixed_price", "quantity": 10, "terms": MEAL,
         "expires_at": "2026-11-25T00:00:00.000Z"},
    )  # fmt: skip
    milk, meals = sold(rig, till, ending), goods(rig, till, eater, MEAL, 4, 3_996, 4)
    voided = sold(rig, till, ending, 900)
    assert sums(rig).redeemed_minor == 6_000 + 3_996 + 900
    rig.send_one(till.void(voided))
    assert sums(rig).redeemed_minor == 6_000 + 3_996
    rig.send_one(till.refund(meals, (1, 1)))
    assert sums(rig).redeemed_minor == 6_000 + 2_997
    assert sums(rig).returned_minor == 0
    rig.now.forward(days=4)
    rig.send_one(till.refund(meals, (1, 1), before={1: 1}))
    rig.send_one(till.refund(milk, (1, 1)))
    found = sums(rig)
    assert found.redeemed_minor == 4_000 + 1_998
    assert found.returned_minor == (
        # What the two held when they ended, but for what the cap had saved, which what comes back
        # may need; without grace all of it, and what came back then.
        6_000 + (7 * 1_499 if grace_s else 10 * 1_499 - 2_997 + 2_000 + 999)
    )
    pieces = found.quantities["piece"]
    assert (pieces.issued, pieces.redeemed) == (10, 2)
    assert (pieces.returned, pieces.available) == ((7, 1) if grace_s else (8, 0))


# ── at once ────────────────────────────────────────────────────────────────────────────────────


def at_once(*works: Any) -> list[Any]:
    """What each returns, begun together; raises what one raised."""
    barrier, answers = threading.Barrier(len(works)), [None] * len(works)
    failed: list[BaseException] = []

    def run(n: int) -> None:
        barrier.wait()
        try:
            answers[n] = works[n]()
        except BaseException as error:  # noqa: BLE001  told below
            failed.append(error)

    threads = [threading.Thread(target=run, args=[n]) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return answers


def issue(rig: Rig, row: dict[str, Any]) -> str:
    [answer] = rig.office.issue(PROGRAMME, IMPORT_KEY_ID, [row])
    return answer.result


def until_decided(rig: Rig, record: Record) -> str:
    """As a till does it: sent again while the ledger only says that it is busy."""
    while True:
        [answer] = rig.send(record)
        if code(answer) not in ("in_flight", "try_again"):
            return code(answer)


@pytest.mark.parametrize("again", range(4))
def test_a_void_while_a_batch_is_closed(rig: Rig, again: int) -> None:
    """Whichever is first, what the batches pay is what the book owes."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder, 3_000 + again)
    settlement = Settlement(rig.database, rig.keyring, rig.now)
    word, _ = at_once(lambda: until_decided(rig, till.void(sale)), settlement.close)
    assert word in ("posted", "void_too_late")
    settlement.close()
    with rig.database.read() as connection:
        paid = connection.scalar(select(func.sum(schema.batch_shares.c.amount_minor)))
    assert paid == (0 if word == "posted" else 3_000 + again)


def test_a_void_that_was_decided_is_not_paid_by_the_close_that_waits(rig: Rig) -> None:
    """A batch closed between a void's decision and its commit has the sale; the next takes it
    back."""
    till, holder = rig.signer(), rig.holder()
    sale = sold(rig, till, holder, 3_000)
    settlement = Settlement(rig.database, rig.keyring, rig.now)
    void: Envelope = {"record": till.void(sale).jws}
    answer, closed = rig.before_commit(void, settlement.close)
    assert code(answer) == "posted"
    nets = [batch.net_minor for batch in (*closed, *settlement.close())]
    # SQLite has one writer: there the close waits, and has both.
    assert nets == ([0] if rig.database.is_sqlite else [3_000, -3_000])


@pytest.mark.parametrize("again", range(3))
def test_refunds_into_expired_vouchers_while_the_programme_issues(rig: Rig, again: int) -> None:
    """A refund that gives to the programme takes the voucher's row before the programme's, an issue
    and an erasure the programme's first: they wait for each other or are tried again, nothing is
    lost and nothing is twice."""
    rig.programmes.put_programme({**RULES, "refunds": {"window_s": 10**7, "grace_s": 0}})
    tills, holders = [rig.signer() for _ in range(4)], [expiring(rig) for _ in range(4)]
    sales = [sold(rig, t, h, 900) for t, h in zip(tills, holders, strict=True)]
    rig.now.forward(days=4 + again)
    start = sums(rig)
    refunds = [t.refund(sale, (1, 3)) for t, sale in zip(tills, sales, strict=True)]
    rows = [rig.row({}) for _ in range(3)]
    works = [lambda r=r: until_decided(rig, r) for r in refunds]
    words = at_once(*works, *[lambda row=row: issue(rig, row) for row in rows])
    assert words[:4] == ["posted"] * 4
    end = sums(rig)
    assert end.issued_minor - start.issued_minor == 3 * 12_000
    assert end.unreserved_minor - start.unreserved_minor == 4 * 12_000 - 3 * 12_000
    assert all(rig.balance(holder.voucher) == (0, 0, 0) for holder in holders)


@pytest.mark.parametrize("again", range(3))
def test_a_refund_while_its_holder_is_erased(rig: Rig, again: int) -> None:
    """Either the refund is first and what it gave back is forfeited with the rest, or it goes to
    the programme after: nothing stays on a voucher that nobody holds."""
    till, far, holder = rig.signer(), rig.signer("zhou-far"), expiring(rig)
    sale = sold(rig, till, holder, 900)
    if again == 2:
        rig.now.forward(days=4)  # the refund wants the programme's row as well
    erasure = Erasure(rig.database, rig.now)
    words = at_once(
        lambda: until_decided(rig, till.refund(sale, (1, 2))),
        lambda: until_decided(rig, far.refund(sale, (1, 1))),
        lambda: _erased(erasure, holder),
    )
    posted = words[:2].count("posted")
    assert set(words[:2]) <= {"posted", "proposal_changed"} and posted >= 1
    assert rig.balance(holder.voucher) == (0, 0, 0)
    found = sums(rig)
    assert (found.available_minor, found.saved_minor) == (0, 0)
    assert found.returned_minor + found.redeemed_minor == 12_000


def test_a_refund_and_an_erasure_that_wait_for_each_other(rig: Rig) -> None:
    """The refund holds the voucher and wants the programme's row, the erasure the other way round:
    the database ends one of them, which is tried again, and both are done."""
    rig.programmes.put_programme({**RULES, "refunds": {"window_s": 10**7, "grace_s": 0}})
    till, holder = rig.signer(), expiring(rig)
    sale = sold(rig, till, holder, 900)
    rig.now.forward(days=4)
    refund = till.refund(sale, (1, 3))
    looks = itertools.count(1)
    locked, go_on = threading.Event(), threading.Event()

    def now() -> datetime:
        if next(looks) == 2:  # the first is for the note; now the voucher is locked
            locked.set()
            assert go_on.wait(20)
        return rig.now()

    book = Book(rig.database, rig.keyring, now)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rig.send, refund, book=book)
        assert locked.wait(20)
        second = pool.submit(_erased, Erasure(rig.database, rig.now), holder)
        rig.until_it_waits(second)
        go_on.set()
        first.result()
        assert second.result() == "erased"
    assert until_decided(rig, refund) == "posted"
    assert rig.balance(holder.voucher) == (0, 0, 0)
    assert (sums(rig).returned_minor, sums(rig).redeemed_minor) == (12_000, 0)


def _erased(erasure: Erasure, holder: Holder) -> str:
    while True:
        try:
            erasure.erase(who(holder), forfeit=True, operator="anna")
        except Problem as problem:
            if problem.code != "try_again":
                raise
        else:
            return "erased"
