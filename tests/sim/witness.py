"""What can be seen at the edges of the product while it runs, and what must never be seen there.

The witness stands at the counter, beside the printer and on the wire. It knows nothing of rules or
tables: it notes what was said and done, and cries out at once when something seen contradicts what
was seen before. What was noted is held against the files in the end (`checker`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.properties.ledger_model import Opened, unb64

if TYPE_CHECKING:
    from carepos import Sale
    from tests.sim.ledger_host import Answer, Request

_OUTCOME = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_FOLLOWS: Final = {
    "confirmed": {"confirmed"},
    "refused": {"refused"},
    "reversed": {"reversed"},
    "filling": {"filling", "reversed"},
    "reversing": {"reversing", "filling", "reversed"},
    "goods_asked": {"goods_asked", "confirmed", "reversing", "filling", "reversed"},
}
"""Once the cashier has read this, only these may be read of the same attempt (docs/protocol.md
§11); what is not named here may become anything."""


class Violation(AssertionError):
    """An invariant that does not hold. `invariant` names it as DESIGN does."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclass(frozen=True)
class Paper:
    """A slip that came out of a printer, whole or in part."""

    till: str
    receipt_no: str
    text: str

    @property
    def is_copy(self) -> bool:
        return "副本" in self.text


@dataclass
class Witness:
    """One run's observations."""

    ledger_kid: str
    ledger_x: str
    terminals: dict[str, str]
    """By till's name, the terminal it is."""
    goods: dict[tuple[str, str], int] = field(default_factory=dict)
    """By terminal and checkout: what was handed over, as the amount on the screen."""
    papers: list[Paper] = field(default_factory=list)
    left: dict[str, Opened] = field(default_factory=dict)
    """Every record that ever left a till, by digest."""
    words: dict[str, str] = field(default_factory=dict)
    """The ledger's outcome of each record that it was seen to answer, by the record's digest."""
    sales: set[tuple[str, str]] = field(default_factory=set)
    """Every (terminal, receipt number) that a cashier saw."""
    _heard: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)
    _began: dict[str, int] = field(default_factory=dict)

    # ── at the counter ─────────────────────────────────────────────────────────────────────────

    def started(self, till: str, sequence: int) -> None:
        """The till's process is new: its `start` has this number."""
        self._began[self.terminals[till]] = sequence

    def saw(self, till: str, sale: Sale) -> None:
        """The cashier reads where a sale stands."""
        key = (self.terminals[till], sale.receipt_no)
        self.sales.add(key)
        before = self._seen.get(key)
        if before in _FOLLOWS and sale.state not in _FOLLOWS[before]:
            raise Violation("INV-7", f"{till} {sale.receipt_no} was {before}, now {sale.state}")
        if sale.state == "review":
            raise Violation("INV-6", f"{till} {sale.receipt_no}: the reversal was not accepted")
        self._seen[key] = sale.state

    def handed_over(self, till: str, sale: Sale) -> None:
        key = (self.terminals[till], sale.checkout)
        if key in self.goods:
            raise Violation("INV-1", f"{till} {sale.checkout}: goods handed over twice")
        self.goods[key] = sale.amount_minor

    def has_goods(self, till: str, checkout: str) -> bool:
        return (self.terminals[till], checkout) in self.goods

    def printed(self, till: str, receipt_no: str, text: str) -> None:
        """Something is on paper: not more than one original, and only of what is redeemed."""
        paper = Paper(till, receipt_no, text)
        held = [each for each in self.papers if (each.till, each.receipt_no) == (till, receipt_no)]
        self.papers.append(paper)
        if not paper.is_copy and any(not each.is_copy for each in held):
            raise Violation("INV-4", f"{till} {receipt_no}: two originals on paper")

    # ── on the wire ────────────────────────────────────────────────────────────────────────────

    def leaves(self, till: str, request: Request) -> None:
        """A request leaves a till, wherever it ends up."""
        if request.path != "POST /v1/records" or request.body is None:
            return
        for item in json.loads(request.body)["items"]:
            record = Opened.of(item["record"])
            said = record.payload
            held = self.left.setdefault(record.digest, record)
            if held.payload["kind"] == "redeem":
                self._check_sale_sent_again(till, record)
            if said["terminal"] != self.terminals[till]:
                raise Violation("INV-1", f"{till} sends a record of {said['terminal']}")

    def _check_sale_sent_again(self, till: str, record: Opened) -> None:
        """A sale found open after a restart is never sent again as a sale."""
        is_old = record.payload["sequence"] < self._began[record.payload["terminal"]]
        if is_old and "reversed" not in self._heard[record.key]:
            raise Violation("INV-5", f"{till} sends a sale of before its restart again")

    def answered(self, request: Request, answer: Answer) -> None:
        """The ledger answers, whoever hears it: the same record gets the same outcome for ever."""
        for text in _OUTCOME.findall(answer.body):
            word = Opened.of(text.decode("ascii"))
            if word.header["typ"] != "carepos-outcome+jws":
                continue
            self.verify_ledger(text.decode("ascii"))
            record = word.payload.get("record_sha256")
            if record is None:
                continue
            held = self.words.setdefault(record, text.decode("ascii"))
            if held != text.decode("ascii"):
                raise Violation("INV-1", f"another answer to the same record {record[:8]}")

    def hears(self, till: str, answer: Answer) -> None:
        """A till reads an answer: what in it is the ledger's word, it has heard."""
        for text in _OUTCOME.findall(answer.body):
            try:
                word = Opened.of(text.decode("ascii"))
            except ValueError:
                continue
            record = word.payload.get("record_sha256")
            if record is not None and self.words.get(record) == text.decode("ascii"):
                key = (word.payload["terminal"], word.payload["id"])
                self._heard[key].add(word.payload["result"])

    def verify_ledger(self, text: str) -> None:
        """Raises Violation unless the ledger signed it."""
        signed, _, signature = text.rpartition(".")
        try:
            key = Ed25519PublicKey.from_public_bytes(unb64(self.ledger_x))
            key.verify(unb64(signature), signed.encode())
        except InvalidSignature:
            raise Violation("INV-1", "an outcome that the ledger did not sign") from None
