"""Households in the offline pack: found by, and encrypted under, a key from the token itself.

The secret is `sub`, random and known to issuer and ledger only: whoever has a pack and no token
learns how many households there are, and nothing of them (docs/offline.md §5).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from carepos import ids, money, strict_json
from carepos.basket import MAX_QUANTITY
from carepos.errors import Malformed
from carepos.keys import b64, unb64

MAX_VOUCHERS: Final = 20
MAX_CARDS: Final = 20
MAX_UNPACKED_BYTES: Final = 64 * 1024
SEGMENTS: Final = 64

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_NONCE_BYTES: Final = 12
_CARD: Final = re.compile(r"[A-Za-z0-9_-]{8}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9_-]{22}")


@dataclass(frozen=True, slots=True)
class PackedAllotment:
    """What is set aside of a voucher; `date` is a place in the pack's `dates`."""

    allotment: int
    amount_minor: int
    quantity: int
    date: int


@dataclass(frozen=True, slots=True)
class PackedVoucher:
    """One voucher as the pack states it; `kind` is a place in the pack's `kinds`."""

    voucher: str
    kind: int
    available_minor: int
    available_quantity: int
    frozen: bool
    allotments: tuple[PackedAllotment, ...]


@dataclass(frozen=True, slots=True)
class Household:
    """What a pack holds of one beneficiary.

    `cards`: of printed cards the first 22 characters of the PIN's verifier, by the first 8 of
    `jti_sha256`: 132 bits of a check, and a household has few cards.
    """

    beneficiary: str
    bucket: int
    vouchers: tuple[PackedVoucher, ...]
    cards: Mapping[str, str]

    def verifier_of(self, jti_sha256: str) -> str | None:
        """What the PIN of this card is checked against, if the pack has it."""
        return self.cards.get(jti_sha256[:8])

    def to_json(self) -> dict[str, object]:
        return {
            "b": self.beneficiary,
            "k": self.bucket,
            "v": [
                [
                    each.voucher,
                    each.kind,
                    each.available_minor,
                    each.available_quantity,
                    int(each.frozen),
                    [[a.allotment, a.amount_minor, a.quantity, a.date] for a in each.allotments],
                ]
                for each in self.vouchers
            ],
            "c": [list(card) for card in sorted(self.cards.items())],
        }

    @classmethod
    def from_json(cls, value: object, *, kinds: int, dates: int) -> Household:
        """`kinds` and `dates`: how many the pack has. Raises Malformed."""
        names = strict_json.exact_names(value, {"b", "k", "v", "c"}, where="household")
        vouchers = strict_json.array(names["v"], "household.v", high=MAX_VOUCHERS)
        cards = {}
        for each in strict_json.array(names["c"], "household.c", high=MAX_CARDS):
            jti, verifier = _places(each, 2, "household.c")
            if not (_fits(_CARD, jti) and _fits(_VERIFIER, verifier)):
                raise Malformed("must be 8 and 22 characters", field="household.c")
            cards[str(jti)] = str(verifier)
        return cls(
            ids.reference(names["b"], "household.b"),
            strict_json.integer(names["k"], "household.k", high=4095),
            tuple(_voucher(each, kinds, dates) for each in vouchers),
            cards,
        )


def _voucher(value: object, kinds: int, dates: int) -> PackedVoucher:
    where = "household.v"
    voucher, kind, minor, quantity, frozen, allotments = _places(value, 6, where)
    top = money.MAX_AMOUNT_MINOR
    found = []
    for each in strict_json.array(allotments, where, high=1_000):
        number, amount, units, date = _places(each, 4, where)
        found.append(
            PackedAllotment(
                strict_json.integer(number, where, low=1),
                strict_json.integer(amount, where, high=top),
                strict_json.integer(units, where, high=MAX_QUANTITY),
                strict_json.integer(date, where, high=dates - 1),
            )
        )
    if any(a.allotment >= b.allotment for a, b in pairwise(found)):
        raise Malformed("allotments must be sorted, none twice", field=where)
    return PackedVoucher(
        ids.reference(voucher, where),
        strict_json.integer(kind, where, high=kinds - 1),
        strict_json.integer(minor, where, high=top),
        strict_json.integer(quantity, where, high=MAX_QUANTITY),
        bool(strict_json.integer(frozen, where, high=1)),
        tuple(found),
    )


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _places(value: object, count: int, where: str) -> Sequence[object]:
    return strict_json.array(value, where, low=count, high=count)


# ── finding, sealing and opening ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, repr=False)
class HouseholdKey:
    """What one beneficiary's token unlocks in the packs of one terminal's incarnation."""

    tag: str
    _key: bytes
    _nonce_key: bytes

    @classmethod
    def of(cls, iss: str, sub: str, *, terminal: str, incarnation: str) -> HouseholdKey:
        secret = hashlib.sha256(f"carepos/pack-secret/v1|{iss}|{sub}".encode()).digest()
        info = f"carepos/pack-household/v1|{terminal}|{incarnation}".encode("ascii")
        made = HKDF(hashes.SHA256(), 96, salt=None, info=info).derive(secret)
        tag = hmac.digest(made[:32], b"tag", "sha256")[:12]
        return cls(b64(tag), made[32:64], made[64:])

    @property
    def segment(self) -> int:
        """In which of the 64 segments the entry stands, from 0."""
        return _ALPHABET.index(self.tag[0])

    def seal(self, household: Household) -> str:
        """The entry of a segment: the same for the same household."""
        packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        plain = packing.compress(strict_json.canonical(household.to_json())) + packing.flush()
        nonce = hmac.digest(self._nonce_key, plain, "sha256")[:_NONCE_BYTES]
        sealed = ChaCha20Poly1305(self._key).encrypt(nonce, plain, self.tag.encode("ascii"))
        return b64(nonce + sealed)

    def open(self, entry: object, *, kinds: int, dates: int) -> Household:
        """The household that `entry` holds. Raises Malformed for anything not sealed so."""
        sealed = unb64(strict_json.text(entry, "household", high=MAX_UNPACKED_BYTES), "household")
        try:
            plain = ChaCha20Poly1305(self._key).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self.tag.encode("ascii")
            )
        except (InvalidTag, ValueError):
            raise Malformed("does not open with this token", field="household") from None
        return Household.from_json(
            strict_json.read_object(_unpacked(plain)), kinds=kinds, dates=dates
        )


def _unpacked(plain: bytes) -> bytes:
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacking.decompress(plain, MAX_UNPACKED_BYTES)
    except zlib.error:
        raise Malformed("does not unpack", field="household") from None
    if not unpacking.eof or unpacking.unused_data:
        raise Malformed("does not unpack to what a household may be", field="household")
    return data


def read_segment(data: bytes) -> Mapping[str, object]:
    """The entries of one segment, by tag, still sealed. Raises Malformed."""
    names = strict_json.exact_names(
        strict_json.read_object(data), {"v", "households"}, where="segment"
    )
    if strict_json.integer(names["v"], "segment.v") != 1:
        raise Malformed("must be 1", field="segment.v")
    return strict_json.mapping(names["households"], "segment.households", high=100_000)


def write_segments(entries: Mapping[str, str]) -> list[bytes]:
    """The 64 segments' files that hold these entries, by tag; none for no entries."""
    if not entries:
        return []
    parts: list[dict[str, str]] = [{} for _ in range(SEGMENTS)]
    for tag, entry in entries.items():
        parts[_ALPHABET.index(tag[0])][tag] = entry
    return [strict_json.canonical({"v": 1, "households": part}) for part in parts]
