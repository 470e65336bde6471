"""A ledger that lost data, written a second time from docs/offline.md section 12 alone.

What is evidence, and in which order it is booked, is `vectors.second_healing`; what packs say was
set aside is not brought back here, so what came from allotments is taken from `available`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.second_attempts import Attempt, Item, Terminal
from tests.second_book import Book
from tests.second_problems import Problem
from tests.second_rules import content_digest
from tests.second_signing import Json, PublicKey, unread, utc
from tests.vectors import second_healing

if TYPE_CHECKING:
    from tests.second_ledger import SecondLedger

RECORD, OUTCOME = "carepos-record+jws", "carepos-outcome+jws"


@dataclass
class Evidence:
    """A record and the outcome that its till has of it."""

    item: Item
    outcome: Json
    jws: str


@dataclass
class Heal:
    """Whether the ledger heals, and what waits for its opening."""

    epoch: int = 1
    healing: bool = False
    staged: dict[str, Evidence] = field(default_factory=dict)

    def begin(self) -> None:
        self.epoch, self.healing = self.epoch + 1, True

    def in_order(self) -> list[Evidence]:
        """By (`recorded_at`, terminal, sequence)."""
        told = [
            {
                "digest": digest,
                "recorded_at": each.outcome["recorded_at"],
                "terminal": each.item.terminal.name,
                "sequence": each.item.record["sequence"],
            }
            for digest, each in self.staged.items()
        ]
        return [self.staged[each["digest"]] for each in second_healing.in_order(told)]


def certified(body: Json, ledger: str, keys: Sequence[PublicKey]) -> list[tuple[PublicKey, Json]]:
    """The keys of the caller and what the ledger certified of each, oldest first.

    Raises:
        Problem: `malformed`, `signature_invalid`.
    """
    offered = body["certificates"]
    try:
        name = unread(offered[0]["certificate"], "carepos-certificate+jws").read(keys[0])[
            "terminal"
        ]
    except (KeyError, IndexError, TypeError) as failure:
        raise Problem("malformed") from failure
    found = second_healing.certified(offered, name, ledger, [key.raw for key in keys])
    if isinstance(found, str):
        raise Problem(found)
    return [(PublicKey.of(each["key"]), said) for each, said in zip(offered, found, strict=True)]


def believed(
    offered: Json, terminal: Terminal, own: Sequence[PublicKey], keys: Sequence[PublicKey]
) -> Evidence:
    """Raises Problem."""
    code = second_healing.judge(
        offered, terminal.name, [key.raw for key in own], [key.raw for key in keys]
    )
    if code is not None:
        raise Problem(code)
    thing = unread(offered["record"], RECORD)
    record = thing.read(next(key for key in own if key.kid == thing.kid))
    outcome = unread(offered["outcome"], OUTCOME).read(keys[0])
    item = Item(record, thing.digest, terminal, None, None, thing.kid, offered["record"])
    return Evidence(item, outcome, offered["outcome"])


def ranges(numbers: Sequence[int]) -> tuple[list[list[int]], bool]:
    """At most 200, and whether there are more."""
    found = second_healing.ranges(numbers)
    return found[:200], len(found) > 200


def until_nothing_moves(waiting: Sequence[Evidence], place: Callable[[Evidence], bool]) -> None:
    """What does not fit yet is tried again, as long as anything does."""
    left = list(waiting)
    while left:
        still = [each for each in left if not place(each)]
        if len(still) == len(left):
            return
        left = still


def begin(attempt: Attempt, told: Evidence, state: str) -> None:
    """What an attempt is by its outcome."""
    record = told.item.record
    attempt.state, attempt.kind, attempt.sale = state, record["kind"], record
    attempt.jws, attempt.record_sha256 = told.item.jws, told.item.digest
    attempt.content_sha256, attempt.recorded_at = (
        content_digest(record) if record["kind"] != "reversal" else "",
        told.outcome["recorded_at"],
    )
    names = ("result", "currency", "amount_minor", "vouchers", "refusal")
    attempt.payload = {name: told.outcome[name] for name in names if name in told.outcome}


def place(ledger: SecondLedger, told: Evidence) -> bool:
    """Book an outcome, not the rules: they were asked before. False: it does not fit yet."""
    item, outcome = told.item, told.outcome
    record, at = item.record, item.terminal.name
    kind, result = record["kind"], outcome["result"]
    attempt = ledger.attempts.get((at, record["id"]), Attempt())
    if kind == "redeem" and result == "posted":
        if not _takes(ledger.book, attempt, outcome):
            return False
        begin(attempt, told, "posted")
        _restore(ledger, told, record, record["content"]["programme"], outcome["amount_minor"])
    elif kind in ("void", "refund") and result == "posted":
        sale = ledger.undo.of(item)
        if sale is None or sale.state != "posted":
            return False
        if kind == "void":
            sale.undone = True
        else:
            sale.refunded += record["content"]["lines"]
        ledger.undo.give_back(item, sale, went(outcome), None)
        begin(attempt, told, "posted")
        named = sale.sale if kind == "void" else record
        programme = sale.sale["content"]["programme"]
        _restore(ledger, told, named, programme, -outcome["amount_minor"])
    elif kind == "reversal" and outcome["amount_minor"]:
        if attempt.state != "posted":
            return False
        ledger.undo.give_back(item, attempt, went(outcome), None)
        attempt.state = "reversed"
        programme = attempt.sale["content"]["programme"]
        _restore(ledger, told, attempt.sale, programme, -outcome["amount_minor"])
    elif kind == "reversal":
        attempt.state, attempt.kind = attempt.state or "reversed", attempt.kind or kind
        attempt.record_sha256 = attempt.record_sha256 or record["content"]["record_sha256"]
    elif kind == "key_change" and result == "posted":
        _add_key(ledger, item)
        attempt.state = "posted"
    elif not attempt.state:
        begin(attempt, told, result)
    _keep_restored(ledger, told, attempt)
    return True


def _restore(
    ledger: SecondLedger, told: Evidence, named: Json, programme: str, amount_minor: int
) -> None:
    """The settlement row of an outcome."""
    at = told.outcome["recorded_at"]
    ledger.enter(told.item, named, programme, amount_minor, at)


def _add_key(ledger: SecondLedger, item: Item) -> None:
    key = PublicKey.of(item.record["content"]["key"])
    item.terminal.order.announce(item.kid, key.kid, False)
    item.terminal.keys.setdefault(key.kid, (key, utc(ledger.now())))


def _keep_restored(ledger: SecondLedger, told: Evidence, attempt: Attempt) -> None:
    """The outcome byte for byte, and the place in the chain."""
    record, name = told.item.record, told.item.terminal.name
    place_of = name, record["incarnation"]
    ledger.attempts[name, record["id"]] = attempt
    attempt.outcomes.append(told.jws)
    ledger.decided[told.item.digest] = told.jws
    decided = ledger.places.setdefault(place_of, {})
    decided.setdefault(record["sequence"], set()).add(told.item.digest)
    seen = ledger.numbers.setdefault(place_of, {})
    seen.setdefault(record["sequence"], (told.item.digest, record["prev"]))


def _takes(book: Book, attempt: Attempt, outcome: Json) -> bool:
    parts = went(outcome)
    for name, (minor, quantity) in parts.items():
        pot = book.pots.get(name)
        if pot is None or pot.minor < minor or pot.quantity < quantity:
            return False
    attempt.taken = [book.take(name, *moved) for name, moved in sorted(parts.items())]
    return True


def went(outcome: Json) -> dict[str, tuple[int, int]]:
    """By voucher what an outcome says moved."""
    vouchers = outcome["vouchers"]
    return {each["voucher"]: (each["amount_minor"], each["quantity"]) for each in vouchers}
