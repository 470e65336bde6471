"""What is presented at a counter, written a second time from docs/identity.md sections 1 to 6."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.second_keys import ALGORITHMS, KID, MEMBERS, IssuerKey
from tests.second_rules import Check, Refused, each, exactly, integer, one_of, text
from tests.second_signing import Bad, Json, digest, strict_json, unb64

LONGEST = 3_072
LONGEST_TOKEN = 2_048
LONGEST_PROOF = 1_023
LEEWAY_S = 60
FRESH_S = 300
LIFETIME_S = {"once": 900, "card": 400 * 86_400}
WITNESS = "carepos:witness"

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ALGORITHMS = {alg for algorithms in ALGORITHMS.values() for alg in algorithms}
_NAME = text(r"[A-Za-z0-9._~-]{1,64}")
_ISSUER = text(r"[\x20-\x7e]{1,200}")
_DATE = integer(1, 253_402_300_799)


def _methods(value: Any) -> bool:
    return each(1, 8, text(r"[a-z0-9:]{1,40}"))(value) and len(set(value)) == len(value)


def _holder_key(value: Any) -> bool:
    """An Ed25519 or P-256 key with its required members and no other."""
    if not exactly(jwk=lambda jwk: isinstance(jwk, dict))(value):
        return False
    try:
        key = IssuerKey.of(value["jwk"])
    except Bad:
        return False
    kind = value["jwk"]["kty"]
    return kind != "RSA" and set(value["jwk"]) == set(MEMBERS[kind]) == set(key.members)


def _actor(value: Any) -> bool:
    return exactly(sub=_NAME)(value) or exactly(iss=_ISSUER, sub=_NAME)(value)


_CLAIMS: Mapping[str, Check] = {
    "iss": _ISSUER,
    "aud": lambda value: isinstance(value, str),
    "sub": _NAME,
    "jti": _NAME,
    "iat": _DATE,
    "nbf": _DATE,
    "exp": _DATE,
    "amr": _methods,
    "care_class": one_of(*LIFETIME_S),
}
_SOMETIMES: Mapping[str, Check] = {
    "cnf": _holder_key,
    "act": _actor,
    "care_reason": one_of("unreadable", "phone_lost", "card_lost", "frail", "minor", "other"),
}
_BINDING = exactly(iat=_DATE, aud=_ISSUER, nonce=text(r"[A-Za-z0-9_-]{16,64}"), sd_hash=text(".*"))


@dataclass(frozen=True)
class Jwt:
    """A compact JWS whose signature was not looked at yet."""

    header: Json
    payload: Json
    signing_input: bytes
    signature: bytes

    @classmethod
    def read(cls, jws: str) -> Jwt:
        """Raises Bad."""
        if not _COMPACT.fullmatch(jws):
            raise Bad
        head, body, signature = jws.split(".")
        header, payload = unb64(head), unb64(body)
        if len(header) > 256 or len(payload) > 1_536:
            raise Bad
        parsed = strict_json(header), strict_json(payload)
        if not all(isinstance(value, dict) and _depth(value) <= 4 for value in parsed):
            raise Bad
        return cls(parsed[0], parsed[1], f"{head}.{body}".encode(), unb64(signature))

    def signed_by(self, key: IssuerKey) -> bool:
        return key.verify(self.header["alg"], self.signature, self.signing_input)


@dataclass(frozen=True)
class Shown:
    """A presentation that an issuer signed; `binding` says when its holder's key did, if it did."""

    claims: Json
    kid: str
    binding: Json | None

    @property
    def iss(self) -> str:
        iss: str = self.claims["iss"]
        return iss

    @property
    def jti_sha256(self) -> str:
        """The name by which a token or card is withdrawn."""
        return digest(self.claims["jti"].encode())

    @property
    def mark(self) -> tuple[str, str]:
        """What a visit is told by."""
        nonce = "" if self.binding is None else "~" + self.binding["nonce"]
        return self.iss, digest((self.claims["jti"] + nonce).encode())

    @property
    def printed(self) -> bool:
        """A card that a PIN has to stand beside."""
        return self.claims["care_class"] == "card" and self.binding is None

    @property
    def actor(self) -> str | None:
        """SHA-256 of who presents it for the beneficiary."""
        act = self.claims.get("act")
        if act is None:
            return None
        return digest(f"{act.get('iss', self.iss)}|{act['sub']}".encode())

    @property
    def way(self) -> str:
        return "witness" if WITNESS in self.claims["amr"] else "proxy"

    def fresh(self, now_s: float) -> bool:
        """Whether the holder's key signed it just now."""
        made = now_s if self.binding is None else self.binding["iat"]
        return bool(made - LEEWAY_S <= now_s <= made + FRESH_S)


def read_shown(
    told: str,
    believed: Callable[[str], Mapping[str, IssuerKey] | None],
    audience: str,
    now_s: float,
) -> Shown:
    """Rows 1 to 10 of section 4, but whether a presentation is fresh: its visit may say that.

    Raises:
        Refused: the code of the first row that fails.
    """
    compact, tilde, proof = told.partition("~")
    try:
        if len(told) > LONGEST or len(compact) > LONGEST_TOKEN or len(proof) > LONGEST_PROOF:
            raise Bad
        token = Jwt.read(compact)
    except Bad as bad:
        raise Refused("token_malformed") from bad
    header, claims = token.header, token.payload
    if header.get("typ") != "care+jwt":
        raise Refused("token_type")
    if not exactly(alg=one_of(*_ALGORITHMS), kid=KID, typ=text(".*"))(header):
        raise Refused("token_malformed")
    keys = believed(claims["iss"]) if isinstance(claims.get("iss"), str) else None
    if keys is None:
        raise Refused("token_issuer")
    key = keys.get(header["kid"])
    if key is None or not token.signed_by(key):
        raise Refused("token_signature")
    if claims.get("aud") != audience:
        raise Refused("token_audience")
    if not _good_claims(claims):
        raise Refused("token_malformed")
    if now_s >= claims["exp"]:
        raise Refused("token_expired")
    if now_s < max(claims["iat"], claims["nbf"]) - LEEWAY_S:
        raise Refused("token_not_yet_valid")
    if "cnf" not in claims:
        if tilde:
            raise Refused("token_malformed")
        return Shown(claims, key.kid, None)
    try:
        binding = Jwt.read(proof)
    except Bad as bad:
        raise Refused("holder_unproven") from bad
    holder = IssuerKey.of(claims["cnf"]["jwk"])
    if not _bound(binding, holder, digest(f"{compact}~".encode()), audience):
        raise Refused("holder_unproven")
    return Shown(claims, key.kid, binding.payload)


def _good_claims(claims: Json) -> bool:
    if not all(name in claims and good(claims[name]) for name, good in _CLAIMS.items()):
        return False
    if not all(name not in claims or good(claims[name]) for name, good in _SOMETIMES.items()):
        return False
    kind = claims["care_class"]
    if not 0 < claims["exp"] - claims["iat"] <= LIFETIME_S[kind]:
        return False
    if ("act" in claims) != ("care_reason" in claims):
        return False
    if WITNESS in claims["amr"] and "act" not in claims:
        return False
    return not ("cnf" in claims and kind != "card") and not ("act" in claims and kind != "once")


def _bound(binding: Jwt, holder: IssuerKey, sd_hash: str, audience: str) -> bool:
    """Whether the holder's key signed this very token."""
    if not exactly(alg=one_of(*holder.algorithms), typ=one_of("kb+jwt"))(binding.header):
        return False
    said = binding.payload
    if not _BINDING(said) or (said["aud"], said["sd_hash"]) != (audience, sd_hash):
        return False
    return binding.signed_by(holder)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0
