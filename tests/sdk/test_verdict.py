"""Why a code is not good: for each refusal of docs/identity.md §4 claim, rule and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from carepos import presentation, verdict
from carepos.issuer_folder import IssuerSigner
from carepos.issuer_keys import IssuerKeys
from carepos.keys import b64, unb64
from carepos.minting import Mint
from carepos.other_codes import BY_LOOK
from carepos.refusals import BY_CODE
from carepos.revocation import Revocations
from carepos.token import TYP
from carepos.verdict import REMEDIES, Question, judge
from carepos.voucher import ActingRule, Programme

IDENTITY = Path(__file__).parents[2] / "docs" / "identity.md"
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
AT = int(NOW.timestamp())
KEY, OTHER = IssuerSigner.generate("EdDSA", "k1"), IssuerSigner.generate("ES256", "k2")
HOLDER = IssuerSigner.generate("ES256", "holder")
ISS, AUD = "https://id.example", "urn:carepos:redeem"
MINT = Mint(KEY, iss=ISS, audience=AUD, now=lambda: NOW)
ONCE = MINT.once("canary-sub", amr=("face",)).code
CARD = MINT.card("canary-sub", pin_chosen="47114711")
WALLET = MINT.wallet("canary-sub", holder=HOLDER)
PROXY = MINT.acted("canary-sub", actor="canary-act", way="proxy", reason="frail", amr=("otp",)).code
QUESTION = Question({ISS: IssuerKeys.of([KEY.public], NOW)}, AUD, NOW)
PROGRAMME = Programme(
    "p", "p", "CNY", 1, NOW, NOW + timedelta(days=1), False, frozenset(), "l", ISS,
    frozenset({"once", "card"}), frozenset(), None, True, 0, (),
    ActingRule(proxy=True, witness=True, household_minor=1, actor_minor=1, window_s=3600),
)  # fmt: skip


def signed(header: dict[str, Any] | None = None, **claims: Any) -> str:
    """The good code but for some claims, signed whatever they are."""
    import jwt

    body = {
        "iss": ISS, "aud": AUD, "sub": "canary-sub", "jti": "canary-jti", "iat": AT, "nbf": AT,
        "exp": AT + 300, "amr": ["face"], "care_class": "once", **claims,
    }  # fmt: skip
    kept = {name: value for name, value in body.items() if value is not None}
    headers = {"kid": "k1", "typ": TYP, **(header or {})}
    return jwt.encode(kept, KEY._key, algorithm="EdDSA", headers=headers)


def with_(**more: Any) -> Question:
    return replace(QUESTION, **more)


REVOKED = Revocations(1, frozenset({(ISS, "k1")}), frozenset())
CASES: list[tuple[str, str, str, Question]] = [
    ("token_malformed", "token", "hello", QUESTION),
    ("token_malformed", "token", "x" * 5000, QUESTION),
    ("token_malformed", "claims", f"{ONCE.split('.')[0]}.AAAA.AAAA", QUESTION),
    ("token_malformed", "kid", signed({"kid": "k" * 65}), QUESTION),
    ("token_malformed", "header", signed({"crit": ["x"]}), QUESTION),
    ("token_type", "typ", signed({"typ": "at+jwt"}), QUESTION),
    ("token_issuer", "iss", signed(iss=ISS + "/"), QUESTION),
    ("token_signature", "kid", signed({"kid": "k9"}), QUESTION),
    ("token_signature", "signature", ONCE[:-4] + "AAAA"[: len(ONCE[-4:])], QUESTION),
    ("token_signature", "alg", ONCE,
     with_(issuers={ISS: IssuerKeys.of([IssuerSigner(OTHER._key, "k1").public], NOW)})),
    ("token_audience", "aud", ONCE, with_(audience="urn:other")),
    ("token_audience", "aud", signed(aud=[AUD]), QUESTION),
    ("token_malformed", "sub", signed(sub=None), QUESTION),
    ("token_malformed", "jti", signed(jti="canary jti"), QUESTION),
    ("token_malformed", "exp", signed(exp=AT + 901), QUESTION),
    ("token_malformed", "amr", signed(amr="face"), QUESTION),
    ("token_malformed", "care_class", signed(care_class="forever"), QUESTION),
    ("token_malformed", "act", signed(act={"sub": "canary act"}, care_reason="frail"), QUESTION),
    ("token_malformed", "care_reason", signed(act={"sub": "canary"}), QUESTION),
    ("token_malformed", "cnf", signed(cnf={"jwk": {}}), QUESTION),
    ("token_malformed", "cnf", f"{ONCE}~{WALLET.code.partition('~')[2]}", QUESTION),
    ("token_expired", "exp", ONCE, with_(at=NOW + timedelta(seconds=300))),
    ("token_not_yet_valid", "nbf", ONCE, with_(at=NOW - timedelta(minutes=5))),
    ("holder_unproven", "cnf", WALLET.token, QUESTION),
    ("holder_unproven", "key binding", WALLET.code[:-4] + "AAAA", QUESTION),
    ("holder_unproven", "key binding", WALLET.code, with_(at=NOW + timedelta(minutes=6))),
    ("token_issuer", "iss", ONCE, with_(programme=replace(PROGRAMME, issuer="https://b.example"))),
    ("token_replayed", "jti", ONCE, with_(first_use=NOW - timedelta(minutes=16))),
    ("token_revoked", "jti", ONCE, with_(revocations=REVOKED)),
    ("token_assurance", "care_class", CARD.code,
     with_(programme=replace(PROGRAMME, classes=frozenset({"once"})))),
    ("token_assurance", "amr", ONCE,
     with_(programme=replace(PROGRAMME, amr_any=frozenset({"otp"})))),
    ("acting_not_allowed", "act", PROXY, with_(programme=replace(PROGRAMME, acting=None))),
    ("pin_required", "care_class", CARD.code, with_(programme=PROGRAMME)),
    ("pin_required", "care_class", CARD.code, with_(pin_entered="47114711")),
    ("pin_wrong", "jti", CARD.code,
     with_(pin_entered="47114712", pin_verifier=(CARD.ledger_line or {})["pin_verifier"])),
    ("pin_wrong", "pin", CARD.code,
     with_(pin_entered="47", pin_verifier=(CARD.ledger_line or {})["pin_verifier"])),
    ("token_malformed", "card", CARD.token,
     with_(pin_entered="47114711", pin_verifier=(CARD.ledger_line or {})["pin_verifier"])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "claim", "scanned", "question"),
    CASES,
    ids=[f"{number}-{case[0]}-{case[1]}" for number, case in enumerate(CASES)],
)
def test_the_sentence_names_claim_and_remedy_and_no_value(
    code: str, claim: str, scanned: str, question: Question
) -> None:
    """One line: the code, the claim, what to do; nothing of `sub`, `jti`, `act`, card or PIN."""
    found = judge(scanned, question)
    assert (found.code, found.claim) == (code, claim)
    said = found.sentence()
    assert said.startswith(f"refused 拒绝 {code}: {claim} ") and "; to do: " in said
    assert "\n" not in said and said.endswith(".")
    document = found.to_json()
    assert document["good"] is False and document["code"] == code
    shown = f"{said} {document}"
    assert "canary" not in shown and "47114711" not in shown and "47114712" not in shown
    assert scanned not in shown or len(scanned) < 6
    secret = presentation.read(scanned).card_secret if len(scanned) < 4000 else None
    assert secret is None or secret not in shown


def test_the_last_second_has_words_in_every_zone() -> None:
    """A token of the year 9999 is explained to somebody in whose zone that is the year 10000."""
    at = NOW.astimezone(timezone(timedelta(hours=14)))
    found = judge(signed(nbf=253_402_300_799), with_(at=at))
    assert (found.code, found.claim) == ("token_not_yet_valid", "nbf")


def test_every_code_of_the_order_has_its_words() -> None:
    """docs/identity.md §4 names no code for which an issuer would get no explanation."""
    section = IDENTITY.read_text("utf-8").split("## 4.")[1].split("## 5.")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    codes = {code for code in re.findall(r"`([a-z_]+)`", rows) if code in BY_CODE}
    assert codes == set(REMEDIES)
    assert codes - {"pin_locked"} == {case[0] for case in CASES}
    for code in codes:
        said = verdict.refused(code).sentence()
        assert code in said and REMEDIES[code].claim in said


@pytest.mark.parametrize(
    "shown",
    [lambda: ONCE, lambda: PROXY, lambda: CARD.code, lambda: WALLET.code, lambda: f"]Q1{ONCE}\r\n"],
)
def test_a_good_code_is_good_and_says_what_was_not_looked_at(shown: Callable[[], str]) -> None:
    """Never more is claimed than was checked."""
    found = judge(shown(), QUESTION)
    assert found.good and found.sentence().startswith("good 有效: class ")
    assert any("--programme" in each for each in found.unchecked)
    assert any("--revocations" in each for each in found.unchecked)
    assert "canary" not in f"{found.sentence()} {found.to_json()}"


def test_everything_can_be_looked_at() -> None:
    """With programme, first use, withdrawals and PIN given, nothing stays open."""
    line = CARD.ledger_line or {}
    whole = with_(
        programme=replace(PROGRAMME, amr_any=frozenset({"pin"})),
        revocations=Revocations(1, frozenset(), frozenset()),
        pin_entered="47114711",
        pin_verifier=line["pin_verifier"],
    )
    found = judge(CARD.code, whole)
    assert found.good and found.unchecked == () and "its PIN proved" in found.sentence()
    in_visit = with_(
        programme=PROGRAMME,
        revocations=Revocations(1, frozenset(), frozenset()),
        first_use=NOW - timedelta(minutes=15),
    )
    assert judge(ONCE, in_visit).good and judge(ONCE, in_visit).unchecked == ()


def test_the_remedy_tells_what_is_known_here() -> None:
    """What the reader's own files hold may be named: issuers, kids, the audience, how long ago."""
    assert f"known here: {ISS}" in judge(signed(iss="https://else"), QUESTION).sentence()
    assert "held for this issuer: k1" in judge(signed({"kid": "k9"}), QUESTION).sentence()
    assert "expected: urn:other" in judge(ONCE, with_(audience="urn:other")).sentence()
    late = judge(ONCE, with_(at=NOW + timedelta(minutes=8)))
    assert "expired 3 minutes ago" in late.sentence()
    early = judge(ONCE, with_(at=NOW - timedelta(hours=2)))
    assert "valid in 2 hours" in early.sentence()


def test_a_body_exchanged_says_signature_first() -> None:
    """A claim is spoken of only when it is the issuer's: altered, the signature is wrong."""
    header, body, signature = ONCE.split(".")
    altered = unb64(body).replace(b'"face"', b'"otp"')
    found = judge(".".join((header, b64(altered), signature)), QUESTION)
    assert (found.code, found.claim) == ("token_signature", "signature")


@pytest.mark.parametrize(
    ("held_up", "looks_like", "says"),
    [
        ("134567890123456789", "payment_code", "to do: this is a payment code, ask for the care"),
        ("6913046198782", "product", "to do: this is a product's barcode"),
        (ONCE.swapcase(), "keyboard", "to do: the keyboard changed the code: turn Caps Lock off"),
        (ONCE[:-9], "damaged", "to do: the code was not read whole"),
        ("hello", "unknown", "token is not a compact JWS; to do: scan or copy the code whole"),
    ],
)
def test_what_was_held_up_instead_is_said(held_up: str, looks_like: str, says: str) -> None:
    """A payment code is not explained as a bad header; `cashier` is what the till really shows."""
    found = judge(held_up, QUESTION)
    assert says in found.sentence()
    assert "token token" not in found.sentence()
    told = found.to_json()
    kind = BY_LOOK[looks_like]
    assert (told["looks_like"], told["cashier"]) == (looks_like, {"en": kind.en, "zh": kind.zh})


def test_a_wrong_claim_is_not_taken_for_another_code() -> None:
    """Behind a good signature the claim is what helps."""
    found = judge(signed(aud="urn:other"), QUESTION)
    assert "put the platform's redemption audience in aud" in found.sentence()
    assert found.look is not None and found.look.looks_like == "other_token"
    assert judge(signed(sub=""), QUESTION).look is None
