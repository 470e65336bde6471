"""What a pack has for outages, written a second time from docs/offline.md sections 4 and 5 alone.

Households are sealed with what `vectors.second_offline` derives of their (iss, sub).
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.second_attempts import Holder, Terminal
from tests.second_book import Allotment, Book, may_cost
from tests.second_cards import TRIES, Card
from tests.second_signing import Json, b64, canonical, digest, utc
from tests.vectors import second_offline


@dataclass
class Known:
    """What a pack said, by which a sale without the ledger is judged."""

    programmes: dict[str, Json]
    vouchers: dict[str, Json]
    withdrawn: set[tuple[str, str]]


@dataclass
class Household:
    holder: Holder
    beneficiary: str
    bucket: int
    vouchers: list[str] = field(default_factory=list)
    is_home: bool = True


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


class Allotting:
    """Sets parts of vouchers aside for the tills of their holders' home."""

    def __init__(self, now: Callable[[], datetime], book: Book) -> None:
        self.now, self.book = now, book
        self.evidence = X25519PrivateKey.generate()

    @property
    def evidence_key(self) -> Json:
        raw = self.evidence.public_key().public_bytes_raw()
        return {"kid": digest(raw), "x": b64(raw)}

    def free(self, name: str) -> None:
        """What nobody came back for goes to whoever wants it next."""
        for each in self.book.allotments[name]:
            if each.open and utc(self.now()) >= each.reclaim_after:
                self.book.close(each, given_back=False)

    def own(self, name: str, terminal: str, incarnation: str | None = None) -> list[Allotment]:
        """The open ones of a terminal, in order of number."""
        return [
            each
            for each in self.book.allotments[name]
            if each.open and each.terminal == terminal and incarnation in (None, each.incarnation)
        ]

    def set_aside(self, name: str, rule: Json, terminal: Terminal, incarnation: str) -> None:
        """Make what may be made of a voucher, and give what there is later dates."""
        self.free(name)
        voucher, pot = self.book.vouchers[name], self.book.pots[name]
        opened = [each for each in self.book.allotments[name] if each.open]
        mine = self.own(name, terminal.name, incarnation)
        until = self.now() + timedelta(seconds=rule["spend_s"])
        dates = utc(until), utc(until + timedelta(seconds=rule["upload_s"]))
        for each in mine:
            each.spend_until, each.reclaim_after = dates
        if voucher["frozen"] or utc(self.now()) >= voucher["expires_at"]:
            return
        if voucher["terms"] is None:
            aside = sum(each.minor for each in opened)
            more = rule["allotment_permille"] * (pot.minor + aside) // 1000 - aside
            minor, quantity = min(more, pot.minor), 0
        else:
            if any(each.quantity for each in mine):
                return
            aside = sum(each.quantity for each in opened)
            quantity = rule["allotment_permille"] * (pot.quantity + aside) // 1000 - aside
            minor = may_cost(voucher, quantity)
        if minor <= 0:
            return
        number = len(self.book.allotments[name]) + 1
        pot.minor, pot.quantity = pot.minor - minor, pot.quantity - quantity
        made = Allotment(minor, quantity, name, number, terminal.name, incarnation, *dates)
        self.book.allotments[name].append(made)

    def households(
        self,
        found: Iterable[Household],
        terminal: Terminal,
        incarnation: str,
        cards: Mapping[tuple[str, str], Card],
        currencies: Mapping[str, str],
    ) -> tuple[Json, dict[str, bytes]]:
        """The pack's top-level names for them, and its segments by digest."""
        kinds: list[Json] = []
        dates: list[list[str]] = []
        sums: dict[str, int] = {}
        segments: list[Json] = [{} for _ in range(64)]
        count = 0
        for household in found:
            count += 1
            vouchers = []
            for name in household.vouchers[:20]:
                told = self.book.told(name)
                kind = {
                    key: value
                    for key, value in told.items()
                    if key not in ("voucher", "frozen", "available_minor", "available_quantity")
                }
                aside = []
                for each in self.own(name, terminal.name, incarnation):
                    date = [each.spend_until, each.reclaim_after]
                    place = _place(dates, date)
                    aside.append([each.number, each.amount_minor, each.given, place])
                vouchers.append(
                    [
                        name,
                        _place(kinds, kind),
                        told["available_minor"] if household.is_home else 0,
                        told["available_quantity"] if household.is_home else 0,
                        int(told["frozen"]),
                        aside,
                    ]
                )
            holder = household.holder
            told_cards = [
                [jti_sha256[:8], card.verifier[:22]]
                for (iss, jti_sha256), card in sorted(cards.items())
                if (iss, card.sub) == (holder.iss, holder.sub) and card.wrong < TRIES
            ]
            plain = {
                "b": household.beneficiary,
                "k": household.bucket,
                "v": vouchers,
                "c": told_cards[:20],
            }
            tag, key, nonce_key = second_offline.household_keys(
                holder.iss, holder.sub, terminal.name, incarnation
            )
            data = deflated(canonical(plain))
            nonce = hmac.digest(nonce_key, data, "sha256")[:12]
            sealed = nonce + ChaCha20Poly1305(key).encrypt(nonce, data, tag.encode())
            segments[second_offline.segment(tag)][tag] = b64(sealed)
        for opened in self.book.allotments.values():
            for each in opened:
                if each.open and (each.terminal, each.incarnation) == (terminal.name, incarnation):
                    currency = currencies[self.book.vouchers[each.voucher]["programme"]]
                    sums[currency] = sums.get(currency, 0) + each.minor
        files = [canonical({"v": 1, "households": each}) for each in segments] if count else []
        names = {
            "allotted": [{"currency": each, "amount_minor": sums[each]} for each in sorted(sums)],
            "evidence_key": self.evidence_key,
            "households": {
                "incarnation": incarnation,
                "count": count,
                "kinds": kinds,
                "dates": dates,
                "segments": [{"sha256": digest(file), "length": len(file)} for file in files],
            },
        }
        return names, {digest(file): file for file in files}


def _place(among: list[Any], value: object) -> int:
    if value not in among:
        among.append(value)
    return among.index(value)
