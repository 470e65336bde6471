"""The profile of identity tokens (docs/protocol.md §8), case by case, and a storm of nonsense."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carepos import token
from carepos.errors import Refused
from carepos.issuer_keys import IssuerKey, IssuerKeys
from carepos.keys import SigningKey, b64, unb64
from carepos.presentation import strip_scanner_prefix
from carepos.refusals import BY_CODE
from carepos.scan import Holder
from carepos.token import IdentityToken, TokenVerifier, mint

ISSUER, AUDIENCE = "https://issuer.test", "urn:carepos:redeem"
KEY, OTHER = SigningKey(b"i" * 32), SigningKey(b"o" * 32)
NOW = datetime(2026, 11, 22, 8, 30, tzinfo=UTC)
AT = int(NOW.timestamp())
HEADER = {"alg": "EdDSA", "kid": KEY.kid, "typ": "care+jwt"}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "canary-sub-0001",
    "jti": "canary-jti-0001",
    "iat": AT,
    "nbf": AT,
    "exp": AT + 600,
    "amr": ["face"],
    "care_class": "once",
}


def believed(*keys: SigningKey) -> IssuerKeys:
    return IssuerKeys.of((IssuerKey.from_jwk(key.public.to_jwk()) for key in keys), NOW)


VERIFIER = TokenVerifier({ISSUER: believed(KEY), "https://second.test": believed(OTHER)}, AUDIENCE)
ABSENT = object()


def encoded(header: bytes, payload: bytes, key: SigningKey = KEY) -> str:
    signing_input = f"{b64(header)}.{b64(payload)}"
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def made(header: Mapping[str, Any] | None = None, key: SigningKey = KEY, **claims: Any) -> str:
    """A token of these claims, signed whatever they are."""

    def dumped(base: Mapping[str, Any], changed: Mapping[str, Any]) -> bytes:
        whole = {name: value for name, value in {**base, **changed}.items() if value is not ABSENT}
        return json.dumps(whole).encode()

    return encoded(dumped(HEADER, header or {}), dumped(CLAIMS, claims), key)


def with_claim(name: str, value: object) -> str:
    """The good token but for one claim."""
    return made(None, KEY, **{name: value})


def verdict(text: str, now: datetime = NOW, verifier: TokenVerifier = VERIFIER) -> str | None:
    """The code it is refused with, None for a good one; anything but Refused is a failure."""
    try:
        verifier.verify(text, now)
    except Refused as refused:
        return refused.code
    return None


GOOD = made()


def test_a_naive_time_is_a_callers_mistake_and_said_so() -> None:
    """utcnow() is hours off wherever clocks are not on UTC, and tokens of hours ago were good."""
    for judge in (VERIFIER.verify, VERIFIER.examine):
        with pytest.raises(ValueError, match="aware"):
            judge(GOOD, NOW.replace(tzinfo=None))


# good ones


def test_a_good_token_says_who() -> None:
    """Each claim comes out as it went in, typed."""
    got = VERIFIER.verify(GOOD, NOW)
    assert got == IdentityToken(
        iss=ISSUER,
        sub="canary-sub-0001",
        jti="canary-jti-0001",
        token_class="once",
        amr=frozenset({"face"}),
        issued_at=NOW,
        expires_at=NOW + timedelta(seconds=600),
        token_sha256=token.token_sha256(GOOD),
    )


def test_a_minted_token_is_good() -> None:
    """The issuer's example makes what the verifier takes, of either class."""
    common: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "s", "jti": "j"}
    once = mint(KEY, **common, issued_at=NOW)
    card = mint(
        KEY, **common, issued_at=NOW, lifetime_s=400 * 86_400, token_class="card", amr=("pin",)
    )
    assert VERIFIER.verify(once, NOW).token_class == "once"
    assert VERIFIER.verify(card, NOW + timedelta(days=399)).token_class == "card"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": AT + 900},
        {"exp": AT + 1},
        {"care_class": "card", "exp": AT + 400 * 86_400},
        {"amr": ["carepos:card", "otp", "pin", "hwk", "sc", "fpt", "face", "carepos:palm"]},
        {"sub": "~" * 64, "jti": "A.b_c-9"},
        {"nbf": AT - 10_000},
        {"iat": AT + 60, "nbf": AT + 60},
    ],
    ids=str,
)
def test_the_edges_are_inside(claims: dict[str, Any]) -> None:
    """The longest lives, the longest names and a minute of clock difference are good."""
    assert verdict(made(**claims)) is None


def test_the_size_edge_is_inside() -> None:
    """2,048 characters are good, 2,049 are not looked at."""
    room = 2048 - len(made(pad=""))
    fits = made(pad="x" * (room * 3 // 4))
    while len(fits) > 2048:
        fits = made(pad="x" * (room * 3 // 4 - 1))
    assert 2045 <= len(fits) <= 2048 and verdict(fits) is None
    beyond = made(pad="x" * (room * 3 // 4 + 3))
    assert len(beyond) > 2048 and verdict(beyond) == "token_malformed"
    assert verdict(fits + "A" * (2049 - len(fits))) == "token_malformed"


# others, each with its code

PARTS = GOOD.split(".")
RAW_CLAIMS = json.dumps(CLAIMS).encode()
RAW_HEADER = json.dumps(HEADER).encode()


def twin(part: str) -> str:
    """Another spelling of the same bytes: unused bits of the last character set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for letter in alphabet:
        other = part[:-1] + letter
        padded = other + "=" * (-len(other) % 4)
        if other != part and base64.urlsafe_b64decode(padded) == unb64(part):
            return other
    raise AssertionError("this part has no twin")


def high_s(signature: str) -> str:
    order = 2**252 + 27742317777372353535851937790883648493
    raw = unb64(signature)
    return b64(raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little"))


def payload(raw: bytes) -> str:
    return encoded(RAW_HEADER, raw)


def twice(raw: bytes, name: str, value: str) -> bytes:
    return raw[:-1] + f', "{name}": {value}}}'.encode()


HS256 = jwt.encode(CLAIMS, "k" * 32, algorithm="HS256", headers={"kid": KEY.kid, "typ": token.TYP})
NONE = ".".join((b64(b'{"alg":"none","typ":"care+jwt"}'), PARTS[1], ""))

OTHERS: list[tuple[str, str, str]] = [
    ("empty", "", "token_malformed"),
    ("a payment code", "https://wx.tenpay.test/f2f?t=AQAAA", "token_malformed"),
    ("two parts", ".".join(PARTS[:2]), "token_malformed"),
    ("four parts", GOOD + ".AA", "token_malformed"),
    ("padded", GOOD + "==", "token_malformed"),
    ("padded payload", f"{PARTS[0]}.{PARTS[1]}=.{PARTS[2]}", "token_malformed"),
    ("twin of the signature", ".".join((*PARTS[:2], twin(PARTS[2]))), "token_malformed"),
    ("high s", ".".join((*PARTS[:2], high_s(PARTS[2]))), "token_signature"),
    ("line feed within", f"{PARTS[0]}.\n{PARTS[1]}.{PARTS[2]}", "token_malformed"),
    ("standard alphabet", GOOD[:-2] + "+/", "token_malformed"),
    ("non-ASCII", GOOD[:-1] + "é", "token_malformed"),
    ("full-width", GOOD.replace("e", "ｅ", 1), "token_malformed"),
    ("surrogate", GOOD + "\udc80", "token_malformed"),
    ("NUL", GOOD + "\x00", "token_malformed"),
    ("8 MB of dots", "." * 8_000_000, "token_malformed"),
    ("8 MB of letters", "A" * 8_000_000, "token_malformed"),
    ("JSON serialization", json.dumps({"protected": PARTS[0]}), "token_malformed"),
    ("alg none", NONE, "token_malformed"),
    ("HS256", HS256, "token_malformed"),
    ("HS256 padded to a signature's length", f"{HS256}{'A' * 43}", "token_malformed"),
    ("alg ES256 of an Ed25519 key", made({"alg": "ES256"}), "token_signature"),
    ("alg a list", made({"alg": ["EdDSA"]}), "token_malformed"),
    ("no alg", made({"alg": ABSENT}), "token_malformed"),
    ("crit", made({"crit": ["b64"], "b64": False}), "token_malformed"),
    ("jwk in the header", made({"jwk": OTHER.public.to_jwk()}, OTHER), "token_malformed"),
    ("zip", made({"zip": "DEF"}), "token_malformed"),
    ("typ JWT", made({"typ": "JWT"}), "token_type"),
    ("typ in capitals", made({"typ": "CARE+JWT"}), "token_type"),
    ("typ of a record", made({"typ": "carepos-record+jws"}), "token_type"),
    ("no typ", made({"typ": ABSENT}), "token_type"),
    ("typ a list", made({"typ": ["care+jwt"]}), "token_type"),
    ("no kid", made({"kid": ABSENT}), "token_malformed"),
    ("unknown kid", made({"kid": "x" * 43}), "token_signature"),
    ("kid a list", made({"kid": [KEY.kid]}), "token_malformed"),
    ("kid null", made({"kid": None}), "token_malformed"),
    ("another key under this kid", made(key=OTHER), "token_signature"),
    ("a key of another issuer", made({"kid": OTHER.kid}, OTHER), "token_signature"),
    ("header a list", encoded(b"[]", RAW_CLAIMS), "token_malformed"),
    ("header alg twice", encoded(twice(RAW_HEADER, "alg", '"EdDSA"'), RAW_CLAIMS),
     "token_malformed"),
    ("claim twice", payload(twice(RAW_CLAIMS, "exp", "9999999999")), "token_malformed"),
    ("claim twice within", payload(twice(RAW_CLAIMS, "act", '{"a":1,"a":2}')), "token_malformed"),
    ("acting without a reason", made(act={"sub": "s"}), "token_malformed"),
    ("held by a key that is not there", made(cnf={"jkt": "x"}), "token_malformed"),
    ("payload a list", payload(b"[]"), "token_malformed"),
    ("payload a string", payload(b'"x"'), "token_malformed"),
    ("payload no JSON", payload(b"{"), "token_malformed"),
    ("payload empty object", payload(b"{}"), "token_issuer"),
    ("payload with a BOM", payload(b"\xef\xbb\xbf" + RAW_CLAIMS), "token_malformed"),
    ("payload UTF-16", payload(json.dumps(CLAIMS).encode("utf-16")), "token_malformed"),
    ("payload UTF-16 LE", payload(json.dumps(CLAIMS).encode("utf-16-le")), "token_malformed"),
    ("payload UTF-32", payload(json.dumps(CLAIMS).encode("utf-32")), "token_malformed"),
    ("payload not UTF-8", payload(b'{"iss":"\xff"}'), "token_malformed"),
    ("payload NaN", payload(twice(RAW_CLAIMS, "x", "NaN")), "token_malformed"),
    ("payload deep", payload(twice(RAW_CLAIMS, "x", "[" * 40 + "]" * 40)), "token_malformed"),
    ("payload lone surrogate", payload(twice(RAW_CLAIMS, "x", '"\\ud800"')), "token_malformed"),
    ("payload exchanged", ".".join((PARTS[0], b64(b'{"iss":"https://issuer.test"}'), PARTS[2])),
     "token_signature"),
    ("one bit of the signature",
     ".".join((*PARTS[:2], b64(bytes([unb64(PARTS[2])[0] ^ 1]) + unb64(PARTS[2])[1:]))),
     "token_signature"),
    ("iss unknown", made(iss="https://elsewhere.test"), "token_issuer"),
    ("iss with a slash", made(iss=ISSUER + "/"), "token_issuer"),
    ("no iss", made(iss=ABSENT), "token_issuer"),
    ("iss null", made(iss=None), "token_issuer"),
    ("iss a list", made(iss=[ISSUER]), "token_issuer"),
    ("iss an object", made(iss={}), "token_issuer"),
    ("aud of another", made(aud="urn:elsewhere"), "token_audience"),
    ("no aud", made(aud=ABSENT), "token_audience"),
    ("aud null", made(aud=None), "token_audience"),
    ("aud a list", made(aud=[AUDIENCE]), "token_audience"),
    ("aud a list of two", made(aud=[AUDIENCE, "urn:elsewhere"]), "token_audience"),
    ("aud a number", made(aud=1), "token_audience"),
    ("expired", made(iat=AT - 600, nbf=AT - 600, exp=AT), "token_expired"),
    ("expired long ago", made(iat=1, nbf=1, exp=2), "token_expired"),
    ("nbf in the future", made(nbf=AT + 61), "token_not_yet_valid"),
    ("iat in the future", made(iat=AT + 61, exp=AT + 600), "token_not_yet_valid"),
    ("once lives too long", made(exp=AT + 901), "token_malformed"),
    ("card lives too long", made(care_class="card", exp=AT + 400 * 86_400 + 1), "token_malformed"),
    ("ends before it begins", made(exp=AT - 1), "token_malformed"),
    ("ends as it begins", made(exp=AT), "token_malformed"),
    ("exp of a far age", made(care_class="card", exp=253_402_300_800), "token_malformed"),
    ("exp beyond a double", made(exp=2**53), "token_malformed"),
    ("iat zero", made(iat=0), "token_malformed"),
    ("iat negative", made(iat=-AT), "token_malformed"),
    ("no class", made(care_class=ABSENT), "token_malformed"),
    ("class unknown", made(care_class="forever"), "token_malformed"),
    ("class a list", made(care_class=["once"]), "token_malformed"),
    ("class an object", made(care_class={"once": 1}), "token_malformed"),
    ("amr empty", made(amr=[]), "token_malformed"),
    ("amr nine", made(amr=["face"] * 9), "token_malformed"),
    ("amr a string", made(amr="face"), "token_malformed"),
    ("amr of numbers", made(amr=[1]), "token_malformed"),
    ("amr in capitals", made(amr=["FACE"]), "token_malformed"),
    *(
        (f"no {name}", with_claim(name, ABSENT), "token_malformed")
        for name in ("sub", "jti", "iat", "nbf", "exp", "amr")
    ),
    *(
        (f"{name} {kind}", with_claim(name, value), "token_malformed")
        for name in ("iat", "nbf", "exp")
        for kind, value in (
            ("a bool", True), ("a float", AT + 0.5), ("a whole float", float(AT)),
            ("a string", str(AT)), ("null", None), ("a list", [AT]),
        )
    ),
    *(
        (f"{name} {kind}", with_claim(name, value), "token_malformed")
        for name in ("sub", "jti")
        for kind, value in (
            ("empty", ""), ("too long", "x" * 65), ("a number", 7), ("a bool", True),
            ("null", None), ("a list", ["x"]), ("with a space", "a b"),
            ("with a line feed", "a\n"), ("Chinese", "张三"), ("with a bar", "a|b"),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_every_other_token_has_its_code(text: str, code: str) -> None:
    """Whatever is not the profile is refused with the code that says what is wrong with it."""
    assert verdict(text) == code


def test_an_issuer_named_like_a_type_is_no_door() -> None:
    """`iss` is compared as text and never turned into it: 1 is not "1", null is not "None"."""
    odd = TokenVerifier({"1": believed(KEY), "None": believed(KEY)}, AUDIENCE)
    assert verdict(made(iss=1), verifier=odd) == "token_issuer"
    assert verdict(made(iss=None), verifier=odd) == "token_issuer"
    assert verdict(made(iss=ABSENT), verifier=odd) == "token_issuer"
    assert verdict(made(iss="1"), verifier=odd) is None


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(-61, "token_not_yet_valid"), (-60, None), (0, None), (599, None), (600, "token_expired")],
)
def test_time_is_the_clocks_that_is_passed_in(seconds: int, code: str | None) -> None:
    """A minute of leeway before, none after; the machine's own clock is never asked."""
    assert verdict(GOOD, NOW + timedelta(seconds=seconds)) == code
    assert verdict(GOOD, datetime(1970, 1, 1, tzinfo=UTC)) == "token_not_yet_valid"
    assert verdict(GOOD, datetime(2106, 1, 1, tzinfo=UTC)) == "token_expired"


# what scanners add


@pytest.mark.parametrize(
    "prefix", ["", "]Q1", "]Q3", "]d2", "\\000026", "]Q2\\000026", "  ", "\r\n", "\t]Q1"]
)
@pytest.mark.parametrize("suffix", ["", "\r\n", "\t", " "])
def test_what_a_scanner_adds_is_taken_off(prefix: str, suffix: str) -> None:
    """AIM identifiers, the UTF-8 ECI mark, both at once, and the scanner's Enter."""
    scanned = f"{prefix}{GOOD}{suffix}"
    assert strip_scanner_prefix(scanned) == GOOD
    assert VERIFIER.verify(scanned, NOW).token_sha256 == token.token_sha256(GOOD)
    assert token.token_sha256(scanned) == token.token_sha256(GOOD)


@pytest.mark.parametrize("prefix", ["]", "]Q", "\\000020", "]Q1]Q1", "x"])
def test_nothing_else_is_taken_off(prefix: str) -> None:
    """What is no known prefix makes it another text."""
    assert verdict(prefix + GOOD) == "token_malformed"


# nothing shown, nothing escapes


def test_nothing_of_a_token_is_shown() -> None:
    """INV-10: no repr of what holds a token shows any of it."""
    identity = VERIFIER.verify(GOOD, NOW)
    holder = Holder(identity, GOOD, "B" * 22, 7, NOW, (), {})
    for shown in (repr(identity), str(identity), repr(holder), f"{[identity, holder]}"):
        assert "canary" not in shown and GOOD[:20] not in shown and ISSUER not in shown
    assert identity.jti_sha256 not in repr(identity)


def test_no_refusal_repeats_the_token() -> None:
    """INV-10: neither the message of a refusal nor what it was raised from holds a claim."""
    for text in (made(aud="x"), made(exp=AT - 5), made(sub="canary sub"), GOOD[:-1] + "é"):
        with pytest.raises(Refused) as refused:
            VERIFIER.verify(text, NOW)
        said = f"{refused.value!r} {refused.value} {refused.value.__cause__!r}"
        assert "canary" not in said and text not in said


@given(st.text())
@example("\ud800")
@example("]Q1")
@example("..")
def test_any_text_has_a_verdict(text: str) -> None:
    """No text at all gets anything but a code of the list out of the verifier."""
    assert verdict(text) in {"token_malformed"}


@given(st.binary(max_size=60), st.binary(max_size=120))
def test_any_signed_bytes_have_a_verdict(header: bytes, body: bytes) -> None:
    """Nor do bytes that the right key signed."""
    assert verdict(encoded(header or b" ", body or b" ")) == "token_malformed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*CLAIMS, "act", "cnf", "x"]), JSON, max_size=3),
    st.dictionaries(st.sampled_from([*HEADER, "crit", "jwk", "x"]), JSON, max_size=2),
)
def test_any_claims_have_a_verdict(claims: dict[str, Any], header: dict[str, Any]) -> None:
    """Nor do well-signed tokens with any JSON in any place; what passes has the types it needs."""
    code = verdict(made(header, **claims))
    assert code is None or (code.startswith("token_") and code in BY_CODE)
    if code is None:
        whole = {**CLAIMS, **claims}
        assert all(type(whole[name]) is int for name in ("iat", "nbf", "exp"))
        assert all(isinstance(whole[name], str) for name in ("iss", "aud", "sub", "jti"))


@given(st.data())
def test_no_changed_character_goes_unseen(data: st.DataObject) -> None:
    """One character of a good token put in, taken out or changed is never a good token."""
    at = data.draw(st.integers(0, len(GOOD) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_=.é\n ") | st.characters())
    how = data.draw(st.sampled_from(["change", "insert", "delete"]))
    after = GOOD[at:] if how == "insert" else GOOD[at + 1 :]
    text = GOOD[:at] + ("" if how == "delete" else letter) + after
    if strip_scanner_prefix(text) == GOOD:
        return
    assert verdict(text) is not None
