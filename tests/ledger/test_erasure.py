"""A person can be erased and told what is held; money, ids and answers stay (docs/privacy.md)."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from carepos import clock, pin
from carepos.keys import digest
from carepos_ledger import cards, held, schema
from carepos_ledger.actions import find
from carepos_ledger.cards import Card, Cards
from carepos_ledger.erasure import Erased, Erasure
from carepos_ledger.person import Who
from carepos_ledger.problems import Problem
from tests.ledger.rig import IMPORT_KEY_ID, ISSUER, PROGRAMME, RULES, Holder, Rig, code

ITEM: dict[str, Any] = {
    "kind": "item",
    "quantity": 6,
    "terms": {"unit": "piece", "cap_minor": 1_000, "fixed_minor": 0, "cap_quantity": 1},
}
ACTING = {
    "proxy": True, "witness": True, "household_minor": 9_000, "actor_minor": 9_000,
    "window_s": 86_400,
}  # fmt: skip


def erase(rig: Rig, who: Who | Holder, *, forfeit: bool = True, dry_run: bool = False) -> Erased:
    named = Who(ISSUER, who.sub, None, None) if isinstance(who, Holder) else who
    return Erasure(rig.database, rig.now).erase(
        named, forfeit=forfeit, operator="office", dry_run=dry_run
    )


def refused(rig: Rig, who: Who | Holder, **how: Any) -> str:
    """The code of the problem that erasing is, having changed nothing."""
    before = rig.tables()
    with pytest.raises(Problem) as caught:
        erase(rig, who, **how)
    assert rig.tables() == before
    return caught.value.code


def test_nothing_that_can_be_spent_is_taken_by_mistake(rig: Rig) -> None:
    """While a voucher holds anything, erasing wants to be told that it may go back."""
    holder = rig.holder()
    assert refused(rig, holder, forfeit=False) == "still_worth"
    before = rig.tables()
    said = erase(rig, holder, forfeit=False, dry_run=True)
    assert (said.vouchers, said.enrolments, said.forfeited_minor) == (1, 1, {PROGRAMME: 12_000})
    assert rig.tables() == before


def test_what_is_spent_or_over_needs_no_consent(rig: Rig) -> None:
    """A voucher that is used up or has expired holds nothing for anybody."""
    spent, expired, till = rig.holder(), rig.holder(), rig.signer()
    assert code(rig.send_one(rig.redeem(till, spent, 12_000))) == "posted"
    assert erase(rig, spent, forfeit=False).forfeited_minor == {}
    rig.now.forward(days=400)
    assert erase(rig, expired, forfeit=False).forfeited_minor == {PROGRAMME: 12_000}


def test_money_goes_back_and_every_sum_holds(rig: Rig) -> None:
    """What value and item vouchers still hold is unreserved again, by a posting that balances."""
    holder, till = rig.holder({}, ITEM), rig.signer()
    assert code(rig.send_one(rig.redeem(till, holder, 5_000))) == "posted"
    before = rig.office.programme_sums(PROGRAMME)
    erased = erase(rig, holder)
    after = rig.office.programme_sums(PROGRAMME)
    assert erased.forfeited_minor == {PROGRAMME: 7_000 + 6_000}
    assert after.unreserved_minor == before.unreserved_minor + 13_000
    assert (after.available_minor, after.returned_minor, after.redeemed_minor) == (0, 13_000, 5_000)
    assert after.quantities["piece"].returned == 6
    assert after.differences == before.differences == ()
    rig.holder({"amount_minor": after.unreserved_minor})  # it can be issued again


def on_their_pages(rig: Rig, holder: Holder, answered_at: str | None = None) -> None:
    """What the pages leave behind of somebody who looks, disputes a use and stops a voucher."""
    who = {"bucket": holder.bucket, "beneficiary": holder.beneficiary}
    at = clock.to_text(rig.now())
    with rig.database.write() as connection:
        for table, row in (
            (schema.holder_sessions,
             {**who, "session_sha256": "s" * 43, "opened_at": at, "new_after": 0, "has_left": 0}),
            (schema.holder_marks, {**who, "seen_n": 1}),
            (schema.voucher_stops,
             {"bucket": holder.bucket, "voucher": holder.voucher, "stopped_at": at}),
            (schema.disputes,
             {**who, "posting": "p", "reason": "not_me", "opened_at": at,
              "state": "open" if answered_at is None else "upheld", "answered_at": answered_at}),
        ):  # fmt: skip
            connection.execute(table.insert().values(**row))


def test_no_row_leads_from_a_person_to_their_vouchers(rig: Rig) -> None:
    """Neither the `sub`, a list's hash, a card, nor a name that two rows share only because they
    are one person's; the row of the list stays, so that it is issued once, and leads nowhere."""
    rig.programmes.put_programme({**RULES, "acting": ACTING})
    holder, till = rig.holder({}, {}), rig.signer()
    verifier = pin.verifier(digest(b"proof"))
    Cards(rig.database, rig.now).put(ISSUER, digest(b"card"), holder.sub, verifier)
    acts = {"act": {"sub": "actor-1"}, "care_reason": "frail"}
    sale = rig.redeem(till, holder, 100, token_text=rig.token(holder, **acts))
    assert code(rig.send_one(sale)) == "posted"
    on_their_pages(rig, holder)
    [one, two] = rig.tables(["issues"])["issues"]
    erase(rig, holder)
    rows = json.dumps(rig.tables(), default=str)
    postings = [digest(f"carepos/issue/v1|{PROGRAMME}|{r['ref']}".encode()) for r in (one, two)]
    for name in (holder.sub, holder.beneficiary, *postings):
        assert name not in rows
    for row in rig.tables(["issues"])["issues"]:
        assert (row["bucket"], row["voucher"]) == (0, "")
    left = rig.counts()  # the rig leaves the second row's own beneficiary behind
    assert (left.get("cards"), left["beneficiaries"], left["enrolments"]) == (None, 1, 1)
    assert not {"holder_sessions", "holder_marks", "voucher_stops"} & left.keys()
    assert [row["reason"] for row in rig.tables(["disputes"])["disputes"]] == ["not_me"]
    assert len({row["beneficiary"] for row in rig.tables(["vouchers"])["vouchers"]}) == 2
    assert rig.differences() == ()


def test_erasing_beside_sales_and_a_new_list(rig: Rig) -> None:
    """A sale that comes at the same moment is posted before it or refused after it; a voucher that
    is issued meanwhile is the person's and goes too, or a stranger's. No money is left nowhere."""
    rig.programmes.put_programme({**RULES, "programme": "winter"})
    rig.office.fund("winter", "red-cross", 500_000, "grant-9")
    till = rig.signer()
    for _ in range(6):
        holder = rig.holder()
        [ref] = {
            row["ref"]
            for row in rig.tables(["enrolments"])["enrolments"]
            if row["beneficiary"] == holder.beneficiary
        }
        row = {**rig.row({}), "ref": ref}
        sales = [rig.redeem(till, holder, 100) for _ in range(3)]
        erasing = threading.Thread(target=erase, args=[rig, holder])
        issuing = threading.Thread(target=rig.office.issue, args=["winter", IMPORT_KEY_ID, [row]])
        erasing.start()
        issuing.start()
        answers = {code(each) for each in rig.side_by_side(sales)}
        erasing.join()
        issuing.join()
        assert answers <= {"posted", "voucher_unknown"}
        assert rig.balance(holder.voucher) == (0, 0, 0)
    people = {row["beneficiary"] for row in rig.tables(["beneficiaries"])["beneficiaries"]}
    for voucher in rig.tables(["vouchers"])["vouchers"]:
        assert voucher["beneficiary"] in people or voucher["available_minor"] == 0
    assert rig.differences() == rig.office.programme_sums("winter").differences == ()


def test_an_actor_is_erased_too(rig: Rig) -> None:
    """Somebody who only came for others can be erased; what they were paid still counts, under a
    name of no one."""
    rig.programmes.put_programme({**RULES, "acting": ACTING})
    holder, till = rig.holder(), rig.signer()
    acts = {"act": {"sub": "actor-1"}, "care_reason": "frail"}
    rig.send_one(rig.redeem(till, holder, 100, token_text=rig.token(holder, **acts)))
    known = digest(f"{ISSUER}|actor-1".encode())
    assert erase(rig, Who(ISSUER, "actor-1", None, None)).acted == 1
    [acted], [actor] = rig.tables(["acted"])["acted"], rig.tables(["actors"])["actors"]
    assert acted["actor_sha256"] == actor["actor_sha256"] != known
    assert (acted["amount_minor"], acted["beneficiary"]) == (100, holder.beneficiary)
    assert refused(rig, Who(ISSUER, "actor-1", None, None)) == "not_found"


def test_an_actor_who_is_paid_at_that_moment_is_erased_too(rig: Rig) -> None:
    """What is booked while somebody is erased is kept under the name of no one, like all before."""
    rig.programmes.put_programme({**RULES, "acting": ACTING})
    acts = {"act": {"sub": "actor-1"}, "care_reason": "frail"}
    sales = [
        rig.redeem(rig.signer(), holder, 100, token_text=rig.token(holder, **acts))
        for holder in (rig.holder(), rig.holder())
    ]
    assert code(rig.send_one(sales[0])) == "posted"
    actor = Who(ISSUER, "actor-1", None, None)
    answer, _ = rig.before_commit(sales[1], lambda: erase(rig, actor))
    assert code(answer) == "posted"
    assert {row["actor_sha256"] for row in rig.tables(["acted"])["acted"]} == {
        rig.tables(["actors"])["actors"][0]["actor_sha256"]
    }
    assert refused(rig, actor) == "not_found"


def test_no_card_outlives_its_holder(rig: Rig) -> None:
    """A card that is told while its holder is erased is told before it and goes too, or it is
    refused: it never stands in the way of the card's next holder."""
    holder, told = rig.holder(), Cards(rig.database, rig.now)
    card = Card(ISSUER, digest(b"card"), holder.sub, pin.verifier(digest(b"proof")))
    with ThreadPoolExecutor(1) as pool:
        with rig.database.write() as connection:
            assert cards.put_in(connection, card) == "created"
            erasing = pool.submit(erase, rig, holder)
            rig.until_it_waits(erasing)
        assert erasing.result().vouchers == 1
    assert "cards" not in rig.counts()
    with pytest.raises(Problem) as caught:
        told.put(card.iss, card.jti_sha256, card.sub, card.pin_verifier)
    assert caught.value.code == "not_found"
    told.put(card.iss, card.jti_sha256, rig.holder().sub, card.pin_verifier)


def test_a_pin_that_is_being_proved_opens_nothing_that_stays(rig: Rig) -> None:
    """Neither the visit that it opens nor the card outlives the person."""
    holder, card = rig.holder(), {"iss": ISSUER, "jti_sha256": digest(b"card")}
    Cards(rig.database, rig.now).put(**card, sub=holder.sub, pin_verifier=digest(b"verifier"))
    visit = {"terminal": "t-1", "proved_at": clock.to_text(rig.now())}
    with ThreadPoolExecutor(1) as pool:
        with rig.database.write() as connection:
            assert find(connection, schema.cards, card, for_update=True)
            erasing = pool.submit(erase, rig, holder)
            rig.until_it_waits(erasing)
            connection.execute(
                schema.pin_visits.insert().values(bucket=holder.bucket, **card, **visit)
            )
        assert erasing.result().cards == 1
    assert not {"cards", "pin_visits"} & rig.counts().keys()


def test_a_row_of_a_list_names_a_person(rig: Rig) -> None:
    """An office that has the list and its import key needs no `sub`; nobody is erased twice."""
    rig.holder()
    [row] = rig.tables(["issues"])["issues"]
    who = Who(ISSUER, None, IMPORT_KEY_ID, row["ref"])
    for wrong in (
        Who(ISSUER, None, "f" * 16, row["ref"]),
        Who("https://other.test", None, IMPORT_KEY_ID, row["ref"]),
        Who(ISSUER, "stranger", None, None),
    ):
        assert refused(rig, wrong) == "not_found"
    assert erase(rig, who).vouchers == 1
    assert refused(rig, who) == "not_found"


def test_what_was_answered_stays_and_nothing_new_is(rig: Rig) -> None:
    """A sale's outcome is served as before, it can still be reversed, and a code of the erased
    person finds nothing (INV-1)."""
    holder, till = rig.holder(), rig.signer()
    sale, other = rig.redeem(till, holder, 500), rig.redeem(till, holder, 700)
    first, second = rig.send_one(sale), rig.send_one(other)
    erase(rig, holder)
    assert rig.send_one(sale).jws == first.jws
    assert code(rig.send_one(till.reversal(rig.read(other)))) == "reversed"
    assert rig.send_one(other).jws == second.jws
    assert code(rig.send_one(rig.redeem(till, holder, 1))) == "voucher_unknown"
    assert rig.differences() == ()


def test_a_later_list_meets_a_stranger(rig: Rig) -> None:
    """The same programme never issues the row again; another one issues to a new person."""
    rig.holder()
    [issued] = rig.tables(["issues"])["issues"]
    row = {**rig.row({}), "ref": issued["ref"]}
    [sub] = {each["sub"] for each in rig.tables(["beneficiaries"])["beneficiaries"]}
    erase(rig, Who(ISSUER, sub, None, None))
    [again] = rig.office.issue(PROGRAMME, IMPORT_KEY_ID, [row])
    assert (again.result, again.sub) == ("already_issued", None)
    rig.programmes.put_programme({**RULES, "programme": "winter"})
    rig.office.fund("winter", "red-cross", 20_000, "grant-9")
    [new] = rig.office.issue("winter", IMPORT_KEY_ID, [row])
    assert new.result == "issued" and new.sub not in (None, sub)
    assert rig.office.programme_sums("winter").differences == ()


def test_it_is_written_down_that_somebody_was_erased_and_not_who(rig: Rig) -> None:
    """When, by which operator, how much: an audit can be answered without the person."""
    holder = rig.holder()
    erase(rig, holder)
    [noted] = rig.tables(["erasures"])["erasures"]
    assert noted["operator"] == "office"
    assert json.loads(noted["erased"])["forfeited_minor"] == {PROGRAMME: 12_000}
    assert holder.sub not in repr(noted) and holder.voucher not in repr(noted)


def test_a_person_is_told_what_is_held(rig: Rig) -> None:
    """Vouchers with every booking, lists, cards and tries; nobody else's name, no PIN verifier."""
    rig.programmes.put_programme({**RULES, "acting": ACTING})
    holder, till = rig.holder(), rig.signer()
    Cards(rig.database, rig.now).put(
        ISSUER, digest(b"card"), holder.sub, verifier := pin.verifier(digest(b"proof"))
    )
    rig.now.forward(seconds=1)
    acts = {"act": {"sub": "actor-1"}, "care_reason": "frail"}
    rig.send_one(rig.redeem(till, holder, 700, token_text=rig.token(holder, **acts)))
    on_their_pages(rig, holder)
    told = held.export(rig.database, Who(ISSUER, holder.sub, None, None), rig.now)
    [voucher] = told["vouchers"]
    assert [(each["kind"], each["moved"]) for each in voucher["history"]] == [
        ("issue", {"CNY": 12_000}), ("redeem", {"CNY": -700}),
    ]  # fmt: skip
    assert voucher["stopped_by_me_at"] == clock.to_text(rig.now())
    assert voucher["history"][1]["store"] == "zhou-shop"
    assert voucher["history"][1]["lines"][0]["category"] == "dairy"
    assert told["acted_for_me"][0]["reason"] == "frail"
    assert told["cards"][0]["wrong_tries"] == 0
    assert len(told["lists"]) == 1
    assert told["disputes"][0]["reason"] == "not_me"
    shown = json.dumps(told)
    assert digest(f"{ISSUER}|actor-1".encode()) not in shown
    assert verifier not in shown and holder.beneficiary not in shown
    [actors] = [held.export(rig.database, Who(ISSUER, "actor-1", None, None), rig.now)]
    assert actors["acted_by_me"][0]["amount_minor"] == 700 and actors["vouchers"] == []


def test_what_was_erased_is_gone_from_the_sqlite_file(rig: Rig) -> None:
    """Not from free pages, nor from the write-ahead log: the file does not hold the bytes."""
    if not rig.database.is_sqlite:
        # PostgreSQL says what it does: dead rows until VACUUM FULL (docs/privacy.md).
        assert rig.database.clear_log() is False
        return
    path = Path(str(rig.database.url.database))
    holders = [rig.holder() for _ in range(60)]
    gone, kept = holders[20:40], [*holders[:20], *holders[40:]]
    refs = {each["ref"]: each["beneficiary"] for each in rig.tables(["enrolments"])["enrolments"]}
    for holder in gone:
        erase(rig, holder)
    assert rig.database.clear_log()
    data = b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))
    for holder in gone:
        assert not re.search(re.escape(holder.sub.encode()), data)
        assert holder.beneficiary.encode() not in data
    assert all(holder.sub.encode() in data for holder in kept)
    assert refs
