"""Signed things, written a second time from docs/protocol.md sections 1 to 3 alone.

Imports nothing of carepos, so that two readings of the page can be compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Json = dict[str, Any]

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_LARGEST = 2**53 - 1


class Bad(Exception):
    """Something that may not be read. `code` is one of section 6."""

    def __init__(self, code: str = "malformed") -> None:
        super().__init__(code)
        self.code = code


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The bytes of base64url text in its one canonical spelling."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as failure:
        raise Bad from failure
    if b64(data) != text:
        raise Bad
    return data


def digest(data: bytes) -> str:
    return b64(hashlib.sha256(data).digest())


def canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > _LARGEST:
        raise Bad
    return int(text)


def _refuse(_text: str) -> None:
    raise Bad


def _once(pairs: list[tuple[str, Any]]) -> Json:
    if len({name for name, _ in pairs}) < len(pairs):
        raise Bad
    return dict(pairs)


def strict_json(data: bytes) -> Any:
    """Section 1's JSON: no duplicate names, only integers, at most 32 deep."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise Bad from failure
    depth = 0
    for mark in re.sub(r'"(?:[^"\\]|\\.)*"?', "", text, flags=re.DOTALL):
        depth += (mark in "[{") - (mark in "]}")
        if depth > 32:
            raise Bad
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_refuse,
            parse_constant=_refuse,
            object_pairs_hook=_once,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as failure:
        raise Bad from failure
    return value


def utc(at: datetime) -> str:
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key that verifies."""

    raw: bytes

    @classmethod
    def of(cls, jwk: object) -> PublicKey:
        """The key of a JWK: exactly `crv`, `kty` and `x`, and it may say its own `kid`."""
        if not isinstance(jwk, dict) or set(jwk) - {"kid"} != {"crv", "kty", "x"}:
            raise Bad
        if jwk["crv"] != "Ed25519" or jwk["kty"] != "OKP" or not isinstance(jwk["x"], str):
            raise Bad
        raw = unb64(jwk["x"])
        if len(raw) != 32:
            raise Bad
        key = cls(raw)
        if jwk.get("kid", key.kid) != key.kid:
            raise Bad
        return key

    @property
    def jwk(self) -> Json:
        return {"crv": "Ed25519", "kty": "OKP", "x": b64(self.raw)}

    @property
    def kid(self) -> str:
        return digest(canonical(self.jwk))

    def verify(self, signature: bytes, data: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError) as failure:
            raise Bad("signature_invalid") from failure


@dataclass(frozen=True)
class Key:
    """An Ed25519 key that signs."""

    seed: bytes

    @classmethod
    def new(cls) -> Key:
        return cls(secrets.token_bytes(32))

    @property
    def public(self) -> PublicKey:
        secret = Ed25519PrivateKey.from_private_bytes(self.seed)
        return PublicKey(secret.public_key().public_bytes_raw())

    def sign(self, typ: str, payload: Json | bytes, **header: str) -> str:
        """A compact JWS. `header` replaces names of the header, for tests of bad ones."""
        head = {"alg": "EdDSA", "kid": self.public.kid, "typ": typ, **header}
        body = payload if isinstance(payload, bytes) else canonical(payload)
        text = b64(canonical(head)) + "." + b64(body)
        return text + "." + b64(self.sign_bytes(text.encode()))

    def sign_bytes(self, data: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(data)


@dataclass(frozen=True)
class Unread:
    """A signed thing that passed steps 1 to 3 of section 2, its signature not yet looked at."""

    kid: str
    typ: str
    signing_input: bytes
    payload: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        return digest(self.signing_input)

    def read(self, key: PublicKey) -> Json:
        """Steps 4 and 5: the payload, signed by `key`."""
        key.verify(self.signature, self.signing_input)
        if len(self.payload) > 12_288:
            raise Bad
        value = strict_json(self.payload)
        if not isinstance(value, dict):
            raise Bad
        return value


def unread(jws: object, typ: str | None) -> Unread:
    """Steps 1 to 3 of section 2; `typ` None: whoever reads it will look at the type."""
    if not isinstance(jws, str) or len(jws) > 16_384 or not _COMPACT.fullmatch(jws):
        raise Bad
    head, body, signature = jws.split(".")
    header = strict_json(unb64(head))
    if not isinstance(header, dict) or set(header) != {"alg", "kid", "typ"}:
        raise Bad
    if not all(isinstance(value, str) for value in header.values()):
        raise Bad
    if header["alg"] != "EdDSA" or len(header["kid"]) != 43:
        raise Bad
    if typ is not None and header["typ"] != typ:
        raise Bad
    return Unread(
        header["kid"], header["typ"], f"{head}.{body}".encode(), unb64(body), unb64(signature)
    )


def read(jws: object, typ: str, keys: list[PublicKey]) -> Json:
    """The payload of a thing signed by one of `keys`."""
    thing = unread(jws, typ)
    for key in keys:
        if key.kid == thing.kid:
            return thing.read(key)
    raise Bad("signature_invalid")


def bucket_of(text: str) -> int:
    """The bucket of records without a beneficiary: 12 bits of SHA-256(terminal id)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") >> 4


def new_id(bucket: int, at: datetime) -> str:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since // timedelta(milliseconds=1)
    value = milliseconds << 80 | 8 << 76 | bucket << 64 | 2 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def split(amount: int, weights: list[int]) -> list[int]:
    """Largest remainder, section 7."""
    whole = sum(weights)
    parts = [amount * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda n: (-(amount * weights[n] % whole), n))
    for n in order[: amount - sum(parts)]:
        parts[n] += 1
    return parts


def receipt_no(terminal_no: int, sequence: int) -> str:
    """Section 13, with the check digit of ISO/IEC 7064 MOD 11,10."""
    number = f"{terminal_no:04d}-{sequence:06d}"
    carry = 10
    for figure in number.replace("-", ""):
        carry = (carry + int(figure)) % 10 or 10
        carry = carry * 2 % 11
    return f"{number}-{(11 - carry) % 10}"
