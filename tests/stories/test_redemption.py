"""One redemption the whole way, over real HTTP, with everything that can go wrong on it.

A real till, a real ledger, and a proxy between them that drops, cuts, delays and forges. The rule
behind all of it: only an answer signed by the ledger and bound to the very record decides.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from carepos import (
    ClockSkew,
    EnrolmentFailed,
    JournalClosed,
    JournalLocked,
    Line,
    Malformed,
    NotDecided,
    Offer,
    Refused,
    Sale,
    Till,
    Unreachable,
    WrongState,
    jws,
    record,
    slip,
)
from carepos.keys import KeySet
from carepos.till import POINTS, Reached, pass_by
from tests.faulty_proxy import FaultyProxy, Mode, between
from tests.sdk.test_journal import FailingDisk
from tests.world import MILK, PROGRAMME, SOAP, Family, World, milk, world

LOSING: tuple[Mode, ...] = ("drop_before", "cut_request", "html_200", "redirect",
                            "redirect_to_nowhere", "hold")  # fmt: skip
"""Faults with which the ledger never sees the request."""
DEAFENING: tuple[Mode, ...] = (
    "drop_after", "truncate", "garble", "garble_status", "garble_encoding", "status_502_after",
    "html_200_after", "unsigned_403_after", "unsigned_problem_after", "unsigned_refusal_after",
    "empty_after",
)  # fmt: skip
"""Faults with which the ledger has booked it, and the till can't know."""


@dataclass
class Shop:
    """One till, its ledger, and the wire between them."""

    world: World
    proxy: FaultyProxy
    folder: Path
    till: Till
    before_minor: int

    def balance(self) -> int:
        """What the vouchers hold that were issued since this shop began."""
        return self.world.balance() - self.before_minor

    def reopen(self, *, reached: Reached = pass_by, answer_timeout_s: float = 20) -> Till:
        """Stop the till, as a crash would, and start it again."""
        self.till.close()
        self.till = Till.open(
            self.folder,
            now=self.world.now,
            reached=reached,
            answer_timeout_s=answer_timeout_s,
        )
        return self.till

    def goes_ahead(self, **by: float) -> None:
        """The till's clock, not the ledger's, goes ahead."""
        ahead = self.world.now() + timedelta(**by)
        self.till._now = self.till._scanner._now = lambda: ahead

    def offer(self, family: Family, *lines: Line) -> Offer:
        return self.till.propose(family.token(), lines or [milk(6_000)])

    def redeem(self, family: Family, *lines: Line, checkout: str = "S1") -> Sale:
        return self.till.redeem(self.offer(family, *lines), checkout=checkout, cashier="c01")

    def redeems_sent(self) -> list[tuple[str, bool]]:
        """(digest, with token) of each redeem record that went out, in order."""
        return [
            (found.digest, "token" in item)
            for each in self.proxy.sent
            for item in each.items()
            if (found := self.read(item["record"])).kind == "redeem"
        ]

    def kinds_sent(self) -> list[str]:
        return [self.read(i["record"]).kind for each in self.proxy.sent for i in each.items()]

    def read(self, text: str) -> record.Record:
        return record.read(text, keys=self.till.journal._keys)


@contextmanager
def a_shop(made: World, folder: Path) -> Iterator[Shop]:
    with between(made.url) as proxy:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        Till.enrol(folder, url=proxy.url, activation=code)
        till = Till.open(folder, now=made.now, answer_timeout_s=20)
        shop = Shop(made, proxy, folder, till, made.balance())
        try:
            yield shop
        finally:
            shop.till.close()


@pytest.fixture(scope="module")
def one_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A ledger on SQLite that many tills come to, as in life; each test has its own till."""
    with world(tmp_path_factory.mktemp("ledger")) as made:
        made.families = 1_000  # numbers of one length: a padded ref is another family's otherwise
        yield made


@pytest.fixture
def shop(one_ledger: World, tmp_path: Path) -> Iterator[Shop]:
    with a_shop(one_ledger, tmp_path / "till") as made:
        yield made


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[Shop]:
    """A new ledger, once on SQLite and once on PostgreSQL."""
    with world(tmp_path, database_url) as alone, a_shop(alone, tmp_path / "till") as made:
        yield made


@pytest.fixture
def family(shop: Shop) -> Family:
    return shop.world.family(12_000)


# the way it should be


def test_first_redemption(either: Shop) -> None:
    """Scan, offer, redeem: the voucher is less by it, and the ledger's balances are printed."""
    family = either.world.family(12_000)
    offer = either.offer(family, milk(6_490))
    assert offer.refusal is None and either.balance() == 12_000
    sale = either.till.redeem(offer, checkout="S1", cashier="c01")
    assert (sale.state, sale.amount_minor, sale.currency) == ("confirmed", 6_490, "CNY")
    assert sale.final and sale.message("en") == "REDEEMED" and sale.message() == "已核销"
    assert either.balance() == 5_510 == family_holds(either, family)
    (job,) = either.till.journal.print_jobs(queued=True)
    assert job.slip["balances"] == [
        {**job.slip["balances"][0], "before": 12_000, "after": 5_510}
    ]  # fmt: skip
    day = either.till.close_day()
    assert day.acknowledged and (day.report.confirmed, day.report.open) == (1, 0)
    assert [(s.count, s.amount_minor) for s in day.report.sums] == [(1, 6_490)]


def family_holds(shop: Shop, family: Family) -> int:
    return sum(v.available_minor for v in shop.till.scan(family.token()).vouchers)


def test_fa_7_a_double_click_is_one_redemption(either: Shop) -> None:
    """However often and from however many threads a sale is redeemed, it has one id."""
    family = either.world.family(12_000)
    offer = either.offer(family)
    sales: list[Sale] = []

    def click() -> None:
        sales.append(either.till.redeem(offer, checkout="S1", cashier="c01"))

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for each in clicks:
        each.start()
    for each in clicks:
        each.join()
    click()
    assert {sale.state for sale in sales} == {"confirmed"} and len(sales) == 5
    assert len({sale.receipt_no for sale in sales}) == 1 == len(either.redeems_sent())
    assert len(either.till.journal.of_checkout("S1")) == 1
    assert either.balance() == 6_000


def test_split_tender(shop: Shop) -> None:
    """What the voucher does not cover is left for another tender, with the reason."""
    family = shop.world.family(5_000)
    holder = shop.till.scan(family.token())
    offer = shop.till.propose(holder, [milk(6_490)], programme="flood-dairy")
    (line,) = offer.proposal.lines
    assert (line.rest_minor, line.reason) == (1_490, "balance_insufficient")
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").amount_minor == 5_000
    (job,) = shop.till.journal.print_jobs()
    assert job.slip["other_tender_minor"] == 1_490 and job.slip["programme_minor"] == 5_000
    assert shop.balance() == 0


def test_a_refused_basket_says_why_per_line(shop: Shop) -> None:
    """Nothing of the basket is covered: each line has its reason, and nothing is written."""
    family = shop.world.family(12_000, categories=["dairy"])
    rice = Line("cat:rice-loose", 500, "g", 300)
    soap = Line(SOAP, 1, "piece", 900)
    offer = shop.offer(family, soap, rice)
    reasons = [line.reason for line in offer.proposal.lines]
    assert reasons == ["not_in_product_list", "category_not_covered"]
    before = shop.till.journal.sequence
    with pytest.raises(Refused) as refused:
        shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert refused.value.code == "not_in_product_list"
    assert shop.till.journal.sequence == before and shop.balance() == 12_000
    with pytest.raises(KeyError):
        shop.till.status("S1")


def test_a_signed_refusal_takes_nothing_and_frees_the_sale(either: Shop) -> None:
    """What the ledger refuses is refused with its code; the same sale may then be tried again."""
    family = either.world.family(12_000)
    stale = either.offer(family, milk(9_000))
    assert either.redeem(family, milk(6_000), checkout="S1").state == "confirmed"
    sale = either.till.redeem(stale, checkout="S2", cashier="c01")
    assert sale.state == "refused" and sale.refusal is not None
    assert sale.refusal.code == "balance_insufficient"
    assert "Not enough left" in sale.message("en") and either.balance() == 6_000
    assert either.till.status("S2") == sale == either.till.retry("S2")
    again = either.redeem(family, milk(6_000), checkout="S2")
    assert again.state == "confirmed" and either.balance() == 0
    assert [a.state for a in either.till.journal.of_checkout("S2")] == ["refused", "confirmed"]


def test_a_mixed_up_call_is_an_error_of_ours(shop: Shop, family: Family) -> None:
    """Sales never seen, labels that are none, and events nobody asked for are said, not done."""
    with pytest.raises(KeyError):
        shop.till.retry("never")
    with pytest.raises(KeyError):
        shop.till.cancel("never")
    sale = shop.redeem(family)
    assert sale.state == "confirmed"
    with pytest.raises(WrongState):
        shop.till.cancel("S1")
    with pytest.raises(WrongState):
        shop.till.answer_goods("S1", handed_over=True)
    before = shop.till.journal.sequence
    for checkout, cashier in (("S 2", "c01"), ("S2", "Zhang San"), ("", "c"), ("S2", "x" * 41)):
        with pytest.raises(Malformed):
            shop.till.redeem(shop.offer(family), checkout=checkout, cashier=cashier)
    assert shop.till.journal.sequence == before


# answers that are none: FB-2 to FB-7, FB-14, FD-5, T-14


@pytest.mark.parametrize("fault", [*LOSING, *DEAFENING])
def test_no_answer_is_neither_yes_nor_no(shop: Shop, family: Family, fault: Mode) -> None:
    """FB-2 to FB-7, FB-14: what is not the ledger's signed word leaves the sale unknown; a retry
    finds the truth.

    The same record goes out again, so it is booked once, whether the first copy arrived or not.
    """
    shop.till.settle()
    shop.proxy.fail(fault)
    sale = shop.redeem(family)
    assert (sale.state, sale.refusal) == ("unknown", None) and sale.problem
    assert not sale.final and "Do not hand over goods" in sale.message("en")
    assert shop.till.journal.print_jobs() == []
    assert shop.balance() == (12_000 if fault in LOSING else 6_000)
    assert shop.till.retry("S1").state == "confirmed" == shop.till.retry("S1").state
    assert shop.balance() == 6_000 and len(shop.till.journal.print_jobs()) == 1
    sent = shop.redeems_sent()
    assert len({digest for digest, _ in sent}) == 1
    assert len(sent) == (2 if fault in LOSING else 1)
    assert shop.proxy.strangers == []


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "hold", "unsigned_403_after"])
def test_a_cancelled_sale_gives_everything_back(either: Shop, fault: Mode) -> None:
    """Unknown, then cancelled: reversed at the ledger, its number filled, the sale free again."""
    family = either.world.family(12_000)
    either.proxy.fail(fault)
    assert either.redeem(family).state == "unknown"
    sale = either.till.cancel("S1")
    assert sale.state == "reversed" and sale.final
    assert either.balance() == 12_000 and either.till.journal.print_jobs() == []
    again = either.redeem(family)
    assert again.state == "confirmed" and either.balance() == 6_000
    day = either.till.close_day()
    assert day.acknowledged, day.problem
    assert (day.report.confirmed, day.report.reversed, day.report.open) == (1, 1, 0)
    if fault == "hold":
        assert b'"results"' in either.proxy.deliver_held()
        assert either.balance() == 6_000


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "garble", "unsigned_403_after"])
def test_a_reversal_is_sent_until_it_is_decided(shop: Shop, family: Family, fault: Mode) -> None:
    """A reversal whose answer is lost stays `reversing`; nothing can make it a sale again."""
    shop.till.settle()  # so that only the reversal is left to be sent
    shop.proxy.fail("drop_after")
    assert shop.redeem(family).state == "unknown"
    shop.proxy.fail(fault, times=2)
    assert shop.till.cancel("S1").state == "reversing"
    written = shop.till.journal.sequence
    assert shop.till.cancel("S1").state == "reversing"  # a double click
    assert shop.till.journal.sequence == written
    assert shop.till.retry("S1").state == "reversing"
    assert [s.state for s in shop.till.settle()] == ["reversing"]
    shop.reopen()
    assert shop.till.status("S1").state == "reversing"
    assert [s.state for s in shop.till.settle()] == ["reversed"]
    assert shop.balance() == 12_000
    reversals = [k for k in shop.kinds_sent() if k == "reversal"]
    assert len(shop.till.journal.records("reversal")) == 1 < len(reversals)


@pytest.mark.parametrize("fault", ["drop_after", "garble", "html_200", "status_502_after"])
def test_the_number_of_a_reversed_sale_is_filled_in_the_end(
    shop: Shop, family: Family, fault: Mode
) -> None:
    """Filling the number is tried until it is answered; the sale is over for the cashier before."""
    shop.proxy.fail("drop_before")
    assert shop.redeem(family).state == "unknown"
    shop.proxy.fail("drop_before")
    assert shop.till.cancel("S1").state == "reversing"
    shop.proxy._due += [("POST /v1/records", fault)]
    passing = shop.proxy._fault

    def second_only(method: str, target: str) -> Mode | None:
        first_reversal = shop.kinds_sent()[-1:] != ["reversal"] or not _answered(shop)
        return None if first_reversal else passing(method, target)

    shop.proxy._fault = second_only  # type: ignore[method-assign]
    (sale,) = shop.till.settle()
    assert sale.state == "filling" and sale.message("en") == "Cancelled, nothing was taken."
    assert [s.state for s in shop.till.settle()] == ["reversed"]
    assert shop.redeems_sent()[-1][1] is False
    assert shop.balance() == 12_000 and shop.till.close_day().acknowledged


def _answered(shop: Shop) -> bool:
    return bool(shop.proxy.sent[-1].answer)


@pytest.mark.parametrize(
    "fault",
    ["drop_before", "truncate", "garble", "html_200", "unsigned_403_after", "redirect"],
)
def test_a_query_without_a_signed_answer_decides_nothing(
    shop: Shop, family: Family, fault: Mode
) -> None:
    """Asking is no safer than sending: nothing unsigned ends a sale, and nothing is sent on it."""
    shop.proxy.fail("drop_after")
    assert shop.redeem(family).state == "unknown"
    shop.proxy.fail(fault, target="GET /v1/records/")
    asked = shop.till.retry("S1")
    assert asked.state == "unknown" and asked.problem and len(shop.redeems_sent()) == 1
    assert shop.till.retry("S1").state == "confirmed"


@pytest.mark.parametrize("fault", [*LOSING, "drop_after", "truncate", "garble", "stale_answer"])
def test_a_scan_without_a_signed_answer_shows_nothing(
    shop: Shop, family: Family, fault: Mode
) -> None:
    """No balance is shown that the ledger did not sign for this question."""
    other = shop.world.family(99_000)
    shop.till.scan(other.token())
    shop.proxy.fail(fault, target="POST /v1/vouchers/lookup")
    with pytest.raises(Unreachable):
        shop.till.scan(family.token())
    assert family_holds(shop, family) == 12_000 and shop.proxy.strangers == []


def test_fb_7_an_unsigned_problem_at_the_lookup_is_only_shown(shop: Shop, family: Family) -> None:
    """A problem document refuses the scan; it is nobody's decision about a record."""
    shop.till.scan(family.token())
    shop.proxy.fail("unsigned_403_after", target="POST /v1/vouchers/lookup")
    with pytest.raises(NotDecided) as problem:
        shop.till.scan(family.token())
    assert problem.value.code == "terminal_revoked"


def test_fb_10_a_duplicated_request_is_one_redemption(shop: Shop, family: Family) -> None:
    """The ledger gets the record twice and books it once."""
    shop.proxy.fail("duplicate")
    assert shop.redeem(family).state == "confirmed" and shop.balance() == 6_000


@pytest.mark.parametrize("fault", ["silence", "drip"])
def test_fb_8_fb_12_an_answer_too_late_is_none(shop: Shop, family: Family, fault: Mode) -> None:
    """The connection stays open and nothing comes, or each byte in time and all of them too late:
    unknown after the client's limit."""
    offer = shop.offer(family)
    shop.till._client._transport._answer_timeout_s = 0.5
    shop.proxy.fail(fault)
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "unknown" and shop.proxy.sent[-1].played.wait(60)
    assert shop.balance() == 6_000
    shop.reopen()
    assert [s.state for s in shop.till.settle()] == ["goods_asked"]


def test_fb_13_another_requests_answer_is_not_believed(shop: Shop, family: Family) -> None:
    """A signed `posted` for the sale before is no answer for this one (T-14)."""
    shop.till.settle()
    assert shop.redeem(family, milk(1_000), checkout="S0").state == "confirmed"
    offer = shop.offer(family)
    shop.proxy.fail("stale_answer")
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "unknown" and "another record" in (sale.problem or "")
    assert shop.till.cancel("S1").state == "reversed" and shop.balance() == 11_000


def test_t_14_an_old_not_found_does_not_reverse(shop: Shop, family: Family) -> None:
    """A signed `not_found` answers one question: played again later it is nobody's answer.

    Not even about the same sale, which has been booked meanwhile by the copy that was held up.
    """
    shop.proxy.fail("hold", times=2)
    assert shop.redeem(family).state == "unknown"
    assert shop.till.retry("S1").state == "unknown"  # not_found was heard; sent again, held again
    assert b'"outcome"' in shop.proxy.deliver_held() and shop.balance() == 6_000
    shop.reopen()
    shop.proxy.fail("stale_answer", target="GET /v1/records/")
    (sale,) = shop.till.settle()
    assert sale.state == "interrupted" and "another question" in (sale.problem or "")
    assert [s.state for s in shop.till.settle()] == ["goods_asked"] and shop.balance() == 6_000


def test_fd_5_an_answer_under_an_unknown_key_is_not_believed(
    shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's words under a key that is not in its signed set decide nothing."""
    offer = shop.offer(family)
    monkeypatch.setattr(shop.till._word, "_keys", KeySet([]))
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "unknown" and "not known" in (sale.problem or "")
    assert shop.till.retry("S1").state == "unknown"
    monkeypatch.undo()
    assert shop.till.retry("S1").state == "confirmed"


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1", "http://nowhere.invalid:80", "https", "http://127.0.0.1:99999", "x:/"],
)
def test_fb_1_no_way_to_the_ledger(shop: Shop, family: Family, url: str) -> None:
    """Refused, no such name, TLS that is none, no address: unknown, never OK, no exception."""
    offer = shop.offer(family)
    there = shop.till._client._transport.url
    shop.till._client._transport.url = there.replace("http", "https") if url == "https" else url
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "unknown" and shop.balance() == 12_000
    assert shop.till.retry("S1").state == "unknown"
    assert shop.till.cancel("S1").state == "reversing"
    with pytest.raises(Unreachable):
        shop.till.scan(family.token())
    assert not shop.till.close_day().acknowledged
    shop.till._client._transport.url = there
    shop.till.settle()
    assert shop.till.status("S1").state == "reversed"
    assert shop.till.close_day().acknowledged and shop.balance() == 12_000


def test_fb_9_a_late_first_copy_changes_nothing(shop: Shop, family: Family) -> None:
    """The copy that was held up arrives after the retry was confirmed: booked once."""
    shop.proxy.fail("hold")
    assert shop.redeem(family).state == "unknown"
    assert shop.till.retry("S1").state == "confirmed"
    assert b'"outcome"' in shop.proxy.deliver_held() and shop.balance() == 6_000


# a restart in the middle: FA-4, FD-1, FD-3, INV-8


def test_fa_4_an_open_sale_the_ledger_never_saw_is_reversed(either: Shop) -> None:
    """After a restart: asked, signed not_found, reversed. It is never sent again as a sale."""
    family = either.world.family(12_000)
    crash(either, family, "intent_written")
    sent_before = len(either.proxy.seen)
    till = either.reopen()
    assert till.status("S1").state == "interrupted"
    assert [s.state for s in till.settle()] == ["reversed"]
    assert till.settle() == [] and either.balance() == 12_000
    later = either.kinds_sent()
    assert later.index("reversal") < later.index("redeem")
    assert either.redeems_sent() == [(either.redeems_sent()[0][0], False)]
    assert any(s.method == "GET" for s in either.proxy.seen[sent_before:])
    assert either.redeem(family).state == "confirmed" and either.balance() == 6_000
    assert till.close_day().acknowledged


@pytest.mark.parametrize("handed_over", [True, False])
def test_fd_1_a_booked_sale_is_asked_about(either: Shop, handed_over: bool) -> None:
    """After a restart a posted sale waits for the cashier: goods gone, confirmed; else reversed."""
    family = either.world.family(12_000)
    crash(either, family, "answer_read")
    till = either.reopen()
    assert [s.state for s in till.settle()] == ["goods_asked"]
    assert [s.state for s in till.settle()] == ["goods_asked"] and till.journal.print_jobs() == []
    with pytest.raises(WrongState):
        till.cancel("S1")
    assert till.redeem(either.offer(family), checkout="S1", cashier="c01").state == "goods_asked"
    sale = till.answer_goods("S1", handed_over=handed_over)
    assert sale.state == ("confirmed" if handed_over else "reversed")
    assert either.balance() == (6_000 if handed_over else 12_000)
    assert len(till.journal.print_jobs()) == handed_over
    assert till.close_day().acknowledged


def test_the_receipt_after_the_question_has_the_ledgers_balances(shop: Shop) -> None:
    """A sale confirmed by the cashier prints what the ledger said, not what the scan had said."""
    family = shop.world.family(12_000)
    early = shop.offer(family)
    assert shop.redeem(family, milk(3_000), checkout="S0").state == "confirmed"
    shop.proxy.fail("drop_after")
    assert shop.till.redeem(early, checkout="S1", cashier="c01").state == "unknown"
    till = shop.reopen()
    till.settle()
    assert till.answer_goods("S1", handed_over=True).state == "confirmed"
    balance = till.journal.print_jobs()[-1].slip["balances"][0]
    assert (balance["before"], balance["after"]) == (9_000, 3_000)


class Crash(BaseException):
    """The process ends here."""


def crash(shop: Shop, family: Family, point: str) -> None:
    """Redeem, and die at `point`."""

    def reached(name: str) -> None:
        if name == point:
            raise Crash

    shop.reopen(reached=reached)
    offer = shop.offer(family)
    with pytest.raises(Crash):
        shop.till.redeem(offer, checkout="S1", cashier="c01")


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_ends_by_the_rules(shop: Shop, family: Family, point: str) -> None:
    """FD-3, FA-4: wherever the till dies, after the restart it finds what is true and takes nothing
    twice."""
    crash(shop, family, point)
    booked = point in ("answer_read", "outcome_written")
    assert shop.balance() == (6_000 if booked else 12_000)
    till = shop.reopen()
    if point == "outcome_written":  # FD-3: it was confirmed, and is shown so
        assert till.status("S1").state == "confirmed" and till.settle() == []
        assert len(till.journal.print_jobs(queued=True)) == 1
        return
    assert till.status("S1").state == "interrupted"
    (sale,) = till.settle()
    assert sale.state == ("goods_asked" if booked else "reversed")
    assert shop.redeems_sent()[1:] == [] or not booked
    assert till.journal.verify() == till.journal.sequence


@pytest.mark.parametrize("point", POINTS)
def test_inv_8_recovering_twice_is_recovering_once(shop: Shop, family: Family, point: str) -> None:
    """Restarted three times before the network is back: the same as once."""
    crash(shop, family, point)
    shop.reopen()
    once = shop.till.status("S1")
    shop.reopen()
    shop.reopen()
    assert shop.till.status("S1") == once
    shop.till.settle()
    settled = shop.till.status("S1")
    shop.reopen()
    shop.till.settle()
    assert shop.till.status("S1") == settled


def test_an_interrupted_sale_can_be_cancelled_without_a_network(shop: Shop, family: Family) -> None:
    """Wait or reverse: the cashier may choose to reverse before anybody could be asked."""
    crash(shop, family, "before_send")
    till = shop.reopen()
    shop.proxy.fail("drop_before", times=3)
    assert till.cancel("S1").state == "reversing"
    shop.proxy.clear()
    assert [s.state for s in till.settle()] == ["reversed"] and shop.balance() == 12_000


# the journal in the way: FA-3, FD-2, FA-6


def test_fa_3_no_request_leaves_without_a_durable_intent(shop: Shop, family: Family) -> None:
    """When the intent can't be written the sale is refused and nothing goes out."""
    offer = shop.offer(family)
    before = len(shop.proxy.sent)
    whole = shop.till.journal._db
    shop.till.journal._db = FailingDisk(whole, "COMMIT", after=True)  # type: ignore[assignment]
    with pytest.raises(JournalClosed):
        shop.till.redeem(offer, checkout="S1", cashier="c01")
    shop.till.journal._db = whole
    with pytest.raises(JournalClosed):
        shop.till.redeem(offer, checkout="S2", cashier="c01")
    assert len(shop.proxy.sent) == before and shop.balance() == 12_000
    till = shop.reopen()  # the record reappeared: it takes the path of FA-4
    assert [s.state for s in till.settle()] == ["reversed"]


def test_fd_2_no_receipt_without_a_durable_outcome(shop: Shop, family: Family) -> None:
    """When CONFIRMED can't be written, nothing is confirmed or printed; a restart asks."""
    offer = shop.offer(family)
    whole = shop.till.journal._db

    def reached(name: str) -> None:
        if name == "answer_read":
            failing: Any = FailingDisk(whole, "COMMIT", after=False)
            shop.till.journal._db = failing

    shop.till._reached = reached
    with pytest.raises(JournalClosed):
        shop.till.redeem(offer, checkout="S1", cashier="c01")
    shop.till.journal._db = whole
    assert shop.till.status("S1").state == "open" and shop.till.journal.print_jobs() == []
    till = shop.reopen()
    assert [s.state for s in till.settle()] == ["goods_asked"]


def test_fa_6_a_till_runs_once(shop: Shop) -> None:
    """The same folder can't be opened as a till a second time."""
    with pytest.raises(JournalLocked):
        Till.open(shop.folder)


# the day, the pack, enrolment


def test_the_day_closes_without_a_network_and_goes_up_later(shop: Shop, family: Family) -> None:
    """A Z is written whatever the network does; missing numbers are filled, then it is taken."""
    assert shop.redeem(family, milk(1_000), checkout="S0").state == "confirmed"
    shop.proxy.fail("drop_before", times=50)
    offer_lost(shop, family)
    day = shop.till.close_day("2026-11-22")
    assert not day.acknowledged and day.problem
    assert (day.report.confirmed, day.report.open) == (1, 1)
    shop.proxy.clear()
    shop.till.settle()
    assert shop.till.cancel("S1").state == "reversed"
    shop.till.settle()
    assert shop.till.journal.outcomes_of(day.record.sequence)
    second = shop.till.close_day()
    assert second.acknowledged and second.report.z_no == 2
    assert second.report.from_sequence == day.record.sequence + 1


def offer_lost(shop: Shop, family: Family) -> None:
    offer = shop.offer(family)
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"


def test_a_gap_is_named_and_filled(shop: Shop, family: Family) -> None:
    """A Z behind a number that never arrived is not decided: `sequence_gap`, then it is filled."""
    shop.proxy.fail("drop_before")
    offer_lost(shop, family)
    shop.till.journal.write_day_report(
        lambda last: record.DayReport(1, "2026-11-22", 1, last, 0, 0, 0, 1, ())
    )
    shop.till._outbox.forward_plain()
    assert "sequence_gap" in (shop.till._outbox.forward_plain() or "")
    assert shop.till.cancel("S1").state == "reversed"
    assert shop.till._outbox.forward_plain() is None


def test_the_pack_held_survives_a_bad_one(shop: Shop, family: Family) -> None:
    """A pack that does not verify is not taken; a half-written one is fetched anew."""
    shop.till.scan(family.token())
    held = shop.till.held_pack
    for fault in ("garble", "truncate", "html_200"):
        shop.proxy.fail(fault, target="POST /v1/offline-pack")
        with pytest.raises(Unreachable):
            shop.till.refresh_pack()
        assert shop.till.held_pack is held
    assert held is not None and shop.till.refresh_pack().sha256 == held.sha256
    kept = shop.reopen().held_pack
    assert kept is not None and kept.sha256 == held.sha256
    [file] = shop.folder.glob("pack-*.json")
    file.write_bytes(b"{}")
    assert shop.reopen().held_pack is None
    assert family_holds(shop, family) == 12_000
    again = shop.till.held_pack
    assert again is not None and again.sha256 == held.sha256


def test_a_second_enrolment_with_the_same_code_is_harmless(tmp_path: Path) -> None:
    """The answer to an enrolment is lost: the same code and key get the same certificate.

    Another key does not get in with it, and an enrolled folder is left alone.
    """
    with world(tmp_path) as made, between(made.url) as proxy:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        folder = tmp_path / "till"
        for fault in ("drop_after", "garble", "redirect", "html_200"):
            proxy.fail(fault, target="POST /v1/terminals")
            with pytest.raises(EnrolmentFailed):
                Till.enrol(folder, url=proxy.url, activation=code)
            assert not (folder / "enrolment.json").exists()
        first = Till.enrol(folder, url=proxy.url, activation=f" {code}\n")
        with pytest.raises(EnrolmentFailed, match="enrolled already"):
            Till.enrol(folder, url=proxy.url, activation=code)
        (folder / "enrolment.json").unlink()
        again = Till.enrol(folder, url=proxy.url, activation=code)
        assert (again.certificate, again.terminal) == (first.certificate, first.terminal)
        with pytest.raises(EnrolmentFailed, match="activation_used"):
            Till.enrol(tmp_path / "other", url=proxy.url, activation=code)
        with pytest.raises(EnrolmentFailed, match="not enrolled"):
            Till.open(tmp_path / "nothing")
        with pytest.raises(EnrolmentFailed, match="enrol this till first"):
            Till.open(tmp_path / "other")
        if os.name == "posix":
            assert (folder / "terminal.key").stat().st_mode & 0o777 == 0o600


def test_two_tills_never_spend_one_voucher_twice(either: Shop) -> None:
    """FB-16: two shops' tills race on one voucher; what is posted never exceeds what it held."""
    family = either.world.family(6_000)
    second = either.world.till("second")
    offers = [either.offer(family), second.propose(family.token(), [milk(6_000)])]
    sales: list[Sale] = []
    racing = [
        threading.Thread(
            target=lambda t=till, o=offer: sales.append(t.redeem(o, checkout="S1", cashier="c01"))
        )
        for till, offer in zip((either.till, second), offers, strict=True)
    ]
    for each in racing:
        each.start()
    for each in racing:
        each.join()
    assert sorted(sale.state for sale in sales) == ["confirmed", "refused"]
    assert either.balance() == 0


# who may, and under which rules


def test_t_3_a_care_code_is_good_for_one_visit_at_one_till(shop: Shop, family: Family) -> None:
    """Within a quarter of an hour and at this till again and again; later or elsewhere not."""
    text = family.token()
    assert redeem_with(shop, text, "S1", milk(1_000)).state == "confirmed"
    assert redeem_with(shop, text, "S2", milk(1_000)).state == "confirmed"
    with a_shop(shop.world, shop.folder.parent / "second") as second:
        with pytest.raises(Refused) as refused:
            second.till.scan(text)
        assert refused.value.code == "token_replayed"
    shop.reopen()
    longer = family.token(lifetime_s=900, issued_at=shop.world.now())
    assert redeem_with(shop, longer, "S3", milk(1_000)).state == "confirmed"
    written = len(shop.proxy.seen)
    shop.goes_ahead(minutes=15, seconds=1)
    for late in (text, longer):
        with pytest.raises(Refused) as refused:
            shop.till.scan(late)
        assert refused.value.code == "token_expired"
    assert len(shop.proxy.seen) == written and shop.balance() == 9_000


def test_a_visit_ends_before_a_longer_code_does(shop: Shop, family: Family) -> None:
    """The till itself refuses a code first used here more than a quarter of an hour ago."""
    ahead = shop.world.now() + timedelta(seconds=60)
    text = family.token(lifetime_s=900, issued_at=ahead)
    assert redeem_with(shop, text, "S1", milk(1_000)).state == "confirmed"
    sent = len(shop.proxy.seen)
    shop.goes_ahead(minutes=15, seconds=30)
    with pytest.raises(Refused) as refused:
        shop.till.scan(text)
    assert refused.value.code == "token_replayed" and len(shop.proxy.seen) == sent


def test_changed_rules_are_fetched_with_the_next_scan(tmp_path: Path) -> None:
    """A lookup names the newest rules: the till fetches its pack anew before it proposes."""
    with world(tmp_path) as alone, a_shop(alone, tmp_path / "till") as shop:
        family = alone.family(12_000)
        assert shop.offer(family).refusal is None
        alone.ledger.programmes.put_programme({**PROGRAMME, "limit_per_redemption_minor": 2_500})
        limited = shop.offer(family)
        assert limited.proposal.programme_minor == 2_500
        assert limited.proposal.lines[0].reason == "limit_exceeded"
        alone.ledger.programmes.put_programme({**PROGRAMME, "amr_any": ["carepos:palm"]})
        with pytest.raises(Refused) as refused:
            shop.redeem(family)
        assert refused.value.code == "token_assurance"
        with pytest.raises(Refused) as unknown:
            shop.till.propose(family.token(), [milk()], programme="no-such")
        assert unknown.value.code == "other_programme"


def test_a_frozen_voucher_is_refused_by_either_side(shop: Shop, family: Family) -> None:
    """Frozen after the scan, the ledger refuses; frozen before, the till does not even offer."""
    early = shop.offer(family)
    (held,) = early.holder.vouchers
    shop.world.ledger.office.freeze("flood-dairy", frozen=True, voucher=held.voucher)
    sale = shop.till.redeem(early, checkout="S1", cashier="c01")
    assert sale.refusal is not None and sale.refusal.code == "voucher_frozen"
    refusal = shop.offer(family).refusal
    assert refusal is not None and refusal.code == "voucher_frozen"
    assert shop.balance() == 12_000


def test_an_empty_basket_line_needs_nothing(shop: Shop, family: Family) -> None:
    """A basket of gifts asks for nothing: there is nothing to redeem, and it says so."""
    offer = shop.offer(family, milk(0))
    assert offer.proposal.lines[0].reason is None
    assert offer.refusal is not None and offer.refusal.code == "category_not_covered"


@pytest.mark.parametrize("result", [{}, {"outcome": None}, {"problem": "no"}, {"problem": {}}])
def test_a_result_that_is_none_is_unknown(
    shop: Shop, family: Family, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]
) -> None:
    """A well-formed answer that holds neither an outcome nor a problem decides nothing."""
    offer = shop.offer(family)
    client = shop.till._client
    monkeypatch.setattr(client, "send", lambda items: [result for _ in items])
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    monkeypatch.undo()
    with shop.till as till:
        assert [s.state for s in till.settle()] == ["unknown"]
        assert till.retry("S1").state == "confirmed"


def test_a_suspended_till_can_still_cancel(shop: Shop, family: Family) -> None:
    """Suspension decides nothing about a sale: unknown, and its reversal is still applied."""
    offer = shop.offer(family)
    terminals, terminal = shop.world.ledger.terminals, shop.till.enrolment.terminal
    terminals.set_status(terminal, "suspended")
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert sale.state == "unknown" and "terminal_suspended" in (sale.problem or "")
    assert shop.till.cancel("S1").state == "reversed" and shop.balance() == 12_000


def test_a_clock_that_is_wrong_says_clock(shop: Shop, family: Family) -> None:
    """A till whose clock is an hour off may not read; what it does not know it does not decide."""
    shop.proxy.fail("drop_after")
    assert shop.redeem(family).state == "unknown"
    shop.till._client._now = lambda: shop.world.now() + timedelta(hours=1)
    asked = shop.till.retry("S1")
    assert asked.state == "unknown" and "clock_skew" in (asked.problem or "")
    with pytest.raises(ClockSkew):
        shop.till.refresh_pack()


# INV-10, INV-3


def test_inv_10_no_token_and_no_name_of_a_holder_is_in_any_file(
    shop: Shop, family: Family, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through confirmed, refused, unknown, cancelled, crashed: nothing of a token is written.

    All files of the till's folder, every byte, are searched for the token, its parts and claims.
    """
    caplog.set_level(0)
    tokens = [family.token(jti=f"canary-jti-{n}") for n in range(4)]
    assert redeem_with(shop, tokens[0], "S1").state == "confirmed"
    shop.proxy.fail("drop_after")
    assert redeem_with(shop, tokens[1], "S2", milk(1_000)).state == "unknown"
    assert shop.till.cancel("S2").state == "reversed"
    stale = shop.till.propose(tokens[2], [milk(6_000)])
    redeem_with(shop, tokens[2], "S3", milk(2_000))
    assert shop.till.redeem(stale, checkout="S4", cashier="c01").state == "refused"
    offer = shop.till.propose(tokens[3], [milk(500)])
    shop.proxy.fail("drop_after")
    shop.till.redeem(offer, checkout="S5", cashier="c01")
    said = f"{offer!r}{offer.holder!r}{shop.till.journal.attempts()!r}{shop.till.settle()!r}"
    canaries = [family.sub.encode(), b"canary-jti"]
    for text in tokens:
        canaries += [part.encode() for part in (text, *text.split(".")[1:])]

    def files() -> bytes:
        return b"".join(f.read_bytes() for f in sorted(shop.folder.rglob("*")) if f.is_file())

    running = files()
    shop.reopen()
    shop.till.settle()
    shop.till.close_day()
    shop.till.close()
    captured = capsys.readouterr()
    everything = (running, files(), said.encode(), caplog.text.encode(),
                  captured.out.encode(), captured.err.encode())  # fmt: skip
    for canary in canaries:
        assert not any(canary in place for place in everything), canary[:12]
    assert len(running) > 10_000


def redeem_with(shop: Shop, text: str, checkout: str, *lines: Line) -> Sale:
    offer = shop.till.propose(text, lines or [milk(6_000)])
    return shop.till.redeem(offer, checkout=checkout, cashier="c01")


def test_inv_3_released_goods_have_a_signed_record(shop: Shop, family: Family) -> None:
    """Behind a confirmed sale stand the till's record and the ledger's outcome bound to it."""
    sale = shop.redeem(family)
    journal = shop.till.journal
    written = journal.record_of(journal.of_checkout("S1")[0])
    (text,) = journal.outcomes_of(written.sequence)
    payload = jws.verify(text, typ=jws.OUTCOME, keys=shop.till.enrolment.ledger_keys.keys).payload
    assert payload["record_sha256"] == written.digest and payload["result"] == "posted"
    assert written.redeem.basket[0].key == MILK and written.redeem.programme_minor == 6_000
    with sqlite3.connect(shop.folder / "journal.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    (job,) = journal.print_jobs()
    assert job.slip["qr_text"] == slip.qr_text(sale.receipt_no, "CNY", 6_000, written.digest)
