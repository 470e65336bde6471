"""The journal's mirror on a second disk: what is not uploaded survives a dead PC (FG-9).

Whatever the second disk does, sales go on; whatever happened to it, the next pass puts it right.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carepos import durable, mirror, upload_file
from carepos.commands import main
from carepos.mirror import Mirror
from carepos_plugin import sentences
from carepos_plugin.settings import Settings
from tests.pos_plugin.rig import Faults, plugged
from tests.stories.offline_shop import OfflineShop, offline_world
from tests.world import PROGRAMME, Family, World


@pytest.fixture
def made(tmp_path: Path, database_url: str) -> Iterator[World]:
    with offline_world(tmp_path, database_url) as found:
        yield found


class Mirrored:
    """A shop in an outage whose till has a second disk; `family` has 120.00, 60.00 set aside."""

    def __init__(self, made: World, disk: Path) -> None:
        self.disk = disk
        disk.mkdir()
        self.shop = OfflineShop(made)
        self.family: Family = self.shop.at_home(12_000)
        self.shop.learn()
        self.shop.till.settle()
        self.shop.cable.is_out = True
        self.restart()

    def restart(self, *, with_disk: bool = True) -> None:
        self.shop.restart(mirror=self.disk if with_disk else None)

    @property
    def kept(self) -> Mirror:
        found = self.shop.till.mirror
        assert found is not None
        return found

    def folder(self) -> Path:
        journal = self.shop.till.journal
        return mirror.folder_of(self.disk, self.shop.till.enrolment.terminal, journal.incarnation)

    def files(self) -> dict[int, Any]:
        return {int(each.stem): json.loads(each.read_bytes()) for each in self.folder().iterdir()}

    def wanted(self) -> dict[int, Any]:
        """What is not uploaded, by the journal."""
        journal = self.shop.till.journal
        sales = [a for a in journal.attempts() if not self.shop.till.status(a.checkout).final]
        plain = [r.sequence for r in journal.unanswered("start", "day_report")]
        numbers = {journal.record_of(a, kind).sequence for a in sales
                   for kind in ("redeem", "accept_offline")}  # fmt: skip
        return {
            n: journal.envelope_at(n, sealed=n not in plain) for n in sorted({*numbers, *plain})
        }

    def caught_up(self) -> None:
        """The mirror's thread has looked at all that was written by now."""
        kept = self.kept
        with kept._changed:
            assert kept._changed.wait_for(lambda: kept._done == kept._asked, 30)

    def state(self) -> str:
        return self.kept.standing().state


@pytest.fixture
def mirrored(made: World, tmp_path: Path) -> Mirrored:
    return Mirrored(made, tmp_path / "stick")


def test_what_is_not_uploaded_is_on_the_second_disk(mirrored: Mirrored) -> None:
    """Before the cashier is told to hand over the goods, with the sealed code and without any code
    in the clear; when the outcomes are there it is gone."""
    code = mirrored.family.token()
    sale = mirrored.shop.sell(code, 4_000, seen=False)
    assert sale.state == "accepted"
    found = mirrored.files()  # no waiting: redeem has waited for it
    assert found == mirrored.wanted() and len(found) == 3
    assert all(len(found[n]["evidence"]) > 100 for n in sorted(found)[1:])
    data = b"".join(each.read_bytes() for each in mirrored.folder().iterdir())
    for secret in (*code.split(".")[1:], mirrored.family.sub):
        assert secret.encode() not in data
    assert all(each.stat().st_mode & 0o077 == 0 for each in mirrored.folder().iterdir())
    mirrored.shop.till.answer_goods(sale.checkout, handed_over=True)
    mirrored.shop.cable.is_out = False
    mirrored.shop.till.settle()
    mirrored.caught_up()
    assert mirrored.wanted() == {} == mirrored.files()


def test_a_sale_that_is_accepted_late_gets_its_code_into_the_mirror(mirrored: Mirrored) -> None:
    """It was mirrored while its outcome was unknown, then without any; uploaded so it would be
    judged by nothing."""
    shop = mirrored.shop
    shop.cable.is_out = False
    offer = shop.offer(mirrored.family, 1_000)
    shop.cable.is_out = True
    assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
    mirrored.caught_up()
    number = shop.newest().sequence
    assert "evidence" not in mirrored.files()[number]
    assert shop.till.accept("S1").state == "accepted"
    assert len(mirrored.files()[number]["evidence"]) > 100


def test_a_dead_pcs_sales_are_uploaded_from_the_second_disk(
    mirrored: Mirrored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FG-9: the till's folder is gone for ever; a file that the stick garbled costs that record."""
    shop = mirrored.shop
    shop.sell(mirrored.family, 2_000)
    shop.sell(mirrored.family, 1_000)
    sums = shop.world.ledger.office.programme_sums
    before = sums(PROGRAMME["programme"]).redeemed_minor
    shop.till.close()
    shutil.rmtree(shop.folder)
    start, *_, last = sorted(mirrored.folder().iterdir())
    start.write_bytes(start.read_bytes()[:-100])
    path = tmp_path / "rescued"
    words = ["till", "export", "--mirror", str(mirrored.disk), str(path)]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "4 records" in out and "2 × = 30.00 CNY" in out
    assert f"number {int(start.stem)} can't be read" in out
    assert upload_file.read_records(path).to_sequence == int(last.stem)
    imports = ["ledger", "import-records", str(path), "--url", shop.world.url]
    assert main(imports) == 0
    assert sums(PROGRAMME["programme"]).redeemed_minor == before + 3_000
    assert main([*words[:-1], str(tmp_path / "nothing")]) == 1  # a record can't be read
    assert "stick" in str(mirrored.disk) and last.exists()  # nothing of it was touched


def test_fg_7_what_a_till_lost_that_was_put_back_stays_on_the_second_disk(
    mirrored: Mirrored, tmp_path: Path
) -> None:
    """The backup knows nothing of the sales since: they are not deleted for that, nor written over
    by what the till writes under their numbers, and are exported from where they were moved."""
    shop = mirrored.shop
    shop.till.close()
    shutil.copytree(shop.folder, tmp_path / "backup")
    mirrored.restart()
    lost = [shop.sell(mirrored.family, amount) for amount in (2_000, 1_000)]
    assert [sale.state for sale in lost] == ["provisional"] * 2
    mirrored.caught_up()
    before = mirrored.files()
    shop.till.close()
    shutil.rmtree(shop.folder)
    shutil.copytree(tmp_path / "backup", shop.folder)
    mirrored.restart()
    shop.till.close_day()
    mirrored.caught_up()
    assert mirrored.files() == mirrored.wanted()
    aside = mirrored.folder().with_name(f"{mirrored.folder().name}-2")
    kept = {int(each.stem): json.loads(each.read_bytes()) for each in aside.iterdir()}
    assert kept == {n: before[n] for n in kept} and kept.keys() | mirrored.files().keys() >= {
        *before
    }
    assert main(["till", "export", "--mirror", str(aside), str(tmp_path / "found")]) == 0
    found = upload_file.read_records(tmp_path / "found").records
    assert [each.kind for each in found].count("accept_offline") == 2
    mirrored.restart()
    mirrored.caught_up()
    assert sorted(each.name for each in mirrored.disk.iterdir()) == [
        mirrored.folder().name,
        aside.name,
    ]


def test_a_crash_between_journal_and_mirror_costs_nothing(mirrored: Mirrored) -> None:
    """What the journal holds and the mirror not, is written at the next start; what is over is
    removed; torn files are made anew; another journal's are left alone."""
    mirrored.restart(with_disk=False)
    mirrored.shop.sell(mirrored.family, 4_000)  # the journal has it, the mirror never had
    mirrored.restart()
    mirrored.caught_up()
    assert mirrored.files() == mirrored.wanted()
    redeem = sorted(mirrored.folder().iterdir())[-2]
    redeem.write_bytes(redeem.read_bytes()[:50])
    (mirrored.folder() / f".{redeem.name}.abc.part").write_bytes(b"half")
    (mirrored.folder() / "0000000099.json").write_bytes(b"{}")
    (mirrored.folder() / "somebody's.txt").write_bytes(b"keep")
    other = mirrored.disk / "t-other-0"
    other.mkdir()
    (other / "0000000001.json").write_bytes(b"{}")
    mirrored.restart()
    mirrored.caught_up()
    (mirrored.folder() / "somebody's.txt").unlink()
    assert mirrored.files() == mirrored.wanted()
    assert (other / "0000000001.json").exists()


Break = Callable[[Mirrored, pytest.MonkeyPatch], Callable[[], None]]


def _full(_: Mirrored, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    real = durable.write

    def write(path: Path, data: bytes, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    patch.setattr(mirror.durable, "write", write)  # type: ignore[attr-defined]
    return lambda: patch.setattr(mirror.durable, "write", real)  # type: ignore[attr-defined]


def _gone(of: Mirrored, _: pytest.MonkeyPatch) -> Callable[[], None]:
    away = of.disk.with_name("away")
    of.disk.rename(away)

    def back() -> None:
        shutil.rmtree(away)
        of.disk.mkdir()  # another, empty stick

    return back


def _failing(of: Mirrored, _: pytest.MonkeyPatch) -> Callable[[], None]:
    """A file system that became read-only, as one with errors does."""
    shutil.rmtree(of.folder())
    of.folder().write_bytes(b"")
    return lambda: of.folder().unlink()


@pytest.mark.parametrize(
    ("broken", "state"), [(_full, "full"), (_gone, "gone"), (_failing, "failing")]
)
def test_a_second_disk_that_fails_stops_no_sale(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch, broken: Break, state: str
) -> None:
    """It is said in one sentence; when it is back, or another one, what is missing is written."""
    mirrored.caught_up()
    mend = broken(mirrored, monkeypatch)
    assert mirrored.shop.sell(mirrored.family, 1_000).state == "provisional"
    mirrored.caught_up()
    standing = mirrored.kept.standing()
    assert standing.state == state and standing.waiting > 0
    told = sentences.mirror_said(standing)
    assert "Sales go on." in told["en"] and "不影响核销" in told["zh"]
    mend()
    assert mirrored.shop.sell(mirrored.family, 1_000).state == "provisional"
    mirrored.caught_up()
    assert mirrored.state() == "same_disk"
    assert mirrored.files() == mirrored.wanted() and mirrored.kept.standing().waiting == 0


def test_a_second_disk_that_hangs_stops_no_sale(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sale waits for it for as long as it may, later ones not at all; when it answers again the
    mirror is whole."""
    mirrored.caught_up()
    hangs, waits = threading.Event(), threading.Event()
    real = durable.write

    def write(path: Path, data: bytes, **more: Any) -> None:
        waits.set()
        assert hangs.wait(30)
        real(path, data, **more)

    monkeypatch.setattr(mirror.durable, "write", write)  # type: ignore[attr-defined]
    monkeypatch.setattr(mirrored.kept, "_wait_s", 0.05)
    assert mirrored.shop.sell(mirrored.family, 1_000).state == "provisional"
    assert waits.wait(30) and mirrored.state() == "slow"
    monkeypatch.setattr(mirrored.kept, "_wait_s", 3_600)
    assert mirrored.shop.sell(mirrored.family, 1_000).state == "provisional"
    hangs.set()
    mirrored.kept.wake()
    mirrored.caught_up()
    assert mirrored.files() == mirrored.wanted()


def test_a_mirror_on_the_tills_own_disk_is_told_from_one_that_helps(mirrored: Mirrored) -> None:
    """As when a stick was pulled out and its folder stayed: it is kept and said."""
    shop = mirrored.shop
    other = mirrored.disk.with_name("other")
    other.mkdir()
    kept = Mirror(
        other, shop.till.journal, beside=shop.folder,
        device=lambda path: 1 if path == shop.folder else 2,
    )  # fmt: skip
    kept.one_pass()
    assert kept.standing().state == "fine"
    mirrored.caught_up()
    assert mirrored.state() == "same_disk"


def test_the_plugin_says_how_the_mirror_stands(mirrored: Mirrored, tmp_path: Path) -> None:
    """`mirror` in plugin.toml names the folder; status has its sentence, or null without one."""
    settings = Settings.read({"mirror": str(mirrored.disk)}, tmp_path / "till")
    assert settings.mirror == mirrored.disk
    mirrored.caught_up()
    with plugged(mirrored.shop.world, mirrored.shop.till, Faults()) as opened:
        told = opened.get("/api/status")["mirror"]
    assert told["state"] == "same_disk" and told["waiting"] == 0 and told["en"] and told["zh"]
    mirrored.restart(with_disk=False)
    with plugged(mirrored.shop.world, mirrored.shop.till, Faults()) as opened:
        assert opened.get("/api/status")["mirror"] is None
