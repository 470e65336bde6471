"""Cards and their PINs, written a second time from docs/identity.md section 7 alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.second_rules import Refused
from tests.second_signing import digest
from tests.second_tokens import Shown

VISIT = timedelta(minutes=15)
TRIES = 5


def pin_proof(pin: str, iss: str, jti: str, secret: str) -> bytes:
    salt = f"carepos/pin/v1|{iss}|{jti}|{secret}".encode()
    return hashlib.scrypt(pin.encode(), salt=salt, n=16_384, r=8, p=1, dklen=32)


def pin_verifier(proof: bytes) -> str:
    return digest(b"carepos/pin-verifier/v1|" + proof)


@dataclass
class Card:
    """What an issuer told of a card, the wrong PINs since a right one, and where it is proved."""

    sub: str
    verifier: str
    wrong: int = 0
    visits: dict[str, datetime] = field(default_factory=dict)


class Cards:
    def __init__(self) -> None:
        self.told: dict[tuple[str, str], Card] = {}

    def prove(self, shown: Shown, terminal: str, proof: bytes | None, now: datetime) -> datetime:
        """Count a proof of the PIN, if one came; the end of the card's PIN visit at a terminal.

        Raises:
            Refused: `pin_required`, `pin_wrong` with `tries_left`, or `pin_locked`.
        """
        card = self.told.get((shown.iss, shown.jti_sha256))
        if card is None or card.sub != shown.claims["sub"]:
            raise Refused("pin_required")
        if card.wrong >= TRIES:
            raise Refused("pin_locked")
        if proof is not None and pin_verifier(proof) != card.verifier:
            card.wrong += 1
            if card.wrong == TRIES:
                card.visits.clear()
                raise Refused("pin_locked")
            raise Refused("pin_wrong", tries_left=TRIES - card.wrong)
        if proof is not None:
            card.wrong, card.visits[terminal] = 0, now + VISIT
        until = card.visits.get(terminal)
        if until is None or now > until:
            raise Refused("pin_required")
        return until

    def proves(self, shown: Shown, proof: bytes | None) -> bool:
        """Whether a proof that nobody counted is right."""
        card = self.told.get((shown.iss, shown.jti_sha256))
        if card is None or proof is None:
            return False
        return card.sub == shown.claims["sub"] and pin_verifier(proof) == card.verifier
