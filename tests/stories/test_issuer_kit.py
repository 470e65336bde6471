"""What the issuer kit makes, redeems: every kind of code, signed with every kind of key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carepos import Refused
from carepos.issuer_folder import ALGORITHMS, IssuerFolder, IssuerSigner
from carepos.minting import Mint, Minted
from carepos_ledger.cards import Cards
from tests.world import AUDIENCE, ISSUER, PROGRAMME, World, milk, world

ACTING = {
    "proxy": True, "witness": True, "household_minor": 50_000, "actor_minor": 50_000,
    "window_s": 86_400,
}  # fmt: skip
HOLDER = IssuerSigner.generate("ES256", "holder")
KINDS: dict[str, Callable[[Mint, str], Minted]] = {
    "once": lambda mint, sub: mint.once(sub, amr=("face",)),
    "card": lambda mint, sub: mint.card(sub, pin_chosen="2580"),
    "wallet": lambda mint, sub: mint.wallet(sub, holder=HOLDER),
    "proxy": lambda mint, sub: mint.acted(
        sub, actor="neighbour-1", way="proxy", reason="frail", amr=("otp",)
    ),
    "witness": lambda mint, sub: mint.acted(
        sub, actor="clerk-1", way="witness", reason="unreadable", amr=("face",)
    ),
}


@contextmanager
def believed(folder: Path, alg: str) -> Iterator[tuple[World, Mint]]:
    """A world whose ledger believes the kit's issuer beside its own."""
    with world(folder) as made:
        office = IssuerFolder.create(folder / "office", iss=ISSUER, audience=AUDIENCE, alg=alg)
        keys = [made.issuer_key.public.to_jwk(), *office.jwks()["keys"]]
        made.ledger.issuers.put(ISSUER, keys)
        rules = {**PROGRAMME, "classes": ["card", "once"], "acting": ACTING}
        made.ledger.programmes.put_programme(rules)
        yield made, Mint(office.signer, iss=ISSUER, audience=AUDIENCE, now=made.now)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_kind_of_code_redeems(tmp_path: Path, alg: str) -> None:
    """A till enrolled today takes each, and the ledger posts it."""
    with believed(tmp_path, alg) as (made, mint):
        till, cards = made.till(), Cards(made.ledger.database, made.now)
        for number, (kind, make) in enumerate(KINDS.items()):
            code = make(mint, made.family().sub)
            entered = None
            if code.ledger_line is not None:
                assert cards.put(**code.ledger_line) == "created"
                with pytest.raises(Refused, match="pin_required"):
                    till.scan(code.code)
                entered = "2580"
            offer = till.propose(till.scan(code.code, pin=entered), [milk()])
            sale = till.redeem(offer, checkout=f"S1-{number}", cashier="c01")
            assert (kind, sale.state) == (kind, "confirmed")
