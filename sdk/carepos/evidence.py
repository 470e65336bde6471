"""The sealed token: what a till keeps of a presentation that only the ledger can open.

HPKE (RFC 9180), base mode, with the ledger's evidence key, bound to the terminal and the attempt
(docs/offline.md §7). The till that sealed it can't open it again.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from carepos import strict_json
from carepos.errors import Malformed
from carepos.keys import b64, unb64

MAX_EVIDENCE_CHARACTERS: Final = 5_600

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_PROOF: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class EvidenceKey:
    """The ledger's public X25519 key, 32 bytes, as a pack names it."""

    raw: bytes

    @property
    def kid(self) -> str:
        """Base64url of the SHA-256 of its 32 bytes, 43 characters."""
        return b64(hashlib.sha256(self.raw).digest())

    def to_json(self) -> dict[str, object]:
        return {"kid": self.kid, "x": b64(self.raw)}

    @classmethod
    def from_json(cls, value: object, where: str = "evidence_key") -> EvidenceKey:
        """Raises Malformed, also when the `kid` is not the key's."""
        names = strict_json.exact_names(value, {"kid", "x"}, where=where)
        raw = unb64(strict_json.text(names["x"], f"{where}.x", low=43, high=43), f"{where}.x")
        key = cls(raw)
        if names["kid"] != key.kid:
            raise Malformed("is not the key's", field=f"{where}.kid")
        return key


@dataclass(frozen=True, slots=True, repr=False)
class Sealed:
    """What was opened: the presentation as it would have travelled, and a printed card's proof."""

    text: str
    pin_proof: str | None


def seal(
    text: str, *, pin_proof: str | None = None, key: EvidenceKey, terminal: str, attempt_id: str
) -> str:
    """Evidence for one attempt, base64url. `text` is the presentation, `pin_proof` 43 characters.

    Raises Malformed for a key that no evidence can be sealed to.
    """
    plain = text if pin_proof is None else f"{text}\n{pin_proof}"
    try:
        public = X25519PublicKey.from_public_bytes(key.raw)
        sealed = _SUITE.encrypt(plain.encode("ascii"), public, info=_info(terminal, attempt_id))
    except ValueError:
        # Also a point of low order, whose shared secret anybody knows.
        raise Malformed("is no key to seal to", field="evidence_key.x") from None
    return b64(sealed)


def open_sealed(
    evidence: object, *, private: X25519PrivateKey, terminal: str, attempt_id: str
) -> Sealed:
    """What `seal` was given, at the ledger. Raises Malformed for anything else."""
    sealed = unb64(strict_json.text(evidence, "evidence", high=MAX_EVIDENCE_CHARACTERS), "evidence")
    try:
        plain = _SUITE.decrypt(sealed, private, info=_info(terminal, attempt_id)).decode("ascii")
    except (ValueError, InvalidTag):
        raise Malformed("does not open with this ledger's key", field="evidence") from None
    text, newline, proof = plain.partition("\n")
    if newline and _PROOF.fullmatch(proof) is None:
        raise Malformed("holds more than a token and a proof", field="evidence")
    return Sealed(text, proof if newline else None)


def _info(terminal: str, attempt_id: str) -> bytes:
    return f"carepos/evidence/v1|{terminal}|{attempt_id}".encode("ascii")
