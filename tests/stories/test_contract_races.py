"""What must hold when tills ask at the same moment: docs/identity.md sections 5, 7 and 8, and
docs/offline.md sections 3, 4 and 8, over HTTP.

Every test runs against a ledger written from the page alone, against the product's on SQLite, and
against two servers of the product's on one PostgreSQL database, each of which serves one till.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.contract_ledgers import VALUE, ContractLedger, care, two_servers
from tests.contract_office import Office, acting_office, collect, office, tried
from tests.contract_offline import FLOOR, HALF, alone, pack
from tests.contract_till import ContractTill
from tests.contract_visit import LEDGERS, entry, line, till_of, visit
from tests.vectors import second_undo


@pytest.fixture(scope="module", params=[*LEDGERS, "two servers on PostgreSQL"])
def ledger(request: pytest.FixtureRequest) -> Iterator[ContractLedger]:
    if request.param in LEDGERS:
        with LEDGERS[request.param]() as made:
            yield made
        return
    cluster = request.getfixturevalue("postgres_cluster")
    with cluster.fresh_database() as url, two_servers(url) as made:
        yield made


@pytest.fixture(scope="module")
def till(ledger: ContractLedger) -> ContractTill:
    return till_of(ledger)


@pytest.fixture(scope="module")
def neighbour(ledger: ContractLedger) -> ContractTill:
    """A terminal of another merchant, at the other server where there are two."""
    return till_of(ledger, "shop-w", ledger.other_url)


@pytest.fixture(scope="module")
def usual(ledger: ContractLedger) -> Office:
    """An office that takes care codes and cards, and lets nobody act."""
    return office(ledger)


def test_a_code_at_many_tills_at_once_opens_one_visit(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """A picture that was passed on: whoever was first has it, looked up or redeemed."""
    sub = usual.family()
    token = usual.code(sub)
    visits = [usual.visit(place, sub, token) for place in (till, neighbour) * 4]
    sales = [there.milk(1) for there in visits]

    def use(n: int) -> bool:
        if n < 4:
            body = {"token": token}
            return bool(visits[n].till.post("/v1/vouchers/lookup", body).status_code == 200)
        return bool(visits[n].till.outcome(sales[n])["result"] == "posted")

    with ThreadPoolExecutor(8) as pool:
        good = list(pool.map(use, range(8)))
    assert good in ([True, False] * 4, [False, True] * 4)


def test_tries_at_the_same_time_are_counted_one_by_one(
    usual: Office, till: ContractTill, neighbour: ContractTill
) -> None:
    """Twelve guesses at once are still five."""
    card = usual.printed(usual.family())
    with ThreadPoolExecutor(12) as pool:
        places = [till, neighbour] * 6
        answers = list(pool.map(lambda place: tried(place, card, "1111"), places))
    wrong = [("pin_wrong", left) for left in (1, 2, 3, 4)]
    assert sorted(answers, key=str) == sorted([*wrong, *[("pin_locked", None)] * 8], key=str)


def test_one_actor_at_many_tills_at_once_stays_within_the_limit(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Eight households, eight redemptions at the same time: what was promised is kept."""
    own = acting_office(ledger)
    places = [till, neighbour] * 4
    visits = [collect(own, place, own.family(), "helper") for place in places]
    sales = [there.milk(3_000) for there in visits]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda there, sale: there.till.outcome(sale), visits, sales))
    results = sorted(outcome["result"] for outcome in outcomes)
    assert results == ["posted"] * 3 + ["refused"] * 5
    codes = {each["refusal"]["code"] for each in outcomes if each["result"] == "refused"}
    assert codes == {"acting_limit"}


def test_two_actors_at_once_stay_within_the_limit_of_a_household(
    ledger: ContractLedger, till: ContractTill, neighbour: ContractTill
) -> None:
    """Each with another voucher of the same household, so that no balance is in the other's way."""
    own = acting_office(ledger)
    voucher = {**VALUE, "programme": own.name}
    for n in range(6):
        sub = ledger.family(voucher, voucher)
        visits = [
            collect(own, place, sub, f"{who}-{n}")
            for place, who in ((till, "son"), (neighbour, "daughter"))
        ]
        sales = [
            there.redeem([line()], [entry(there.voucher(which), 4_000)])
            for which, there in enumerate(visits)
        ]
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda there, sale: there.till.outcome(sale), visits, sales))
        assert sorted(each["result"] for each in outcomes) == ["posted", "refused"]
        assert {"code": "acting_limit", "at": None} in [each.get("refusal") for each in outcomes]


def test_one_sale_given_back_by_many_tills_at_once_comes_back_once(
    ledger: ContractLedger,
) -> None:
    """A void of the till that sold and seven refunds of its merchant: one of them is posted."""
    ledger.programme("returns", refunds={"window_s": 3_600, "grace_s": 0})
    till = till_of(ledger)
    there = visit(ledger, till, {**VALUE, "programme": "returns"})
    sale = there.milk(6_000, programme="returns")
    assert till.outcome(sale)["result"] == "posted"
    others = [till_of(ledger, "shop-b", ledger.other_url) for _ in range(7)]
    part = second_undo.parts(sale.payload["content"], [], [{"line": 1, "quantity": 1}])
    sent = [(till, till.void(sale)), *((each, each.refund(sale, {1: 1}, part)) for each in others)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda pair: pair[0].outcome(pair[1]), sent))
    assert sorted(each["result"] for each in outcomes) == ["posted"] + ["refused"] * 7
    codes = {each["refusal"]["code"] for each in outcomes if each["result"] == "refused"}
    assert codes == {"already_undone"} and there.balance() == 12_000


def test_many_outages_that_end_at_once_lose_what_was_agreed(
    ledger: ContractLedger,
) -> None:
    """Eight tills of one code come back together: the voucher pays once, the reserve what it holds
    and no minor unit more, and the till with the allotment is paid in full."""
    ledger.programme("dairy")
    ledger.programme("outages", offline={**HALF, "floor": FLOOR})
    ledger.reserve("outages", 10_000)
    there = alone(ledger, till_of(ledger), "outages")
    urls = [ledger.url, ledger.other_url] * 4
    shops = [replace(there, pack=pack(till_of(ledger, "shop-a", url))) for url in urls]
    sold = [there.sell(6_000, there.use(6_000)), *(shop.sell(5_000) for shop in shops)]
    with ThreadPoolExecutor(9) as pool:
        told = list(pool.map(lambda shop, pair: shop.both(*pair), [there, *shops], sold))
    assert (told[0]["result"], told[0]["amount_minor"]) == ("posted", 6_000)
    booked = [each for each in told if each["result"] != "exception"]
    assert sum(each["amount_minor"] for each in booked) == 12_000
    assert sum(each.get("shortfall_minor", 0) for each in booked) == 9_000
    assert len(booked) == 4 and there.balance() == 0


def test_one_allotment_given_back_and_drawn_on_at_once(
    ledger: ContractLedger, neighbour: ContractTill
) -> None:
    """Whoever is first has it: never more is spent than the voucher held."""
    ledger.programme("dairy")
    ledger.programme("given-back", offline=HALF)
    till = till_of(ledger)
    there = alone(ledger, till, "given-back")
    back, token = there.give_back(1), care(ledger, there.sub)
    found = neighbour.lookup(token)
    part = [entry(there.voucher(), 9_000)]
    sale = neighbour.redeem(found, token, [line(9_000)], part, programme="given-back")
    with ThreadPoolExecutor(2) as pool:
        given = pool.submit(till.outcome, back)
        sold = pool.submit(neighbour.outcome, sale)
    assert given.result()["amount_minor"] == 6_000
    taken = sold.result().get("amount_minor", 0)
    assert taken in (0, 9_000) and there.balance() == 12_000 - taken
