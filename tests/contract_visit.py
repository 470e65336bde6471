"""Families at contract tills, and the ledgers that every contract test runs against."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.contract_ledgers import VALUE, ContractLedger, care, reference, second
from tests.contract_till import MILK, ContractTill, Sent, enrol
from tests.second_signing import Json

LEDGERS: dict[str, Callable[[], AbstractContextManager[ContractLedger]]] = {
    "second": second,
    "reference": reference,
}


def till_of(ledger: ContractLedger, store: str = "shop-a", url: str | None = None) -> ContractTill:
    """A till that asks the ledger at `url`, or where it usually is."""
    return enrol(url or ledger.url, ledger.now, ledger.activation(store))


def line(
    amount_minor: int = 6_490, key: str = MILK, quantity: int = 1, unit: str = "piece"
) -> Json:
    return {"key": key, "quantity": quantity, "unit": unit, "line_amount_minor": amount_minor}


def entry(voucher: str, programme_minor: int, **changes: int) -> Json:
    return {
        "line": 1,
        "voucher": voucher,
        "quantity": 0,
        "programme_minor": programme_minor,
        "beneficiary_minor": 0,
        **changes,
    }


@dataclass
class Visit:
    """A family at a till, looked up."""

    till: ContractTill
    sub: str
    token: str
    found: Json
    programme: str = "dairy"

    def voucher(self, n: int = 0) -> str:
        name: str = self.found["vouchers"][n]["voucher"]
        return name

    def milk(self, programme_minor: int = 6_000, **changes: Any) -> Sent:
        """Milk for 64.90, `programme_minor` of it from the first voucher."""
        allocation = [entry(self.voucher(), programme_minor)]
        return self.redeem([line()], allocation, **changes)

    def redeem(self, basket: list[Json], allocation: list[Json], **changes: Any) -> Sent:
        named = {"programme": self.programme, **changes}
        return self.till.redeem(self.found, self.token, basket, allocation, **named)

    def again(self, sent: Sent, **changes: Any) -> Sent:
        """Another record of the chain under the id of `sent`, with names of the content changed."""
        content = {**sent.payload["content"], **changes}
        return self.till.write("redeem", sent.payload["id"], content, self.token)

    def balance(self, n: int = 0) -> int:
        """What the voucher holds now, seen by a fresh lookup in the same visit."""
        now = {found["voucher"]: found for found in self.till.lookup(self.token)["vouchers"]}
        voucher = now[self.voucher(n)]
        left: int = voucher["available_minor"] + voucher["available_quantity"]
        return left


def visit(ledger: ContractLedger, till: ContractTill, *vouchers: Json) -> Visit:
    sub = ledger.family(*(vouchers or (VALUE,)))
    token = care(ledger, sub)
    return Visit(till, sub, token, till.lookup(token))
