"""What can be seen at the edges of the product while it runs, and what must never be seen there.

The witness stands at the counter, beside the printer and on the wire. It knows nothing of rules or
tables: it notes what was said and done, and cries out at once when something seen contradicts what
was seen before. What was noted is held against the files in the end (`checker`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.properties.ledger_model import Opened, unb64

if TYPE_CHECKING:
    from carepos import Correction, Sale
    from tests.sim.ledger_host import Answer, Request
    from tests.sim.loss import Loss

_OUTCOME = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_HEADLINES: Final = {
    "VOIDED": "已撤销",
    "REFUND": "退货",
    "PROVISIONAL": "待确认",
    "REDEEMED": "已核销",
}
_DECIDED_LATE: Final = {"confirmed", "short", "exception", "voided"}
_TAKEN_BACK: Final = {"reversing", "filling", "reversed"}
_FOLLOWS: Final = {
    "confirmed": {"confirmed", "voided"},
    "voided": {"voided"},
    "refused": {"refused"},
    "reversed": {"reversed"},
    "filling": {"filling", "reversed"},
    "reversing": {"reversing", "filling", "reversed"},
    "accepted": {"accepted", "accept_asked", "provisional", "held"} | _DECIDED_LATE,
    "accept_asked": {"accept_asked", "provisional", "held"} | _DECIDED_LATE,
    "provisional": {"provisional", "held"} | _DECIDED_LATE,
    "held": {"held"} | _DECIDED_LATE,
    "short": {"short", "voided"},
    "exception": {"exception"},
    "goods_asked": {"goods_asked", "confirmed", "voided", "reversing", "filling", "reversed"},
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

    line: str
    receipt_no: str
    text: str

    @property
    def is_copy(self) -> bool:
        return "副本" in self.text

    @property
    def kind(self) -> str:
        """What its headline says."""
        return next(kind for kind, said in _HEADLINES.items() if said in self.text)


@dataclass(frozen=True)
class Receipt:
    """What a family holds of a sale: its number, its QR, and how much it bought on each line."""

    receipt_no: str
    qr: str
    quantities: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A journal that began as a copy of another: its name, and up to which number they are one."""

    line: str
    shared: int


@dataclass(frozen=True)
class Memory:
    """What a till has shown of sales, and of voids and refunds, by receipt number; and which
    results it has heard, by id."""

    seen: dict[str, str]
    undos: dict[str, str]
    heard: dict[str, set[str]]


@dataclass
class Witness:
    """One run's observations."""

    ledger_keys: dict[str, str]
    """By kid, the `x` of each key that the ledger ever signed with."""
    terminals: dict[str, str]
    """By till's name, the terminal it is."""
    goods: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """By terminal and receipt number: for which checkout goods were handed over, and the amount
    that the screen showed."""
    came_back: set[tuple[str, str]] = field(default_factory=set)
    """Sales that the cashier read to be void, so that she has the goods again."""
    given_back: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """By terminal and number of a void or refund that the cashier read to be done: what it gave
    back to vouchers, and what she gave back herself."""
    receipts: list[Receipt] = field(default_factory=list)
    """In the hands of the families."""
    codes: list[tuple[int, str]] = field(default_factory=list)
    """Every code that a family held up, by family: somebody may have taken a picture of it."""
    kept: set[tuple[str, str]] = field(default_factory=set)
    """By terminal and receipt number: sales of which the cashier said that the goods stayed."""
    papers: list[Paper] = field(default_factory=list)
    left: dict[str, Opened] = field(default_factory=dict)
    """Every record that ever left a till, by digest."""
    words: dict[str, str] = field(default_factory=dict)
    """The ledger's outcome of each record that it was seen to answer, by the record's digest."""
    sales: set[tuple[str, str]] = field(default_factory=set)
    """Every (terminal, receipt number) that a cashier saw."""
    loss: Loss | None = None
    """What was seen when the ledger's disk was lost, where it was."""
    _heard: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)
    _seen_undo: dict[tuple[str, str], str] = field(default_factory=dict)
    _began: dict[str, int] = field(default_factory=dict)
    _judged_late: set[str] = field(default_factory=set)
    branches: dict[str, Branch] = field(default_factory=dict)
    """By till's name, the copy that its journal began as."""
    _stopped: set[str] = field(default_factory=set)
    """Journals whose till heard that the ledger holds whatever it sends."""
    _called_off: set[tuple[str, str]] = field(default_factory=set)
    """Sales that some till showed to be taken back before goods left."""

    # ── whose it is ────────────────────────────────────────────────────────────────────────────

    @property
    def copied(self) -> set[str]:
        """Terminals that have more than one journal."""
        return {self.terminals[till] for till in self.branches}

    def line_of(self, till: str) -> str:
        """Which journal a till writes: its terminal's, or one that branched off."""
        branch = self.branches.get(till)
        return self.terminals[till] if branch is None else branch.line

    def _place(self, till: str, receipt_no: str) -> tuple[str, str]:
        """A number, and whose it is: what stands in a copy already is its original's."""
        branch = self.branches.get(till)
        is_shared = branch is not None and int(receipt_no.split("-")[1]) <= branch.shared
        return (self.terminals[till] if is_shared else self.line_of(till), receipt_no)

    def memory_of(self, till: str) -> Memory:
        """What a till has shown and heard so far, which a copy of it has then, too."""
        line = self.line_of(till)

        def own(seen: Mapping[tuple[str, str], str]) -> dict[str, str]:
            return {name: state for (of, name), state in seen.items() if of == line}

        heard = {name: set(results) for (of, name), results in self._heard.items() if of == line}
        return Memory(own(self._seen), own(self._seen_undo), heard)

    def shown(self, line: str) -> dict[int, str]:
        """By number, what the cashier read last of each sale of a journal."""
        return {
            int(number.split("-")[1]): state
            for (of, number), state in self._seen.items()
            if of == line
        }

    def branches_off(self, till: str, terminal: str, branch: Branch, memory: Memory) -> None:
        """From here on this till goes on with a copy that was made when it had this memory."""
        self.terminals[till], self.branches[till] = terminal, branch
        self._seen |= {(branch.line, name): state for name, state in memory.seen.items()}
        self._seen_undo |= {(branch.line, name): state for name, state in memory.undos.items()}
        for name, results in memory.heard.items():
            self._heard[branch.line, name] = set(results)

    # ── at the counter ─────────────────────────────────────────────────────────────────────────

    def started(self, till: str, sequence: int) -> None:
        """The till's process is new: its `start` has this number."""
        self._began[self.line_of(till)] = sequence

    def saw(self, till: str, sale: Sale) -> None:
        """The cashier reads where a sale stands."""
        key, shown = self._place(till, sale.receipt_no), (self.line_of(till), sale.receipt_no)
        self.sales.add(key)
        before = self._seen.get(shown)
        if before in _FOLLOWS and sale.state not in _FOLLOWS[before]:
            raise Violation("INV-7", f"{till} {sale.receipt_no} was {before}, now {sale.state}")
        if sale.state == "review":
            raise Violation("INV-6", f"{till} {sale.receipt_no}: the reversal was not accepted")
        self._seen[shown] = sale.state
        if sale.state == "voided":
            self.came_back.add(key)
        if sale.state in _TAKEN_BACK:
            self._called_off.add(key)

    def saw_undo(self, till: str, done: Correction) -> None:
        """The cashier reads where a void or refund stands; once it is done she gives back."""
        shown = (self.line_of(till), done.receipt_no)
        before = self._seen_undo.setdefault(shown, done.state)
        if before not in ("waiting", done.state):
            raise Violation("INV-7", f"{till} {done.receipt_no} was {before}, now {done.state}")
        self._seen_undo[shown] = done.state
        if done.state == "posted":
            key = self._place(till, done.receipt_no)
            self.given_back[key] = (done.amount_minor, done.beneficiary_minor)
            if done.kind == "void":
                self.came_back.add(self._place(till, done.sale_receipt_no))

    def handed_over(self, till: str, sale: Sale, receipt: Receipt) -> None:
        """Goods and receipt leave the counter: once for each sale that was not taken back."""
        key = self._place(till, sale.receipt_no)
        before = [
            number
            for (of, number), (checkout, _) in self.goods.items()
            if (of, checkout) == (key[0], sale.checkout) and (of, number) not in self.came_back
        ]
        if before:
            raise Violation("INV-1", f"{till} {sale.checkout}: goods handed over twice")
        self.goods[key] = (sale.checkout, sale.amount_minor)
        self.receipts.append(receipt)

    def keeps(self, till: str, sale: Sale) -> None:
        """The cashier says that the goods of this sale never left."""
        self.kept.add(self._place(till, sale.receipt_no))

    def has_goods(self, till: str, sale: Sale) -> bool:
        return self._place(till, sale.receipt_no) in self.goods

    def is_waited_for(self, till: str, sale: Sale) -> bool:
        """Whether somebody still waits for the goods of this sale."""
        key = self._place(till, sale.receipt_no)
        return not (key in self.goods or key in self.kept or key in self._called_off)

    def printed(self, till: str, receipt_no: str, text: str) -> None:
        """Something is on paper: not more than one original, and only of what is redeemed."""
        paper = Paper(self.line_of(till), receipt_no, text)
        what = (paper.line, receipt_no, paper.kind)
        held = [each for each in self.papers if (each.line, each.receipt_no, each.kind) == what]
        self.papers.append(paper)
        if not paper.is_copy and any(not each.is_copy for each in held):
            raise Violation("INV-4", f"{till} {receipt_no}: two originals on paper")

    # ── on the wire ────────────────────────────────────────────────────────────────────────────

    def leaves(self, till: str, request: Request) -> None:
        """A request leaves a till, wherever it ends up."""
        if request.path != "POST /v1/records" or request.body is None:
            return
        items = [Opened.of(item["record"]) for item in json.loads(request.body)["items"]]
        accepted = {each.key for each in items if each.payload["kind"] == "accept_offline"}
        for record in items:
            said = record.payload
            held = self.left.setdefault(record.digest, record)
            if held.payload["kind"] == "redeem" and record.key not in accepted:
                self._check_sale_sent_again(till, record)
            if said["terminal"] != self.terminals[till]:
                raise Violation("INV-1", f"{till} sends a record of {said['terminal']}")

    def _check_sale_sent_again(self, till: str, record: Opened) -> None:
        """A sale found open after a restart is never sent again as a sale, unless it is held,
        or whatever this till sends is."""
        line, number = self.line_of(till), record.payload["sequence"]
        is_old = number < self._began[line]
        if line in self._stopped:
            return
        if is_old and not self._heard[line, record.payload["id"]] & {"reversed", "held"}:
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
                if not self._is_judged_late(Opened.of(held)):
                    raise Violation("INV-1", f"another answer to the same record {record[:8]}")
                self._judged_late.add(record)
                self.words[record] = text.decode("ascii")

    def _is_judged_late(self, held: Opened) -> bool:
        """What was held is decided once, and a sale that was refused and left all the same is
        judged anew once."""
        said = held.payload
        if said["result"] == "held":
            return True
        accepted = any(
            (each.key, each.payload["kind"]) == (held.key, "accept_offline")
            for each in self.left.values()
        )
        return (
            said["result"] == "refused"
            and said["kind"] == "redeem"
            and accepted
            and said["record_sha256"] not in self._judged_late
        )

    def carried(self, records: list[str]) -> None:
        """Somebody leaves a shop with a file of these records."""
        for record in map(Opened.of, records):
            self.left.setdefault(record.digest, record)

    def reads(self, till: str, data: bytes) -> None:
        """A till reads answers: what in them is the ledger's word, it has heard."""
        for text in _OUTCOME.findall(data):
            try:
                word = Opened.of(text.decode("ascii"))
            except ValueError:
                continue
            record = word.payload.get("record_sha256")
            if record is not None and self.words.get(record) == text.decode("ascii"):
                self._heard[self.line_of(till), word.payload["id"]].add(word.payload["result"])
                if word.payload.get("reason") in ("terminal_forked", "terminal_revoked"):
                    self._stopped.add(self.line_of(till))

    def unsay(self, digest: str, word: str | None) -> None:
        """The ledger lost what it last said about a record, and nobody had heard that; `word` is
        what was heard before."""
        self._judged_late.discard(digest)
        if word is None:
            del self.words[digest]
        else:
            self.words[digest] = word

    def verify_ledger(self, text: str) -> None:
        """Raises Violation unless the ledger signed it, with a key that its operator knows of."""
        signed, _, signature = text.rpartition(".")
        try:
            x = self.ledger_keys[Opened.of(text).header["kid"]]
            key = Ed25519PublicKey.from_public_bytes(unb64(x))
            key.verify(unb64(signature), signed.encode())
        except (InvalidSignature, KeyError):
            raise Violation("INV-1", "an outcome that the ledger did not sign") from None
