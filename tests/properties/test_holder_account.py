"""What a beneficiary is shown is what the book says, after every history of sales and reversals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from carepos_ledger import schema
from carepos_ledger.holder_account import HolderAccounts
from carepos_ledger.uses import Uses
from tests.ledger.rig import Holder, Rig, open_rig
from tests.properties.ledger_model import TABLES
from tests.properties.test_ledger_machine import LedgerMachine, profile


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("accounts")
    if request.param == "sqlite":
        with open_rig(f"sqlite:///{folder / 'ledger.db'}", folder, settled=False) as opened:
            yield opened
        return
    cluster = request.getfixturevalue("postgres_cluster")
    with cluster.fresh_database() as url, open_rig(url, folder, settled=False) as opened:
        yield opened


MOVES = (
    "redeem", "redeem", "redeem", "redeem_too_much", "reverse", "reverse",
    "reverse_before_the_original", "retry_the_same_bytes", "same_id_other_content",
    "same_id_same_content_in_another_record", "another_tills_id", "another_household",
    "token_of_another_family", "suspend_or_let_in", "write_without_sending", "send_a_batch",
    "time_passes",
)  # fmt: skip


def play(machine: LedgerMachine, chance: random.Random, steps: int) -> None:
    """`steps` of the ledger machine's own moves, as its rules would choose them."""
    for _ in range(steps):
        move, n = chance.choice(MOVES), chance.randrange(100)
        share = chance.randint(1, 10)
        if move == "redeem":
            machine.redeem(n, share, chance.randint(1, 2_000), chance.randint(0, 3))
        elif move == "redeem_too_much":
            machine.redeem_too_much(n, chance.randint(1, 5))
        elif move == "reverse_before_the_original":
            machine.reverse_before_the_original(n, share)
        elif move == "another_household":
            if len(machine.holders) < 6:
                machine.another_household(chance.randint(1, 20_000), chance.randint(1, 40), n)
        elif move == "token_of_another_family":
            if len(machine.holders) > 2:
                machine.token_of_another_family(n)
        elif move == "suspend_or_let_in":
            machine.suspend_or_let_in(n % 2)
        elif move == "write_without_sending":
            machine.write_without_sending(n, share, chance.random() < 0.5)
        elif move == "send_a_batch":
            if len(machine.waiting) > 1:
                machine.send_a_batch(chance, chance.randint(0, 4))
        elif move == "time_passes":
            machine.time_passes(chance.randint(1, 14))
        elif machine.sent and move == "retry_the_same_bytes":
            machine.retry_the_same_bytes(n, chance.random() < 0.5)
        elif machine.sent and move in ("same_id_other_content", "another_tills_id"):
            getattr(machine, move)(n, share)
        elif machine.sent:
            getattr(machine, move)(n)


def check(machine: LedgerMachine) -> None:
    for holder in machine.holders:
        check_account(machine, holder)
    feed = Uses(machine.rig.database).after(0).uses
    told: dict[str, int] = {}
    for use in feed:
        told[use["sub"]] = told.get(use["sub"], 0) + use["amount_minor"]
    for holder in machine.holders:
        purses = [machine.model.purses[voucher] for voucher in holder.vouchers]
        issued = sum(_issued_money(machine, voucher) for voucher in holder.vouchers)
        ended = sum(_ended(machine, voucher)[0] for voucher in holder.vouchers)
        assert told.get(holder.sub, 0) == issued - ended - sum(purse.money for purse in purses)


def _used(machine: LedgerMachine, voucher: str) -> tuple[int, int]:
    """(money, quantity) that the model's sales took of it and that did not come back."""
    rests = [sale.rest().get(voucher, (0, 0)) for sale in machine.model.sales.values()]
    return (sum(minor for minor, _ in rests), sum(quantity for _, quantity in rests))


def _ended(machine: LedgerMachine, voucher: str) -> tuple[int, int]:
    """(money, quantity) of it that went back to the programme."""
    gone = [
        (minor * times, quantity * times)
        for (held, minor, quantity), times in machine.model.forfeits.items()
        if held == voucher
    ]
    return (sum(minor for minor, _ in gone), sum(quantity for _, quantity in gone))


def _issued_money(machine: LedgerMachine, voucher: str) -> int:
    """What issuing set aside, summed here from the book's own entries."""
    entries, postings = schema.entries.c, schema.postings.c
    with machine.rig.database.read() as connection:
        return sum(
            connection.scalars(
                select(entries.amount)
                .join(schema.postings, postings.posting == entries.posting)
                .where(entries.holder == voucher, entries.unit == "CNY", postings.kind == "issue")
            )
        )


def check_account(machine: LedgerMachine, holder: Holder) -> None:
    accounts = HolderAccounts(machine.rig.database, machine.rig.now)
    account = accounts.read(holder.bucket, holder.beneficiary)
    assert {each.voucher for each in account.vouchers} == set(holder.vouchers)
    for each in account.vouchers:
        # The model was told of every answer and knows of no table.
        purse = machine.model.purses[each.voucher]
        assert each.left == (purse.money if purse.unit is None else purse.quantity)
        used_minor, used_quantity = _used(machine, each.voucher)
        assert each.used == (used_minor if purse.unit is None else used_quantity)
        assert each.ended == _ended(machine, each.voucher)[purse.unit is not None]
        assert each.issued - each.used - each.ended == each.left
    booked = {
        digest: amount
        for digest, amount in machine.model.redeemed.items()
        if _mine(machine, digest, holder)
    }
    assert sorted(use.amount_minor for use in account.uses) == sorted(booked.values())
    standing = {
        digest: sale
        for digest, sale in machine.model.sales.items()
        if sale.stands and _mine(machine, digest, holder)
    }
    assert {use.posting for use in account.uses if not use.is_undone} == standing.keys()
    for use in account.uses:
        assert use.back_minor == machine.model.sales[use.posting].back_minor
    for use in account.uses:
        assert use.amount_minor == sum(part.programme_minor for part in use.parts)


def _mine(machine: LedgerMachine, digest: str, holder: Holder) -> bool:
    content = machine.model.records[digest].payload["content"]
    return {entry["voucher"] for entry in content["allocation"]} <= set(holder.vouchers)


@given(seed=st.randoms(use_true_random=False), steps=st.integers(1, 30))
@settings(
    max_examples=max(10, profile.max_examples // 5),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_pages_show_what_the_book_says(rig: Rig, seed: random.Random, steps: int) -> None:
    """Left is what the voucher holds; issued less used is left; each redemption stands there with
    what the merchant was credited, a reversed one as reversed; the feed sums to the same."""
    machine = LedgerMachine(rig)
    play(machine, seed, steps)
    machine.model.check(rig.tables(TABLES))
    check(machine)


def test_the_check_sees_a_wrong_sum(rig: Rig, tmp_path: Path) -> None:
    """It is no check if it can't fail: a voucher's row that lost a fen is found."""
    machine = LedgerMachine(rig)
    play(machine, random.Random(7), 12)
    check(machine)
    vouchers = schema.vouchers
    with rig.database.write() as connection:
        connection.execute(
            vouchers.update()
            .where(vouchers.c.terms.is_(None))
            .values(available_minor=vouchers.c.available_minor + 1)
        )
    with pytest.raises(AssertionError):
        check(machine)
