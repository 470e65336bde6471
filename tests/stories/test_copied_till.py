"""A till that was copied, or put back to what it was (FG-7, FG-8, T-7): found, and booked once.

What becomes of the records of the other line is for people to decide; here it is that nothing of
it is booked, and that the office is told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from carepos import Refused
from carepos_ledger import schema
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from carepos_ledger.problems import Problem
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.stories.test_offline import booked
from tests.world import World


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[World]:
    with offline_world(tmp_path, database_url) as found:
        yield found


def told(made: World) -> list[str]:
    return [str(each["kind"]) for each in made.ledger.terminals.alarms(0)]


def test_t_7_a_till_that_was_put_back_is_found_at_once(made: World) -> None:
    """T-7, FG-7: snapshot, sell, put back, sell: the ids are others, the first word of the one that
    was put back contradicts what was uploaded, so the office is told; what is booked is what the
    two have as confirmed, each once."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    put_back = shop.copied("put-back")
    assert shop.sell(family, 3_000).state == "confirmed"
    assert "fork" not in told(made)
    put_back.sell(family, 3_000)
    assert "fork" in told(made)
    sold = {a.id: a for each in (shop, put_back) for a in each.till.journal.attempts("confirmed")}
    assert put_back.newest().id != shop.newest().id
    assert booked(shop) == sum(each.amount_minor for each in sold.values())


def test_fg_7_a_copy_that_sold_without_a_network_is_booked_once(made: World) -> None:
    """FG-7: both gave out what was set aside once. That is the extra spend per copy that nobody can
    prevent; of the two lines one is booked, and the other not one minor unit."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    twin = shop.copied("twin")
    before = booked(shop)
    for each in (shop, twin):
        each.cable.is_out = True
        assert each.sell(family, 6_000).state == "provisional"
        each.cable.is_out = False
    for each in (shop, twin, shop, twin):
        each.till.settle()
    assert shop.newest().state == "confirmed" and booked(shop) == before + 6_000
    assert twin.newest().state in ("provisional", "held") and "fork" in told(made)


def test_a_copy_that_was_found_gives_out_nothing_more(made: World) -> None:
    """Once the ledger has told it, it sells nothing without a network either, also when it starts
    again; what it sold before still goes up."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    twin = shop.copied("twin")
    for each in (shop, twin):
        each.cable.is_out = True
        assert each.sell(family, 1_000).state == "provisional"
        each.cable.is_out = False
    shop.till.settle()
    twin.till.settle()
    assert twin.newest().state == "held"
    twin.cable.is_out = True
    for _ in range(2):
        refusal = twin.offer(family, 1_000).proposal.refusal
        assert refusal is not None and refusal.code == "terminal_forked"
        twin.restart()
        twin.cable.is_out = True
    twin.cable.is_out = False
    twin.till.settle()
    assert twin.newest().state == "held" and shop.newest().state == "confirmed"


@pytest.mark.parametrize("status", ["forked", "revoked"])
@pytest.mark.parametrize("told_of", ["start", "day_report"])
def test_what_the_ledger_signed_of_a_till_survives_a_restart(
    made: World, status: str, told_of: str
) -> None:
    """Also where it held no sale: a till that heard of it with its start alone, or with its day
    report, sells nothing when it starts again without a network."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    shop.till.settle()
    if status == "revoked":
        made.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    else:
        shop.copied("twin").till.settle()
    if told_of == "start":
        shop.restart()
        shop.till.settle()
    else:
        shop.till.close_day()
    assert shop.till.journal.count("held") == 0
    for _ in range(2):
        shop.cable.is_out = True
        refusal = shop.offer(family, 1_000).proposal.refusal
        assert refusal is not None and refusal.code == f"terminal_{status}"
        shop.restart()


def test_a_till_that_is_let_in_again_sells_without_a_network(made: World) -> None:
    """A ledger that was restored knows nothing of a revocation, and answers the till: from then on
    it is stopped no longer, and what was held before says nothing any more."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    terminal = shop.till.enrolment.terminal
    made.ledger.terminals.set_status(terminal, "revoked")
    day = shop.till.close_day()
    assert not day.acknowledged and shop.till.journal.stopped_for() == "terminal_revoked"
    with made.ledger.database.write() as connection:
        table = schema.terminals
        connection.execute(
            update(table).where(table.c.terminal == terminal).values(status="active")
        )
    made.now.forward(minutes=1)
    shop.offer(family, 1_000)
    assert shop.till.journal.stopped_for() is None
    shop.restart()
    shop.till.settle()
    shop.cable.is_out = True
    assert shop.sell(family, 1_000).state == "provisional"


def test_a_sale_that_the_ledger_holds_is_not_accepted(made: World) -> None:
    """It has answered: people decide this sale, and its goods stay until they did."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    offer = shop.offer(family, 1_000)
    made.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").held == "terminal_revoked"
    shop.cable.is_out = True
    assert not shop.till.can_accept("S1")
    with pytest.raises(Refused) as refused:
        shop.till.accept("S1")
    assert refused.value.code == "terminal_revoked"


def test_an_acceptance_of_what_people_booked_is_posted(made: World) -> None:
    """Nobody can refuse it any more: till and ledger would say two things of one sale."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    before, offer = booked(shop), shop.offer(family, 1_000)
    made.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    shop.cable.loses = "answer"
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    rulings = HeldRulings(made.ledger.database, made.ledger.desk._book, made.now)
    held = HeldList(made.ledger.database)
    [sale] = held.listed()
    rulings.post(sale["n"], operator="wang")
    assert shop.till.accept("S1").state == "accepted"
    shop.till.answer_goods("S1", handed_over=True)
    shop.cable.loses = None
    shop.till.settle()
    [accepted] = [each for each in held.listed() if each["kind"] == "accept_offline"]
    with pytest.raises(Problem, match="already_exists_differently"):
        rulings.refuse(accepted["n"], "not_accepted", "no", operator="wang")
    rulings.post(accepted["n"], operator="wang")
    shop.till.settle()
    assert shop.newest().state == "confirmed" and booked(shop) == before + 1_000


def test_fg_8_two_that_upload_at_once_are_one_line_and_no_other(made: World) -> None:
    """FG-8: original and copy send at the same moment: exactly one of the two sales is booked."""
    shop = OfflineShop(made)
    family = shop.at_home(12_000)
    shop.learn()
    twin = shop.copied("twin")
    before = booked(shop)
    for each in (shop, twin):
        each.cable.is_out = True
        assert each.sell(family, 2_000).state == "provisional"
        each.cable.is_out = False
    begin = threading.Barrier(2)

    def upload(each: OfflineShop) -> None:
        begin.wait()
        each.till.settle()

    threads = [threading.Thread(target=upload, args=(each,)) for each in (shop, twin)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = [each.newest().state for each in (shop, twin)]
    assert states.count("confirmed") == 1 and booked(shop) == before + 2_000
