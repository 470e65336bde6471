"""Attacks on identity tokens, made for three kinds of keys: what is held up, and what must be said.

`attacks(at)` are codes for a scanner at the second `at`; `key_attacks()` are keys and sets as an
issuer might publish them. The verdict that the profile expects stands beside each.
"""

# Tables read better with their cases on long lines.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.vectors import token_vectors
from tests.vectors.second import b64, digest, unb64
from tests.vectors.token_keys import (
    RSA_2048,
    RSA_OTHER,
    Private,
    Signer,
    compact,
    ec_key,
    ed_key,
    jwk,
    raw_signature,
)

Json = dict[str, Any]
AUDIENCE, ISSUER = "urn:carepos:redeem", "https://issuer.attacked.example"
CANARY = "canary"
FAMILIES: Mapping[str, Signer] = {
    "EdDSA": Signer(ed_key("attacked"), "canary-kid-ed", "EdDSA"),
    "ES256": Signer(ec_key("attacked"), "canary-kid-ec", "ES256"),
    "RS256": Signer(RSA_2048, "canary-kid-rsa", "RS256"),
}
OTHERS: Mapping[str, Private] = {
    "EdDSA": ed_key("attacker"),
    "ES256": ec_key("attacker"),
    "RS256": RSA_OTHER,
}
JWKS: Json = {"keys": [jwk(by.private, kid=by.kid) for by in FAMILIES.values()]}
PHONE = ed_key("attacked phone")
FORM, ISS, SIGNATURE, AUD, TYP = (
    f"token_{what}" for what in ("malformed", "issuer", "signature", "audience", "type")
)
EXPIRED, EARLY, HOLDER = "token_expired", "token_not_yet_valid", "holder_unproven"


@dataclass(frozen=True)
class Attack:
    """`given` is held up; `code` is what it must be refused with, None where it is good."""

    group: str
    name: str
    family: str
    given: Any
    code: str | None


@dataclass(frozen=True)
class KeyAttack:
    """A JWK, or the bytes of a JWKS document, and whether it may be believed."""

    group: str
    name: str
    given: Any
    good: bool


class Forge:
    """Makes tokens of one family of keys, good but for what is asked for."""

    def __init__(self, family: str, at: int) -> None:
        self.family = family
        self.by = FAMILIES[family]
        self.at = at
        self.claims: Json = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "canary-sub-1",
            "jti": "canary-jti-1",
            "iat": at,
            "nbf": at,
            "exp": at + 600,
            "amr": ["face"],
            "care_class": "once",
        }
        self.header: Json = {"alg": family, "kid": self.by.kid, "typ": "care+jwt"}

    def token(self, header: Json | None = None, by: Private | None = None, **claims: Any) -> str:
        return self.raw(
            _json({**self.header, **(header or {})}), _json({**self.claims, **claims}), by
        )

    def raw(self, header: bytes, claims: bytes, by: Private | None = None) -> str:
        return compact(header, claims, by or self.by.private)

    def parts(self, **claims: Any) -> tuple[str, str, str]:
        head, body, signature = self.token(**claims).split(".")
        return head, body, signature


def _json(names: Mapping[str, Any]) -> bytes:
    return json.dumps({n: v for n, v in names.items() if v is not ...}).encode()


def attacks(at: int) -> Iterator[Attack]:
    """Every attack, for every family of keys; the same ones each time."""
    for family in FAMILIES:
        forge = Forge(family, at)
        for group, make in GROUPS.items():
            for name, given, code in make(forge):
                yield Attack(group, name, family, given, code)


Made = Iterator[tuple[str, Any, str | None]]


def _good(f: Forge) -> Made:
    yield "plain", f.token(), None
    yield "claims that are ignored", f.token(name="x", roles=[{"a": "b"}], exp2=-1), None
    yield (
        "names in another order",
        f.raw(_json(dict(reversed(f.header.items()))), _json(f.claims)),
        None,
    )
    yield "white space", f.raw(_json(f.header), json.dumps(f.claims, indent=1).encode()), None
    yield "escaped names", f.raw(_escaped(f.header), _escaped(f.claims)), None
    yield "a scanner's prefix and Enter", f"]Q1\\000026{f.token()}\r\n", None
    yield "a subclass of str", type("Text", (str,), {})(f.token()), None
    for spaces in (" ", "\t\r\n", "\u3000", "\u00a0", "\u2028"):
        yield f"white space {spaces!r} around", f"{spaces}{f.token()}{spaces}", None
    if f.family == "ES256":
        yield "the second spelling of its signature", token_vectors.twin(f.token()), None
    if f.family == "EdDSA":
        yield "the other name of its algorithm", f.token({"alg": "Ed25519"}), None


def _escaped(names: Json) -> bytes:
    """Every letter of every name and text as an escape."""

    def spelled(text: str) -> str:
        return "".join(f"\\u{ord(c):04x}" for c in text)

    raw = json.dumps(names)
    for text in (*names, *(v for v in names.values() if isinstance(v, str))):
        raw = raw.replace(f'"{text}"', f'"{spelled(text)}"')
    # Escapes cost room: the header may have 256 bytes, so only the names of a long one.
    if len(raw) > 256 and "typ" in names:
        raw = json.dumps(names).replace('"alg"', '"\\u0061lg"')
    return raw.encode()


def _alg(f: Forge) -> Made:
    theirs = set(FAMILIES) | {"Ed25519"}
    ours = {"EdDSA", "Ed25519"} if f.family == "EdDSA" else {f.family}
    for alg in theirs - ours:
        yield f"{alg}, a kind this key is not", f.token({"alg": alg}), SIGNATURE
        if alg in OTHERS:
            yield (
                f"{alg} by such a key under this kid",
                f.token({"alg": alg}, OTHERS[alg]),
                SIGNATURE,
            )
    unknown = """none None NONE nOnE HS256 HS384 HS512 hs256 RS384 RS512 PS256 PS384 PS512 ES384 ES512
        ES256K Ed448 ML-DSA-44 ESB256 RSA1_5 RSA-OAEP A128KW dir ECDH-ES RSASSA EdDSA256 null""".split()
    unknown += [
        f.family.lower(),
        f.family.upper() + " ",
        f" {f.family}",
        f"{f.family}\0",
        f"{f.family}\n",
        "",
    ]
    for alg in unknown:
        if alg not in theirs:
            yield f"alg {alg!r}", f.token({"alg": alg}), FORM
    for alg in ("none", "None"):
        head = b64(_json({**f.header, "alg": alg}))
        yield f"alg {alg} without a signature", f"{head}.{b64(_json(f.claims))}.", FORM
        yield f"alg {alg} with a short one", f"{head}.{b64(_json(f.claims))}.AA", FORM
    others: list[Any] = [None, True, 0, 1.5, [f.family], {"alg": f.family}, [[]]]
    for value in others:
        yield f"alg {value!r}", f.token({"alg": value}), FORM
    yield "no alg", f.token({"alg": ...}), FORM
    public = f.by.private.public_key()
    secrets = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": _json(jwk(f.by.private)),
        "x": str(jwk(f.by.private).get("x", "n")).encode(),
        "nothing": b"",
        "kid": f.by.kid.encode(),
    }
    for what, secret in secrets.items():
        for alg, name in (("HS256", "sha256"), ("HS512", "sha512"), (f.family, "sha256")):
            signed = f"{b64(_json({**f.header, 'alg': alg}))}.{b64(_json(f.claims))}"
            made = hmac.new(secret, signed.encode(), name).digest()
            code = SIGNATURE if alg == f.family else FORM
            yield f"{alg} named, HMAC with the public key ({what})", f"{signed}.{b64(made)}", code


def _header(f: Forge) -> Made:
    strange = OTHERS[f.family]
    more: list[tuple[str, Any]] = [
        ("crit", ["exp"]), ("crit", ["b64"]), ("crit", []), ("crit", None), ("b64", False), ("b64", True),
        ("jku", "https://attacker.example/keys"), ("jku", "file:///dev/zero"), ("jwk", jwk(strange)), ("jwk", jwk(f.by.private)),
        ("x5u", "https://attacker.example/chain"), ("x5c", ["MIIB"]), ("x5t", "AAAA"), ("x5t#S256", "AAAA"), ("zip", "DEF"), ("cty", "JWT"),
        ("enc", "A128GCM"), ("iss", ISSUER), ("nonce", "x"), ("url", "x"), ("canary-name", 1), ("", ""), ("Alg", f.family), ("__proto__", {}),
    ]  # fmt: skip
    for n, (name, value) in enumerate(more):
        yield f"{name} more, {n}", f.token({name: value}), FORM
        yield f"{name} more, signed by another, {n}", f.token({name: value}, strange), FORM
    both = f.token({"crit": ["b64"], "b64": False})
    yield "unencoded payload (RFC 7797)", both, FORM
    yield "detached payload (RFC 7797)", f"{both.split('.')[0]}..{both.split('.')[2]}", FORM
    plain = _json(f.header)
    for name, value in f.header.items():
        for again in (value, "none", "x"):
            twice = plain[:-1] + f', "{name}": {json.dumps(again)}}}'.encode()
            yield f"{name} twice, {again[:9]}", f.raw(twice, _json(f.claims)), FORM
            first = b"{" + f'"{name}": {json.dumps(again)}, '.encode() + plain[1:]
            yield f"{name} twice, {again[:9]} first", f.raw(first, _json(f.claims)), FORM
        escaped = plain[:-1] + f', "\\u{ord(name[0]):04x}{name[1:]}": "x"}}'.encode()
        yield f"{name} twice, once escaped", f.raw(escaped, _json(f.claims)), FORM
    for what, head in _other_json(plain):
        yield f"header {what}", f.raw(head, _json(f.claims)), FORM
    yield "header too long", f.raw(plain + b" " * 257, _json(f.claims)), FORM


def _other_json(plain: bytes) -> Iterator[tuple[str, bytes]]:
    """What stands where a JSON object should, and spellings of one that are none."""
    text = plain.decode()
    yield from {
        "a list": b"[]",
        "a list of it": b"[" + plain + b"]",
        "a string": json.dumps(text).encode(),
        "a number": b"1",
        "null": b"null",
        "true": b"true",
        "a space": b" ",
        "cut": plain[:-1],
        "twice": plain + plain,
        "with a comma": plain[:-1] + b",}",
        "with a comment": plain[:-1] + b"/**/}",
        "in single quotes": plain.replace(b'"', b"'"),
        "with a byte order mark": b"\xef\xbb\xbf" + plain,
        "UTF-16": text.encode("utf-16"),
        "UTF-16 LE": text.encode("utf-16-le"),
        "UTF-16 BE": text.encode("utf-16-be"),
        "UTF-32": text.encode("utf-32"),
        "UTF-32 LE": text.encode("utf-32-le"),
        "UTF-7": text.replace("{", "+AHs-").encode(),
        "with overlong UTF-8": plain.replace(b"a", b"\xc1\xa1", 1),
        "with a surrogate in UTF-8": plain[:-1] + b',"x":"\xed\xa0\x80"}',
        "with half a surrogate pair": plain[:-1] + rb',"x":"\ud800"}',
        "with a name of half a pair": plain[:-1] + rb',"\udc00":1}',
        "with cut UTF-8": plain[:-1] + b',"x":"\xe7\x88"}',
        "with Latin-1": plain[:-1] + b',"x":"\xe9"}',
        "with NUL behind": plain + b"\0",
        "with a raw line feed": plain[:-1] + b',"x":"\n"}',
        "with NaN": plain[:-1] + b',"x":NaN}',
        "with Infinity": plain[:-1] + b',"x":-Infinity}',
        "with 1.0": plain[:-1] + b',"x":1.0}',
        "with 1e999": plain[:-1] + b',"x":1e999}',
        "with 2^53": plain[:-1] + b',"x":9007199254740992}',
        "with 200 digits": plain[:-1] + b',"x":' + b"9" * 100 + b"}",
        "five deep": plain[:-1] + b',"x":[[[[1]]]]}',
        "fifty deep": plain[:-1] + b',"x":' + b"[" * 50 + b"]" * 50 + b"}",
        "deep and cut": b"[" * 200,
        "objects, deep and cut": b'{"":' * 60,
    }.items()


def _typ(f: Forge) -> Made:
    names = """JWT jwt CARE+JWT care+JWT application/care+jwt care+jws at+jwt kb+jwt dpop+jwt logout+jwt JOSE
        carepos-record+jws carepos-outcome+jws carepos-proof+jws dc+sd-jwt vc+jwt secevent+jwt""".split()
    for typ in (
        *names,
        "care+jwt ",
        "care+jwt\0",
        "care jwt",
        "ｃare+jwt",
        "",
        ...,
        None,
        True,
        1,
        ["care+jwt"],
        {"care+jwt": 1},
    ):
        yield f"typ {typ!r}", f.token({"typ": typ}), TYP


def _kid(f: Forge) -> Made:
    kid = f.by.kid
    injected = [
        "../../../../dev/null",
        "/dev/null",
        "' OR 1=1 --",
        "kid; rm -rf /",
        "%00",
        "*",
        "canary-kid-*",
        "0",
        "{}",
        "k" * 64,
    ]
    for value in (
        *injected,
        kid.upper(),
        f"{kid} ",
        f" {kid}",
        kid[:-1],
        f"{kid}x",
        kid.replace("c", "%63", 1),
    ):
        yield f"kid {value!r}", f.token({"kid": value}), SIGNATURE
        yield f"kid {value!r}, another key", f.token({"kid": value}, OTHERS[f.family]), SIGNATURE
    for family, by in FAMILIES.items():
        if family != f.family:
            yield f"kid of the {family} key", f.token({"kid": by.kid}), SIGNATURE
    odd: list[Any] = [
        "",
        "k" * 65,
        "k" * 99,
        f"{kid}\0",
        f"{kid}\n",
        "ｋ",
        "钥",
        "\x7f",
        "é",
        None,
        True,
        0,
        1,
        [kid],
        {"kid": kid},
        [],
        {},
        ...,
    ]
    for value in odd:
        yield f"kid {value!r}", f.token({"kid": value}), FORM


_VALUES: tuple[Any, ...] = (
    ..., None, True, False, 0, 1, -1, 2**53 - 1, -(2**53) + 1, "", "1", "canary x", "x" * 201, "张三", "a\n", "a\0", [], [None], [1], ["canary"],
    [["x"]], {}, {"": ""}, {"canary": 1}, [[[]]],
)  # fmt: skip
_ROW_1: tuple[Any, ...] = (
    1.0,
    1.5,
    1e9,
    -0.0,
    1e300,
    float("nan"),
    float("inf"),
    2**53,
    10**40,
    [[[[]]]],
    "\ud800",
)
_GOOD_VALUES = {("sub", "1"), ("jti", "1"), ("nbf", 1)}


def _claims(f: Forge) -> Made:
    for name in f.claims:
        code = {"iss": ISS, "aud": AUD}.get(name, FORM)
        for value in _VALUES:
            is_good = type(value) in (str, int) and (name, value) in _GOOD_VALUES
            if (name, value) == ("amr", ["canary"]):
                is_good = True
            yield (
                f"{name} {_shown(value)}",
                f.token(None, None, **{name: value}),
                None if is_good else code,
            )
        for value in _ROW_1:
            yield f"{name} {_shown(value)}", f.token(None, None, **{name: value}), FORM
        again = _json(f.claims)[:-1] + f', "{name}": {json.dumps(f.claims[name])}}}'.encode()
        yield f"{name} twice, alike", f.raw(_json(f.header), again), FORM
        yield (
            f"{name} in capitals",
            f.raw(
                _json(f.header),
                _json(f.claims).replace(f'"{name}"'.encode(), f'"{name.upper()}"'.encode()),
            ),
            code,
        )
        yield (
            f"{name} behind a space",
            f.raw(
                _json(f.header),
                _json(f.claims).replace(f'"{name}"'.encode(), f'"{name} "'.encode()),
            ),
            code,
        )
    at = f.at
    for name, year in itertools.product(("iat", "nbf", "exp"), (10_000, 1_000_000, 285_000_000)):
        yield (
            f"{name} in the year {year}",
            f.token(None, None, **{name: (year - 1970) * 31_556_952}),
            FORM,
        )
    yield "a life of a billion years", f.token(care_class="card", exp=at + 31_556_952 * 10**8), FORM
    yield "milliseconds", f.token(iat=at * 1000, nbf=at * 1000, exp=at * 1000 + 600), FORM
    for what, body in _other_json(_json(f.claims)):
        yield f"claims {what}", f.raw(_json(f.header), body), FORM
    yield "claims too long", f.token(pad="x" * 1500), FORM
    yield "nothing claimed", f.raw(_json(f.header), b"{}"), ISS
    for n, act in enumerate(
        (
            {},
            None,
            "canary",
            {"sub": ""},
            {"sub": None},
            {"sub": "a", "canary": 1},
            {"sub": "a", "act": {"sub": "b"}},
            {"iss": [], "sub": "a"},
            [{"sub": "a"}],
        )
    ):
        yield f"act {n}", f.token(act=act, care_reason="frail"), FORM
    for n, reason in enumerate((..., None, "canary", "", ["frail"], {"frail": 1}, 1, "Frail")):
        yield f"reason {n}", f.token(act={"sub": "canary"}, care_reason=reason), FORM
    yield "a witness nobody names", f.token(amr=["otp", "carepos:witness"]), FORM
    yield (
        "acting with a card",
        f.token(care_class="card", act={"sub": "a"}, care_reason="frail"),
        FORM,
    )


def _shown(value: Any) -> str:
    return "missing" if value is ... else ascii(value)[:40]


def _time(f: Forge) -> Made:
    for iat, life, nbf in itertools.product(
        (-901, -600, -1, 0, 60, 61), (0, 1, 600, 900, 901), (-1000, 0, 60, 61)
    ):
        code = None
        if life in (0, 901):
            code = FORM
        elif iat + life <= 0:
            code = EXPIRED
        elif max(iat, nbf) > 60:
            code = EARLY
        yield (
            f"iat {iat:+}, {life} s, nbf {nbf:+}",
            f.token(iat=f.at + iat, exp=f.at + iat + life, nbf=f.at + nbf),
            code,
        )


def _encoding(f: Forge) -> Made:
    head, body, signature = f.parts()
    text = f"{head}.{body}.{signature}"
    for n, where in enumerate((head, body, signature)):
        for pad in ("=", "==", "===", "%3D", "==="):
            parts = [head, body, signature]
            parts[n] = where + pad
            yield f"{pad} behind part {n}", ".".join(parts), FORM
        for what, bad in (
            ("+", where[:-1] + "+"),
            ("/", where[:-1] + "/"),
            ("empty", ""),
            ("one letter", "A"),
            ("five letters", "AAAAA"),
        ):
            parts = [head, body, signature]
            parts[n] = bad
            yield f"part {n} {what}", ".".join(parts), FORM
        if len(where) % 4:
            parts = [head, body, signature]
            parts[n] = token_vectors.spelled(where)
            yield f"part {n} in a second spelling", ".".join(parts), FORM
    for place, mark in itertools.product(
        (1, len(head), len(head) + 1, len(text) - 2),
        " \t\n\r\0\x0b\x1c\u00a0\u200b\u2028\u3000\ufeffé=.,~%",
    ):
        if mark in ".~":
            continue
        yield f"{mark!r} at {place}", text[:place] + mark + text[place:], FORM
    for mark in "\0\u200b\ufeff\ud800.;:":
        yield f"{mark!r} before", mark + text, FORM
        yield f"{mark!r} behind", text + mark, FORM
    for what, other in (
        ("full-width", text.translate({ord("e"): "ｅ"})), ("upper case", text.upper()), ("percent", text.replace(".", "%2E")),
        ("reversed", text[::-1]), ("quoted", f'"{text}"'), ("Bearer", f"Bearer {text}"), ("twice", text + text), ("comma", f"{text},{text}"),
        ("ideographic stop", text.replace(".", "。")), ("a wave", f"{text}~"), ("a wave and itself", f"{text}~{text}"), ("a URL", f"https://x.example/?t={text}"),
        ("JSON", json.dumps({"protected": head, "payload": body, "signature": signature})),
        ("general JSON", json.dumps({"payload": body, "signatures": [{"protected": head, "signature": signature}]})),
        ("a card of no secret", f"CPC1**{text}"), ("a card of a bad secret", f"CPC1*{'!' * 22}*{text}"), ("a prefix twice", f"]Q1]Q1{text}"),
    ):  # fmt: skip
        yield what, other, FORM


def _junk(f: Forge) -> Made:
    text, size = f.token(), 8_000_000
    rng = random.Random(8)
    kinds: dict[str, Callable[[], Any]] = {
        "dots": lambda: "." * size, "letters": lambda: "A" * size, "brackets": lambda: "[" * size, "spaces": lambda: " " * size,
        "waves": lambda: "~" * size, "stars": lambda: "CPC1*" + "A" * size, "emoji": lambda: "😀" * (size // 4), "NUL": lambda: "\0" * size, "surrogates": lambda: "\udc80" * size,
        "a good token and letters": lambda: text + "A" * size, "a good token and dots": lambda: text + "." * size, "a good token and waves": lambda: text + "~" * size,
        "a good token and spaces": lambda: text + " " * size, "spaces and a good token": lambda: " " * size + text,
        "a long header": lambda: f"{'A' * size}.{text.partition('.')[2]}", "long claims": lambda: f"{text.split('.')[0]}.{'A' * size}.{text.split('.')[2]}",
        "base64 of deep JSON": lambda: f"{b64(b'[' * (size // 2))}.{text.partition('.')[2]}", "a long ECI mark": lambda: "\\000026" * (size // 7),
        "digits": lambda: "9" * size, "random letters": lambda: "".join(rng.choices("ABCabc019-_.", k=2_000)) * (size // 2_000),
    }  # fmt: skip
    for what, make in kinds.items():
        if f.family == "EdDSA":  # once is enough: none of it reaches a key
            yield f"8 MB of {what}", make(), FORM
    yield "4 097 characters", text + " " * (4097 - len(text)), FORM
    for n in range(60):
        length = rng.choice([0, 1, 2, 3, 20, 300, 2047, 2048, 2049, 3072, 4096])
        junk = "".join(rng.choices('ABCXYZabcxyz0189-_.~*]Q1\\ \n=[]{}":,é', k=length))
        yield f"random junk {n} of {length}", junk, FORM
    head, body, signature = f.parts()
    for n in range(60):  # random bytes where JSON should be, well signed
        noise = rng.randbytes(rng.choice([1, 8, 64, 200]))
        yield (
            f"signed noise {n}",
            f.raw(noise, unb64(body)) if n % 2 else f.raw(unb64(head), noise),
            FORM,
        )
    for n in range(60):  # one bit of a good token
        place = rng.randrange(3)
        parts = [unb64(each) for each in (head, body, signature)]
        flipped = bytearray(parts[place])
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        parts[place] = bytes(flipped)
        yield f"bit {n} of part {place}", ".".join(b64(part) for part in parts), "any"


def _objects(f: Forge) -> Made:
    class Sly:
        """Looks like a presentation to whoever asks for attributes."""

        token, text, key_binding, card_secret, sha256 = f.token(), f.token(), None, None, ""

        def __str__(self) -> str:
            return f.token()

    text = f.token()
    given: list[Any] = [
        text.encode(), bytearray(text.encode()), memoryview(text.encode()), None, 0, 1, 1.5, True, [], [text], (text,), {"token": text},
        {text}, iter([text]), object(), Sly(), Sly, lambda: text, ..., Exception(text), range(3), text.split("."),
    ]  # fmt: skip
    for n, each in enumerate(given):
        yield f"{type(each).__name__} {n}", each, FORM


def _signatures(f: Forge) -> Made:
    text = f.token()
    start = text.rpartition(".")[0]
    good = unb64(text.rpartition(".")[2])

    def signed(what: str, signature: bytes) -> tuple[str, str, str]:
        return what, f"{start}.{b64(signature)}", SIGNATURE

    yield "by another key", f.token(None, OTHERS[f.family]), SIGNATURE
    yield "of another token", f"{start}.{f.token(jti='canary-2').rpartition('.')[2]}", SIGNATURE
    yield "of other claims", f"{f.token(sub='canary-2').rpartition('.')[0]}.{b64(good)}", SIGNATURE
    yield (
        "of another header",
        f"{b64(_json(f.header) + b' ')}.{start.partition('.')[2]}.{b64(good)}",
        SIGNATURE,
    )
    private = f.by.private
    head, body = start.split(".")
    for what, data in {
        "the claims alone": body, "the header alone": head, "both without the dot": head + body, "the bytes themselves": unb64(body).decode(),
        "both with a dot behind": start + ".", "the digest": hashlib.sha256(start.encode()).hexdigest(), "nothing": "",
    }.items():  # fmt: skip
        yield signed(f"over {what}", raw_signature(private, data.encode()))
    for family, by in FAMILIES.items():
        if family != f.family:
            yield signed(f"by the issuer's {family} key", raw_signature(by.private, start.encode()))
    for length in {1, 16, 31, 32, 33, 48, 63, 64, 65, 66, 72, 96, 128, 255, 256, 257, 512}:
        yield signed(f"{length} zeros", bytes(length))
        yield signed(f"{length} ones", b"\xff" * length)
        if length < len(good):
            yield signed(f"cut to {length}", good[:length])
            yield signed(f"its last {length}", good[-length:])
        elif length > len(good):
            yield signed(f"filled up to {length}", good + bytes(length - len(good)))
            yield signed(f"zeros before, {length}", bytes(length - len(good)) + good)
    yield signed("reversed", good[::-1])
    yield signed("twice", good + good)
    yield signed("halves exchanged", good[len(good) // 2 :] + good[: len(good) // 2])
    for bit in range(0, 8 * len(good), 41):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        yield signed(f"bit {bit}", bytes(flipped))
    yield from (signed(*each) for each in _SPECIAL[f.family](good))


def _special_ed(good: bytes) -> Iterator[tuple[str, bytes]]:
    r, s = good[:32], int.from_bytes(good[32:], "little")
    for n in range(1, 8):
        if s + n * token_vectors.L < 2**256:
            yield f"s + {n} L", r + (s + n * token_vectors.L).to_bytes(32, "little")
    p = 2**255 - 19
    ys = (0, 1, p - 1, p, p + 1, 2**255 - 1, *token_vectors.SMALL_ORDER_8)
    for y, sign, number in itertools.product(ys, (0, 1), (0, 1, s, token_vectors.L)):
        point = (y | sign << 255).to_bytes(32, "little")
        yield (
            f"R of small order or none ({y % 1000}, {sign}), s {number % 1000}",
            point + number.to_bytes(32, "little"),
        )
    yield "sign of R turned", r[:31] + bytes([r[31] ^ 128]) + good[32:]


def _special_ec(good: bytes) -> Iterator[tuple[str, bytes]]:
    n, p = token_vectors.N, token_vectors.P
    r, s = int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big")
    edges = {
        "0": 0,
        "1": 1,
        "n": n,
        "n - 1": n - 1,
        "n + 1": n + 1,
        "p": p,
        "2^256 - 1": 2**256 - 1,
        "n / 2": n // 2,
    }
    for (a, first), (b, second) in itertools.product(
        {**edges, "r": r}.items(), {**edges, "s": s}.items()
    ):
        if (a, b) != ("r", "s"):
            yield f"r = {a}, s = {b}", first.to_bytes(32, "big") + second.to_bytes(32, "big")
    yield "-r", (n - r).to_bytes(32, "big") + good[32:]
    yield "DER", token_vectors.der(r, s)
    yield "DER of the twin", token_vectors.der(r, n - s)
    yield "halves of 33 bytes", b"\0" + good[:32] + b"\0" + good[32:]
    yield "little-endian", good[:32][::-1] + good[32:][::-1]


def _special_rsa(good: bytes) -> Iterator[tuple[str, bytes]]:
    private = RSA_2048.private_numbers()
    n = private.public_numbers.n
    value = int.from_bytes(good, "big")
    yield "s + n", token_vectors.plus_modulus(good)
    yield "-s", (n - value).to_bytes(256, "big")
    for number in (0, 1, 2, n - 1, n):
        yield f"the number {number % 10}, {number.bit_length()} bits", number.to_bytes(256, "big")
    sha256 = token_vectors.SHA256_INFO
    hashed = bytes(32)
    blocks = {
        "no padding": hashed, "no DigestInfo": _padded(hashed, 256), "block type 2": b"\0\2" + _padded(sha256 + hashed, 256)[2:],
        "junk behind": b"\0\1" + b"\xff" * 8 + b"\0" + sha256 + hashed + bytes(256 - 11 - 51), "no NULL": _padded(bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + hashed, 256),
        "short padding": b"\0\1" + b"\xff" * 201 + b"\0" + sha256 + hashed, "zero padding": b"\0\1" + bytes(202) + b"\0" + sha256 + hashed,
        "SHA-1": _padded(bytes.fromhex("3021300906052b0e03021a05000414") + bytes(20), 256), "of the wrong digest": _padded(sha256 + hashed, 256),
    }  # fmt: skip
    for what, block in blocks.items():
        yield what, pow(int.from_bytes(block, "big"), private.d, n).to_bytes(256, "big")


def _padded(tail: bytes, size: int) -> bytes:
    return b"\0\1" + b"\xff" * (size - 3 - len(tail)) + b"\0" + tail


_SPECIAL: Mapping[str, Callable[[bytes], Iterator[tuple[str, bytes]]]] = {
    "EdDSA": _special_ed,
    "ES256": _special_ec,
    "RS256": _special_rsa,
}


def _holder(f: Forge) -> Made:
    card: Json = {"care_class": "card", "cnf": {"jwk": jwk(PHONE)}, "exp": f.at + 86_400}
    token = f.token(**card)

    def bound(
        to: str = token, by: Private = PHONE, header: Json | None = None, **claims: Any
    ) -> str:
        head = {"alg": "EdDSA", "typ": "kb+jwt", **(header or {})}
        body = {
            "iat": f.at,
            "aud": AUDIENCE,
            "nonce": "canary-nonce-123",
            "sd_hash": digest(f"{to}~".encode()),
            **claims,
        }
        return compact(_json(head), _json(body), by)

    def shown(*args: Any, **claims: Any) -> str:
        return f"{token}~{bound(*args, **claims)}"

    yield "fresh", shown(), None
    yield "five minutes old", shown(iat=f.at - 300), None
    yield "without", token, HOLDER
    yield "empty", f"{token}~", HOLDER
    yield "of another token", f"{token}~{bound(f.token(**{**card, 'jti': 'canary-2'}))}", HOLDER
    yield "beside a token that asks for none", f"{f.token()}~{bound(f.token())}", FORM
    yield "by the issuer", shown(token, f.by.private, {"alg": f.family}), HOLDER
    yield "by another phone", shown(token, ed_key("another phone")), HOLDER
    for value in _VALUES + _ROW_1:
        for name in ("iat", "aud", "nonce", "sd_hash"):
            if (name, value) != ("iat", 1) or value is True:
                yield (
                    f"{name} {_shown(value)}",
                    shown(None or token, PHONE, None, **{name: value}),
                    HOLDER,
                )
    for name, header in {
        "alg": ("none", "HS256", "ES256", "RS256", None, ["EdDSA"], ...),
        "typ": ("JWT", "care+jwt", "KB+JWT", None, ...),
        "kid": ("x",),
        "jwk": (jwk(PHONE),),
        "crit": (["b64"],),
    }.items():
        for value in header:
            yield f"header {name} {_shown(value)}", shown(token, PHONE, {name: value}), HOLDER
    yield "one claim more, its name from outside", shown(**{"canary-claim": 1}), HOLDER
    yield "ahead", shown(iat=f.at + 61), HOLDER
    yield "a disclosure between", f"{token}~WyJjYW5hcnkiXQ~{bound()}", HOLDER
    yield "too long", f"{token}~{'A' * 1024}", FORM
    for what, key in {
        "small order": {**jwk(PHONE), "x": b64(b"\1" + bytes(31))}, "off the curve": {**jwk(ec_key("p")), "y": jwk(ec_key("p"))["x"]}, "RSA": jwk(RSA_2048), "private": {**jwk(PHONE), "d": "AAAA"},
        "oct": {"kty": "oct", "k": "AAAA"}, "with kid": {**jwk(PHONE), "kid": "x"}, "with a name from outside": {**jwk(PHONE), "canary-member": "x"}, "no object": "canary", "empty": {},
    }.items():  # fmt: skip
        yield f"cnf {what}", f.token(**{**card, "cnf": {"jwk": key}}) + f"~{bound()}", FORM
    odd: list[Any] = [None, [], "canary", {}, {"jkt": "x"}, {"kid": "x"}, {"x5t#S256": "x"}]
    for n, cnf in enumerate([*odd, {"jwk": jwk(PHONE), "canary-member": 1}]):
        yield f"cnf {n}", f.token(**{**card, "cnf": cnf}) + f"~{bound()}", FORM
    yield "cnf in a once", f.token(cnf={"jwk": jwk(PHONE)}) + f"~{bound()}", FORM


GROUPS: Mapping[str, Callable[[Forge], Made]] = {
    "good": _good,
    "algorithm": _alg,
    "header": _header,
    "typ": _typ,
    "kid": _kid,
    "claims": _claims,
    "time": _time,
    "encoding": _encoding,
    "junk": _junk,
    "other objects": _objects,
    "signature": _signatures,
    "holder's key": _holder,
}
KEY_GROUPS = ("key", "key set")


def key_attacks() -> Iterator[KeyAttack]:
    """Keys and sets: those of the vectors, and each kind of key with one member of each kind wrong."""
    for case in token_vectors.jwk_cases():
        yield KeyAttack("key", case["name"], case["jwk"], "refused" not in case)
    for case in token_vectors.set_cases():
        document = case["document"].encode() + b" " * case["spaces"]
        yield KeyAttack("key set", case["name"], document, "refused" not in case)
    for family, by in FAMILIES.items():
        whole = jwk(by.private, kid="k", use="sig", alg=family)
        for name, value in itertools.product(
            whole, (None, True, 1, 1.5, "", "x y", [], {}, "A" * 701, "\0", "é")
        ):
            yield KeyAttack(
                "key",
                f"{family}: {name} {_shown(value)}",
                {**whole, name: value},
                (name, value) == ("kid", "x y"),
            )
    rng = random.Random(9)
    plain = json.dumps(JWKS).encode()
    for n in range(40):
        yield KeyAttack(
            "key set", f"noise {n}", rng.randbytes(rng.choice([1, 100, 5000])), good=False
        )
        yield KeyAttack("key set", f"cut {n}", plain[: rng.randrange(len(plain))], good=False)
    for what, other in _other_json(plain):
        ignored = what in ("five deep",)
        yield KeyAttack("key set", what, other, ignored)
    for what, document in {
        "fifty deep, which is too deep": plain[:-1] + b',"x":' + b"[" * 50 + b"]" * 50 + b"}", "8 MB": plain + b" " * 8_000_000, "8 MB of brackets": b"[" * 8_000_000,
        "200 empty keys": json.dumps({"keys": [{}] * 200}).encode(), "5 000 empty keys": json.dumps({"keys": [{}] * 5000}).encode(),
    }.items():  # fmt: skip
        yield KeyAttack("key set", what, document, good=False)
