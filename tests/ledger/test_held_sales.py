"""Sales that went out of the door and that only people can decide: bad tokens, stopped tills
(docs/offline.md §8, §9)."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from carepos import pin
from carepos.acceptance import AcceptOffline, ReturnAllotment
from carepos.evidence import seal
from carepos.ids import new_attempt_id
from carepos.keys import digest
from carepos.outcome import HeldReason, Outcome
from carepos.record import Record
from carepos_ledger import held
from carepos_ledger.book import Book
from carepos_ledger.cards import Cards
from carepos_ledger.erasure import Erasure
from carepos_ledger.held_list import HeldList
from carepos_ledger.person import Who
from carepos_ledger.problems import Problem
from carepos_ledger.retention import Retention
from tests.ledger.rig import ISSUER, PROGRAMME, RULES, Envelope, Holder, Rig, Signer, code
from tests.ledger.test_acceptances import (
    FLOOR,
    exceptions,
    merchants_risk,
    sent,
    short,
    use,
)
from tests.ledger.test_allotments import DAY, OFFLINE, Shop
from tests.ledger.test_held import (
    Boom,
    decided_but_not_committed,
    number,
    post,
    problem,
    refuse,
    row_of,
    words,
)


@pytest.fixture
def shop(rig: Rig) -> Shop:
    made = Shop(rig, floor={**FLOOR, "liability": "programme"})
    rig.office.reserve_for_losses(PROGRAMME, 4_000, "losses-1")
    return made


def bad(shop: Shop, holder: Holder, minor: int = 5_000, **more: Any) -> list[Envelope]:
    """A sale to a code that was over before it was shown."""
    rig = shop.rig
    rig.now.forward(days=1)
    old = rig.token(holder, issued_at=rig.now())
    rig.now.forward(days=1)
    return rig.offline_sale(shop.till, holder, minor, token_text=old, **more)


def reasons(answers: list[Outcome]) -> list[tuple[str, HeldReason | None]]:
    return [(each.result, each.reason) for each in answers]


def statuses(rig: Rig, till: Signer, status: str) -> None:
    rig.terminals.set_status(till.terminal, status)


# ── held where it is judged ────────────────────────────────────────────────────────────────────


def test_a_bad_token_is_held_with_what_it_paid_for(shop: Shop) -> None:
    """Sale and acceptance are kept, signed for, the same whenever they come again; nothing is
    booked, no id is used up, and nothing is refused: the goods are gone."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    before = rig.counts()
    answers = sent(rig, sold)
    assert reasons(answers) == [("held", "token")] * 2
    assert [each.kind for each in answers] == ["redeem", "accept_offline"]
    rig.now.forward(hours=1)
    assert sent(rig, sold) == answers and sent(rig, sold[::-1]) == answers[::-1]
    after = rig.counts()
    assert after["held_records"] == 2 and after["terminal_notes"] == 2
    assert {name: after[name] for name in before} == before
    assert rig.balance(holder.voucher) == (12_000, 0, 0) and exceptions(rig) == []
    for envelope, answer in zip(sold, answers, strict=True):
        row = row_of(rig, envelope)
        assert bytes(row["jws"]).decode() == envelope["record"] and row["outcome"] == answer.jws


def test_nothing_of_the_token_is_kept(shop: Shop) -> None:
    """Neither the code nor whom it named; of whom the sale is stands in its vouchers."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    sent(rig, sold)
    row = row_of(rig, sold[0])
    assert (row["beneficiary"], row["late"]) == (holder.beneficiary, 1)
    kept = json.dumps({name: str(value) for name, value in row.items()})
    for secret in (holder.sub, "visit-", sold[0]["evidence"]):
        assert secret not in kept


def test_a_pin_that_is_not_proved_is_held(shop: Shop) -> None:
    """With no proof or another PIN's; with the card's own the sale is booked."""
    rig, holder = shop.rig, shop.at_home()
    rules = {**RULES, "classes": ["card", "once"], "amr_any": ["pin", "face"]}
    rule = {**OFFLINE, "floor": {**FLOOR, "liability": "programme"}}
    rig.programmes.put_programme({**rules, "offline": rule})
    right, wrong = (
        pin.proof(each, iss=ISSUER, jti="card-1", card_secret="c" * 22) for each in ("2580", "2581")
    )
    Cards(rig.database, rig.now).put(ISSUER, digest(b"card-1"), holder.sub, pin.verifier(right))
    card = rig.token(
        holder, jti="card-1", token_class="card", lifetime_s=DAY, amr=("carepos:card",)
    )
    for proof, answer in ((None, "token"), (wrong, "token"), (right, None)):
        sold = rig.offline_sale(shop.till, holder, 100, token_text=card, pin_proof=proof)
        assert {each.reason for each in sent(rig, sold)} == {answer}
        if answer is not None:
            [listed] = [
                each for each in listing(rig) if each["record_sha256"] == rig.read(sold[0]).digest
            ]
            assert listed["token"] == "pin_required"
    assert rig.balance(holder.voucher) == (11_900, 0, 0)


def listing(rig: Rig) -> list[dict[str, Any]]:
    return HeldList(rig.database).listed()


def test_what_nobody_can_read_is_held_and_closed(shop: Shop) -> None:
    """Signed, and of a programme that there is not: by no word it is booked, but it is not lost
    either; it ends as an exception."""
    rig, holder = shop.rig, shop.at_home()
    sold = rig.offline_sale(shop.till, holder, 100, programme="no-such", liability="merchant")
    assert reasons(sent(rig, sold)) == [("held", "malformed")] * 2
    assert problem(lambda: post(rig, sold[0])).code == "malformed"
    assert reasons(sent(rig, sold)) == [("held", "malformed")] * 2
    refuse(rig, sold[1])
    answers = sent(rig, sold)
    assert [(each.result, code(each), each.liability) for each in answers] == [
        ("exception", "not_accepted", "merchant")
    ] * 2


def test_a_token_of_somebody_else_is_held(shop: Shop) -> None:
    """The record says one person and its code another: malformed. A person may still book it."""
    rig, holder, other = shop.rig, shop.at_home(), shop.at_home()
    sold = rig.offline_sale(shop.till, holder, 100, token_text=rig.token(other))
    assert reasons(sent(rig, sold)) == [("held", "malformed")] * 2
    assert listing(rig)[0]["token"] == "voucher_unknown"
    assert row_of(rig, sold[0])["beneficiary"] == holder.beneficiary
    post(rig, sold[0])
    assert [each.result for each in sent(rig, sold)] == ["posted"] * 2
    assert rig.balance(other.voucher) == (12_000, 0, 0)


def test_an_undo_waits_until_the_held_sale_before_it_is_decided(shop: Shop) -> None:
    """A void of a sale that nobody has decided is not decided either; a day report needs only that
    everything came."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    sent(rig, sold)
    void = shop.till.void(rig.read(sold[0]))
    [said] = rig.send(void)
    assert said == "sequence_gap"
    assert words(rig, shop.till.day_report()) == ["posted"]
    post(rig, sold[0])
    answer = rig.send_one(void)
    assert (answer.result, answer.amount_minor) == ("posted", 5_000)


def test_a_second_acceptance_is_not_judged_beside_the_first(shop: Shop) -> None:
    """A till has one choice: the first names another sale, so both wait for a person."""
    rig, holder = shop.rig, shop.at_home()
    sale, first = rig.offline_sale(shop.till, holder, 100)
    wrong = shop.till.sign(AcceptOffline("B" * 43, "programme", "A" * 43, ()), rig.read(sale).id)
    assert reasons(sent(rig, [sale, {**first, "record": wrong.jws}])) == [("held", "malformed")] * 2
    assert reasons(sent(rig, [sale, first])) == [("held", "malformed")] * 2
    assert rig.balance(holder.voucher) == (12_000, 0, 0)
    post(rig, sale)
    assert [each.result for each in sent(rig, [sale, first])] == ["posted"] * 2
    refuse(rig, wrong)
    assert sent(rig, [{**first, "record": wrong.jws}])[0].result == "exception"


# ── stopped tills ──────────────────────────────────────────────────────────────────────────────


def test_a_suspended_till_is_not_decided_but_for_what_gives_back(shop: Shop) -> None:
    """Stored outcomes are served and reversals applied; other online records are the 403 problem,
    their ids not used up; what went out of the door is held. Resumed, it goes on, and what was held
    waits for a person still."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    till = shop.till
    stored, undone = rig.redeem(till, holder, 100), rig.redeem(till, holder, 200)
    posted, _ = (rig.send_one(each) for each in (stored, undone))
    statuses(rig, till, "suspended")
    sold = rig.offline_sale(till, holder, 1_000, uses=[use(holder, 1_000)])
    online = rig.redeem(till, holder, 300)
    void = till.void(rig.read(stored))
    refund = till.refund(rig.read(stored), (1, 1))
    back = till.sign(
        ReturnAllotment(((holder.voucher, 1),)), new_attempt_id(holder.bucket, rig.now())
    )
    day = till.day_report()
    assert rig.send_one(stored) == posted
    assert rig.send_one(till.reversal(rig.read(undone))).amount_minor == 200
    not_decided: list[Envelope | Record] = [online, void, refund, back, till.start(), day]
    assert words(rig, *not_decided) == ["terminal_suspended"] * len(not_decided)
    assert reasons(sent(rig, sold)) == [("held", "terminal_suspended")] * 2
    assert rig.balance(holder.voucher)[0] == 12_000 - 6_000 - 100
    statuses(rig, till, "active")
    assert reasons(sent(rig, sold)) == [("held", "terminal_suspended")] * 2
    assert words(rig, online) == ["posted"]
    # A return waits for what may have drawn on the allotment.
    assert words(rig, back, void) == ["sequence_gap"] * 2
    post(rig, sold[1])
    assert sent(rig, sold)[0].vouchers[0].from_allotment_minor == 1_000


@pytest.mark.parametrize("status", ["revoked", "forked"])
def test_everything_of_a_quarantined_till_is_held(shop: Shop, status: str) -> None:
    """Its sales, voids, refunds and returns, online or not; nothing moves until a person says."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    till = shop.till
    stored = rig.redeem(till, holder, 100)
    posted = rig.send_one(stored)
    stop(rig, till, status)
    sold = rig.offline_sale(till, holder, 1_000, uses=[use(holder, 1_000)])
    back = till.sign(
        ReturnAllotment(((holder.voucher, 1),)), new_attempt_id(holder.bucket, rig.now())
    )
    others: list[Envelope | Record] = [
        rig.redeem(till, holder, 300),
        till.void(rig.read(stored)),
        till.refund(rig.read(stored), (1, 1)),
        back,
        till.reversal(rig.read(stored)),
    ]
    before = rig.balance(holder.voucher)
    assert reasons(sent(rig, sold)) == [("held", f"terminal_{status}")] * 2
    assert words(rig, *others) == ["held"] * len(others)
    assert rig.send_one(stored) == posted and rig.balance(holder.voucher) == before
    shown = {each["record_sha256"]: each for each in listing(rig)}
    assert (
        shown[rig.read(sold[0]).digest]["token"] == "proved"
        and shown[rig.read(sold[0]).digest]["sold_offline"]
    )
    # The allotment is given back only when what drew on it is decided.
    assert problem(lambda: post(rig, back)).code == "sequence_gap"
    post(rig, sold[0])
    sale, accepted = sent(rig, sold)
    assert [state.from_allotment_minor for state in (*sale.vouchers, *accepted.vouchers)] == [
        1_000
    ] * 2


def stop(rig: Rig, till: Signer, status: str) -> None:
    """Revoked by an operator, or forked by a second line of its chain."""
    if status == "revoked":
        statuses(rig, till, status)
        return
    first, second = replace(till).start(), replace(till).start()
    assert words(rig, first, second) == ["posted", "held"]
    till.sequence, till.prev = first.sequence, first.digest


def test_the_evidence_of_a_held_sale_may_come_later(shop: Shop) -> None:
    """Somebody replays the records of a stopped till without it: the till's own copy brings the
    proof, and one word decides both."""
    rig, holder = shop.rig, shop.at_home()
    statuses(rig, shop.till, "revoked")
    sold = rig.offline_sale(shop.till, holder, 1_000)
    bare = [{"record": each["record"]} for each in sold]
    answers = sent(rig, bare)
    assert problem(lambda: post(rig, sold[0])).code == "malformed"
    assert sent(rig, sold) == answers
    post(rig, sold[0])
    assert [each.result for each in sent(rig, bare)] == ["posted"] * 2


def test_half_of_a_pair_is_decided_by_what_there_is(shop: Shop) -> None:
    """A sale whose acceptance never came, an acceptance whose sale never came: nobody can book
    them; a person closes them."""
    rig, holder = shop.rig, shop.at_home()
    statuses(rig, shop.till, "revoked")
    first, second = (rig.offline_sale(shop.till, holder, 100) for _ in range(2))
    assert words(rig, first[0], second[1]) == ["held"] * 2
    for half in (first[0], second[1]):
        assert problem(lambda half=half: post(rig, half)).code == "acceptance_missing"  # type: ignore[misc]
        refuse(rig, half)
    closed = [each.result for each in sent(rig, [first[0], second[1]])]
    assert closed == ["exception"] * 2


# ── decided by a person ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("by", [0, 1])
def test_one_word_books_the_sale_and_its_acceptance(shop: Shop, by: int) -> None:
    """Whichever of the two is named: within its allotment it is paid in full; the word stands for
    the token. Said again it changes nothing, and the other word is refused."""
    rig, holder = shop.rig, shop.at_home()
    shop.pack()
    sold = bad(shop, holder, 5_000, uses=[use(holder, 5_000)])
    sent(rig, sold)
    assert shop.pay(holder, 6_000, rig.signer()).result == "posted"
    assert post(rig, sold[by]) == "changed"
    answers = sent(rig, sold)
    assert [(each.result, each.kind) for each in answers] == [
        ("posted", "redeem"),
        ("posted", "accept_offline"),
    ]
    assert {state.from_allotment_minor for each in answers for state in each.vouchers} == {5_000}
    for each in sold:
        assert post(rig, each) == "exists"
        assert problem(lambda each=each: refuse(rig, each)).code == "already_exists_differently"  # type: ignore[misc]
        row = row_of(rig, each)
        assert (row["jws"], row["proof"], row["beneficiary"]) == (None, None, None)
        assert (row["operator"], row["decision"]) == ("wang", "post")
    assert sent(rig, sold) == answers and listing(rig) == []
    assert rig.balance(holder.voucher) == (0, 0, 0)


def test_what_vouchers_do_not_cover_then_is_short(shop: Shop) -> None:
    """It is judged by what is there when the person decides; the loss is listed as always."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder, 5_000)
    sent(rig, sold)
    assert shop.pay(holder, 10_000, rig.signer()).result == "posted"
    post(rig, sold[0])
    sale, accepted = sent(rig, sold)
    assert short(sale) == short(accepted) == ("posted_short", 2_000, 3_000, "programme")
    assert exceptions(rig) == [("posted_short", 3_000, "programme")]


def test_what_the_till_knew_is_an_exception_all_the_same(shop: Shop) -> None:
    """A person's word stands for the token, not for the rules."""
    rig = shop.rig
    holder = shop.at_home({"expires_at": "2026-11-22T08:00:00.000Z"})
    sold = bad(shop, holder, 100)
    sent(rig, sold)
    post(rig, sold[0])
    assert [code(each) for each in sent(rig, sold)] == ["voucher_expired"] * 2
    assert exceptions(rig) == [("voucher_expired", 100, "programme")]


def test_a_word_pays_from_nobody_elses_voucher(shop: Shop) -> None:
    """Whoever writes another family's voucher beside this one's name: no word books it."""
    rig, holder, other = shop.rig, shop.at_home(), shop.at_home()
    sold = bad(shop, holder, beneficiary=rig.reference(shop.till, other))
    sent(rig, sold)
    post(rig, sold[0])
    assert [code(each) for each in sent(rig, sold)] == ["voucher_unknown"] * 2
    assert rig.balance(holder.voucher) == rig.balance(other.voucher) == (12_000, 0, 0)


@pytest.mark.parametrize("by", [0, 1])
def test_one_that_is_not_accepted_is_an_exception(shop: Shop, by: int) -> None:
    """Both of it, with the code, and who bears it as the receipt says. Nothing is booked, nobody
    has to look again, and no other sale is booked under its id."""
    rig, holder = shop.rig, shop.at_home()
    merchants_risk(shop)
    sold = bad(shop, holder, liability="merchant")
    sent(rig, sold)
    assert refuse(rig, sold[by], code="token_revoked") == "changed"
    answers = sent(rig, sold)
    assert [(each.result, code(each), each.liability) for each in answers] == [
        ("exception", "token_revoked", "merchant")
    ] * 2
    assert exceptions(rig) == [] and rig.balance(holder.voucher) == (12_000, 0, 0)
    again = rig.redeem(shop.till, holder, 100, attempt_id=rig.read(sold[0]).id)
    assert words(rig, again) == ["id_content_mismatch"]
    assert problem(lambda: post(rig, sold[1 - by])).code == "already_exists_differently"


def test_one_whose_sale_was_refused_before(shop: Shop) -> None:
    """The ledger had refused it, the answer was lost: that answer stands, and the acceptance has
    its own, whether it is judged at once or held and posted."""
    rig, holder = shop.rig, shop.at_home()
    for held_first in (False, True):
        online = rig.redeem(shop.till, holder, 13_000 if held_first else 12_500)
        refused = rig.send_one(online)
        assert code(refused) == "balance_insufficient"
        sale = rig.read(online)
        accept = shop.till.sign(AcceptOffline(sale.digest, "programme", "A" * 43, ()), sale.id)
        evidence = seal(
            online["token"],
            key=rig.keyring.evidence_key,
            terminal=shop.till.terminal,
            attempt_id=sale.id,
        )
        sold = [{"record": each.jws, "evidence": evidence} for each in (sale, accept)]
        if held_first:
            statuses(rig, shop.till, "suspended")
            first, second = sent(rig, sold)
            assert first == refused and second.reason == "terminal_suspended"
            statuses(rig, shop.till, "active")
            post(rig, accept)
        first, second = sent(rig, sold)
        assert first == refused
        # 12 000 of the voucher and 500 of the reserve; then the reserve does not hold 13 000.
        assert second.result == ("exception" if held_first else "posted_short")
        assert sent(rig, sold) == [first, second]
    assert rig.balance(holder.voucher) == (0, 0, 0) and rig.differences() == ()


def test_one_that_was_reversed_meanwhile(shop: Shop) -> None:
    """A reversal leaves its tombstone whatever is held: the word comes too late."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    sent(rig, sold)
    assert rig.send_one(shop.till.reversal(rig.read(sold[0]))).result == "reversed"
    post(rig, sold[0])
    assert [code(each) for each in sent(rig, sold)] == ["reversed", "already_undone"]
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_people_decide_both_halves_at_once(shop: Shop) -> None:
    """Two operators, each with one of the two, with different words: one of them is heard."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    sent(rig, sold)
    numbers = [number(rig, each) for each in sold]

    def say(word: Callable[[], str]) -> str:
        try:
            return word()
        except Problem as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        said = list(
            pool.map(
                say,
                [
                    lambda: post(rig, sold[0]),
                    lambda: refuse(rig, sold[1]),
                    lambda: post(rig, sold[1]),
                    lambda: refuse(rig, sold[0]),
                ],
            )
        )
    assert sorted(said) == ["already_exists_differently"] * 2 + ["changed", "exists"]
    decisions = {row["decision"] for row in rig.tables(["held_records"])["held_records"]}
    assert len(decisions) == 1 and len(numbers) == 2
    left = rig.balance(holder.voucher)[0]
    assert left == (7_000 if decisions == {"post"} else 12_000)


@pytest.mark.parametrize("point", ["written", "committed"])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_ledger_that_dies_while_a_person_decides_both(
    shop: Shop, point: str, accepted: bool
) -> None:
    """The word, both outcomes and the posting are there, or none of them."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    answers = sent(rig, sold)

    def reached(name: str) -> None:
        if name == point:
            raise Boom

    with pytest.raises(Boom):
        rig.rule_on(rig.read(sold[1]), post=accepted, book=rig.new_book(reached))
    rig.new_book()
    is_done = point == "committed"
    assert (sent(rig, sold) != answers) == is_done
    assert rig.rule_on(rig.read(sold[0]), post=accepted) == ("exists" if is_done else "changed")
    assert rig.balance(holder.voucher) == (7_000 if accepted else 12_000, 0, 0)


@pytest.mark.parametrize("accepted", [True, False])
def test_both_come_again_while_a_person_decides_them(shop: Shop, accepted: bool) -> None:
    """They wait for the word, and are told the final outcome, also where they were noted before it:
    never judged beside it."""
    rig, holder = shop.rig, shop.at_home()
    final = "posted" if accepted else "exception"
    first, second = bad(shop, holder, 5_000), bad(shop, holder, 1_000)
    sent(rig, first)
    sent(rig, second)
    with ThreadPoolExecutor(1) as pool, decided_but_not_committed(rig, first[0], accepted) as end:
        other = Book(rig.database, rig.keyring, rig.now)
        again = pool.submit(rig.send, *first, book=other)
        rig.until_it_waits(again)
        assert end() == "changed"
        assert [code(each) for each in again.result()] == [answer_word(final)] * 2

    def reached(point: str) -> None:
        if point == "noted":
            assert rig.rule_on(rig.read(second[1]), post=accepted) == "changed"

    late = rig.send(*second, book=Book(rig.database, rig.keyring, rig.now, reached))
    assert [code(each) for each in late] == [answer_word(final)] * 2
    assert rig.balance(holder.voucher) == (6_000 if accepted else 12_000, 0, 0)


def answer_word(result: str) -> str:
    return "not_accepted" if result == "exception" else result


# ── people and time ────────────────────────────────────────────────────────────────────────────


def test_a_person_is_told_of_it_and_erased_from_it(shop: Shop) -> None:
    """Also where the token proved nobody: of whom the sale is stands in its vouchers. Afterwards
    it can be decided still, and finds nobody."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder)
    sent(rig, sold)
    who = Who(ISSUER, holder.sub, None, None)
    [told] = held.export(rig.database, who, rig.now)["waiting_to_be_decided"]
    assert (told["kind"], told["reason"]) == ("redeem", "token")
    Erasure(rig.database, rig.now).erase(who, forfeit=True, operator="wang")
    assert row_of(rig, sold[0])["beneficiary"] == ""
    post(rig, sold[0])
    answers = sent(rig, sold)
    assert [(each.result, code(each)) for each in answers] == [("exception", "voucher_unknown")] * 2


def test_what_nobody_has_decided_of_it_is_kept(shop: Shop) -> None:
    """However long it waits; decided, only that there was a word goes with the dispute period."""
    rig, holder = shop.rig, shop.at_home()
    sold = bad(shop, holder, 100)
    sent(rig, sold)

    def retain() -> int:
        for bucket in range(0, 4096, 128):
            Retention(rig.database, rig.now, 180).step(bucket)
        return rig.counts().get("held_records", 0)

    rig.now.forward(days=400)
    assert retain() == 2
    refuse(rig, sold[0])
    final = sent(rig, sold)
    assert retain() == 2
    rig.now.forward(days=181)
    assert retain() == 0
    assert sent(rig, sold) == final
