"""A second reading of docs/offline.md §1, §2, §5 and §7: acceptances, households, evidence.

Written from the pages alone; HKDF and HPKE's key schedule are spelled out (RFC 5869, RFC 9180).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.vectors.second import (
    B22,
    B43,
    BOUND,
    COUNT,
    CURRENCY,
    MONEY,
    SUMS,
    Refused,
    Shape,
    digest,
    id_bucket,
    jcs,
    many,
    named,
    null_or,
    parse,
    text,
    unb64,
    whole,
)

Json = dict[str, Any]
NUMBER = whole(1, 2**53 - 1)
USE = named(voucher=B22, allotment=NUMBER, amount_minor=MONEY, quantity=COUNT)
CONTENT: dict[str, dict[str, Shape]] = {
    "accept_offline": {
        "record_sha256": B43,
        "presentment": text("offline"),
        "liability": text("programme|merchant"),
        "pack_sha256": B43,
        "allotment_use": many(USE, 0, 20),
    },
    "return_allotment": {"allotments": many(named(voucher=B22, allotment=NUMBER), 1, 20)},
}
AT: Shape = lambda value: value is None or whole(1, 40)(value) or B22(value)  # noqa: E731
LIABILITY = text("programme|merchant")
TOLD = {**BOUND, "kind": text("redeem|accept_offline")}
ANSWERS: dict[str, Shape] = {
    "posted": named(**TOLD, **SUMS, currency=CURRENCY),
    "posted_short": named(
        **TOLD, **SUMS, currency=null_or(CURRENCY), shortfall_minor=whole(1, 10**12),
        liability=LIABILITY,
    ),
    "exception": named(
        **TOLD, refusal=named(code=text("[a-z_]{1,40}"), at=AT), liability=LIABILITY
    ),
}  # fmt: skip


def judge(record: Any) -> str | None:
    """The code of what is wrong with the content of such a record, if anything is."""
    kind, content = record["kind"], record["content"]
    if not isinstance(content, dict):
        return "malformed"
    if content.keys() != CONTENT[kind].keys():
        return "unsupported_kind"
    try:
        id_bucket(record["id"])
    except Refused as refused:
        return refused.code
    if not named(**CONTENT[kind])(content):
        return "malformed"
    listed = content["allotment_use" if kind == "accept_offline" else "allotments"]
    places = [(each["voucher"], each["allotment"]) for each in listed]
    if places != sorted(set(places)):
        return "malformed"
    draws = all(each.get("amount_minor", 1) or each.get("quantity", 1) for each in listed)
    return None if draws else "malformed"


def content_sha256(record: Mapping[str, Any]) -> str | None:
    if record["kind"] == "accept_offline":
        return None
    content = record["content"]
    return digest(
        jcs({"allotments": content["allotments"], "kind": record["kind"],
             "terminal": record["terminal"]})
    )  # fmt: skip


def read_answer(payload: Json) -> str:
    """Whether an outcome's payload has the form of its result."""
    shape = ANSWERS.get(str(payload.get("result")))
    if shape is None or not shape(payload):
        return "malformed"
    booked = payload.get("vouchers", [])
    if sum(each["amount_minor"] for each in booked) != payload.get("amount_minor", 0):
        return "malformed"
    return str(payload["result"])


# §5 households


def hkdf(secret: bytes, info: bytes, length: int, salt: bytes = bytes(32)) -> bytes:
    return expand(hmac.digest(salt, secret, "sha256"), info, length)


def expand(key: bytes, info: bytes, length: int) -> bytes:
    made, block = b"", b""
    for number in range(1, 255):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        made += block
        if len(made) >= length:
            break
    return made[:length]


def household_keys(iss: str, sub: str, terminal: str, incarnation: str) -> tuple[str, bytes, bytes]:
    """(tag, key, nonce key)."""
    secret = hashlib.sha256(f"carepos/pack-secret/v1|{iss}|{sub}".encode()).digest()
    info = f"carepos/pack-household/v1|{terminal}|{incarnation}".encode()
    keys = hkdf(secret, info, 96)
    tag = base64.urlsafe_b64encode(hmac.digest(keys[:32], b"tag", "sha256")[:12]).decode()
    return tag, keys[32:64], keys[64:]


def open_household(entry: str, tag: str, key: bytes, nonce_key: bytes) -> Any:
    """Raises for anything that is not sealed so, also under another nonce."""
    raw = unb64(entry)
    plain = ChaCha20Poly1305(key).decrypt(raw[:12], raw[12:], tag.encode())
    assert hmac.digest(nonce_key, plain, "sha256")[:12] == raw[:12]
    return parse(zlib.decompress(plain, -15))


def segment(tag: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet.index(tag[0])


# §7 evidence: HPKE, mode base, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305

_KEM, _SUITE = b"KEM" + b"\x00\x20", b"HPKE" + b"\x00\x20" + b"\x00\x01" + b"\x00\x03"


def _extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def _label(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def open_evidence(evidence: str, private: bytes, terminal: str, attempt_id: str) -> str:
    """RFC 9180 §4.1 and §5.1. Raises for anything that does not open."""
    raw, own = unb64(evidence), X25519PrivateKey.from_private_bytes(private)
    shared = own.exchange(X25519PublicKey.from_public_bytes(raw[:32]))
    to = own.public_key().public_bytes_raw()
    key, nonce = _schedule(shared, raw[:32] + to, f"{terminal}|{attempt_id}")
    return ChaCha20Poly1305(key).decrypt(nonce, raw[32:], b"").decode("ascii")


def seal_evidence(told: str, public: bytes, terminal: str, attempt_id: str) -> bytes:
    """The other way round, for one sender of a moment."""
    sender = X25519PrivateKey.generate()
    enc = sender.public_key().public_bytes_raw()
    shared = sender.exchange(X25519PublicKey.from_public_bytes(public))
    key, nonce = _schedule(shared, enc + public, f"{terminal}|{attempt_id}")
    return enc + ChaCha20Poly1305(key).encrypt(nonce, told.encode("ascii"), b"")


def _schedule(shared: bytes, context: bytes, who: str) -> tuple[bytes, bytes]:
    """The key and the nonce of one message."""
    secret = _label(_KEM, _extract(_KEM, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    info = f"carepos/evidence/v1|{who}".encode()
    scheduled = (
        b"\x00"
        + _extract(_SUITE, b"", b"psk_id_hash", b"")
        + _extract(_SUITE, b"", b"info_hash", info)
    )
    made = _extract(_SUITE, secret, b"secret", b"")
    key = _label(_SUITE, made, b"key", scheduled, 32)
    return key, _label(_SUITE, made, b"base_nonce", scheduled, 12)


def read_allotted(told: Any) -> dict[str, int] | None:
    """A pack's `allotted` by currency; None for one that is malformed."""
    if not many(named(currency=CURRENCY, amount_minor=whole(0, 2**53 - 1)), 0, 200)(told):
        return None
    listed = [each["currency"] for each in told]
    if any(one >= other for one, other in pairwise(listed)):
        return None
    return {each["currency"]: each["amount_minor"] for each in told}
