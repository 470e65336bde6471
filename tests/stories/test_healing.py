"""INV-9, FI-1, FC-8 with real servers: a backup is restored, tills report by themselves, the ledger
is opened, and nothing is paid twice or forgotten."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carepos import Line, NotDecided, Refused, ReturnedLine, Till
from carepos.client import Client, Transport
from carepos.keys import SigningKey
from carepos.settlement_commands import fetch
from carepos_ledger import evidence_rows, healing
from carepos_ledger.held_list import HeldList
from carepos_ledger.held_rulings import HeldRulings
from tests.ledger.loss import comparable
from tests.postgres_cluster import PostgresCluster
from tests.stories.offline_shop import OfflineShop
from tests.stories.restorable import Restorable, confirmed, restorable
from tests.world import PROGRAMME, RICE, Family, milk

OFFLINE = {
    "allotment_permille": 500, "spend_s": 259_200, "upload_s": 345_600, "pack_age_s": 259_200,
    "floor": None, "stored_sum_minor": 1_000_000, "stored_count": 500, "online_permille": 0,
}  # fmt: skip
REFUNDS = {"window_s": 1_209_600, "grace_s": 259_200}
ITEM = {
    "kind": "item", "categories": ["grain"], "quantity": 5_000,
    "terms": {"unit": "g", "cap_minor": 1_000, "fixed_minor": 0, "cap_quantity": 500},
}  # fmt: skip


@pytest.fixture
def house(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest
) -> Iterator[Restorable]:
    def cluster() -> PostgresCluster:
        found: PostgresCluster = request.getfixturevalue("postgres_cluster")
        return found

    with restorable(tmp_path, database_url, cluster) as made:
        rules = {**PROGRAMME, "refunds": REFUNDS, "offline": OFFLINE}
        made.world.ledger.programmes.put_programme(rules)
        yield made


def sells(till: Till, family: Family, checkout: str, line: Line | int) -> str:
    """The state of a sale of one line."""
    lines = [milk(line) if isinstance(line, int) else line]
    sale = till.redeem(till.propose(family.token(), lines), checkout=checkout, cashier="c01")
    return sale.state


class Crash(Exception):
    """The till's process ended here."""


def crashing(point: str) -> Any:
    def reached(passed: str) -> None:
        if passed == point:
            raise Crash

    return reached


def fetched(house: Restorable, till: Till) -> Path:
    """The settlement files of the till's merchant, in a folder of the shop's."""
    folder, own = house.world.folder / "settlements", till.enrolment
    client = Client(
        Transport(own.url),
        terminal=own.terminal,
        ledger=own.ledger_keys.ledger,
        key=SigningKey.load(till.folder / "terminal.key"),
        now=house.world.now,
    )
    fetch(client, own, folder)
    client.close()
    return folder


def a_day(house: Restorable) -> tuple[Till, Till, Family, Family]:
    """What happens between backup and loss, by way of the counter; its tills and families."""
    world = house.world
    one, two = world.till("till-1"), world.till("till-2")
    dairy, rice = world.family(20_000), world.issue([world.row("rice", 1, **ITEM)])[0]
    spare = world.family(5_000)
    bag = Line(RICE, 1_000, "g", 1_500, "大米")
    assert sells(one, dairy, "A-1", 1_000) == sells(two, rice, "B-1", bag) == "confirmed"
    one.refresh_pack()
    two.refresh_pack()
    world.now.forward(minutes=10)
    house.back_up()
    assert sells(one, dairy, "A-2", 2_000) == sells(two, rice, "B-2", bag) == "confirmed"
    assert sells(two, dairy, "B-3", 500) == "confirmed"
    world.now.forward(minutes=10)
    one.refresh_pack()
    one.void("A-2", cashier="c01", reason="changed_mind")
    receipt = two.status("B-2").receipt_no
    two.refund(receipt, [ReturnedLine(1, 500)], cashier="c01", reason="returned")
    two.close_day()
    two.change_key()
    assert sells(two, dairy, "B-4", 700) == "confirmed"
    # More than is available: it draws on what was set aside for this till.
    assert sells(two, dairy, "B-5", 9_000) == "confirmed"
    world.ledger.settlement.close()
    world.now.forward(minutes=10)
    assert sells(one, spare, "A-4", 300) == "confirmed"
    world.ledger.settlement.close()
    fetched(house, one)
    one.close_day()
    assert sells(one, spare, "A-5", 40) == "confirmed"
    drawn = world.ledger.office.programme_sums(PROGRAMME["programme"]).allotted_minor
    assert drawn == 9_500 - 700 + 4_000
    return one, two, dairy, spare


def lose(house: Restorable) -> dict[str, list[dict[str, Any]]]:
    """The backup is restored and the heal begun; what the ledger was like before."""
    before = house.rows()
    house.restore()
    assert house.carepos("heal", "begin") == 0
    house.start()
    return before


def is_whole(house: Restorable, before: dict[str, list[dict[str, Any]]]) -> None:
    now = comparable(house.rows())
    for name, rows in comparable(before).items():
        assert now[name] == rows, name


def test_a_restored_ledger_is_as_if_nothing_was_lost(
    house: Restorable, capsys: pytest.CaptureFixture[str]
) -> None:
    """FI-1: sales, refusals, a void, a refund, day reports, a key change, what is set aside, two
    batches that were published. Tills report by themselves, resumed and repeated without harm;
    every row, every signed answer and every sum is what it was, and selling goes on."""
    one, two, dairy, spare = a_day(house)
    world = house.world
    three = world.till("till-3")
    assert sells(three, spare, "C-1", 60) == "confirmed"
    before = lose(house)

    with pytest.raises(NotDecided) as undecided:
        one.refresh_pack()
    assert (undecided.value.status, undecided.value.code) == (503, "ledger_healing")
    # It is as if there were no ledger: within what is set aside goods may leave.
    with pytest.raises(NotDecided) as waits:
        sells(one, spare, "A-6", 10)
    assert waits.value.code == "ledger_healing"
    assert sells(two, dairy, "B-6", 100) == "accepted"
    assert two.answer_goods("B-6", handed_over=True).state == "provisional"
    assert one.settle() == [] and world.ledger.keyring.epoch == 2
    assert house.carepos("close") == 1
    for till in (one, two, three):
        state = till.heal()
        assert (state.complete, state.sent, till.heal()) == (True, state.of, state)
        assert state.sent > 0
        said = till.heal_state.message("en")
        assert said is not None and f"{state.of} of {state.of} answers sent" in said
        assert till.enrolment.ledger_keys.epoch == 2
    assert house.carepos("heal", "manifest", str(world.folder / "settlements")) == 0
    assert house.carepos("heal", "status") == 0
    said = capsys.readouterr().out
    assert "3 of 3 tills have reported" in said
    # What the files paid, the tills have told of: it is the same answers that wait.
    assert "of 0 of them no till has told" in said
    [waiting] = re.findall("; ([0-9]+) answers wait to be booked", said)
    assert house.carepos("heal", "open", "--json") == 0
    opened = capsys.readouterr()
    assert opened.err.startswith(f"{waiting} answers are booked again …\n")
    assert "\n0 answers" not in opened.err
    report = json.loads(opened.out)
    assert report["excepted"] == [] and report["not_reported"] == []
    is_whole(house, before)
    for till in (one, two, three):
        assert confirmed(till) == house.posted(till)
        assert till.heal().message() is None
    assert world.ledger.office.programme_sums(PROGRAMME["programme"]).differences == ()

    # It goes on where it stood: nothing is paid again, and what is new is.
    two.settle()
    assert two.status("B-6").state == "confirmed"
    assert sells(one, spare, "A-6", 10) == "confirmed"
    one.void("A-5", cashier="c01", reason="changed_mind")
    [batch] = world.ledger.settlement.close()
    assert (batch.batch_no, batch.net_minor) == (3, 40 + 60 + 10 - 40 + 100)
    assert house.carepos("heal", "status") == house.carepos("heal", "exceptions") == 0


def test_a_sale_under_way_waits_for_the_opening(house: Restorable) -> None:
    """The ledger was restored while a sale was open: its state is not known, and no answer of a
    ledger that heals makes the till take it back; opened, the sale is found by its own id."""
    world = house.world
    till, family = world.till("till-1"), world.family(9_000)
    house.back_up()
    crashed = world.till("till-2", reached=crashing("answer_read"))
    with pytest.raises(Crash):
        sells(crashed, family, "B-1", 5_000)
    crashed.close()
    lose(house)
    again = world.till("till-2")
    [sale] = again.settle()
    assert (sale.state, "ledger_healing" in str(sale.problem)) == ("interrupted", True)
    for each in (till, again):
        each.heal()
    assert house.carepos("heal", "open") == 0
    [sale] = again.settle()
    assert sale.state == "reversed"
    assert world.balance() == 9_000
    assert confirmed(again) == house.posted(again) == set()


def test_a_till_that_comes_late(house: Restorable, capsys: pytest.CaptureFixture[str]) -> None:
    """Opening without it wants a word; then what it brings is booked where it still fits, and what
    does not is a person's."""
    world = house.world
    one, two = world.till("till-1"), world.till("till-2")
    fits, spent = world.family(9_000), world.family(9_000)
    house.back_up()
    assert sells(two, fits, "B-1", 8_000) == sells(two, spent, "B-2", 8_000) == "confirmed"
    lose(house)
    one.heal()
    assert house.carepos("heal", "open") == 1
    assert "--early" in capsys.readouterr().err
    assert house.carepos("heal", "open", "--early") == 0
    assert sells(one, spent, "A-1", 8_000) == "confirmed"
    state = two.heal()
    assert (state.sent, state.of) == (3, 3)
    assert two.heal() == state
    assert house.carepos("heal", "exceptions") == 1
    said = capsys.readouterr().out
    assert "80.00 CNY" in said and f" · {two.status('B-2').receipt_no} · " in said
    assert sells(one, fits, "A-2", 1_000) == "confirmed"
    with pytest.raises(Refused):
        sells(one, fits, "A-3", 1)
    assert house.carepos("heal", "exceptions", "--close", "3", "--note", "paid by hand") == 0
    assert house.carepos("heal", "exceptions") == 0
    assert world.ledger.office.programme_sums(PROGRAMME["programme"]).differences == ()


@pytest.mark.parametrize("first", [0, 1], ids=["the till first", "the copy first"])
def test_a_till_and_its_copy_both_bring_back_what_was_decided(
    house: Restorable, first: int
) -> None:
    """FG-7 with FI-1: people had decided what the copy sold under the till's own numbers. Each of
    them brings its line, once; all of it is booked again, and the terminal is stopped again."""
    world = house.world
    shop, families = OfflineShop(world), [world.family(9_000) for _ in range(2)]
    assert shop.sell(families[0], 100).state == "confirmed"
    house.back_up()
    twin = shop.copied("twin")
    assert shop.sell(families[0], 2_000).state == "confirmed"
    world.now.forward(minutes=1)
    assert twin.sell(families[1], 700).held == "terminal_forked"
    ledger = world.ledger
    rulings = HeldRulings(ledger.database, ledger.desk._book, world.now)
    for each in HeldList(ledger.database).listed():
        rulings.post(each["n"], operator="wang")
    twin.till.settle()
    assert twin.newest().state == "confirmed"
    before = lose(house)
    tills = [(shop, twin)[first].till, (twin, shop)[first].till]
    for till in tills:
        assert till.heal().complete
    # The first to come knew nothing of the other then.
    states = [till.heal() for till in tills]
    assert all(state.complete and state.sent == state.of > 0 for state in states)
    assert [till.heal() for till in tills] == states
    assert house.carepos("heal", "open") == 0
    now = house.rows()
    for name in ("postings", "entries", "vouchers", "records", "attempts", "terminals"):
        assert sorted(now[name], key=repr) == sorted(before[name], key=repr), name
    for till, state in zip(tills, states, strict=True):
        assert till.heal().sent == state.sent
    assert house.carepos("heal", "exceptions") == 0


def test_a_till_asks_on_behind_what_one_answer_tells(
    house: Restorable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer has room for so many ranges: what is lost behind them is offered all the same."""
    monkeypatch.setattr(evidence_rows, "MAX_RANGES", 2)
    world = house.world
    till, family = world.till("till-1"), world.family(9_000)
    status = world.ledger.terminals.set_status
    for n in range(3):
        assert sells(till, family, f"A-{n}", 100) == "confirmed"
        offer = till.propose(family.token(), [milk(100)])
        status(till.enrolment.terminal, "suspended")
        # A person's to decide, and so a number that nobody holds.
        assert till.redeem(offer, checkout=f"H-{n}", cashier="c01").state == "unknown"
        status(till.enrolment.terminal, "active")
    house.back_up()
    assert sells(till, family, "B-1", 1_000) == "confirmed"
    before = lose(house)
    assert till.heal().complete and till.heal().sent == 1
    assert house.carepos("heal", "open") == 0
    is_whole(house, before)


def test_a_till_that_comes_late_with_a_pack_alone(house: Restorable) -> None:
    """All its answers are in the backup, and what its pack sets aside is not: it tells of that too,
    and goods that left within it are paid."""
    world = house.world
    one, two = world.till("till-1"), world.till("till-2")
    assert sells(one, world.family(100), "A-1", 10) == "confirmed"
    family = world.family(9_000)
    assert sells(two, family, "B-1", 1_000) == "confirmed"
    house.back_up()
    two.refresh_pack()
    lose(house)
    assert sells(two, family, "B-2", 2_000) == "accepted"
    one.heal()
    assert house.carepos("heal", "open", "--early") == 0
    assert sells(one, family, "A-2", 4_000) == "confirmed"
    two.heal()
    sums = world.ledger.office.programme_sums(PROGRAMME["programme"])
    assert (sums.allotted_minor, sums.differences) == (45 + 4_000, ())
    two.answer_goods("B-2", handed_over=True)
    two.settle()
    assert two.status("B-2").state == "confirmed"


def test_a_backup_that_was_restored_without_a_word(
    house: Restorable, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server was simply started again: the first till that asks proves the loss, the operator
    is alarmed, nothing is booked; healed, all is there."""
    world = house.world
    till, family = world.till("till-1"), world.family(9_000)
    house.back_up()
    assert sells(till, family, "A-1", 8_000) == "confirmed"
    before = house.rows()
    house.restore()
    house.start()
    assert house.carepos("heal", "status") == 0
    till.heal()
    assert house.carepos("heal", "status") == house.carepos("alarms") == 1
    assert "DATA IS LOST" in capsys.readouterr().out
    assert world.balance() == 9_000
    house.stop()
    assert house.carepos("heal", "begin") == 0
    house.start()
    till.heal()
    assert house.carepos("heal", "open") == 0
    is_whole(house, before)


def test_a_book_without_its_keys_does_not_start(house: Restorable) -> None:
    """Restored from before an earlier heal, or with keys from before it: it is said, and not
    served; `begin` cut short is run again and is then done once."""
    house.back_up()
    house.restore()
    keys = (house.world.settings.folder / "keyset.json").read_bytes()
    assert house.carepos("heal", "begin") == 0
    fresh = (house.world.settings.folder / "keyset.json").read_bytes()
    (house.world.settings.folder / "keyset.json").write_bytes(keys)
    with pytest.raises(RuntimeError, match="cut short"):
        house.start()
    assert house.carepos("heal", "begin") == house.carepos("heal", "begin") == 0
    house.start()
    assert house.world.ledger.keyring.epoch == 2
    assert house.carepos("heal", "open") == 0
    house.restore()
    (house.world.settings.folder / "keyset.json").write_bytes(fresh)
    with pytest.raises(RuntimeError, match="heal begin"):
        house.start()
    assert house.carepos("heal", "begin") == 0
    house.start()
    assert house.world.ledger.keyring.epoch == 3


@pytest.mark.parametrize("point", ["committed", "replayed"])
def test_a_server_that_dies_while_it_opens(house: Restorable, point: str) -> None:
    """FI-3: the operator starts it again and goes on; it is as if it had never died."""
    world = house.world
    one, two, _, _ = a_day(house)
    before = lose(house)
    one.heal()
    two.heal()
    house.carepos("heal", "manifest", str(world.folder / "settlements"))
    for after in (2, 5):
        house.stop()
        left = [after]

        def dies(passed: str, left: list[int] = left) -> None:
            if passed == point:
                left[0] -= 1
                if left[0] <= 0:
                    raise Crash

        house.start(dies)
        assert house.carepos("heal", "open") in (1, 2)
    house.stop()
    house.start()
    two.heal()
    assert house.carepos("heal", "open") == 0
    is_whole(house, before)
    with world.ledger.database.read() as connection:
        assert healing.read(connection) is None
