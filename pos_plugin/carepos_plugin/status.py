"""Where the till stands, for a screen: what is open, the ledger, the pack, the printer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carepos import clock, jws
from carepos.enrolment import Enrolment
from carepos.errors import Malformed
from carepos.journal import JournalView
from carepos_plugin import shown
from carepos_plugin.print_queue import PrintQueue
from carepos_plugin.settings import PrinterAddress, Settings
from carepos_plugin.upkeep import Chores, Contact


def of_journal(folder: Path, enrolled: Enrolment, journal: JournalView) -> dict[str, Any]:
    """What stands on the disk; can be read beside a running plugin or without one."""
    return {
        "terminal": {
            "terminal": enrolled.terminal,
            "terminal_no": f"{enrolled.terminal_no:04d}",
            "merchant_name": enrolled.merchant_name,
            "store": enrolled.store,
            "store_name": enrolled.store_name,
        },
        "open": shown.open_sales(journal, enrolled.terminal_no),
        "not_uploaded": len(journal.unanswered("start", "redeem", "reversal", "day_report")),
        "pack": {"issued_at": _pack_issued_at(folder, enrolled)},
    }


def of_plugin(
    settings: Settings,
    enrolled: Enrolment,
    journal: JournalView,
    *,
    contact: Contact,
    chores: Chores,
    printing: PrintQueue,
) -> dict[str, Any]:
    """As `of_journal`, with what only the running plugin knows."""
    found = of_journal(settings.folder, enrolled, journal)
    checked_at = chores.pack_checked_at
    return {
        **found,
        "ledger": {"url": enrolled.url, **contact.to_json()},
        "pack": {
            **found["pack"],
            "checked_at": None if checked_at is None else clock.to_text(checked_at),
        },
        "printer": {
            "printer": printer_text(settings.printer),
            "waiting": len(journal.print_jobs(queued=True)),
            "unsure": [
                {
                    "receipt_no": slip.receipt_no,
                    "copy_no": slip.copy_no,
                    "state": slip.state,
                    "reason": slip.reason,
                    "en": f"Receipt {slip.receipt_no} may not be on paper. "
                    "Look at the printer, then print it again.",
                    "zh": f"小票 {slip.receipt_no} 可能未打出，请检查打印机后补打。",
                }
                for slip in printing.unsure
            ],
        },
    }


def printer_text(address: PrinterAddress) -> str:
    """As in `plugin.toml`, without the machine's own paths."""
    if address.kind == "tcp":
        return f"tcp://{address.host}:{address.port}"
    return address.kind


def _pack_issued_at(folder: Path, enrolled: Enrolment) -> str | None:
    """When the ledger signed the pack that this till holds; None when it holds none."""
    try:
        text = (folder / "pack.manifest").read_text("ascii").strip()
        signed = jws.verify(text, typ=jws.MANIFEST, keys=enrolled.ledger_keys.keys)
        return clock.to_text(clock.from_text(signed.payload.get("issued_at")))
    except (OSError, UnicodeDecodeError, Malformed):
        return None
