"""Whether till and ledger agree, by a sum of its own over the till's file and the ledger's tables.

Nothing of the product judges here: signed records are taken apart and added up.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from tests.properties.ledger_model import Opened

Row = dict[str, Any]

_OVER: dict[str, set[str | None]] = {
    "confirmed": {"posted"},
    "voided": {"posted"},
    "refused": {"refused"},
    "reversed": {"reversed", "refused"},
    "exception": {"refused", None},
}
"""Where an attempt may stand at the ledger, by where it stands at the till when all is over."""


class Disagree(Exception):
    """What does not hold, by the invariant's number where it has one."""


def need(held: bool, what: str) -> None:
    if not held:
        raise Disagree(what)


@dataclass(frozen=True)
class Shop:
    """Whom it is about: one till, one family of one voucher, and what the cashier gave away."""

    journal: Path
    terminal: str
    issued_minor: int
    left: frozenset[str]


@dataclass(frozen=True)
class Files:
    """The till's tables and, of the ledger's, what is about this till."""

    records: list[Row]
    outcomes: list[Row]
    attempts: list[Row]
    corrections: list[Row]
    jobs: list[Row]
    decided: list[Row]
    there: list[Row]
    postings: list[Row]
    entries: list[Row]
    notes: list[Row]
    alarms: list[Row]
    vouchers: list[Row]
    allotments: list[Row]
    exceptions: list[Row]

    @classmethod
    def read(cls, shop: Shop, ledger: Connection) -> Files:
        with closing(sqlite3.connect(f"{shop.journal.as_uri()}?mode=ro", uri=True)) as journal:
            journal.row_factory = sqlite3.Row
            records, outcomes, attempts, corrections, jobs = (
                [dict(row) for row in journal.execute(f"SELECT * FROM {table} ORDER BY 1")]
                for table in ("records", "outcomes", "attempts", "corrections", "print_jobs")
            )

        def rows(query: str, **more: object) -> list[Row]:
            found = ledger.execute(text(query), {"t": shop.terminal, **more})
            return [dict(row) for row in found.mappings()]

        def of_till(table: str, order: str) -> list[Row]:
            return rows(f"SELECT * FROM {table} WHERE terminal = :t ORDER BY {order}")

        used = {
            entry["voucher"]
            for row in records
            if row["kind"] == "redeem"
            for entry in Opened.of(row["jws"]).payload["content"]["allocation"]
        }
        vouchers = [
            row
            for voucher in sorted(used)
            for row in rows("SELECT * FROM vouchers WHERE voucher = :v", v=voucher)
        ]
        entries = rows(
            "SELECT e.* FROM entries e JOIN postings p ON p.bucket = e.bucket"
            " AND p.posting = e.posting WHERE p.terminal = :t ORDER BY e.posting, e.n"
        )
        return cls(
            records,
            outcomes,
            attempts,
            corrections,
            jobs,
            of_till("records", "digest"),
            of_till("attempts", "id"),
            of_till("postings", "posting"),
            entries,
            of_till("terminal_notes", "incarnation, sequence"),
            of_till("alarms", "n"),
            vouchers,
            [
                row
                for voucher in sorted(used)
                for row in rows("SELECT * FROM allotments WHERE voucher = :v", v=voucher)
            ],
            of_till("exceptions", "n"),
        )


def judge(shop: Shop, ledger: Connection) -> dict[str, object]:
    """What must not change any more, however often it is recovered. Raises Disagree."""
    files = Files.read(shop, ledger)
    opened = {row["sequence"]: Opened.of(row["jws"]) for row in files.records}
    _chain(files, opened)
    _same_answers(files)
    _attempts(files)
    _money(shop, files, opened)
    _goods(shop, files)
    _paper(files)
    need(not files.alarms, f"an honest till raised {files.alarms}")
    return _facts(files)


def _chain(files: Files, opened: dict[int, Opened]) -> None:
    """INV-7: no number of the till is missing at the ledger, and none is another."""
    numbers = [row["sequence"] for row in files.records]
    need(numbers == list(range(1, len(numbers) + 1)), "INV-7: the journal has a gap")
    noted = {row["sequence"]: row["digest"] for row in files.notes}
    own = {number: each.digest for number, each in opened.items()}
    need(noted == own, "INV-7: the ledger has other numbers than the journal")


def _same_answers(files: Files) -> None:
    """INV-1, INV-7: each record is decided, once, and both sides hold the same signed answer."""
    digests = {row["sequence"]: row["digest"] for row in files.records}
    here: dict[str, set[str]] = {}
    for row in files.outcomes:
        here.setdefault(digests[row["sequence"]], set()).add(row["jws"])
    there = {row["digest"]: {row["outcome"]} for row in files.decided}
    need(len(there) == len(files.decided), "INV-1: two answers to one record")
    need(here.keys() == set(digests.values()), "INV-7: a record without its outcome")
    need(here == there, "INV-6: till and ledger hold different outcomes")


def _attempts(files: Files) -> None:
    """INV-6: the till's confirmed set is the ledger's posted set, listed exceptions apart."""
    there = {row["id"]: row["state"] for row in files.there}
    need(len(there) == len(files.there), "INV-1: an id stands twice at the ledger")
    own = {row["id"] for row in (*files.attempts, *files.corrections)}
    need(there.keys() <= own, "INV-6: an attempt of nobody")
    for row in files.attempts:
        state, other = row["state"], there.get(row["id"])
        need(state in _OVER, f"INV-5: {row['checkout']} is {state} and not over")
        need(other in _OVER[state], f"INV-6: {row['checkout']} is {state}, at the ledger {other}")
    confirmed = Counter(r["checkout"] for r in files.attempts if r["state"] == "confirmed")
    need(all(n == 1 for n in confirmed.values()), "INV-1: a sale is confirmed twice")
    need(all(row["state"] in ("posted", "refused") for row in files.corrections), "INV-5: an undo")
    listed = {row["digest"] for row in files.exceptions}
    lost = [row for row in files.attempts if row["state"] == "exception"]
    need(len(lost) <= len(listed), "INV-7: an exception that is not listed")


def _money(shop: Shop, files: Files, opened: dict[int, Opened]) -> None:
    """INV-1, INV-2: what is confirmed and not given back is what left the voucher and what the
    merchant is owed; each posting sums to zero."""
    taken = 0
    by_id = {row["id"]: row for row in files.attempts}
    for each in opened.values():
        said = each.payload
        if said["kind"] == "redeem" and by_id[said["id"]]["state"] == "confirmed":
            taken += sum(entry["programme_minor"] for entry in said["content"]["allocation"])
        if said["kind"] == "refund":
            [undo] = [row for row in files.corrections if row["id"] == said["id"]]
            if undo["state"] == "posted":
                taken -= sum(part["programme_minor"] for part in said["content"]["parts"])
    set_aside = sum(row["left_minor"] for row in files.allotments if not row["closed"])
    held = sum(row["available_minor"] + row["saved_minor"] for row in files.vouchers) + set_aside
    need(held == shop.issued_minor - taken, f"INV-2: {held} is left, {taken} was taken")
    owed = sum(row["amount"] for row in files.entries if row["account"] == "payable")
    need(abs(owed) == taken, f"INV-2: {owed} is owed for {taken}")
    sums = Counter[tuple[str, str]]()
    for row in files.entries:
        sums[row["posting"], row["unit"]] += row["amount"]
    need(not any(sums.values()), "INV-2: a posting does not sum to zero")
    redeemed = [row for row in files.postings if row["kind"] == "redeem"]
    ids = Counter(r["id"] for r in files.decided for p in redeemed if r["digest"] == p["posting"])
    need(all(n == 1 for n in ids.values()), "INV-1: an id is posted twice")
    need(len(ids) == len(redeemed), "INV-1: a posting of no record")


def _goods(shop: Shop, files: Files) -> None:
    """INV-3: for whatever left the shop there is a sale that stands, was taken back since, or is
    an exception that a person looks at."""
    stands = {
        row["checkout"]
        for row in files.attempts
        if row["state"] in ("confirmed", "voided", "exception")
    }
    need(shop.left <= stands, f"INV-3: goods left for {sorted(shop.left - stands)}")


def _paper(files: Files) -> None:
    """INV-4: REDEEMED may be printed for a confirmed sale alone. No printer is there, so what was
    queued and is voided since has been taken off the queue."""
    numbers = {
        json.loads(row["slip"])["receipt_no"]: row["state"]
        for row in files.attempts
        if row["slip"] != "{}"
    }
    for job in files.jobs:
        slip = json.loads(job["slip"])
        if slip.get("kind") == "REDEEMED":
            state = numbers.get(job["receipt_no"])
            stopped = state == "voided" and job["state"] == "failed"
            need(state == "confirmed" or stopped, f"INV-4: REDEEMED is printed: a {state} sale")


def _facts(files: Files) -> dict[str, object]:
    starts = {row["sequence"] for row in files.records if row["kind"] == "start"}
    return {
        "attempts": [(row["id"], row["state"]) for row in files.attempts],
        "corrections": [(row["id"], row["state"]) for row in files.corrections],
        "outcomes": sorted(
            (row["sequence"], row["jws"]) for row in files.outcomes if row["sequence"] not in starts
        ),
        "jobs": [(row["receipt_no"], row["copy_no"], row["slip"]) for row in files.jobs],
        "there": files.there,
        "postings": files.postings,
        "vouchers": files.vouchers,
        "allotments": files.allotments,
        "exceptions": files.exceptions,
    }
