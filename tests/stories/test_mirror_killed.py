"""A till's process is killed in the middle of its mirror's work (FG-9, FI-3): the second disk holds
all that it was said to hold, and the next start makes journal and mirror one again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from carepos import Till, attempt, upload_file
from carepos.commands import main
from carepos.journal_view import JournalView
from tests.faults.processes import Armed, Child, Died
from tests.stories.offline_shop import Cable, OfflineShop, offline_world
from tests.stories.test_mirror import Mirrored
from tests.world import PROGRAMME, milk

ASIDE = "aside"
"""Not a point of the product: a file is written beside its name and not yet renamed."""
KILLED = [
    ("mirror_listed", 1), ("mirror_listed", 3),
    (ASIDE, 1), (ASIDE, 3), (ASIDE, 5),
    ("mirror_written", 1), ("mirror_written", 2), ("mirror_written", 4), ("mirror_written", 5),
    ("mirror_removed", 1), ("mirror_removed", 3), ("mirror_removed", 5),
    ("mirror_done", 1), ("mirror_done", 2), ("mirror_done", 3),
]  # fmt: skip
"""Where, and which time: a start and two sales of two records each are written, then removed."""
SALES = {"K1": 2_000, "K2": 1_500}
LONG_S = 3_600.0


def _sell(
    calls: Connection, folder: Path, url: str, at: datetime, disk: Path, point: str, times: int
) -> None:
    """A till with a second disk, without a network until it is to upload."""
    armed, cable = Armed(), Cable(url)
    armed.arm(point, times)
    cable.is_out = True
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).parent.parent == disk:
            armed.reached(ASIDE)
        return real(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]
    with Till.open(
        folder, now=lambda: at, transport=cable, mirror=disk, reached=armed.reached
    ) as till:
        assert till.mirror is not None
        till.mirror._wait_s = LONG_S  # however slow this machine is: what is said is in the mirror
        calls.send("open")
        while True:
            name, wish = calls.recv()
            if name == "end":
                break
            if name == "upload":
                cable.is_out = False
                till.settle()
                calls.send("")
                continue
            code, checkout = wish["code"], wish["checkout"]
            offer = till.propose(code, [milk(wish["amount_minor"])])
            state = till.redeem(offer, checkout=checkout, cashier="c01").state
            told = till.mirror.standing().state
            calls.send((state, told))
            till.answer_goods(checkout, handed_over=True)
    calls.send("ended")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[OfflineShop]:
    with offline_world(tmp_path) as made:
        yield OfflineShop(made)


def killed_at(shop: OfflineShop, disk: Path, point: str, times: int) -> set[str]:
    """Play it until the process dies; the sales of which it was said that the mirror has them."""
    codes = [shop.at_home(12_000).token() for _ in SALES]
    shop.learn()
    shop.till.settle()
    shop.till.close()
    shop.world.tills.remove(shop.till)
    said = set()
    child: Child | None = None
    try:
        child = Child(_sell, shop.folder, shop.world.url, shop.world.now(), disk, point, times)
        for code, (checkout, minor) in zip(codes, SALES.items(), strict=True):
            state, told = child.call("sale", code=code, checkout=checkout, amount_minor=minor)
            assert (state, told) == ("accepted", "same_disk")
            said.add(checkout)
        child.call("upload")
        child.call("end")
    except Died:
        return said
    finally:
        if child is not None:
            child.kill()
    raise AssertionError("it lived")


@pytest.mark.parametrize(("point", "times"), KILLED)
def test_a_till_killed_while_it_mirrors(
    shop: OfflineShop, tmp_path: Path, point: str, times: int
) -> None:
    """The second disk alone books every sale whose goods were let go and that the ledger does not
    have; the till that is started again puts the mirror right, uploads, and nothing is booked
    twice or lost."""
    disk = tmp_path / "stick"
    disk.mkdir()
    sums = shop.world.ledger.office.programme_sums
    before = sums(PROGRAMME["programme"]).redeemed_minor + 2 * 100  # each family came here once
    said = killed_at(shop, disk, point, times)
    own = shop.till.enrolment.terminal_keys
    with closing(JournalView.open(shop.folder / "journal.db", own)) as journal:
        sold = {each.checkout: each for each in journal.attempts() if each.checkout in SALES}
        wanted = {
            journal.record_of(sold[checkout], kind).digest
            for checkout in said
            if sold[checkout].state in attempt.NOT_DECIDED
            for kind in ("redeem", "accept_offline")
        }
    carried = tmp_path / "carried"
    code = main(["till", "export", "--mirror", str(disk), str(carried)])
    records = upload_file.read_records(carried).records if carried.exists() else ()
    assert wanted <= {each.digest for each in records if "evidence" in each.envelope}
    if carried.exists():
        assert code == 0  # whole files only, whatever was being written
        # 1: a sale whose acceptance had not got there, so that its goods were not let go.
        imported = main(["ledger", "import-records", str(carried), "--url", shop.world.url])
        assert imported in (0, 1)
    by_disk = sums(PROGRAMME["programme"]).redeemed_minor - before
    assert by_disk >= sum(SALES[checkout] for checkout in said)

    again = Mirrored.__new__(Mirrored)
    again.shop, again.disk = shop, disk
    shop.cable.is_out = True
    shop.till = shop._open(mirror=disk)
    again.caught_up()
    assert again.files() == again.wanted()
    for each in shop.till.journal.attempts("accept_asked"):
        shop.till.answer_goods(each.checkout, handed_over=True)
    shop.cable.is_out = False
    shop.till.settle()
    again.caught_up()
    assert again.files() == again.wanted() == {}
    assert {shop.till.status(checkout).state for checkout in sold} <= {"confirmed"}
    booked = sum(SALES[checkout] for checkout in sold)
    assert sums(PROGRAMME["programme"]).redeemed_minor == before + booked


def test_every_point_of_a_pass_is_among_them() -> None:
    """A point that is added is killed at too."""
    from carepos.mirror import POINTS

    assert {point for point, _ in KILLED} == {*POINTS, ASIDE}
