"""A till that is two: found, stopped, sorted out by people (docs/operators.md), over real HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carepos import NotDecided, Refused, Till
from carepos.commands import main
from carepos.sale import Sale
from carepos_ledger.operator_client import SECRET_FILE
from carepos_ledger.operators import new_secret
from tests.stories.test_redemption import Shop, a_shop
from tests.world import PROGRAMME, milk, world


@pytest.fixture
def shop(tmp_path: Path, database_url: str) -> Iterator[Shop]:
    with world(tmp_path, database_url) as alone, a_shop(alone, tmp_path / "till") as made:
        yield made


class Desk:
    """The programme's office: what somebody types there."""

    def __init__(self, shop: Shop, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder.mkdir()
        secret = new_secret()
        shop.world.ledger.operators.add("wang", secret)
        (folder / SECRET_FILE).write_text(secret, "ascii")
        self._where = ["--folder", str(folder), "--url", shop.world.url]
        self._capsys = capsys

    def types(self, *words: str, exit_code: int = 0) -> str:
        """What a command prints, on either stream."""
        self._capsys.readouterr()
        assert main(["ledger", *words, *self._where]) == exit_code
        printed = self._capsys.readouterr()
        return printed.out + printed.err

    def held(self) -> dict[str, str]:
        """By number, the lines of what waits."""
        lines = self.types("held", exit_code=1).splitlines()[:-1]
        return {line.split()[0]: line for line in lines}

    def one_of(self, sale: Sale) -> str:
        """The number under which a till's sale is held."""
        [number] = [n for n, line in self.held().items() if sale.receipt_no in line]
        return number


@pytest.fixture
def desk(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(shop, tmp_path / "office", capsys)


def copied(shop: Shop, folder: Path) -> None:
    """The till's folder as it is now, somewhere else: a backup, a disk image, a theft."""
    shop.till.journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(shop.folder, folder, ignore=shutil.ignore_patterns("*.lock", "*-shm"))


@contextmanager
def machine(shop: Shop, folder: Path) -> Iterator[Till]:
    """Another machine that starts on a folder."""
    with Till.open(folder, now=shop.world.now, answer_timeout_s=20) as till:
        yield till


def sells(shop: Shop, amount_minor: int, checkout: str, till: Till | None = None) -> Sale:
    """A sale to a new family, at the shop's own till or another machine."""
    till = till or shop.till
    offer = till.propose(shop.world.family(12_000).token(), [milk(amount_minor)])
    return till.redeem(offer, checkout=checkout, cashier="c01")


def alarms(shop: Shop) -> list[str]:
    return [str(each["kind"]) for each in shop.world.ledger.terminals.alarms(0)]


def posted_minor(shop: Shop) -> int:
    """What the merchant is owed."""
    sums = shop.world.ledger.office.programme_sums(PROGRAMME["programme"])
    return sums.redeemed_minor


def test_t_1_two_machines_with_one_key(shop: Shop, desk: Desk, tmp_path: Path) -> None:
    """T-1: a copied till sells until the real one is heard of, and not one sale longer; after
    that, and after the key is revoked, only the held intake answers either machine, and people
    decide what of it was the shop's."""
    assert sells(shop, 1_000, "S1").state == "confirmed"
    copied(shop, tmp_path / "copy")
    with machine(shop, tmp_path / "copy") as thief:
        loss = [sells(shop, amount, f"X{amount}", thief) for amount in (2_000, 300)]
        assert [sale.state for sale in loss] == ["confirmed"] * 2
        offers = [
            till.propose(shop.world.family(12_000).token(), [milk(amount)])
            for till, amount in ((shop.till, 4_000), (thief, 50))
        ]
        # The till's next number is one that the copy has used.
        honest = shop.till.redeem(offers[0], checkout="S2", cashier="c01")
        assert (honest.state, honest.held) == ("unknown", "terminal_forked")
        assert "Two copies" in honest.message("en") and "Do not hand over" in honest.message("en")
        assert alarms(shop) == ["fork"] and posted_minor(shop) == 3_300

        terminal = shop.till.enrolment.terminal
        assert "stopped" in desk.types("alarms", exit_code=1)
        desk.types("suspend", terminal, "--revoke")
        stolen = thief.redeem(offers[1], checkout="X3", cashier="c09")
        assert (stolen.state, stolen.held) == ("unknown", "terminal_revoked")
        for till in (shop.till, thief):
            with pytest.raises(Refused, match="terminal_"):
                till.scan(shop.world.family(12_000).token())
            with pytest.raises(NotDecided, match="unauthorised"):
                till.refresh_pack()
            assert "no longer allowed" in (till.close_day().problem or "")
            assert till.change_key().problem
        assert posted_minor(shop) == 3_300 and alarms(shop) == ["fork"]

        # The shop sells on with a new till; the old one's promise is looked at.
        fresh = shop.world.till("till-2")
        assert sells(shop, 600, "N1", fresh).state == "confirmed"
        desk.types("held", desk.one_of(honest), "--post", "--say", "goods had left")
        desk.types("held", desk.one_of(stolen), "--refuse", "--say", "not the shop's")
        assert shop.till.retry("S2").state == "confirmed"
        refused = thief.retry("X3")
        assert (refused.state, refused.held) == ("refused", None)
        assert "did not accept" in refused.message("en")
        assert posted_minor(shop) == 3_300 + 600 + 4_000
        assert shop.till.retry("S2").state == "confirmed" and posted_minor(shop) == 7_900


def test_t_1_a_key_without_its_journal(shop: Shop, desk: Desk, tmp_path: Path) -> None:
    """T-1, FG-8: with the key alone a second machine writes a journal of its own. Two journals at
    once are two chains, nothing is booked twice, and the operator is told at its first word."""
    assert sells(shop, 1_000, "S1").state == "confirmed"
    (tmp_path / "copy").mkdir()
    for name in ("terminal.key", "enrolment.json"):
        shutil.copyfile(shop.folder / name, tmp_path / "copy" / name)
    with machine(shop, tmp_path / "copy") as thief:
        assert sells(shop, 2_000, "S1", thief).state == "confirmed"
        assert sells(shop, 300, "S2").state == "confirmed"
        assert alarms(shop) == ["journal"] and posted_minor(shop) == 3_300
        assert "second machine" in desk.types("alarms", exit_code=1)
        terminal = shop.till.enrolment.terminal
        assert desk.types("chain", terminal).count("missing 缺号 —") == 2
        offer = thief.propose(shop.world.family(12_000).token(), [milk(40)])
        desk.types("suspend", terminal, "--revoke")
        assert thief.redeem(offer, checkout="S3", cashier="c09").held == "terminal_revoked"
        assert posted_minor(shop) == 3_300


def test_t_7_a_till_that_was_put_back(shop: Shop, desk: Desk, tmp_path: Path) -> None:
    """T-7, FG-7: snapshot, sell, one of it never uploaded; restore, sell: the fork is found at the
    first contact, nothing is booked twice, and what was never uploaded is listed as missing."""
    assert sells(shop, 1_000, "S1").state == "confirmed"
    shop.till.close()
    copied_folder = tmp_path / "snapshot"
    shutil.copytree(shop.folder, copied_folder, ignore=shutil.ignore_patterns("*.lock"))
    shop.reopen()
    assert sells(shop, 2_000, "S2").state == "confirmed"
    offer = shop.offer(shop.world.family(12_000), milk(300))
    shop.proxy.fail("drop_before", times=9)
    lost = shop.till.redeem(offer, checkout="S3", cashier="c01")
    shop.proxy.clear()
    assert lost.state == "unknown"
    assert sells(shop, 40, "S4").state == "confirmed"
    before = posted_minor(shop)
    assert before == 3_040

    shop.till.close()
    shutil.rmtree(shop.folder)
    shutil.copytree(copied_folder, shop.folder)
    till = shop.reopen()
    offer = shop.offer(shop.world.family(12_000), milk(5_000))
    again = till.redeem(offer, checkout="S2", cashier="c01")
    assert (again.state, again.held) == ("unknown", "terminal_forked")
    assert alarms(shop) == ["fork"] and posted_minor(shop) == before

    sequence = int(lost.receipt_no.split("-")[1])
    said = desk.types("chain", till.enrolment.terminal, exit_code=1)
    assert "forked" in said and f"missing 缺号 {sequence} · held 待审 {sequence - 2}" in said

    # The cashier cancels, the office posts both: nothing is spent for what was not handed over.
    assert till.cancel("S2").held == "terminal_forked"
    for number in desk.held():
        desk.types("held", number, "--post")
    assert "Nothing is held" in desk.types("held")
    assert [sale.state for sale in till.settle()] == ["reversed"]
    assert posted_minor(shop) == before and shop.till.close_day().problem


def test_t_7_a_sale_that_was_open_in_the_copy(shop: Shop, tmp_path: Path) -> None:
    """T-7: the ledger booked it before the till was put back, and a stopped till may read nothing:
    its cashier is asked about the goods all the same, and need not cancel what left the shop."""
    offer = shop.offer(shop.world.family(12_000), milk(2_000))
    shop.proxy.fail("drop_after", times=9)
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    shop.proxy.clear()
    copied(shop, tmp_path / "snapshot")
    assert shop.till.retry("S1").state == "confirmed"  # the goods leave
    assert sells(shop, 300, "S2").state == "confirmed"
    shop.till.close()
    shutil.rmtree(shop.folder)
    shutil.copytree(tmp_path / "snapshot", shop.folder)
    till = shop.reopen()
    assert [sale.state for sale in till.settle()] == ["goods_asked"] and alarms(shop) == ["fork"]
    assert till.answer_goods("S1", handed_over=True).state == "confirmed"
    assert posted_minor(shop) == 2_300


def test_fg_7_both_sales_of_one_number_are_paid(shop: Shop, desk: Desk, tmp_path: Path) -> None:
    """FG-7: where the office posts what a copy sold under a number that the till used too, a file
    holds one of them, and the next file the other; nothing of the shop waits for that."""
    copied(shop, tmp_path / "copy")
    assert [sells(shop, minor, f"S{minor}").state for minor in (1_000, 200)] == ["confirmed"] * 2
    offer = shop.till.propose(shop.world.family(12_000).token(), [milk(30)])
    with machine(shop, tmp_path / "copy") as twin:
        held = twin.redeem(offer, checkout="X1", cashier="c01")
        number = int(held.receipt_no.split("-")[1])
        desk.types("held", desk.one_of(held), "--post")
        assert twin.retry("X1").state == "confirmed"
        assert number in [each.sequence for each in shop.till.journal.attempts("confirmed")]
    close = shop.world.ledger.settlement.close
    closed = [*close(), *close()]
    assert [each.rows for each in closed] == [2, 1] and close() == []
    assert sum(each.net_minor for each in closed) == posted_minor(shop) == 1_230


def test_what_a_stopped_till_holds_is_not_lost_with_a_restart(shop: Shop, desk: Desk) -> None:
    """A sale that was held is asked about by sending it again, also after a restart: posted by the
    office, the cashier is asked whether the goods were handed over."""
    offer = shop.offer(shop.world.family(12_000), milk(700))
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").held == "terminal_revoked"
    till = shop.reopen()
    [sale] = till.settle()
    assert (sale.state, sale.held) == ("interrupted", "terminal_revoked")
    assert desk.types("held", desk.one_of(sale), "--post").startswith("Changed")
    assert [each.state for each in till.settle()] == ["goods_asked"]
    assert till.answer_goods("S1", handed_over=True).state == "confirmed"
    assert posted_minor(shop) == 700


def test_what_an_operator_may_not_do(shop: Shop, desk: Desk) -> None:
    """Each wrong word is a sentence and changes nothing."""
    offer = shop.offer(shop.world.family(12_000), milk(700))
    shop.world.ledger.terminals.set_status(shop.till.enrolment.terminal, "revoked")
    sale = shop.till.redeem(offer, checkout="S1", cashier="c01")
    assert shop.till.cancel("S1").held == "terminal_revoked"
    number = desk.one_of(sale)
    [reversal] = [n for n, line in desk.held().items() if " reversal " in line]
    assert "--say" in desk.types("held", number, "--refuse", exit_code=2)
    assert "N" in desk.types("held", "--post", exit_code=2)
    assert "no such" in desk.types("held", "999", "--post", exit_code=1)
    said = desk.types("held", reversal, "--refuse", "--say", "no", exit_code=1)
    assert "--leave-spent" in said
    said = desk.types(
        "held", number, "--refuse", "--code", "terminal_revoked", "--say", "no", exit_code=1
    )
    assert "code" in said
    desk.types("held", reversal, "--refuse", "--say", "no", "--leave-spent")
    assert shop.till.settle()[0].state == "review"
    assert "06913046198782" in desk.types("held", number)
