"""FA-3, FA-6, FA-8, FD-2, FG-11: the till's disk, full and failing for real, before a real ledger.

A till runs in a process of its own; there fsync and write are made to fail beneath SQLite, or the
folder lies on a disk of a few MiB that is filled up.
"""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from carepos import (
    DiskFull,
    EnrolmentFailed,
    JournalError,
    JournalLocked,
    Till,
)
from carepos.disk_room import FILE, LEAST_BYTES, MIB, RESERVE_BYTES, DiskRoom
from carepos.journal_view import JournalView
from tests.failing_disk import environment
from tests.faulty_proxy import FaultyProxy, between
from tests.pos_plugin.rig import rig
from tests.sdk.test_journal import FailingDisk
from tests.stories.test_redemption import a_shop
from tests.world import World, milk, world

TILL = """
    import sys
    from pathlib import Path
    from carepos import JournalClosed, NotWritten, Till
    from tests.world import FakeClock, milk

    folder, fault, point, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]

    def reached(name):
        print(name, flush=True)
        if name == point:
            fault.write_text(what)

    with Till.open(folder, now=FakeClock(), reached=reached, answer_timeout_s=20) as till:
        offer = till.propose(sys.stdin.readline().strip(), [milk(6_000)])
        if point == "intent":
            fault.write_text(what)
        for checkout in ("S1", "S2"):
            try:
                print(till.redeem(offer, checkout=checkout, cashier="c01").state)
            except JournalClosed:
                print("closed", checkout)
            except NotWritten:
                print("not written", checkout)
        print("jobs", len(till.journal.print_jobs()))
"""


@contextmanager
def place(folder: Path) -> Iterator[tuple[World, FaultyProxy, Path]]:
    """A ledger, a wire, and the folder of an enrolled till that nobody has opened."""
    with world(folder) as made, between(made.url) as proxy:
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        Till.enrol(folder / "till", url=proxy.url, activation=code)
        yield made, proxy, folder / "till"


def run(made: World, folder: Path, point: str, what: str) -> list[str]:
    """What the till's process said, whose disk fails with `what` from `point` on."""
    fault = made.folder / "fault"
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TILL), folder, fault, point, what],
        input=made.family().token() + "\n",
        env=environment(made.folder, fault),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    "what", [f"fsync {errno.EIO} journal.db", f"fsync {errno.ENOSPC} journal.db",
             f"write {errno.ENOSPC} journal.db", f"write {errno.EIO} journal.db"],
    ids=["fsync-EIO", "fsync-ENOSPC", "write-ENOSPC", "write-EIO"],
)  # fmt: skip
def test_fa3_no_intent_on_the_disk_no_request(tmp_path: Path, what: str) -> None:
    """FA-3, FA-8: fsync or write of the intent fails beneath SQLite: the sale is refused, nothing
    is sent, and but for want of room nothing more is sold before a restart; a record that is there
    after all is asked about and reversed, never sent as a sale."""
    told = "not written" if what.startswith(f"write {errno.ENOSPC}") else "closed"
    with place(tmp_path) as (made, proxy, folder):
        assert run(made, folder, "intent", what) == [f"{told} S1", f"{told} S2", "jobs 0"]
        assert proxy.sent == [] and made.balance() == 12_000
        with Till.open(folder, now=made.now, answer_timeout_s=20) as till:
            reappeared = what.startswith("fsync")
            assert [s.state for s in till.settle()] == (["reversed"] if reappeared else [])
            assert till.journal.verify() == till.journal.sequence
            offer = till.propose(made.family().token(), [milk(1_000)])
            assert till.redeem(offer, checkout="S3", cashier="c01").state == "confirmed"


@pytest.mark.parametrize(
    "what", [f"fsync {errno.EIO} journal.db", f"write {errno.ENOSPC} journal.db"],
    ids=["fsync-EIO", "write-ENOSPC"],
)  # fmt: skip
def test_fd2_no_outcome_on_the_disk_no_receipt(tmp_path: Path, what: str) -> None:
    """FD-2: the ledger has booked it, the outcome can't be written: not confirmed, not printed.
    After the restart the ledger is asked, then the cashier; an fsync that failed may have left the
    outcome there, and then it is the sale that stands."""
    with place(tmp_path) as (made, _, folder):
        told = "not written" if what.startswith("write") else "closed"
        said = run(made, folder, "answer_read", what)
        assert said == ["intent_written", "before_send", "answer_read", f"{told} S1",
                        f"{told} S2", "jobs 0"]  # fmt: skip
        assert made.balance() == 6_000
        with Till.open(folder, now=made.now, answer_timeout_s=20) as till:
            till.settle()
            state = till.status("S1").state
            assert state == ("confirmed" if what.startswith("fsync") else "goods_asked")
            till.answer_goods("S1", handed_over=True) if state == "goods_asked" else None
            assert len(till.journal.print_jobs()) == 1
            assert till.close_day().report.confirmed == 1


# a disk of a few MiB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is free."""
    filler = folder / "photos.zip"
    with filler.open("ab", buffering=0) as file:
        for size in (MIB, 4_096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\1" * size)
    return filler


def test_fa8_a_full_disk_stops_sales_and_nothing_else(small_disk: Path, tmp_path: Path) -> None:
    """FA-8: the disk runs full under a till that sells. The next sale is refused before it is
    written; what is open is reversed and the day closed, from the reserve, without a restart and
    after one; with room the reserve is back, and so are the sales."""
    with world(tmp_path) as made, a_shop(made, small_disk / "till") as shop:
        assert shop.till.disk.room().has_reserve
        offer = shop.offer(made.family(12_000))
        shop.proxy.fail("drop_after")
        assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
        filler = fill(small_disk)
        sent = len(shop.proxy.sent)
        offer = shop.offer(made.family(12_000))
        with pytest.raises(DiskFull):
            shop.till.redeem(offer, checkout="S2", cashier="c01")
        assert len(shop.proxy.sent) == sent and shop.till.disk.room().state == "full"
        shop.proxy.fail("drop_before", times=1_000, target="")
        for _ in range(200):  # until the pages that the journal has are used up
            if not shop.till.disk.room().has_reserve:
                break
            shop.till.close_day()
        assert not shop.till.disk.room().has_reserve
        shop.proxy.clear()
        assert shop.till.cancel("S1").state == "reversed" and shop.till.room().state == "full"
        assert shop.till.journal.verify() == shop.till.journal.sequence
        shop.reopen()
        assert shop.till.close_day().acknowledged
        offer = shop.offer(made.family(12_000))
        with pytest.raises(DiskFull):
            shop.till.redeem(offer, checkout="S2", cashier="c01")
        assert not shop.till.disk.refill()
        filler.unlink()
        assert shop.till.disk.refill() and shop.till.disk.room().has_reserve
        assert shop.till.redeem(offer, checkout="S2", cashier="c01").state == "confirmed"
        assert shop.till.journal.verify() == shop.till.journal.sequence


class FullDisk:
    """Delegates to a connection whose COMMIT finds no room while `is_full` says so."""

    def __init__(self, connection: sqlite3.Connection, is_full: Callable[[], bool]) -> None:
        self._connection = connection
        self._is_full = is_full

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT" and self._is_full():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(statement, *values)


def test_fa8_the_register_ends_the_day_on_a_full_disk(tmp_path: Path) -> None:
    """FA-8: with the plugin running, the first write that finds no room lets the reserve go and is
    made from it: a void and the day's report need no restart. Once that is used up too, the answer
    says that nothing was written, and with room the same call is done."""
    with rig(tmp_path) as shop:
        numbers = [shop.sell(checkout)["receipt_no"] for checkout in ("S1", "S2")]
        voids = [{"receipt_no": n, "cashier": "c01", "reason": "wrong_goods"} for n in numbers]
        journal, reserve = shop.till.journal, shop.till.folder / FILE
        has_room, used_up = [False], [False]
        shop.till.disk._free = lambda _: 100 * MIB if has_room[0] else 0
        full: Any = FullDisk(
            journal._db, lambda: not has_room[0] and (reserve.exists() or used_up[0])
        )
        journal._db = full
        assert shop.post("/api/checkouts/S1/void", voids[0])["state"] == "posted"
        assert not reserve.exists()
        assert shop.post("/api/day-close", {})["acknowledged"] is True
        assert shop.get("/api/status")["disk"]["state"] == "full"
        used_up[0] = True
        written = journal.sequence
        refused = shop.refused("POST", "/api/checkouts/S2/void", voids[1])
        assert refused == (503, "not_written")
        assert journal.sequence == written and len(shop.till.corrections()) == 1
        has_room[0] = True
        assert shop.post("/api/checkouts/S2/void", voids[1])["state"] == "posted"
        assert shop.post("/api/settle", {})["ledger_answered"] is True
        assert reserve.exists() and journal.verify() == journal.sequence


def test_fa8_an_undo_whose_answer_finds_no_room_is_told_to_wait(tmp_path: Path) -> None:
    """FA-8: the void is written and sent, its outcome can't be kept: it is not called unwritten,
    and is settled when there is room."""
    with rig(tmp_path) as shop:
        number = shop.sell("S1")["receipt_no"]
        journal = shop.till.journal
        written, has_room = journal.sequence, [False]
        full: Any = FullDisk(
            journal._db, lambda: not has_room[0] and journal.sequence > written and bool(sent)
        )
        sent: list[str] = []
        shop.till._reached = lambda point: sent.append(point) if point == "answer_read" else None
        journal._db = full
        void = {"receipt_no": number, "cashier": "c01", "reason": "wrong_goods"}
        assert shop.post("/api/checkouts/S1/void", void)["state"] == "waiting"
        has_room[0] = True
        shop.post("/api/settle", {})
        assert [each.state for each in shop.till.corrections()] == ["posted"]
        assert journal.sequence == written + 1


def test_fa3_a_till_that_must_be_started_again_says_so_everywhere(tmp_path: Path) -> None:
    """FA-3: after a write that failed otherwise, neither status nor drill calls the disk fine."""
    with rig(tmp_path) as shop:
        shop.till.journal._db = FailingDisk(  # type: ignore[assignment]
            shop.till.journal._db, "COMMIT", after=False
        )
        assert shop.refused("POST", "/api/day-close", {}) == (503, "journal_closed")
        told = shop.get("/api/status")
        assert told["disk"]["state"] == "failed" and "Restart the plugin" in told["disk"]["en"]
        assert "disk_failed" in [each["code"] for each in told["offline"]["why_not"]]
        checks = {each["check"]: each["ok"] for each in shop.post("/api/drill", {})["checks"]}
        assert checks["disk"] is False


def test_fa8_a_till_starts_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """FA-8: the power went while the disk was full: the till opens by itself, from the reserve."""
    with world(tmp_path) as made, a_shop(made, small_disk / "till") as shop:
        offer = shop.offer(made.family(12_000))
        assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "confirmed"
        shop.till.close()
        fill(small_disk)
        shop.reopen()
        assert shop.till.close_day().report.confirmed == 1


def test_fa8_the_reserve_is_really_there(tmp_path: Path) -> None:
    """It takes its blocks on the disk, and bytes that no file system packs away."""
    disk = DiskRoom(tmp_path)
    assert disk.refill() and disk.refill()
    held = (tmp_path / FILE).stat()
    assert held.st_size == RESERVE_BYTES and held.st_blocks * 512 >= RESERVE_BYTES
    assert len(set((tmp_path / FILE).read_bytes()[:4_096])) > 200


@pytest.mark.parametrize(
    ("free", "reserve", "state"),
    [
        (LEAST_BYTES - 1, True, "full"),
        (LEAST_BYTES, True, "low"),
        (RESERVE_BYTES + LEAST_BYTES - 1, False, "full"),
        (256 * MIB - 1, True, "low"),
        (256 * MIB, True, "fine"),
    ],
)
def test_a_word_before_it_is_too_late(tmp_path: Path, free: int, reserve: bool, state: str) -> None:
    """Below 256 MiB it is said; below the least, or without the reserve, nothing new is sold."""
    free_bytes = [1_000 * MIB]
    disk = DiskRoom(tmp_path, free=lambda _: free_bytes[0])
    if reserve:
        disk.refill()
    free_bytes[0] = free
    assert disk.room().state == state
    assert disk.refill() is reserve


def test_fa8_the_reserve_is_let_go_for_want_of_room_alone(tmp_path: Path) -> None:
    """A disk that fails otherwise keeps it; where it is short, any failure lets it go."""
    free = [1_000 * MIB]
    disk = DiskRoom(tmp_path, free=lambda _: free[0])
    disk.refill()
    disk.failed(OSError(errno.EIO, "broken"))
    assert disk.room().has_reserve and not disk.release_if_short()
    disk.failed(OSError(errno.ENOSPC, "full"))
    assert not disk.room().has_reserve
    disk.refill()
    free[0] = 0
    disk.failed(OSError(errno.EIO, "broken"))
    assert not disk.room().has_reserve


def test_fa6_a_second_process_does_not_spend_the_reserve(tmp_path: Path) -> None:
    """FA-6: a till that another process runs is refused, and its reserve stays where it is."""
    with place(tmp_path) as (made, _, folder), Till.open(folder, now=made.now):
        with pytest.raises(JournalLocked):
            Till.open(folder, now=made.now)
        assert (folder / FILE).exists()


def test_the_register_is_told_that_the_disk_is_full(tmp_path: Path) -> None:
    """A problem in both languages instead of a sale; the status says it before, and what to do."""
    with rig(tmp_path) as shop:
        offer = shop.offer("S1", shop.world.family().token())
        shop.till.disk._free = lambda _: 0
        written = shop.written()
        answer = {"offer": offer["offer"], "checkout": "S1", "cashier": "c01"}
        assert shop.refused("POST", "/api/redemptions", answer) == (503, "disk_full")
        assert shop.written() == written
        assert shop.get("/api/status")["disk"]["state"] == "full"
        assert shop.post("/api/day-close", {})["confirmed"] == 0
        shop.till.disk._free = lambda _: 100 * MIB
        told = shop.get("/api/status")["disk"]
        assert told["en"].startswith("The disk is filling up, 100 MiB are free")
        assert shop.redeem("S1", offer)["state"] == "confirmed"


# FG-11


def snapshot(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir())}


@pytest.mark.parametrize("uploaded", [False, True])
def test_fg11_a_folder_with_a_journal_is_not_enrolled_anew(tmp_path: Path, uploaded: bool) -> None:
    """FG-11: the enrolment is gone, the journal is not: a new one is refused with what to do,
    before the code is spent; nothing is changed. With the enrolment back all of it goes up."""
    with world(tmp_path) as made, a_shop(made, tmp_path / "till") as shop:
        if not uploaded:
            offer = shop.offer(made.family(12_000))
            shop.proxy.fail("drop_before")
            assert shop.till.redeem(offer, checkout="S1", cashier="c01").state == "unknown"
        shop.till.settle()
        shop.till.close()
        kept = {
            name: (shop.folder / name).read_bytes() for name in ("enrolment.json", "terminal.key")
        }
        for name in kept:
            (shop.folder / name).unlink()
        code = made.ledger.terminals.new_activation("zhou-shop", 3600).code
        before, seen = snapshot(shop.folder), len(shop.proxy.seen)
        with pytest.raises(EnrolmentFailed) as refused:
            Till.enrol(shop.folder, url=shop.proxy.url, activation=code)
        said = str(refused.value)
        assert ("All of it is uploaded" if uploaded else "1 record of a till") in said
        assert "into another" in said and len(shop.proxy.seen) == seen
        assert snapshot(shop.folder) == before
        other = Till.enrol(tmp_path / "other", url=shop.proxy.url, activation=code)
        for name, data in kept.items():
            (shop.folder / name).write_bytes(data)
        (shop.folder / "terminal.key").chmod(0o600)
        shop.reopen()
        assert shop.till.enrolment.terminal != other.terminal
        shop.till.settle()
        assert shop.till.journal.unfinished() == []


def test_fg11_a_journal_that_cant_be_read_is_not_thrown_away(tmp_path: Path) -> None:
    """FG-11: a garbled journal counts as one that holds something."""
    (tmp_path / "journal.db").write_bytes(b"garbled" * 1_000)
    with pytest.raises(EnrolmentFailed, match="can't be read"):
        Till.enrol(tmp_path, url="http://127.0.0.1:1", activation="cp1.x.y")
    assert [each.name for each in tmp_path.iterdir()] == ["journal.db"]


def test_fg11_a_journal_of_newer_software_is_left_alone(tmp_path: Path) -> None:
    """FG-11: older software, as after a bad update, neither writes nor reads a format that it does
    not know, and says what to do; the newer one finds it as it was."""
    with world(tmp_path) as made, a_shop(made, tmp_path / "till") as shop:
        shop.till.close()
        path = shop.folder / "journal.db"

        def set_format(value: str) -> None:
            with closing(sqlite3.connect(path)) as journal:
                journal.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (value,))
                journal.commit()

        with closing(sqlite3.connect(path)) as journal:
            (ours,) = journal.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        set_format("99")
        before = path.read_bytes()
        keys = shop.till.enrolment.terminal_keys
        for use in (shop.reopen, lambda: JournalView.open(path, keys)):
            with pytest.raises(JournalError, match="the software that wrote it"):
                use()
        assert path.read_bytes() == before
        set_format(ours)
        assert shop.reopen().journal.verify() > 0
