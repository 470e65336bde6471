"""Where the till stands, for a screen: what is open, the ledger, the pack, the printer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from carepos import Till, backoff, clock, healing, pack, readiness, ticked_off
from carepos.clock import Clock
from carepos.clock_ratchet import ClockRatchet
from carepos.disk_room import DiskRoom, Room
from carepos.enrolment import Enrolment
from carepos.journal_view import Attempt, JournalView
from carepos.readiness import Readiness
from carepos_plugin import offline_words, sentences, shown
from carepos_plugin.held_code import HeldCode
from carepos_plugin.pad_link import PadLink
from carepos_plugin.pin_pad import PinPad
from carepos_plugin.print_queue import PrintQueue
from carepos_plugin.put_back_words import put_back_said
from carepos_plugin.settings import PrinterAddress, Settings
from carepos_plugin.upkeep import Chores, Contact


def of_journal(
    folder: Path,
    enrolled: Enrolment,
    journal: JournalView,
    *,
    ratchet: ClockRatchet,
    room: Room | None = None,
    next_try: Callable[[Attempt], datetime | None] | None = None,
    can_accept: Callable[[Attempt], bool] = lambda _: False,
    running: bool = True,
) -> dict[str, Any]:
    """What stands on the disk; can be read beside a running plugin or without one.

    `next_try`: when an open sale is asked about again, by default as the journal has it.
    `can_accept`: whether one may leave without the ledger's word, which only a running till knows.
    `running`: whether a process runs the till, for without one nothing happens by itself.
    """
    now = ratchet.now

    def tries(sale: Attempt) -> dict[str, str] | None:
        at = next_try(sale) if next_try else backoff.of_attempt(journal, sale, now())
        return sentences.next_try_said(at, now())

    def now_told(each: dict[str, Any]) -> dict[str, Any]:
        return each if running else shown.while_stopped(each)

    open_sales = shown.open_sales(journal, enrolled.terminal_no, tries, can_accept)
    room = room or DiskRoom(folder).room()
    held = _kept(folder, enrolled)
    ready = readiness.of(held, journal, ratchet, room)
    return {
        "terminal": {
            "terminal": enrolled.terminal,
            "terminal_no": f"{enrolled.terminal_no:04d}",
            "merchant_name": enrolled.merchant_name,
            "store": enrolled.store,
            "store_name": enrolled.store_name,
        },
        "stopped": offline_words.stopped_said(journal.not_served_for()),
        "clock": sentences.clock_said(ratchet.standing()),
        "disk": sentences.disk_said(room),
        "offline": offline_words.readiness_said(ready, now()),
        "put_back": put_back_said(journal),
        "stored": _stored(ready, journal, running=running),
        "exceptions": offline_words.exceptions_said(ticked_off.count(journal)),
        "healing": sentences.healing_said(healing.state_of(journal)),
        "open": [now_told(each) for each in open_sales],
        "corrections": [now_told(each) for each in shown.open_undos(journal, enrolled)],
        "not_uploaded": journal.not_uploaded(),
        "pack": _pack(held, now),
    }


def _stored(ready: Readiness, journal: JournalView, *, running: bool) -> list[dict[str, Any]]:
    """Sales that left without the ledger's word, by programme and not one by one: after three days
    there are hundreds, and nobody has anything to do for them."""
    kept = journal.stored_by_programme()
    return [
        offline_words.stored_said(each, kept[each.programme], running=running)
        for each in ready.stored
        if each.programme in kept
    ]


def of_plugin(
    settings: Settings,
    till: Till,
    *,
    contact: Contact,
    chores: Chores,
    printing: PrintQueue,
    pad: PinPad,
    link: PadLink,
    held: HeldCode,
    running: bool = True,
) -> dict[str, Any]:
    """As `of_journal`, with what only the process knows that has the till open."""
    enrolled, journal = till.enrolment, till.journal
    found = of_journal(
        settings.folder,
        enrolled,
        journal,
        ratchet=till.ratchet,
        room=till.room(),
        next_try=till.next_try_of,
        running=running,
        can_accept=lambda sale: sale.state == "unknown" and till.can_accept(sale.checkout),
    )
    checked_at = chores.pack_checked_at
    return {
        **found,
        "ledger": {"url": enrolled.url, **contact.to_json()},
        "pack": {
            **found["pack"],
            "checked_at": None if checked_at is None else clock.to_text(checked_at),
        },
        "mirror": None if till.mirror is None else sentences.mirror_said(till.mirror.standing()),
        "pin_pad": {"paired": link.paired, "answering": pad.answering()},
        "device": {"code_waiting": held.waiting()},
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


def _pack(held: pack.Pack | None, now: Clock) -> dict[str, Any]:
    """How old the pack is that this till holds, and the keys in it; nulls when it holds none.

    The keys are as old as the pack: the ledger names those that count when it signs it.
    """
    if held is None:
        return {"issued_at": None, "age_s": None, "issuers": [], "revocations_version": None}
    return {
        "issued_at": clock.to_text(held.issued_at),
        "age_s": max(0, int((now() - held.issued_at).total_seconds())),
        "issuers": [
            {"iss": iss, "keys": len(keys.keys)} for iss, keys in sorted(held.issuers.items())
        ],
        "revocations_version": held.revocations.version,
    }


def _kept(folder: Path, enrolled: Enrolment) -> pack.Pack | None:
    try:
        manifest = (folder / "pack.manifest").read_bytes()
    except OSError:
        return None
    return _read(folder, enrolled, manifest)


@lru_cache(maxsize=1)
def _read(folder: Path, enrolled: Enrolment, _manifest: bytes) -> pack.Pack | None:
    """Read anew when the manifest is another one: a screen asks every few seconds."""
    return pack.kept(folder, terminal=enrolled.terminal, keys=enrolled.ledger_keys.keys)
