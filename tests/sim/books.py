"""Whether the money is right: every decision of the ledger booked a second time, and compared.

It knows what the office gave out, what the tills' records say and which outcomes they got; what
each voucher must hold and each merchant be owed follows from docs/protocol.md and docs/offline.md
§3.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from tests.properties.ledger_model import Opened, Purse, Sale, sha256
from tests.sim.evidence import Evidence, need
from tests.sim.township import (
    CURRENCY,
    GRACE_S,
    HOUSEHOLDS,
    STORES,
    UNDO_WINDOW_S,
    Household,
)
from tests.sim.witness import Violation

_BOOKED: Final = {
    "redeem": ("posted", "posted_short"),
    "reversal": ("reversed",),
    "void": ("posted",),
    "refund": ("posted",),
}
_ALLOTTED: Final = "allotted:"
_CLOCK_STEPS: Final = timedelta(seconds=10)
"""More than the ledger's clock is ever put back: so far may two decisions stand in wrong order."""


def check(evidence: Evidence) -> None:
    """Raises Violation for the first promise about money that is broken."""
    _check_postings(evidence)
    money = _replayed(evidence)
    _check_balances(evidence, money)
    _check_forfeits(evidence, money)
    _check_sums(evidence)
    _check_undo_rules(evidence)
    _check_settlements(evidence)


# ── postings ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Move:
    """A decision that booked something."""

    kind: str
    record: Opened
    outcome: dict[str, Any]

    @property
    def recorded_at(self) -> str:
        text: str = self.outcome["recorded_at"]
        return text

    @property
    def posting(self) -> tuple[str, str]:
        return self.kind, self.record.digest

    @property
    def vouchers(self) -> set[str]:
        return {stated["voucher"] for stated in self.outcome["vouchers"]}


@dataclass(frozen=True)
class Transfer:
    """Something that the ledger set aside for a till, or that came back from there (negative)."""

    kind: str
    recorded_at: str
    voucher: str
    terminal: str
    minor: int
    quantity: int
    posting: tuple[str, str]


def _transfers(evidence: Evidence) -> list[Transfer]:
    made = {
        row["posting"]: row
        for row in evidence.book["postings"]
        if row["kind"] in ("allot", "release")
    }
    moved: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in evidence.book["entries"]:
        if row["posting"] in made and row["account"].startswith(_ALLOTTED):
            terminal = row["account"].removeprefix(_ALLOTTED)
            legs = moved[row["posting"], row["holder"], terminal]
            legs[0 if row["unit"] == CURRENCY else 1] += row["amount"]
    return [
        Transfer(
            made[posting]["kind"],
            made[posting]["recorded_at"],
            voucher,
            terminal,
            minor,
            quantity,
            (made[posting]["kind"], posting),
        )
        for (posting, voucher, terminal), (minor, quantity) in moved.items()
    ]


def _moves(evidence: Evidence) -> list[Move]:
    """As they were recorded."""
    found = [
        Move(kind, record, outcome)
        for kind, results in _BOOKED.items()
        for record, outcome in evidence.decided(kind, *results)
        if evidence.is_booked(record)
        and (
            outcome["vouchers"]
            or outcome.get("shortfall_minor")
            # Only the loss reserve gets something back.
            or (kind == "void" and _lost(evidence, record.payload["content"]["record_sha256"]))
        )
    ]
    return sorted(found, key=lambda move: (move.outcome["recorded_at"], move.record.number))


def _check_postings(evidence: Evidence) -> None:
    """INV-1, INV-2: a posting per booked record, each summing to zero in every unit."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for row in evidence.book["postings"]:
        need("INV-1", row["posting"] not in kinds[row["kind"]], "posted twice")
        kinds[row["kind"]].add(row["posting"])
    booked: dict[str, set[str]] = defaultdict(set)
    for move in _moves(evidence):
        booked[move.kind].add(move.record.digest)
    for kind in _BOOKED:
        need("INV-1", kinds[kind] == booked[kind], f"{kind} postings are not what was decided")
    sums: Counter[tuple[str, str]] = Counter()
    for row in evidence.book["entries"]:
        need("INV-2", type(row["amount"]) is int, "an amount that is no integer")
        sums[row["posting"], row["unit"]] += row["amount"]
    need("INV-2", not any(sums.values()), "a posting does not sum to zero in each unit")


# ── vouchers ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Money:
    """Every voucher and every sale, as the decisions so far left them."""

    purses: dict[str, Purse]
    programmes: dict[str, str]
    """By voucher."""
    sales: dict[str, Sale] = field(default_factory=dict)
    """By the digest of its record."""
    forfeits: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    allotted: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """By voucher and terminal: what is set aside, in money (False) and in the voucher's unit."""
    short: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """By the digest of a sale that was booked in part: (money, quantity) of each voucher."""
    copied: frozenset[str] = frozenset()
    """Terminals that have two journals."""
    loose: frozenset[str] = frozenset()
    """Vouchers of which nobody knows what they held meanwhile; in the end it is known again."""

    def copy(self) -> Money:
        sales = {
            digest: replace(sale, given=dict(sale.given), back=Counter(sale.back))
            for digest, sale in self.sales.items()
        }
        return Money(
            {voucher: replace(purse) for voucher, purse in self.purses.items()},
            self.programmes,
            sales,
            Counter(self.forfeits),
            Counter(self.allotted),
            dict(self.short),
            self.copied,
            self.loose,
        )

    def book(self, move: Move | Transfer) -> None:
        """Raises AssertionError where the decision can't have come now, with what it says."""
        if isinstance(move, Transfer):
            self._transfer(move)
            return
        said = move.record.payload["content"]
        if move.kind == "redeem":
            moved = self._sold(move)
        else:
            sale = self.sales.get(said["record_sha256"])
            assert sale is not None, "takes back what was not sold"
            moved = self._taken_back(move, sale)
        for stated in move.outcome["vouchers"]:
            purse = self.purses[stated["voucher"]]
            amounts = (stated["amount_minor"], stated["quantity"])
            assert amounts == moved.pop(stated["voucher"]), "an outcome states other amounts"
            shown = (stated["available_minor"], stated["available_quantity"])
            terminal = move.record.payload["terminal"]
            held = self._usable(purse, terminal)
            # Of two journals of one till each reads what is set aside for it alone.
            least = purse.shown() if terminal in self.copied else held
            is_right = least <= shown <= held or stated["voucher"] in self.loose
            assert is_right, f"said {shown}, held {held}"
        assert not moved, "an outcome leaves vouchers out"

    def _sold(self, move: Move) -> dict[str, tuple[int, int]]:
        said = move.record.payload["content"]
        taken = {
            (entry["line"], entry["voucher"]): (
                entry["quantity"],
                entry["programme_minor"],
                entry["beneficiary_minor"],
            )
            for entry in said["allocation"]
        }
        booked = self._paid(move)
        if move.outcome["result"] == "posted_short":
            self.short[move.record.digest] = dict(booked)
        sale = Sale(
            "",
            move.record.payload["occurred_at"],
            move.outcome["recorded_at"],
            [line["quantity"] for line in said["basket"]],
            taken,
        )
        self.sales[move.record.digest] = sale
        agreed = sale.rest()
        missing = sum(minor for minor, _ in agreed.values()) - move.outcome["amount_minor"]
        assert missing == move.outcome.get("shortfall_minor", 0), "booked is not what was agreed"
        if not missing:
            assert booked == agreed, "vouchers pay other parts than were agreed"
        assert all(part <= agreed.get(v, (0, 0)) for v, part in booked.items()), "more than agreed"
        return booked

    def _usable(self, purse: Purse, terminal: str) -> tuple[int, int]:
        """As a till reads it: what the voucher holds, and what is set aside of it for that till."""
        minor, quantity = purse.shown()
        if purse.unit is None:
            minor += self.allotted[purse.voucher, terminal, False]
        return minor, quantity + self.allotted[purse.voucher, terminal, True]

    def _paid(self, move: Move) -> dict[str, tuple[int, int]]:
        """What a sale took of each voucher: first of its own, then of what is set aside."""
        terminal, booked = move.record.payload["terminal"], {}
        for stated in move.outcome["vouchers"]:
            voucher, purse = stated["voucher"], self.purses[stated["voucher"]]
            booked[voucher] = (stated["amount_minor"], stated["quantity"])
            aside = (stated["from_allotment_minor"], stated["from_allotment_quantity"])
            for is_units, part in enumerate(aside):
                self.allotted[voucher, terminal, bool(is_units)] -= part
                left = self.allotted[voucher, terminal, bool(is_units)]
                assert left >= 0 or voucher in self.loose, "more than was set aside"
            purse.money -= booked[voucher][0] - aside[0]
            purse.quantity -= booked[voucher][1] - aside[1]
            self._check(purse, "more than the voucher held")
        return booked

    def _transfer(self, move: Transfer) -> None:
        purse = self.purses[move.voucher]
        for is_units, part in enumerate((move.minor, move.quantity)):
            self.allotted[move.voucher, move.terminal, bool(is_units)] += part
            left = self.allotted[move.voucher, move.terminal, bool(is_units)]
            assert left >= 0 or move.voucher in self.loose, "more than was set aside"
        purse.money -= move.minor
        purse.quantity -= move.quantity
        self._check(purse, "more set aside than the voucher held")

    def bear_what_is_unknown(self, *, but: frozenset[str] = frozenset()) -> None:
        """What a sale drew on something set aside of which nobody knows any more, its voucher gave
        itself. `but`: of these what was set aside may still come."""
        for (voucher, terminal, is_units), left in list(self.allotted.items()):
            if left < 0 and voucher not in but:
                purse = self.purses[voucher]
                purse.money += 0 if is_units else left
                purse.quantity += left if is_units else 0
                self.allotted[voucher, terminal, is_units] = 0

    def _check(self, purse: Purse, otherwise: str) -> None:
        if purse.voucher not in self.loose:
            assert min(purse.money, purse.quantity) >= 0, otherwise
            assert purse.money >= purse.available, "the rest of the voucher is not covered"

    def _taken_back(self, move: Move, sale: Sale) -> dict[str, tuple[int, int]]:
        if move.kind == "refund":
            said = move.record.payload["content"]
            moved = sale.give(said["lines"], said["parts"])
        else:
            short = self.short.pop(move.record.payload["content"]["record_sha256"], None)
            moved = sale.rest() if short is None else short
            sale.give_rest()
        at = move.outcome["recorded_at"]
        over = [v for v in sorted(moved) if move.kind == "refund" and at >= self._ends(v)]
        for voucher in over:
            self._forfeit(voucher, saved=False)
        for voucher, (minor, quantity) in moved.items():
            self.purses[voucher].money += minor
            self.purses[voucher].quantity += quantity
        for voucher in over:
            grace_s = GRACE_S[self.programmes[voucher]]
            if grace_s:
                until = datetime.fromisoformat(at) + timedelta(seconds=grace_s)
                text = until.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                self.purses[voucher].expires_at = text
            else:
                self._forfeit(voucher, saved=True)
        return moved

    def _ends(self, voucher: str) -> str:
        return self.purses[voucher].expires_at

    def _forfeit(self, voucher: str, *, saved: bool) -> None:
        """What a cap had saved goes only with the rest of all: what comes back may need it."""
        purse = self.purses[voucher]
        money = purse.money if saved else purse.available
        if money or purse.quantity:
            self.forfeits[voucher, money, purse.quantity] += 1
        purse.money -= money
        purse.quantity = 0


def _issued(evidence: Evidence) -> Money:
    """Every voucher as the office gave it out."""
    rows = {
        (programme, row["ref"]): row
        for household in HOUSEHOLDS
        for programme, row in household.rows().items()
    }
    late = Household("new", dairy_minor=100).rows()["dairy"]
    money = Money({}, {}, copied=frozenset(evidence.copied))
    for issue in evidence.book["issues"]:
        row = rows.get((issue["programme"], issue["ref"]), late)
        terms, ends = row.get("terms"), row["expires_at"]
        if terms is None:
            purse = Purse(issue["voucher"], None, 0, 0, 1, row["amount_minor"], 0, ends)
        else:
            caps = (terms["cap_minor"], terms["fixed_minor"], terms["cap_quantity"])
            purse = Purse(issue["voucher"], terms["unit"], *caps, 0, row["quantity"], ends)
            purse.money = purse.reserve()
        money.purses[issue["voucher"]] = purse
        money.programmes[issue["voucher"]] = issue["programme"]
    return money


def _replayed(evidence: Evidence) -> Money:
    """INV-2: every decision booked again, in an order in which each outcome states what its
    vouchers held then.

    The times of the ledger's records give the order but for decisions of one batch and for a clock
    that stepped; of those any order may be the right one.
    """
    slack = timedelta() if evidence.in_order else _CLOCK_STEPS
    deepest: list[tuple[int, str]] = []

    def go(money: Money, left: list[Move | Transfer]) -> Money | None:
        while left:
            may_be_next = _next(left, slack)
            if len(may_be_next) > 1:
                for move in may_be_next:
                    branch = money.copy()
                    if not book(branch, move, len(left)):
                        continue
                    found = go(branch, [each for each in left if each is not move])
                    if found is not None:
                        return found
                return None
            if not book(money, left[0], len(left)):
                return None
            left = left[1:]
        return money

    def book(money: Money, move: Move | Transfer, left: int) -> bool:
        try:
            money.book(move)
        except AssertionError as error:
            deepest.append((left, f"{move.kind} of {move.recorded_at}: {error}"))
            return False
        return True

    moves: list[Move | Transfer] = sorted([*_transfers(evidence), *_moves(evidence)], key=_place)
    money: Money | None = _issued(evidence)
    assert money is not None
    loss = evidence.witness.loss
    if loss is not None and loss.healed is not None:
        # Until it began to heal, and from the opening on, every decision shows what its vouchers
        # held.
        money = go(money, [each for each in moves if each.posting in loss.began])
        again = [each for each in moves if each.posting in loss.healed - loss.began]
        moves = [each for each in moves if each.posting not in loss.healed]
        late = [
            each for each in moves if isinstance(each, Move) and evidence.came_late(each.record)
        ]
        # Each till's when it came: what a refund forfeits is what the voucher holds by then.
        came = {row["digest"]: row["n"] for row in evidence.book["heal_evidence"]}
        late.sort(key=lambda each: came.get(each.record.digest, 0))
        if money is not None:
            money = _booked_again(money, [*again, *late])
            money.loose = frozenset(voucher for each in late for voucher in each.vouchers)
            money.bear_what_is_unknown(but=money.loose)
        moves = [each for each in moves if each not in late]
    money = None if money is None else go(money, moves)
    if money is None:
        raise Violation("INV-2", min(deepest)[1])
    money.bear_what_is_unknown()
    return money


def _booked_again(money: Money, moves: Sequence[Move | Transfer]) -> Money:
    """What came back after a loss, and what the ledger set aside meanwhile: in between nobody knows
    what a voucher held, for some of what was decided then is gone."""
    money = money.copy()
    money.loose = frozenset(money.purses)
    while moves:
        left: list[Move | Transfer] = []
        problem = ""
        for move in moves:
            tried = money.copy()
            try:
                tried.book(move)
            except AssertionError as error:
                problem = f"{move.kind} of {move.recorded_at}: {error}"
                left.append(move)
            else:
                money = tried
        if len(left) == len(moves):
            raise Violation("INV-9", f"booked again: {problem}")
        moves = left
    return money


def _place(move: Move | Transfer) -> tuple[str, int]:
    """What is released at a decision is released before it, and before something is set aside."""
    return (move.recorded_at, {"release": 0, "allot": 1}.get(move.kind, 2))


def _next(left: Sequence[Move | Transfer], slack: timedelta) -> Sequence[Move | Transfer]:
    """Those that may be the next to be decided, where a clock may be wrong by `slack`."""
    first = datetime.fromisoformat(left[0].recorded_at)
    near = [each for each in left if datetime.fromisoformat(each.recorded_at) <= first + slack]
    if not slack and isinstance(near[0], Transfer):
        return near[:1]
    return near


def _check_balances(evidence: Evidence, money: Money) -> None:
    """INV-2: every voucher holds what it was issued, less what is posted, never less than
    nothing."""
    held = {row["voucher"]: row for row in evidence.book["vouchers"]}
    need("INV-2", held.keys() == money.purses.keys(), "other vouchers than were issued")
    for voucher, row in held.items():
        purse = money.purses[voucher]
        balances = (row["available_minor"], row["saved_minor"], row["available_quantity"])
        need("INV-2", min(balances) >= 0, "a balance below zero")
        wanted = (purse.available, purse.saved, purse.quantity)
        need("INV-2", balances == wanted, f"a voucher holds {balances}, should hold {wanted}")
        need("INV-2", row["expires_at"] == purse.expires_at, "a voucher ends at another time")


def _check_forfeits(evidence: Evidence, money: Money) -> None:
    """INV-2: what expired vouchers held when something was refunded went back to the programme."""
    names = {row["posting"] for row in evidence.book["postings"] if row["kind"] == "forfeit"}
    found: dict[str, list[Any]] = {name: ["", 0, 0] for name in names}
    for row in evidence.book["entries"]:
        if row["posting"] in names and row["account"] in ("available", "saved"):
            forfeit = found[row["posting"]]
            forfeit[0] = row["holder"]
            forfeit[1 if row["unit"] == CURRENCY else 2] -= row["amount"]
    there = Counter(tuple(each) for each in found.values())
    need("INV-2", there == money.forfeits, f"{there} went back, should be {money.forfeits}")


def _check_sums(evidence: Evidence) -> None:
    """INV-2: balances are the sums of their entries, and merchants are owed what is posted."""
    accounts: Counter[tuple[str, str, str]] = Counter()
    for row in evidence.book["entries"]:
        accounts[row["account"], row["holder"], row["unit"]] += row["amount"]
    for row in evidence.book["entries"]:
        if row["account"].startswith(_ALLOTTED):
            key = (_ALLOTTED, row["holder"], row["unit"])
            accounts[key] += row["amount"]
    _check_set_aside(evidence, accounts)
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


def _check_set_aside(evidence: Evidence, accounts: Counter[tuple[str, str, str]]) -> None:
    left: Counter[tuple[str, str]] = Counter()
    for row in (row for row in evidence.book["allotments"] if not row["closed"]):
        left[row["voucher"], "money"] += row["left_minor"]
        left[row["voucher"], "units"] += row["left_quantity"]
    summed: Counter[tuple[str, str]] = Counter()
    for (account, voucher, unit), amount in accounts.items():
        if account == _ALLOTTED:
            summed[voucher, "money" if unit == CURRENCY else "units"] += amount
    need("INV-2", +left == +summed, "what is set aside is not the sum of its entries")


def _check_undo_rules(evidence: Evidence) -> None:
    """A sale is voided at its own till, soon, and not once a settlement holds it; refunded at its
    own merchant."""
    batch = {row["posting"]: row["batch_no"] for row in evidence.book["batch_postings"]}
    late = {
        record.payload["content"]["record_sha256"]
        for record, _ in evidence.decided("accept_offline", "posted", "posted_short")
    }
    for move in _moves(evidence):
        if move.kind not in ("void", "refund"):
            continue
        said = move.record.payload
        digest = said["content"]["record_sha256"]
        sale = evidence.record[digest].payload
        merchants = {evidence.merchant[each["terminal"]] for each in (said, sale)}
        need("undo", len(merchants) == 1, "a merchant took back another one's sale")
        if move.kind == "refund":
            continue
        need("undo", said["terminal"] == sale["terminal"], "a till voided another one's sale")
        pairs = [(sale["occurred_at"], said["occurred_at"])]
        if digest in late:
            # Its till could not know of a settlement; and goods that never left have no window.
            if said["content"]["reason"] == "goods_kept":
                continue
        elif batch[move.record.digest] != batch[digest] and not evidence.came_late(move.record):
            raise Violation("undo", "a settled sale was voided")
        elif evidence.in_order:
            recorded = evidence.outcome[digest]["recorded_at"]
            pairs.append((recorded, move.outcome["recorded_at"]))
        for before, after in pairs:
            passed = datetime.fromisoformat(after) - datetime.fromisoformat(before)
            need("undo", passed.total_seconds() < UNDO_WINDOW_S, f"voided {passed} after the sale")


# ── what merchants are paid ────────────────────────────────────────────────────────────────────


def _owed(evidence: Evidence, merchant: str) -> list[tuple[str, int, int]]:
    """(kind, number on its row, amount) of everything that a merchant is paid for or pays back."""
    sales = {r.key: r for r, _ in evidence.booked()}
    found = []
    for move in _moves(evidence):
        said = move.record.payload
        if evidence.merchant[said["terminal"]] != merchant:
            continue
        number = said["sequence"]
        if move.kind == "reversal":
            number = sales[move.record.key].payload["sequence"]
        elif move.kind == "void":
            number = evidence.record[said["content"]["record_sha256"]].payload["sequence"]
        amount = move.outcome["amount_minor"]
        if move.kind == "redeem" and move.outcome.get("liability") == "programme":
            amount += move.outcome["shortfall_minor"]  # the loss reserve pays it
        if move.kind == "void":
            amount += _lost(evidence, said["content"]["record_sha256"])
        found.append((move.kind, number, amount if move.kind == "redeem" else -amount))
    return found


def _lost(evidence: Evidence, digest: str) -> int:
    """What the loss reserve paid for a sale."""
    outcome = evidence.outcome[digest]
    return int(outcome["shortfall_minor"]) if outcome.get("liability") == "programme" else 0


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
        listed[batch["merchant"]] += _rows(said, bytes(batch["file"]))
    for merchant in sorted(set(STORES.values())):
        wanted, there = Counter(_owed(evidence, merchant)), Counter(listed[merchant])
        wanted += evidence.paid_not_booked(merchant)
        need("settlement", there == wanted, f"{merchant}: files are not postings")


def _rows(manifest: dict[str, Any], file: bytes) -> Sequence[tuple[str, int, int]]:
    need("settlement", manifest["file"]["sha256"] == sha256(file), "a file is not its manifest's")
    rows = list(csv.DictReader(io.StringIO(file.decode())))
    net = sum(int(row["amount_minor"]) for row in rows)
    need("settlement", net == manifest["net_minor"], "a file does not sum to its manifest")
    parts = sum(part["amount_minor"] for part in manifest["funders"])
    need("settlement", parts == net, "the funders' parts do not sum to the file")
    return [
        (row["kind"], int(row["receipt_no"].split("-")[1]), int(row["amount_minor"]))
        for row in rows
    ]
