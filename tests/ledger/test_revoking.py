"""Withdrawn keys, tokens and cards: refused at the ledger at once, and carried to every till.

docs/identity.md §9.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from carepos.errors import Malformed
from carepos.keys import SigningKey, digest
from carepos_ledger.problems import Problem
from carepos_ledger.revoking import Revoking
from tests.ledger.rig import ISSUER, PROGRAMME, RULES, Rig, code

OTHER = SigningKey(b"o" * 32)


@pytest.fixture
def revoking(rig: Rig) -> Iterator[Revoking]:
    rig.issuers.put(ISSUER, [rig.issuer_key.public.to_jwk(), OTHER.public.to_jwk()])
    held = rig.issuer_key
    yield Revoking(rig.database, rig.now)
    rig.issuer_key = held


def version(rig: Rig) -> tuple[int, int]:
    """Of the list, and of the rules that tell tills to fetch it."""
    rules = rig.programmes.one(PROGRAMME).rules_version
    return rig.intake.trust.revocations().version, rules


def test_a_withdrawn_key_counts_at_once(rig: Rig, revoking: Revoking) -> None:
    """The redemption after it is refused; tokens of another key go on; tills get new rules."""
    till, holder = rig.signer(), rig.holder()
    assert code(rig.send_one(rig.redeem(till, holder, 10))) == "posted"
    before = version(rig)
    assert revoking.key(ISSUER, rig.issuer_key.kid, reason="stolen") == "created"
    assert version(rig) == (before[0] + 1, before[1] + 1)
    assert code(rig.send_one(rig.redeem(till, holder, 10))) == "token_revoked"
    assert revoking.key(ISSUER, rig.issuer_key.kid, reason="stolen again") == "exists"
    rig.issuer_key = OTHER
    assert code(rig.send_one(rig.redeem(till, holder, 10))) == "posted"
    assert version(rig) == (before[0] + 1, before[1] + 1)


def test_a_withdrawn_token_counts_whatever_its_bytes(rig: Rig, revoking: Revoking) -> None:
    """It is named by issuer and jti: another spelling, or the same jti anew, is as withdrawn."""
    till, holder = rig.signer(), rig.holder()
    assert revoking.token(ISSUER, digest(b"lost"), reason="phone stolen") == "created"
    for key in (rig.issuer_key, OTHER):
        rig.issuer_key = key
        sent = rig.redeem(till, holder, 10, token_text=rig.token(holder, jti="lost"))
        assert code(rig.send_one(sent)) == "token_revoked"
    assert code(rig.send_one(rig.redeem(till, holder, 10))) == "posted"


def test_a_card_is_a_token(rig: Rig, revoking: Revoking) -> None:
    """A withdrawn card is told so, and not asked for its PIN."""
    rig.programmes.put_programme({**RULES, "classes": ["card"]})
    till, holder = rig.signer(), rig.holder()
    revoking.token(ISSUER, digest(b"card-1"), reason="lost")
    card = rig.token(holder, jti="card-1", token_class="card", amr=("carepos:card",))
    sent = rig.redeem(till, holder, 10, token_text=card)
    assert code(rig.send_one(sent)) == "token_revoked"


def test_only_what_has_expired_is_forgotten(rig: Rig, revoking: Revoking) -> None:
    """An entry goes with its token's exp, the last instant included; keys and entries without one
    stay; the list's version tells it."""
    until = rig.now() + timedelta(days=1)
    revoking.token(ISSUER, "a" * 43, reason="lost", until=until)
    revoking.token(ISSUER, "b" * 43, reason="lost")
    revoking.key(ISSUER, "k", reason="lost")
    before = version(rig)[0]
    rig.now.forward(hours=23, minutes=59, seconds=59.999)
    assert (revoking.forget_expired(), version(rig)[0]) == (0, before)
    rig.now.forward(seconds=0.001)
    assert (revoking.forget_expired(), version(rig)[0]) == (1, before + 1)
    assert {each["name"] for each in revoking.all()} == {"b" * 43, "k"}


def test_the_list_comes_in_parts(rig: Rig, revoking: Revoking) -> None:
    """Oldest first; what is added meanwhile comes at the end and pushes nothing out."""
    for n in range(5):
        rig.now.forward(seconds=1)
        revoking.key(ISSUER, f"k{n}", reason="lost")
    first = revoking.all(most=3)
    rig.now.forward(seconds=1)
    revoking.key("https://issuer.test", "k5", reason="lost")
    rest = revoking.all(after=3, most=3)
    assert [each["name"] for each in [*first, *rest]] == [f"k{n}" for n in range(6)]


@pytest.mark.parametrize(
    "named",
    [
        ("https://nobody.test", "k", "lost"), ("", "k", "lost"), (None, "k", "lost"),
        (["x"], "k", "lost"), (ISSUER, "", "lost"), (ISSUER, "k" * 65, "lost"),
        (ISSUER, "ключ", "lost"), (ISSUER, 7, "lost"), (ISSUER, "k", ""), (ISSUER, "k", "x" * 201),
        (ISSUER, "k", None),
    ],
)  # fmt: skip
def test_odd_names_withdraw_nothing(rig: Rig, revoking: Revoking, named: tuple[Any, ...]) -> None:
    """An unknown issuer, a kid or a reason that is none: refused, and the list is as it was."""
    before = rig.tables()
    iss, kid, reason = named
    with pytest.raises((Malformed, Problem)):
        revoking.key(iss, kid, reason=reason)
    assert rig.tables() == before
