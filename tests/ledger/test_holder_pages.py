"""The beneficiary's own pages over HTTP: who gets in, what is shown, what changes.

docs/identity.md §12.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
import requests
from sqlalchemy import delete, select, update

from carepos import Line, NotDecided, Till, ids, outcome, record
from carepos.claims import REASONS as WHY
from carepos.client import Client, Transport
from carepos.errors import Malformed, Refused
from carepos.keys import SigningKey, digest
from carepos.record import Record, Reversal
from carepos_ledger import holder_pages, holder_words, schema
from carepos_ledger.disputes import REASONS
from carepos_ledger.holder_sessions import SESSIONS_AT_ONCE
from carepos_ledger.intake import Intake
from carepos_ledger.operators import new_secret
from carepos_ledger.revoking import Revoking
from carepos_ledger.settings import Settings
from tests.ledger.holder import COOKIE, SELF, Browser, Page, self_token
from tests.ledger.rig import Signer
from tests.world import AUDIENCE, ISSUER, PROGRAMME, RICE, Family, World, milk, world

KG_RICE = {"unit": "g", "cap_minor": 1_000, "fixed_minor": 0, "cap_quantity": 500}


@pytest.fixture
def relief(database_url: str, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, database_url) as made:
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    """For what no database decides."""
    with world(tmp_path) as made:
        yield made


def buy(relief: World, family: Family, amount_minor: int = 6_490, **changes: Any) -> Any:
    """A sale at the shop's till; each gets a number of its own."""
    till = relief.tills[0] if relief.tills else relief.till()
    number = f"S-{secrets.token_hex(4)}"
    offer = till.propose(family.token(**changes), [milk(amount_minor)])
    assert offer.refusal is None, offer.refusal
    sale = till.redeem(offer, checkout=number, cashier="c01")
    assert sale.state == "confirmed"
    return sale


def signed_in(relief: World, family: Family, language: str = "en") -> Browser:
    browser = Browser(relief, language)
    assert browser.sign_in(family).status == 200
    return browser


def state(relief: World) -> dict[str, list[Any]]:
    """Every row that a page could have changed."""
    names = "disputes vouchers voucher_stops alarms visits holder_marks postings entries".split()
    with relief.ledger.database.read() as connection:
        return {
            name: sorted(map(tuple, connection.execute(select(schema.metadata.tables[name]))))
            for name in names
        }


# ── who gets in ────────────────────────────────────────────────────────────────────────────────


def test_a_token_opens_the_pages_and_shows_what_is_mine(relief: World) -> None:
    """Voucher, programme, what is left, until when, where; each use with the paper's number."""
    family = relief.family()
    sale = buy(relief, family, 6_490)
    page = signed_in(relief, family).mine()
    for word in ("奶制品卡", "7·28 洪灾奶制品", "CNY 55.10 left",
                 "CNY 120.00 given, CNY 64.90 used", "2027-07-31", "周家超市 古州店",
                 sale.receipt_no, "CNY 64.90"):  # fmt: skip
        assert word in page.text, word
    assert "忠诚店" not in page.text  # it takes no part
    use = Browser(relief, "en")
    use.sign_in(family)
    detail = use.get(use.mine().use_links[0])
    assert sale.receipt_no in detail.text and "dairy CNY 64.90" in detail.text


def test_the_way_in_goes_on_by_itself(one: World) -> None:
    """The answer is a page, for a redirect would come without the cookie; a link for who waits."""
    page = Browser(one, "en").sign_in(one.family())
    assert page.status == 200 and page.answer.history == []
    assert '<meta http-equiv="refresh" content="0;url=/me/en">' in page.answer.text
    assert page.links["See my vouchers"] == "/me/en"


def test_the_cookie_is_for_this_ledger_alone(one: World) -> None:
    """HttpOnly, Strict, 15 minutes; outside loopback Secure under a __Host- name. The ledger keeps
    its hash."""
    family = one.family()
    for host, name, secure in (
        (None, COOKIE, False),
        ("aid.example", "__Host-carepos-me", True),
        ("localhost.aid.example:443", "__Host-carepos-me", True),
    ):
        headers = {} if host is None else {"Host": host}
        answer = requests.post(
            f"{one.url}/me", {"token": self_token(family)}, headers=headers, timeout=10
        )
        cookie = answer.headers["Set-Cookie"]
        value = re.match(rf"{name}=([A-Za-z0-9_-]{{43}});", cookie)
        assert value is not None, cookie
        parts = set(cookie.split("; ")[1:])
        assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=900"} <= parts
        assert ("Secure" in parts) == secure and not any(p.startswith("Domain") for p in parts)
        with one.ledger.database.read() as connection:
            kept = connection.scalars(select(schema.holder_sessions.c.session_sha256)).all()
        assert digest(value[1].encode()) in kept and value[1] not in repr(kept)


def test_a_shops_token_opens_nothing_and_a_page_token_buys_nothing(one: World) -> None:
    """`aud` keeps them apart, in both directions, at ledger and till."""
    family = one.family()
    browser = Browser(one)
    page = browser.post("/me", {"token": family.token()})
    assert page.status == 403 and not browser.http.cookies
    till = one.till()
    with pytest.raises(Refused) as caught:
        till.propose(self_token(family), [milk()])
    assert caught.value.code == "token_audience"
    with pytest.raises(NotDecided) as told:
        _look_up(one, till, self_token(family))
    assert told.value.code == "token_audience"
    with pytest.raises(Refused) as caught:
        one_ledgers_intake(one).verify_token(self_token(family))
    assert caught.value.code == "token_audience"


def one_ledgers_intake(made: World) -> Intake:
    """What verifies the token beside a record."""
    return Intake(made.ledger.database, AUDIENCE, made.now, made.ledger.keyring.evidence)


def _look_up(made: World, till: Any, text: str) -> None:
    client = Client(
        Transport(made.url),
        terminal=till.enrolment.terminal,
        ledger=till.enrolment.ledger_keys.ledger,
        key=SigningKey.load(till.folder / "terminal.key"),
        now=made.now,
    )
    try:
        client._read("POST", "/v1/vouchers/lookup", body={"token": text})
    finally:
        client.close()


def test_a_token_opens_once(relief: World) -> None:
    """Second use, also within its time and side by side: refused, and it opens no session."""
    family = relief.family()
    text = self_token(family)
    at_once = threading.Barrier(6)
    statuses: list[int] = []

    def ask() -> None:
        at_once.wait()
        statuses.append(Browser(relief).post("/me", {"token": text}).status)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [403] * 5
    assert relief.rows("holder_sessions") == 1
    again = Browser(relief, "en").post("/me", {"token": text})
    assert again.status == 403 and "used before" in again.text


def test_only_a_token_of_minutes_of_the_holder_alone(one: World) -> None:
    """A card, somebody acting, a withdrawn token or key, another issuer or nobody's: each refused
    with words, without a session and without a trace."""
    family = one.family()
    before = state(one)
    revoking = Revoking(one.ledger.database, one.now)
    revoking.token(ISSUER, digest(b"gone-1"), reason="lost")
    act = {"act": {"sub": "daughter"}, "care_reason": "frail"}
    tried = {
        self_token(family, token_class="card", amr=("carepos:card",)): "does not open",
        self_token(family, **act): "acts for another",
        self_token(family, amr=("carepos:witness", "otp"), **act): "acts for another",
        self_token(family, jti="gone-1"): "does not open",
        self_token(family, iss="https://other.test"): "does not open",
        self_token(family, sub="nobody"): "No voucher was issued",
        self_token(family, aud=f"{SELF}x"): "does not open",
        self_token(family, aud=[SELF]): "does not open",
        self_token(family, lifetime_s=901): "does not open",
        self_token(family)[:-4] + "AAAA": "does not open",
        "": "does not open",
        "x" * 4_000: "does not open",
        "a.b.c": "does not open",
        "秘密": "does not open",
        "\x00": "does not open",
    }
    for text, said in tried.items():
        browser = Browser(one, "en")
        page = browser.post("/me", {"token": text})
        assert (page.status, said in page.text) == (403, True), (said, page.text)
        assert not browser.http.cookies and (not text or text not in page.answer.text)
    one.now.forward(seconds=1)
    text = self_token(family)
    one.now.forward(minutes=10)
    assert "time is over" in Browser(one, "en").post("/me", {"token": text}).text
    revoking.key(ISSUER, one.issuer_key.kid, reason="stolen")
    assert Browser(one).post("/me", {"token": self_token(family)}).status == 403
    assert state(one) == before and one.rows("holder_sessions") == 0


def test_a_token_in_an_address_is_never_read(one: World) -> None:
    """It would stand in histories and logs."""
    text = self_token(one.family())
    browser = Browser(one)
    assert browser.get(f"/me?token={text}").status == 200
    assert browser.post(f"/me?token={text}").status in (400, 415)
    assert browser.post(f"/me?token={text}", {"other": "1"}).status == 400
    assert browser.post(f"/me?token={text}", b"").status == 400
    assert not browser.http.cookies and one.rows("holder_sessions") == 0
    assert browser.post("/me", {"token": text}).status == 200


def test_a_session_ends_after_15_minutes_whatever_is_done(one: World) -> None:
    """And at its last instant it is over; its row goes with the next sign-in."""
    family = one.family()
    browser = signed_in(one, family)
    one.now.forward(minutes=14, seconds=59)
    assert "left" in browser.mine().text
    one.now.forward(seconds=1)
    assert "Open from your app" in browser.mine().text
    assert browser.get("/me/en/page/1").status == 403
    signed_in(one, family)
    assert one.rows("holder_sessions") == 1


def test_who_leaves_is_out_at_the_ledger_too(one: World) -> None:
    """A copy of the cookie is worth nothing afterwards."""
    family = one.family()
    browser = signed_in(one, family)
    copy = browser.http.cookies.get(COOKIE)
    page = browser.submit(browser.mine(), "/leave")
    assert "You have left" in page.text and not browser.http.cookies
    browser.http.cookies.set(COOKIE, str(copy))
    assert "Open from your app" in browser.mine().text


def test_somebody_erased_has_no_pages(one: World) -> None:
    """Erasing the row cuts the tie, also of a session that is open."""
    browser = signed_in(one, one.family())
    with one.ledger.database.write() as connection:
        connection.execute(delete(schema.beneficiaries))
    assert "Open from your app" in browser.mine().text


def test_odd_cookies_are_nobody(one: World) -> None:
    """Another session's hash, odd lengths and characters: as if there were none."""
    good = signed_in(one, one.family()).http.cookies.get(COOKIE)
    assert good
    for odd in ("", "x", good[:-1], good + "A", digest(good.encode()), "%00" * 43, '"' * 43, "é"):
        headers: dict[str, str | bytes] = {"Cookie": f"{COOKIE}={odd}".encode()}
        answer = requests.get(f"{one.url}/me/en", headers=headers, timeout=10)
        assert answer.status_code == 200 and "Open from your app" in answer.text
    headers = {"Cookie": f"__Host-{COOKIE}={good}"}  # the name for another host
    assert "Open from" in requests.get(f"{one.url}/me/en", headers=headers, timeout=10).text


def test_nobody_opens_the_pages_without_end(one: World) -> None:
    """More than 20 sign-ins in 15 minutes: 429, the token stays good, others are not kept out."""
    family, other = one.family(), one.family()
    for _ in range(SESSIONS_AT_ONCE):
        browser = signed_in(one, family)
        browser.submit(browser.mine(), "/leave")
    text = self_token(family, lifetime_s=900)
    page = Browser(one, "en").post("/me", {"token": text})
    assert page.status == 429 and page.answer.headers["Retry-After"] == "900"
    assert "Opened too often" in page.text
    signed_in(one, other)
    one.now.forward(minutes=14, seconds=59)
    assert Browser(one).post("/me", {"token": text}).status == 429
    one.now.forward(seconds=1)
    assert Browser(one).post("/me", {"token": self_token(family)}).status == 200


# ── what is shown ──────────────────────────────────────────────────────────────────────────────


def test_both_languages_say_everything(one: World) -> None:
    """By Accept-Language, odd ones read Chinese, and a switch on each page."""
    family = one.family()
    for wished, lang in (("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB", "en"), ("fr,en;q=0.5", "en"),
                         ("fr", "zh"), ("", "zh"), ("*", "zh"), ("zh-Hant-TW", "zh"),
                         ("x" * 3_000, "zh"), (",;q=,=;", "zh"), ("en;q=abc", "zh")):  # fmt: skip
        answer = requests.get(
            f"{one.url}/me", headers={"Accept-Language": wished}, allow_redirects=False, timeout=10
        )
        assert (answer.status_code, wished, answer.headers["Location"]) == (
            303, wished, f"/me/{lang}",
        )  # fmt: skip
    browser = signed_in(one, family, "zh")
    page = browser.mine()
    assert "还剩 ￥120.00" in page.text and '<html lang="zh-Hans">' in page.answer.text
    other = browser.get(page.links["English"])
    assert "CNY 120.00 left" in other.text and '<html lang="en">' in other.answer.text
    for odd in ("xx", "ZH", "zh-CN", "%00", "en\n", "e" * 3_000):
        assert browser.get(f"/me/{quote(odd, safe='%')}").status in (303, 404)


def test_new_uses_are_marked_until_the_next_visit(relief: World) -> None:
    """What no earlier sign-in showed is new, as often as one looks in this visit."""
    family = relief.family()
    first = buy(relief, family, 100)
    browser = signed_in(relief, family)
    for _ in range(2):
        assert "New since your last visit: 1." in browser.mine().text
    relief.now.forward(seconds=5)
    second = buy(relief, family, 200)
    assert "New since your last visit: 2." in browser.mine().text
    browser = signed_in(relief, family)
    page = browser.mine()
    assert "New since your last visit: 1." in page.text
    assert page.text.index(second.receipt_no) < page.text.index(first.receipt_no)
    assert "New" in browser.get(page.use_links[0]).text.split("This purchase")[0]
    assert "New since" not in signed_in(relief, family).mine().text


def test_a_reversed_use_is_shown_as_such(relief: World) -> None:
    """The goods stayed in the shop: the use stays on the list, marked, and counts as not used."""
    family = relief.family()
    till = relief.till()
    offer = till.propose(family.token(), [milk(5_000)])
    till.redeem(offer, checkout="R-1", cashier="c01")
    relief.tills.clear()
    till.close()
    _reverse_all(relief)
    browser = signed_in(relief, family)
    page = browser.mine()
    assert "given back" in page.text and "CNY 120.00 left" in page.text
    assert "CNY 0.00 used" in page.text and page.answer.text.count("gone") >= 1
    detail = browser.get(page.use_links[0])
    assert "given back" in detail.text and "I did not buy this" not in detail.links
    before = state(relief)
    address = page.use_links[0] + "/dispute"
    assert browser.get(address).answer.history[0].status_code == 303
    assert browser.get(f"{address}/not_me").answer.history[0].status_code == 303
    form = {"form": page.form("/leave")[1]["form"]}
    assert browser.post(f"{address}/not_me", form).answer.history[0].status_code == 303
    assert state(relief) == before


def test_a_voided_and_a_returned_use_are_shown_as_such(relief: World) -> None:
    """Voided: cancelled like a reversal. Returned in part: how much of it, where and when, under a
    number of its own, and the rest is used. Returned whole: so it says. Sums are right."""
    rules = {**PROGRAMME, "refunds": {"window_s": 86_400, "grace_s": 0}}
    relief.ledger.programmes.put_programme(rules)
    family, till = relief.family(), relief.till()
    for checkout, amount_minor in (("V-1", 1_000), ("V-2", 3_000), ("V-3", 600)):
        offer = till.propose(family.token(), [milk(amount_minor, 3)])
        assert till.redeem(offer, checkout=checkout, cashier="c01").state == "confirmed"
    voided, some, all_of_it = till.journal.records("redeem")
    relief.tills.clear()
    till.close()
    relief.now.forward(minutes=5)
    signer = _beside(relief, till)
    _post(relief, signer.void(voided))
    _post(relief, signer.refund(some, (1, 1)))
    _post(relief, signer.refund(all_of_it, (1, 3)))
    browser = signed_in(relief, family)
    page = browser.mine()
    assert "CNY 100.00 left" in page.text and "CNY 120.00 given, CNY 20.00 used" in page.text
    assert page.text.count("Cancelled, given back to the voucher") == 1
    assert page.text.count("All of it was returned") == 1
    assert page.text.count("CNY 10.00 of it was returned") == 1
    assert len(re.findall(r'"big gone"', page.answer.text)) == 2
    details = {amount: browser.get(link) for link, amount in _amounts(page)}
    assert "Returned goods" not in details["CNY 10.00"].text
    partly, whole = details["CNY 30.00"], details["CNY 6.00"]
    assert "Returned goods" in partly.text and partly.text.count("CNY 10.00") == 2
    own = ids.receipt_no(1, signer.sequence - 1)
    assert own in partly.text and some.digest not in partly.answer.text
    assert "I did not buy this" in partly.links
    assert "I did not buy this" not in whole.links and "All of it was returned" in whole.text
    chinese = signed_in(relief, family, "zh").mine()
    for words in ("已撤销，钱已退回券里", "已全部退货", "其中 ￥10.00 已退货", "已用 ￥20.00"):
        assert words in chinese.text


def _amounts(page: Page) -> list[tuple[str, str]]:
    """(address, amount) of each use on the page."""
    cards = re.findall(r'<a href="(/me/[a-z]+/uses/[^"/]+)">(.*?)</a>', page.answer.text, re.DOTALL)
    return [(link, re.findall(r"CNY [0-9.]+", text)[0]) for link, text in cards]


def _beside(relief: World, till: Till) -> Signer:
    """The till's own key, going on where its journal ended: it was closed, and all is sent."""
    with relief.till() as opened:
        [*_, last] = opened.journal.records()
        for start in opened.journal.unanswered("start"):
            _post(relief, start)
    relief.tills.clear()
    return Signer(
        last.terminal,
        "zhou",
        SigningKey.load(till.folder / "terminal.key"),
        relief.now,
        last.incarnation,
        last.sequence,
        last.digest,
    )


def _post(relief: World, sent: Record) -> None:
    answer = requests.post(
        f"{relief.url}/v1/records", json={"items": [{"record": sent.jws}]}, timeout=10
    )
    [result] = answer.json()["results"]
    said = outcome.read_any(result["outcome"], keys=relief.ledger.keyring.keys.keys)
    assert said.result == "posted"


def _reverse_all(relief: World) -> None:
    """Every posted sale undone, as a till that kept the goods does it."""
    till = relief.till()
    for each in till.journal.records("redeem"):
        key = SigningKey.load(till.folder / "terminal.key")
        last = till.journal.records()[-1]
        undo = record.make(
            Reversal(each.digest, "goods_kept"),
            attempt_id=each.id,
            terminal=each.terminal,
            incarnation=each.incarnation,
            sequence=last.sequence + 1,
            prev=last.digest,
            occurred_at=relief.now(),
            key=key,
        )
        answer = requests.post(
            f"{relief.url}/v1/records", json={"items": [{"record": undo.jws}]}, timeout=10
        )
        assert "outcome" in answer.json()["results"][0], answer.text


def test_who_acted_for_me_is_shown(one: World) -> None:
    """In which way and why; not who, which the ledger does not know."""
    acting = {"proxy": True, "witness": True, "household_minor": 9_000, "actor_minor": 9_000,
              "window_s": 86_400}  # fmt: skip
    one.ledger.programmes.put_programme({**PROGRAMME, "acting": acting})
    family = one.family()
    act = {"act": {"sub": "neighbour-7"}}
    buy(one, family, 100, care_reason="frail", **act)
    buy(one, family, 200, care_reason="unreadable", amr=("carepos:witness", "otp"), **act)
    page = signed_in(one, family).mine()
    assert "Somebody came for you (frail or ill)" in page.text
    assert "Somebody vouched for you (your face or hand could not be read)" in page.text
    assert "neighbour" not in page.answer.text


def test_goods_vouchers_count_goods(one: World) -> None:
    """Grams and pieces, with the price that is paid and the part that is one's own."""
    fixed = {"unit": "piece", "cap_minor": 6_000, "fixed_minor": 1_500, "cap_quantity": 1}
    family = one.issue(
        [
            one.row(
                "rice",
                kind="item",
                quantity=25_000,
                terms=KG_RICE,
                label="大米",
                categories=["grain"],
            )
        ]
    )[0]
    other = one.issue([one.row("milk", kind="fixed_price", quantity=3, terms=fixed, label="牛奶")])[
        0
    ]
    till = one.till()
    offer = till.propose(family.token(), [Line(RICE, 1_500, "g", 2_700, "散装大米")])
    assert till.redeem(offer, checkout="G-1", cashier="c01").state == "confirmed"
    buy(one, other, 4_000)
    browser = signed_in(one, family)
    page = browser.mine()
    assert "23.5 kg left" in page.text and "25 kg given, 1.5 kg used" in page.text
    assert "the programme pays at most CNY 10.00 for each 500 g" in page.text
    assert "grain 1.5 kg CNY 27.00" in browser.get(page.use_links[0]).text
    browser = signed_in(one, other)
    page = browser.mine()
    assert "2 pc left" in page.text and "you pay CNY 15.00 for each 1 pc" in page.text
    assert "dairy 1 pc CNY 25.00, you paid CNY 15.00" in browser.get(page.use_links[0]).text


def test_what_stands_in_the_way_is_said(one: World) -> None:
    """Not begun, over, paused, frozen by the office, used up: in words at the voucher."""
    later = one.family(starts_at="2026-12-01T00:00:00.000Z")
    over = one.family(expires_at="2026-11-22T08:00:00.000Z")
    empty = one.family(100)
    buy(one, empty, 100)
    frozen = one.family()
    one.ledger.office.freeze(
        "flood-dairy", frozen=True, ref=f"family-{one.families}".ljust(43, "_")
    )
    said = {"Not yet": later, "Over": over, "Used up": empty, "Stopped, can't be used": frozen}
    for word, family in said.items():
        assert word in signed_in(one, family).mine().text, word
    assert "You stopped it" not in signed_in(one, frozen).mine().text
    fine = one.family()
    one.ledger.programmes.put_programme({**PROGRAMME, "paused": True})
    assert "The programme is paused" in signed_in(one, fine).mine().text


def test_many_uses_come_in_pages(one: World) -> None:
    """Thirty at a time, the latest first; a page that is not there is not found."""
    family = one.family(1_000_000)
    numbers = []
    for _ in range(31):
        one.now.forward(seconds=1)
        numbers.append(buy(one, family, 100).receipt_no)
    browser = signed_in(one, family)
    page = browser.mine()
    assert len(page.use_links) == 30 and numbers[0] not in page.text
    older = browser.get(page.links["Older"])
    assert numbers[0] in older.text and len(older.use_links) == 1
    assert older.links["Newer"] == "/me/en"
    for odd in ("0", "3", "-1", "01", "1.0", "x", "٢", "9" * 40, "²"):
        assert browser.get(f"/me/en/page/{odd}").status == 404, odd


def test_no_page_and_no_log_holds_what_names_a_person(
    relief: World, caplog: pytest.LogCaptureFixture
) -> None:
    """No token, sub, jti, voucher id, pseudonym, posting or cookie in any page, address or log."""
    caplog.set_level(logging.DEBUG)
    family = relief.family()
    buy(relief, family)
    text = self_token(family, jti="jti-canary-7")
    browser = Browser(relief, "zh")
    pages = [browser.post("/me", {"token": text}), browser.mine()]
    use, stop = pages[1].use_links[0], pages[1].links["停用此券"]
    pages += [browser.get(use), browser.get(f"{use}/dispute"), browser.get(stop)]
    pages.append(browser.get(f"{use}/dispute/not_me"))
    pages.append(browser.submit(pages[5], "/dispute/not_me"))
    pages.append(browser.submit(pages[4], "/stop"))
    pages.append(browser.post("/me", {"token": text}))
    pages.append(browser.get("/me/zh/uses/x"))
    secret = str(browser.http.cookies.get(COOKIE))
    with relief.ledger.database.read() as connection:
        ids = [
            *connection.scalars(select(schema.vouchers.c.voucher)),
            *connection.scalars(select(schema.beneficiaries.c.beneficiary)),
            *connection.scalars(select(schema.postings.c.posting)),
            *connection.scalars(select(schema.records.c.id)),
            *connection.scalars(select(schema.records.c.digest)),
            *connection.scalars(select(schema.holder_sessions.c.session_sha256)),
        ]
    reference = relief.ledger.keyring.beneficiary_ref("zhou", ISSUER, family.sub)
    for canary in [text, family.sub, "jti-canary-7", reference, secret, *ids]:
        for page in pages:
            assert canary not in page.answer.text and canary not in page.answer.url
        assert canary not in caplog.text.replace(page.answer.url, "")


def test_the_style_is_the_one_that_the_policy_allows(one: World) -> None:
    """Its hash is in the header: a browser shows it, and nothing else."""
    answer = Browser(one).get("/me/en").answer
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    found = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{found}'" in answer.headers["Content-Security-Policy"]


# ── what changes something ─────────────────────────────────────────────────────────────────────


def dispute(browser: Browser, use: str, reason: str = "not_me") -> Page:
    [address] = {
        link for link in browser.get(f"{use}/dispute").links.values() if link.endswith(reason)
    }
    asked = browser.get(address)
    assert "Tell the office?" in asked.text
    return browser.submit(asked, f"/dispute/{reason}")


def test_this_is_not_what_i_bought(relief: World) -> None:
    """Asked back, told once, seen by an operator, answered, read on the page; no money moves."""
    family = relief.family()
    sale = buy(relief, family)
    browser = signed_in(relief, family)
    use = browser.mine().use_links[0]
    before = state(relief)
    for reason in REASONS:
        assert "Tell the office?" in browser.get(f"{use}/dispute/{reason}").text
    assert state(relief) == before  # nothing before the confirmation
    told = dispute(browser, use, "no_goods")
    assert "Being looked into" in told.text and "I did not get the goods" in told.text
    after = state(relief)
    assert {n for n in after if after[n] != before[n]} == {"disputes", "alarms"}
    [alarm] = relief.ledger.terminals.alarms(0)
    assert alarm["kind"] == "disputed" and alarm["terminal"] == relief.tills[0].enrolment.terminal
    assert alarm["digest"] == relief.tills[0].journal.records("redeem")[0].digest
    form = {"form": told.form("/leave")[1]["form"]}
    again = browser.post(f"{use}/dispute/not_me", form)
    assert "I did not get the goods" in again.text and state(relief) == after
    http = operator(relief)
    [seen] = http.get(f"{relief.url}/v1/operators/disputes", timeout=10).json()["disputes"]
    assert (seen["receipt_no"], seen["amount_minor"], seen["reason"], seen["sub"]) == (
        sale.receipt_no, 6_490, "no_goods", family.sub,
    )  # fmt: skip
    url = f"{relief.url}/v1/operators/disputes/{seen['dispute']}"
    body = {"state": "upheld", "sentence": "门店已道歉，款项将补发。"}
    assert http.put(url, json=body, timeout=10).json() == {"result": "changed"}
    assert http.put(url, json=body, timeout=10).json() == {"result": "exists"}
    other = http.put(url, json={**body, "state": "rejected"}, timeout=10)
    assert other.json()["code"] == "already_exists_differently"
    shown = browser.get(use)
    assert "The office agrees with you" in shown.text and "门店已道歉，款项将补发。" in shown.text
    assert "The office agrees with you" in browser.mine().text


def operator(relief: World) -> requests.Session:
    secret = new_secret()
    relief.ledger.operators.add(f"office-{secrets.token_hex(4)}", secret)
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {secret}"
    return http


def test_many_clicks_are_one_dispute(relief: World) -> None:
    """Eight at once: one dispute, one alarm, eight pages that show it."""
    family = relief.family()
    buy(relief, family)
    browser = signed_in(relief, family)
    use = browser.mine().use_links[0]
    address, fields = browser.get(f"{use}/dispute/not_me").form("/dispute/not_me")
    at_once, found = threading.Barrier(8), []

    def click() -> None:
        same = Browser(relief, "en")
        same.http.cookies.set(COOKIE, str(browser.http.cookies.get(COOKIE)))
        at_once.wait()
        found.append(same.post(address, fields))

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(p.status, "Being looked into" in p.text) for p in found] == [(200, True)] * 8
    assert (relief.rows("disputes"), relief.rows("alarms")) == (1, 1)


def test_a_stopped_voucher_is_stopped_at_the_next_sale(relief: World) -> None:
    """With a page between; every till refuses it, an alarm says so, an operator frees it."""
    family = relief.family()
    browser = signed_in(relief, family)
    asked = browser.get(browser.mine().links["Stop this voucher"])
    assert "Only the programme's office can undo it." in asked.text
    before = state(relief)
    stopped = browser.submit(asked, "/stop")
    assert "You stopped it on 2026-11-22" in stopped.text
    assert "Stop this voucher" not in stopped.links
    till = relief.till()
    offer = till.propose(family.token(), [milk()])
    assert {line.reason for line in offer.proposal.lines} == {"voucher_frozen"}
    after = state(relief)
    assert {n for n in after if after[n] != before[n]} == {
        "vouchers", "voucher_stops", "alarms", "visits",
    }  # fmt: skip
    assert [each["kind"] for each in relief.ledger.terminals.alarms(0)] == ["voucher_stopped"]
    assert "You stopped it" in browser.submit(asked, "/stop").text  # again: nothing more
    assert state(relief) == after
    http = operator(relief)
    [listed] = http.get(f"{relief.url}/v1/operators/stops", timeout=10).json()["stops"]
    relief.ledger.office.freeze("flood-dairy", frozen=False, voucher=listed["voucher"])
    assert http.get(f"{relief.url}/v1/operators/stops", timeout=10).json() == {"stops": []}
    relief.now.forward(minutes=1)
    page = browser.mine()
    assert "Stopped" not in page.text
    browser.submit(browser.get(page.links["Stop this voucher"]), "/stop")
    assert "You stopped it on 2026-11-22 08:01" in browser.mine().text


def test_what_is_not_mine_is_as_if_it_never_was(relief: World) -> None:
    """Another family's use, voucher, receipt number, ids from the book, another session's names:
    the same page, byte for byte, as for a name that never was; and nothing changes."""
    mine, theirs = relief.family(), relief.family()
    buy(relief, mine)
    sale = buy(relief, theirs)
    other = signed_in(relief, theirs)
    browser = signed_in(relief, mine)
    their_page, my_page = other.mine(), browser.mine()
    old = signed_in(relief, mine).mine()
    with relief.ledger.database.read() as connection:
        ids = [*connection.scalars(select(schema.vouchers.c.voucher)),
               *connection.scalars(select(schema.postings.c.posting))]  # fmt: skip
    names = [
        their_page.use_links[0].rsplit("/", 1)[1],
        their_page.links["Stop this voucher"].split("/")[-2],
        old.use_links[0].rsplit("/", 1)[1],
        my_page.links["Stop this voucher"].split("/")[-2],
        sale.receipt_no, *ids, "x", "", "é", "%00", "%F0%28", "a" * 5_000, "..%2f", "'--", "{{7}}",
    ]  # fmt: skip
    form = {"form": my_page.form("/leave")[1]["form"]}
    before = state(relief)
    never = {
        address: browser.get(address.format("A" * 22))
        for address in (
            "/me/en/uses/{}",
            "/me/en/uses/{}/dispute",
            "/me/en/uses/{}/dispute/not_me",
        )
    }
    for name in names:
        for address, expected in never.items():
            found = browser.get(address.format(name))
            assert (found.status, name[:40]) == (404, name[:40])
            if name not in ("", "..%2f"):
                assert found.answer.text == expected.answer.text
        posted = browser.post(f"/me/en/uses/{name}/dispute/not_me", form)
        assert posted.status == 404
    for name in {*names} - {names[3]}:
        assert browser.post(f"/me/en/vouchers/{name}/stop", form).status == 404
    assert state(relief) == before


def test_forged_forms_change_nothing(relief: World) -> None:
    """Without the session's form token, from another origin, doubled, with other fields, as JSON or
    multipart, or too large: 4xx in words, and every row as it was."""
    family, other = relief.family(), relief.family()
    buy(relief, family)
    browser = signed_in(relief, family)
    page = browser.mine()
    use, stop = page.use_links[0] + "/dispute/not_me", page.links["Stop this voucher"]
    good = {"form": page.form("/leave")[1]["form"]}
    foreign = signed_in(relief, other).mine().form("/leave")[1]["form"]
    before = state(relief)
    host = relief.url.removeprefix("http://")
    forged: list[tuple[Any, dict[str, str]]] = [
        ({k: v for k, v in good.items() if k != "form"}, {}),
        ({**good, "form": ""}, {}), ({**good, "form": "A" * 22}, {}), ({**good, "form": "é"}, {}),
        ({**good, "form": foreign}, {}), ({**good, "more": "1"}, {}),
        ([*good.items(), *good.items()], {}),
        ({**good, "more": "a" * 9_000}, {}), (b"form=%ff%fe&reason=not_me", {}), (b"", {}),
        (good, {"Origin": "https://evil.example"}), (good, {"Origin": "null"}),
        (good, {"Origin": f"http://{host}.evil.example"}), (good, {"Origin": "http://[::1"}),
        (good, {"Origin": ""}),
        (good, {"Sec-Fetch-Site": "cross-site"}), (good, {"Sec-Fetch-Site": "same-site"}),
        (good, {"Content-Type": "application/json"}), (good, {"Content-Type": "text/plain"}),
        (good, {"Content-Type": "multipart/form-data; boundary=x"}),
    ]  # fmt: skip
    for fields, headers in forged:
        for address in (use, stop):
            found = browser.post(address, fields, headers=headers)
            assert 400 <= found.status < 500, (fields, headers, found.text)
            assert "evil" not in found.answer.text
    for reason in ("because", "NOT_ME", "not_me%00", "é", "x" * 3_000, ""):
        assert browser.post(page.use_links[0] + f"/dispute/{reason}", good).status in (404, 405)
        assert browser.get(page.use_links[0] + f"/dispute/{reason}").status == 404
    assert browser.post("/me", b"token=" + b"x" * 3_000_000).status == 413
    for path in (use, stop, "/me/en/leave", page.use_links[0]):
        for method in ("PUT", "DELETE", "PATCH"):
            assert browser._ask(method, path).status in (404, 405)
    without = Browser(relief, "en")
    assert without.post(use, good).status == 403 and without.post(stop, good).status == 403
    assert without.post("/me/en/leave", {"form": good["form"]}).status == 403
    assert state(relief) == before
    own = {"Origin": relief.url, "Sec-Fetch-Site": "same-origin"}
    assert browser.post(use, good, headers=own).status == 200
    assert state(relief) != before


def test_a_look_changes_nothing(relief: World) -> None:
    """Every GET and HEAD, with and without a session: not a row is other than before."""
    family = relief.family()
    buy(relief, family)
    browser = signed_in(relief, family)
    page = browser.mine()
    use, stop = page.use_links[0], page.links["Stop this voucher"]
    before = state(relief)
    paths = ["/me", "/me/en", "/me/zh", use, f"{use}/dispute", stop, "/me/en/page/1",
             f"{use}/dispute/not_me", f"{stop}?sure=yes",
             "/me/en/leave"]  # fmt: skip
    for who in (browser, Browser(relief, "en")):
        for path in paths:
            for method in ("GET", "HEAD"):
                assert who._ask(method, path).status in (200, 403, 405)
    assert state(relief) == before and "left" in browser.mine().text


def test_wrong_addresses_and_failures_are_pages(one: World) -> None:
    """404, 405 and 500 in the reader's words, never a document for programs, never a traceback."""
    browser = signed_in(one, one.family())
    for path, status in (("/me/", 404), ("/me/en/", 404), ("/me/en/nothing/here", 404),
                         ("/me/en/uses", 404), ("/me//en", 404)):  # fmt: skip
        found = browser.get(path)
        assert (path, found.status) == (path, status) and "There is nothing here." in found.text
    assert browser.post("/me/en", {}).status == 405
    with one.ledger.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE disputes RENAME TO elsewhere")
    failed = browser.mine()
    assert failed.status == 500 and "Nothing was changed" in failed.text
    assert "disputes" not in failed.answer.text
    with one.ledger.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO disputes")


def test_labels_are_text(one: World) -> None:
    """What an operator typed is shown, not obeyed."""
    evil = '<b onclick="x">&amp;'
    one.ledger.office.put_store("zhou-b", "zhou", "<script>1</script>")
    one.ledger.programmes.admit_store("flood-dairy", "zhou-b")
    with one.ledger.database.write() as connection:
        connection.execute(update(schema.vouchers).values(label="x"))
    family = one.family(label=evil)
    page = signed_in(one, family).mine()
    assert evil in page.text.replace("\n", "") and "<b " not in page.answer.text


def test_every_word_is_used_and_every_word_that_is_used_is_there() -> None:
    """No page asks for a word that is missing in either language, none lies about unused."""
    folder = Path(holder_pages.__file__).parent
    templates = "".join(path.read_text("utf-8") for path in folder.glob("templates/*.html"))
    code = Path(holder_pages.__file__).read_text("utf-8")
    code += Path(holder_words.__file__).read_text("utf-8").split("class Words")[1]
    asked = set(re.findall(r'\bw\("([a-z_]+)"', templates)) - {"reason_", "state_", "why_"}
    asked = {word for word in asked if not word.endswith("_")}
    made = {f"reason_{each}" for each in REASONS}
    made |= {f"state_{each}" for each in ("open", "upheld", "rejected", "not_yet", "over")}
    made |= {f"state_{each}" for each in ("paused", "used_up")}
    made |= {f"acted_{way}" for way in ("proxy", "witness")} | {f"why_{each}" for each in WHY}
    for word, (zh, en) in holder_words._WORDS.items():
        assert word in asked | made or f'"{word}"' in code + templates, word
        assert zh and en and set(re.findall(r"{\w+}", zh)) == set(re.findall(r"{\w+}", en)), word
    assert asked | made <= holder_words._WORDS.keys()


@pytest.mark.parametrize(
    ("zone", "says", "use_by"),
    [
        ("Asia/Shanghai", ("2026-11-23 00:30", "Times are UTC+08:00"), "2026-11-30"),
        ("America/Lima", ("2026-11-22 11:30", "Times are UTC-05:00"), "2026-11-29"),
    ],
)
def test_the_page_says_the_time_that_is_on_the_paper(
    tmp_path: Path, zone: str, says: tuple[str, ...], use_by: str
) -> None:
    """`zone` of ledger.toml, wherever the server stands: another day on page and receipt would be
    taken for a purchase of somebody else."""
    with world(tmp_path, zone=ZoneInfo(zone)) as far:
        far.now.forward(hours=8.5)
        family = far.family(expires_at="2026-11-30T04:00:00.000Z")
        buy(far, family)
        page = signed_in(far, family).mine().text
        assert all(said in page for said in says), page
        assert use_by in page


def test_the_zone_is_read_from_ledger_toml(tmp_path: Path) -> None:
    """Written, read again, empty for this machine's, and a slip is named."""
    made = replace(Settings.default(tmp_path), zone=ZoneInfo("Asia/Shanghai"))
    made.save()
    assert Settings.load(tmp_path) == made
    Settings.default(tmp_path).save()
    assert Settings.load(tmp_path).zone is None
    for slip in ("Asia/Beijing", "../x", "UTC+8"):
        text = (
            (tmp_path / "ledger.toml").read_text("utf-8").replace('zone = ""', f'zone = "{slip}"')
        )
        (tmp_path / "slip").mkdir(exist_ok=True)
        (tmp_path / "slip" / "ledger.toml").write_text(text, "utf-8")
        with pytest.raises(Malformed, match="zone: must be a time zone"):
            Settings.load(tmp_path / "slip")
