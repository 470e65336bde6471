"""Homes that operators pin, and homes from sales of before (docs/offline.md §4)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import select

from carepos.errors import Malformed
from carepos_ledger import database, homes, schema
from carepos_ledger.erasure import Erasure
from carepos_ledger.held import export
from carepos_ledger.person import Who
from carepos_ledger.pinning import Pinning, Wish
from tests.ledger.rig import IMPORT_KEY_ID, ISSUER, PROGRAMME, RULES, Holder, Rig, Signer, code
from tests.ledger.test_allotments import DAY, OFFLINE, Shop

STORE, FAR = "zhou-shop", "zhou-far"


@pytest.fixture
def shop(rig: Rig) -> Shop:
    """Of two stores that the programme admits, both offline."""
    rig.programmes.admit_store(PROGRAMME, FAR)
    return Shop(rig)


@pytest.fixture
def pinning(rig: Rig) -> Pinning:
    return Pinning(rig.database)


def who(holder: Holder) -> Who:
    return Who(ISSUER, holder.sub, None, None)


def pin(pinning: Pinning, holder: Holder, store: str | None) -> str:
    [answer] = pinning.pin_many([Wish(who(holder), store)])
    return answer.result


def home(rig: Rig, holder: Holder) -> tuple[str, int] | None:
    table = schema.homes.c
    with rig.database.read() as connection:
        row = connection.execute(
            select(table.store, table.pinned).where(
                table.bucket == holder.bucket, table.beneficiary == holder.beneficiary
            )
        ).one_or_none()
    return None if row is None else (row.store, row.pinned)


def set_aside(shop: Shop, holder: Holder, till: Signer | None = None) -> int:
    [voucher] = shop.household(holder, till).vouchers
    return sum(each.amount_minor for each in voucher.allotments)


def test_a_household_that_never_redeemed_has_a_home(shop: Shop, pinning: Pinning) -> None:
    """Its voucher is set aside for the till of the store that an operator named; again it changes
    nothing, and what is held about the household says so."""
    holder = shop.rig.holder()
    assert pin(pinning, holder, STORE) == "created"
    assert set_aside(shop, holder) == 6_000
    assert pin(pinning, holder, STORE) == "exists"
    told = export(shop.rig.database, who(holder), shop.rig.now)
    assert (told["home_store"], told["home_pinned"]) == (STORE, True)
    assert pinning.by_store() == [
        {"store": STORE, "store_name": "周家超市 古州店", "households": 1, "pinned": 1}
    ]


def test_a_pinned_home_stays_wherever_the_household_redeems(shop: Shop, pinning: Pinning) -> None:
    """And follows again once it is let go: not before its next redemption elsewhere."""
    rig, holder, far = shop.rig, shop.rig.holder(), shop.rig.signer(FAR)
    pin(pinning, holder, STORE)
    assert shop.pay(holder, 100, far).result == "posted"
    assert home(rig, holder) == (STORE, 1)
    assert pin(pinning, holder, None) == "changed"
    assert pin(pinning, holder, None) == "exists" and home(rig, holder) == (STORE, 0)
    assert shop.pay(holder, 100).result == "posted" and home(rig, holder) == (STORE, 0)
    assert shop.pay(holder, 100, far).result == "posted"
    assert home(rig, holder) == (FAR, 0)


def test_a_home_that_followed_is_pinned_elsewhere(shop: Shop, pinning: Pinning) -> None:
    """No minor unit is set aside twice: what the till of before may still spend is its own until
    its date; then the other store's till gets the programme's share."""
    rig, holder, far = shop.rig, shop.rig.holder(), shop.rig.signer(FAR)
    assert shop.pay(holder, 2_000).result == "posted"
    assert set_aside(shop, holder) == 5_000
    assert pin(pinning, holder, FAR) == "changed"
    assert shop.pack()["households"]["count"] == 1  # as long as something is set aside there
    assert set_aside(shop, holder, far) == 0
    refused = shop.pay(holder, 5_001, far)
    assert code(refused) == "reserved_elsewhere"
    assert shop.pay(holder, 4_000, shop.till).result == "posted"
    rig.now.forward(seconds=7 * DAY)
    assert shop.pack()["households"]["count"] == 0
    assert set_aside(shop, holder, far) == 3_000
    sums = rig.office.programme_sums(PROGRAMME)
    assert (sums.available_minor, sums.allotted_minor) == (3_000, 3_000)


def test_households_are_named_by_sub_or_by_a_list(shop: Shop, pinning: Pinning) -> None:
    """By the keyed hash of a list's row as well; who is not known, and a store that is none, are
    refused by name and keep no other back."""
    rig = shop.rig
    one, other = rig.holder(), rig.holder()
    enrolled = schema.enrolments.c
    with rig.database.read() as connection:
        ref = connection.scalars(
            select(enrolled.ref).where(enrolled.beneficiary == other.beneficiary)
        ).one()
    answers = pinning.pin_many(
        [
            Wish(who(one), STORE),
            Wish(Who(ISSUER, "nobody", None, None), STORE),
            Wish(Who(ISSUER, None, IMPORT_KEY_ID, ref), FAR),
            Wish(Who("https://other.test", one.sub, None, None), STORE),
            Wish(Who(ISSUER, other.sub, None, None), "no-shop"),
        ]
    )
    assert [each.result for each in answers] == [
        "created", "refused", "created", "refused", "refused",
    ]  # fmt: skip
    assert answers[4].detail == "no such store" and one.sub not in str(answers)
    assert (home(rig, one), home(rig, other)) == ((STORE, 1), (FAR, 1))
    with pytest.raises(Malformed, match="twice"):
        pinning.pin_many([Wish(who(one), STORE), Wish(who(one), FAR)])


def test_a_dry_run_writes_nothing(shop: Shop, pinning: Pinning) -> None:
    """It answers as the real one would."""
    holder = shop.rig.holder()
    [answer] = pinning.pin_many([Wish(who(holder), STORE)], dry_run=True)
    assert answer.result == "created" and home(shop.rig, holder) is None


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"person": {"iss": ISSUER, "sub": "s"}},
        {"person": {"iss": ISSUER, "sub": "s"}, "store": "Not A Name"},
        {"person": {"iss": ISSUER, "sub": "s"}, "store": 1},
        {"person": {"iss": ISSUER}, "store": STORE},
        {"person": "s", "store": STORE},
        {"person": {"iss": ISSUER, "sub": "s"}, "store": STORE, "note": ""},
    ],
)
def test_what_is_no_wish_is_malformed(value: Any) -> None:
    """Nothing of what was sent is repeated."""
    with pytest.raises(Malformed) as refused:
        Wish.from_json(value, "homes[1]")
    assert "Not A Name" not in str(refused.value)


def test_a_redemption_that_is_being_decided_does_not_undo_a_pin(
    shop: Shop, pinning: Pinning
) -> None:
    """It read the home before it was pinned, and writes after: the pin stands."""
    rig, holder = shop.rig, shop.rig.holder()
    assert shop.pay(holder, 100, rig.signer(FAR)).result == "posted"
    pin(pinning, holder, STORE)
    with rig.database.write() as connection:
        homes.write(connection, {(holder.bucket, holder.beneficiary): FAR})
    assert home(rig, holder) == (STORE, 1)


def test_pins_and_redemptions_at_once_end_pinned(shop: Shop, pinning: Pinning) -> None:
    """Of many households, in any order of the two: each is pinned, and nobody is refused."""
    rig, far = shop.rig, shop.rig.signer(FAR)
    holders = [rig.holder() for _ in range(12)]
    envelopes = [rig.redeem(far, holder, 100) for holder in holders]
    failed: list[BaseException] = []

    def doing(work: Any) -> Any:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 (told by the test's own thread)
                failed.append(error)

        return threading.Thread(target=run)

    def redeem() -> None:
        for each in envelopes:
            rig.send_one(each)

    wishes = [Wish(who(each), STORE) for each in reversed(holders)]
    threads = [doing(redeem), *(doing(lambda: pinning.pin_many(wishes)) for _ in range(2))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == [] and {home(rig, each) for each in holders} == {(STORE, 1)}


# ── a programme that began to work offline ─────────────────────────────────────────────────────


def sold_before(rig: Rig) -> tuple[Signer, Signer]:
    """Tills of both stores, in a programme that does not work offline yet."""
    rig.programmes.admit_store(PROGRAMME, FAR)
    return rig.signer(), rig.signer(FAR)


def begin(rig: Rig) -> None:
    rig.programmes.put_programme({**RULES, "offline": OFFLINE})


def steps(pinning: Pinning, *, dry_run: bool = False) -> int:
    noted, bucket = 0, 0
    while True:
        step = pinning.from_sales(bucket, dry_run=dry_run)
        noted += step.homes
        if step.next_bucket is None:
            return noted
        bucket = step.next_bucket


def test_homes_are_noted_from_sales_of_before(rig: Rig, pinning: Pinning) -> None:
    """The store of the latest redemption, of whoever has no home yet; one that was pinned stays;
    who never redeemed has none. Again it changes nothing."""
    near, far = sold_before(rig)
    one, other, pinned, idle = (rig.holder(bucket=n) for n in (0, 127, 128, 4095))

    def pay(holder: Holder, till: Signer) -> None:
        assert rig.send_one(rig.redeem(till, holder, 100)).result == "posted"
        rig.now.forward(seconds=1)

    pay(one, near)
    pay(one, far)
    pay(other, far)
    pay(other, near)
    pay(pinned, near)
    pin(pinning, pinned, FAR)
    assert steps(pinning) == 0  # no programme works offline
    begin(rig)
    assert home(rig, one) is None and steps(pinning, dry_run=True) == 2
    assert home(rig, one) is None
    assert steps(pinning) == 2 and steps(pinning) == 0
    assert [home(rig, each) for each in (one, other, pinned, idle)] == [
        (FAR, 0), (STORE, 0), (FAR, 1), None,
    ]  # fmt: skip


def test_nobody_who_was_erased_gets_a_home(rig: Rig, pinning: Pinning) -> None:
    """Their vouchers' names lead to nobody, and must not begin to."""
    near, _ = sold_before(rig)
    holder = rig.holder()
    assert rig.send_one(rig.redeem(near, holder, 12_000)).result == "posted"
    begin(rig)
    Erasure(rig.database, rig.now).erase(who(holder), forfeit=True, operator="o")
    assert steps(pinning) == 0 and rig.counts().get("homes") is None
    [answer] = pinning.pin_many([Wish(who(holder), STORE)])
    assert answer.result == "refused"


def test_a_home_of_a_slice_is_not_lost_to_a_redemption(
    rig: Rig, pinning: Pinning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who redeems elsewhere while a slice is noted is at home there: that is later."""
    near, far = sold_before(rig)
    holder = rig.holder(bucket=7)
    assert rig.send_one(rig.redeem(near, holder, 100)).result == "posted"
    begin(rig)
    later = rig.redeem(far, holder, 100)
    real = database.insert_or_ignore

    def between(*args: Any) -> Any:
        # Another transaction may commit between the reading and the writing, but on SQLite, which
        # has one writer.
        if not rig.database.is_sqlite:
            assert rig.send_one(later).result == "posted"
        return real(*args)

    monkeypatch.setattr("carepos_ledger.pinning.insert_or_ignore", between)
    assert steps(pinning) == 1
    assert rig.send_one(later).result == "posted"
    assert home(rig, holder) == (FAR, 0)
