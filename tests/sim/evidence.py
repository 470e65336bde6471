"""What a run leaves to judge by: the files of tills and ledger, and what was seen beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.properties.ledger_model import Opened
from tests.sim.files import Book, Journal
from tests.sim.witness import Violation, Witness


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
    copies: list[Journal] = field(default_factory=list)
    """The journals of a terminal that has more than one; they are not among `journals`."""

    def __post_init__(self) -> None:
        self.outcome = {
            row["digest"]: Opened.of(row["outcome"]).payload for row in self.book["records"]
        }
        self.record = {
            opened.digest: opened
            for journal in (*self.journals, *self.copies)
            for opened in journal.opened
        }
        self.copied = {journal.terminal for journal in self.copies}
        self.gone = self._gone()
        # What a copy has from before is its original's.
        self._line = {
            opened.digest: journal.line_at(opened.payload["sequence"])
            for journal in self.copies
            for opened in journal.opened
        }
        self.excepted = {
            row["digest"]: row
            for row in self.book["heal_evidence"]
            if row["state"] in ("excepted", "closed")
        }
        late = self.witness.loss is not None and self.witness.loss.is_late
        self.listed = {self.record[digest].key for digest in self.excepted} if late else set()
        self._told = {row["digest"] for row in self.book["heal_evidence"]}
        self._sold = {
            record.key for record, _ in self.booked() if record.digest not in self.excepted
        }
        self.merchant = {row["terminal"]: row["merchant"] for row in self.book["terminals"]}

    def _gone(self) -> frozenset[str]:
        """Records of which nobody knows any more: of a till that was put back, what it had done
        since, where the ledger has lost that too."""
        if self.witness.loss is None or not self.witness.loss.is_lost:
            return frozenset()
        lost, kept = set[str](), set(self.outcome)
        for journal in (*self.journals, *self.copies):
            (lost if journal.is_lost else kept).update(each.digest for each in journal.opened)
        return frozenset(lost - kept)

    def place(self, record: Opened) -> tuple[str, int]:
        """Whose record it is and its number: the terminal's, or a copy's of its journal."""
        terminal, number = record.payload["terminal"], record.payload["sequence"]
        return self._line.get(record.digest, terminal), number

    def is_copied(self, digest: str) -> bool:
        """Whether the terminal of this record has two journals."""
        return bool(self.copied) and self.record[digest].payload["terminal"] in self.copied

    def is_booked(self, record: Opened) -> bool:
        """Whether what was decided of it is in the book: not where it is lost and was listed; and
        of a sale that nobody tells of any more, nothing was to be put back."""
        if record.digest in self.excepted:
            return False
        is_reversal = record.payload["kind"] == "reversal"
        return not (self.witness.loss and is_reversal) or record.key in self._sold

    def came_late(self, record: Opened) -> bool:
        """Whether it was decided in what is lost, and a till told of that behind the opening."""
        loss = self.witness.loss
        if loss is None or loss.healed is None or record.digest not in self._told:
            return False
        return (record.payload["kind"], record.digest) not in loss.healed

    def paid_not_booked(self, merchant: str) -> Counter[tuple[str, int, int]]:
        """Rows of batches that were restored, of sales that were not decided so again."""
        return Counter(
            (row["kind"], row["sequence"], row["amount_minor"])
            for row in self.book["heal_rows"]
            if row["merchant"] == merchant
        )

    def booked(self) -> list[tuple[Opened, dict[str, Any]]]:
        """Sales that the ledger booked, in whole or in part."""
        return self.decided("redeem", "posted", "posted_short")

    def decided(self, kind: str, *results: str) -> list[tuple[Opened, dict[str, Any]]]:
        """Records of a kind with their outcomes, in the order in which they were recorded."""
        found = [
            (self.record[digest], outcome)
            for digest, outcome in self.outcome.items()
            if outcome.get("kind") == kind and outcome["result"] in results
        ]
        return sorted(found, key=lambda pair: str(pair[1]["recorded_at"]))
