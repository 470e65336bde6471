"""What any ledger must answer when it lost data, and what tills bring back: docs/offline.md
section 12, over HTTP, against a ledger written from the page alone and the product's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import requests

from tests.contract_ledgers import (
    VALUE,
    Losing,
    care,
    reference_losing,
    second_losing,
)
from tests.contract_till import ContractTill, Sent, refused, trusted_keys
from tests.contract_visit import Visit, entry, line, till_of
from tests.second_signing import Json, Key, read, strict_json, unread
from tests.vectors import second_undo

LOSING: dict[str, Callable[[], AbstractContextManager[Losing]]] = {
    "second": second_losing,
    "reference": reference_losing,
}
RETURNS = {**VALUE, "programme": "returns"}


@pytest.fixture(params=LOSING)
def ledger(request: pytest.FixtureRequest) -> Iterator[Losing]:
    with LOSING[request.param]() as made:
        made.programme("returns", refunds={"window_s": 86_400, "grace_s": 0})
        yield made


@dataclass
class Keeper:
    """A till that keeps what it was answered, and its certificates."""

    till: ContractTill
    certificates: list[Json] = field(default_factory=list)
    items: list[Json] = field(default_factory=list)

    def send(self, sent: Sent) -> Json:
        [result] = self.till.send(sent)
        outcome = self.till.believe(sent, result)
        self.items.append({"record": sent.jws, "outcome": result["outcome"]})
        return outcome

    def offer(self, items: list[Json] | None = None, **changes: Any) -> Json:
        """The answer to an offer of all that it has, or of `items`."""
        answer = self.post(items, **changes)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        assert set(found) == {"epoch", "state", "forked", "held", "ends", "more", "results"}
        assert len(found["ends"]) == len(found["held"])
        return found

    def post(self, items: list[Json] | None = None, **changes: Any) -> Any:
        body = {
            "incarnation": self.till.incarnation,
            "after": 0,
            "last": self.till.sequence,
            "certificates": self.certificates,
            "items": self.items if items is None else items,
            "complete": True,
            **changes,
        }
        return self.till.post("/v1/heal", body)

    def again(self) -> bool:
        """Whether each record that it has gets the very answer that it got."""
        envelopes = [{"record": each["record"]} for each in self.items]
        answer = requests.post(self.till.url + "/v1/records", json={"items": envelopes}, timeout=20)
        told = [each.get("outcome") for each in answer.json()["results"]]
        return told == [each["outcome"] for each in self.items]


def keeper(ledger: Losing, store: str = "shop-a") -> Keeper:
    till = till_of(ledger, store)
    certificate = till.get("/v1/terminal").json()["certificate"]
    return Keeper(till, [{"key": till.key.public.jwk, "certificate": certificate}])


def visited(ledger: Losing, by: Keeper, sub: str) -> Visit:
    token = care(ledger, sub)
    return Visit(by.till, sub, token, by.till.lookup(token), "returns")


def balance(ledger: Losing, till: ContractTill, sub: str) -> int:
    [found] = till.lookup(care(ledger, sub))["vouchers"]
    left: int = found["available_minor"]
    return left


def test_a_ledger_that_heals_decides_nothing(ledger: Losing) -> None:
    """503 with `Retry-After` to everybody, before it looks who calls; the key set says the epoch,
    and the till's own question is answered."""
    own = keeper(ledger)
    before, _ = trusted_keys(ledger.url, ledger.activation("shop-a").split(".")[2])
    ledger.back_up()
    ledger.lose()
    after, _ = trusted_keys(ledger.url, ledger.activation("shop-a").split(".")[2])
    assert after["epoch"] == before["epoch"] + 1 and after["version"] > before["version"]
    till = own.till
    asked = [
        till.get("/v1/terminal"),
        till.get(f"/v1/records/{till.own_id()}"),
        till.post("/v1/vouchers/lookup", {"token": "x"}),
        requests.get(ledger.url + "/v1/settlements", timeout=20),
        requests.post(ledger.url + "/v1/records", json={"items": []}, timeout=20),
        requests.post(ledger.url + "/v1/terminals", json={}, timeout=20),
    ]
    for answer in asked:
        assert refused(answer)["code"] == "ledger_healing"
        assert int(answer.headers["Retry-After"]) >= 1
    told = own.offer([])
    assert (told["state"], told["epoch"], told["results"]) == ("healing", after["epoch"], [])
    ledger.open()
    assert own.offer([])["state"] == "open"
    till.ledger_keys[:] = trusted_keys(ledger.url, ledger.activation("shop-a").split(".")[2])[1]
    outcome = till.outcome(till.start())
    assert (outcome["result"], outcome["epoch"]) == ("posted", after["epoch"])


def test_what_tills_bring_back_is_as_if_it_had_never_been_lost(ledger: Losing) -> None:
    """Sales, what took them back, refusals and tombstones: each with the very same answer, booked
    once, in whatever order tills offer them, and offered twice."""
    own, other = keeper(ledger), keeper(ledger, "shop-b")
    families = [ledger.family(RETURNS) for _ in range(4)]
    ledger.back_up()
    kept, voided, returned, undone = (visited(ledger, own, sub) for sub in families)
    assert own.send(kept.milk(6_000))["result"] == "posted"
    assert own.send(kept.milk(6_491))["result"] == "refused"
    sale = voided.milk(5_000)
    assert own.send(sale)["result"] == "posted"
    assert own.send(own.till.void(sale))["amount_minor"] == 5_000
    again = returned.milk(4_000)
    assert own.send(again)["result"] == "posted"
    part = second_undo.parts(again.payload["content"], [], [{"line": 1, "quantity": 1}])
    assert other.send(other.till.refund(again, {1: 1}, part))["amount_minor"] == 4_000
    ledger.now.forward(seconds=1)
    gone, late = undone.milk(3_000), undone.milk(2_000)
    assert own.send(gone)["result"] == "posted"
    assert own.send(own.till.reversal(gone))["amount_minor"] == 3_000
    assert own.send(own.till.reversal(late, "not_found"))["amount_minor"] == 0
    left = [6_000, 12_000, 12_000, 12_000]
    ledger.lose()
    assert other.offer()["results"] == [{"result": "staged"}]
    assert {each["result"] for each in own.offer()["results"]} == {"staged"}
    sequences = [
        strict_json(unread(each["record"], None).payload)["sequence"] for each in own.items
    ]
    held = own.offer([])["held"]
    assert all(any(low <= each <= high for low, high in held) for each in sequences)
    assert own.offer()["held"] == held and held == sorted(held)
    ledger.open()
    assert own.again() and other.again()
    assert [balance(ledger, own.till, sub) for sub in families] == left
    assert {each["result"] for each in own.offer()["results"]} <= {"held", "placed"}
    asked = [own.till.attempt(each.payload["id"])[0] for each in (sale, gone, late)]
    assert asked == ["posted", "reversed", "reversed"]
    # The late original meets its tombstone, and nothing is given back twice.
    assert own.till.outcome(late)["result"] == "reversed"
    refund = other.till.refund(again, {1: 1}, part)
    assert other.till.outcome(refund)["refusal"]["code"] == "already_undone"
    assert [balance(ledger, own.till, sub) for sub in families] == left
    ledger.close("returns")
    manifest = own.till.get("/v1/settlements").json()["settlements"][0]["manifest"]
    told = own.till.signed(manifest, "carepos-manifest+jws")
    assert told["redeemed"] == {"count": 4, "amount_minor": 18_000}
    assert told["reversed"] == {"count": 3, "amount_minor": -12_000}


def test_a_till_that_was_enrolled_since_comes_back(ledger: Losing) -> None:
    """By its certificate: the same name, number and store, and what it sold; the next number is far
    above, so that no two receipts bear one."""
    sub = ledger.family(RETURNS)
    ledger.back_up()
    own = keeper(ledger)
    assert own.send(visited(ledger, own, sub).milk(6_000))["result"] == "posted"
    ledger.lose()
    assert {each["result"] for each in own.offer()["results"]} == {"staged"}
    ledger.open()
    certificate = own.till.get("/v1/terminal").json()["certificate"]
    keys = trusted_keys(ledger.url, ledger.activation("shop-a").split(".")[2])[1]
    own.till.ledger_keys[:] = keys
    fresh = read(certificate, "carepos-certificate+jws", keys)
    assert {**fresh, "issued_at": ""} == {**own.till.certificate, "issued_at": ""}
    assert balance(ledger, own.till, sub) == 6_000 and own.again()
    number = own.till.certificate["terminal_no"]
    assert till_of(ledger).certificate["terminal_no"] > number + 100 - 1


def test_what_nobody_brings_back_can_be_spent_again(ledger: Losing) -> None:
    """Its till comes late: it is heard too, and does not fit any more: an exception, not a loss of
    somebody else's."""
    own, other = keeper(ledger), keeper(ledger, "shop-b")
    sub = ledger.family(RETURNS)
    ledger.back_up()
    assert own.send(visited(ledger, own, sub).milk(6_000))["result"] == "posted"
    spent = own.items[:]
    ledger.lose()
    ledger.open()
    other.till.ledger_keys[:] = trusted_keys(ledger.url, ledger.activation("shop-a").split(".")[2])[
        1
    ]
    there = visited(ledger, other, sub)
    sale = there.redeem([line(12_000)], [entry(there.voucher(), 12_000)])
    assert other.till.outcome(sale)["result"] == "posted"
    assert own.offer(spent)["results"] == [{"result": "exception"}]
    assert balance(ledger, other.till, sub) == 0


def test_a_till_and_its_copy_each_bring_back_their_own(ledger: Losing) -> None:
    """Both count with the same numbers. Told whose records those are, each offers what the ledger
    lacks of its own line; what was decided is booked, and the terminal is forked."""
    own = keeper(ledger)
    families = [ledger.family(RETURNS) for _ in range(2)]
    ledger.back_up()
    copy, start = Keeper(replace(own.till), own.certificates), own.till.prev
    assert own.send(visited(ledger, own, families[0]).milk(6_000))["result"] == "posted"
    ledger.lose()
    ledger.open()
    keys = trusted_keys(ledger.url, ledger.activation("shop-a").split(".")[2])[1]
    own.till.ledger_keys = copy.till.ledger_keys = keys
    assert copy.send(visited(ledger, copy, families[1]).milk(5_000))["result"] == "posted"
    lines = [unread(each.items[0]["record"], "carepos-record+jws").digest for each in (own, copy)]
    last = own.till.sequence
    for asks in (own, copy):
        told = asks.offer([])
        assert (told["held"], told["ends"]) == ([[1, last]], [[lines[1]]])
        assert not told["forked"]
    before = own.offer([], last=last - 1)
    assert (before["held"], before["ends"]) == ([[1, last - 1]], [[start]])
    behind = own.offer([], after=last - 1)
    assert (behind["held"], behind["ends"]) == ([[last, last]], [[lines[1]]])
    assert own.offer()["results"] == [{"result": "placed"}]
    for asks in (own, copy):
        told = asks.offer([])
        assert (told["held"], told["ends"]) == ([[1, last]], [sorted(lines)])
        assert told["forked"]
    assert own.again() and copy.again()
    balances = [balance(ledger, till_of(ledger), sub) for sub in families]
    assert balances == [6_000, 7_000]
    assert own.till.outcome(own.till.start())["reason"] == "terminal_forked"


def test_evidence_must_be_signed_twice_and_hang_together(ledger: Losing) -> None:
    """Another till's, another record's answer, a `held`, and a key of nobody's."""
    own, other = keeper(ledger), keeper(ledger, "shop-b")
    there = visited(ledger, own, ledger.family(RETURNS))
    first, second = there.milk(1_000), there.milk(2_000)
    for sent in (first, second):
        assert own.send(sent)["result"] == "posted"
    one, two = own.items
    mixed = {"record": one["record"], "outcome": two["outcome"]}
    forged = Key.new().sign(
        "carepos-outcome+jws", read(one["outcome"], "carepos-outcome+jws", own.till.ledger_keys)
    )
    wrong = {"record": one["record"], "outcome": forged}
    told = own.offer([mixed, wrong, one])["results"]
    assert [each.get("problem", {}).get("code") for each in told] == [
        "malformed", "signature_invalid", None,
    ]  # fmt: skip
    assert told[2] == {"result": "held"}
    [stranger] = other.offer([one])["results"]
    assert stranger["problem"]["code"] == "signature_invalid"
    assert refused(other.post([], certificates=own.certificates))["status"] in (400, 401)
    assert refused(own.post([], certificates=[]))["code"] == "malformed"
