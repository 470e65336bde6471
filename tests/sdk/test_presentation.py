"""What a scanner read, its form, and what is withdrawn (docs/identity.md §1, §2, §9)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from carepos import compact, presentation
from carepos.errors import Malformed, TokenRefused
from carepos.issuer_keys import IssuerKey, IssuerKeys
from carepos.keys import b64, digest
from carepos.presentation import MAX_CHARACTERS, MAX_KEY_BINDING, MAX_SCANNED, MAX_TOKEN
from carepos.revocation import NONE, Revocations
from carepos.token import TokenVerifier, signature_verifies
from tests.properties.token_attacks import AUDIENCE, JWKS, Forge
from tests.vectors.token_keys import RSA_2048, ec_key, ed_key, jwk, raw_signature

AT = 1_795_336_200
NOW = datetime.fromtimestamp(AT, UTC)
TOKEN = Forge("EdDSA", AT).token()


# what is scanned


@pytest.mark.parametrize(
    ("scanned", "text", "token", "binding", "secret"),
    [
        ("a.b.c", "a.b.c", "a.b.c", None, None),
        (" ]Q1\\000026a.b.c\r\n", "a.b.c", "a.b.c", None, None),
        ("a.b.c~", "a.b.c~", "a.b.c", "", None),
        ("a.b.c~d.e.f", "a.b.c~d.e.f", "a.b.c", "d.e.f", None),
        ("a.b.c~d~e", "a.b.c~d~e", "a.b.c", "d~e", None),
        (f"CPC1*{'s' * 22}*a.b.c", "a.b.c", "a.b.c", None, "s" * 22),
        (f"]Q2CPC1*{'s' * 22}*a.b.c~d", "a.b.c~d", "a.b.c", "d", "s" * 22),
        (f"CPC1*{'s' * 21}*a.b.c", f"CPC1*{'s' * 21}*a.b.c", f"CPC1*{'s' * 21}*a.b.c", None, None),
        ("", "", "", None, None),
    ],
)
def test_a_code_is_taken_apart(
    scanned: str, text: str, token: str, binding: str | None, secret: str | None
) -> None:
    """The presentation is what is sent and digested; the card's secret is no part of it."""
    got = presentation.read(scanned)
    assert (got.text, got.token, got.key_binding, got.card_secret) == (text, token, binding, secret)
    assert got.sha256 == digest(text.encode())


def test_how_long_each_part_may_be() -> None:
    """The longest is read, one character more is not, whatever it is made of."""
    longest = "t" * MAX_TOKEN + "~" + "k" * MAX_KEY_BINDING
    assert len(longest) == MAX_CHARACTERS
    assert presentation.read(longest).text == longest
    assert presentation.read(longest + " " * (MAX_SCANNED - len(longest))).text == longest
    for beyond in (
        longest + " " * (MAX_SCANNED + 1 - len(longest)),
        "t" * (MAX_TOKEN + 1),
        "t~" + "k" * (MAX_KEY_BINDING + 1),
        longest + "k",
        f"CPC1*{'s' * 22}*{longest}k",
    ):
        with pytest.raises(Malformed):
            presentation.read(beyond)


@pytest.mark.parametrize("given", [None, 1, TOKEN.encode(), [TOKEN], {"token": TOKEN}], ids=repr)
def test_only_text_is_a_code(given: object) -> None:
    """Anything else that an envelope could carry is malformed."""
    with pytest.raises(Malformed):
        presentation.read(given)


def test_a_lone_surrogate_has_a_digest_too() -> None:
    """What can't be encoded is still told apart by a digest, never by an error."""
    assert len(presentation.read("\ud800").sha256) == 43


def test_neither_a_presentation_nor_its_parts_are_shown() -> None:
    """INV-10: no repr holds the token, the key binding, the secret or a claim."""
    held = presentation.read(f"CPC1*{'s' * 22}*{TOKEN}~d.e.f")
    shown = f"{held!r} {held} {[held]} {compact.read(held.token)!r}"
    for secret in ("s" * 22, TOKEN[:30], "d.e.f", "canary"):
        assert secret not in shown


# the form of a compact JWS


def test_a_made_up_header_costs_no_memory() -> None:
    """Headers are remembered, and never more of them than a bound, whatever is shown."""
    body, signature = b64(b"{}"), b64(b"s")
    for n in range(2_000):
        header = b64(json.dumps({"n": n}).encode())
        for _ in range(2):
            assert compact.read(f"{header}.{body}.{signature}").header == {"n": n}
    assert len(compact._headers) <= 512


def test_what_was_signed_is_what_stood_there() -> None:
    """The bytes that the signature is held against are those of the text, to the letter."""
    got = compact.read(TOKEN)
    assert got.signed == TOKEN.rpartition(".")[0].encode()
    assert b64(got.signature) == TOKEN.rpartition(".")[2]


# an issuer whose name no token may have


def test_an_issuer_whose_name_is_no_text_of_the_page() -> None:
    """Even where somebody believes such an issuer, its tokens are malformed."""
    held = IssuerKeys.from_jwks(json.dumps(JWKS).encode(), NOW)
    forge = Forge("EdDSA", AT)
    for name in ("民政局", "i" * 201, "i\n", ""):
        verifier = TokenVerifier({name: held}, AUDIENCE)
        with pytest.raises(TokenRefused) as refused:
            verifier.verify(forge.token(iss=name), NOW)
        assert (refused.value.code, refused.value.claim) == ("token_malformed", "iss")


# what is withdrawn


ENTRIES: dict[str, Any] = {
    "version": 7,
    "keys": [{"iss": "a", "kid": "k1"}, {"iss": "b", "kid": "k1"}],
    "tokens": [{"iss": "a", "jti_sha256": digest(b"1")}],
}


def test_what_is_withdrawn_is_told_by_issuer_and_name() -> None:
    """A key or token of another issuer that is called the same is not withdrawn with it."""
    got = Revocations.from_json(ENTRIES)
    assert got.covers("a", "k1", "9") and got.covers("b", "k1", "9")
    assert not got.covers("a", "k2", "9") and not got.covers("c", "k1", "9")
    assert got.covers("a", "k2", "1")
    assert not got.covers("b", "k2", "1") and not got.covers("a", "k2", "2")
    assert not NONE.covers("a", "k1", "1")


def test_a_list_is_written_sorted_and_read_back() -> None:
    """The same list has the same bytes, whatever its entries came in."""
    turned = {**ENTRIES, "keys": ENTRIES["keys"][::-1]}
    assert Revocations.from_json(turned).to_json() == ENTRIES
    assert Revocations.from_json(ENTRIES) == Revocations.from_json(turned)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": -1},
        {"version": True},
        {"version": "7"},
        {"keys": {}},
        {"keys": [{"iss": "a"}]},
        {"keys": [{"iss": "a", "kid": ""}]},
        {"keys": [{"iss": "a", "kid": "é"}]},
        {"keys": [{"iss": "a", "kid": "k", "more": 1}]},
        {"keys": [{"iss": None, "kid": "k"}]},
        {"tokens": [{"iss": "a", "jti_sha256": "short"}]},
        {"tokens": [{"iss": "a", "jti_sha256": None}]},
        {"tokens": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_list_of_another_form_is_refused(changed: dict[str, Any]) -> None:
    """A till never goes on with half a list."""
    with pytest.raises(Malformed):
        Revocations.from_json({**ENTRIES, **changed})


# the signature step by itself


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519", "ES256", "RS256", "HS256", "none", ""])
@pytest.mark.parametrize("private", [ed_key("a"), ec_key("a"), RSA_2048], ids=["OKP", "EC", "RSA"])
def test_the_signature_step_answers_and_never_raises(private: Any, alg: str) -> None:
    """Only the key's own kind of signature verifies; for any other alg, or bytes of any length,
    the answer is no, whatever the library underneath says of it."""
    key = IssuerKey.from_jwk(jwk(private))
    good = raw_signature(private, b"signed")
    assert signature_verifies(b"signed", good, key.key, alg) is (alg in key.algorithms)
    for length in (0, 1, 63, 64, 65, 255, 256, 257, 4096):
        assert not signature_verifies(b"signed", b"\0" * length, key.key, alg)
    assert not signature_verifies(b"other", good, key.key, alg)
