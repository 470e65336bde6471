"""Somebody acts for a beneficiary: only as the programme allows, and only so much.

docs/identity.md §8.
"""

from __future__ import annotations

from typing import Any

import pytest

from carepos import jws
from carepos.basket import Entry
from carepos_ledger import acting, terminal_keys
from carepos_ledger.auth import Caller
from carepos_ledger.counter import Counter
from tests.ledger.rig import PROGRAMME, RULES, Holder, Rig, code

RULE = {
    "proxy": True,
    "witness": True,
    "household_minor": 5_000,
    "actor_minor": 8_000,
    "window_s": 86_400,
}
WITNESS = ("carepos:witness", "otp")


@pytest.fixture
def ledger(rig: Rig) -> Rig:
    allow(rig)
    return rig


def allow(rig: Rig, **changes: Any) -> None:
    rig.programmes.put_programme({**RULES, "acting": {**RULE, **changes}})


def acted_token(rig: Rig, holder: Holder, actor: str = "actor-1", **changes: Any) -> str:
    told = {"act": {"sub": actor}, "care_reason": "frail", **changes}
    return rig.token(holder, **told)


def pay(rig: Rig, holder: Holder, minor: int, actor: str = "actor-1", **changes: Any) -> str:
    """Redeem so much as `actor` from a till of its own; the result or the refusal's code."""
    text = acted_token(rig, holder, actor, **changes)
    return code(rig.send_one(rig.redeem(rig.signer(), holder, minor, token_text=text)))


def test_nobody_acts_where_the_programme_does_not_say_so(rig: Rig) -> None:
    """Without `acting`, and in a way that it does not allow, it is refused."""
    holder = rig.holder()
    assert pay(rig, holder, 10) == "acting_not_allowed"
    allow(rig, proxy=False)
    assert pay(rig, holder, 10) == "acting_not_allowed"
    assert pay(rig, holder, 10, amr=WITNESS) == "posted"
    allow(rig, witness=False)
    assert pay(rig, holder, 10, amr=WITNESS) == "acting_not_allowed"
    assert pay(rig, holder, 10) == "posted"


def test_a_household_has_a_limit_of_its_own(ledger: Rig) -> None:
    """Whoever acts for it, in whichever way; what the holder redeems in person does not count."""
    one, two = ledger.holder(), ledger.holder()
    assert pay(ledger, one, 3_000) == "posted"
    assert pay(ledger, one, 2_001, "actor-2", amr=WITNESS) == "acting_limit"
    assert code(ledger.send_one(ledger.redeem(ledger.signer(), one, 4_000))) == "posted"
    assert pay(ledger, one, 2_000, "actor-2", amr=WITNESS) == "posted"
    assert pay(ledger, one, 1, "actor-3") == "acting_limit"
    assert pay(ledger, two, 5_000, "actor-3") == "posted"


def test_an_actor_has_a_limit_across_households(ledger: Rig) -> None:
    """Told by issuer and `act.sub`: the same name at another issuer is another actor."""
    holders = [ledger.holder() for _ in range(4)]
    assert pay(ledger, holders[0], 5_000) == "posted"
    assert pay(ledger, holders[1], 3_001) == "acting_limit"
    assert pay(ledger, holders[1], 3_000) == "posted"
    assert pay(ledger, holders[2], 1) == "acting_limit"
    elsewhere = {"iss": "https://actors.test", "sub": "actor-1"}
    assert pay(ledger, holders[3], 5_000, act=elsewhere) == "posted"


def test_a_batch_sees_its_own_sums(ledger: Rig) -> None:
    """Records of one batch are decided one after another, also in what was acted."""
    till, holder = ledger.signer(), ledger.holder()
    sent = [
        ledger.redeem(till, holder, minor, token_text=acted_token(ledger, holder))
        for minor in (3_000, 3_000, 2_000)
    ]
    assert [code(each) for each in ledger.send(*sent)] == ["posted", "acting_limit", "posted"]


def test_what_is_reversed_frees_the_limit(ledger: Rig) -> None:
    """Before, and in the same batch."""
    till, holder = ledger.signer(), ledger.holder()
    first = ledger.redeem(till, holder, 5_000, token_text=acted_token(ledger, holder))
    assert code(ledger.send_one(first)) == "posted"
    undo = till.reversal(ledger.read(first))
    again = ledger.redeem(till, holder, 5_000, token_text=acted_token(ledger, holder))
    assert [code(each) for each in ledger.send(undo, again)] == ["reversed", "posted"]
    ledger.send_one(till.reversal(ledger.read(again)))
    assert pay(ledger, holder, 5_000) == "posted"
    kept = acting.audit(ledger.database, PROGRAMME)
    assert sorted(each["reversed"] for each in kept) == [False, True, True]


def test_the_window_passes(ledger: Rig) -> None:
    """What was paid longer ago than `window_s` counts no more; its last instant still does."""
    holder = ledger.holder()
    assert pay(ledger, holder, 5_000) == "posted"
    ledger.now.forward(seconds=86_399.999)
    assert pay(ledger, holder, 1) == "acting_limit"
    ledger.now.forward(seconds=0.001)
    assert pay(ledger, holder, 5_000) == "posted"


def test_many_shops_at_once_stay_within_an_actors_limit(ledger: Rig) -> None:
    """One actor, eight households, eight servers at the same moment: the sum holds (FC-10)."""
    tills, holders = [ledger.signer() for _ in range(8)], [ledger.holder() for _ in range(8)]
    sent = [
        ledger.redeem(till, holder, 2_000, token_text=acted_token(ledger, holder))
        for till, holder in zip(tills, holders, strict=True)
    ]
    answers = sorted(code(each) for each in ledger.side_by_side(sent))
    assert answers == ["acting_limit"] * 4 + ["posted"] * 4
    assert sum(each["amount_minor"] for each in acting.audit(ledger.database, PROGRAMME)) == 8_000


def test_two_shops_at_once_stay_within_a_households_limit(ledger: Rig) -> None:
    """Two actors at two servers, each with a voucher of its own of one household: the second is
    judged when the first is booked, though no row of theirs is the same (FC-10)."""
    holder, tills = ledger.holder({}, {}), (ledger.signer(), ledger.signer())
    sales = [
        ledger.redeem(
            till,
            holder,
            3_000,
            token_text=acted_token(ledger, holder, actor),
            allocation=[Entry(1, voucher, 0, 3_000, 0)],
        )
        for till, actor, voucher in zip(tills, ("son", "neighbour"), holder.vouchers, strict=True)
    ]
    answers = ledger.before_commit(sales[0], lambda: ledger.send(sales[1])[0])
    assert [code(each) for each in answers] == ["posted", "acting_limit"]


def test_each_is_kept_for_an_audit(ledger: Rig) -> None:
    """Who (as a hash), in which way, why, how much; refused ones leave nothing."""
    holder = ledger.holder()
    pay(ledger, holder, 700, amr=WITNESS, care_reason="unreadable")
    pay(ledger, holder, 9_000)
    [kept] = acting.audit(ledger.database, PROGRAMME)
    assert (kept["way"], kept["reason"], kept["amount_minor"]) == ("witness", "unreadable", 700)
    assert kept["beneficiary"] == holder.beneficiary and "actor-1" not in repr(ledger.tables())


def test_the_lookup_tells_what_was_paid(ledger: Rig) -> None:
    """So that a till offers what will be accepted: by programme, and only to those who act."""
    holder, till = ledger.holder(), ledger.signer()
    pay(ledger, holder, 1_200)
    pay(ledger, ledger.holder(), 300)
    counter = Counter(ledger.database, ledger.keyring, ledger.intake, ledger.now)
    terminal = terminal_keys.find(ledger.database, till.key.kid)
    assert terminal is not None
    told = []
    for text in (acted_token(ledger, holder), ledger.token(holder)):
        answer = counter.look_up(Caller(terminal, "r" * 22), text)
        payload = jws.verify(answer, typ=jws.LOOKUP, keys=ledger.keyring.keys.keys).payload
        told.append(payload.get("acted"))
    assert told == [{PROGRAMME: {"household_minor": 1_200, "actor_minor": 1_500}}, None]
