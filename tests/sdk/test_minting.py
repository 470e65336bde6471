"""What an issuer hands out is what tills take, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos import compact, pin, presentation
from carepos.claims import LIFETIME_S
from carepos.errors import Malformed, TokenRefused
from carepos.issuer_folder import ALGORITHMS, IssuerSigner
from carepos.issuer_keys import IssuerKeys
from carepos.keys import b64, digest, unb64
from carepos.minting import Mint, Minted, random_sub
from carepos.token import TYP, TokenVerifier

ISS, AUD = "https://id.example", "urn:carepos:redeem"
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
SIGNERS = {alg: IssuerSigner.generate(alg, "k1") for alg in ALGORITHMS}
HOLDERS = {alg: IssuerSigner.generate(alg, "holder") for alg in ("EdDSA", "ES256")}
SUB, PIN = "canary-sub-0001", "47114711"
KINDS: dict[str, Callable[[Mint], Minted]] = {
    "once": lambda mint: mint.once(SUB, amr=("face",)),
    "card": lambda mint: mint.card(SUB, pin_chosen=PIN),
    "wallet": lambda mint: mint.wallet(SUB, holder=HOLDERS["ES256"]),
    "wallet of Ed25519": lambda mint: mint.wallet(SUB, holder=HOLDERS["EdDSA"]),
    "proxy": lambda mint: mint.acted(
        SUB, actor="actor-1", way="proxy", reason="frail", amr=("otp",)
    ),
    "witness": lambda mint: mint.acted(
        SUB, actor="actor-1", way="witness", reason="unreadable", amr=("face",)
    ),
}


def mint_of(alg: str, **more: Any) -> Mint:
    return Mint(SIGNERS[alg], **{"iss": ISS, "audience": AUD, "now": lambda: NOW, **more})


def verifier_of(alg: str) -> TokenVerifier:
    return TokenVerifier({ISS: IssuerKeys.of([SIGNERS[alg].public], NOW)}, AUD)


def proxied(mint: Mint, *, actor: str, reason: str) -> Minted:
    return mint.acted(SUB, actor=actor, way="proxy", reason=reason, amr=("otp",))


def is_refused(code: str, alg: str, at: datetime = NOW) -> bool:
    try:
        verifier_of(alg).verify(code, at)
    except TokenRefused as refused:
        said = f"{refused} {refused.claim} {refused.why} {refused!r}"
        assert "canary" not in said and code not in said
        return True
    return False


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken_whatever_signs_it(kind: str, alg: str) -> None:
    """Each code of docs/identity.md §1, signed with each kind of key, is good at a till."""
    made = KINDS[kind](mint_of(alg))
    found = verifier_of(alg).verify(made.code, NOW)
    assert (found.iss, found.sub, found.jti_sha256) == (ISS, SUB, made.jti_sha256)
    assert found.expires_at == made.expires_at
    long_lived = kind == "card" or kind.startswith("wallet")
    assert found.token_class == ("card" if long_lived else "once")
    assert found.needs_pin == (kind == "card")
    assert ("pop" in found.amr) == kind.startswith("wallet")
    acting = None if found.acting is None else found.acting.way
    assert acting == (kind if kind in ("proxy", "witness") else None)


@given(st.data())
def test_an_altered_code_is_refused(data: st.DataObject) -> None:
    """One letter of any kind of code changed anywhere, and no till takes it."""
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    alg = data.draw(st.sampled_from(ALGORITHMS))
    made = KINDS[kind](mint_of(alg))
    start = len("CPC1*") + 23 if kind == "card" else 0  # a card's secret: see the PIN's test
    at = data.draw(st.integers(start, len(made.code) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_.~"))
    altered = made.code[:at] + letter + made.code[at + 1 :]
    assert altered == made.code or is_refused(altered, alg)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_claim_is_refused(kind: str) -> None:
    """Whoever rewrites a claim and keeps the signature, has nothing."""
    made = KINDS[kind](mint_of("EdDSA"))
    held = presentation.read(made.code)
    header, body, signature = held.token.split(".")
    exp = compact.read(held.token).claims["exp"]
    later = unb64(body).replace(str(exp).encode(), str(exp + 1).encode())
    altered = ".".join((header, b64(later), signature))
    assert is_refused(made.code.replace(held.token, altered), "EdDSA")


def test_a_presentation_is_of_its_token_and_its_moment() -> None:
    """A wallet's signature does not fit another credential, another key, or a later hour."""
    mint = mint_of("EdDSA")
    one, other = (mint.wallet(random_sub(), holder=HOLDERS["ES256"]) for _ in range(2))
    binding = one.code.partition("~")[2]
    assert is_refused(f"{other.token}~{binding}", "EdDSA")
    assert is_refused(one.token, "EdDSA")
    assert is_refused(mint.present(one.token, HOLDERS["EdDSA"]), "EdDSA")
    hour = NOW + timedelta(hours=1)
    assert verifier_of("EdDSA").examine(one.code, hour).stale
    assert is_refused(one.code, "EdDSA", hour)
    again = mint_of("EdDSA", now=lambda: hour).present(one.token, HOLDERS["ES256"])
    fresh = verifier_of("EdDSA").verify(again, hour)
    assert not fresh.stale
    assert fresh.visit_sha256 != verifier_of("EdDSA").verify(one.code, NOW).visit_sha256


def test_a_card_is_proved_by_its_pin_and_its_secret_together() -> None:
    """The ledger's line answers to this PIN with this card, and to no other of either."""
    made = mint_of("EdDSA").card(SUB, pin_chosen=PIN)
    assert made.ledger_line is not None
    assert made.ledger_line["iss"] == ISS and made.ledger_line["sub"] == SUB
    held = presentation.read(made.code)
    jti = verifier_of("EdDSA").verify(made.code, NOW).jti
    assert made.ledger_line["jti_sha256"] == digest(jti.encode())
    assert held.card_secret is not None and len(held.card_secret) == 22
    stored = made.ledger_line["pin_verifier"]

    def proved(pin_entered: str, secret: str) -> bool:
        return pin.matches(pin.proof(pin_entered, iss=ISS, jti=jti, card_secret=secret), stored)

    assert proved(PIN, held.card_secret)
    assert not proved("47114712", held.card_secret)
    assert not proved(PIN, "A" * 22)
    said = f"{made.ledger_line}"
    assert held.card_secret not in said and PIN not in made.code and jti not in said


def test_no_two_codes_are_alike() -> None:
    """A jti is never used twice, nor a card's secret, nor a presentation's nonce."""
    mint = mint_of("EdDSA")
    assert len({mint.once(SUB, amr=("otp",)).jti_sha256 for _ in range(50)}) == 50
    cards = [mint.card(SUB, pin_chosen=PIN) for _ in range(3)]
    assert len({presentation.read(card.code).card_secret for card in cards}) == 3
    token = mint.wallet(SUB, holder=HOLDERS["ES256"]).token
    assert len({mint.present(token, HOLDERS["ES256"]).partition("~")[2] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "personal",
    ["13812345678", "+8613812345678", "8613812345678", "110101199003071234",
     "11010119900307123X", "110101900307123"],
)  # fmt: skip
def test_a_persons_number_is_no_sub(personal: str) -> None:
    """A phone or identity number is refused before it is signed, and not repeated."""
    makes: list[Callable[[], Minted]] = [
        lambda: mint_of("EdDSA").once(personal, amr=("otp",)),
        lambda: mint_of("EdDSA").card(personal, pin_chosen=PIN),
        lambda: proxied(mint_of("EdDSA"), actor=personal, reason="frail"),
    ]
    for make in makes:
        with pytest.raises(Malformed) as refused:
            make()
        assert personal.strip("+") not in str(refused.value)


@pytest.mark.parametrize(
    ("claim", "make"),
    [
        ("sub", lambda mint: mint.once("张三", amr=("otp",))),
        ("sub", lambda mint: mint.once("s" * 65, amr=("otp",))),
        ("exp", lambda mint: mint.once(SUB, amr=("otp",), lifetime_s=901)),
        ("exp", lambda mint: mint.once(SUB, amr=("otp",), lifetime_s=0)),
        ("exp", lambda mint: mint.card(SUB, pin_chosen=PIN, lifetime_s=LIFETIME_S["card"] + 1)),
        ("amr", lambda mint: mint.once(SUB, amr=())),
        ("amr", lambda mint: mint.once(SUB, amr=("FACE",))),
        ("amr", lambda mint: mint.once(SUB, amr=("otp", "otp"))),
        ("act", lambda mint: mint.once(SUB, amr=("carepos:witness",))),
        ("act", lambda mint: proxied(mint, actor="a b", reason="frail")),
        ("care_reason", lambda mint: proxied(mint, actor="a", reason="x")),
        ("pin", lambda mint: mint.card(SUB, pin_chosen="12a4")),
        ("pin", lambda mint: mint.card(SUB, pin_chosen="123")),
    ],
)  # fmt: skip
def test_what_a_till_would_refuse_is_never_made(claim: str, make: Callable[[Mint], Minted]) -> None:
    """The error names the claim and the rule; no code comes out."""
    with pytest.raises(Malformed) as refused:
        make(mint_of("EdDSA"))
    assert refused.value.field == claim
    assert "canary" not in str(refused.value)


def test_nothing_minted_is_in_a_repr() -> None:
    """INV-10: neither a code nor a key shows itself."""
    made = mint_of("EdDSA").card(SUB, pin_chosen=PIN)
    shown = f"{made!r} {SIGNERS['EdDSA']!r}"
    assert made.token[:20] not in shown and "canary" not in shown


def test_a_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    """0600, in PEM that other tools read, and never written over."""
    for alg, signer in SIGNERS.items():
        path = tmp_path / f"{alg}.key"
        signer.save(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert IssuerSigner.load(path, "k1").to_jwk() == signer.to_jwk()
        with pytest.raises(FileExistsError):
            signer.save(path)
    assert TYP == "care+jwt"
