"""A till that was put back from a backup finds on its second disk what it has forgotten (FG-7).

It gives out nothing without the ledger for as long as that could spend the same money twice, and
says what to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from carepos import put_back, readiness
from carepos.commands import main
from carepos_plugin import pairing
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Faults, plugged
from tests.stories.offline_shop import offline_world
from tests.stories.test_mirror import Mirrored
from tests.world import World


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    with offline_world(tmp_path) as found:
        yield found


@pytest.fixture
def mirrored(made: World, tmp_path: Path) -> Mirrored:
    return Mirrored(made, tmp_path / "stick")


def put_back_after(mirrored: Mirrored, *amounts: int) -> None:
    """The till sells for these amounts without a network and dies; its folder is put back to what
    it was before."""
    folder = mirrored.shop.folder
    backup = folder.with_name("backup")
    mirrored.shop.till.close()
    shutil.copytree(folder, backup)
    mirrored.restart()
    for amount in amounts:
        assert mirrored.shop.sell(mirrored.family, amount).state == "provisional"
    mirrored.caught_up()
    mirrored.shop.till.close()
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    mirrored.restart()


def refused(mirrored: Mirrored) -> str | None:
    """Why the till gives nothing to the family without a network; None where it would."""
    mirrored.shop.cable.is_out = True
    refusal = mirrored.shop.offer(mirrored.family, 500).refusal
    return None if refusal is None else refusal.code


def why_not(mirrored: Mirrored) -> tuple[str, ...]:
    till = mirrored.shop.till
    return readiness.of(till.held_pack, till.journal, till.ratchet, till.disk.room()).why_not


def test_a_till_that_has_forgotten_sales_sells_nothing_without_a_network(
    mirrored: Mirrored,
) -> None:
    """From its first moment, also without the second disk, whatever the ledger answers and the
    office says: it does not know what of its allotments is spent. With a network it sells on."""
    put_back_after(mirrored, 2_000, 1_000)
    shop = mirrored.shop
    assert refused(mirrored) == "terminal_forked"
    [lost] = put_back.holding_back(shop.till.journal)
    assert lost.sold == {"CNY": (2, 3_000)} and lost.folder == f"{mirrored.folder()}-2"
    assert "put_back" in why_not(mirrored)
    assert not shop.till.sell_on() and refused(mirrored) == "terminal_forked"
    mirrored.restart(with_disk=False)
    assert refused(mirrored) == "terminal_forked"
    shop.cable.is_out = False
    assert shop.sell(shop.world.family(1_000), 500).state == "confirmed"
    shop.till.settle()
    assert shop.till.journal.is_decided(lost.start)
    assert refused(mirrored) == "terminal_forked"


def test_an_empty_line_is_forgotten_once_the_ledger_has_answered(mirrored: Mirrored) -> None:
    """Of a line in which nothing was sold the ledger's word on this one is enough: it has nothing
    of the other, and so has nobody."""
    put_back_after(mirrored)
    assert refused(mirrored) == "terminal_forked" and "put_back" in why_not(mirrored)
    mirrored.restart()
    assert refused(mirrored) == "terminal_forked"
    mirrored.shop.cable.is_out = False
    mirrored.shop.till.settle()
    assert refused(mirrored) is None and why_not(mirrored) == ()


def test_a_line_that_the_ledger_has_stays_stopped(mirrored: Mirrored) -> None:
    """Where the ledger has seen the other line, its word is that there are two."""
    shop = mirrored.shop
    shop.cable.is_out = False
    shop.till.settle()
    mirrored.caught_up()
    folder, backup = shop.folder, shop.folder.with_name("backup")
    shop.till.close()
    shutil.copytree(folder, backup)
    mirrored.restart()
    shop.till.settle()
    shop.cable.is_out = True
    mirrored.restart()  # its start record stays on the second disk
    mirrored.caught_up()
    shop.till.close()
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    mirrored.restart()
    assert refused(mirrored) == "terminal_forked"
    shop.cable.is_out = False
    shop.till.settle()
    assert put_back.holding_back(shop.till.journal) and refused(mirrored) == "terminal_forked"


def test_the_office_lets_a_till_sell_on(
    mirrored: Mirrored, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sell-on` ends it where nothing was sold, and is remembered; where sales were lost it is
    refused. Until then `status` and the drill say which folder to give to the office."""
    shop = mirrored.shop
    put_back_after(mirrored)
    shop.till.close()
    Settings.write_default(shop.folder)
    pairing.make(shop.folder)
    there = ["--folder", str(shop.folder)]
    assert main(["till", "status", *there]) == 0
    out = capsys.readouterr().out
    assert f"{mirrored.folder()}-2" in out and "carepos till sell-on" in out
    assert main(["till", "drill", *there]) == 1
    assert "✗ Till" in capsys.readouterr().out
    assert main(["till", "sell-on", *there]) == 0
    assert main(["till", "status", *there]) == 0
    assert "sell-on" not in capsys.readouterr().out
    mirrored.restart()
    assert refused(mirrored) is None


def test_the_shop_is_told_by_the_running_plugin(
    mirrored: Mirrored, caplog: pytest.LogCaptureFixture
) -> None:
    """In the status, in the log once, and in the answer to `sell-on`."""
    put_back_after(mirrored, 2_000)
    with plugged(mirrored.shop.world, mirrored.shop.till, Faults()) as opened:
        told = opened.get("/api/status")
        assert told["put_back"]["may_sell_on"] is False
        assert told["put_back"]["folders"][0]["sold"] == [
            {"currency": "CNY", "count": 1, "amount_minor": 2_000}
        ]
        assert f"{mirrored.folder()}-2" in told["put_back"]["en"] and told["put_back"]["zh"]
        assert [each["code"] for each in told["offline"]["why_not"]] == ["put_back"]
        for _ in range(2):
            opened.post("/api/settle", {})
        logged = [r.getMessage() for r in caplog.records if "was put back" in r.getMessage()]
        assert len(logged) == 1 and "carepos till status" in logged[0]
        assert opened.refused("POST", "/api/sell-on", {}) == (409, "sales_lost")
