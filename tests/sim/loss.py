"""What was seen when the ledger's disk was lost, and what a ledger owes once it is healed (INV-9).

Whatever a till had kept of the ledger's answers stands again, the same bytes; so does every batch
that was published. Only what the ledger had said and nobody had heard may be decided anew. What was
decided and can't be booked any more stands in a list, and only where such a decision is the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.properties.ledger_model import Opened
from tests.sim.evidence import Evidence, need
from tests.sim.files import Book, Row

if TYPE_CHECKING:
    from tests.sim.witness import Witness

Posting = tuple[str, str]
"""(kind, name)."""
Allotment = tuple[str, int]
"""(voucher, number)."""
Batch = tuple[str, str, int]
"""(merchant, programme, number)."""

GIVEN_UP: Final = ("excepted", "closed")


def postings_of(rows: Iterable[Row]) -> frozenset[Posting]:
    return frozenset((row["kind"], row["posting"]) for row in rows)


def allotments_of(rows: Iterable[Row]) -> frozenset[Allotment]:
    return frozenset((row["voucher"], row["allotment"]) for row in rows)


def outcomes_of(rows: Iterable[Row]) -> dict[str, str]:
    """The signed outcome by digest."""
    return {row["digest"]: row["outcome"] for row in rows}


@dataclass
class Loss:
    """One run's. `answers`: what the copy of the book holds."""

    answers: dict[str, str]
    is_lost: bool = False
    began: frozenset[Posting] = frozenset()
    """What was booked when the ledger began to heal: the copy's, and what it decided while nobody
    had noticed. All that a till brings back is booked behind that."""
    healed: frozenset[Posting] | None = None
    """What was booked when the ledger opened; None before."""
    unheard: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By digest what the ledger had decided and no till had kept when it was lost."""
    told: dict[Allotment, str] = field(default_factory=dict)
    """What packs that tills hold say is set aside for them and was open when it was lost; for which
    terminal."""
    ruled: set[str] = field(default_factory=set)
    """What people had decided in what was lost, by digest."""
    set_aside: frozenset[Allotment] = frozenset()
    """What was set aside when the ledger opened, or had been before."""
    published: dict[Batch, str] = field(default_factory=dict)
    """The manifests of batches that the office saw."""
    is_unnoticed: bool = False
    """The copy was put back and served without a word."""
    is_late: bool = False
    """The ledger served before every till had told of what it keeps."""
    is_unasked: bool = False
    """It did so, and nobody had told it to."""

    def lose(self, witness: Witness, book: Iterable[Row], kept: Iterable[tuple[str, str]]) -> None:
        """The disk is gone, with `book` (its outcomes); tills have `kept` (digest, outcome)."""
        self.is_lost = True
        there: dict[str, list[str]] = {}
        for digest, text in kept:
            there.setdefault(digest, []).append(text)
        for digest, text in outcomes_of(book).items():
            if text not in (self.answers.get(digest), *there.get(digest, ())):
                self.unheard[digest] = Opened.of(text).payload
        for digest, text in list(witness.words.items()):
            known = [*there.get(digest, ()), *filter(None, [self.answers.get(digest)])]
            if text not in known:
                # Nobody heard it: what was heard before it stands, or nothing.
                witness.unsay(digest, known[-1] if known else None)

    def serve_unhealed(self, witness: Witness, held: Iterable[str]) -> None:
        """The ledger decides though it does not know yet what some tills keep; records that are
        `held` there (digests) it will answer as before, others perhaps not."""
        self.is_late = True
        for digest in witness.words.keys() - set(held):
            witness.unsay(digest, None)

    def lets_differ(self, book: Book, digest: str, here: str, there: str) -> bool:
        """Whether a till may hold another outcome of a record than the ledger, which decided it
        anew before it was told: the same in other words, or it is listed."""
        results = {Opened.of(text).payload["result"] for text in (here, there)}
        listed = {row["digest"] for row in book["heal_evidence"] if row["state"] in GIVEN_UP}
        return self.is_late and (len(results) == 1 or digest in listed)


# ── once it is healed ──────────────────────────────────────────────────────────────────────────


def check(evidence: Evidence) -> None:
    """INV-9: what was published stands; nothing waits; what is listed has lost what it needs."""
    book, loss = evidence.book, evidence.witness.loss
    if loss is None or not loss.is_lost:
        need("INV-9", not book["heal_evidence"], "nothing was lost, and something was brought back")
        return
    batches = {
        (row["merchant"], row["programme"], row["batch_no"]): row["manifest"]
        for row in book["batches"]
    }
    for batch, manifest in loss.published.items():
        need("INV-9", batches.get(batch) == manifest, f"{batch} was published as another one")
    need("INV-9", not loss.is_unasked, "it opened before every till had reported")
    states = {row["state"] for row in book["heal_evidence"]}
    need("INV-9", "staged" not in states, "what a till brought waits still")
    if loss.is_late:
        return
    words = evidence.witness.words
    gone_with = [Opened.of(words[digest]).payload for digest in evidence.gone & words.keys()]
    unheard = [*loss.unheard.values(), *gone_with]
    missing = {stated["voucher"] for said in unheard for stated in said.get("vouchers", ())}
    gone = {
        allotment[0]
        for allotment, terminal in loss.told.items()
        # One that was put back has the pack of then.
        if loss.healed and allotment not in loss.set_aside and terminal not in evidence.copied
    }
    need("INV-9", gone <= missing, f"what was set aside of {gone - missing} is so no more")
    for digest, row in evidence.excepted.items():
        content = evidence.record[digest].payload["content"]
        touched = {part["voucher"] for part in content.get("allocation", content.get("parts", ()))}
        touched |= {stated["voucher"] for stated in evidence.outcome[digest]["vouchers"]}
        need("INV-9", bool(touched & missing), f"{row['kind']} not booked again: {row['reason']}")
    if not unheard:
        need("INV-9", not book["heal_rows"], "a batch paid what is not booked")


def unexpected(evidence: Evidence) -> list[Row]:
    """Alarms, but for those that a loss explains: it was found out by tills, or what was paid had
    been heard by nobody and was decided anew."""
    loss = evidence.witness.loss
    explained = set()
    if loss is not None and loss.is_unnoticed:
        explained.add("data_lost")
    if loss is not None and (loss.unheard or evidence.gone):
        explained.add("paid_differently")
    return [row for row in evidence.book["alarms"] if row["kind"] not in explained]
