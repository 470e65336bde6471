"""Receipts on their way to paper: one after the other, beside the sale and never in its way.

The queue itself is in the journal. A job is marked before its first byte leaves and again with what
became of it, so that after a crash `printing` reads `unknown` and nothing is silently printed twice
(INV-4, FAULTS E). A job that failed is not tried again by itself: the cashier reprints it, as COPY.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from carepos import ids, receipt, receipt_layout
from carepos.journal import Journal
from carepos.journal_view import PrintJob, PrintState
from carepos.receipt import Receipt
from carepos.till import Reached, pass_by
from carepos_plugin.printing import printers
from carepos_plugin.printing.printers import Printer, PrintResult

POINTS = ("print_marked", "print_sent")
"""The points a job passes, told to `reached` as those of a redemption are."""

NO_PRINTER = "no_printer"
NOT_A_RECEIPT = "not_a_receipt"
RESTARTED = "restarted"

_STATES: Final[dict[printers.PrintState, PrintState]] = {
    printers.PrintState.PRINTED: "printed",
    printers.PrintState.FAILED: "failed",
    printers.PrintState.UNKNOWN: "unknown",
}
_NUMBERS_TO_LOOK_AT = 100

_log = logging.getLogger(__name__)


class NoPrinter:
    """For shops whose register prints the text itself: nothing comes on paper here."""

    def print_job(self, job: printers.PrintJob) -> PrintResult:
        return PrintResult(printers.PrintState.FAILED, NO_PRINTER)


@dataclass(frozen=True, slots=True)
class Slip:
    """What became of one job, and why; `copy_no` as of the journal's `PrintJob`."""

    receipt_no: str
    copy_no: int
    state: PrintState
    reason: str


class PrintQueue:
    """Prints what the journal has queued. `start()` does it in the background from then on.

    `encode` makes the printer's bytes; `columns` is the width of the text beside them.
    `terminal_no` is the till's, as it stands in its receipts' numbers.
    """

    def __init__(
        self,
        journal: Journal,
        printer: Printer,
        encode: Callable[[Receipt], bytes],
        *,
        columns: int,
        terminal_no: int,
        reached: Reached = pass_by,
    ) -> None:
        self._journal = journal
        self._printer = printer
        self._encode = encode
        self._columns = columns
        self._reached = reached
        self._one_at_a_time = threading.Lock()
        self._something = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._last: Slip | None = None
        self._unsure = _unsure_since_before(journal, terminal_no)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="print-queue", daemon=True)
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """There may be something to print."""
        self._something.set()

    def close(self) -> None:
        """Let the job that is being printed end; what is queued waits for the next start."""
        self._stopping = True
        self._something.set()
        if self._thread is not None:
            self._thread.join()

    def print_waiting(self) -> list[Slip]:
        """Print everything queued, in order; what became of each. Raises JournalError."""
        with self._one_at_a_time:
            done = []
            for job in self._journal.print_jobs(queued=True):
                if self._stopping:
                    break
                done.append(self._print(job))
            return done

    def print_drill(self, slip: Receipt) -> Slip:
        """Print a slip that is nobody's receipt, between two jobs; the journal does not know."""
        with self._one_at_a_time:
            return print_drill(slip, self._printer, self._encode, self._columns)

    @property
    def last(self) -> Slip | None:
        """The newest job of this run."""
        return self._last

    @property
    def unsure(self) -> list[Slip]:
        """Receipts of which nobody can say that they are on paper."""
        return list(self._unsure.values())

    def _run(self) -> None:
        while not self._stopping:
            self._something.wait()
            self._something.clear()
            try:
                self.print_waiting()
            except Exception as error:  # noqa: BLE001  a closed journal, a disk: tried again at the next wake
                _log.error("printing stopped: %s", type(error).__name__)

    def _print(self, job: PrintJob) -> Slip:
        try:
            slip = receipt.from_json_object(job.slip)
            sheet = sheet_of(slip, self._encode, self._columns, _name(job, slip))
        except Exception as error:  # noqa: BLE001  whatever a slip holds, the next one is printed
            _log.error("a slip can't be printed: %s", type(error).__name__)
            return self._ended(job, PrintResult(printers.PrintState.FAILED, NOT_A_RECEIPT))
        self._journal.print_started(job.n)
        self._reached("print_marked")
        result = _put_on_paper(self._printer, sheet)
        self._reached("print_sent")
        return self._ended(job, result)

    def _ended(self, job: PrintJob, result: PrintResult) -> Slip:
        slip = Slip(job.receipt_no, job.copy_no, _STATES[result.state], result.reason)
        self._journal.print_ended(job.n, slip.state)
        self._last = slip
        self._unsure.pop(slip.receipt_no, None)
        if slip.state != "printed" and slip.reason != NO_PRINTER:
            self._unsure[slip.receipt_no] = slip
            _log.warning("receipt %s: %s (%s)", slip.receipt_no, slip.state, slip.reason)
        return slip


def print_drill(
    slip: Receipt, printer: Printer, encode: Callable[[Receipt], bytes], columns: int
) -> Slip:
    """As `PrintQueue.print_drill`, where no plugin runs that could be printing."""
    result = _put_on_paper(printer, sheet_of(slip, encode, columns, "drill"))
    return Slip("", 0, _STATES[result.state], result.reason)


def sheet_of(
    slip: Receipt, encode: Callable[[Receipt], bytes], columns: int, name: str
) -> printers.PrintJob:
    """What a printer is given of a slip."""
    return printers.PrintJob(name, encode(slip), receipt_layout.render_text(slip, columns))


def _put_on_paper(printer: Printer, sheet: printers.PrintJob) -> PrintResult:
    try:
        return printer.print_job(sheet)
    except Exception as error:  # noqa: BLE001  against its promise: some of it may be on paper
        _log.error("a printer failed: %s", type(error).__name__)
        return PrintResult(printers.PrintState.UNKNOWN, printers.PRINTER_ERROR)


def _name(job: PrintJob, slip: Receipt) -> str:
    if slip.is_copy:
        return f"{job.receipt_no}-copy{job.copy_no}"
    return f"{job.receipt_no}-void" if slip.kind == "VOIDED" else job.receipt_no


def _unsure_since_before(journal: Journal, terminal_no: int) -> dict[str, Slip]:
    """Of the newest numbers, the receipts whose last slip was at the printer when the till stopped.

    Number by number: a till's receipts of years are more than it should read at each start.
    """
    found = {}
    last = journal.sequence
    for sequence in range(max(1, last - _NUMBERS_TO_LOOK_AT + 1), last + 1):
        jobs = journal.print_jobs(ids.receipt_no(terminal_no, sequence))
        # The last slip counts: once a copy is on paper, nobody need be asked.
        if jobs and jobs[-1].state == "unknown":
            slip = Slip(jobs[-1].receipt_no, jobs[-1].copy_no, "unknown", RESTARTED)
            found[slip.receipt_no] = slip
    return found
