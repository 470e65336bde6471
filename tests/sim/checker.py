"""Whether everything held, once the storm is over: an independent judge of files and observations.

It is fed by the witness (what was handed over, heard, printed) and by the files, read without the
product. Of the product's rules it knows only what docs/protocol.md promises. Each function is one
promise; INV numbers are those of ARCHITECTURE.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.properties.ledger_model import Opened, sha256, unb64
from tests.sim import books, offline, two_lines
from tests.sim import loss as losses
from tests.sim.copied import Copy
from tests.sim.evidence import Evidence, need
from tests.sim.files import Book, Journal
from tests.sim.shop import Shop
from tests.sim.witness import Violation, Witness

_BOTH_SIDES = {
    "confirmed": {"posted"},
    "voided": {"posted"},
    "short": {"posted"},
    "exception": {"refused"},
    "refused": {"refused"},
    "reversed": {"reversed", "refused"},
}
"""Where an attempt that is over stands at the till, and where it may then stand at the ledger: a
till reverses also what was refused and it did not hear of; an attempt that was posted stays so, and
what took it back is an attempt of its own."""
_UNDO_BOTH_SIDES = {"posted": {"posted"}, "refused": {"refused"}}


def check(
    witness: Witness,
    database: Path,
    shops: Sequence[Shop],
    *,
    in_order: bool,
    copy: Copy | None = None,
) -> None:
    """Raises Violation for the first promise that is broken. `copy`: of the till of which there are
    two journals, which is judged by what is promised of such a till (`two_lines`)."""
    book = Book.read(database)
    every = _journals(witness, shops, copy)
    _check_chains(every, book)
    _check_nothing_vanished(witness, every)
    copies = [each for each in every if copy is not None and each.terminal == copy.terminal]
    journals = [each for each in every if each not in copies]
    evidence = Evidence(witness, book, journals, in_order, copies)
    _check_same_records(evidence)
    losses.check(evidence)
    _check_one_answer(evidence)
    _check_both_sides(evidence)
    _check_goods(evidence, copy)
    _check_attempts_of_a_sale(evidence)
    _check_given_back(evidence, copy)
    if copy is not None:
        two_lines.check(evidence, copy, _BOTH_SIDES, _UNDO_BOTH_SIDES)
    offline.check(evidence)
    books.check(evidence)
    _check_papers(evidence)
    _check_day_reports([*journals, *two_lines.living(evidence, copy)])
    alarms = [
        each for each in losses.unexpected(evidence) if each["terminal"] not in evidence.copied
    ]
    need("no alarm", not alarms, f"honest tills raised {alarms}")
    for shop in shops:
        assert shop.till is not None
        shop.till.journal.verify()


def _journals(witness: Witness, shops: Sequence[Shop], copy: Copy | None) -> list[Journal]:
    found = []
    for shop in shops:
        journal = Journal.read(shop.database, witness.terminals[shop.name])
        branch = witness.branches.get(shop.name)
        line, shared = ("", 0) if branch is None else (branch.line, branch.shared)
        found.append(replace(journal, till=shop.name, line=line, shared=shared))
    if copy is not None and copy.lost is not None and (copy.lost / "journal.db").exists():
        lost = Journal.read(copy.lost / "journal.db", copy.terminal)
        found.append(replace(lost, till=copy.lost.name, is_lost=True))
    return found


# ── the tills' own files ───────────────────────────────────────────────────────────────────────


def _check_chains(journals: Iterable[Journal], book: Book) -> None:
    """Every journal is one chain of records that the till signed, with one of its keys."""
    keys = {
        (row["terminal"], row["kid"]): Ed25519PublicKey.from_public_bytes(unb64(row["x"]))
        for row in book["terminal_keys"]
    }
    for journal in journals:
        before = None
        for n, (row, record) in enumerate(zip(journal.records, journal.opened, strict=True), 1):
            said = record.payload
            if before is None:
                before = sha256(f"carepos/incarnation/v1|{said['incarnation']}".encode())
            need("chain", said["sequence"] == row["sequence"] == n, f"number {n} is missing")
            need("chain", said["prev"] == before, f"record {n} does not follow the one before")
            need(
                "chain", row["digest"] == record.digest, f"record {n} is another than its row says"
            )
            signed, _, signature = row["jws"].rpartition(".")
            try:
                key = keys[journal.terminal, record.header["kid"]]
                key.verify(unb64(signature), signed.encode())
            except (InvalidSignature, KeyError):
                raise Violation("chain", f"record {n} is not the till's") from None
            before = record.digest


def _check_nothing_vanished(witness: Witness, journals: Sequence[Journal]) -> None:
    """INV-3, INV-7: whatever left a till, and whatever a cashier saw, is in its journal."""
    held = {record.digest for journal in journals for record in journal.opened}
    gone = [r.payload["kind"] for digest, r in witness.left.items() if digest not in held]
    need("INV-7", not gone, f"records left a till and are not in its journal: {gone}")
    numbers = {
        (j.line_at(row["sequence"]), row["sequence"]) for j in journals for row in j.attempts
    }
    seen = {(terminal, int(number.split("-")[1])) for terminal, number in witness.sales}
    need("INV-7", seen <= numbers, f"sales that a cashier saw are gone: {seen - numbers}")


def _check_same_records(evidence: Evidence) -> None:
    """INV-7: every record of a till has exactly one outcome, the same on both sides."""
    rows = evidence.book["records"]
    need("INV-1", len(evidence.outcome) == len(rows), "a record has two outcomes at the ledger")
    stored = {r["digest"]: r["outcome"] for r in rows if r["terminal"] not in evidence.copied}
    here: dict[str, str] = {}
    for journal in evidence.journals:
        digests = {row["sequence"]: row["digest"] for row in journal.records}
        accepted = {row["id"] for row in journal.records if row["kind"] == "accept_offline"}
        late = {row["sequence"] for row in journal.records if row["id"] in accepted}
        for row in journal.outcomes:
            digest = digests[row["sequence"]]
            held = here.setdefault(digest, row["jws"])
            if held != row["jws"]:
                # What was held is decided once, and a sale that was refused and left all the same
                # is judged anew once.
                result = Opened.of(held).payload["result"]
                judged = result == "held" or (row["sequence"] in late and result == "refused")
                need("INV-7", judged, f"record {row['sequence']} has two outcomes at the till")
                here[digest] = row["jws"]
        missing = [row["sequence"] for row in journal.records if row["digest"] not in here]
        need("INV-7", not missing, f"{journal.terminal}: records {missing} have no outcome")
    need("INV-6", here.keys() == stored.keys(), "ledger and tills hold different records")
    for digest in here:
        same = here[digest] == stored[digest]
        if not same and evidence.witness.loss is not None:
            same = evidence.witness.loss.lets_differ(
                evidence.book, digest, here[digest], stored[digest]
            )
        need("INV-6", same, "ledger and till hold different outcomes of one record")


# ── answers ────────────────────────────────────────────────────────────────────────────────────


def _check_one_answer(evidence: Evidence) -> None:
    """INV-1: what was ever answered is what is stored, signed and bound to its record."""
    stored = {row["digest"]: row["outcome"] for row in evidence.book["records"]}
    for digest, text in evidence.witness.words.items():
        if digest in evidence.gone:
            continue
        if evidence.is_copied(digest) and Opened.of(text).payload["result"] == "held":
            continue  # perhaps no till is left to ask what people decided
        need("INV-1", stored.get(digest) == text, "another outcome was answered than is stored")
    for digest, text in stored.items():
        evidence.witness.verify_ledger(text)
        said, record = evidence.outcome[digest], evidence.record[digest].payload
        bound = (said["record_sha256"], said["id"], said["terminal"], said["kind"])
        wanted = (digest, record["id"], record["terminal"], record["kind"])
        need("INV-1", bound == wanted, f"an outcome of {bound} for {wanted}")


def _check_both_sides(evidence: Evidence) -> None:
    """INV-6: every attempt is over, and stands at the ledger where it stands at the till."""
    here = {
        (journal.terminal, row["id"]): (row["state"], both_sides)
        for journal in evidence.journals
        for rows, both_sides in ((journal.attempts, _BOTH_SIDES), (journal.undos, _UNDO_BOTH_SIDES))
        for row in rows
    }
    for record, outcome in evidence.decided("return_allotment", "posted", "refused"):
        if not evidence.is_copied(record.digest):
            here[record.key] = (outcome["result"], _UNDO_BOTH_SIDES)
    for key, (state, both_sides) in here.items():
        need("INV-7", state in both_sides, f"{key} is {state} and not over")
    rows = evidence.book["attempts"]
    there = {(row["terminal"], row["id"]): row["state"] for row in rows}
    need("INV-1", len(there) == len(rows), "an id stands twice at the ledger")
    there = {key: state for key, state in there.items() if key[0] not in evidence.copied}
    need("INV-6", here.keys() == there.keys(), "ledger and tills know different attempts")
    for key, (state, both_sides) in here.items():
        need(
            "INV-6",
            there[key] in both_sides[state] or key in evidence.listed,
            f"{key} is {state} at the till and {there[key]} at the ledger",
        )


def _check_goods(evidence: Evidence, copy: Copy | None) -> None:
    """INV-1, INV-3, INV-6: goods were handed over for what is posted, once; for nothing else."""
    posted = {
        (row["terminal"], row["id"])
        for row in evidence.book["attempts"]
        if row["state"] == "posted"
    }
    void = {
        record.payload["content"]["record_sha256"]
        for record, _ in evidence.decided("void", "posted")
    }
    paid: dict[tuple[str, int], tuple[str, int]] = {}
    standing: set[tuple[str, str]] = set()
    for record, outcome in evidence.booked():
        if record.key not in posted:
            continue
        place, checkout = evidence.place(record), record.payload["content"]["checkout"]
        if record.digest not in void:
            need("INV-1", (place[0], checkout) not in standing, f"{checkout} is posted twice")
            standing.add((place[0], checkout))
        amount = outcome["amount_minor"] + outcome.get("shortfall_minor", 0)
        paid[place] = (checkout, amount)
    accepted = {
        row["id"]
        for journal in evidence.copies
        for row in journal.records
        if row["kind"] == "accept_offline"
    }
    for record, _ in evidence.decided("redeem", "exception"):
        if evidence.is_copied(record.digest) and record.payload["id"] not in accepted:
            continue  # it never left, and a person did not accept it
        # It left, and a person decides who pays.
        content = record.payload["content"]
        amount = sum(entry["programme_minor"] for entry in content["allocation"])
        paid[evidence.place(record)] = (content["checkout"], amount)
    goods = {
        (terminal, _sequence(number)): what
        for (terminal, number), what in evidence.witness.goods.items()
    }
    unpaid, unclaimed = (set(), set()) if copy is None else two_lines.excused(evidence, copy)
    listed = {
        (record.key[0], record.payload["sequence"])
        for record in evidence.record.values()
        if record.key in evidence.listed
    }
    gone = {evidence.place(evidence.record[digest]) for digest in evidence.gone}
    unpaid, unclaimed = unpaid | listed | gone, unclaimed | listed
    for sale in goods.keys() - paid.keys() - unpaid:
        raise Violation("INV-3", f"{sale}: goods were handed over and nothing is posted")
    # Of one that was taken back before she said whether they left, they stayed.
    stayed = evidence.witness.kept | evidence.witness.came_back
    kept = {(terminal, _sequence(number)) for terminal, number in stayed}
    for sale in paid.keys() - goods.keys() - kept - unclaimed:
        raise Violation("INV-6", f"{sale}: posted, and no goods were handed over")
    need(
        "INV-6",
        {sale for sale, _ in goods.items() - paid.items()} <= unpaid,
        "goods were handed over for another amount than is posted",
    )


def _check_given_back(evidence: Evidence, copy: Copy | None) -> None:
    """INV-1, INV-6: the cashier gave back what void and refund posted, once; and nothing else."""
    there = {}
    for kind in ("void", "refund"):
        for record, outcome in evidence.decided(kind, "posted"):
            content = record.payload["content"]
            parts = content.get("parts")
            if parts is None:
                parts = evidence.record[content["record_sha256"]].payload["content"]["allocation"]
            own = sum(part["beneficiary_minor"] for part in parts)
            amount = outcome["amount_minor"]
            if kind == "void":
                # Of a sale that was booked in part the till tells what it sold.
                sale = evidence.outcome[content["record_sha256"]]
                amount += sale.get("shortfall_minor", 0)
            there[evidence.place(record)] = (amount, own)
    here = {
        (terminal, _sequence(number)): amounts
        for (terminal, number), amounts in evidence.witness.given_back.items()
    }
    for digest in evidence.gone:
        here.pop(evidence.place(evidence.record[digest]), None)
    for unheard in set() if copy is None else two_lines.given_back_unheard(evidence, copy):
        if unheard not in here:
            there.pop(unheard, None)
    need("INV-6", here == there, f"given back {here}, posted {there}")


def _sequence(receipt_no: str) -> int:
    return int(receipt_no.split("-")[1])


def _check_attempts_of_a_sale(evidence: Evidence) -> None:
    """INV-5: a sale made its next attempt only after the one before was refused or voided, or its
    reversal was written."""
    for journal in evidence.journals:
        undone = {
            record.payload["id"]: record.payload["sequence"]
            for record in journal.opened
            if record.payload["kind"] == "reversal"
        } | {
            record.payload["content"]["original"]["id"]: record.payload["sequence"]
            for record, _ in evidence.decided("void", "posted")
            if record.payload["terminal"] == journal.terminal
        }
        before: dict[str, Opened] = {}
        for record in journal.opened:
            if record.payload["kind"] != "redeem":
                continue
            checkout = record.payload["content"]["checkout"]
            last = before.get(checkout)
            before[checkout] = record
            if last is None or evidence.outcome[last.digest]["result"] == "refused":
                continue
            number = undone.get(last.payload["id"])
            need(
                "INV-5",
                number is not None and number < record.payload["sequence"],
                f"{checkout} made a second attempt while the first was not over",
            )


# ── paper ──────────────────────────────────────────────────────────────────────────────────────


def _check_papers(evidence: Evidence) -> None:
    """INV-4: only what is redeemed was printed, and only what was taken back says so."""
    for journal in (*evidence.journals, *evidence.copies):
        accepted = {row["id"] for row in journal.records if row["kind"] == "accept_offline"}
        done = {
            "REDEEMED": {
                r["sequence"] for r in journal.attempts if r["state"] in ("confirmed", "voided")
            },
            "PROVISIONAL": {r["sequence"] for r in journal.attempts if r["id"] in accepted},
            "VOIDED": {r["sequence"] for r in journal.attempts if r["state"] == "voided"},
            "REFUND": {
                r["sequence"]
                for r in journal.undos
                if (r["kind"], r["state"]) == ("refund", "posted")
            },
        }
        for paper in evidence.witness.papers:
            if paper.line == (journal.line or journal.terminal):
                number = _sequence(paper.receipt_no)
                need("INV-4", number in done[paper.kind], f"{journal.till} printed {paper.kind}")


def _check_day_reports(journals: Iterable[Journal]) -> None:
    """All Zs of a till together are its confirmed sales and what was taken back, and the last
    leaves nothing open."""
    for journal in journals:
        reports = [
            r.payload["content"] for r in journal.opened if r.payload["kind"] == "day_report"
        ]
        counted = Counter(
            {name: sum(r[name] for r in reports) for name in ("confirmed", "refused", "reversed")}
        )
        # A sale that was voided stays one that was confirmed.
        sold = [r for r in journal.attempts if r["state"] in ("confirmed", "voided", "short")]
        states = Counter(r["state"] for r in journal.attempts if r not in sold)
        states["confirmed"] = len(sold)
        exceptions = states.pop("exception", 0)
        need("day close", +counted == +states, f"the Zs count {counted}, there are {states}")
        need("day close", reports[-1]["open"] == exceptions, "the last Z leaves something open")
        undone = [row for row in journal.undos if row["state"] == "posted"]
        for name, rows in (("sums", sold), ("undone", undone)):
            told = [part for r in reports for part in r.get(name, [])]
            money = sum(part["amount_minor"] for part in told)
            count = sum(part["count"] for part in told)
            should = (len(rows), sum(row["amount_minor"] for row in rows))
            need("day close", (count, money) == should, f"{name}: {count}, {money}, not {should}")


# ── recovery ───────────────────────────────────────────────────────────────────────────────────


def state(database: Path, shops: Sequence[Shop], witness: Witness) -> dict[str, object]:
    """What must not change when recovery runs once more; not of a till that was copied, of which
    more may arrive, and people decide it then."""
    book, copied = Book.read(database), witness.copied
    found: dict[str, object] = {
        "attempts": sorted(
            (r["terminal"], r["id"], r["state"])
            for r in book["attempts"]
            if r["terminal"] not in copied
        ),
        # What is set aside changes with every pack that is asked for, also by a late request.
        "postings": sorted(
            (r["kind"], r["posting"])
            for r in book["postings"]
            if r["kind"] not in ("allot", "release", *(["forfeit"] if copied else []))
            and r["terminal"] not in copied
        ),
    }
    for shop in shops:
        if witness.terminals[shop.name] in copied:
            continue
        journal = Journal.read(shop.database, shop.name)
        found[shop.name] = [(r["id"], r["state"]) for r in (*journal.attempts, *journal.undos)]
        found[f"{shop.name}'s records"] = [
            record.digest
            for record in journal.opened
            if record.payload["kind"] not in ("start", "day_report")
        ]
    return found


def check_recovery(once: dict[str, object], twice: dict[str, object]) -> None:
    """INV-8: late arrivals, a restart and recovery once more change nothing."""
    for name, before in once.items():
        need("INV-8", twice[name] == before, f"{name} changed when recovery ran again")


def summary(database: Path) -> str:
    """One line that differs when anything that was decided differs."""
    book = Book.read(database)
    outcomes = sorted(row["outcome"] for row in book["records"])
    return f"{len(outcomes)} records, outcomes {sha256(''.join(outcomes).encode())[:16]}"
