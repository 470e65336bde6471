"""Cards and wallets as issuers make them, for tests: what is in a holder's hand."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carepos import pin, token
from carepos.keys import SigningKey, digest
from carepos_ledger.cards import Cards
from carepos_ledger.revoking import Revoking
from tests.world import AUDIENCE, ISSUER, PROGRAMME, Family, World

SECRET = "s3cr3t-of-one-card-22c"
PIN, WRONG = "2580", "2581"
RULES: dict[str, Any] = {**PROGRAMME, "classes": ["once", "card"]}
ACTING = {
    "proxy": True,
    "witness": True,
    "household_minor": 5_000,
    "actor_minor": 8_000,
    "window_s": 86_400,
}


@functools.cache
def proof(number: str, name: str, secret: str = SECRET) -> str:
    """Derived once for each: it is slow on purpose."""
    return pin.proof(number, iss=ISSUER, jti=name, card_secret=secret)


@dataclass(frozen=True)
class Card:
    """A printed card: `scanned` is its QR."""

    name: str
    token: str
    secret: str = SECRET

    @property
    def scanned(self) -> str:
        return f"CPC1*{self.secret}*{self.token}"

    @property
    def jti_sha256(self) -> str:
        return digest(self.name.encode())


def print_card(family: Family, number: str = PIN, *, told: bool = True) -> Card:
    """A card of this family, `told` to the ledger with its PIN."""
    family.tokens += 1
    name = f"card-{family.sub[:8]}-{family.tokens}"
    text = family.token(
        jti=name, token_class="card", lifetime_s=300 * 86_400, amr=("carepos:card",)
    )
    card = Card(name, text)
    if told:
        cards(family.world).put(
            ISSUER, card.jti_sha256, family.sub, pin.verifier(proof(number, name))
        )
    return card


def cards(world: World) -> Cards:
    return Cards(world.ledger.database, world.now)


def revoking(world: World) -> Revoking:
    return Revoking(world.ledger.database, world.now)


@dataclass
class Wallet:
    """A phone with a key of its own, which signs each presentation."""

    family: Family
    key: SigningKey
    token: str
    shown: int = 0

    def present(self) -> str:
        self.shown += 1
        return token.present(
            self.token,
            self.key,
            aud=AUDIENCE,
            nonce=f"nonce-{self.family.sub[:10]}-{self.shown:08d}",
            at=self.family.world.now(),
        )


def open_wallet(family: Family) -> Wallet:
    key = SigningKey.generate()
    jwk = {name: value for name, value in key.public.to_jwk().items() if name != "kid"}
    text = family.token(
        token_class="card", lifetime_s=300 * 86_400, amr=("face",), cnf={"jwk": jwk}
    )
    return Wallet(family, key, text)


def act_for(family: Family, actor: str = "actor-1", **changes: Any) -> str:
    """A code with which somebody acts for the family."""
    told: Mapping[str, Any] = {"act": {"sub": actor}, "care_reason": "frail", **changes}
    return family.token(**told)
