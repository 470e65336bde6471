"""What `carepos till settle` and the register read of a ledger that answers and settles nothing."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from carepos import clock
from carepos_plugin import app, pairing
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Faults, Rig, milk, plugged, rig, write_settings
from tests.pos_plugin.test_commands import Run, run
from tests.stories.restorable import restorable
from tests.world import milk as milk_line

__all__ = ["run"]  # a fixture


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        Settings.write_default(made.till.folder)
        write_settings(made.till.folder, port=int(made.url.rsplit(":", 1)[1]))
        monkeypatch.setattr(app, "opened", functools.partial(app.opened, now=made.world.now))
        monkeypatch.setattr(clock, "system_clock", made.world.now)
        yield made


def a_copy_of_it_is_seen(shop: Rig) -> None:
    """Till and copy both write the next number."""
    shop.till.refresh_pack()
    shop.till.settle()
    copy = shop.world.folder / "copy"
    shop.till.journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(shop.till.folder, copy, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    with app.opened(copy) as plugin:
        plugin.chores()


@pytest.mark.parametrize("running", [True, False])
def test_settle_at_a_till_that_was_stopped_says_what_helps(
    shop: Rig, run: Run, running: bool
) -> None:
    """That it is stopped, and the office; not to try again, which never helps."""
    a_copy_of_it_is_seen(shop)
    if running:
        assert not shop.till.close_day().acknowledged
    else:
        shop.till.close()
    done, out, _ = run("settle", "--folder", shop.till.folder)
    assert done == 1
    assert "Two copies of this till were seen, it sells no more" in out
    assert "call the programme's office" in out and "try again" not in out


def test_the_register_reads_why_a_till_that_was_stopped_offers_nothing(shop: Rig) -> None:
    """As it does without a network: the ledger tells a stranger nothing, and this till knows why.
    Where it was told nothing yet it is sent to the office too, and not to try again."""
    shop.till.refresh_pack()
    shop.till.settle()
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    asked = {"checkout": "S1", "code": shop.world.family().token(), "lines": [milk()]}
    answer = shop.call("POST", "/api/offers", asked)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_served")
    assert "office" in answer.json()["en"] and "Try again" not in answer.json()["en"]
    shop.till.close_day()
    refusal = shop.post("/api/offers", asked)["refusal"]
    assert refusal["code"] == "terminal_revoked" and "no longer allowed" in refusal["en"]


def test_a_till_that_is_stopped_while_it_runs_hears_of_it(shop: Rig, run: Run) -> None:
    """Nothing waits to be sent, and its reads are answered as a stranger's: it asks for the word
    that the ledger signs, once, so that it sells nothing when the network goes."""
    shop.till.refresh_pack()
    shop.till.settle()
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    before = shop.till.journal.sequence
    for _ in range(2):
        shop.plugin.upkeep.one_pass()
        assert shop.till.journal.stopped_for() == "terminal_revoked"
        assert shop.till.journal.sequence == before + 1
    done, out, _ = run("settle", "--folder", shop.till.folder)
    assert (done, "The office has revoked this till" in out) == (1, True)


def test_settle_at_a_till_that_the_ledger_does_not_serve(shop: Rig, run: Run) -> None:
    """A copy of a key whose place another one has taken: nothing signed tells it why, and the
    office is named, not another try."""
    shop.till.refresh_pack()
    shop.till.settle()
    copy = shop.world.folder / "copy"
    without = shutil.ignore_patterns("journal.db*", "*.lock")
    shutil.copytree(shop.till.folder, copy, ignore=without)
    assert not shop.till.change_key().changing
    write_settings(copy, port=1)
    done, out, _ = run("settle", "--folder", copy)
    assert (done, "does not serve this till (unauthorised (401)" in out) == (1, True)
    assert "call the programme's office" in out and "try again" not in out


@pytest.mark.parametrize("running", [True, False])
def test_settle_while_the_ledger_is_restored_says_that_it_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, running: bool
) -> None:
    """It has told all that it knows, and now it waits for the office, not for another try."""
    database = f"sqlite:///{tmp_path / 'book.db'}"

    def no_cluster() -> None:
        raise AssertionError("a ledger on SQLite needs none")

    with restorable(tmp_path, database, no_cluster) as house:  # type: ignore[arg-type]
        monkeypatch.setattr(app, "opened", functools.partial(app.opened, now=house.world.now))
        till = house.world.till()
        family = house.world.family(12_000)
        house.back_up()
        offer = till.propose(family.token(), [milk_line(1_000)])
        assert till.redeem(offer, checkout="S1", cashier="c01").state == "confirmed"
        house.restore()
        assert house.carepos("heal", "begin") == 0
        house.start()
        Settings.write_default(till.folder)
        pairing.make(till.folder)
        if running:
            with plugged(house.world, till, Faults()) as shop:
                write_settings(till.folder, port=int(shop.url.rsplit(":", 1)[1]))
                done, out, _ = run("settle", "--folder", till.folder)
        else:
            till.close()
            house.world.tills.remove(till)
            done, out, _ = run("settle", "--folder", till.folder)
        sent = len(till.journal.answered()) if running else 2
        assert done == 1
        assert "Reported: the ledger is being restored, and has had all that this till" in out
        assert f"{sent} of {sent} answers are sent" in out
        assert "wait until the office opens it" in out and "try again" not in out
