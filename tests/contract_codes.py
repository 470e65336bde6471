"""Codes for contract tests: what issuers, wallets and printed cards show, from the page alone."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.second_cards import pin_proof, pin_verifier
from tests.second_keys import IssuerKey
from tests.second_signing import Json, Key, b64, canonical, digest, unb64

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Signer(Protocol):
    """Whoever signs tokens."""

    def sign(self, typ: str, payload: Json, /) -> str:
        """A compact JWS."""


@dataclass(frozen=True)
class IssuerSigner:
    """A key of an issuer or a wallet: `signature` is what its kind makes of bytes."""

    alg: str
    members: Json
    signature: Callable[[bytes], bytes]
    kid: str

    @property
    def jwk(self) -> Json:
        return {**self.members, "kid": self.kid}

    def sign(self, typ: str, payload: Json, /, **header: Any) -> str:
        """A compact JWS; `header` replaces names of the header, None leaves one out."""
        head = {"alg": self.alg, "kid": self.kid, "typ": typ, **header}
        text = ".".join(
            b64(canonical(part))
            for part in ({name: said for name, said in head.items() if said is not None}, payload)
        )
        return text + "." + b64(self.signature(text.encode()))


@dataclass(frozen=True)
class Odd:
    """A signer that replaces names of the header and leaves claims out."""

    key: IssuerSigner
    header: Json
    without: tuple[str, ...] = ()

    def sign(self, typ: str, payload: Json, /) -> str:
        left = {name: claim for name, claim in payload.items() if name not in self.without}
        return self.key.sign(typ, left, **self.header)


def _named(alg: str, members: Json, sign: Callable[[bytes], bytes], kid: str) -> IssuerSigner:
    return IssuerSigner(alg, members, sign, kid or IssuerKey.of(members).kid)


def ed25519(kid: str = "", alg: str = "EdDSA") -> IssuerSigner:
    key = Key.new()
    return _named(alg, key.public.jwk, key.sign_bytes, kid)


def es256(kid: str = "") -> IssuerSigner:
    key = ec.generate_private_key(ec.SECP256R1())
    at = key.public_key().public_numbers()
    x, y = (b64(number.to_bytes(32, "big")) for number in (at.x, at.y))
    members = {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    def sign(data: bytes) -> bytes:
        numbers = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
        return b"".join(number.to_bytes(32, "big") for number in numbers)

    return _named("ES256", members, sign, kid)


def rs256(kid: str = "", bits: int = 2_048) -> IssuerSigner:
    key = rsa.generate_private_key(65_537, bits)
    n = b64(key.public_key().public_numbers().n.to_bytes(bits // 8, "big"))
    members = {"e": "AQAB", "kty": "RSA", "n": n}
    return _named("RS256", members, lambda data: key.sign(data, padding.PKCS1v15(), SHA256()), kid)


def other_spelling(token: str) -> str:
    """The second signature that everybody can make of an ES256 one: the same token, other bytes."""
    head, _, signature = token.rpartition(".")
    raw = unb64(signature)
    s = P256_ORDER - int.from_bytes(raw[32:], "big")
    return f"{head}.{b64(raw[:32] + s.to_bytes(32, 'big'))}"


@dataclass(frozen=True)
class Wallet:
    """A phone that holds a card token and the key that the token names."""

    token: str
    key: IssuerSigner
    audience: str

    def show(self, at: int, key: IssuerSigner | None = None, **changes: Any) -> str:
        """A presentation made at `at`; `changes` replace claims, `typ` and `alg` the header's."""
        header = {"alg": self.key.alg, "kid": None}
        header |= {name: changes.pop(name) for name in ("alg", "kid") if name in changes}
        typ = changes.pop("typ", "kb+jwt")
        claims = {
            "iat": at,
            "aud": self.audience,
            "nonce": b64(secrets.token_bytes(16)),
            "sd_hash": digest(f"{self.token}~".encode()),
            **changes,
        }
        return f"{self.token}~{(key or self.key).sign(typ, claims, **header)}"


@dataclass(frozen=True)
class Printed:
    """A printed card: its token, and what only its holder and the paper know."""

    iss: str
    jti: str
    token: str
    pin: str
    secret: str

    @property
    def jti_sha256(self) -> str:
        return digest(self.jti.encode())

    @property
    def verifier(self) -> str:
        return pin_verifier(pin_proof(self.pin, self.iss, self.jti, self.secret))

    @property
    def scanned(self) -> str:
        return f"CPC1*{self.secret}*{self.token}"

    def proof(self, pin: str | None = None) -> str:
        """The proof that a till sends for a PIN that was typed."""
        typed = self.pin if pin is None else pin
        return b64(pin_proof(typed, self.iss, self.jti, self.secret))
