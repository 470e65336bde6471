"""Printed cards: worth nothing without their PIN, whose tries are counted wherever they come from.

docs/identity.md §7.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from carepos import jws, pin
from carepos.errors import Malformed
from carepos.keys import digest
from carepos_ledger import terminal_keys
from carepos_ledger.auth import Caller
from carepos_ledger.cards import TRIES, Cards
from carepos_ledger.counter import Counter
from carepos_ledger.problems import Problem
from tests.ledger.rig import ISSUER, RULES, Envelope, Holder, Rig, Signer, code

SECRET = "c" * 22
PIN, WRONG = "2580", "2581"


@dataclass
class Office:
    """A ledger that takes cards; `proofs` are derived once, because that is slow on purpose."""

    rig: Rig
    cards: Cards
    counter: Counter
    proofs: dict[tuple[str, str], str] = field(default_factory=dict)

    def card(self, holder: Holder, name: str = "card-1") -> str:
        return self.rig.token(
            holder, jti=name, token_class="card", lifetime_s=86_400, amr=("carepos:card",)
        )

    def tell(self, holder: Holder, name: str = "card-1", number: str = PIN) -> str:
        verifier = pin.verifier(self.proof(number, name))
        return self.cards.put(ISSUER, digest(name.encode()), holder.sub, verifier)

    def proof(self, number: str = PIN, name: str = "card-1") -> str:
        if (number, name) not in self.proofs:
            self.proofs[number, name] = pin.proof(number, iss=ISSUER, jti=name, card_secret=SECRET)
        return self.proofs[number, name]

    def look_up(self, till: Signer, card: str, proof: str | None = None) -> str:
        """`found`, or the code of the refusal."""
        terminal = terminal_keys.find(self.rig.database, till.key.kid)
        assert terminal is not None
        try:
            answer = self.counter.look_up(Caller(terminal, "r" * 22), card, proof)
        except Problem as problem:
            left = problem.extra.get("tries_left")
            return problem.code if left is None else f"{problem.code} {left}"
        jws.verify(answer, typ=jws.LOOKUP, keys=self.rig.keyring.keys.keys)
        return "found"

    def redeem(self, till: Signer, holder: Holder, card: str) -> Envelope:
        return self.rig.redeem(till, holder, 10, token_text=card)


@pytest.fixture
def office(rig: Rig) -> Office:
    rig.programmes.put_programme({**RULES, "classes": ["card", "once"], "amr_any": ["pin", "face"]})
    counter = Counter(rig.database, rig.keyring, rig.intake, rig.now)
    return Office(rig, Cards(rig.database, rig.now), counter)


def test_a_card_is_worth_nothing_without_its_pin(office: Office) -> None:
    """Neither looked up nor redeemed, whether the ledger knows the card or not."""
    rig = office.rig
    till, holder = rig.signer(), rig.holder()
    card = office.card(holder)
    for _ in range(2):
        assert office.look_up(till, card) == "pin_required"
        assert code(rig.send_one(office.redeem(till, holder, card))) == "pin_required"
        office.tell(holder)
    assert rig.balance(holder.voucher) == (12_000, 0, 0)


def test_a_right_pin_opens_a_visit_at_one_till(office: Office) -> None:
    """Fifteen minutes, again and again, here; elsewhere and later the PIN is asked for anew."""
    rig = office.rig
    till, other, holder = rig.signer(), rig.signer(), rig.holder()
    card = office.card(holder)
    office.tell(holder)
    assert office.look_up(till, card, office.proof()) == "found"
    rig.now.forward(minutes=15)
    sent = [office.redeem(each, holder, card) for each in (till, till, other)]
    assert [code(answer) for answer in rig.send(*sent)] == ["posted", "posted", "pin_required"]
    rig.now.forward(seconds=1)
    late = office.redeem(till, holder, card)
    assert code(rig.send_one(late)) == "pin_required"
    assert office.look_up(till, card, office.proof()) == "found"
    assert code(rig.send_one(office.redeem(till, holder, card))) == "posted"


def test_a_card_of_a_programme_that_takes_none(office: Office) -> None:
    """The class comes before the PIN: nobody is asked for a PIN that would not help."""
    rig = office.rig
    rig.programmes.put_programme(RULES)
    till, holder = rig.signer(), rig.holder()
    assert code(rig.send_one(office.redeem(till, holder, office.card(holder)))) == "token_assurance"


def test_wrong_pins_are_counted_across_shops(office: Office) -> None:
    """The fifth wrong try in a row locks the card, wherever they came from; then the right PIN does
    not help, until an operator unlocks it. A right one in between gives all tries back."""
    rig = office.rig
    tills, holder = [rig.signer(), rig.signer("zhou-shop")], rig.holder()
    card = office.card(holder)
    office.tell(holder)
    wrong = office.proof(WRONG)
    assert [office.look_up(tills[n % 2], card, wrong) for n in range(4)] == [
        f"pin_wrong {left}" for left in (4, 3, 2, 1)
    ]
    assert office.look_up(tills[0], card, office.proof()) == "found"
    assert [office.look_up(tills[n % 2], card, wrong) for n in range(5)] == [
        *(f"pin_wrong {left}" for left in (4, 3, 2, 1)),
        "pin_locked",
    ]
    for proof in (wrong, office.proof(), None):
        assert office.look_up(tills[1], card, proof) == "pin_locked"
    assert office.cards.unlock(ISSUER, digest(b"card-1")) == "changed"
    assert office.cards.unlock(ISSUER, digest(b"card-1")) == "exists"
    assert office.look_up(tills[1], card, office.proof()) == "found"


def test_tries_at_once_are_counted_one_by_one(office: Office) -> None:
    """Twelve shops try wrong PINs at the same moment: four learn how many are left, each another
    number, and the rest that the card is locked."""
    rig = office.rig
    tills, holder = [rig.signer() for _ in range(12)], rig.holder()
    card, wrong = office.card(holder), office.proof(WRONG)
    office.tell(holder)
    answers: list[str] = []
    at_once = threading.Barrier(len(tills))

    def attempt(till: Signer) -> None:
        at_once.wait()
        answers.append(office.look_up(till, card, wrong))

    threads = [threading.Thread(target=attempt, args=[till]) for till in tills]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [
        *["pin_locked"] * (len(tills) - TRIES + 1),
        *(f"pin_wrong {left}" for left in range(1, TRIES)),
    ]


def test_a_new_pin_ends_the_old_ones_visits(office: Office) -> None:
    """The issuer sets another PIN: the old one and what it opened count no more."""
    rig = office.rig
    till, holder = rig.signer(), rig.holder()
    card = office.card(holder)
    assert [office.tell(holder), office.tell(holder)] == ["created", "exists"]
    assert office.look_up(till, card, office.proof()) == "found"
    assert office.tell(holder, number=WRONG) == "changed"
    assert code(rig.send_one(office.redeem(till, holder, card))) == "pin_required"
    assert office.look_up(till, card, office.proof()) == "pin_wrong 4"
    assert office.look_up(till, card, office.proof(WRONG)) == "found"


def test_whose_card_it_is(office: Office) -> None:
    """A card is told for somebody who was issued something, once; another holder's is refused."""
    rig = office.rig
    one, two = rig.holder(), rig.holder()
    office.tell(one)
    with pytest.raises(Problem) as other:
        office.tell(two)
    assert other.value.code == "already_exists_differently"
    with pytest.raises(Problem) as nobody:
        office.cards.put(ISSUER, "j" * 43, "nobody", "v" * 43)
    assert nobody.value.code == "not_found"
    # A token of this card's name for another holder does not inherit the PIN.
    assert office.look_up(rig.signer(), office.card(two), office.proof()) == "pin_required"


@pytest.mark.parametrize("proof", ["", "x" * 42, "x" * 44, "=" * 43, "é" * 43, 7, True])
def test_a_proof_of_another_form_counts_as_no_try(office: Office, proof: Any) -> None:
    """It is malformed, and the card keeps its tries."""
    rig = office.rig
    till, holder = rig.signer(), rig.holder()
    card = office.card(holder)
    office.tell(holder)
    before = rig.tables()
    with pytest.raises(Malformed):
        office.look_up(till, card, proof)
    assert rig.tables() == before


def test_nothing_stored_is_the_pin(office: Office) -> None:
    """No table holds the PIN, the card's secret or what is sent to prove it."""
    rig = office.rig
    till, holder = rig.signer(), rig.holder()
    office.tell(holder)
    assert office.look_up(till, office.card(holder), office.proof()) == "found"
    stored = repr(rig.tables())
    assert SECRET not in stored and office.proof() not in stored and f"'{PIN}'" not in stored


@pytest.mark.parametrize("number", ["123", "123456789", "12a4", "１２３４", "", None, 1234])
def test_a_pin_has_four_to_eight_digits(number: Any) -> None:
    """ASCII digits, as text; anything else is no try."""
    with pytest.raises(Malformed):
        pin.proof(number, iss=ISSUER, jti="card-1", card_secret=SECRET)


def test_without_the_cards_secret_a_pin_proves_nothing() -> None:
    """The same PIN with another card's secret, name or issuer is another proof."""
    told = {"iss": ISSUER, "jti": "card-1", "card_secret": SECRET}
    proofs = {
        pin.proof(PIN, **{**told, **changed})
        for changed in ({}, {"iss": "https://b"}, {"jti": "card-2"}, {"card_secret": "d" * 22})
    }
    assert len(proofs) == 4


def test_a_held_cards_pin_counts_as_it_was_proved_when_it_came(office: Office) -> None:
    """T-1: of a revoked till's sales that a person lets be decided weeks later, the one whose PIN
    was proved in time is booked; the other one never is."""
    rig = office.rig
    till, holder = rig.signer(), rig.holder()
    card = office.card(holder)
    office.tell(holder)
    assert office.look_up(till, card, office.proof()) == "found"
    rig.terminals.set_status(till.terminal, "revoked")
    good = office.redeem(till, holder, card)
    rig.send_one(good)
    rig.now.forward(minutes=16)
    late = office.redeem(till, holder, card)
    assert rig.send_one(late).result == "held"
    rig.now.forward(days=20)
    for sale, wanted in ((good, "posted"), (late, "pin_required")):
        rig.rule_on(rig.read(sale), post=True)
        assert code(rig.send_one(sale)) == wanted
    assert rig.balance(holder.voucher) == (11_990, 0, 0)
