"""What one batch looks at, and what it changes: commands, vouchers, attempts, postings in memory.

`book` reads a `Shelf` under lock and writes its changes once; `decide` works on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from carepos.claims import Acting
from carepos.keys import PublicKey, digest
from carepos.outcome import HeldReason
from carepos.product import ProductList
from carepos.record import Record, Redeem
from carepos.refusals import Refusal
from carepos.token import IdentityToken
from carepos.undo import Sold
from carepos.voucher import Programme, Voucher
from carepos_ledger import accounts
from carepos_ledger.accounts import Balance, Entry
from carepos_ledger.allotments import Allotment, with_own
from carepos_ledger.key_rules import TerminalKey


@dataclass(frozen=True, slots=True)
class Terminal:
    """One enrolled till as the ledger knows it, found by one of its keys (`kid`, `x`, `key`)."""

    terminal: str
    terminal_no: int
    merchant: str
    store: str
    kid: str
    x: str
    status: str
    key: TerminalKey


@dataclass(frozen=True, slots=True)
class Ruling:
    """A person's word on a held record: to decide it now as if its terminal were active, or with a
    `refusal` not to accept it.

    Its token was judged at `held_at`; `undecided` are the numbers before it that are held still.
    Of a sale that went out of the door the word stands for the token too.
    """

    refusal: Refusal | None
    held_at: datetime
    pin_proved: bool
    undecided: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A verified record with its terminal and, for a redemption, what its token proved.

    `identity` is None when the token that it names did not come; a Refusal when that is no good.
    `ruling` is there when a person decides it.
    `is_late`: it came with evidence, whose token was judged by the time of the sale.
    """

    record: Record
    terminal: Terminal
    identity: IdentityToken | Refusal | None
    is_late: bool = False
    pin_proof: str | None = field(default=None, repr=False)
    ruling: Ruling | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """A voucher as it stands: its terms as the rules see them, and its money.

    Inside the ledger `voucher.beneficiary` is the ledger's own name of the holder, not a
    merchant's reference; the rules only ask whether two are the same.
    """

    voucher: Voucher
    balance: Balance

    def after(self, entries: list[Entry]) -> Holding:
        balance = self.balance.after(entries)
        shown = replace(
            self.voucher,
            available_minor=balance.available_minor if self.voucher.terms is None else 0,
            available_quantity=balance.available_quantity,
        )
        return Holding(shown, balance)


@dataclass(frozen=True, slots=True)
class AttemptState:
    """Where an id stands. `content_sha256` is None for a tombstone without an original."""

    state: str
    content_sha256: str | None
    record_sha256: str
    posting: str | None


@dataclass(frozen=True, slots=True)
class Posting:
    """One posting to be written: its name is the digest of the record that caused it, but for a
    forfeit or a release, which no till asked for: they have names of their own and no `command`.
    `original` is what it takes back."""

    posting: str
    kind: str
    programme: str
    bucket: int
    command: Command | None
    entries: list[Entry]
    original: Posted | None = None


@dataclass(frozen=True, slots=True)
class Posted:
    """A redemption booked earlier, or what took one back: what an undo needs of it.

    `undone` are the legs of everything that took it back so far.
    """

    posting: str
    kind: str
    programme: str
    merchant: str
    currency: str
    sequence: int
    incarnation: str
    entries: list[Entry]
    undone: tuple[Entry, ...] = ()

    def left(self) -> list[Entry]:
        """The legs of what still stands; none once it is all taken back."""
        left = accounts.net([self.entries, self.undone])
        return left if accounts.moves(left) else []


@dataclass(frozen=True, slots=True)
class ActedPosting:
    """A redemption that somebody made for its beneficiary: who, how, why, how much."""

    bucket: int
    posting: str
    programme: str
    beneficiary: str
    acting: Acting
    amount_minor: int
    recorded_at: str
    reversed: bool = False


@dataclass(frozen=True, slots=True)
class Decided:
    """The signed answer to one record."""

    result: str
    jws: str


Key = tuple[str, str]
"""(terminal, id): ids are scoped to the terminal that signed them. Of what was paid in acted
redemptions: (programme, beneficiary) or (programme, actor)."""


@dataclass(frozen=True, slots=True)
class ListedException:
    """A sale that a person has to look at: what vouchers did not cover, or that was not booked."""

    command: Command
    reason: str
    amount_minor: int
    currency: str
    liability: str


@dataclass(frozen=True, slots=True)
class NewHeld:
    """A record that only people can decide, and its signed `held`; `refusal` is what was wrong with
    its token, where that is known."""

    command: Command
    reason: HeldReason
    decided: Decided
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose voucher it is: the issuer's names of them, and the ledger's."""

    iss: str
    sub: str = field(repr=False)
    beneficiary: str


Holder = tuple[int, str]
"""(bucket, beneficiary): the ledger's own name of one."""


@dataclass(slots=True)
class Shelf:
    """Everything a batch touches, read under lock; and what its decisions changed.

    `waiting`: by digest of an undo, the numbers before it that were not decided when this was read,
    each with its record's digest where it has arrived. `sold`: by posting, the sales that an undo
    of this batch names. `statuses`, `merchants`: of its terminals, and of those whose sales it
    names. `freed`: of the allotments that nobody came back for in time, what sales within them may
    still say so of. `ownerless`: vouchers of people who were erased. `held`: by digest, answers to
    sales that went out of the door and that people decide. `owners`: of the vouchers in such sales.
    """

    outcomes: dict[str, Decided] = field(default_factory=dict)
    attempts: dict[Key, AttemptState] = field(default_factory=dict)
    posted: dict[str, Posted] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)
    beneficiaries: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    visits: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    pin_visits: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    locked_cards: set[tuple[str, str]] = field(default_factory=set)
    acted: dict[str, ActedPosting] = field(default_factory=dict)
    household_paid: dict[Key, int] = field(default_factory=dict)
    actor_paid: dict[Key, int] = field(default_factory=dict)
    programmes: dict[str, Programme] = field(default_factory=dict)
    products: dict[str, ProductList] = field(default_factory=dict)
    gaps: dict[str, list[int]] = field(default_factory=dict)
    waiting: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)
    sold: dict[str, Sold] = field(default_factory=dict)
    allotments: dict[str, list[Allotment]] = field(default_factory=dict)
    freed: dict[str, list[Allotment]] = field(default_factory=dict)
    homes: dict[Holder, tuple[str, bool]] = field(default_factory=dict)
    held: dict[str, Decided] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    late_sales: dict[Key, Command] = field(default_factory=dict)
    acceptances: dict[Key, Command] = field(default_factory=dict)
    pin_verifiers: dict[tuple[str, str], str] = field(default_factory=dict)
    frozen_at: dict[str, str] = field(default_factory=dict)
    packs_made_at: dict[str, str] = field(default_factory=dict)
    loss_reserve: dict[str, int] = field(default_factory=dict)
    ownerless: set[str] = field(default_factory=set)
    statuses: dict[str, str] = field(default_factory=dict)
    merchants: dict[str, str] = field(default_factory=dict)
    keys: dict[str, TerminalKey] = field(default_factory=dict)

    new_outcomes: dict[str, tuple[Command, Decided]] = field(default_factory=dict)
    new_held: list[NewHeld] = field(default_factory=list)
    new_attempts: dict[Key, tuple[int, AttemptState]] = field(default_factory=dict)
    moved_attempts: dict[Key, tuple[int, AttemptState]] = field(default_factory=dict)
    new_postings: list[Posting] = field(default_factory=list)
    new_visits: list[tuple[int, str, str, str, datetime]] = field(default_factory=list)
    new_acted: list[ActedPosting] = field(default_factory=list)
    undone_acted: list[ActedPosting] = field(default_factory=list)
    new_keys: list[tuple[str, PublicKey]] = field(default_factory=list)
    new_returned: list[tuple[Posted, Command]] = field(default_factory=list)
    new_expiry: dict[tuple[int, str], datetime] = field(default_factory=dict)
    new_homes: dict[Holder, str] = field(default_factory=dict)
    new_exceptions: list[ListedException] = field(default_factory=list)
    changed_allotments: dict[tuple[str, int], Allotment] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    alarms: list[tuple[str, Command]] = field(default_factory=list)

    def apply(self, entries: list[Entry]) -> None:
        """Let the vouchers among the legs hold what they then hold."""
        touched = {entry.holder for entry in entries if accounts.is_vouchers(entry.account)}
        for voucher in touched:
            self.holdings[voucher] = self.holdings[voucher].after(entries)
        self.touched |= touched

    def own(self, voucher: str, terminal: str, incarnation: str) -> list[Allotment]:
        """The voucher's open allotments of this till, in order of number."""
        held = self.allotments.get(voucher, [])
        return [each for each in held if each.is_for(terminal, incarnation)]

    def may_draw(self, command: Command) -> bool:
        """Whether deciding this command may take something out of an allotment."""
        record = command.record
        return isinstance(record.content, Redeem) and any(
            self.own(entry.voucher, record.terminal, record.incarnation)
            for entry in record.content.allocation
        )

    def at(self, voucher: str, command: Command) -> Voucher:
        """The voucher as this till may use it: with what is set aside for it."""
        record = command.record
        own = self.own(voucher, record.terminal, record.incarnation)
        return with_own(self.holdings[voucher].voucher, own)

    def change(self, allotment: Allotment) -> None:
        """Let an allotment hold what it then holds; one that is closed is there no more."""
        kept = [
            allotment if each.number == allotment.number else each
            for each in self.allotments[allotment.voucher]
        ]
        self.allotments[allotment.voucher] = [each for each in kept if not each.closed]
        self.changed_allotments[allotment.voucher, allotment.number] = allotment

    def freed_of(
        self, voucher: str, number: int, terminal: str, incarnation: str
    ) -> Allotment | None:
        """An allotment of this till that was freed, if it was set aside for it at all."""
        return next(
            (
                each
                for each in self.freed.get(voucher, [])
                if each.number == number and each.is_for(terminal, incarnation)
            ),
            None,
        )

    def say_of(self, freed: Allotment, minor: int) -> None:
        """A sale within an allotment that was freed has said so of this much: no other can."""
        less = freed.less(minor, 0)
        others = [each for each in self.freed[freed.voucher] if each.number != freed.number]
        self.freed[freed.voucher] = [*others, less]
        self.changed_allotments[freed.voucher, freed.number] = less

    def release(self, allotment: Allotment, *, given_back: bool = False) -> None:
        """What is left of an allotment goes back to its voucher, and it is closed.

        What was left stays noted on one that its till did not give back itself: a sale within it
        may be on its way.
        """
        held = self.holdings[allotment.voucher]
        entries = accounts.set_aside(
            held.balance,
            -allotment.left_minor,
            -allotment.left_quantity,
            terminal=allotment.terminal,
        )
        self.apply(entries)
        if entries:
            name = f"carepos/release/v1|{allotment.voucher}|{allotment.number}"
            posting = digest(name.encode("ascii"))
            self.new_postings.append(
                Posting(posting, "release", held.voucher.programme, allotment.bucket, None, entries)
            )
        if given_back:
            self.change(replace(allotment, left_minor=0, left_quantity=0, closed=True))
            return
        closed = replace(allotment, closed=True)
        self.change(closed)
        self.freed.setdefault(allotment.voucher, []).append(closed)
