"""Whether everything held, once the storm is over: an independent judge of files and observations.

It is fed by the witness (what was handed over, heard, printed) and by the files, read without the
product. Of the product's rules it knows only what docs/protocol.md promises. Each function is one
promise; INV numbers are those of ARCHITECTURE.md.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.properties.ledger_model import Opened, Purse, sha256, unb64
from tests.sim.files import Book, Journal
from tests.sim.shop import Shop
from tests.sim.township import CURRENCY, HOUSEHOLDS, STORES, Household
from tests.sim.witness import Violation, Witness

_BOTH_SIDES = {
    "confirmed": {"posted"},
    "refused": {"refused"},
    "reversed": {"reversed", "refused"},
}
"""Where an attempt that is over stands at the till, and where it may then stand at the ledger: a
till reverses also what was refused and it did not hear of."""


def need(invariant: str, held: bool, what: str) -> None:
    if not held:
        raise Violation(invariant, what)


@dataclass
class Evidence:
    """Everything that is looked at, with what each check needs again."""

    witness: Witness
    book: Book
    journals: list[Journal]
    in_order: bool

    def __post_init__(self) -> None:
        self.outcome = {
            row["digest"]: Opened.of(row["outcome"]).payload for row in self.book["records"]
        }
        self.record = {
            opened.digest: opened for journal in self.journals for opened in journal.opened
        }
        self.merchant = {row["terminal"]: row["merchant"] for row in self.book["terminals"]}

    def decided(self, kind: str, *results: str) -> list[tuple[Opened, dict[str, Any]]]:
        """Records of a kind with their outcomes, in the order in which they were recorded."""
        found = [
            (self.record[digest], outcome)
            for digest, outcome in self.outcome.items()
            if outcome.get("kind") == kind and outcome["result"] in results
        ]
        return sorted(found, key=lambda pair: str(pair[1]["recorded_at"]))


def check(witness: Witness, database: Path, shops: Sequence[Shop], *, in_order: bool) -> None:
    """Raises Violation for the first promise that is broken."""
    journals = [Journal.read(each.database, witness.terminals[each.name]) for each in shops]
    book = Book.read(database)
    _check_chains(journals, book)
    _check_nothing_vanished(witness, journals)
    _check_same_records(book, journals)
    evidence = Evidence(witness, book, journals, in_order)
    _check_one_answer(evidence)
    _check_both_sides(evidence)
    _check_goods(evidence)
    _check_attempts_of_a_sale(evidence)
    _check_postings(evidence)
    _check_purses(evidence)
    _check_sums(evidence)
    _check_settlements(evidence)
    _check_papers(evidence, shops)
    _check_day_reports(evidence)
    need("no alarm", not book["alarms"], f"honest tills raised {book['alarms']}")
    for shop in shops:
        assert shop.till is not None
        shop.till.journal.verify()


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
    numbers = {(j.terminal, row["sequence"]) for j in journals for row in j.attempts}
    seen = {(terminal, int(number.split("-")[1])) for terminal, number in witness.sales}
    need("INV-7", seen <= numbers, f"sales that a cashier saw are gone: {seen - numbers}")


def _check_same_records(book: Book, journals: Sequence[Journal]) -> None:
    """INV-7: every record of a till has exactly one outcome, the same on both sides."""
    stored = {row["digest"]: row["outcome"] for row in book["records"]}
    need("INV-1", len(stored) == len(book["records"]), "a record has two outcomes at the ledger")
    here: dict[str, str] = {}
    for journal in journals:
        digests = {row["sequence"]: row["digest"] for row in journal.records}
        for row in journal.outcomes:
            digest = digests[row["sequence"]]
            need(
                "INV-7",
                digest not in here,
                f"record {row['sequence']} has two outcomes at the till",
            )
            here[digest] = row["jws"]
        missing = [row["sequence"] for row in journal.records if row["digest"] not in here]
        need("INV-7", not missing, f"{journal.terminal}: records {missing} have no outcome")
    need("INV-6", here.keys() == stored.keys(), "ledger and tills hold different records")
    need("INV-6", here == stored, "ledger and till hold different outcomes of one record")


# ── answers ────────────────────────────────────────────────────────────────────────────────────


def _check_one_answer(evidence: Evidence) -> None:
    """INV-1: what was ever answered is what is stored, signed and bound to its record."""
    stored = {row["digest"]: row["outcome"] for row in evidence.book["records"]}
    for digest, text in evidence.witness.words.items():
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
        (journal.terminal, row["id"]): row["state"]
        for journal in evidence.journals
        for row in journal.attempts
    }
    for key, state in here.items():
        need("INV-7", state in _BOTH_SIDES, f"{key} is {state} and not over")
    there = {(row["terminal"], row["id"]): row["state"] for row in evidence.book["attempts"]}
    need("INV-1", len(there) == len(evidence.book["attempts"]), "an id stands twice at the ledger")
    need("INV-6", here.keys() == there.keys(), "ledger and tills know different attempts")
    for key, state in here.items():
        need(
            "INV-6",
            there[key] in _BOTH_SIDES[state],
            f"{key} is {state} at the till and {there[key]} at the ledger",
        )


def _check_goods(evidence: Evidence) -> None:
    """INV-1, INV-3, INV-6: goods were handed over for what is posted, once; for nothing else."""
    posted = {
        (row["terminal"], row["id"])
        for row in evidence.book["attempts"]
        if row["state"] == "posted"
    }
    paid: dict[tuple[str, str], int] = {}
    for record, outcome in evidence.decided("redeem", "posted"):
        if record.key in posted:
            sale = (record.key[0], record.payload["content"]["checkout"])
            need("INV-1", sale not in paid, f"{sale} is posted twice")
            paid[sale] = outcome["amount_minor"]
    goods = evidence.witness.goods
    for sale in goods.keys() - paid.keys():
        raise Violation("INV-3", f"{sale}: goods were handed over and nothing is posted")
    for sale in paid.keys() - goods.keys():
        raise Violation("INV-6", f"{sale}: posted, and no goods were handed over")
    need("INV-6", goods == paid, "goods were handed over for another amount than is posted")


def _check_attempts_of_a_sale(evidence: Evidence) -> None:
    """INV-5: a sale made its next attempt only after the one before was refused, or its reversal
    was written."""
    for journal in evidence.journals:
        undone = {
            record.payload["id"]: record.payload["sequence"]
            for record in journal.opened
            if record.payload["kind"] == "reversal"
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


# ── money ──────────────────────────────────────────────────────────────────────────────────────


def _check_postings(evidence: Evidence) -> None:
    """INV-1, INV-2: a posting per booked record, each summing to zero in every unit."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for row in evidence.book["postings"]:
        need("INV-1", row["posting"] not in kinds[row["kind"]], "posted twice")
        kinds[row["kind"]].add(row["posting"])
    redeemed = {record.digest for record, _ in evidence.decided("redeem", "posted")}
    need("INV-1", kinds["redeem"] == redeemed, "postings are not the posted redemptions")
    undone = {r.digest for r, said in evidence.decided("reversal", "reversed") if said["vouchers"]}
    need("INV-1", kinds["reversal"] == undone, "postings are not the reversals")
    sums: Counter[tuple[str, str]] = Counter()
    for row in evidence.book["entries"]:
        need("INV-2", type(row["amount"]) is int, "an amount that is no integer")
        sums[row["posting"], row["unit"]] += row["amount"]
    need("INV-2", not any(sums.values()), "a posting does not sum to zero in each unit")


def _issued(evidence: Evidence) -> dict[str, Purse]:
    """Every voucher as the office gave it out."""
    rows = {
        (programme, row["ref"]): row
        for household in HOUSEHOLDS
        for programme, row in household.rows().items()
    }
    late = Household("new", dairy_minor=100).rows()["dairy"]
    purses = {}
    for issue in evidence.book["issues"]:
        row = rows.get((issue["programme"], issue["ref"]), late)
        terms = row.get("terms")
        if terms is None:
            money, expires_at = row["amount_minor"], row["expires_at"]
            purse = Purse(issue["voucher"], None, 0, 0, 1, money, 0, expires_at)
        else:
            purse = Purse(
                issue["voucher"],
                terms["unit"],
                terms["cap_minor"],
                terms["fixed_minor"],
                terms["cap_quantity"],
                0,
                row["quantity"],
                row["expires_at"],
            )
            purse.money = purse.reserve()
        purses[issue["voucher"]] = purse
    return purses


def _check_purses(evidence: Evidence) -> None:
    """INV-2: every voucher holds what it was issued, less what is posted, and never less than
    nothing; and each outcome said so at its time."""
    purses = _issued(evidence)
    moves = [(*pair, -1) for pair in evidence.decided("redeem", "posted")]
    moves += [
        (*pair, 1) for pair in evidence.decided("reversal", "reversed") if pair[1]["vouchers"]
    ]
    allocated: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for record, outcome, sign in sorted(moves, key=lambda move: str(move[1]["recorded_at"])):
        taken = allocated.setdefault(record.key, {})
        if sign < 0:
            taken |= _taken(record)
        for state in outcome["vouchers"]:
            minor, quantity = taken[state["voucher"]]
            purse = purses[state["voucher"]]
            purse.money += sign * minor
            purse.quantity += sign * quantity
            if evidence.in_order:
                need("INV-2", min(purse.money, purse.quantity) >= 0, "more than the voucher held")
                said = (state["available_minor"], state["available_quantity"])
                need("INV-2", said == purse.shown(), f"said {said}, held {purse.shown()}")
            need(
                "INV-2", (state["amount_minor"], state["quantity"]) == (minor, quantity), "amounts"
            )
    held = {row["voucher"]: row for row in evidence.book["vouchers"]}
    need("INV-2", held.keys() == purses.keys(), "other vouchers than were issued")
    for voucher, row in held.items():
        purse = purses[voucher]
        balances = (row["available_minor"], row["saved_minor"], row["available_quantity"])
        need("INV-2", min(balances) >= 0, "a balance below zero")
        wanted = (purse.available, purse.saved, purse.quantity)
        need("INV-2", balances == wanted, f"a voucher holds {balances}, should hold {wanted}")


def _taken(record: Opened) -> dict[str, tuple[int, int]]:
    taken: dict[str, tuple[int, int]] = {}
    for entry in record.payload["content"]["allocation"]:
        minor, quantity = taken.get(entry["voucher"], (0, 0))
        taken[entry["voucher"]] = (
            minor + entry["programme_minor"],
            quantity + entry["quantity"],
        )
    return taken


def _check_sums(evidence: Evidence) -> None:
    """INV-2: balances are the sums of their entries, and merchants are owed what is posted."""
    accounts: Counter[tuple[str, str, str]] = Counter()
    for row in evidence.book["entries"]:
        accounts[row["account"], row["holder"], row["unit"]] += row["amount"]
    for row in evidence.book["vouchers"]:
        unit = None if row["terms"] is None else json.loads(row["terms"])["unit"]
        summed = (
            accounts["available", row["voucher"], CURRENCY],
            accounts["saved", row["voucher"], CURRENCY],
            0 if unit is None else accounts["available", row["voucher"], unit],
        )
        stored = (row["available_minor"], row["saved_minor"], row["available_quantity"])
        need("INV-2", summed == stored, "a balance is not the sum of its entries")
    unreserved: Counter[str] = Counter()
    for row in evidence.book["entries"]:
        if row["account"] == "unreserved":
            unreserved[row["programme"]] += row["amount"]
    for row in evidence.book["programmes"]:
        balance = row["unreserved_minor"]
        need("INV-2", balance == unreserved[row["programme"]] >= 0, "issued more than funded")
    for merchant in sorted(set(STORES.values())):
        owed = sum(amount for _, _, amount in _owed(evidence, merchant))
        booked = accounts["payable", merchant, CURRENCY]
        need("INV-2", owed == booked, f"{merchant} is owed {booked}, should be {owed}")


def _owed(evidence: Evidence, merchant: str) -> list[tuple[str, int, int]]:
    """(kind, number of the sale, amount) of everything that a merchant is paid for or pays back."""
    sales = {r.key: r for r, _ in evidence.decided("redeem", "posted")}
    found = [
        ("redeem", record.payload["sequence"], said["amount_minor"])
        for record, said in evidence.decided("redeem", "posted")
        if evidence.merchant[record.key[0]] == merchant
    ]
    found += [
        ("reversal", sales[record.key].payload["sequence"], -said["amount_minor"])
        for record, said in evidence.decided("reversal", "reversed")
        if said["vouchers"] and evidence.merchant[record.key[0]] == merchant
    ]
    return found


def _check_settlements(evidence: Evidence) -> None:
    """Settlement files hold every posting once, chain without a gap, and sum to what is owed."""
    listed: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    before: dict[tuple[str, str], tuple[int, str]] = {}
    batches = sorted(
        evidence.book["batches"], key=lambda r: (r["merchant"], r["programme"], r["batch_no"])
    )
    for batch in batches:
        manifest = Opened.of(batch["manifest"])
        evidence.witness.verify_ledger(batch["manifest"])
        said, pair = manifest.payload, (batch["merchant"], batch["programme"])
        first = sha256(f"carepos/settlement/v1|{'|'.join(pair)}".encode())
        number, previous = before.get(pair, (0, first))
        need("settlement", said["batch_no"] == number + 1, "batches have a gap")
        need("settlement", said["previous"] == previous, "a batch does not follow the one before")
        before[pair] = (said["batch_no"], manifest.digest)
        file = bytes(batch["file"])
        need("settlement", said["file"]["sha256"] == sha256(file), "a file is not its manifest's")
        rows = list(csv.DictReader(io.StringIO(file.decode())))
        net = sum(int(row["amount_minor"]) for row in rows)
        need("settlement", net == said["net_minor"], "a file does not sum to its manifest")
        parts = sum(part["amount_minor"] for part in said["funders"])
        need("settlement", parts == net, "the funders' parts do not sum to the file")
        for row in rows:
            number = int(row["receipt_no"].split("-")[1])
            listed[batch["merchant"]].append((row["kind"], number, int(row["amount_minor"])))
    for merchant in sorted(set(STORES.values())):
        wanted = Counter(_owed(evidence, merchant))
        need(
            "settlement", Counter(listed[merchant]) == wanted, f"{merchant}: files are not postings"
        )


# ── paper ──────────────────────────────────────────────────────────────────────────────────────


def _check_papers(evidence: Evidence, shops: Sequence[Shop]) -> None:
    """INV-4: only what is redeemed was printed."""
    for shop in shops:
        terminal = evidence.witness.terminals[shop.name]
        [journal] = [each for each in evidence.journals if each.terminal == terminal]
        confirmed = {r["sequence"] for r in journal.attempts if r["state"] == "confirmed"}
        printed = {
            int(paper.receipt_no.split("-")[1])
            for paper in evidence.witness.papers
            if paper.till == shop.name
        }
        need("INV-4", printed <= confirmed, f"{shop.name} printed {printed - confirmed}")


def _check_day_reports(evidence: Evidence) -> None:
    """All Zs of a till together are its confirmed sales, and the last leaves nothing open."""
    for journal in evidence.journals:
        reports = [
            r.payload["content"] for r in journal.opened if r.payload["kind"] == "day_report"
        ]
        counted = Counter({name: sum(r[name] for r in reports) for name in _BOTH_SIDES})
        states = Counter(row["state"] for row in journal.attempts)
        need("day close", +counted == +states, f"the Zs count {counted}, there are {states}")
        need("day close", reports[-1]["open"] == 0, "the last Z leaves something open")
        money = sum(part["amount_minor"] for r in reports for part in r["sums"])
        sold = sum(r["amount_minor"] for r in journal.attempts if r["state"] == "confirmed")
        need("day close", money == sold, f"the Zs sum to {money}, sold was {sold}")


# ── recovery ───────────────────────────────────────────────────────────────────────────────────


def state(database: Path, shops: Sequence[Shop]) -> dict[str, object]:
    """What must not change when recovery runs once more."""
    book = Book.read(database)
    found: dict[str, object] = {
        "attempts": sorted((r["terminal"], r["id"], r["state"]) for r in book["attempts"]),
        "postings": sorted((r["kind"], r["posting"]) for r in book["postings"]),
        "balances": sorted(
            (r["voucher"], r["available_minor"], r["saved_minor"], r["available_quantity"])
            for r in book["vouchers"]
        ),
    }
    for shop in shops:
        journal = Journal.read(shop.database, shop.name)
        found[shop.name] = [(r["id"], r["state"]) for r in journal.attempts]
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
