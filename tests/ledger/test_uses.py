"""The feed of uses: each committed use once in the order of its number, none skipped."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import delete

from carepos_ledger import schema, uses
from carepos_ledger.book import Book
from carepos_ledger.operators import new_secret
from carepos_ledger.uses import Uses
from tests.ledger.rig import PROGRAMME, Rig, code
from tests.world import ISSUER, milk, world

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


def read_on(feed: Uses, after: int = 0) -> list[dict[str, Any]]:
    """Everything behind `after`, as a client asks for it."""
    found: list[dict[str, Any]] = []
    while True:
        page = feed.after(after)
        if page.next_n == after:
            return found
        found += page.uses
        after = page.next_n


def test_a_use_is_told_with_the_papers_number(rig: Rig) -> None:
    """Whom, where, how much, when; a reversal under the sale's number with the amount negative."""
    till, holder = rig.signer(), rig.holder()
    sale = rig.redeem(till, holder, 6_000)
    rig.send_one(sale)
    rig.now.forward(minutes=3)
    rig.send_one(till.reversal(rig.read(sale)))
    one, two = read_on(Uses(rig.database))
    assert (one["n"], one["kind"], one["amount_minor"]) == (1, "redeem", 6_000)
    assert (two["n"], two["kind"], two["amount_minor"]) == (2, "reversal", -6_000)
    assert one["receipt_no"] == two["receipt_no"] and one["receipt_no"].startswith("0001-000001-")
    assert (one["iss"], one["sub"], one["store_name"]) == (ISSUER, holder.sub, "周家超市 古州店")
    assert two["recorded_at"] == "2026-11-22T08:03:00.000Z"
    # What was bought is nobody's business but theirs; no id of the book gets out.
    told = json.dumps([one, two])
    for secret in (holder.voucher, holder.beneficiary, "category", rig.read(sale).id):
        assert secret not in told


def test_the_same_question_gets_the_same_uses(rig: Rig) -> None:
    """FC-5: at least once: whoever lost an answer asks again; later ones come behind."""
    till, holder = rig.signer(), rig.holder()
    feed = Uses(rig.database)
    for n in range(3):
        rig.send_one(rig.redeem(till, holder, 100 + n))
    first = feed.after(0)
    assert first == feed.after(0) and [each["n"] for each in first.uses] == [1, 2, 3]
    assert feed.after(first.next_n) == ([], 3)
    rig.send_one(rig.redeem(till, holder, 500))
    assert [each["n"] for each in feed.after(2).uses] == [3, 4]
    assert feed.after(10**12) == ([], 10**12)


def test_a_posting_that_commits_late_is_not_skipped(rig: Rig) -> None:
    """It was decided first and is committed last: its time is before that of uses that were told
    long ago, and it comes behind them."""
    feed = Uses(rig.database)
    late, early = rig.holder(), rig.holder()
    tills = rig.signer(), rig.signer()
    envelope = rig.redeem(tills[0], late, 700)
    written, go_on = threading.Event(), threading.Event()

    def reached(point: str) -> None:
        if point == "written":
            written.set()
            assert go_on.wait(20)

    book = Book(rig.database, rig.keyring, rig.now, reached)
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(rig.send_one(envelope, book=book)))
    if rig.database.is_sqlite:
        # One writer at a time: here only a clock that was set back makes a time come late.
        rig.now.forward(hours=1)
        rig.send_one(rig.redeem(tills[1], early, 300))
        rig.now.forward(hours=-1)
        seen = read_on(feed)
        thread.start()
        assert written.wait(20)
    else:
        thread.start()
        assert written.wait(20)
        rig.now.forward(hours=1)
        rig.send_one(rig.redeem(tills[1], early, 300))
        seen = read_on(feed)
    assert [(each["n"], each["amount_minor"]) for each in seen] == [(1, 300)]
    assert read_on(feed, 1) == []  # what is not committed is not told, and nobody waits for it
    go_on.set()
    thread.join()
    assert code(told[0]) == "posted"
    [behind] = read_on(feed, 1)
    assert (behind["n"], behind["amount_minor"]) == (2, 700)
    assert behind["recorded_at"] < seen[0]["recorded_at"]


def test_readers_and_tills_at_once_lose_nothing(rig: Rig) -> None:
    """Four servers post while three readers read on: each reader has every use exactly once, and
    all of them the same under the same number."""
    holders, tills = [rig.holder() for _ in range(4)], [rig.signer() for _ in range(4)]
    sent = [
        [rig.redeem(till, holder, 10 + n) for n in range(12)]
        for till, holder in zip(tills, holders, strict=True)
    ]
    done = threading.Event()
    found: list[list[dict[str, Any]]] = [[], [], []]
    failed: list[BaseException] = []

    def write(envelopes: list[Any]) -> None:
        book = Book(rig.database, rig.keyring, rig.now)
        for each in envelopes:
            assert code(rig.send_one(each, book=book)) == "posted"

    def read(mine: list[dict[str, Any]]) -> None:
        feed, after = Uses(rig.database), 0
        try:
            while True:
                over = done.is_set()
                page = feed.after(after)
                mine += page.uses
                if over and page.next_n == after:
                    return
                after = page.next_n
        except BaseException as error:  # noqa: BLE001  told below
            failed.append(error)

    writers = [threading.Thread(target=write, args=[each]) for each in sent]
    readers = [threading.Thread(target=read, args=[each]) for each in found]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failed
    assert [each["n"] for each in found[0]] == list(range(1, 49))
    assert found[0] == found[1] == found[2]
    assert sorted(each["amount_minor"] for each in found[0]) == sorted([*range(10, 22)] * 4)


def test_more_than_one_answer_holds(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are given and told a part at a time, without a gap between the parts."""
    monkeypatch.setattr(uses, "USES_AT_ONCE", 3)
    monkeypatch.setattr(uses, "NUMBERED_AT_ONCE", 4)
    till, holder = rig.signer(), rig.holder()
    for n in range(10):
        rig.send_one(rig.redeem(till, holder, 100 + n))
    found = read_on(Uses(rig.database))
    assert [each["n"] for each in found] == list(range(1, 11))


def test_nobody_is_told_of_somebody_erased(rig: Rig) -> None:
    """Their uses are left out; the cursor passes over them, also when a whole page is theirs."""
    till, gone, there = rig.signer(), rig.holder(), rig.holder()
    for holder in (gone, gone, there):
        rig.now.forward(seconds=1)
        rig.send_one(rig.redeem(till, holder, 100))
    people = schema.beneficiaries
    with rig.database.write() as connection:
        connection.execute(delete(people).where(people.c.sub == gone.sub))
    found = read_on(Uses(rig.database))
    assert [(each["n"], each["sub"]) for each in found] == [(3, there.sub)]
    with rig.database.write() as connection:
        connection.execute(delete(people))
    assert Uses(rig.database).after(0) == ([], 3)


def test_money_and_issues_are_no_uses(rig: Rig) -> None:
    """Only redemptions and reversals: nothing is told of funding and issuing."""
    rig.holder()
    rig.office.fund(PROGRAMME, "red-cross", 5, "more")
    assert Uses(rig.database).after(0) == ([], 0)


def test_the_example_is_what_the_ledger_says(tmp_path: Path) -> None:
    """The protocol's example, asked for over HTTP."""
    mark = "<!-- executed by tests/ledger/test_uses.py -->"
    [example] = re.findall(rf"{mark}\n```json\n(.*?)```", PROTOCOL.read_text("utf-8"), re.DOTALL)
    with world(tmp_path) as made:
        secret = new_secret()
        made.ledger.operators.add("app", secret)
        family, till = made.family(), made.till()
        offer = till.propose(family.token(), [milk(6_000)])
        till.redeem(offer, checkout="E-1", cashier="c01")
        http = requests.Session()
        http.headers["Authorization"] = f"Bearer {secret}"
        answer = http.get(f"{made.url}/v1/operators/uses?after=0", timeout=10)
        expected = json.loads(example)
        expected["uses"][0]["sub"] = family.sub
        assert answer.json() == expected
        assert http.get(f"{made.url}/v1/operators/uses", timeout=10).json() == expected
        for odd in ("after=-1", "after=1.0", "after=", "after=1&after=2", "other=1", "after=01",
                    "after=9999999999999999", "after=%D9%A1"):  # fmt: skip
            refused = http.get(f"{made.url}/v1/operators/uses?{odd}", timeout=10)
            assert (odd, refused.status_code, refused.json()["code"]) == (odd, 400, "malformed")
        bare = requests.get(f"{made.url}/v1/operators/uses", timeout=10)
        assert (bare.status_code, bare.json()["code"]) == (401, "unauthorised")
