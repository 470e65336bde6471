"""An ID token that is not the provider's, for us, now, from this sign-in, is worth nothing."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carepos.issuer_folder import IssuerSigner
from carepos.issuer_keys import IssuerKeys
from carepos.keys import b64
from sample_issuer import id_token
from sample_issuer.id_token import Expected
from sample_issuer.problems import Problem
from tests.sample_issuer.rig import Clock, Rig, rig

ANOTHER = IssuerSigner.generate("RS256", "p1")  # the same kid, another provider's key
UNKNOWN = IssuerSigner.generate("ES256", "p9")
ABSENT = object()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("office")) as made:
        yield made


def claims(office: Rig, nonce: str, /, **changes: Any) -> dict[str, Any]:
    whole = {**office.provider.claims("amy", nonce), **changes}
    return {name: value for name, value in whole.items() if value is not ABSENT}


# what is changed, the code, the claim that is named
CHANGED: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("wrong nonce", {"nonce": "canary"}, "id_token_nonce", "nonce"),
    ("no nonce", {"nonce": ABSENT}, "id_token_nonce", "nonce"),
    ("nonce a list", {"nonce": ["canary"]}, "id_token_nonce", "nonce"),
    ("another issuer", {"iss": "https://canary.example"}, "id_token_issuer", "iss"),
    ("no issuer", {"iss": ABSENT}, "id_token_issuer", "iss"),
    ("another client", {"aud": "canary"}, "id_token_audience", "aud"),
    ("no aud", {"aud": ABSENT}, "id_token_malformed", "aud"),
    ("aud of numbers", {"aud": [1]}, "id_token_malformed", "aud"),
    ("aud list with a stranger", {"aud": ["care", "canary"], "azp": "care"},
     "id_token_audience", "aud"),
    ("aud list without azp", {"aud": ["care", "care"]}, "id_token_azp", "azp"),
    ("azp another client", {"azp": "canary"}, "id_token_azp", "azp"),
    ("azp another in a list", {"aud": ["care"], "azp": "canary"}, "id_token_azp", "azp"),
    ("expired", {"exp": 1_795_000_000}, "id_token_expired", "exp"),
    ("no exp", {"exp": ABSENT}, "id_token_malformed", "exp"),
    ("exp a text", {"exp": "1795000000"}, "id_token_malformed", "exp"),
    ("exp true", {"exp": True}, "id_token_malformed", "exp"),
    ("of an hour ago", {"iat": 1_795_332_600, "exp": 1_799_000_000}, "id_token_stale", "iat"),
    ("of tomorrow", {"iat": 1_795_422_600, "exp": 1_799_000_000},
     "id_token_not_yet_valid", "iat"),
    ("nbf tomorrow", {"nbf": 1_795_422_600}, "id_token_not_yet_valid", "nbf"),
    ("no iat", {"iat": ABSENT}, "id_token_malformed", "iat"),
    ("no sub", {"sub": ABSENT}, "id_token_malformed", "sub"),
    ("sub empty", {"sub": ""}, "id_token_malformed", "sub"),
    ("amr a text", {"amr": "sms"}, "id_token_malformed", "amr"),
    ("amr not passed on", {"amr": ["pwd"]}, "methods_not_enough", "amr"),
    ("no amr", {"amr": ABSENT}, "methods_not_enough", "amr"),
    ("not enrolled", {"sub": "canary"}, "person_unknown", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "code", "claim"), [case[1:] for case in CHANGED], ids=[case[0] for case in CHANGED]
)
def test_every_other_claim_is_refused_by_its_code(
    office: Rig, changes: dict[str, Any], code: str, claim: str | None
) -> None:
    """Well signed by the provider, and not what OpenID Connect Core §3.1.3.7 asks for."""
    office.clock.advance(120)
    nonce = office.nonce()
    assert office.clock.at.timestamp() < 1_795_350_000
    shown = office.provider.signer.sign("JWT", claims(office, nonce, **changes))
    status, found, named = office.refused(shown, nonce)
    assert (found, named) == (code, claim)
    assert status == (403 if code in ("methods_not_enough", "person_unknown") else 401)


def _hs256(body: dict[str, Any], secret: str) -> str:
    """By hand: PyJWT would not make one with a public key as its secret."""
    header = b64(json.dumps({"alg": "HS256", "kid": "p1"}).encode())
    text = f"{header}.{b64(json.dumps(body).encode())}"
    return f"{text}.{b64(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())}"


def test_every_other_signature_is_refused(office: Rig) -> None:
    """alg none, HS256 with the client's secret or the public key, another provider's key."""
    office.clock.advance(120)
    nonce = office.nonce()
    good = claims(office, nonce)
    signer = office.provider.signer
    parts = signer.sign("JWT", good).split(".")
    none = b64(json.dumps({"alg": "none", "kid": "p1"}).encode())
    public = json.dumps(signer.to_jwk())
    hs256 = [_hs256(good, secret) for secret in ("canary client secret", public)]
    pinned = signer.sign("JWT", good).replace(
        parts[0], b64(json.dumps({"alg": "ES256", "kid": "p1"}).encode())
    )
    cases = [
        (f"{none}.{parts[1]}.", "id_token_malformed", None),
        (f"{none}.{parts[1]}.AAAA", "id_token_alg", "alg"),
        *((text, "id_token_alg", "alg") for text in hs256),
        (pinned, "id_token_alg", "alg"),
        (ANOTHER.sign("JWT", good), "id_token_signature", "signature"),
        (UNKNOWN.sign("JWT", good), "id_token_signature", "kid"),
        (f"{parts[0]}.{parts[1]}.{parts[2][:-8]}AAAAAAAA", "id_token_signature", "signature"),
        (f"{parts[0]}.{parts[1]}", "id_token_malformed", None),
        (f"{'.'.join(parts)}.AA.AA", "id_token_malformed", None),
        ("x" * 20_000, "id_token_malformed", None),
        (jwt.encode(good, signer._key, "RS256", {"kid": "p1", "crit": ["x"], "x": 1}),
         "id_token_malformed", "crit"),
        ("..", "id_token_malformed", None),
    ]  # fmt: skip
    for text, code, claim in cases:
        assert office.refused(text, nonce) == (401, code, claim)


def test_a_nonce_is_good_once_and_only_here(office: Rig) -> None:
    """The same ID token brings one care code; one with a nonce of somebody else's brings none."""
    office.clock.advance(120)
    nonce = office.nonce()
    shown = office.provider.id_token("amy", nonce)
    assert office.bring(shown, nonce)[0] == 200
    assert office.refused(shown, nonce) == (401, "id_token_nonce", "nonce")
    foreign = office.provider.id_token("amy", "a nonce of its own")
    assert office.refused(foreign, "a nonce of its own") == (401, "id_token_nonce", "nonce")
    late = office.nonce()
    office.clock.advance(600)
    assert office.refused(office.provider.id_token("amy", late), late)[1] == "id_token_nonce"


def test_several_audiences_may_be_trusted() -> None:
    """A list with another that was registered as trusted is good, with our azp; never without."""
    clock = Clock()
    keys = IssuerKeys.of([ANOTHER.public], clock())
    expected = Expected("https://p.example", "care", frozenset({"app"}))
    at = int(clock().timestamp())
    body = {
        "iss": "https://p.example", "aud": ["care", "app"], "sub": "amy", "nonce": "n",
        "iat": at, "exp": at + 60,
    }  # fmt: skip

    def told(**more: Any) -> str | None:
        text = ANOTHER.sign("JWT", {**body, **more})
        try:
            id_token.verify(text, expected, keys, nonce="n", now=clock())
        except Problem as problem:
            return problem.code
        return None

    assert told(azp="care") is None
    assert told() == told(azp="app") == "id_token_azp"
    assert told(azp="care", aud=["app"]) == "id_token_audience"


@given(st.text(alphabet="ABab01-_.", max_size=60) | st.text(max_size=30))
def test_any_text_has_an_answer(text: str) -> None:
    """Whatever an app brings, the answer is one of our codes."""
    keys = IssuerKeys.of([ANOTHER.public], Clock()())
    with pytest.raises(Problem) as refused:
        id_token.verify(text, Expected("i", "care"), keys, nonce="n", now=Clock()())
    assert refused.value.code.startswith("id_token_")
    assert len(text) < 3 or text not in str(refused.value.why)


def test_a_person_does_not_show() -> None:
    """INV-10: repr() of who signed in says nothing."""
    assert "amy" not in repr(id_token.Person("amy", ("sms",)))
    assert Path(id_token.__file__).exists()
