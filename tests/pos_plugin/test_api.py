"""The register's JSON API: real register calls, real plugin, real ledger, all over HTTP."""

from __future__ import annotations

import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from carepos import CareposError, Line, Refusal, errors
from carepos.attempt import MEANING
from carepos_plugin.offers import MOST
from carepos_plugin.problems import problem_of
from carepos_plugin.sentences import NEXT
from tests.pos_plugin.rig import Rig, milk, plugged, rig, soap
from tests.world import MILK, PROGRAMME

CHECKOUT = "S1-000001"


def test_a_sale_from_scan_to_receipt_over_http(tmp_path: Path, database_url: str) -> None:
    """The cashier sees line by line who pays what and why, redeems, and hands over a receipt."""
    with rig(tmp_path, database_url) as shop:
        family = shop.world.family(12_000)
        offer = shop.offer(CHECKOUT, family.token(), milk(), soap(), discount_minor=290)
        assert offer["refusal"] is None
        assert [line["line_amount_minor"] for line in offer["lines"]] == [6_232, 768]
        assert [line["programme_minor"] for line in offer["lines"]] == [6_232, 0]
        assert offer["lines"][0]["reason"] is None
        assert offer["lines"][1]["reason"]["code"] == "not_in_product_list"
        assert offer["totals"] == {
            "basket_minor": 7_000,
            "programme_minor": 6_232,
            "beneficiary_minor": 0,
            "rest_minor": 768,
            "to_pay_minor": 768,
        }
        assert [(v["before"], v["after"], v["unit"]) for v in offer["vouchers"]] == [
            (12_000, 5_768, None)
        ]
        assert shop.world.balance() == 12_000

        sale = shop.redeem(CHECKOUT, offer)
        assert (sale["state"], sale["goods_may_leave"]) == ("confirmed", True)
        assert sale["message"] == {"en": "REDEEMED", "zh": "已核销"}
        assert (sale["amount_minor"], sale["currency"]) == (6_232, "CNY")
        assert "已核销" in sale["receipt_text"]
        assert "57.68" in sale["receipt_text"]
        assert shop.world.balance() == 5_768

        found = shop.get(f"/api/checkouts/{CHECKOUT}")
        assert found["receipt_no"] == sale["receipt_no"]
        assert [each["state"] for each in found["attempts"]] == ["confirmed"]


def test_no_id_of_person_voucher_or_attempt_and_no_token_reaches_the_register(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """INV-10: what the register stores names the sale and nobody; what the till logs, neither."""
    caplog.set_level(logging.DEBUG)
    with rig(tmp_path) as shop:
        code = shop.world.family().token()
        offer = shop.call(
            "POST", "/api/offers", {"checkout": CHECKOUT, "code": code, "lines": [milk()]}
        )
        held = next(iter(shop.plugin.counter._offers._held.values()))
        assert held.offer is not None
        secrets = [code, code.split(".")[1], held.offer.holder.beneficiary]
        secrets += held.offer.situation.vouchers
        assert code not in repr(held)
        body = {"offer": offer.json()["offer"], "checkout": CHECKOUT, "cashier": "c01"}
        sale = shop.call("POST", "/api/redemptions", body)
        secrets.append(shop.till.journal.attempts()[0].id)
        texts = [offer.text, sale.text, shop.call("GET", f"/api/checkouts/{CHECKOUT}").text]
        texts.append(shop.call("GET", f"/api/receipts/{sale.json()['receipt_no']}").text)
        texts.append(shop.call("GET", "/api/status").text)
        bad = shop.call("POST", "/api/offers", {"checkout": "a b", "code": code, "lines": []})
        texts += [bad.text, caplog.text]
        for secret in secrets:
            assert not any(secret in text for text in texts)


def test_the_code_is_forgotten_as_soon_as_the_offer_is_redeemed(tmp_path: Path) -> None:
    """No scanned code stays in memory for the next customer."""
    with rig(tmp_path) as shop:
        shop.sell()
        assert [held.offer for held in shop.plugin.counter._offers._held.values()] == [None]
        assert shop.till._offers == {}


def test_fa7_a_double_click_is_one_redemption(tmp_path: Path) -> None:
    """FA-7: eight clicks at once on one offer give eight equal answers and one posting."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        start = threading.Barrier(8)

        def click(_: int) -> dict[str, Any]:
            start.wait()
            return shop.redeem(CHECKOUT, offer)

        with ThreadPoolExecutor(8) as clicks:
            answers = list(clicks.map(click, range(8)))
        assert answers == [answers[0]] * 8
        assert answers[0]["state"] == "confirmed"
        assert shop.world.balance() == 12_000 - 6_490
        assert len(shop.till.journal.attempts()) == 1


def test_fa7_a_double_scan_is_one_offer(tmp_path: Path) -> None:
    """FA-7: the same code scanned twice for the same goods keeps its offer and its one sale."""
    with rig(tmp_path) as shop:
        code = shop.world.family().token()
        first, second = shop.offer(CHECKOUT, code), shop.offer(CHECKOUT, code)
        assert first["offer"] == second["offer"]
        assert shop.redeem(CHECKOUT, first) == shop.redeem(CHECKOUT, second)
        body = {"checkout": CHECKOUT, "code": code, "lines": [milk()]}
        third = shop.call("POST", "/api/offers", body)
        assert (third.status_code, third.json()["code"]) == (409, "already_redeemed")
        assert third.json()["sale"]["state"] == "confirmed"
        assert shop.world.balance() == 12_000 - 6_490


def test_a_click_after_a_refusal_does_not_begin_another_attempt(tmp_path: Path) -> None:
    """A refused offer is used up: clicking again shows the refusal and sends nothing."""
    with rig(tmp_path) as shop:
        code = shop.world.family().token()
        offer = shop.offer(CHECKOUT, code)
        shop.world.ledger.programmes.put_programme({**PROGRAMME, "paused": True})
        refused = shop.redeem(CHECKOUT, offer)
        assert (refused["state"], refused["refusal"]["code"]) == ("refused", "programme_paused")
        assert refused["receipt_text"] is None
        assert shop.redeem(CHECKOUT, offer) == refused
        assert len(shop.till.journal.attempts()) == 1


def test_the_customer_before_is_never_left_selected(tmp_path: Path) -> None:
    """The next scan replaces the sale's offer; the old one can't be redeemed any more."""
    with rig(tmp_path) as shop:
        before = shop.offer(CHECKOUT, shop.world.family().token())
        shop.offer(CHECKOUT, shop.world.family().token())
        body = {"offer": before["offer"], "checkout": CHECKOUT, "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", body) == (410, "offer_gone")
        assert shop.world.balance() == 24_000


@pytest.mark.parametrize("next_scan", ["bad code", "no cover", "no network"])
def test_a_scan_in_vain_takes_the_customer_before_off_the_sale(
    tmp_path: Path, next_scan: str
) -> None:
    """Whatever becomes of the next scan, nobody pays from the voucher of the customer before."""
    with rig(tmp_path) as shop:
        before = shop.offer(CHECKOUT, shop.world.family().token())
        after = shop.world.family().token()
        if next_scan == "bad code":
            assert shop.offer(CHECKOUT, "x")["offer"] is None
        elif next_scan == "no cover":
            assert shop.offer(CHECKOUT, after, soap())["offer"] is None
        else:
            shop.cut_network()
            body = {"checkout": CHECKOUT, "code": after, "lines": [milk()]}
            assert shop.refused("POST", "/api/offers", body) == (503, "unreachable")
            shop.mend_network()
        body = {"offer": before["offer"], "checkout": CHECKOUT, "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", body) == (410, "offer_gone")
        assert len(shop.plugin.counter._offers) == 0
        assert shop.world.balance() == 24_000


class Held:
    """Stops the next call of a method of the till until it is let go."""

    def __init__(self, shop: Rig, name: str) -> None:
        self.begun, self._let_go = threading.Event(), threading.Event()
        self._real, self._waits = getattr(shop.till, name), True
        setattr(shop.till, name, self)

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self._waits:
            self._waits = False
            self.begun.set()
            assert self._let_go.wait(20)
        return self._real(*given, **named)

    def let_go(self) -> None:
        self._let_go.set()


def test_a_scan_during_the_click_does_not_change_the_customer(tmp_path: Path) -> None:
    """While one customer's offer is redeemed the next code is told to wait, and pays nothing."""
    with rig(tmp_path) as shop, ThreadPoolExecutor(1) as clicks:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        other = {"checkout": CHECKOUT, "code": shop.world.family().token(), "lines": [milk()]}
        redeeming = Held(shop, "redeem")
        click = clicks.submit(shop.redeem, CHECKOUT, offer)
        assert redeeming.begun.wait(20)
        assert shop.refused("POST", "/api/offers", other) == (409, "sale_not_over")
        redeeming.let_go()
        assert click.result()["state"] == "confirmed"
        assert shop.refused("POST", "/api/offers", other) == (409, "already_redeemed")
        assert shop.world.balance() == 24_000 - 6_490


def test_a_sale_redeemed_during_the_scan_is_not_offered_again(tmp_path: Path) -> None:
    """A code looked up while the sale was redeemed gets no offer: it would show another's sale."""
    with rig(tmp_path) as shop, ThreadPoolExecutor(1) as scans:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        other = {"checkout": CHECKOUT, "code": shop.world.family().token(), "lines": [milk()]}
        scanning = Held(shop, "scan")
        scan = scans.submit(shop.refused, "POST", "/api/offers", other)
        assert scanning.begun.wait(20)
        assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"
        scanning.let_go()
        assert scan.result() == (409, "already_redeemed")
        assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"
        assert [held.offer for held in shop.plugin.counter._offers._held.values()] == [None]


def test_an_offer_does_not_expire_in_mid_sale(tmp_path: Path) -> None:
    """The second of two clicks never reads "nothing was taken" while the first is at work."""
    with rig(tmp_path) as shop, ThreadPoolExecutor(2) as clicks:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        redeeming = Held(shop, "redeem")
        first = clicks.submit(shop.redeem, CHECKOUT, offer)
        assert redeeming.begun.wait(20)
        shop.seconds.at += 901
        shop.plugin.counter._offers.forget_expired()
        second = clicks.submit(shop.redeem, CHECKOUT, offer)
        redeeming.let_go()
        assert first.result() == second.result()
        assert first.result()["state"] == "confirmed"


def test_offers_are_bounded_and_one_at_work_is_never_the_one_that_goes(tmp_path: Path) -> None:
    """However many are scanned and left, the oldest idle offer makes room, with its code."""
    with rig(tmp_path) as shop:
        offer = shop.till.propose(
            shop.world.family().token(), [Line(MILK, 1, "piece", 6_490, "纯牛奶")]
        )
        book = shop.plugin.counter._offers
        working, idle = (book.get(str(book.put(f"S1-{n}", offer))) for n in range(2))
        assert working is not None
        assert idle is not None
        with working.working:
            for n in range(2, MOST + 1):
                book.put(f"S1-{n}", offer)
        assert len(book) == MOST
        assert book.get(working.id) is working
        assert book.get(idle.id) is None
        assert idle.offer is None


def test_an_old_offer_shows_where_its_own_attempt_stands_now(tmp_path: Path) -> None:
    """After a cancel and a second scan the first offer reads cancelled, not unknown for ever."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        shop.faults.points.add("committed")
        assert shop.redeem(CHECKOUT, offer)["state"] == "unknown"
        shop.post(f"/api/checkouts/{CHECKOUT}/cancel", {})
        newest = shop.sell()
        again = shop.redeem(CHECKOUT, offer)
        assert (again["state"], again["problem"]) == ("reversed", None)
        assert again["receipt_no"] != newest["receipt_no"]
        assert again["receipt_text"] is None


def test_an_offer_is_over_after_its_life(tmp_path: Path) -> None:
    """An offer left on the screen expires, and the code in it is forgotten."""
    with rig(tmp_path, offer_life_s=60) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        assert offer["expires_at"] == "2026-11-22T08:01:00.000Z"
        shop.seconds.at += 60
        body = {"offer": offer["offer"], "checkout": CHECKOUT, "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", body) == (410, "offer_gone")
        assert len(shop.plugin.counter._offers) == 0


def test_upkeep_forgets_codes_that_nobody_asks_for(tmp_path: Path) -> None:
    """A code does not stay in memory over night because no further customer came."""
    with rig(tmp_path, offer_life_s=60) as shop:
        shop.offer(CHECKOUT, shop.world.family().token())
        shop.seconds.at += 61
        shop.plugin.upkeep.one_pass()
        assert len(shop.plugin.counter._offers) == 0


def test_an_offer_belongs_to_its_sale(tmp_path: Path) -> None:
    """What one customer agreed to is not redeemed for another's goods."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        body = {"offer": offer["offer"], "checkout": "S1-000002", "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", body) == (409, "offer_of_other_checkout")
        assert shop.world.balance() == 12_000


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("https://pay.example/12345", "token_malformed"),
        ("\n", "token_malformed"),
        ("x" * 4096, "token_malformed"),
    ],
)
def test_a_code_that_is_no_good_gets_a_sentence_not_an_error(
    tmp_path: Path, code: str, refusal: str
) -> None:
    """A wrong code is an ordinary answer of the ordinary shape, without an offer."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, code, milk(), soap())
        assert (offer["offer"], offer["refusal"]["code"]) == (None, refusal)
        assert {line["reason"]["code"] for line in offer["lines"]} == {refusal}
        assert offer["totals"]["to_pay_minor"] == 7_290


def test_a_basket_without_cover_is_refused_line_by_line(tmp_path: Path) -> None:
    """Each line says why; nothing can be redeemed, and trying says so."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token(), soap(), soap())
        assert offer["offer"] is None
        assert [line["reason"]["code"] for line in offer["lines"]] == ["not_in_product_list"] * 2
        assert offer["refusal"]["code"] == "not_in_product_list"
        body = {"offer": None, "checkout": CHECKOUT, "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", body) == (409, "nothing_offered")
        assert len(shop.plugin.counter._offers) == 0


def test_baskets_as_registers_have_them(tmp_path: Path) -> None:
    """GTINs as printed on the goods and descriptions with a tab in them are good enough."""
    with rig(tmp_path) as shop:
        line = {**milk(), "key": MILK[1:], "description": "纯牛奶\t250ml\x1bp" + "长" * 300}
        offer = shop.offer(CHECKOUT, shop.world.family().token(), line)
        assert offer["lines"][0]["key"] == MILK
        assert offer["lines"][0]["description"].startswith("纯牛奶 250mlp长")
        assert shop.redeem(CHECKOUT, offer)["state"] == "confirmed"


def test_a_wrong_digit_names_its_line(tmp_path: Path) -> None:
    """A barcode mistyped at the register is told with the line it stands on."""
    with rig(tmp_path) as shop:
        wrong = {**milk(), "key": "6913046198783"}
        body = {"checkout": CHECKOUT, "code": "x", "lines": [milk(), wrong]}
        answer = shop.call("POST", "/api/offers", body)
        assert (answer.status_code, answer.json()["field"]) == (400, "lines[2].key")
        assert "check digit" in answer.json()["detail"]


def test_without_a_network_the_cashier_reads_what_to_do(tmp_path: Path) -> None:
    """Scanning without the ledger is a problem in both languages, and takes nothing."""
    with rig(tmp_path) as shop:
        shop.sell("S1-000000")
        before = shop.written()
        shop.cut_network()
        body = {"checkout": CHECKOUT, "code": shop.world.family().token(), "lines": [milk()]}
        assert shop.refused("POST", "/api/offers", body) == (503, "unreachable")
        assert "no answer" in shop.get("/api/status")["ledger"]["problem"]
        assert shop.written() == before
        shop.mend_network()
        shop.post("/api/offers", body)
        assert shop.get("/api/status")["ledger"]["problem"] is None


def test_an_unknown_sale_is_told_retried_and_confirmed(tmp_path: Path) -> None:
    """FC-4: the ledger fails after COMMIT; no goods leave; asking again finds the one posting."""
    with rig(tmp_path) as shop:
        unknown = shop.sell_unknown()
        assert unknown["goods_may_leave"] is False
        assert unknown["receipt_text"] is None
        listed = shop.get("/api/status")["open"]
        assert [each["checkout"] for each in listed] == [CHECKOUT]
        assert "Do not hand over goods" in listed[0]["message"]["en"]
        assert listed[0]["next"]["zh"]
        retried = shop.post(f"/api/checkouts/{CHECKOUT}/retry", {})
        assert retried["state"] == "confirmed"
        assert retried["receipt_no"] == unknown["receipt_no"]
        assert shop.world.balance() == 12_000 - 6_490
        assert shop.get("/api/status")["open"] == []


def test_an_unknown_sale_can_be_cancelled_and_begun_again(tmp_path: Path) -> None:
    """The cashier's cancel undoes the posting; the same sale then makes its next attempt."""
    with rig(tmp_path) as shop:
        shop.sell_unknown()
        body = {"checkout": CHECKOUT, "code": shop.world.family().token(), "lines": [milk()]}
        assert shop.refused("POST", "/api/offers", body) == (409, "sale_not_over")
        cancelled = shop.post(f"/api/checkouts/{CHECKOUT}/cancel", {})
        assert cancelled["state"] == "reversed"
        assert shop.world.balance() == 24_000
        assert shop.sell()["state"] == "confirmed"
        found = shop.get(f"/api/checkouts/{CHECKOUT}")
        assert [each["state"] for each in found["attempts"]] == ["reversed", "confirmed"]
        problem = shop.refused("POST", f"/api/checkouts/{CHECKOUT}/cancel", {})
        assert problem == (409, "wrong_state")


@pytest.mark.parametrize(("handed_over", "ends"), [(True, "confirmed"), (False, "reversed")])
def test_fd1_after_a_restart_the_cashier_is_asked_about_the_goods(
    tmp_path: Path, handed_over: bool, ends: str
) -> None:
    """FD-1: posted while the till was down: the answer decides, and the register may repeat."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        shop.faults.points.add("committed")
        shop.redeem(CHECKOUT, offer)
        shop.till.close()
        till = shop.world.till()
        with plugged(shop.world, till, shop.faults) as again:
            # The register repeats its last call: it gets the sale's state, not a new attempt.
            assert again.redeem(CHECKOUT, offer)["state"] == "interrupted"
            settled = again.post("/api/settle", {})
            assert settled["ledger_answered"] is True
            assert [each["state"] for each in settled["open"]] == ["goods_asked"]
            path = f"/api/checkouts/{CHECKOUT}/goods"
            sale = again.post(path, {"handed_over": handed_over})
            assert sale["state"] == ends
            assert (sale["receipt_text"] is not None) == handed_over
            written = again.written()
            repeated = again.post(path, {"handed_over": handed_over})
            assert (repeated["state"], again.written()) == (ends, written)
            other = again.call("POST", path, {"handed_over": not handed_over}).json()
            assert (other["code"], other["state"]) == ("wrong_state", ends)
            assert other["en"].startswith("It was said that") and not other["detail"]
            assert again.world.balance() == (12_000 - 6_490 if handed_over else 12_000)


def test_a_receipt_is_there_only_for_what_was_redeemed(tmp_path: Path) -> None:
    """INV-4: no slip of an unknown sale can be had; a copy says COPY."""
    with rig(tmp_path, printer="file:receipts") as shop:
        unknown = shop.sell_unknown()
        path = f"/api/receipts/{unknown['receipt_no']}"
        assert shop.refused("GET", path) == (404, "receipt_unknown")
        assert shop.refused("POST", f"{path}/print", {}) == (404, "receipt_unknown")
        shop.post(f"/api/checkouts/{CHECKOUT}/retry", {})
        text = shop.call("GET", path, headers={"Accept": "text/plain"})
        assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "已核销" in text.text
        assert "副本" in text.text
        found = shop.get(path)
        assert found["text"] == text.text
        assert found["receipt"]["programme_minor"] == 6_490
        queued = shop.call("POST", f"{path}/print", {})
        assert (queued.status_code, queued.json()["copy_no"]) == (202, 1)
        assert shop.get(path)["slips"] == [
            {"copy_no": 0, "state": "queued"},
            {"copy_no": 1, "state": "queued"},
        ]


def test_the_day_is_closed_once(tmp_path: Path) -> None:
    """A double click on day close makes one Z; the next sale makes the next one possible."""
    with rig(tmp_path) as shop:
        shop.sell()
        first = shop.post("/api/day-close", {})
        assert (first["z_no"], first["confirmed"], first["acknowledged"]) == (1, 1, True)
        assert first["business_date"] == "2026-11-22"
        assert first["sums"][0]["amount_minor"] == 6_490
        assert shop.post("/api/day-close", {}) == first
        shop.sell("S1-000002")
        assert shop.post("/api/day-close", {"business_date": "2026-11-22"})["z_no"] == 2


def test_a_sale_that_ends_after_its_z_gets_another_the_same_day(tmp_path: Path) -> None:
    """A sale that was open at the Z and is booked after it is in the next, which the same day may
    have: closing again tells what it came to, once."""
    with rig(tmp_path) as shop:
        shop.sell_unknown()
        shop.cut_network()
        first = shop.post("/api/day-close", {})
        assert (first["z_no"], first["confirmed"], first["open"]) == (1, 0, 1)
        assert shop.post("/api/day-close", {})["z_no"] == 1
        shop.mend_network()
        second = shop.post("/api/day-close", {})
        assert (second["z_no"], second["confirmed"], second["open"]) == (2, 1, 0)
        assert second["sums"][0]["amount_minor"] == 6_490
        assert shop.post("/api/day-close", {}) == second


def test_a_day_report_that_did_not_arrive_is_told(tmp_path: Path) -> None:
    """Without a network the Z says why it is not acknowledged, also repeated, and settling too."""
    with rig(tmp_path) as shop:
        shop.sell()
        shop.plugin.upkeep.one_pass()
        shop.cut_network()
        for _ in range(2):
            closed = shop.post("/api/day-close", {})
            assert (closed["z_no"], closed["acknowledged"]) == (1, False)
            assert "no answer" in closed["problem"]
        assert shop.get("/api/status")["ledger"]["problem"] is not None
        assert shop.post("/api/settle", {})["ledger_answered"] is False
        shop.mend_network()
        assert shop.post("/api/settle", {})["ledger_answered"] is True
        closed = shop.post("/api/day-close", {})
        assert (closed["z_no"], closed["acknowledged"], closed["problem"]) == (1, True, None)


def test_fh4_the_business_date_is_the_shops_own(tmp_path: Path) -> None:
    """FH-4: at 17:00 UTC it is tomorrow in Shanghai, and the Z says so."""
    with rig(tmp_path) as shop:
        shop.world.now.forward(hours=9)
        assert shop.post("/api/day-close", {})["business_date"] == "2026-11-23"


def test_no_day_is_closed_before_it_begins(tmp_path: Path) -> None:
    """A slip of the finger in the date would be signed for ever."""
    with rig(tmp_path) as shop:
        for day in ("2026-11-23", "2027-11-22"):
            body = {"business_date": day}
            assert shop.refused("POST", "/api/day-close", body) == (400, "malformed")
        assert shop.post("/api/day-close", {"business_date": "2026-11-21"})["z_no"] == 1


def test_a_closed_journal_stops_selling_with_a_sentence(tmp_path: Path) -> None:
    """FA-3: when the disk fails, nothing is sold and the cashier reads what to do."""
    with rig(tmp_path) as shop:
        offer = shop.offer(CHECKOUT, shop.world.family().token())
        shop.till.journal._closed = "a write failed: disk I/O error"
        body = {"offer": offer["offer"], "checkout": CHECKOUT, "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", body) == (503, "journal_closed")
        assert shop.world.balance() == 12_000


@pytest.mark.parametrize(
    "failure",
    [OSError(28, "No space left on device", "canary"), sqlite3.OperationalError("canary")],
)
def test_fa8_a_full_disk_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """FA-8: what can't be kept or read is a sentence about the disk, in settling and status too."""

    def full(*_: object) -> None:
        raise failure

    with rig(tmp_path) as shop:
        body = {"checkout": CHECKOUT, "code": shop.world.family().token(), "lines": [milk()]}
        with monkeypatch.context() as patched:
            patched.setattr("carepos.pack.keep", full)
            answer = shop.call("POST", "/api/offers", body)
            assert (answer.status_code, answer.json()["code"]) == (503, "disk")
            assert "canary" not in answer.text
            assert shop.refused("POST", "/api/settle", {}) == (503, "disk")
        assert shop.post("/api/offers", body)["refusal"] is None


def test_every_state_says_what_happens_next() -> None:
    """No state of an attempt leaves the cashier without a next step, in either language."""
    assert NEXT.keys() == MEANING.keys()
    assert all(en and zh for en, zh in NEXT.values())


# ── hostile bodies ─────────────────────────────────────────────────────────────────────────────

_DEEP = b'{"checkout":' + b"[" * 100 + b"]" * 100 + b"}"
_HOSTILE: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"true",
    b"{",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"a":NaN}',
    b'{"a":1.5}',
    b'{"a":1e400}',
    b'{"a":1,"a":1}',
    b'{"checkout":"\\ud800"}',
    b'{"unknown":1}',
    _DEEP,
    b'{"a":"' + b"x" * 100_000 + b'"}',
]
_ENDPOINTS = [
    "/api/offers",
    "/api/redemptions",
    "/api/checkouts/S1-000001/retry",
    "/api/checkouts/S1-000001/cancel",
    "/api/checkouts/S1-000001/goods",
    "/api/settle",
    "/api/day-close",
    "/api/receipts/0001-000002-1/print",
    "/api/pin-pad/link",
    "/api/pin-pad/forget",
    "/api/pin-requests/AAAAAAAAAAAAAAAAAAAAAA/cancel",
]


def test_t15_hostile_bodies_get_a_code_and_change_nothing(tmp_path: Path) -> None:
    """T-15: no body of any kind makes an endpoint fail or write."""
    with rig(tmp_path) as shop:
        sale = shop.sell()
        assert sale["receipt_no"] == "0001-000002-1"
        before = shop.written()
        for path in _ENDPOINTS:
            for data in _HOSTILE:
                answer = shop.call("POST", path, data=data)
                assert answer.status_code in (400, 413), (path, data[:40], answer.text)
                assert answer.json()["code"] in ("malformed", "too_large")
        assert shop.written() == before


_OFFER = {"checkout": "S1-9", "code": "x", "lines": [milk()], "discount_minor": 0}
_REDEMPTION = {"offer": "A" * 22, "checkout": "S1-9", "cashier": "c01"}
_WRONG: list[Any] = [True, -1, 0, 10**16, "", "a b", "x" * 5_000, [], {}, [1], "\x00", 1]


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/api/offers", _OFFER),
        ("/api/redemptions", _REDEMPTION),
        ("/api/checkouts/S1-000001/goods", {"handed_over": True}),
        ("/api/day-close", {"business_date": "2026-11-22"}),
    ],
)
def test_t15_wrong_values_in_each_field(tmp_path: Path, path: str, good: dict[str, Any]) -> None:
    """T-15: whatever stands in a field, the answer has a code and nothing is written."""
    with rig(tmp_path) as shop:
        shop.sell()
        before = shop.written()
        for name in good:
            for value in _WRONG:
                body = {**good, name: value}
                if (name, value) in (
                    ("handed_over", True),
                    ("discount_minor", 0),
                    ("discount_minor", 1),
                ):
                    continue
                answer = shop.call("POST", path, body)
                assert answer.status_code < 500, (name, value, answer.text)
                # A code that is no care code is an answer and not an error.
                assert name == "code" or answer.status_code in (400, 404, 409, 410), (name, value)
        for name in milk():
            for value in _WRONG if path == "/api/offers" else []:
                body = {**_OFFER, "lines": [{**milk(), name: value}]}
                assert shop.call("POST", path, body).status_code < 500, (name, value)
        assert shop.written() == before


def test_too_many_lines_have_their_own_code(tmp_path: Path) -> None:
    """A basket of 41 lines says that the basket must be split."""
    with rig(tmp_path) as shop:
        body = {"checkout": CHECKOUT, "code": "x", "lines": [milk()] * 41}
        assert shop.refused("POST", "/api/offers", body) == (400, "basket_too_large")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/nothing", (404, "not_found")),
        ("GET", "/", (404, "not_found")),
        ("GET", "/api/settle", (405, "method_not_allowed")),
        ("GET", "/api/checkouts/S1-404", (404, "checkout_unknown")),
        ("POST", "/api/checkouts/S1-404/retry", (404, "checkout_unknown")),
        ("GET", "/api/checkouts/a%20b", (400, "malformed")),
        ("GET", "/api/checkouts/%00", (400, "malformed")),
        ("GET", "/api/receipts/0001-000002-9", (400, "malformed")),
        ("GET", "/api/receipts/0001-000009-7", (404, "receipt_unknown")),
        ("GET", "/api/pin-requests/AAAAAAAAAAAAAAAAAAAAAA", (410, "pin_request_gone")),
        ("GET", "/api/pin-requests/short", (400, "malformed")),
    ],
)
def test_addresses_that_lead_nowhere(
    tmp_path: Path, method: str, path: str, expected: tuple[int, str]
) -> None:
    """Every wrong address has its code."""
    with rig(tmp_path) as shop:
        assert shop.refused(method, path, {} if method == "POST" else None) == expected


def test_a_body_that_ends_early_does_nothing(tmp_path: Path) -> None:
    """FB-3: half a request is not acted on."""
    with rig(tmp_path) as shop:
        before = shop.written()
        whole = requests.Request(
            "POST",
            shop.url + "/api/settle",
            data=b"{}",
            headers={
                "X-CarePOS-Pairing": shop.secret,
                "Content-Type": "application/json",
            },
        ).prepare()
        whole.headers["Content-Length"] = "200"
        with requests.Session() as session, pytest.raises(requests.RequestException):
            session.send(whole, timeout=0.3)
        assert shop.written() == before


# ── what the ledger or the SDK say no to ───────────────────────────────────────────────────────


def test_a_wrong_clock_says_clock(tmp_path: Path) -> None:
    """T-6: when the clocks differ, the cashier reads that, and nothing is sold."""
    with rig(tmp_path) as shop:
        shop.sell("S1-000000")
        shop.till._client._now = lambda: shop.world.now() + timedelta(minutes=5)
        body = {"checkout": CHECKOUT, "code": shop.world.family().token(), "lines": [milk()]}
        assert shop.refused("POST", "/api/offers", body) == (503, "clock_skew")


_EXAMPLES: list[CareposError] = [
    errors.Malformed("must be text", field="code"),
    errors.SignatureInvalid("the signature does not verify"),
    errors.Refused(Refusal("token_replayed")),
    errors.TokenRefused(Refusal("token_malformed"), claim="exp", why="must be after iat"),
    errors.NotDecided(403, "terminal_suspended", "<script>"),
    errors.NotDecided(503, "try_again", "<script>"),
    errors.NotDecided(500, "<script>", "<script>"),
    errors.ClockSkew(401, "", None),
    errors.Unreachable("no answer"),
    errors.WrongState("open", "restart"),
    errors.EnrolmentFailed("another folder"),
    errors.JournalError("not over"),
    errors.JournalLocked("held"),
    errors.JournalClosed("a write failed"),
    errors.DiskFull("no room"),
    errors.NotWritten("no room"),
    errors.JournalCorrupt("no chain", sequence=2),
]


def test_every_error_of_the_sdk_has_its_answer() -> None:
    """No error is left out; each answer is said in both languages and passes on no foreign text."""
    listed = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    ours = {kind for kind in listed if issubclass(kind, CareposError)} - {CareposError}
    assert ours == {type(example) for example in _EXAMPLES}
    for example in _EXAMPLES:
        document = problem_of(example).to_json()
        assert document["status"] in range(400, 504)
        assert document["type"] == f"urn:carepos:problem:{document['code']}"
        assert document["en"]
        assert document["zh"]
        assert "<script>" not in str(document)


def test_a_suspended_till_is_told_apart_from_a_missing_network() -> None:
    """The programme's office can be called only if the cashier is told that it is needed."""
    told = problem_of(errors.NotDecided(403, "terminal_suspended", "")).to_json()
    assert (told["status"], told["code"]) == (403, "terminal_suspended")
    assert "办公室" in told["zh"]
