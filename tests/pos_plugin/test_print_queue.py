"""Paper beside money: whatever the printer does, the sale stands, and nobody is told a lie (FE)."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from carepos.receipt import from_json_object
from carepos_plugin.printing.printers import (
    NetworkPrinter,
    PrintJob,
    PrintResult,
    PrintState,
)
from sample_merchant.paper import decode
from sample_merchant.virtual_printer import Mode, VirtualPrinter
from tests.pos_plugin.rig import Rig, plugged, rig

CHECKOUT = "S1-000001"


def _network(virtual: VirtualPrinter) -> NetworkPrinter:
    return NetworkPrinter("127.0.0.1", virtual.port, timeout_s=1.5, state_timeout_s=0.3)


def _slips(shop: Rig, receipt_no: str) -> list[tuple[int, str]]:
    found = shop.get(f"/api/receipts/{receipt_no}")["slips"]
    return [(slip["copy_no"], slip["state"]) for slip in found]


def _reprint(shop: Rig, receipt_no: str) -> int:
    return int(shop.post(f"/api/receipts/{receipt_no}/print", {})["copy_no"])


def test_a_sale_comes_out_of_the_printer_by_itself(tmp_path: Path) -> None:
    """A confirmed sale is printed in the background, once, with its number on it."""
    with VirtualPrinter() as virtual:
        with rig(tmp_path, prints_on=_network(virtual), background=True) as shop:
            sale = shop.sell()
            (job,) = virtual.wait_for_jobs(1)
        text = "\n".join(item.text for item in decode(job).items if hasattr(item, "text"))
        assert sale["receipt_no"] in text
        assert "已核销" in text
        assert "副本" not in text
        assert shop.till.journal._closed == "closed"  # after the queue, never under it
        assert len(virtual.jobs) == 1


@pytest.mark.parametrize(
    ("mode", "state", "reason"),
    [
        ("paper_out", "failed", "paper_out"),
        ("offline", "failed", "cover_open"),
        ("paper_runs_out", "unknown", "paper_out"),
        ("hangup", "unknown", "broken_off"),
        ("silent", "unknown", "no_answer"),
        ("garbage", "unknown", "garbled_answer"),
    ],
)
def test_fe1_a_printer_in_trouble_never_touches_the_sale(
    tmp_path: Path, mode: Mode, state: str, reason: str
) -> None:
    """FE-1, FE-3: the sale is confirmed, the print is what it is, and a reprint says COPY."""
    with VirtualPrinter(mode) as virtual, rig(tmp_path, prints_on=_network(virtual)) as shop:
        sale = shop.sell()
        shop.plugin.print_queue.print_waiting()
        assert shop.get(f"/api/checkouts/{CHECKOUT}")["state"] == "confirmed"
        assert _slips(shop, sale["receipt_no"]) == [(0, state)]
        (unsure,) = shop.get("/api/status")["printer"]["unsure"]
        assert (unsure["receipt_no"], unsure["reason"]) == (sale["receipt_no"], reason)
        assert sale["receipt_no"] in unsure["zh"]

        virtual.mode = "online"
        printed = len(virtual.jobs)
        shop.post(f"/api/receipts/{sale['receipt_no']}/print", {})
        shop.plugin.print_queue.print_waiting()
        job = virtual.wait_for_jobs(printed + 1)[-1]
        text = "\n".join(item.text for item in decode(job).items if hasattr(item, "text"))
        assert sale["receipt_no"] in text
        assert "副本" in text
        assert _slips(shop, sale["receipt_no"]) == [(0, state), (1, "printed")]
        assert shop.get("/api/status")["printer"]["unsure"] == []
        assert shop.world.balance() == 12_000 - 6_490


def test_fe1_a_printer_that_is_off_does_not_hold_up_the_next_sale(tmp_path: Path) -> None:
    """FE-1: with the printer switched off, sales go on and each print is a failed one."""
    virtual = VirtualPrinter()
    virtual.stop()
    with rig(tmp_path, prints_on=_network(virtual)) as shop:
        numbers = [shop.sell(f"S1-00000{n}")["receipt_no"] for n in range(3)]
        shop.plugin.print_queue.print_waiting()
        assert [_slips(shop, number) for number in numbers] == [[(0, "failed")]] * 3


def test_fe1_a_slow_printer_holds_up_no_sale(tmp_path: Path) -> None:
    """FE-1: while a printer takes its time, the next customer is served."""
    held, let_go = threading.Event(), threading.Event()

    class Slow:
        def print_job(self, job: PrintJob) -> PrintResult:
            held.set()
            assert let_go.wait(20)
            return PrintResult(PrintState.PRINTED, "ok")

    with rig(tmp_path, prints_on=Slow(), background=True) as shop:
        shop.sell("S1-000001")
        assert held.wait(10)
        assert shop.sell("S1-000002")["state"] == "confirmed"
        let_go.set()


class Crash(BaseException):
    """The process ends here."""


class Recorder:
    """A printer that keeps the names of its jobs."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def print_job(self, job: PrintJob) -> PrintResult:
        self.names.append(job.name)
        return PrintResult(PrintState.PRINTED, "ok")


@pytest.mark.parametrize("point", ["print_marked", "print_sent"])
def test_fe2_after_a_crash_in_mid_job_nothing_is_printed_silently(
    tmp_path: Path, point: str
) -> None:
    """FE-2: the job reads unknown, is not repeated by itself, and the cashier is told."""

    def crash(passed: str) -> None:
        if passed == point:
            raise Crash

    with rig(tmp_path, prints_on=Recorder(), reached=crash) as shop:
        number = shop.sell()["receipt_no"]
        with pytest.raises(Crash):
            shop.plugin.print_queue.print_waiting()
        shop.till.close()
        printer = Recorder()
        with plugged(shop.world, shop.world.till(), shop.faults, prints_on=printer) as again:
            again.plugin.print_queue.print_waiting()
            assert printer.names == []
            assert _slips(again, number) == [(0, "unknown")]
            (unsure,) = again.get("/api/status")["printer"]["unsure"]
            assert (unsure["receipt_no"], unsure["reason"]) == (number, "restarted")
            again.post(f"/api/receipts/{number}/print", {})
            again.plugin.print_queue.print_waiting()
            assert printer.names == [f"{number}-copy1"]
            assert again.get("/api/status")["printer"]["unsure"] == []


def test_a_receipt_printed_again_is_not_doubted_after_the_next_restart(tmp_path: Path) -> None:
    """The cashier is told once: when a copy is on paper, no restart asks for another one."""
    with rig(tmp_path) as shop:
        number = shop.sell()["receipt_no"]
        shop.till.journal.print_started(1)
        shop.till.close()
        with plugged(shop.world, shop.world.till(), shop.faults, prints_on=Recorder()) as again:
            assert again.get("/api/status")["printer"]["unsure"] != []
            again.post(f"/api/receipts/{number}/print", {})
            again.plugin.print_queue.print_waiting()
            again.till.close()
        with plugged(shop.world, shop.world.till(), shop.faults, prints_on=Recorder()) as third:
            assert _slips(third, number) == [(0, "unknown"), (1, "printed")]
            assert third.get("/api/status")["printer"]["unsure"] == []


def test_a_start_does_not_read_every_receipt_there_ever_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a till does at its start does not grow with its years: no look at the whole of paper."""
    with rig(tmp_path) as shop:
        shop.sell()
        shop.till.close()
        till = shop.world.till()
        real, asked = till.journal.print_jobs, []

        def print_jobs(receipt_no: str | None = None, *, queued: bool = False) -> Any:
            asked.append((receipt_no, queued))
            return real(receipt_no, queued=queued)

        monkeypatch.setattr(till.journal, "print_jobs", print_jobs)
        with plugged(shop.world, till, shop.faults, prints_on=Recorder()) as again:
            again.get("/api/status")
        assert asked
        assert (None, False) not in asked


def test_a_printer_that_fails_in_its_own_way_is_unknown_and_ends_nothing(tmp_path: Path) -> None:
    """An adapter that raises against its promise: its slip is unknown, the next one is printed."""
    printer = Recorder()

    class Broken(Recorder):
        def print_job(self, job: PrintJob) -> PrintResult:
            if not printer.names:
                printer.names.append(job.name)
                raise RuntimeError("canary")
            return printer.print_job(job)

    with rig(tmp_path, prints_on=Broken()) as shop:
        numbers = [shop.sell(f"S1-00000{n}")["receipt_no"] for n in range(2)]
        done = shop.plugin.print_queue.print_waiting()
        assert [(slip.state, slip.reason) for slip in done] == [
            ("unknown", "printer_error"),
            ("printed", "ok"),
        ]
        assert printer.names == numbers
        (unsure,) = shop.get("/api/status")["printer"]["unsure"]
        assert unsure["receipt_no"] == numbers[0]


def test_a_disk_that_can_not_be_read_once_does_not_end_printing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that prints outlives a failed look at the queue; the slip comes out later."""
    failed, printed = threading.Event(), threading.Event()

    class Tells(Recorder):
        def print_job(self, job: PrintJob) -> PrintResult:
            printed.set()
            return super().print_job(job)

    with rig(tmp_path, prints_on=Tells()) as shop:
        shop.sell()
        real = shop.till.journal.print_jobs

        def jobs(*given: Any, **named: Any) -> Any:
            if failed.is_set():
                return real(*given, **named)
            failed.set()
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(shop.till.journal, "print_jobs", jobs)
        shop.plugin.print_queue.start()
        assert failed.wait(20)
        shop.plugin.print_queue.wake()
        assert printed.wait(5)


def test_fa7_a_double_click_on_print_is_one_copy(tmp_path: Path) -> None:
    """FA-7: a copy that still waits is not queued again; once it is out, the next one may be."""
    printer = Recorder()
    with rig(tmp_path, prints_on=printer) as shop:
        number = shop.sell()["receipt_no"]
        start = threading.Barrier(4)

        def click(_: int) -> int:
            start.wait()
            return _reprint(shop, number)

        with ThreadPoolExecutor(4) as clicks:
            assert list(clicks.map(click, range(4))) == [1] * 4
        shop.plugin.print_queue.print_waiting()
        assert printer.names == [number, f"{number}-copy1"]
        assert _reprint(shop, number) == 2


def test_what_was_queued_before_a_restart_is_printed_after_it(tmp_path: Path) -> None:
    """A slip that had not begun when the power went is printed as the original it is."""
    with rig(tmp_path) as shop:
        number = shop.sell()["receipt_no"]
        shop.till.close()
        printer = Recorder()
        with plugged(shop.world, shop.world.till(), shop.faults, prints_on=printer) as again:
            again.plugin.print_queue.print_waiting()
            assert printer.names == [number]
            assert _slips(again, number) == [(0, "printed")]


def test_a_slip_that_can_not_be_read_does_not_stop_the_next(tmp_path: Path) -> None:
    """A job of another format is a failed one; the one behind it is printed."""
    printer = Recorder()
    with rig(tmp_path, prints_on=printer) as shop:
        shop.sell("S1-000001")
        number = shop.sell("S1-000002")["receipt_no"]
        with shop.till.journal._transaction():
            shop.till.journal._db.execute("UPDATE print_jobs SET slip = '{}' WHERE n = 1")
        done = shop.plugin.print_queue.print_waiting()
        assert [(slip.state, slip.reason) for slip in done] == [
            ("failed", "not_a_receipt"),
            ("printed", "ok"),
        ]
        assert printer.names == [number]


def test_two_threads_print_a_slip_once(tmp_path: Path) -> None:
    """However many look into the queue at once, each job is sent once."""
    printer = Recorder()
    with rig(tmp_path, prints_on=printer) as shop:
        numbers = [shop.sell(f"S1-00000{n}")["receipt_no"] for n in range(3)]
        threads = [threading.Thread(target=shop.plugin.print_queue.print_waiting) for _ in "1234"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert printer.names == numbers


def test_a_shop_without_a_printer_gets_the_text_and_no_alarm(tmp_path: Path) -> None:
    """printer = "none": the register has the text; old slips never pour out of a later printer."""
    with rig(tmp_path) as shop:
        sale = shop.sell()
        assert sale["receipt_text"]
        shop.plugin.print_queue.print_waiting()
        assert _slips(shop, sale["receipt_no"]) == [(0, "failed")]
        path = f"/api/receipts/{sale['receipt_no']}/print"
        assert shop.refused("POST", path, {}) == (409, "no_printer")
        assert _slips(shop, sale["receipt_no"]) == [(0, "failed")]
        assert shop.get("/api/status")["printer"] == {
            "printer": "none",
            "waiting": 0,
            "unsure": [],
        }


def test_receipts_into_a_folder(tmp_path: Path) -> None:
    """printer = "file:…": each slip is a text and the printer's bytes, copies beside them."""
    folder = tmp_path / "receipts"
    with rig(tmp_path, printer=f"file:{folder}") as shop:
        queue = shop.plugin.print_queue
        number = shop.sell()["receipt_no"]
        queue.print_waiting()
        shop.post(f"/api/receipts/{number}/print", {})
        queue.print_waiting()
        assert sorted(path.name for path in folder.iterdir()) == [
            f"receipt-{number}-copy1.bin",
            f"receipt-{number}-copy1.txt",
            f"receipt-{number}.bin",
            f"receipt-{number}.txt",
        ]
        copy = (folder / f"receipt-{number}-copy1.txt").read_text("utf-8")
        assert copy == shop.get(f"/api/receipts/{number}")["text"]


def test_a_closed_journal_ends_printing_and_not_the_plugin(tmp_path: Path) -> None:
    """FA-3: when the journal is closed, the queue's thread goes on waiting and can be ended."""
    with rig(tmp_path, prints_on=Recorder(), background=True) as shop:
        shop.till.journal._closed = "a write failed"
        shop.plugin.print_queue.wake()
        assert shop.call("GET", "/api/status").status_code == 200


def test_the_slip_is_the_receipt_of_the_sale(tmp_path: Path) -> None:
    """What is queued is the same receipt that the register got, as data."""
    with rig(tmp_path) as shop:
        sale = shop.sell()
        (job,) = shop.till.journal.print_jobs()
        slip: Any = from_json_object(job.slip)
        assert (slip.receipt_no, slip.programme_minor) == (sale["receipt_no"], 6_490)
        assert slip.is_copy is False
