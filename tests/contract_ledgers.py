"""Ledgers that the contract tests run against, each behind HTTP with a clock that can be moved.

`ContractLedger` is all that a test may ask of a ledger beside what a till asks over HTTP.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import insert, literal, select

from carepos.errors import Malformed
from carepos_ledger import app, schema
from carepos_ledger.cards import Cards
from carepos_ledger.issuers import Issuers
from carepos_ledger.problems import Problem
from carepos_ledger.revoking import Revoking
from tests import second_http, second_loss
from tests.contract_codes import Signer
from tests.contract_till import FORMULA, MILK, RICE
from tests.postgres_cluster import PostgresCluster
from tests.second_attempts import Holder
from tests.second_cards import Card
from tests.second_ledger import SecondLedger
from tests.second_signing import Bad, Json, Key, b64
from tests.stories.restorable import Restorable, restorable
from tests.world import AUDIENCE, IMPORT_KEY_ID, FakeClock, World, served, world

ISSUER = "https://issuer.contract.test"
PRODUCTS = {MILK: "dairy", FORMULA: "infant-formula", RICE: "grain"}
PROGRAMME: Json = {
    "name": "奶制品 dairy",
    "currency": "CNY",
    "starts_at": "2026-08-01T00:00:00.000Z",
    "ends_at": "2027-08-01T00:00:00.000Z",
    "paused": False,
    "product_list": "relief",
    "issuer": ISSUER,
    "classes": ["once"],
    "amr_any": [],
    "limit_per_redemption_minor": None,
    "top_up_allowed": False,
    "undo_window_s": 3600,
    "quotas": [],
}
_ROW_NAMES = {"kind", "label", "categories", "starts_at", "expires_at"}
# Stores by merchant. `shop-out` takes part in no programme.
STORES = {
    "shop-a": "zhou",
    "shop-b": "zhou",
    "shop-out": "zhou",
    "shop-w": "wang",
    "shop-l": "li",
}
VALUE: Json = {
    "programme": "dairy",
    "kind": "value",
    "label": "卡 card",
    "categories": [],
    "starts_at": PROGRAMME["starts_at"],
    "expires_at": PROGRAMME["ends_at"],
    "available_minor": 12_000,
    "available_quantity": 0,
    "terms": None,
}

ITEM: Json = {
    **VALUE,
    "kind": "item",
    "available_minor": 0,
    "available_quantity": 3,
    "terms": {"unit": "piece", "cap_minor": 7_000, "fixed_minor": 0, "cap_quantity": 1},
}
FIXED: Json = {
    **ITEM,
    "kind": "fixed_price",
    "available_quantity": 4_000,
    "terms": {"unit": "g", "cap_minor": 1_500, "fixed_minor": 300, "cap_quantity": 500},
}


class ContractLedger(Protocol):
    """What a contract test asks of a ledger's operator."""

    url: str
    other_url: str  # of another server of the same ledger, if it has one
    audience: str
    issuer_key: Key
    now: FakeClock

    def activation(self, store: str) -> str:
        """A code that enrols one terminal of `store`."""

    def programme(self, name: str, **changes: Any) -> None:
        """A programme that every store but `shop-out` takes part in, or what `changes` make."""

    def fund(self, programme: str, funder: str, amount_minor: int) -> None:
        """What a funder put in."""

    def reserve(self, programme: str, amount_minor: int) -> None:
        """Set so much of a programme's money aside for its losses."""

    def family(self, *vouchers: Json, beside: str | None = None) -> str:
        """The `sub` of a new beneficiary who holds vouchers, given as in section 9.

        `beside`: they share the bucket of this one.
        """

    def freeze(self, voucher: str) -> None:
        """Freeze one voucher of the programme `dairy`."""

    def set_terminal(self, terminal: str, status: str) -> None:
        """`active`, `suspended` or `revoked`."""

    def close(self, programme: str) -> None:
        """Sweep what no batch holds into settlement files."""

    def put_keys(self, iss: str, jwks: list[Json], *, confirmed: bool = False) -> bool:
        """A set as an issuer publishes it, whether it was taken; `confirmed`: by a person."""

    def put_card(self, iss: str, sub: str, jti_sha256: str, verifier: str) -> None:
        """What an issuer tells of a printed card."""

    def unlock(self, iss: str, jti_sha256: str) -> None:
        """Give a locked card its tries back."""

    def withdraw_key(self, iss: str, kid: str) -> None:
        """Stop believing a key of an issuer."""

    def withdraw_token(self, iss: str, jti_sha256: str) -> None:
        """Withdraw a token or card."""


class Losing(ContractLedger, Protocol):
    """A ledger that can lose what happened since its backup."""

    def back_up(self) -> None:
        """Remember how it is now."""

    def lose(self) -> None:
        """Be as at the backup, and begin to heal."""

    def open(self) -> None:
        """Book what tills brought back, and serve again."""


def care(
    ledger: ContractLedger,
    sub: str,
    key: Signer | None = None,
    typ: str = "care+jwt",
    **changes: Any,
) -> str:
    """A fresh care code of a family."""
    at = int(ledger.now().timestamp())
    claims = {
        "iss": ISSUER,
        "aud": ledger.audience,
        "sub": sub,
        "jti": b64(secrets.token_bytes(16)),
        "iat": at,
        "nbf": at,
        "exp": at + 600,
        "amr": ["face"],
        "care_class": "once",
        **changes,
    }
    return (key or ledger.issuer_key).sign(typ, claims)


class SecondContract:
    """The second ledger."""

    def __init__(self, url: str, now: FakeClock, ledger: SecondLedger) -> None:
        self.url = self.other_url = url
        self.now, self.ledger = now, ledger
        self.audience = ledger.audience
        self.issuer_key = Key.new()
        self.put_keys(ISSUER, [self.issuer_key.public.jwk])
        ledger.products["relief"] = {"product_list": "relief", "version": 1, "entries": PRODUCTS}
        for store, merchant in STORES.items():
            ledger.put_store(store, merchant, f"{merchant} 超市", f"{store} 店")

    def activation(self, store: str) -> str:
        return self.ledger.activation(store)

    def programme(self, name: str, **changes: Any) -> None:
        self.ledger.put_programme({**PROGRAMME, "programme": name, **changes})
        self.ledger.admitted[name] = set(STORES) - {"shop-out"}
        self.fund(name, "red-cross", 100_000_000)

    def fund(self, programme: str, funder: str, amount_minor: int) -> None:
        self.ledger.settlement.put_in[programme] += Counter({funder: amount_minor})

    def reserve(self, programme: str, amount_minor: int) -> None:
        self.ledger.offline.reserves[programme] = amount_minor

    def family(self, *vouchers: Json, beside: str | None = None) -> str:
        iss = self.ledger.programmes[vouchers[0]["programme"]]["issuer"]
        holder = Holder(iss, b64(secrets.token_bytes(16)))
        if beside is not None:
            self.ledger.buckets[holder] = self.ledger.buckets[Holder(ISSUER, beside)]
        for voucher in vouchers:
            self.ledger.issue(holder, **voucher)
        return holder.sub

    def freeze(self, voucher: str) -> None:
        self.ledger.book.vouchers[voucher]["frozen"] = True

    def set_terminal(self, terminal: str, status: str) -> None:
        self.ledger.terminals[terminal].status = status

    def close(self, programme: str) -> None:
        self.ledger.close(programme)

    def put_keys(self, iss: str, jwks: list[Json], *, confirmed: bool = False) -> bool:
        try:
            self.ledger.identity.put_keys(iss, jwks, confirmed=confirmed)
        except Bad:
            return False
        return True

    def put_card(self, iss: str, sub: str, jti_sha256: str, verifier: str) -> None:
        self.ledger.identity.cards.told[iss, jti_sha256] = Card(sub, verifier)

    def unlock(self, iss: str, jti_sha256: str) -> None:
        self.ledger.identity.cards.told[iss, jti_sha256].wrong = 0

    def withdraw_key(self, iss: str, kid: str) -> None:
        self.ledger.identity.withdraw("keys", iss, kid)

    def withdraw_token(self, iss: str, jti_sha256: str) -> None:
        self.ledger.identity.withdraw("tokens", iss, jti_sha256)


class SecondLosing(SecondContract):
    """The second ledger, with a backup."""

    def back_up(self) -> None:
        self._backup = second_loss.snapshot(self.ledger)

    def lose(self) -> None:
        second_loss.lose(self.ledger, self._backup)

    def open(self) -> None:
        second_loss.open_again(self.ledger)


@contextmanager
def second_losing() -> Iterator[Losing]:
    now = FakeClock()
    ledger = SecondLedger(now)
    with second_http.served(ledger) as url:
        yield SecondLosing(url, now, ledger)


@contextmanager
def second() -> Iterator[ContractLedger]:
    now = FakeClock()
    ledger = SecondLedger(now)
    with second_http.served(ledger) as url:
        yield SecondContract(url, now, ledger)


class ReferenceContract:
    """The product's ledger, set up through its operators' own calls."""

    def __init__(self, world: World, other_url: str | None = None) -> None:
        self.url, self.now, self._ledger = world.url, world.now, world.ledger
        self.other_url = other_url or world.url
        self.audience = AUDIENCE
        self.issuer_key = Key.new()
        office, programmes = world.ledger.office, world.ledger.programmes
        self._cards = Cards(world.ledger.database, world.now)
        self._revoking = Revoking(world.ledger.database, world.now)
        world.ledger.issuers.put(ISSUER, [self.issuer_key.public.jwk])
        programmes.put_product_list("relief", 1, PRODUCTS)
        for merchant in sorted(set(STORES.values()) - {"zhou"}):
            office.put_merchant(merchant, f"{merchant} 超市")
        for store, merchant in STORES.items():
            office.put_store(store, merchant, f"{store} 店")

    def activation(self, store: str) -> str:
        return self._ledger.terminals.new_activation(store, 3600).code

    def programme(self, name: str, **changes: Any) -> None:
        programmes = self._ledger.programmes
        programmes.put_programme({**PROGRAMME, "programme": name, **changes})
        self.fund(name, "red-cross", 100_000_000)
        for store in STORES:
            if store != "shop-out":
                programmes.admit_store(name, store)

    def fund(self, programme: str, funder: str, amount_minor: int) -> None:
        self._ledger.office.fund(programme, funder, amount_minor, secrets.token_hex(8))

    def reserve(self, programme: str, amount_minor: int) -> None:
        self._ledger.office.reserve_for_losses(programme, amount_minor, secrets.token_hex(8))

    def family(self, *vouchers: Json, beside: str | None = None) -> str:
        sub = "" if beside is None else self._beside(beside)
        for voucher in vouchers:
            row = {name: value for name, value in voucher.items() if name in _ROW_NAMES}
            if voucher["kind"] == "value":
                row["amount_minor"] = voucher["available_minor"]
            else:
                row |= {"quantity": voucher["available_quantity"], "terms": voucher["terms"]}
            row["ref"] = b64(secrets.token_bytes(32))
            if sub:
                self._same_person(sub, row["ref"])
            [answer] = self._ledger.office.issue(voucher["programme"], IMPORT_KEY_ID, [row])
            sub = str(answer.sub)
        return sub

    def _beside(self, sub: str) -> str:
        """A new person in the bucket of `sub`; an office draws buckets at random."""
        people, new_sub = schema.beneficiaries.c, b64(secrets.token_bytes(16))
        person = select(
            people.bucket, literal(b64(secrets.token_bytes(16))), people.iss, literal(new_sub)
        ).where(people.sub == sub)
        names = ["bucket", "beneficiary", "iss", "sub"]
        with self._ledger.database.write() as connection:
            connection.execute(insert(schema.beneficiaries).from_select(names, person))
        return new_sub

    def _same_person(self, sub: str, ref: str) -> None:
        """Make `ref` another line of the same person: office lists a person once a programme."""
        people = schema.beneficiaries.c
        person = select(
            people.iss, literal(IMPORT_KEY_ID), literal(ref), people.bucket, people.beneficiary
        ).where(people.sub == sub)
        names = ["iss", "import_key_id", "ref", "bucket", "beneficiary"]
        with self._ledger.database.write() as connection:
            connection.execute(insert(schema.enrolments).from_select(names, person))

    def freeze(self, voucher: str) -> None:
        self._ledger.office.freeze("dairy", frozen=True, voucher=voucher)

    def set_terminal(self, terminal: str, status: str) -> None:
        self._ledger.terminals.set_status(terminal, status)

    def close(self, programme: str) -> None:
        self._ledger.settlement.close(None, programme)

    def put_keys(self, iss: str, jwks: list[Json], *, confirmed: bool = False) -> bool:
        document = json.dumps({"keys": jwks}).encode()
        publishing = Issuers(self._ledger.database, self.now, lambda *_: document)
        try:
            publishing.put_source(iss, f"{iss}/jwks.json", confirmed=confirmed)
        except (Malformed, Problem):
            return False
        return True

    def put_card(self, iss: str, sub: str, jti_sha256: str, verifier: str) -> None:
        self._cards.put(iss, jti_sha256, sub, verifier)

    def unlock(self, iss: str, jti_sha256: str) -> None:
        self._cards.unlock(iss, jti_sha256)

    def withdraw_key(self, iss: str, kid: str) -> None:
        self._revoking.key(iss, kid, reason="contract test")

    def withdraw_token(self, iss: str, jti_sha256: str) -> None:
        self._revoking.token(iss, jti_sha256, reason="contract test")


@contextmanager
def reference() -> Iterator[ContractLedger]:
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as made:
        yield ReferenceContract(made)


class ReferenceLosing(ReferenceContract):
    """The product's, stopped and started again around its backup."""

    def __init__(self, house: Restorable) -> None:
        super().__init__(house.world)
        self._house = house

    def back_up(self) -> None:
        self._house.back_up()
        self._ledger = self._house.world.ledger

    def lose(self) -> None:
        self._house.restore()
        assert self._house.carepos("heal", "begin") == 0
        self._house.start()
        self._ledger = self._house.world.ledger

    def open(self) -> None:
        assert self._house.carepos("heal", "open", "--early") == 0


@contextmanager
def reference_losing() -> Iterator[Losing]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        with restorable(Path(folder), url, _no_cluster) as house:
            yield ReferenceLosing(house)


def _no_cluster() -> PostgresCluster:
    raise AssertionError("this ledger keeps its book in a file")


@contextmanager
def two_servers(database_url: str) -> Iterator[ContractLedger]:
    """The product's, twice over one PostgreSQL database, as behind a proxy that shares out."""
    with tempfile.TemporaryDirectory() as folder, world(Path(folder), database_url) as made:
        other = app.build(made.settings, now=made.now)
        try:
            with served(other) as (url, _):
                yield ReferenceContract(made, url)
        finally:
            other.close()
