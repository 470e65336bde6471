"""A second implementation of docs/identity.md, written from that page alone.

It stands on `cryptography` and on the other half of the second implementation; it imports nothing
of the product and no JWT library. Each function is a section of the page.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from tests.vectors.second import Refused, b64, digest, jcs, need, parse, unb64

Json = dict[str, Any]

# §4 and §10: each new code of the list, with the older ones that it stands between.
ADDED = [
    ("holder_unproven", "outcome", "token_not_yet_valid", "token_replayed"),
    ("acting_not_allowed", "outcome", "token_assurance", "programme_not_started"),
    ("pin_required", "outcome", "acting_not_allowed", "programme_not_started"),
    ("pin_wrong", "outcome", "pin_required", "programme_not_started"),
    ("pin_locked", "outcome", "pin_wrong", "programme_not_started"),
    ("other_programme", "outcome", "voucher_unknown", "voucher_not_yours"),
    ("acting_limit", "outcome", "limit_exceeded", "balance_insufficient"),
]
LATEST = 253_402_300_799
IDENTIFIER = r"[A-Za-z0-9._~-]{1,64}"
MANY = {"EdDSA": "OKP", "Ed25519": "OKP", "ES256": "EC", "RS256": "RSA"}
MEMBERS = {"OKP": ["crv", "x"], "EC": ["crv", "x", "y"], "RSA": ["e", "n"]}
SECRET = set("d p q dp dq qi oth k".split())


class No(Refused):
    """A refusal of §4: its code, and the claim or header name at fault where the page has one."""

    def __init__(self, code: str, claim: str | None = None) -> None:
        super().__init__(code, claim or "")
        self.claim = claim


def must(true: object, code: str, claim: str | None = None) -> None:
    if not true:
        raise No(code, claim)


# §3


@dataclass(frozen=True)
class Key:
    kid: str
    kty: str
    algs: frozenset[str]
    members: Json


def _is_edwards_point(raw: bytes) -> bool:
    """Decoding of RFC 8032 §5.1.3, and eight times the point is not the neutral one."""
    p = 2**255 - 19
    d = -121665 * pow(121666, p - 2, p) % p
    y, sign = int.from_bytes(raw, "little") % 2**255, raw[-1] >> 7
    if len(raw) != 32 or y >= p:
        return False
    xx = (y * y - 1) * pow(d * y * y + 1, p - 2, p) % p
    x = pow(xx, (p + 3) // 8, p)
    if (x * x - xx) % p:
        x = x * pow(2, (p - 1) // 4, p) % p
    if (x * x - xx) % p or (x == 0 and sign):
        return False
    for _ in range(3):  # (x, y) doubled, RFC 8032 §5.1.4 written in affine coordinates
        t = d * x * x * y * y
        x, y = (
            2 * x * y * pow(1 + t, p - 2, p) % p,
            (y * y + x * x) * pow(1 - t, p - 2, p) % p,
        )
    return (x, y) != (0, 1)


def _is_p256_point(x: bytes, y: bytes) -> bool:
    p = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    at, up = int.from_bytes(x, "big"), int.from_bytes(y, "big")
    inside = len(x) == len(y) == 32 and at < p and up < p
    return inside and (up * up - at**3 + 3 * at - b) % p == 0


def _is_rsa(n: bytes, e: bytes) -> bool:
    number = int.from_bytes(n, "big")
    return e == b"\1\0\1" and n[0] > 0 and 2048 <= number.bit_length() <= 4096 and number % 2 == 1


def key(jwk: Any) -> Key:
    """A public signing key, or Refused."""
    need(isinstance(jwk, dict) and not SECRET & set(jwk), "no object, or a private one")
    kty = jwk.get("kty")
    need(isinstance(kty, str) and kty in MEMBERS, "kty")
    members = {name: jwk.get(name) for name in ["kty", *MEMBERS[kty]]}
    need(all(isinstance(value, str) for value in members.values()), "a member is missing")
    need(all(re.fullmatch(r"[A-Za-z0-9_-]+", v) for n, v in members.items() if n in "xyne"), "text")
    if kty == "OKP":
        need(members["crv"] == "Ed25519" and _is_edwards_point(unb64(members["x"])), "point")
    elif kty == "EC":
        x, y = unb64(members["x"]), unb64(members["y"])
        need(members["crv"] == "P-256" and _is_p256_point(x, y), "point")
    else:
        need(_is_rsa(unb64(members["n"]), unb64(members["e"])), "RSA")
    need(jwk.get("use", "sig") == "sig", "use")
    may = jwk.get("key_ops", ["verify"])
    need(isinstance(may, list) and "verify" in may, "key_ops")
    algs = {alg for alg, kind in MANY.items() if kind == kty}
    if "alg" in jwk:
        need(isinstance(jwk["alg"], str) and jwk["alg"] in algs, "alg")
        algs = {jwk["alg"]}
    kid = jwk.get("kid", digest(jcs(members)))
    need(isinstance(kid, str) and re.fullmatch(r"[ -~]{1,64}", kid), "kid")
    return Key(kid, kty, frozenset(algs), members)


def key_set(document: bytes) -> tuple[dict[str, Key], int]:
    """The keys of a JWKS and how many were left out, or Refused."""
    need(len(document) <= 64 * 1024, "too long")
    whole = parse(document)
    need(isinstance(whole, dict) and isinstance(whole.get("keys"), list), "no set")
    need(len(whole["keys"]) <= 200, "lists too many")
    need(not any(isinstance(j, dict) and SECRET & set(j) for j in whole["keys"]), "private")
    found, out = [], 0
    for jwk in whole["keys"]:
        try:
            found.append(key(jwk))
        except Refused:
            out += 1
    need(0 < len(found) <= 20 and len({k.kid for k in found}) == len(found), "empty, many or alike")
    return {k.kid: k for k in found}, out


@dataclass(frozen=True)
class Held:
    """A set and its age; `retiring`: until when the keys that it no longer has are believed."""

    keys: dict[str, Key]
    as_of: int
    retiring: dict[str, int] = field(default_factory=dict)

    def believed(self, at: int) -> dict[str, Key]:
        return {k: v for k, v in self.keys.items() if at < self.retiring.get(k, at + 1)}


def replaced(old: Held, new: dict[str, Key], as_of: int) -> Held:
    """What is held after a set arrives, or Refused."""
    need(as_of >= old.as_of, "older")
    held = old.believed(as_of)
    both = set(held) & set(new)
    need(both - set(old.retiring), "shares no key that stays")
    need(all(held[k].members == new[k].members for k in both), "another key under a known kid")
    gone = {k: old.retiring.get(k, as_of + 86_400) for k in held if k not in new}
    return Held({**{k: held[k] for k in gone}, **new}, as_of, gone)


# §2


def signature_is_good(k: Key, alg: str, signed: bytes, signature: bytes) -> bool:
    """By RFC 7518 §3.3 and §3.4, RFC 8037 §3.1."""
    if alg not in k.algs:
        return False
    part = {n: unb64(v) for n, v in k.members.items() if n in ("x", "y", "n", "e")}
    number = {n: int.from_bytes(v, "big") for n, v in part.items()}
    try:
        if k.kty == "OKP":
            ed25519.Ed25519PublicKey.from_public_bytes(part["x"]).verify(signature, signed)
        elif k.kty == "EC":
            if len(signature) != 64:
                return False
            halves = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            point = ec.EllipticCurvePublicNumbers(number["x"], number["y"], ec.SECP256R1())
            asn1 = utils.encode_dss_signature(*halves)
            point.public_key().verify(asn1, signed, ec.ECDSA(hashes.SHA256()))
        else:
            if len(signature) != len(part["n"]):
                return False
            public = rsa.RSAPublicNumbers(number["e"], number["n"]).public_key()
            public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0


def parts(text: str) -> tuple[Json, Json, bytes, bytes]:
    """Header, claims, what is signed, signature: row 1."""
    need(re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}", text), "no compact JWS")
    head, body, signature = (unb64(part) for part in text.split("."))
    need(len(head) <= 256 and len(body) <= 1536, "too long")
    header, claims = parse(head), parse(body)
    need(isinstance(header, dict) and isinstance(claims, dict), "no object")
    need(depth(header) <= 4 and depth(claims) <= 4, "too deep")
    return header, claims, text.rpartition(".")[0].encode(), signature


def presentation(scanned: str) -> tuple[str, str, str | None, str | None]:
    """§1: (presentation, token, KB-JWT, card secret)."""
    must(len(scanned) <= 4096, "token_malformed")
    text = re.sub(r"\A(\][A-Za-z][0-9A-Za-z])?(\\000026)?", "", scanned.strip())
    secret = None
    if card := re.fullmatch(r"(?s)CPC1\*([A-Za-z0-9_-]{22})\*(.*)", text):
        secret, text = card.groups()
    token, wave, binding = text.partition("~")
    must(len(text) <= 3072 and len(token) <= 2048 and len(binding) <= 1023, "token_malformed")
    return text, token, binding if wave else None, secret


def is_second(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LATEST


def is_like(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def check_claims(c: Json) -> Key | None:
    """Row 7; the key of `cnf`, where there is one."""

    def claim(name: str, true: object) -> None:
        must(true, "token_malformed", name)

    for name in ("sub", "jti"):
        claim(name, is_like(IDENTIFIER, c.get(name)))
    for name in ("iat", "nbf", "exp"):
        claim(name, is_second(c.get(name)))
    amr = c.get("amr")
    claim("amr", isinstance(amr, list) and 1 <= len(amr) <= 8)
    claim("amr", all(is_like(r"[a-z0-9:]{1,40}", each) for each in c["amr"]))
    claim("amr", len(set(c["amr"])) == len(c["amr"]))
    claim("care_class", c.get("care_class") in ("once", "card"))
    most = 900 if c["care_class"] == "once" else 34_560_000
    claim("exp", 0 < c["exp"] - c["iat"] <= most)
    holder = None
    if "cnf" in c:
        claim("cnf", c["care_class"] == "card")
        claim("cnf", isinstance(c["cnf"], dict) and list(c["cnf"]) == ["jwk"])
        jwk = c["cnf"]["jwk"]
        try:
            holder = key(jwk)
        except Refused as error:
            raise No("token_malformed", "cnf") from error
        claim("cnf", holder.kty != "RSA" and jwk == holder.members)
    witness = "carepos:witness" in c["amr"]
    if "act" not in c:
        claim("care_reason", "care_reason" not in c)
        claim("act", not witness)
        return holder
    act = c["act"]
    claim("act", c["care_class"] == "once" and isinstance(act, dict))
    claim("act", set(act) in ({"sub"}, {"iss", "sub"}) and is_like(IDENTIFIER, act["sub"]))
    claim("act", is_like(r"[ -~]{1,200}", act.get("iss", c["iss"])))
    reasons = "unreadable phone_lost card_lost frail minor other".split()
    claim("care_reason", c.get("care_reason") in reasons)
    return holder


def check_binding(token: str, text: str, holder: Key, audience: str, now: int) -> tuple[str, bool]:
    """§6: the nonce, and whether it is stale."""
    try:
        header, claims, signed, signature = parts(text)
        need(set(header) == {"alg", "typ"} and header["typ"] == "kb+jwt", "header")
        need(isinstance(header["alg"], str), "alg")
        need(signature_is_good(holder, header["alg"], signed, signature), "signature")
        need(set(claims) == {"iat", "aud", "nonce", "sd_hash"}, "claims")
        need(is_second(claims["iat"]) and claims["aud"] == audience, "iat or aud")
        need(is_like(r"[A-Za-z0-9_-]{16,64}", claims["nonce"]), "nonce")
        need(claims["sd_hash"] == digest(f"{token}~".encode()), "sd_hash")
        need(claims["iat"] - 60 <= now, "iat")
    except Refused as error:
        raise No("holder_unproven") from error
    return claims["nonce"], now > claims["iat"] + 300


# §4


@dataclass(frozen=True)
class Found:
    """What is believed of a presentation, and what its first use would be remembered by."""

    claims: Json
    token_sha256: str
    amr: list[str]
    visit_sha256: str | None
    needs_pin: bool
    stale: bool
    revoked: bool


def verify(
    scanned: str,
    issuers: Mapping[str, Held],
    audience: str,
    revocations: Mapping[str, Sequence[Json]],
    now: int,
) -> Found:
    """Rows 1 to 10, or No."""
    text, token, binding, _ = presentation(scanned)
    try:
        header, claims, signed, signature = parts(token)
    except Refused as error:
        raise No("token_malformed") from error
    must(header.get("typ") == "care+jwt", "token_type", "typ")
    must(set(header) == {"alg", "kid", "typ"}, "token_malformed")
    alg, kid, iss = header["alg"], header["kid"], claims.get("iss")
    must(isinstance(alg, str) and alg in MANY, "token_malformed", "alg")
    must(is_like(r"[ -~]{1,64}", kid), "token_malformed", "kid")
    must(isinstance(iss, str) and iss in issuers, "token_issuer", "iss")
    known = issuers[str(iss)].believed(now)
    must(kid in known, "token_signature", "kid")
    must(alg in known[kid].algs, "token_signature", "alg")
    must(signature_is_good(known[kid], alg, signed, signature), "token_signature")
    must(claims.get("aud") == audience, "token_audience", "aud")
    holder = check_claims(claims)
    must(now < claims["exp"], "token_expired", "exp")
    must(now >= max(claims["iat"], claims["nbf"]) - 60, "token_not_yet_valid", "nbf")
    must(holder is not None or binding is None, "token_malformed", "cnf")
    must(holder is None or binding is not None, "holder_unproven", "cnf")
    nonce, stale = None, False
    if holder is not None and binding is not None:
        nonce, stale = check_binding(token, binding, holder, audience, now)
    jti_hash = digest(claims["jti"].encode())
    withdrawn = {"iss": iss, "kid": kid} in revocations["keys"]
    withdrawn |= {"iss": iss, "jti_sha256": jti_hash} in revocations["tokens"]
    card = claims["care_class"] == "card"
    return Found(
        claims=claims,
        token_sha256=digest(text.encode()),
        amr=sorted({*claims["amr"], "pop"} if holder else claims["amr"]),
        visit_sha256=visit_sha256(claims["jti"], nonce) if nonce or not card else None,
        needs_pin=card and holder is None,
        stale=stale,
        revoked=withdrawn,
    )


# §5, §7, §8


def visit_sha256(jti: str, nonce: str | None) -> str:
    return digest((jti if nonce is None else f"{jti}~{nonce}").encode())


def first_use(found: Found) -> None:
    """Rows 10, 12 and 13 for a code that was never used before."""
    must(not found.stale, "holder_unproven")
    must(not found.revoked, "token_revoked")


def later_use(first: tuple[str, int], terminal: str, now: int) -> str | None:
    """Row 12 for a code whose visit was opened."""
    return None if first[0] == terminal and now <= first[1] + 900 else "token_replayed"


def actor_sha256(iss: str, act: Json) -> str:
    return digest(f"{act.get('iss', iss)}|{act['sub']}".encode())


def pin_proof(pin: str, iss: str, jti: str, secret: str) -> str:
    need(re.fullmatch(r"[0-9]{4,8}", pin), "no PIN")
    salt = f"carepos/pin/v1|{iss}|{jti}|{secret}".encode()
    return b64(hashlib.scrypt(pin.encode(), salt=salt, n=16384, r=8, p=1, dklen=32))


def pin_verifier(proof: str) -> str:
    raw = unb64(proof)
    need(len(raw) == 32, "length")
    return digest(b"carepos/pin-verifier/v1|" + raw)
