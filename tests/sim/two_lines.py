"""What is promised of a till that was copied, and of nothing else (docs/offline.md §9).

The judge of a terminal with two journals. Each by itself is judged as any other where that can be
(`checker`, `offline`); here is what both of them together come to: the fork is found, nothing of it
is booked but by a person, what reached the ledger has one answer for good, and each copy spends
once more, not twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from tests.properties.ledger_model import Opened
from tests.sim.copied import Copy
from tests.sim.evidence import Evidence, need
from tests.sim.files import Journal
from tests.sim.loss import unexpected

_SOON: Final = timedelta(seconds=12)
"""What arrived in one batch is decided a moment after the alarm; the ledger's clock may step."""
_ALARMS: Final = {"fork", "journal", "key_change"}
_ON_PAPER_ONLY: Final = {"accepted", "accept_asked", "provisional", "held"}
"""What left without the ledger's word."""

BothSides = dict[str, set[str]]


def check(evidence: Evidence, copy: Copy, attempts: BothSides, undos: BothSides) -> None:
    """Raises Violation for the first promise that is broken; `attempts` and `undos`: where what is
    over at the till may stand at the ledger."""
    _check_found(evidence, copy)
    _check_decided_by_people(evidence, copy)
    _check_answered(evidence, copy)
    _check_both_sides(evidence, copy, attempts, undos)
    _check_spent_once_more(evidence)
    _check_others(evidence, copy)


# ── the fork ───────────────────────────────────────────────────────────────────────────────────


def _reached(evidence: Evidence, copy: Copy) -> list[Opened]:
    """Every record of the terminal that the ledger has, decided or held."""
    digests = {
        row["digest"]
        for table in ("records", "held_records")
        for row in evidence.book[table]
        if row["terminal"] == copy.terminal
    }
    return [evidence.record[digest] for digest in sorted(digests)]


def _is_one_line(records: Iterable[Opened]) -> bool:
    """Whether no two stand at one number, and each names the one before as far as that is there."""
    at: dict[tuple[str, str, int], Opened] = {}
    for record in records:
        if at.setdefault(record.number, record).digest != record.digest:
            return False
    for (terminal, incarnation, sequence), record in at.items():
        before = at.get((terminal, incarnation, sequence - 1))
        if before is not None and record.payload["prev"] != before.digest:
            return False
    return True


def _has_changed_key(evidence: Evidence, copy: Copy) -> bool:
    """What contradicts under a key whose place another has taken is held alone, and stops
    nothing."""
    return any(
        row["terminal"] == copy.terminal and row["until_sequence"] is not None
        for row in evidence.book["terminal_keys"]
    )


def _check_found(evidence: Evidence, copy: Copy) -> None:
    """FG-7, T-7: a fork is found, and the office told, once both lines reached the ledger; where
    they did not, there is none."""
    told = {each["kind"] for each in unexpected(evidence) if each["terminal"] == copy.terminal}
    need("T-7", told <= _ALARMS, f"other alarms than of a copy: {told}")
    noted = {row["digest"] for row in evidence.book["terminal_notes"]}
    noted |= {record.digest for record in _reached(evidence, copy)}
    came = [r for r in evidence.record.values() if r.digest in noted]
    one_line = _is_one_line(r for r in came if r.payload["terminal"] == copy.terminal)
    need("T-7", one_line == ("fork" not in told), f"one line: {one_line}; alarms: {told}")
    status = {row["terminal"]: row["status"] for row in evidence.book["terminals"]}[copy.terminal]
    if not one_line and not _has_changed_key(evidence, copy):
        need("T-7", status == "forked", f"a forked till is {status}")


def _check_decided_by_people(evidence: Evidence, copy: Copy) -> None:
    """FG-7, FG-8: what was decided by itself is one line; what came behind the fork is decided by
    people, if need be before the ledger lost that. One that decides before every till has told what
    it knows may follow the other line."""
    loss = evidence.witness.loss
    ruled = {row["digest"] for row in evidence.book["held_records"]}
    if loss is not None:
        ruled |= loss.ruled
    if loss is not None and loss.is_late:
        ruled |= {row["digest"] for row in evidence.book["heal_evidence"]}
    alone = [r for r in _reached(evidence, copy) if r.digest not in ruled]
    need("FG-7", _is_one_line(alone), "both lines of a fork were decided by themselves")
    found = [
        datetime.fromisoformat(row["at"])
        for row in evidence.book["alarms"]
        if (row["kind"], row["terminal"]) == ("fork", copy.terminal)
    ]
    if not found or _has_changed_key(evidence, copy):
        return
    late = [
        r.payload["kind"]
        for r in alone
        if datetime.fromisoformat(evidence.outcome[r.digest]["recorded_at"]) > min(found) + _SOON
    ]
    need("FG-7", not late, f"decided behind the fork, by nobody: {late}")


# ── answers ────────────────────────────────────────────────────────────────────────────────────


def living(evidence: Evidence, copy: Copy | None) -> list[Journal]:
    """Journals that a till runs with to the end, and that the ledger listens to."""
    if copy is None:
        return []
    return [j for j in evidence.copies if j.till not in copy.shut_out and not j.is_lost]


def _check_answered(evidence: Evidence, copy: Copy) -> None:
    """INV-7: every record that reached the ledger has one final answer, and every till knows it."""
    open_ones = [r["kind"] for r in evidence.book["held_records"] if r["resolved_at"] is None]
    need("INV-7", not open_ones, f"held, and decided by nobody: {open_ones}")
    for record in _reached(evidence, copy):
        need("INV-7", record.digest in evidence.outcome, "a record has no final answer")
    stored = {row["digest"]: row["outcome"] for row in evidence.book["records"]}
    for journal in evidence.copies:
        digests = {row["sequence"]: row["digest"] for row in journal.records}
        last = {digests[row["sequence"]]: row["jws"] for row in journal.outcomes}
        for digest, text in last.items():
            said = Opened.of(text).payload["result"]
            if said == "held" and journal not in living(evidence, copy):
                continue
            loss = evidence.witness.loss
            if digest in evidence.gone:
                continue
            if journal.is_lost and loss is not None and digest in loss.unheard:
                continue  # nobody who is left had heard that: it may be decided anew
            same = stored.get(digest) == text or (
                loss is not None
                and digest in stored
                and loss.lets_differ(evidence.book, digest, text, stored[digest])
            )
            need("INV-6", same, f"{said} at the till, not at the ledger")
    for journal in living(evidence, copy):
        answered = {row["sequence"] for row in journal.outcomes}
        missing = [r["kind"] for r in journal.records if r["sequence"] not in answered]
        need("INV-7", not missing, f"{journal.till}: these have no outcome: {missing}")


def _check_both_sides(
    evidence: Evidence, copy: Copy, attempts: BothSides, undos: BothSides
) -> None:
    """INV-6: what is over at a till stands at the ledger as it should, but for what both journals
    went on with; what the ledger has is in a journal."""
    there = {
        row["id"]: row["state"]
        for row in evidence.book["attempts"]
        if row["terminal"] == copy.terminal
    }
    known: set[str] = set()
    excused_ids = {evidence.record[digest].payload["id"] for digest in evidence.gone}
    excused_ids |= {identifier for _, identifier in evidence.listed}
    for journal in evidence.copies:
        is_heard = journal in living(evidence, copy)
        known |= {row["id"] for row in journal.records if row["kind"] == "return_allotment"}
        for rows, both_sides in ((journal.attempts, attempts), (journal.undos, undos)):
            for row in rows:
                known.add(row["id"])
                if row["state"] not in both_sides:
                    need("INV-7", not is_heard, f"{journal.till}: {row['id']} is {row['state']}")
                elif row["id"] not in copy.open_then and row["id"] not in excused_ids:
                    need(
                        "INV-6",
                        there.get(row["id"]) in both_sides[row["state"]],
                        f"{row['id']} is {row['state']} at {journal.till}, "
                        f"{there.get(row['id'])} at the ledger",
                    )
    need("INV-6", there.keys() <= known, "the ledger knows attempts of no journal")


# ── goods and money ────────────────────────────────────────────────────────────────────────────


def excused(evidence: Evidence, copy: Copy) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Sales of which goods may be gone and nothing posted, and those the other way round.

    Both journals went on with what was open when the copy was made. What a till sold without the
    ledger, and lost before it was uploaded, nobody can book; and what it had sent and not heard of
    before it was lost, nobody can hand over.
    """
    unpaid, unclaimed = set(), set()
    for journal in evidence.copies:
        is_heard = journal in living(evidence, copy)
        shown = evidence.witness.shown(journal.line or journal.terminal)
        for row in journal.attempts:
            place = (journal.line_at(row["sequence"]), row["sequence"])
            if row["id"] in copy.open_then:
                unpaid.add(place)
                unclaimed.add(place)
            elif not is_heard and shown.get(row["sequence"]) not in _NOT_OPEN:
                unclaimed.add(place)
                if row["state"] in _ON_PAPER_ONLY:
                    unpaid.add(place)
    return unpaid, unclaimed


_NOT_OPEN: Final = {"confirmed", "refused", "reversed", "voided", "short", "exception"}


def given_back_unheard(evidence: Evidence, copy: Copy) -> set[tuple[str, int]]:
    """Voids and refunds that a till had sent, and was lost before it heard of them."""
    return {
        (journal.line_at(row["sequence"]), row["sequence"])
        for journal in evidence.copies
        if journal not in living(evidence, copy)
        for row in journal.undos
    }


def _check_spent_once_more(evidence: Evidence) -> None:
    """Each journal gives an allotment out once: what nothing was left for in it is no more than it
    held (docs/guarantees.md §6)."""
    held = {(row["voucher"], row["allotment"]): row for row in evidence.book["allotments"]}
    short = {record.digest for record, _ in evidence.decided("accept_offline", "posted_short")}
    for journal in evidence.copies:
        used: Counter[tuple[str, int]] = Counter()
        for record in journal.opened:
            if record.digest in short:
                for use in record.payload["content"]["allotment_use"]:
                    used[use["voucher"], use["allotment"]] += use["amount_minor"]
        for key, minor in used.items():
            most = held[key]["amount_minor"]
            need("limits", minor <= most, f"{journal.till} gave {minor} of {most} set aside")


def _check_others(evidence: Evidence, copy: Copy) -> None:
    """Nobody else is stopped, and nothing of anybody else is held for it."""
    forked = {row["terminal"] for row in evidence.book["terminals"] if row["status"] == "forked"}
    need("FG-7", forked <= {copy.terminal}, "another till was stopped too")
    held = {
        row["terminal"]
        for row in evidence.book["held_records"]
        if row["reason"] in ("terminal_forked", "terminal_revoked")
    }
    need("FG-7", held <= {copy.terminal}, "another till's records were held too")
