"""Issuers' keys and sets of them, written a second time from docs/identity.md section 3 alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.second_rules import text
from tests.second_signing import Bad, Json, b64, canonical, digest, unb64

RETIRING = timedelta(hours=24)
MOST_KEYS = 20
MEMBERS = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}
ALGORITHMS = {"OKP": ("EdDSA", "Ed25519"), "EC": ("ES256",), "RSA": ("RS256",)}
CURVES = {"OKP": "Ed25519", "EC": "P-256"}
KID = text(r"[\x20-\x7e]{1,64}")
_P = 2**255 - 19
_D = -121_665 * pow(121_666, -1, _P) % _P
_PRIVATE = frozenset("d p q dp dq qi oth k".split())

_Verifier = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class IssuerKey:
    """A public key that verifies tokens, or a holder's presentations."""

    kid: str
    members: Mapping[str, str]
    algorithms: tuple[str, ...]
    public: _Verifier

    @classmethod
    def of(cls, jwk: object) -> IssuerKey:
        """The signing key of a JWK.

        Raises:
            Bad: it is none, or no key of an issuer.
        """
        if not isinstance(jwk, dict) or jwk.get("kty") not in ALGORITHMS:
            raise Bad
        kind = jwk["kty"]
        members = {name: jwk[name] for name in MEMBERS[kind] if isinstance(jwk.get(name), str)}
        if len(members) < len(MEMBERS[kind]):
            raise Bad
        if members.get("crv") != CURVES.get(kind):
            raise Bad
        if "use" in jwk and jwk["use"] != "sig":
            raise Bad
        operations = jwk.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            raise Bad
        algorithms = ALGORITHMS[kind]
        if "alg" in jwk:
            if jwk["alg"] not in algorithms:
                raise Bad
            algorithms = (jwk["alg"],)
        kid = jwk.get("kid", digest(canonical(members)))
        if not KID(kid):
            raise Bad
        return cls(kid, members, algorithms, _public(kind, members))

    @property
    def jwk(self) -> Json:
        """As a pack tells it."""
        one = {"alg": self.algorithms[0]} if self.algorithms == ("Ed25519",) else {}
        return {**self.members, "kid": self.kid, **one}

    def verify(self, alg: str, signature: bytes, data: bytes) -> bool:
        if alg not in self.algorithms:
            return False
        try:
            if isinstance(self.public, Ed25519PublicKey):
                self.public.verify(signature, data)
            elif isinstance(self.public, rsa.RSAPublicKey):
                self.public.verify(signature, data, padding.PKCS1v15(), SHA256())
            elif len(signature) == 64:
                r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
                self.public.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
            else:
                return False
        except (InvalidSignature, ValueError):
            return False
        return True


def _public(kind: str, members: Mapping[str, str]) -> _Verifier:
    try:
        if kind == "OKP":
            raw = unb64(members["x"])
            if not _good_point(raw):
                raise Bad
            return Ed25519PublicKey.from_public_bytes(raw)
        if kind == "EC":
            x, y = (unb64(members[name]) for name in "xy")
            if len(x) != 32 or len(y) != 32:
                raise Bad
            numbers = (int.from_bytes(x, "big"), int.from_bytes(y, "big"))
            return ec.EllipticCurvePublicNumbers(*numbers, ec.SECP256R1()).public_key()
        e, n = (_whole(members[name]) for name in "en")
        if e != 65_537 or not 2_048 <= n.bit_length() <= 4_096:
            raise Bad
        return rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError as failure:
        raise Bad from failure


def _good_point(raw: bytes) -> bool:
    """Whether it is a point of Ed25519's curve, and 8 times it is not the neutral one."""
    y = int.from_bytes(raw, "little") & (1 << 255) - 1
    if y >= _P:
        return False
    # -x² + y² = 1 + dx²y²; doubling thrice ends at (0, 1) where x = 0, y = 0 or x² = -y².
    x2 = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return pow(x2, (_P - 1) // 2, _P) == 1 and y != 0 and (x2 + y * y) % _P != 0


def _whole(member: str) -> int:
    data = unb64(member)
    number = int.from_bytes(data, "big")
    if not number or b64(number.to_bytes((number.bit_length() + 7) // 8, "big")) != member:
        raise Bad
    return number


def read_set(jwks: Sequence[Any]) -> list[IssuerKey]:
    """The signing keys of an issuer's set.

    Raises:
        Bad: the set as a whole is refused.
    """
    if any(isinstance(jwk, dict) and _PRIVATE & set(jwk) for jwk in jwks):
        raise Bad
    keys = []
    for jwk in jwks:
        try:
            keys.append(IssuerKey.of(jwk))
        except Bad:
            continue
    if not 1 <= len(keys) <= MOST_KEYS or len({key.kid for key in keys}) < len(keys):
        raise Bad
    return keys


@dataclass
class KeySet:
    """An issuer's keys that are held, and those that the newest set lacks."""

    current: list[IssuerKey]
    retiring: list[tuple[IssuerKey, datetime]] = field(default_factory=list)

    def replace(self, keys: Sequence[IssuerKey], now: datetime, *, confirmed: bool) -> None:
        """Hold another set; one that a person confirmed takes the place of the held one at once.

        Raises:
            Bad: it shares no key with the one held, or gives a name that is held to another key.
        """
        held, new = self.believed(now), {key.kid: key for key in keys}
        shared = set(held) & set(new)
        if not confirmed and not (
            shared and all(held[kid].members == new[kid].members for kid in shared)
        ):
            raise Bad
        gone = [] if confirmed else [*self.retiring, *((key, now) for key in self.current)]
        self.retiring = [(key, since) for key, since in gone if key.kid not in new]
        self.current = list(keys)

    def believed(self, now: datetime) -> dict[str, IssuerKey]:
        """The keys that count, by `kid`."""
        still = [key for key, since in self.retiring if now < since + RETIRING]
        return {key.kid: key for key in [*still, *self.current]}
