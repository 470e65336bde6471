"""The identity vectors (docs/identity.md §1 to §9): `tokens_file()` is one file of `build.FILES`.

What is expected is written here by hand; `second_tokens`, written from the page alone, agrees with
every case before anything is written.
"""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.vectors import second_tokens as second
from tests.vectors.second import Refused, b64, digest, jcs, unb64
from tests.vectors.token_keys import (
    RSA_2048,
    RSA_4096,
    RSA_OTHER,
    Private,
    Signer,
    compact,
    ec_key,
    ed_key,
    jwk,
    number,
    said,
    seed,
    thumbprint,
)

Json = dict[str, Any]
AT = 1_795_336_200  # 2026-11-22T08:30:00Z
AUDIENCE, ISSUER, SECOND_ISSUER = "urn:carepos:redeem", "https://id.relief.example", "urn:county:7"
ED, EC, RSA_2, RSA_4 = ed_key("issuer"), ec_key("issuer"), RSA_2048, RSA_4096
STRANGER, COUNTY, PINNED, OLD = (ed_key(name) for name in ("stranger", "county", "pinned", "old"))
WITHDRAWN, PHONE, PHONE_EC = ed_key("withdrawn"), ed_key("phone"), ec_key("phone")
BY_ED, BY_ED_NEW = Signer(ED, thumbprint(ED), "EdDSA"), Signer(ED, thumbprint(ED), "Ed25519")
BY_EC, BY_RSA, BY_RSA_4 = (
    Signer(EC, "ec 1", "ES256"),
    Signer(RSA_2, "rsa-2048", "RS256"),
    Signer(RSA_4, "rsa-4096", "RS256"),
)
BY_PINNED, BY_OLD = Signer(PINNED, "pinned", "Ed25519"), Signer(OLD, "old", "EdDSA")
BY_WITHDRAWN = Signer(WITHDRAWN, "withdrawn", "EdDSA")
BY_COUNTY = Signer(COUNTY, "ec 1", "EdDSA")  # another issuer may call its key the same
CLAIMS: Json = {
    "iss": ISSUER, "aud": AUDIENCE, "sub": "b-7Qv9kX2m", "jti": "J0-r4nd0m.1", "iat": AT, "nbf": AT,
    "exp": AT + 600, "amr": ["face"], "care_class": "once",
}  # fmt: skip
CARD: Json = {"care_class": "card", "exp": AT + 34_560_000, "amr": ["carepos:card"]}
NONCE, CARD_SECRET = b64(seed("nonce")[:16]), b64(seed("card")[:16])
P, N = (
    2**256 - 2**224 + 2**192 + 2**96 - 1,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
)
L = 2**252 + 27742317777372353535851937790883648493

# The y of the points of order 8.
SMALL_ORDER_8 = (
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
)
RETIRING_UNTIL = AT + 3600
ISSUERS: list[Json] = [
    {"iss": ISSUER, "jwks": {"keys": [
        jwk(ED), jwk(EC, kid="ec 1", use="sig", key_ops=["verify"]), jwk(RSA_2, kid="rsa-2048", alg="RS256"),
        jwk(RSA_4, kid="rsa-4096"), jwk(PINNED, kid="pinned", alg="Ed25519"), jwk(OLD, kid="old"),
        jwk(WITHDRAWN, kid="withdrawn"),
    ]}, "retiring": {"old": RETIRING_UNTIL}},
    {"iss": SECOND_ISSUER, "jwks": {"keys": [jwk(COUNTY, kid="ec 1")]}, "retiring": {}},
]  # fmt: skip
REVOCATIONS: Json = {
    "version": 3,
    "keys": [{"iss": ISSUER, "kid": "withdrawn"}],
    "tokens": [{"iss": ISSUER, "jti_sha256": digest(b"lost-card")}],
}


def made(header: Json | None = None, by: Signer = BY_ED, **claims: Any) -> str:
    return by.token({**CLAIMS, **claims}, header)


def raw(header: bytes, claims: bytes, by: Private = ED) -> str:
    return compact(header, claims, by)


def cnf(private: Private) -> Json:
    return {"jwk": jwk(private)}


WALLET = made(**CARD, cnf=cnf(PHONE))
WALLET_EC = made(by=BY_EC, **CARD, cnf=cnf(PHONE_EC))


def binding(
    token: str = WALLET, by: Private = PHONE, header: Json | None = None, **claims: Any
) -> str:
    """A KB-JWT of §6, or one that differs from it by what is given."""
    head = {"alg": "EdDSA", "typ": "kb+jwt", **(header or {})}
    body = {
        "iat": AT,
        "aud": AUDIENCE,
        "nonce": NONCE,
        "sd_hash": digest(f"{token}~".encode()),
        **claims,
    }
    return compact(said(head), said(body), by)


def presented(
    token: str = WALLET, by: Private = PHONE, header: Json | None = None, **claims: Any
) -> str:
    return f"{token}~{binding(token, by, header, **claims)}"


def twin(token: str) -> str:
    """The other spelling of an ECDSA signature: (r, n − s)."""
    start, _, signature = token.rpartition(".")
    both = unb64(signature)
    s = N - int.from_bytes(both[32:], "big")
    return f"{start}.{b64(both[:32] + s.to_bytes(32, 'big'))}"


def spelled(text: str) -> str:
    """The same bytes with another last character: its unused bits are set."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4
    return text[:-1] + letters[letters.index(text[-1]) + 1]


def with_signature(token: str, signature: bytes) -> str:
    return f"{token.rpartition('.')[0]}.{b64(signature)}"


def filled(length: int, by: Signer) -> str:
    """A token of exactly so many characters, by a claim that is ignored."""
    for pad in range(2000):
        token = made(by=by, x="x" * pad)
        if len(token) == length:
            return token
    raise AssertionError(length)


GOOD = made()
HEAD, BODY, SIGNATURE = GOOD.split(".")
RAW_HEAD, RAW_BODY = unb64(HEAD), unb64(BODY)
GOOD_EC, GOOD_RSA = made(by=BY_EC), made(by=BY_RSA)
ACT: Json = {"act": {"sub": "a-31"}, "care_reason": "frail", "amr": ["otp"]}
WITNESSED: Json = {**ACT, "amr": ["otp", "carepos:witness"]}

Case = tuple[str, str, int, str | None, str | None, str]


def good_cases() -> list[Case]:
    def good(name: str, scanned: str, now: int = AT, why: str = "") -> Case:
        return name, scanned, now, None, None, why

    ed_alike = f'{{"typ":"care+jwt","alg":"EdDSA","kid":"{BY_ED.kid}"}}'
    return [
        good("Ed25519, alg EdDSA", GOOD),
        good("Ed25519, alg Ed25519", made(by=BY_ED_NEW), why="RFC 9864's name for the same signature"),
        good("a key pinned to alg Ed25519", made(by=BY_PINNED)),
        good("P-256, ES256", GOOD_EC),
        good("P-256, ES256, the second spelling of the same signature", twin(GOOD_EC), why="one visit: told by iss and jti"),
        good("RSA 2048, RS256", GOOD_RSA),
        good("RSA 4096, RS256", made(by=BY_RSA_4)),
        good("another issuer that calls its key the same", made(by=BY_COUNTY, iss=SECOND_ISSUER)),
        good("a retiring key, one second before its end", made(by=BY_OLD, iat=AT + 3000, nbf=AT + 3000, exp=AT + 3900), RETIRING_UNTIL - 1),
        good("the first second, a minute early", GOOD, AT - 60),
        good("the last second", GOOD, AT + 599),
        good("nbf long before", made(nbf=1)),
        good("nbf after iat", made(nbf=AT + 100), AT + 40),
        good("nbf later than a minute ahead, reached", made(nbf=AT + 300), AT + 240),
        good("once, 900 seconds", made(exp=AT + 900)),
        good("one second", made(exp=AT + 1)),
        good("a card of 400 days, on its last day", made(**CARD), AT + 34_559_999),
        good("the last second of the year 9999", made(iat=253_402_300_000, nbf=1, exp=253_402_300_799), 253_402_300_000),
        good("the longest names", made(sub="~" * 64, jti="._-~" * 16)),
        good("eight methods of forty letters", made(amr=[c * 40 for c in "abcdefg:"])),
        good("one method of one letter", made(amr=["1"])),
        good("other claims are ignored", made(name=None, nested={"a": {"b": []}}, iat2=-5, jti2="x")),
        good("depth 4", made(x=[[[]]])),
        good("white space in the claims", raw(RAW_HEAD, b" " + RAW_BODY.replace(b",", b",\n\t") + b"\r\n")),
        good("names of the header in another order", raw(ed_alike.encode(), RAW_BODY)),
        good("an escaped name in the header", raw(RAW_HEAD.replace(b'"alg"', rb'"\u0061lg"'), RAW_BODY)),
        good("an escaped letter in the claims", raw(RAW_HEAD, RAW_BODY.replace(b'"face"', rb'"f\u0061ce"'))),
        good("2 048 characters", filled(2048, BY_RSA)),
        good("white space around", f"\t {GOOD}\r\n"),
        good("AIM identifier", f"]Q1{GOOD}"),
        good("ECI mark", rf"\000026{GOOD}"),
        good("both, and white space", rf" ]d2\000026{GOOD} "),
        good("padded with white space to 4 096", GOOD + " " * (4096 - len(GOOD))),
        good("a proxy", made(**ACT)),
        good("a witness", made(**WITNESSED)),
        good("an actor of another issuer", made(**{**ACT, "act": {"iss": SECOND_ISSUER, "sub": "a-31"}})),
        *(good(f"reason {r}", made(**{**ACT, "care_reason": r})) for r in ("unreadable", "phone_lost", "card_lost", "minor", "other")),
        good("a printed card", f"CPC1*{CARD_SECRET}*{made(**CARD)}", why="the secret is no part of the presentation"),
        good("a printed card behind an AIM identifier", f"]Q1CPC1*{CARD_SECRET}*{made(**CARD)}\r"),
        good("a wallet, Ed25519", presented()),
        good("a wallet, alg Ed25519", presented(header={"alg": "Ed25519"})),
        good("a wallet, P-256", presented(WALLET_EC, PHONE_EC, {"alg": "ES256"})),
        good("a wallet, P-256, the second spelling of its signature", f"{WALLET_EC}~{twin(binding(WALLET_EC, PHONE_EC, {'alg': 'ES256'}))}"),
        good("a wallet, shortest nonce", presented(nonce="-" * 16)),
        good("a wallet, longest nonce", presented(nonce="_" * 64)),
        good("a wallet, 300 seconds old", presented(), AT + 300),
        good("a wallet, a minute ahead", presented(iat=AT + 60)),
    ]  # fmt: skip


def _bad_forms() -> list[Case]:
    def bad(name: str, scanned: str, why: str = "", claim: str | None = None) -> Case:
        return name, scanned, AT, "token_malformed", claim, why

    def body(text: bytes) -> str:
        return raw(RAW_HEAD, text)

    def more(text: bytes) -> str:
        return body(RAW_BODY[:-1] + b"," + text + b"}")

    def headed(text: str) -> str:
        return raw(RAW_HEAD[:-1] + b"," + text.encode() + b"}", RAW_BODY)

    return [
        bad("nothing", ""),
        bad("white space", " \r\n"),
        bad("two parts", f"{HEAD}.{BODY}"),
        bad("four parts", f"{GOOD}.{SIGNATURE}"),
        bad("five parts", "a.b.c.d.e", "a JWE"),
        bad("no header", f".{BODY}.{SIGNATURE}"),
        bad("no claims", f"{HEAD}..{SIGNATURE}", "detached"),
        bad("no signature", f"{HEAD}.{BODY}."),
        bad("JSON serialization", json.dumps({"payload": BODY, "protected": HEAD, "signature": SIGNATURE})),
        bad("padding", f"{GOOD}=="),
        bad("padding in the header", f"{HEAD}=.{BODY}.{SIGNATURE}"),
        bad("padding in the claims", f"{HEAD}.{BODY}=.{SIGNATURE}"),
        bad("standard alphabet", f"{HEAD}.{BODY}.{SIGNATURE[:-2]}+/"),
        bad("white space between", f"{HEAD}. {BODY}.{SIGNATURE}"),
        bad("line feed within", f"{HEAD}.{BODY[:9]}\n{BODY[9:]}.{SIGNATURE}"),
        bad("a full-width letter", f"Ａ{GOOD}"),
        bad("NUL at the end", f"{GOOD}\0"),
        bad("byte order mark before", f"\ufeff{GOOD}"),
        bad("second spelling of the signature", f"{HEAD}.{BODY}.{spelled(SIGNATURE)}", "unused bits"),
        bad("second spelling of the claims", f"{HEAD}.{spelled(raw(RAW_HEAD, RAW_BODY + b' ' * (-len(RAW_BODY) % 3 or 1)).split('.')[1] if len(BODY) % 4 == 0 else BODY)}.{SIGNATURE}", "unused bits"),
        bad("impossible length", f"{HEAD}.{BODY}.{'A' * 85}"),
        bad("2 049 characters", filled(2048, BY_RSA) + "A"),
        bad("4 097 characters", GOOD + " " * (4097 - len(GOOD)), "not looked at, whatever is in it"),
        bad("header of 257 bytes", headed('"x":"' + "x" * (257 - len(RAW_HEAD) - 7) + '"')),
        bad("claims of 1 537 bytes", body(RAW_BODY + b" " * (1537 - len(RAW_BODY)))),
        bad("depth 5", made(x=[[[[]]]])),
        bad("name twice", more(b'"exp":9999999999')),
        bad("name twice, once escaped", more(rb'"\u0065xp":9999999999')),
        bad("name twice within", more(b'"x":{"a":1,"a":1}')),
        bad("header name twice", headed('"alg":"EdDSA"')),
        bad("1.0", more(b'"x":1.0')),
        bad("1e3", more(b'"x":1e3')),
        bad("NaN", more(b'"x":NaN')),
        bad("beyond 2^53", more(b'"x":9007199254740992')),
        bad("lone surrogate", more(rb'"x":"\ud800"')),
        bad("surrogate in UTF-8", more(b'"x":"\xed\xa0\x80"')),
        bad("overlong UTF-8", more(b'"x":"\xc0\xaf"')),
        bad("Latin-1", more(b'"x":"\xe9"')),
        bad("claims with a byte order mark", body(b"\xef\xbb\xbf" + RAW_BODY)),
        bad("claims in UTF-16", body(RAW_BODY.decode().encode("utf-16-le"))),
        bad("claims in UTF-32", body(RAW_BODY.decode().encode("utf-32"))),
        bad("claims a list", body(b"[]")),
        bad("claims a string", body(b'"x"')),
        bad("claims null", body(b"null")),
        bad("claims cut", body(RAW_BODY[:-1])),
        bad("claims and more", body(RAW_BODY + b"{}")),
        bad("header a list", raw(b'["EdDSA"]', RAW_BODY)),
        bad("header not JSON", raw(b"EdDSA", RAW_BODY)),
        bad("header empty text", raw(b" ", RAW_BODY)),
        bad("alg none", raw(b'{"alg":"none","kid":"x","typ":"care+jwt"}', RAW_BODY), "", "alg"),
        *(bad(f"alg {a}", made({"alg": a}), "", "alg") for a in ("NONE", "HS256", "RS384", "RS512", "PS256", "ES384", "ES256K", "Ed448", "eddsa", "ed25519", "")),
        *(bad(f"alg {json.dumps(a)}", made({"alg": a}), "", "alg") for a in (None, True, 1, ["EdDSA"], {"EdDSA": 1})),
        bad("no alg", made({"alg": ...})),
        bad("no kid", made({"kid": ...})),
        *(bad(f"kid {name}", made({"kid": k}), "", "kid") for name, k in (("empty", ""), ("of 65", "k" * 65), ("null", None), ("a number", 1), ("a list", ["k"]), ("with a tab", "a\tb"), ("Chinese", "钥"))),
        *(bad(f"{name} in the header", headed(f'"{name}":{value}')) for name, value in (
            ("crit", '["exp"]'), ("b64", "true"), ("jku", '"https://x.example/k"'), ("x5u", '"https://x.example/c"'), ("x5c", "[]"),
            ("x5t", '"AA"'), ("zip", '"DEF"'), ("cty", '"JWT"'), ("jwk", jcs(jwk(ED)).decode()), ("iss", '"x"'), ("", '"x"'))),
        bad("two tokens", f"{GOOD}~{GOOD}", "a KB-JWT beside a token without cnf", "cnf"),
        bad("a wave behind a token without cnf", f"{GOOD}~", "", "cnf"),
        bad("a KB-JWT beside a token without cnf", presented(GOOD), "", "cnf"),
        bad("a KB-JWT of 1 024 characters", f"{WALLET}~{'A' * 1024}"),
        bad("a card without its secret's star", f"CPC1*{CARD_SECRET}{made(**CARD)}"),
        bad("a card with a short secret", f"CPC1*{CARD_SECRET[1:]}*{made(**CARD)}"),
        bad("a card twice", f"CPC1*{CARD_SECRET}*CPC1*{CARD_SECRET}*{made(**CARD)}"),
        bad("a card of another version", f"CPC2*{CARD_SECRET}*{made(**CARD)}"),
        bad("AIM identifier twice", f"]Q1]Q1{GOOD}"),
        bad("another ECI", rf"\000020{GOOD}"),
    ]  # fmt: skip


def _bad_claims() -> list[Case]:
    def bad(name: str, claim: str, why: str = "", **claims: Any) -> Case:
        return name, made(**claims), AT, "token_malformed", claim, why

    every: list[tuple[str, Any]] = [
        ("missing", ...),
        ("null", None),
        ("true", True),
        ("a list", ["x"]),
        ("an object", {}),
    ]
    cases = [
        bad(f"{c} {kind}", c, "", **{c: v})
        for c in ("sub", "jti", "iat", "nbf", "exp", "amr", "care_class")
        for kind, v in every
        if (c, kind) != ("amr", "a list")
    ]
    cases += [
        bad(f"{c} {kind}", c, "", **{c: v})
        for c in ("sub", "jti")
        for kind, v in (
            ("empty", ""),
            ("of 65", "x" * 65),
            ("a number", 7),
            ("with a space", "a b"),
            ("with a line feed", "a\n"),
            ("Chinese", "张三"),
            ("with a bar", "a|b"),
            ("with a slash", "a/b"),
        )
    ]
    cases += [
        bad(f"{c} {kind}", c, "", **{c: v})
        for c in ("iat", "nbf", "exp")
        for kind, v in (
            ("a string", str(AT)),
            ("zero", 0),
            ("negative", -AT),
            ("in the year 10000", 253_402_300_800),
            ("in milliseconds", AT * 1000),
        )
    ]
    phone = jwk(PHONE)
    return [
        *cases,
        bad("once, 901 seconds", "exp", exp=AT + 901),
        bad("card, 400 days and a second", "exp", **{**CARD, "exp": AT + 34_560_001}),
        bad("a life of a billion years is cut short by its class", "exp", exp=253_402_300_799),
        bad("exp at iat", "exp", exp=AT),
        bad("exp before iat", "exp", iat=AT + 700),
        bad("amr empty", "amr", amr=[]),
        bad("amr of nine", "amr", amr=list("abcdefghi")),
        bad("amr a string", "amr", amr="face"),
        bad("amr twice the same", "amr", amr=["face", "face"]),
        bad("amr with a number", "amr", amr=["face", 1]),
        bad("amr with an empty one", "amr", amr=[""]),
        bad("amr of 41", "amr", amr=["a" * 41]),
        bad("amr in capitals", "amr", amr=["FACE"]),
        bad("amr with a list", "amr", amr=[["face"]]),
        bad("class forever", "care_class", care_class="forever"),
        bad("class in capitals", "care_class", care_class="ONCE"),
        bad("cnf in a once", "cnf", cnf=cnf(PHONE)),
        bad("cnf null", "cnf", **CARD, cnf=None),
        bad("cnf a thumbprint", "cnf", **CARD, cnf={"jkt": thumbprint(PHONE)}),
        bad("cnf with more", "cnf", **CARD, cnf={**cnf(PHONE), "kid": "x"}),
        bad("cnf jwk null", "cnf", **CARD, cnf={"jwk": None}),
        bad("cnf jwk with kid", "cnf", **CARD, cnf={"jwk": {**phone, "kid": "x"}}),
        bad("cnf jwk with alg", "cnf", **CARD, cnf={"jwk": {**phone, "alg": "EdDSA"}}),
        bad("cnf jwk private", "cnf", **CARD, cnf={"jwk": {**phone, "d": phone["x"]}}),
        bad("cnf jwk RSA", "cnf", **CARD, cnf=cnf(RSA_2)),
        bad("cnf jwk symmetric", "cnf", **CARD, cnf={"jwk": {"kty": "oct", "k": "AAAA"}}),
        bad("cnf jwk of small order", "cnf", "one signature would fit many messages", **CARD, cnf={"jwk": {**phone, "x": b64(b"\1" + bytes(31))}}),
        bad("cnf jwk off the curve", "cnf", **CARD, cnf={"jwk": {**jwk(PHONE_EC), "y": jwk(PHONE_EC)["x"]}}),
        bad("cnf jwk no point of Ed25519", "cnf", **CARD, cnf={"jwk": {**phone, "x": b64(b"\2" + bytes(31))}}),
        bad("act without sub", "act", **{**ACT, "act": {}}),
        bad("act null", "act", **{**ACT, "act": None}),
        bad("act a string", "act", **{**ACT, "act": "a-31"}),
        bad("act with more", "act", **{**ACT, "act": {"sub": "a", "name": "x"}}),
        bad("act within act", "act", **{**ACT, "act": {"sub": "a", "act": {"sub": "b"}}}),
        bad("act sub a number", "act", **{**ACT, "act": {"sub": 31}}),
        bad("act sub with a space", "act", **{**ACT, "act": {"sub": "a b"}}),
        bad("act iss null", "act", **{**ACT, "act": {"iss": None, "sub": "a"}}),
        bad("act iss empty", "act", **{**ACT, "act": {"iss": "", "sub": "a"}}),
        bad("act iss Chinese", "act", **{**ACT, "act": {"iss": "民政局", "sub": "a"}}),
        bad("act in a card", "act", **{**CARD, **ACT}),
        bad("witness without act", "act", amr=["otp", "carepos:witness"]),
        bad("act without a reason", "care_reason", act={"sub": "a"}),
        bad("a reason that is none", "care_reason", **{**ACT, "care_reason": "late"}),
        bad("a reason that is a list", "care_reason", **{**ACT, "care_reason": ["frail"]}),
        bad("a reason without act", "care_reason", care_reason="frail"),
    ]  # fmt: skip


def _bad_signatures() -> list[Case]:
    def bad(name: str, scanned: str, claim: str | None = None, why: str = "") -> Case:
        return name, scanned, AT, "token_signature", claim, why

    ed, es, rs = (unb64(t.rpartition(".")[2]) for t in (GOOD, GOOD_EC, GOOD_RSA))
    r, s = int.from_bytes(es[:32], "big"), int.from_bytes(es[32:], "big")

    def es_with(first: int, second: int) -> str:
        return with_signature(GOOD_EC, first.to_bytes(32, "big") + second.to_bytes(32, "big"))

    high_s = ed[:32] + (int.from_bytes(ed[32:], "little") + L).to_bytes(32, "little")
    pss = made({"alg": "RS256"}, Signer(RSA_OTHER, "rsa-2048", "RS256"))
    return [
        bad("unknown kid", made({"kid": "nobody"}), "kid"),
        bad("kid of another issuer", made(by=Signer(COUNTY, "pinned", "EdDSA"), iss=SECOND_ISSUER), "kid"),
        bad("kid with a space behind", made({"kid": "ec 1 "}, BY_EC), "kid"),
        bad("kid in capitals", made({"kid": "EC 1"}, BY_EC), "kid"),
        bad("alg ES256 of an Ed25519 key", made({"alg": "ES256"}), "alg"),
        bad("alg RS256 of a P-256 key", made({"alg": "RS256"}, BY_EC), "alg"),
        bad("alg EdDSA of an RSA key", made({"alg": "EdDSA"}, BY_RSA), "alg"),
        bad("alg EdDSA of a key pinned to Ed25519", made({"alg": "EdDSA"}, BY_PINNED), "alg"),
        bad("another key under the kid", made(by=Signer(STRANGER, BY_ED.kid, "EdDSA"))),
        bad("another issuer's key under the kid they share", made(by=BY_COUNTY, iss=ISSUER), "alg"),
        bad("another RSA key", pss),
        bad("claims exchanged", f"{HEAD}.{made(sub='b-other').split('.')[1]}.{SIGNATURE}"),
        bad("header exchanged", f"{made(by=BY_ED_NEW).split('.')[0]}.{BODY}.{SIGNATURE}"),
        bad("signature of another token", f"{HEAD}.{BODY}.{made(jti='J2').split('.')[2]}"),
        bad("one bit of the signature", with_signature(GOOD, bytes([ed[0] ^ 1]) + ed[1:])),
        bad("Ed25519, s + L", with_signature(GOOD, high_s), why="a second spelling that RFC 8032 forbids"),
        bad("Ed25519, zeros", with_signature(GOOD, bytes(64))),
        bad("Ed25519, neutral point and zero", with_signature(GOOD, b"\1" + bytes(63))),
        bad("Ed25519, 63 bytes", with_signature(GOOD, ed[:63])),
        bad("Ed25519, 65 bytes", with_signature(GOOD, ed + b"\0")),
        bad("ES256, zeros", es_with(0, 0)),
        bad("ES256, r = 0", es_with(0, s)),
        bad("ES256, s = 0", es_with(r, 0)),
        bad("ES256, r = n", es_with(N, s)),
        bad("ES256, s = n", es_with(r, N)),
        bad("ES256, r − s exchanged", es_with(s, r)),
        bad("ES256, r + n", es_with(r + N, s) if r + N < 2**256 else es_with(2**256 - 1, s)),
        bad("ES256, 63 bytes", with_signature(GOOD_EC, es[:63])),
        bad("ES256, 66 bytes, halves with leading zeros", with_signature(GOOD_EC, b"\0" + es[:32] + b"\0" + es[32:])),
        bad("ES256, DER", with_signature(GOOD_EC, der(r, s)), why="JWS has the two numbers side by side"),
        bad("RS256, zeros", with_signature(GOOD_RSA, bytes(256))),
        bad("RS256, one", with_signature(GOOD_RSA, bytes(255) + b"\1")),
        bad("RS256, a zero byte before", with_signature(GOOD_RSA, b"\0" + rs)),
        bad("RS256, a zero byte behind", with_signature(GOOD_RSA, rs + b"\0")),
        bad("RS256, cut", with_signature(GOOD_RSA, rs[:-1])),
        bad("RS256, s + n", with_signature(GOOD_RSA, plus_modulus(rs))),
        bad("RS256, by SHA-512", with_signature(GOOD_RSA, _rsa_block(b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40", 64))),
        bad("RS256, junk behind a short padding", with_signature(GOOD_RSA, _rsa_block(SHA256_INFO, 32, junk=200)), why="Bleichenbacher 2006"),
        bad("empty Ed25519 signature of a P-256 key's length", with_signature(GOOD_EC, ed)),
    ]  # fmt: skip


SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def der(r: int, s: int) -> bytes:
    def integer(n: int) -> bytes:
        raw_ = n.to_bytes((n.bit_length() + 8) // 8, "big")
        return b"\x02" + bytes([len(raw_)]) + raw_

    both = integer(r) + integer(s)
    return b"\x30" + bytes([len(both)]) + both


def plus_modulus(signature: bytes) -> bytes:
    n = RSA_2.public_key().public_numbers().n
    value = int.from_bytes(signature, "big") + n
    return value.to_bytes(257 if value >> 2048 else 256, "big")


def _rsa_block(info: bytes, size: int, junk: int = 0) -> bytes:
    """A signature by RSA_2 of an encoded block that RFC 8017 §9.2 does not make."""
    signed = GOOD_RSA.rpartition(".")[0].encode()
    hashed = hashlib.new(f"sha{8 * size}", signed).digest()
    tail = b"\0" + info + hashed + bytes(junk)
    block = b"\0\1" + b"\xff" * (254 - len(tail)) + tail
    key = RSA_2.private_numbers()
    return pow(int.from_bytes(block, "big"), key.d, key.public_numbers.n).to_bytes(256, "big")


def _bad_others() -> list[Case]:
    def bad(
        name: str, code: str, claim: str | None, scanned: str, now: int = AT, why: str = ""
    ) -> Case:
        return name, scanned, now, code, claim, why

    typs: list[tuple[str, Any]] = [
        ("missing", ...), ("null", None), ("JWT", "JWT"), ("in capitals", "CARE+JWT"), ("at+jwt", "at+jwt"), ("kb+jwt", "kb+jwt"),
        ("with application/", "application/care+jwt"), ("a list", ["care+jwt"]), ("of a record", "carepos-record+jws"), ("with a space", "care+jwt "),
    ]  # fmt: skip
    elsewhere: list[tuple[str, Any]] = [("missing", ...), ("null", None), ("a number", 1), ("a list", [ISSUER]), ("an object", {}), ("empty", ""), ("unknown", "https://evil.example"), ("with a slash", ISSUER + "/"), ("in capitals", ISSUER.upper()), ("with a space", ISSUER + " ")]  # fmt: skip
    audiences: list[tuple[str, Any]] = [("missing", ...), ("null", None), ("a number", 1), ("a list of it", [AUDIENCE]), ("a list of two", [AUDIENCE, "x"]), ("another", "urn:elsewhere"), ("empty", ""), ("in capitals", AUDIENCE.upper()), ("with a space", AUDIENCE + " ")]  # fmt: skip
    old: Json = {"iat": AT + 3000, "nbf": AT + 3000, "exp": AT + 3900}
    binding_head, binding_body, _ = (unb64(part) for part in binding().split("."))
    twice = binding_body[:-1] + b',"iat":1}'
    holder: list[tuple[str, str]] = [
        ("no KB-JWT", WALLET), ("an empty KB-JWT", f"{WALLET}~"), ("a disclosure before the KB-JWT", f"{WALLET}~WyJhIiwiYiJd~{binding()}"),
        ("a wave behind the KB-JWT", f"{presented()}~"), ("itself as KB-JWT", f"{WALLET}~{WALLET}"), ("a KB-JWT of two parts", f"{WALLET}~a.b"),
        ("a padded KB-JWT", f"{presented()}="), ("typ JWT", presented(header={"typ": "JWT"})), ("typ care+jwt", presented(header={"typ": "care+jwt"})),
        ("no typ", presented(header={"typ": ...})), ("kid in the header", presented(header={"kid": "x"})), ("jwk in the header", presented(by=STRANGER, header={"jwk": jwk(STRANGER)})),
        ("alg none", presented(header={"alg": "none"})), ("alg ES256 of an Ed25519 key", presented(header={"alg": "ES256"})), ("alg null", presented(header={"alg": None})),
        ("alg RS256", presented(by=RSA_2, header={"alg": "RS256"})), ("another key", presented(by=STRANGER)), ("the issuer's key", presented(by=ED)),
        ("P-256, another key", presented(WALLET_EC, EC, {"alg": "ES256"})), ("P-256, zeros", f"{WALLET_EC}~{with_signature(binding(WALLET_EC, PHONE_EC, {'alg': 'ES256'}), bytes(64))}"),
        ("no iat", presented(iat=...)), ("iat true", presented(iat=True)), ("iat a string", presented(iat=str(AT))), ("iat zero", presented(iat=0)), ("iat 61 seconds ahead", presented(iat=AT + 61)),
        ("301 seconds old", presented(iat=AT - 301)), ("a year old", presented(iat=AT - 31_536_000)), ("no aud", presented(aud=...)), ("another aud", presented(aud="urn:elsewhere")), ("aud a list", presented(aud=[AUDIENCE])),
        ("no nonce", presented(nonce=...)), ("nonce of 15", presented(nonce="n" * 15)), ("nonce of 65", presented(nonce="n" * 65)), ("nonce with a wave", presented(nonce="n" * 15 + "~")), ("nonce a number", presented(nonce=10**15)), ("nonce null", presented(nonce=None)),
        ("no sd_hash", presented(sd_hash=...)), ("sd_hash of the token without the wave", presented(sd_hash=digest(WALLET.encode()))), ("sd_hash of another token", f"{WALLET}~{binding(made(**{**CARD, 'cnf': cnf(PHONE), 'jti': 'J2'}))}"),
        ("sd_hash null", presented(sd_hash=None)), ("one claim more", presented(jti="x")), ("exp beside", presented(exp=AT + 300)), ("claims a list", f"{WALLET}~{raw(binding_head, b'[]', PHONE)}"),
        ("name twice", f"{WALLET}~{raw(binding_head, twice, PHONE)}"),
    ]  # fmt: skip
    return [
        *(bad(f"typ {name}", "token_type", "typ", made({"typ": t})) for name, t in typs),
        *(bad(f"iss {name}", "token_issuer", "iss", made(iss=i)) for name, i in elsewhere),
        bad("no claim at all", "token_issuer", "iss", raw(RAW_HEAD, b"{}")),
        *(bad(f"aud {name}", "token_audience", "aud", made(aud=a)) for name, a in audiences),
        bad("a retiring key at its end", "token_signature", "kid", made(by=BY_OLD, **old), RETIRING_UNTIL),
        bad("at exp", "token_expired", "exp", GOOD, AT + 600),
        bad("long after exp", "token_expired", "exp", GOOD, 2**40 // 10),
        bad("61 seconds early", "token_not_yet_valid", "nbf", GOOD, AT - 61),
        bad("the clock of 1970", "token_not_yet_valid", "nbf", GOOD, 1),
        bad("nbf 61 seconds ahead", "token_not_yet_valid", "nbf", made(nbf=AT + 61)),
        bad("iat 61 seconds ahead", "token_not_yet_valid", "nbf", made(iat=AT + 61, exp=AT + 661)),
        *(bad(f"holder: {name}", "holder_unproven", "cnf" if name == "no KB-JWT" else None, text) for name, text in holder),
        bad("signed by a withdrawn key", "token_revoked", None, made(by=BY_WITHDRAWN)),
        bad("a withdrawn card", "token_revoked", None, made(**CARD, jti="lost-card")),
        # two things at once: the order of §4
        bad("typ before header names", "token_type", "typ", made({"typ": "JWT", "crit": ["x"]})),
        bad("size before typ", "token_malformed", None, made({"typ": "JWT"}, x="x" * 1600)),
        bad("strict JSON before typ", "token_malformed", None, raw(b'{"typ":"JWT"}', b'{"a":1,"a":1}')),
        bad("alg before iss", "token_malformed", "alg", made({"alg": "HS256"}, iss="https://evil.example")),
        bad("iss before kid", "token_issuer", "iss", made({"kid": "nobody"}, iss="https://evil.example")),
        bad("kid before aud", "token_signature", "kid", made({"kid": "nobody"}, aud="x")),
        bad("signature before aud", "token_signature", None, made(by=Signer(STRANGER, BY_ED.kid, "EdDSA"), aud="x")),
        bad("aud before claims", "token_audience", "aud", made(aud="x", sub=None)),
        bad("claims before exp", "token_malformed", "sub", made(sub=None, exp=AT - 1, iat=AT - 2, nbf=1)),
        bad("exp before nbf", "token_expired", "exp", made(iat=AT - 10, exp=AT, nbf=AT + 1000)),
        bad("exp before holder", "token_expired", "exp", WALLET, AT + 34_560_000),
        bad("holder before withdrawn", "holder_unproven", None, made(**CARD, cnf=cnf(PHONE), jti="lost-card")),
    ]  # fmt: skip


def bad_cases() -> list[Case]:
    return [*_bad_forms(), *_bad_claims(), *_bad_signatures(), *_bad_others()]


def _presentations() -> list[Json]:
    held = {
        each["iss"]: second.Held(second.key_set(jcs(each["jwks"]))[0], AT, each["retiring"])
        for each in ISSUERS
    }
    cases: list[Json] = []
    for name, scanned, now, code, claim, why in [*good_cases(), *bad_cases()]:
        case: Json = {"name": name, "scanned": scanned, "now": now, "code": code, "claim": claim}
        try:
            found = second.verify(scanned, held, AUDIENCE, REVOCATIONS, now)
            second.first_use(found)
        except Refused as refused:
            told = (refused.code, getattr(refused, "claim", None))
            assert told[0] == code and (claim is None or told[1] == claim), (
                name,
                told,
                code,
                claim,
            )
        else:
            assert code is None, (name, code)
            case["says"] = {
                "iss": found.claims["iss"], "sub": found.claims["sub"], "jti_sha256": digest(found.claims["jti"].encode()),
                "care_class": found.claims["care_class"], "amr": found.amr, "token_sha256": found.token_sha256,
                "visit_sha256": found.visit_sha256, "needs_pin": found.needs_pin,
            }  # fmt: skip
            if "act" in found.claims:
                case["says"]["actor_sha256"] = second.actor_sha256(
                    found.claims["iss"], found.claims["act"]
                )
                case["says"]["way"] = "witness" if "carepos:witness" in found.amr else "proxy"
        cases.append({**case, "why": why})
    return cases


# §3


def jwk_cases() -> list[Json]:
    ed, es, rs = jwk(ED), jwk(EC), jwk(RSA_2)
    x, y = (int.from_bytes(unb64(es[n]), "big") for n in "xy")
    root = pow(0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B, (P + 1) // 4, P)
    n2 = RSA_2.public_key().public_numbers().n

    def rsa_of(bits: int, **more: Any) -> Json:
        wide = int.from_bytes(b"".join(seed(f"modulus {i}") for i in range(33)), "big")
        return {**rs, "n": number(wide >> wide.bit_length() - bits | 1 | 1 << bits - 1), **more}

    def ed_of(y_: int, sign: int = 0) -> Json:
        return {**ed, "x": b64((y_ | sign << 255).to_bytes(32, "little"))}

    def less(o: Json, name: str) -> Json:
        return {n: v for n, v in o.items() if n != name}

    p = 2**255 - 19
    both = ["Ed25519", "EdDSA"]
    good: list[tuple[str, Any, str, list[str]]] = [
        ("Ed25519", ed, thumbprint(ED), both),
        ("Ed25519 with all that may stand there", {**ed, "kid": "a b", "use": "sig", "key_ops": ["verify"], "alg": "EdDSA", "x5c": ["MIIB"], "iat": 1}, "a b", ["EdDSA"]),
        ("Ed25519 pinned to its new name", {**ed, "alg": "Ed25519"}, thumbprint(ED), ["Ed25519"]),
        ("P-256", es, thumbprint(EC), ["ES256"]),
        ("P-256 pinned", {**es, "kid": "k" * 64, "alg": "ES256"}, "k" * 64, ["ES256"]),
        ("P-256, x = 0", {**es, "x": number(0, 32), "y": number(root, 32), "kid": "0"}, "0", ["ES256"]),
        ("RSA 2048", rs, thumbprint(RSA_2), ["RS256"]),
        ("RSA 4096", jwk(RSA_4, kid="4"), "4", ["RS256"]),
        ("RSA 3072", rsa_of(3072, kid="3"), "3", ["RS256"]),
        ("key_ops with more", {**ed, "key_ops": ["sign", "verify"], "kid": "1"}, "1", both),
    ]  # fmt: skip
    bad: list[tuple[str, Any]] = [
        ("null", None), ("a list", []), ("a string", "key"), ("nothing", {}), ("no kty", less(ed, "kty")), ("kty null", {**ed, "kty": None}), ("kty a list", {**ed, "kty": ["OKP"]}), ("kty in lower case", {**ed, "kty": "okp"}),
        ("symmetric", {"kty": "oct", "k": "AAAA"}), ("symmetric, its member left out", {"kty": "oct"}), ("Ed448", {"kty": "OKP", "crv": "Ed448", "x": b64(bytes(57))}), ("X25519", {**ed, "crv": "X25519"}), ("P-384", {"kty": "EC", "crv": "P-384", "x": b64(bytes(48)), "y": b64(bytes(48))}),
        ("secp256k1", {**es, "crv": "secp256k1"}), ("no crv", less(ed, "crv")), ("crv of the other kind", {**ed, "crv": "P-256"}), ("AKP", {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
        ("no x", less(ed, "x")), ("x a number", {**ed, "x": 1}), ("x empty", {**ed, "x": ""}), ("x padded", {**ed, "x": ed["x"] + "="}), ("x of 31 bytes", {**ed, "x": b64(bytes([9] * 31))}), ("x of 33 bytes", {**ed, "x": b64(bytes(33))}), ("x in a second spelling", {**ed, "x": spelled(ed["x"])}),
        ("neutral point", ed_of(1)), ("neutral point with a sign", ed_of(1, 1)), ("point of order 2", ed_of(p - 1)), ("point of order 2 with a sign", ed_of(p - 1, 1)), ("point of order 4", ed_of(0)), ("its negative", ed_of(0, 1)),
        *((f"point of order 8, number {i}", ed_of(v, s)) for i, (v, s) in enumerate((v, s) for v in SMALL_ORDER_8 for s in (0, 1))),
        ("neutral point spelled p + 1", ed_of(p + 1)), ("point of order 4 spelled p", ed_of(p)), ("y = p + 3, a second spelling", ed_of(p + 3)), ("all bits set", ed_of(2**255 - 1, 1)), ("y = 2 is no point", ed_of(2)),
        ("no y", less(es, "y")), ("off the curve", {**es, "y": number((y + 1) % P, 32)}), ("the point of another key's x", {**es, "x": jwk(ec_key("other"))["x"]}), ("the origin", {**es, "x": number(0, 32), "y": number(0, 32)}),
        ("x = p, which is 0 once more", {**es, "x": number(P, 32), "y": number(root, 32)}), ("x beyond p", {**es, "x": number(2**256 - 1, 32)}), ("coordinates of 33 bytes", {**es, "x": number(x, 33), "y": number(y, 33)}), ("a coordinate of 31 bytes", {**es, "x": b64(unb64(es["x"])[1:])}), ("leading zeros removed", {**es, "x": "AA", "y": number(root, 32)}),
        ("RSA 1024", rsa_of(1024)), ("RSA 2047", rsa_of(2047)), ("RSA 4097", rsa_of(4097)), ("RSA 8192", rsa_of(8192)), ("an even modulus", {**rs, "n": number(n2 + 1)}), ("a leading zero byte in n", {**rs, "n": b64(b"\0" + unb64(rs["n"]))}), ("n empty", {**rs, "n": ""}), ("no n", less(rs, "n")),
        ("e = 3", {**rs, "e": "Aw"}), ("e = 1", {**rs, "e": "AQ"}), ("e = 65 539", {**rs, "e": "AQAD"}), ("e with a leading zero byte", {**rs, "e": "AAEAAQ"}), ("no e", less(rs, "e")), ("e a number", {**rs, "e": 65_537}), ("e of 4 096 bits", {**rs, "e": jwk(RSA_4)["n"]}),
        ("use enc", {**ed, "use": "enc"}), ("use null", {**ed, "use": None}), ("key_ops without verify", {**ed, "key_ops": ["sign"]}), ("key_ops empty", {**ed, "key_ops": []}), ("key_ops a string", {**ed, "key_ops": "verify"}), ("key_ops null", {**ed, "key_ops": None}),
        ("alg of another kind", {**ed, "alg": "ES256"}), ("alg HS256", {**rs, "alg": "HS256"}), ("alg PS256", {**rs, "alg": "PS256"}), ("alg none", {**es, "alg": "none"}), ("alg null", {**ed, "alg": None}), ("alg a list", {**ed, "alg": ["EdDSA"]}),
        ("kid empty", {**ed, "kid": ""}), ("kid of 65", {**ed, "kid": "k" * 65}), ("kid null", {**ed, "kid": None}), ("kid a number", {**ed, "kid": 1}), ("kid Chinese", {**ed, "kid": "钥"}), ("kid with a line feed", {**ed, "kid": "a\n"}),
        *((f"private member {m}", {**(ed if m == "d" else rs), m: "AAAA"}) for m in ("d", "p", "q", "dp", "dq", "qi", "oth", "k")),
    ]  # fmt: skip
    cases: list[Json] = []
    for name, each, kid, algs in good:
        got = second.key(each)
        assert (got.kid, sorted(got.algs)) == (kid, algs), name
        cases.append({"name": name, "jwk": each, "kid": kid, "algs": algs})
    for name, each in bad:
        try:
            second.key(each)
        except Refused:
            cases.append({"name": name, "jwk": each, "refused": "malformed"})
        else:
            raise AssertionError(name)
    return cases


def set_cases() -> list[Json]:
    many = [jwk(ed_key(f"set {n}"), kid=f"{n}") for n in range(21)]
    ed, es = jwk(ED, kid="ed"), jwk(EC, kid="ec")
    private = {**jwk(STRANGER, kid="s"), "d": b64(bytes(32))}

    def text(*keys: Any, **more: Any) -> str:
        return jcs({"keys": list(keys), **more}).decode()

    room = 64 * 1024 - len(text(ed))
    spaces = {"64 KiB": room, "64 KiB and a byte": room + 1}
    rows: list[tuple[str, str, list[str] | None, int, str]] = [
        ("one key", text(ed), ["ed"], 0, ""),
        ("two keys, and names beside", text(ed, es, issued=1), ["ed", "ec"], 0, ""),
        ("20 keys", text(*many[:20]), [f"{n}" for n in range(20)], 0, ""),
        ("keys for other purposes are left out", text({**ed, "use": "enc", "kid": "e"}, {"kty": "OKP", "crv": "X25519", "x": ed["x"]}, es), ["ec"], 2, ""),
        ("what is no key is left out", text(None, 1, "x", [], {}, ed), ["ed"], 5, ""),
        ("an encryption key may have the same kid", text(ed, {**es, "kid": "ed", "use": "enc"}), ["ed"], 1, "it is left out first"),
        ("lists 200", text(*[0] * 199, ed), ["ed"], 199, ""),
        ("lists 201", text(*[0] * 200, ed), None, 0, ""),
        ("64 KiB", text(ed), ["ed"], 0, ""),
        ("64 KiB and a byte", text(ed), None, 0, ""),
        ("21 keys", text(*many), None, 0, ""),
        ("two keys of one kid", text(ed, {**es, "kid": "ed"}), None, 0, ""),
        ("the same key twice", text(ed, ed), None, 0, ""),
        ("empty", text(), None, 0, ""),
        ("nothing left", text({**ed, "use": "enc"}), None, 1, ""),
        ("a private key poisons it", text(ed, private), None, 0, ""),
        ("a private key of another kind too", text(ed, {"kty": "EC", "crv": "P-384", "d": "AA"}), None, 0, ""),
        ("a symmetric key too", text(ed, {"kty": "oct", "k": "AAAA"}), None, 0, ""),
        ("no keys", "{}", None, 0, ""),
        ("keys an object", '{"keys":{}}', None, 0, ""),
        ("a list", "[]", None, 0, ""),
        ("a bare key", jcs(ed).decode(), None, 0, ""),
        ("HTML", "<html>Log in to WiFi</html>", None, 0, "a captive portal"),
        ("nothing", "", None, 0, ""),
        ("keys twice", '{"keys":[],' + text(ed)[1:], None, 0, "strict JSON"),
        ("cut", text(ed, es)[:-2], None, 0, ""),
        ("a byte order mark", "\ufeff" + text(ed), None, 0, ""),
        ("deep", '{"x":' + "[" * 40 + "]" * 40 + "," + text(ed)[1:], None, 0, ""),
    ]  # fmt: skip
    cases: list[Json] = []
    for name, document, kids, out, why in rows:
        case: Json = {"name": name, "document": document, "spaces": spaces.get(name, 0)}
        try:
            keys, left_out = second.key_set(document.encode() + b" " * case["spaces"])
        except Refused:
            assert kids is None, name
            case["refused"] = "malformed"
        else:
            assert (list(keys), left_out) == (kids, out), name
            case |= {"kids": kids, "left_out": out}
        cases.append({**case, "why": why})
    return cases


def _rotations() -> list[Json]:
    a, b, c, d = (jwk(ed_key(f"rotation {n}"), kid=n) for n in "abcd")
    day = 86_400
    rows: list[tuple[str, list[tuple[int, list[Json]]], list[tuple[int, list[str]]], str]] = [
        ("the same set again", [(0, [a, b]), (5, [a, b])], [(6, ["a", "b"]), (day * 9, ["a", "b"])], ""),
        ("a key added", [(0, [a]), (5, [a, b])], [(5, ["a", "b"])], ""),
        ("a key gone is believed for a day", [(0, [a, b]), (5, [b, c])], [(5, ["a", "b", "c"]), (5 + day - 1, ["a", "b", "c"]), (5 + day, ["b", "c"])], "half-open"),
        ("gone stays gone: its day does not begin anew", [(0, [a, b]), (5, [b, c]), (1000, [b, c, d])], [(5 + day - 1, ["a", "b", "c", "d"]), (5 + day, ["b", "c", "d"])], ""),
        ("gone and back", [(0, [a, b]), (5, [b]), (1000, [a, b])], [(5 + day, ["a", "b"])], ""),
        ("two go one after another", [(0, [a, b, c]), (5, [b, c]), (1000, [c])], [(5 + day - 1, ["a", "b", "c"]), (5 + day, ["b", "c"]), (1000 + day, ["c"])], ""),
        ("no key shared", [(0, [a, b]), (5, [c])], [(5, ["a", "b"]), (day * 9, ["a", "b"])], "the held set stays"),
        ("older", [(100, [a, b]), (99, [a])], [(100, ["a", "b"]), (day * 9, ["a", "b"])], ""),
        ("as old", [(100, [a, b]), (100, [a])], [(100, ["a", "b"]), (100 + day, ["a"])], ""),
        ("another key under a known kid", [(0, [a, b]), (5, [a, {**c, "kid": "b"}])], [(5, ["a", "b"])], "the held set stays"),
        ("a pinned alg makes no other key", [(0, [a]), (5, [{**a, "alg": "EdDSA"}, b])], [(5, ["a", "b"])], ""),
        ("shares only a key whose day is over", [(0, [a, b]), (5, [b]), (5 + day, [a, c])], [(5 + day, ["b"])], "it is not held any more"),
        ("shares only a retiring key", [(0, [a, b]), (5, [b]), (4 + day, [a, c])], [(4 + day, ["a", "b"])], "a copy from before the rotation"),
    ]  # fmt: skip
    cases = []
    for name, sets, believed, why in rows:
        held: second.Held | None = None
        for as_of, keys in sets:
            read = second.key_set(jcs({"keys": keys}))[0]
            try:
                held = (
                    second.Held(read, as_of) if held is None else second.replaced(held, read, as_of)
                )
            except Refused:
                continue
        assert held is not None
        named = {each["kid"]: each["x"] for each in (a, b, c, d)}
        for at, kids in believed:
            found = {kid: key.members["x"] for kid, key in held.believed(at).items()}
            assert found == {kid: named[kid] for kid in kids}, (name, at)
        told = [{"at": at, "keys": {kid: named[kid] for kid in kids}} for at, kids in believed]
        arrived = [{"as_of": at, "keys": keys} for at, keys in sets]
        cases.append({"name": name, "sets": arrived, "believed": told, "why": why})
    return cases


# §5 to §8


def _pins() -> tuple[list[Json], list[Json]]:
    rows = [
        ("four digits", "0000"), ("eight digits", "12345678"), ("another PIN", "0001"), ("leading zeros count", "00000"),
    ]  # fmt: skip
    good = []
    for name, pin in rows:
        proof = second.pin_proof(pin, ISSUER, "card-1", CARD_SECRET)
        good.append({
            "name": name, "pin": pin, "iss": ISSUER, "jti": "card-1", "secret": CARD_SECRET,
            "proof": proof, "verifier": second.pin_verifier(proof),
        })  # fmt: skip
    for what in ("iss", "jti", "secret"):
        other = {**good[0], "name": f"another {what}", what: b64(seed("other")[:16])}
        other["proof"] = second.pin_proof("0000", other["iss"], other["jti"], other["secret"])
        other["verifier"] = second.pin_verifier(str(other["proof"]))
        good.append(other)
    bad = [
        ("three digits", "123"), ("nine digits", "123456789"), ("nothing", ""), ("a letter", "12a4"), ("a space", "123 "),
        ("full-width digits", "１２３４"), ("Arabic-Indic digits", "١٢٣٤"), ("a line feed", "1234\n"), ("a sign", "-123"),
    ]  # fmt: skip
    for name, pin in bad:
        try:
            second.pin_proof(pin, ISSUER, "card-1", CARD_SECRET)
        except Refused:
            continue
        raise AssertionError(name)
    return good, [{"name": name, "pin": pin} for name, pin in bad]


def tokens_file() -> Json:
    pins, bad_pins = _pins()
    acts = [
        (ISSUER, {"sub": "a-31"}),
        (ISSUER, {"iss": SECOND_ISSUER, "sub": "a-31"}),
        (SECOND_ISSUER, {"sub": "a-31"}),
        ("x", {"sub": "~"}),
    ]
    names = [("J0-r4nd0m.1", None), ("J0-r4nd0m.1", NONCE), ("~" * 64, "-" * 16), ("x", "_" * 64)]
    uses = [
        ("at once", "t-1", 0, "t-1", 0), ("in the visit", "t-1", 0, "t-1", 899), ("its last instant", "t-1", 0, "t-1", 900), ("after it", "t-1", 0, "t-1", 901),
        ("another terminal", "t-1", 0, "t-2", 1), ("another terminal, later", "t-1", 0, "t-2", 901), ("a clock that went back", "t-1", 900, "t-1", 0),
    ]  # fmt: skip
    return {
        "note": "Identity (docs/identity.md). `presentations`: what a scanner reads at `now` (NumericDate), used for the first time: `code` null"
        " where it is believed, and what it `says`; otherwise the refusal, and the claim or header name at fault where the page has one. `issuers`"
        " have these keys, `retiring` until then. `jwks`: one key as an issuer's. `sets`: a JWKS document, and how many spaces stand behind it. `rotations`: sets that arrive one after"
        " another, those that must not replace the held one among them, and what is believed at the end, as kid and x. Times count seconds. `visits`: a first use"
        " and another (section 5). `list`: a code and two between which it stands.",
        "audience": AUDIENCE,
        "issuers": ISSUERS,
        "revocations": REVOCATIONS,
        "presentations": _presentations(),
        "jwks": jwk_cases(),
        "sets": set_cases(),
        "rotations": _rotations(),
        "pins": pins,
        "bad_pins": bad_pins,
        "actors": [{"iss": iss, "act": act, "actor_sha256": second.actor_sha256(iss, act)} for iss, act in acts],
        "names": [{"jti": jti, "nonce": nonce, "jti_sha256": digest(jti.encode()), "visit_sha256": second.visit_sha256(jti, nonce)} for jti, nonce in names],
        "visits": [
            {"name": name, "first": {"terminal": t, "at": at}, "terminal": other, "at": later, "code": second.later_use((t, at), other, later)}
            for name, t, at, other, later in uses
        ],
        "list": [{"code": c, "answered_as": a, "after": after, "before": before} for c, a, after, before in second.ADDED],
    }  # fmt: skip
