"""Printed cards with a PIN, and who collects for another: docs/identity.md sections 7 and 8 over
HTTP, against a ledger written from the page alone and against the product's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contract_ledgers import VALUE, ContractLedger
from tests.contract_office import (
    LIMITS,
    Office,
    acting_office,
    collect,
    office,
    pack_of,
    posted,
    refusal,
    told,
    tried,
)
from tests.contract_till import ContractTill
from tests.contract_visit import LEDGERS, Visit, till_of
from tests.second_signing import b64


@pytest.fixture(scope="module", params=LEDGERS)
def ledger(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    with LEDGERS[request.param]() as made:
        yield made


@pytest.fixture(scope="module")
def till(ledger: ContractLedger) -> ContractTill:
    return till_of(ledger)


@pytest.fixture(scope="module")
def neighbour(ledger: ContractLedger) -> ContractTill:
    """A terminal of another merchant."""
    return till_of(ledger, "shop-w")


@pytest.fixture(scope="module")
def usual(ledger: ContractLedger) -> Office:
    """An office that takes care codes and cards, and lets nobody act."""
    return office(ledger)


# Section 7: card and PIN.


def test_a_printed_card_without_its_pin_is_worth_nothing(usual: Office, till: ContractTill) -> None:
    """A photograph of it is no money, at lookup and in a redeem."""
    sub = usual.family()
    assert told(usual.visit(till, sub, usual.printed(sub).token)) == "pin_required"


def test_a_right_pin_opens_a_visit_of_fifteen_minutes_at_one_terminal(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """In it the card may be looked up and redeemed, the last instant included; nowhere else."""
    sub = usual.family()
    card = usual.printed(sub)
    found = till.lookup(card.token, card.proof())
    there = Visit(till, sub, card.token, found, usual.name)
    assert posted(there, 1_000)
    assert told(usual.visit(neighbour, sub, card.token)) == "pin_required"
    usual.ledger.now.forward(minutes=15)
    assert till.lookup(card.token)["visit_until"] == found["visit_until"]
    sale = there.milk(1_000)
    first = till.outcome(sale)
    assert first["result"] == "posted"
    usual.ledger.now.forward(seconds=1)
    assert told(there) == "pin_required"
    assert till.outcome(sale) == first


def test_a_card_is_used_again_and_again(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """Proved at two shops it is open at both; proved again, its visit begins anew."""
    sub = usual.family()
    card = usual.printed(sub)
    for place in (till, neighbour):
        place.lookup(card.token, card.proof())
    usual.ledger.now.forward(minutes=10)
    until = till.lookup(card.token, card.proof())["visit_until"]
    usual.ledger.now.forward(minutes=10)
    assert till.lookup(card.token)["visit_until"] == until
    assert posted(usual.visit(till, sub, card.token))
    assert refusal(usual.visit(neighbour, sub, card.token)) == "pin_required"


def test_the_fifth_wrong_pin_locks_the_card(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """Whichever shops the tries came from; then the right one opens nothing, until unlocked."""
    sub = usual.family()
    card = usual.printed(sub)
    till.lookup(card.token, card.proof())
    for n in range(4):
        assert tried((till, neighbour)[n % 2], card, "0000") == ("pin_wrong", 4 - n)
    assert posted(usual.visit(till, sub, card.token))
    assert tried(neighbour, card, "0000") == ("pin_locked", None)
    for place in (till, neighbour):
        assert tried(place, card, card.pin) == ("pin_locked", None)
        assert told(usual.visit(place, sub, card.token)) == "pin_locked"
    usual.ledger.unlock(card.iss, card.jti_sha256)
    assert told(usual.visit(till, sub, card.token)) == "pin_required"
    assert tried(till, card, "0000") == ("pin_wrong", 4)
    till.lookup(card.token, card.proof())
    assert posted(usual.visit(till, sub, card.token))


def test_a_right_pin_gives_all_tries_back(usual: Office, till: ContractTill) -> None:
    """Five in a row are counted, not five in a life."""
    card = usual.printed(usual.family())
    for _ in range(2):
        assert [tried(till, card, "12345678")[1] for _ in range(4)] == [4, 3, 2, 1]
        till.lookup(card.token, card.proof())


def test_a_suspended_till_tries_no_pin(
    usual: Office, till: ContractTill, ledger: ContractLedger
) -> None:
    """It is told so before anything of the card is looked at."""
    stolen = till_of(ledger)
    ledger.set_terminal(stolen.terminal, "suspended")
    card = usual.printed(usual.family())
    assert tried(stolen, card, card.pin) == ("terminal_suspended", None)
    assert tried(stolen, card, "0000") == ("terminal_suspended", None)
    assert tried(till, card, "0000") == ("pin_wrong", 4)


def test_a_card_that_the_ledger_was_not_told_stays_shut(usual: Office, till: ContractTill) -> None:
    """With or without a proof: nobody can say whether it is right."""
    sub = usual.family()
    card = usual.printed(sub, told=False)
    assert told(usual.visit(till, sub, card.token)) == "pin_required"
    assert tried(till, card, card.pin) == ("pin_required", None)


def test_a_card_that_was_told_of_another_holder_stays_shut(
    usual: Office, till: ContractTill
) -> None:
    """An issuer tells whose card it is; a token of somebody else under its name is none."""
    sub, other = usual.family(), usual.family()
    card = usual.printed(other, told=False)
    usual.ledger.put_card(card.iss, sub, card.jti_sha256, card.verifier)
    assert tried(till, card, card.pin) == ("pin_required", None)


def test_a_proved_pin_counts_as_a_method(ledger: ContractLedger, till: ContractTill) -> None:
    """A programme that asks for `pin` asks for the PIN, and doesn't say that cards won't do."""
    own = office(ledger, classes=["card"], amr_any=["pin", "pop"])
    sub = own.family()
    card = own.printed(sub)
    assert told(own.visit(till, sub, card.token)) == "pin_required"
    till.lookup(card.token, card.proof())
    assert posted(own.visit(till, sub, card.token))


def test_a_new_pin_has_all_its_tries(usual: Office, till: ContractTill) -> None:
    """The office gives a card another PIN: the old one is wrong, and its visits are over."""
    sub = usual.family()
    card = usual.printed(sub)
    till.lookup(card.token, card.proof())
    assert tried(till, card, "0000") == ("pin_wrong", 4)
    anew = replace(card, pin="13579")
    usual.ledger.put_card(anew.iss, sub, anew.jti_sha256, anew.verifier)
    assert refusal(usual.visit(till, sub, card.token)) == "pin_required"
    assert tried(till, card, card.pin) == ("pin_wrong", 4)
    till.lookup(anew.token, anew.proof())
    assert posted(usual.visit(till, sub, card.token))


def test_a_proof_of_another_form_is_no_try(usual: Office, till: ContractTill) -> None:
    """400, and nothing is counted."""
    card = usual.printed(usual.family())
    for proof in ("", "0000", "A" * 42, "A" * 44, "A" * 42 + "B"):
        problem = till.refused_lookup(card.token, proof)
        assert (problem["code"], problem["status"]) == ("malformed", 400)
    assert tried(till, card, "0000") == ("pin_wrong", 4)


def test_a_pin_is_not_asked_of_a_dead_card(usual: Office, till: ContractTill) -> None:
    """What comes before the PIN comes before it: no try is counted."""
    sub = usual.family()
    card = usual.printed(sub, exp=usual.at + 60)
    usual.ledger.now.forward(seconds=60)
    assert tried(till, card, "0000") == ("token_expired", None)
    assert told(usual.visit(till, sub, card.token)) == "token_expired"


def test_a_proof_beside_a_code_that_needs_none_is_passed_over(
    usual: Office, till: ContractTill
) -> None:
    """A till may send it with whatever was scanned."""
    sub = usual.family()
    proof = b64(bytes(32))
    for token in (usual.code(sub), usual.wallet(sub).show(usual.at)):
        assert till.lookup(token, proof)["vouchers"]


# Section 8: acting for another.

WITNESS = "carepos:witness"


def paid(there: Visit) -> tuple[int, int]:
    """What a lookup tells of (household, actor); an absent one counts as zeros."""
    nothing = {"household_minor": 0, "actor_minor": 0}
    told_of = there.till.lookup(there.token)["acted"].get(there.programme, nothing)
    assert set(told_of) == set(nothing)
    return told_of["household_minor"], told_of["actor_minor"]


@pytest.mark.parametrize("way", ["proxy", "witness"])
def test_a_programme_says_which_ways_of_acting_it_allows(
    ledger: ContractLedger, till: ContractTill, way: str
) -> None:
    """Who comes instead, and who vouches for somebody beside them."""
    own = acting_office(ledger, **{"proxy": False, "witness": False, way: True})
    sub = own.family()
    ways = {"proxy": ("face",), "witness": ("face", WITNESS)}
    for each, amr in ways.items():
        there = collect(own, till, sub, "son", *amr)
        if each == way:
            assert posted(there)
        else:
            assert refusal(there) == "acting_not_allowed"


def test_nobody_acts_where_a_programme_says_nothing(usual: Office, till: ContractTill) -> None:
    """`acting` null, and the pack doesn't name it."""
    there = collect(usual, till, usual.family(), "son")
    assert refusal(there) == "acting_not_allowed"
    assert usual.name not in till.lookup(there.token)["acted"]
    [told_of] = [p for p in pack_of(till)["programmes"] if p["programme"] == usual.name]
    assert "acting" not in told_of


def test_the_pack_tells_who_may_act(ledger: ContractLedger, till: ContractTill) -> None:
    """As the programme was set up."""
    own = acting_office(ledger)
    [told_of] = [p for p in pack_of(till)["programmes"] if p["programme"] == own.name]
    assert told_of["acting"] == LIMITS


def test_a_household_is_paid_so_much_through_others(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Whoever comes, to whichever shop, in either way; what they collect themselves is apart."""
    own = acting_office(ledger)
    sub = own.family(100_000)
    assert posted(own.visit(till, sub), 6_490)
    first = collect(own, till, sub, "son")
    assert paid(first) == (0, 0)
    assert posted(first, 4_000)
    second = collect(own, neighbour, sub, "neighbour", "face", WITNESS)
    assert paid(second) == (4_000, 0)
    assert refusal(second, 2_001) == "acting_limit"
    assert posted(second, 2_000)
    assert paid(first) == (6_000, 4_000)
    assert refusal(first) == "acting_limit"
    assert posted(own.visit(till, sub), 6_490)


def test_an_actor_collects_so_much_for_all(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """For however many households; the issuer's own name in `act` makes nobody else of them."""
    own = acting_office(ledger)
    one, two, three = (own.family() for _ in range(3))
    assert posted(collect(own, till, one, "helper"), 5_000)
    assert posted(collect(own, neighbour, two, "helper"), 4_000)
    token = own.acted(three, "helper", act={"iss": own.iss, "sub": "helper"})
    there = Visit(till, three, token, till.lookup(token), own.name)
    assert paid(there) == (0, 9_000)
    assert refusal(there, 1_001) == "acting_limit"
    assert posted(there, 1_000)
    other = own.acted(three, "helper", act={"iss": "https://other.test", "sub": "helper"})
    assert posted(Visit(till, three, other, till.lookup(other), own.name), 5_000)


def test_programmes_count_apart(ledger: ContractLedger, till: ContractTill) -> None:
    """The limits are each programme's own."""
    one, two = acting_office(ledger), acting_office(ledger)
    assert posted(collect(one, till, one.family(), "helper"), 6_000)
    there = collect(two, till, two.family(), "helper")
    assert paid(there) == (0, 0) and posted(there, 6_000)


def test_a_reversal_gives_the_limit_back(ledger: ContractLedger, till: ContractTill) -> None:
    """What was put back was not paid; once, however often it is reversed."""
    own = acting_office(ledger)
    sub = own.family()
    there = collect(own, till, sub, "son")
    sale = there.milk(5_000)
    assert till.outcome(sale)["result"] == "posted"
    assert posted(there, 1_000) and paid(there) == (6_000, 6_000)
    for _ in range(2):
        assert till.outcome(till.reversal(sale))["result"] == "reversed"
        assert paid(there) == (1_000, 1_000)
    assert refusal(there, 5_001) == "acting_limit"
    assert posted(there, 5_000)


def test_a_window_passes(ledger: ContractLedger, till: ContractTill) -> None:
    """Paid on Monday, not counted on Tuesday: the window looks back from each redemption."""
    own = acting_office(ledger, window_s=3_600)
    sub = own.family()
    assert posted(collect(own, till, sub, "son"), 6_000)
    ledger.now.forward(seconds=3_599)
    there = collect(own, till, sub, "son")
    assert paid(there) == (6_000, 6_000) and refusal(there) == "acting_limit"
    ledger.now.forward(seconds=1)
    assert paid(there) == (0, 0) and posted(there, 6_000)


def test_what_is_reversed_after_its_window_makes_no_room(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """It was not counted any more, so putting it back adds nothing: also within one batch."""
    own = acting_office(ledger, window_s=3_600)
    sub = own.family(20_000)
    before = collect(own, till, sub, "son")
    old = before.milk(6_000)
    assert till.outcome(old)["result"] == "posted"
    ledger.now.forward(hours=1)
    there = collect(own, till, sub, "son")
    undo, sale = till.reversal(old), there.milk(6_001)
    results = till.send(undo, sale)
    assert till.believe(undo, results[0])["amount_minor"] == 6_000
    assert till.believe(sale, results[1]).get("refusal") == {"code": "acting_limit", "at": None}
    assert paid(there) == (0, 0)


def test_a_batch_counts_what_it_pays_itself(ledger: ContractLedger, till: ContractTill) -> None:
    """Records of one batch see each other, reversals among them."""
    own = acting_office(ledger)
    there = collect(own, till, own.family(20_000), "son")
    first, second = there.milk(4_000), there.milk(4_000)
    undo = till.reversal(first)
    third = there.milk(4_000)
    results = till.send(first, second, undo, third)
    said = [
        till.believe(sent, result)
        for sent, result in zip((first, second, undo, third), results, strict=True)
    ]
    assert [outcome["result"] for outcome in said] == ["posted", "refused", "reversed", "posted"]
    assert said[1]["refusal"]["code"] == "acting_limit"
    assert paid(there) == (4_000, 4_000)


def test_where_the_limit_of_acting_stands_in_the_list(
    ledger: ContractLedger, till: ContractTill
) -> None:
    """After the limit of one redemption, before the balance."""
    own = acting_office(ledger, household_minor=1_000)
    limits = {**LIMITS, "household_minor": 1_000}
    small = office(ledger, acting=limits, limit_per_redemption_minor=2_000)
    there = collect(own, till, own.family(1_500), "son")
    assert refusal(there, 1_501) == "acting_limit"
    there = collect(small, till, small.family(), "son")
    assert refusal(there, 2_001) == "limit_exceeded"
    assert refusal(there, 2_000) == "acting_limit"


def test_only_who_acts_is_told_of_it(ledger: ContractLedger, till: ContractTill) -> None:
    """`acted` stands beside a token with an `act`, of the holder's programmes that allow it."""
    own = acting_office(ledger)
    sub = own.ledger.family({**VALUE, "programme": own.name})
    assert "acted" not in till.lookup(own.code(sub))
    assert set(till.lookup(own.acted(sub, "son"))["acted"]) <= {own.name}
