"""What was sold without the ledger, in the settlement file: paid once, to the last minor unit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from carepos import commands
from carepos.settlement_commands import TillFolder, fetch
from carepos_plugin import pairing
from carepos_plugin.settings import Settings
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.stories.test_offline_limits import copied_code
from tests.world import World


@pytest.fixture(params=["merchant", "programme"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with offline_world(tmp_path, floor={"liability": request.param}, reserve_minor=4_000) as found:
        yield found


def run(*words: str) -> int:
    return commands.main(list(words))


def fetched(shop: OfflineShop) -> Path:
    """The folder with the merchant's files; the till is closed."""
    shop.till.close()
    own, to = TillFolder.load(shop.folder), shop.folder / "files"
    with closing(own.client(shop.world.now)) as client:
        fetch(client, own.enrolled, to)
    return to


def test_files_pay_what_the_ledger_booked(made: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shop's journal and files agree: of a sale that was covered in part the file pays what
    the programme owes; one that was not booked is named, and is in no file."""
    shops, _ = copied_code(made, 3, 1)
    for shop in shops:
        shop.cable.is_out = False
        shop.till.settle()
    states = {a.state for s in shops for a in s.till.journal.attempts()}
    assert states > {"confirmed"}
    made.ledger.settlement.close()
    for shop in shops:
        shop.till.close_day()
        to = fetched(shop)
        code = run("reconcile", "--till", str(shop.folder), "--settlements", str(to), "--json")
        told = json.loads(capsys.readouterr().out)
        exceptions = [d for d in told["differences"] if d["cause"] == "in_review"]
        assert told["differences"] == exceptions, told
        assert all(each["effect_minor"] == 0 for each in exceptions)
        assert code == (1 if exceptions else 0)
        for each in told["sums"]:
            assert each["difference_minor"] == 0
        Settings.write_default(shop.folder)
        pairing.make(shop.folder)
        for each in exceptions:
            sale = ("--done", each["receipt_no"], "--note", "the office paid it")
            assert run("till", "exceptions", *sale, "--folder", str(shop.folder)) == 0
        capsys.readouterr()
        # What a person dealt with is explained, by that person's words.
        assert run("reconcile", "--till", str(shop.folder), "--settlements", str(to), "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert [d["cause"] for d in told["differences"]] == ["ticked_off"] * len(exceptions)
        assert all("the office paid it" in d["sentence"] for d in told["differences"])


def test_a_sale_that_is_not_uploaded_is_open_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no confirmed sale yet, and no file pays it: reconciling says that it waits."""
    with offline_world(tmp_path) as made:
        shop = OfflineShop(made)
        family = shop.at_home(12_000)
        shop.learn()
        shop.cable.is_out = True
        shop.sell(family, 2_000)
        shop.cable.is_out = False
        made.ledger.settlement.close()
        to = fetched(shop)
        reconcile = ("reconcile", "--till", str(shop.folder), "--settlements", str(to), "--json")
        assert run(*reconcile) == 0
        told = json.loads(capsys.readouterr().out)
        assert [d["cause"] for d in told["differences"]] == ["open_at_till"]
