"""Ledgers that the contract tests run against, each behind HTTP with a clock that can be moved.

`ContractLedger` is all that a test may ask of a ledger beside what a till asks over HTTP.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tests import second_ledger
from tests.contract_till import FORMULA, MILK, RICE
from tests.second_ledger import Holder, SecondLedger
from tests.second_signing import Json, Key, b64
from tests.world import FakeClock

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


class ContractLedger(Protocol):
    """What a contract test asks of a ledger's operator."""

    url: str
    audience: str
    issuer_key: Key
    now: FakeClock

    def activation(self, store: str) -> str:
        """A code that enrols one terminal of `store`."""

    def programme(self, name: str, **changes: Any) -> None:
        """A programme that every store but `shop-out` takes part in, or what `changes` make."""

    def fund(self, programme: str, funder: str, amount_minor: int) -> None:
        """What a funder put in."""

    def family(self, *vouchers: Json) -> str:
        """The `sub` of a new beneficiary who holds vouchers, given as in section 9."""

    def freeze(self, voucher: str) -> None:
        """Freeze one voucher."""

    def set_terminal(self, terminal: str, status: str) -> None:
        """`active`, `suspended` or `revoked`."""

    def close(self, programme: str) -> None:
        """Sweep what no batch holds into settlement files."""


class SecondContract:
    """The second ledger."""

    def __init__(self, url: str, now: FakeClock, ledger: SecondLedger) -> None:
        self.url, self.now, self.ledger = url, now, ledger
        self.audience = ledger.audience
        self.issuer_key = Key.new()
        ledger.issuers[ISSUER] = [self.issuer_key.public]
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
        self.ledger.put_in[programme] += Counter({funder: amount_minor})

    def family(self, *vouchers: Json) -> str:
        holder = Holder(ISSUER, b64(secrets.token_bytes(16)))
        for voucher in vouchers:
            self.ledger.issue(holder, **voucher)
        return holder.sub

    def freeze(self, voucher: str) -> None:
        self.ledger.vouchers[voucher]["frozen"] = True

    def set_terminal(self, terminal: str, status: str) -> None:
        self.ledger.terminals[terminal].status = status

    def close(self, programme: str) -> None:
        self.ledger.close(programme)


@contextmanager
def second() -> Iterator[ContractLedger]:
    now = FakeClock()
    ledger = SecondLedger(now)
    with second_ledger.served(ledger) as url:
        yield SecondContract(url, now, ledger)


@contextmanager
def reference() -> Iterator[ContractLedger]:
    raise NotImplementedError
    yield
