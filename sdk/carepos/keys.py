"""Ed25519 keys: a key that signs, the set of keys that are believed, and what a JWK must be."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from carepos import durable, strict_json
from carepos.errors import Malformed, SignatureInvalid


def b64(data: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str, field: str = "base64url") -> bytes:
    """The bytes of the one canonical spelling. Raises Malformed for padding, stray bits, others."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("not base64url", field=field) from None
    if b64(data) != text:
        raise Malformed("not the canonical base64url spelling", field=field)
    return data


def digest(data: bytes) -> str:
    """SHA-256 as base64url, 43 characters (docs/protocol.md §1)."""
    return b64(hashlib.sha256(data).digest())


class PublicKey:
    """One Ed25519 key that signatures are checked with; `kid` is its RFC 7638 thumbprint."""

    __slots__ = ("_key", "kid", "x")

    def __init__(self, raw: bytes) -> None:
        try:
            self._key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            raise Malformed("not an Ed25519 public key", field="x") from None
        self.x = b64(raw)
        self.kid = digest(strict_json.canonical({"crv": "Ed25519", "kty": "OKP", "x": self.x}))

    @classmethod
    def from_jwk(cls, jwk: object) -> PublicKey:
        """From an RFC 8037 JWK with exactly kty, crv, x and optionally the right kid."""
        names = strict_json.names_within(
            jwk, required={"kty", "crv", "x"}, optional={"kid"}, where="jwk"
        )
        if names["kty"] != "OKP" or names["crv"] != "Ed25519":
            raise Malformed("only OKP keys on Ed25519", field="jwk")
        raw = unb64(strict_json.text(names["x"], "x", high=43), "x")
        key = cls(raw)
        if names.get("kid", key.kid) != key.kid:
            raise Malformed("kid is not the key's thumbprint", field="jwk")
        return key

    def to_jwk(self) -> dict[str, str]:
        return {"kty": "OKP", "crv": "Ed25519", "x": self.x, "kid": self.kid}

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raises SignatureInvalid unless this key signed `data`."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            raise SignatureInvalid("the signature does not verify") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)

    def __repr__(self) -> str:
        return f"PublicKey({self.kid})"


class SigningKey:
    """A private Ed25519 key. Its secret is never shown by repr() and stored only by `save`."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(os.urandom(32))

    @property
    def kid(self) -> str:
        return self.public.kid

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def save(self, path: Path) -> None:
        """Write the secret to a new file that only its owner can read. FileExistsError if there."""
        write_secret(path, self.secret())

    def secret(self) -> bytes:
        """The 32 bytes, to be stored and never shown."""
        return self._key.private_bytes_raw()

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        return cls(read_secret(path))

    def private_key(self) -> Ed25519PrivateKey:
        """The library's own object, for PyJWT (identity tokens, read tokens)."""
        return self._key

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"


def write_secret(path: Path, secret: bytes) -> None:
    """32 secret bytes as base64url in a new 0600 file, durable when this returns.

    Raises FileExistsError, OSError; a crash leaves no part of the file.
    """
    durable.create(path, secret_text(secret))


def secret_text(secret: bytes) -> bytes:
    """What a key's file holds; `read_secret` reads it."""
    return b64(secret).encode("ascii") + b"\n"


def read_secret(path: Path) -> bytes:
    """The 32 bytes of `write_secret`. Raises Malformed, naming the file, never its content."""
    try:
        text = path.read_text("ascii").strip()
        secret = unb64(text)
    except (Malformed, UnicodeDecodeError):
        raise Malformed(f"{path.name} holds no key") from None
    if len(secret) != 32:
        raise Malformed(f"{path.name} holds no key")
    return secret


class KeySet:
    """The keys believed for one purpose, by kid. Immutable; unknown kid → SignatureInvalid."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys: Mapping[str, PublicKey] = {key.kid: key for key in keys}

    def get(self, kid: str) -> PublicKey:
        try:
            return self._keys[kid]
        except KeyError:
            raise SignatureInvalid("signed by a key that is not known here") from None

    def __iter__(self) -> Iterator[PublicKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)


Keys = KeySet | Callable[[str], PublicKey]
"""Who may have signed: a set, or a function from kid to key that raises SignatureInvalid for one
it does not believe, and may ask somebody before it says so."""
