"""What a ledger must hold, kept a second time: an independent double-entry model as the checker.

It imports nothing of CarePOS. It is told what was funded, issued and sent, and what the ledger
answered; from docs/protocol.md alone it knows what must follow, and holds the ledger's tables
against that. Every broken promise is an AssertionError that names it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]
TABLES = frozenset(
    "records record_bytes held_records terminal_notes terminal_progress alarms attempts visits"
    " postings entries lines returned_lines vouchers programmes".split()
)
"""What `check` looks at."""


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sha256(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Opened:
    """A JWS taken apart, unverified."""

    header: dict[str, Any]
    payload: dict[str, Any]
    digest: str

    @classmethod
    def of(cls, jws: str) -> Opened:
        header, payload, _ = jws.split(".")
        signing_input = jws.rsplit(".", 1)[0]
        return cls(
            json.loads(unb64(header)), json.loads(unb64(payload)), sha256(signing_input.encode())
        )

    @property
    def key(self) -> tuple[str, str]:
        return (self.payload["terminal"], self.payload["id"])

    @property
    def number(self) -> tuple[str, str, int]:
        p = self.payload
        return (p["terminal"], p["incarnation"], p["sequence"])

    @property
    def content_sha256(self) -> str:
        p, content = self.payload, self.payload["content"]
        names = {
            "redeem": ("allocation", "beneficiary", "currency", "programme"),
            "void": ("original",),
            "refund": ("currency", "lines", "original", "parts"),
        }[p["kind"]]
        means = {"terminal": p["terminal"], **{name: content[name] for name in names}}
        if p["kind"] != "redeem":
            means["kind"] = p["kind"]
        text = json.dumps(means, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return sha256(text.encode())


@dataclass(frozen=True)
class Answer:
    """What came back for one record: a signed outcome, or the code of a problem."""

    outcome: str | None = None
    problem: str | None = None


@dataclass
class Purse:
    """A voucher: money in all, and for goods how many are left and what they may cost."""

    voucher: str
    unit: str | None
    cap: int
    fixed: int
    per: int
    money: int
    quantity: int
    expires_at: str

    def reserve(self) -> int:
        return self.cap * self.quantity // self.per - self.fixed * self.quantity // self.per

    @property
    def available(self) -> int:
        return self.money if self.unit is None else min(self.money, self.reserve())

    @property
    def saved(self) -> int:
        return self.money - self.available

    def shown(self) -> tuple[int, int]:
        """(available_minor, available_quantity) as outcomes state them."""
        return (self.money, 0) if self.unit is None else (0, self.quantity)


@dataclass
class Sale:
    """A booked redemption: what it took by (line, voucher), as (quantity, programme's part,
    beneficiary's part), and what of that came back."""

    merchant: str
    occurred_at: str
    recorded_at: str
    quantities: list[int]
    taken: dict[tuple[int, str], tuple[int, int, int]]
    given: dict[tuple[int, str], tuple[int, int, int]] = field(default_factory=dict)
    back: Counter[int] = field(default_factory=Counter)
    settled: bool = False

    def left(self, place: tuple[int, str]) -> tuple[int, int, int]:
        q, p, b = self.taken[place]
        gone = self.given.get(place, (0, 0, 0))
        return (q - gone[0], p - gone[1], b - gone[2])

    @property
    def stands(self) -> bool:
        """Whether a voucher could still get anything back."""
        return any(q or p for q, p, _ in map(self.left, self.taken))

    @property
    def back_minor(self) -> int:
        return sum(p for _, p, _ in self.given.values())

    def rest(self) -> dict[str, tuple[int, int]]:
        """(money, quantity) by voucher of what was not given back."""
        return self._by_voucher({place: self.left(place) for place in self.taken})

    def give_rest(self) -> None:
        self.given = dict(self.taken)

    def give(self, lines: Sequence[Row], parts: Sequence[Row]) -> dict[str, tuple[int, int]]:
        """Take these parts back for these lines; by voucher, as `rest`."""
        for line in lines:
            self.back[line["line"]] += line["quantity"]
            assert self.back[line["line"]] <= self.quantities[line["line"] - 1], (
                "more of a line came back than was sold"
            )
        named = {
            (part["line"], part["voucher"]): (
                part["quantity"], part["programme_minor"], part["beneficiary_minor"],
            )
            for part in parts
        }  # fmt: skip
        assert len(named) == len(parts), "one part twice"
        for place, moved in named.items():
            before = self.given.get(place, (0, 0, 0))
            self.given[place] = (before[0] + moved[0], before[1] + moved[1], before[2] + moved[2])
            assert all(n >= 0 for n in self.left(place)), "more came back than was taken"
        for line in {line["line"] for line in lines}:
            for place in self.taken:
                if place[0] == line:
                    assert self.left(place) == self._kept(place), "not what the page keeps"
        return self._by_voucher(named)

    def _kept(self, place: tuple[int, str]) -> tuple[int, int, int]:
        """What stays of an entry: units first, then money by units; rounded down."""
        sold = self.quantities[place[0] - 1]
        quantity, programme, beneficiary = self.taken[place]
        share = Fraction(sold - self.back[place[0]], sold)
        units = int(quantity * share)
        if quantity:
            share = Fraction(units, quantity)
        return (units, int(programme * share), int(beneficiary * share))

    @staticmethod
    def _by_voucher(
        of: Mapping[tuple[int, str], tuple[int, int, int]],
    ) -> dict[str, tuple[int, int]]:
        sums: dict[str, tuple[int, int]] = {}
        for (_, voucher), (quantity, minor, _) in of.items():
            held = sums.get(voucher, (0, 0))
            sums[voucher] = (held[0] + minor, held[1] + quantity)
        return {voucher: moved for voucher, moved in sums.items() if any(moved)}


@dataclass
class Attempt:
    state: str
    content: str | None
    record_sha256: str
    amount: int = 0
    refusal: Any = None
    moved: dict[str, tuple[int, int]] = field(default_factory=dict)


class LedgerModel:
    """One programme's book. `key_x` is the ledger's public key (JWK `x`)."""

    def __init__(self, key_x: str, currency: str = "CNY", grace_s: int = 0) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(unb64(key_x))
        self._currency = currency
        self.funded = 0
        self.issued = 0
        self.payable: Counter[str] = Counter()
        self.purses: dict[str, Purse] = {}
        self.attempts: dict[tuple[str, str], Attempt] = {}
        self.outcomes: dict[str, str] = {}
        self.records: dict[str, Opened] = {}
        self.notes: dict[tuple[str, str, int], str] = {}
        self.redeemed: dict[str, int] = {}
        self.undone: dict[str, dict[str, int]] = {"reversal": {}, "void": {}, "refund": {}}
        self.sales: dict[str, Sale] = {}
        self.grace_s = grace_s
        self.returned = 0
        self.forfeits: Counter[tuple[str, int, int]] = Counter()
        self.alarms: Counter[str] = Counter()
        self.prevs: dict[tuple[str, str, int], str] = {}
        self.forked: set[str] = set()
        self.held: dict[str, str] = {}
        self.ruled: set[str] = set()

    # ── told ───────────────────────────────────────────────────────────────────────────────────

    def fund(self, amount: int) -> None:
        self.funded += amount

    def issue(
        self,
        voucher: str,
        *,
        expires_at: str,
        amount: int = 0,
        quantity: int = 0,
        terms: Row | None = None,
    ) -> Purse:
        if terms is None:
            purse = Purse(voucher, None, 0, 0, 1, amount, 0, expires_at)
        else:
            purse = Purse(
                voucher,
                terms["unit"],
                terms["cap_minor"],
                terms["fixed_minor"],
                terms["cap_quantity"],
                0,
                quantity,
                expires_at,
            )
            purse.money = purse.reserve()
        self.issued += purse.money
        assert self.issued - self.returned <= self.funded, "issued more than funded"
        self.purses[voucher] = purse
        return purse

    def note(self, record: str) -> bool:
        """The record arrived: whether it may be decided, for its chain is one line as far as is
        known. From the first that contradicts, nothing of its terminal may."""
        opened = Opened.of(record)
        terminal, incarnation, number = opened.number
        if terminal in self.forked:
            return opened.digest in self.outcomes
        prev = opened.payload["prev"]
        if opened.number in self.notes:
            is_one_line = self.notes[opened.number] == opened.digest
        else:
            before = self.notes.get((terminal, incarnation, number - 1), prev)
            behind = self.prevs.get((terminal, incarnation, number + 1), opened.digest)
            is_one_line = (before, behind) == (prev, opened.digest)
        if not is_one_line:
            self.forked.add(terminal)
            self.alarms["fork"] += 1
            return False
        self.notes[opened.number] = opened.digest
        self.prevs[opened.number] = prev
        return True

    def rule(self, merchant: str, record: str, outcome: str, *, post: bool) -> None:
        """A person decided a held record; `outcome` is what its till is told from now on."""
        opened = Opened.of(record)
        assert opened.digest in self.held and opened.digest not in self.ruled, "decided twice"
        self.ruled.add(opened.digest)
        if post:
            self._decided(merchant, opened, Answer(outcome))
            return
        said = self._verified(opened, outcome)
        self.outcomes[opened.digest], self.records[opened.digest] = outcome, opened
        if opened.payload["kind"] == "redeem":
            names = (said["result"], said["liability"], said["refusal"]["code"])
            assert names == ("exception", "merchant", "not_accepted")
            refused = Attempt("refused", opened.content_sha256, opened.digest)
            refused.refusal = said["refusal"]
            self.attempts.setdefault(opened.key, refused)
        else:
            assert (said["result"], said["refusal"]["code"]) == ("refused", "not_accepted")

    def deliver(self, merchant: str, sent: Sequence[tuple[str, Answer]]) -> None:
        """A batch of records and their answers, in the order in which they were sent."""
        first: dict[str, tuple[str, Answer]] = {}
        for record, answer in sent:
            digest = Opened.of(record).digest
            held = first.setdefault(digest, (record, answer))
            assert held[1] == answer, "equal records of one batch answered differently"
        may_be_decided = [self.note(record) for record, _ in first.values()]
        for (record, answer), decide in zip(first.values(), may_be_decided, strict=True):
            if decide:
                self._decided(merchant, Opened.of(record), answer)
            else:
                self._held(Opened.of(record), answer)

    def race(self, merchant: str, sent: Sequence[tuple[str, Answer]]) -> None:
        """Redemptions of one value voucher that were sent side by side, in the order they took."""

        def place(pair: tuple[str, Answer]) -> tuple[int, int]:
            assert pair[1].outcome is not None, pair[1].problem
            outcome = Opened.of(pair[1].outcome).payload
            if outcome["result"] != "posted":
                return (1, 0)
            return (0, -outcome["vouchers"][0]["available_minor"])

        self.deliver(merchant, sorted(sent, key=place))

    def settle(self) -> int:
        """Everything was swept into batches: what all of them together must pay."""
        for sale in self.sales.values():
            sale.settled = True
        return sum(self.payable.values())

    def undecided_before(self, terminal: str, incarnation: str, sequence: int) -> bool:
        """Whether a number before this one has not arrived, or what arrived has no outcome."""
        return any(
            self.notes.get((terminal, incarnation, n)) not in self.outcomes
            for n in range(1, sequence)
        )

    # ── what must follow ───────────────────────────────────────────────────────────────────────

    def _decided(self, merchant: str, record: Opened, answer: Answer) -> None:
        stored = self.outcomes.get(record.digest)
        if stored is not None:
            assert answer.outcome == stored, "a stored outcome changed"
            return
        if answer.outcome is None:
            return
        outcome = self._verified(record, answer.outcome)
        self.outcomes[record.digest] = answer.outcome
        self.records[record.digest] = record
        kind = record.payload["kind"]
        if kind == "redeem":
            self._redeem(merchant, record, outcome)
        elif kind == "reversal":
            self._reversal(merchant, record, outcome)
        elif kind in ("void", "refund"):
            self._undo(merchant, record, outcome)
        else:
            assert outcome["result"] == "posted", outcome["result"]
            if kind == "day_report":
                terminal, incarnation, sequence = record.number
                held = {n for t, i, n in self.notes if (t, i) == (terminal, incarnation)}
                assert held >= set(range(1, sequence + 1)), "a day report over a gap"

    def _held(self, record: Opened, answer: Answer) -> None:
        assert answer.outcome is not None, f"not held but {answer.problem}"
        outcome = self._verified(record, answer.outcome)
        assert (outcome["result"], outcome["reason"]) == ("held", "terminal_forked"), "not held"
        held = self.held.setdefault(record.digest, answer.outcome)
        assert answer.outcome == held, "held twice"

    def _verified(self, record: Opened, jws: str) -> dict[str, Any]:
        """The outcome's payload: signed by the ledger, bound to exactly this record."""
        self._key.verify(unb64(jws.rsplit(".", 1)[1]), jws.rsplit(".", 1)[0].encode())
        outcome = Opened.of(jws).payload
        p = record.payload
        bound = (outcome["record_sha256"], outcome["id"], outcome["terminal"], outcome["kind"])
        assert bound == (record.digest, p["id"], p["terminal"], p["kind"]), "bound elsewhere"
        return outcome

    def _redeem(self, merchant: str, record: Opened, outcome: dict[str, Any]) -> None:
        known = self.attempts.get(record.key)
        result, content = outcome["result"], record.content_sha256
        if known is None:
            attempt = Attempt(result, content, record.digest)
            if result == "posted":
                self._book(merchant, attempt, record, outcome)
            else:
                assert result == "refused", f"a first redeem was {result}"
                assert outcome["refusal"]["code"] != "id_content_mismatch", "mismatch with nothing"
                attempt.refusal = outcome["refusal"]
            self.attempts[record.key] = attempt
        elif known.content is None:
            self._nothing_back(outcome, "a late original met its tombstone")
            known.content = content
        elif known.content != content:
            self._mismatch(outcome)
        elif known.state == "reversed":
            self._nothing_back(outcome, "a reversed attempt came again")
        elif known.state == "refused":
            assert (result, outcome["refusal"]) == ("refused", known.refusal), "refused anew"
        elif not self.sales[known.record_sha256].stands:
            self._nothing_back(outcome, "a sale of which nothing stands came again")
        else:
            assert result == "posted", f"posted before, now {result}"
            self._check_moved(outcome, known, currency=self._currency)

    def _reversal(self, merchant: str, record: Opened, outcome: dict[str, Any]) -> None:
        known = self.attempts.get(record.key)
        named = record.payload["content"]["record_sha256"]
        if known is None:
            self._nothing_back(outcome, "a reversal came first")
            self.attempts[record.key] = Attempt("reversed", None, named)
        elif known.record_sha256 != named:
            self._mismatch(outcome)
        elif known.state == "posted":
            known.state = "reversed"
            rest = self.sales[known.record_sha256].rest()
            if not rest:
                self._nothing_back(outcome, "all of it came back before")
                return
            self._take_back(record, self.sales[known.record_sha256], rest, outcome, "reversed")
        else:
            self._nothing_back(outcome, "there was nothing to give back")

    def _take_back(
        self,
        record: Opened,
        sale: Sale,
        moved: dict[str, tuple[int, int]],
        outcome: dict[str, Any],
        result: str,
    ) -> Attempt:
        """Vouchers get this, the merchant is owed as much less; the outcome says so."""
        amount = sum(minor for minor, _ in moved.values())
        done = Attempt("posted", None, record.digest, amount, moved=moved)
        kind = record.payload["kind"]
        over = {v for v in moved if outcome["recorded_at"] >= self.purses[v].expires_at}
        if kind == "refund":
            for voucher in sorted(over):
                self._forfeit(voucher, saved=False)
        for voucher, (minor, quantity) in moved.items():
            self.purses[voucher].money += minor
            self.purses[voucher].quantity += quantity
        self.payable[sale.merchant] -= amount
        self.undone[kind][record.digest] = amount
        if kind == "refund":
            for voucher in sorted(over):
                if self.grace_s:
                    self.purses[voucher].expires_at = _later(outcome["recorded_at"], self.grace_s)
                else:
                    self._forfeit(voucher, saved=True)
        else:
            sale.give_rest()
        for voucher in moved:
            purse = self.purses[voucher]
            assert purse.money >= purse.available >= 0, "a voucher does not cover its goods"
        assert outcome["result"] == result, outcome["result"]
        self._check_moved(outcome, done, currency=self._currency)
        return done

    def _forfeit(self, voucher: str, *, saved: bool) -> None:
        """What a cap had saved goes only with the rest of all: what comes back may need it."""
        purse = self.purses[voucher]
        money = purse.money if saved else purse.available
        if money or purse.quantity:
            self.forfeits[voucher, money, purse.quantity] += 1
        self.returned += money
        purse.money -= money
        purse.quantity = 0

    def _undo(self, merchant: str, record: Opened, outcome: dict[str, Any]) -> None:
        known = self.attempts.get(record.key)
        content, said = record.payload["content"], outcome["result"]
        if known is not None:
            if known.content != record.content_sha256:
                self._mismatch(outcome)
            elif known.state == "refused":
                assert (said, outcome["refusal"]) == ("refused", known.refusal), "refused anew"
            else:
                assert said == "posted", f"posted before, now {said}"
                self._check_moved(outcome, known, currency=self._currency)
            return
        assert not self.undecided_before(*record.number), "an undo did not wait"
        if said != "posted":
            assert said == "refused", said
            attempt = Attempt("refused", record.content_sha256, record.digest)
            attempt.refusal = outcome["refusal"]
            self.attempts[record.key] = attempt
            return
        original = content["original"]
        of = self.attempts[original["terminal"], original["id"]]
        assert (of.state, of.record_sha256) == ("posted", content["record_sha256"]), "not booked"
        sale = self.sales[of.record_sha256]
        assert sale.stands and sale.merchant == merchant, "nothing that this merchant could undo"
        if record.payload["kind"] == "void":
            assert original["terminal"] == record.payload["terminal"], "voided by another till"
            assert not sale.back and not sale.settled, "too late for a void"
            moved = sale.rest()
        else:
            moved = sale.give(content["lines"], content["parts"])
            assert moved, "a refund of nothing"
        done = self._take_back(record, sale, moved, outcome, "posted")
        done.content = record.content_sha256
        self.attempts[record.key] = done

    def _book(
        self, merchant: str, attempt: Attempt, record: Opened, outcome: dict[str, Any]
    ) -> None:
        moved: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for entry in record.payload["content"]["allocation"]:
            minor, quantity = moved[entry["voucher"]]
            moved[entry["voucher"]] = (
                minor + entry["programme_minor"],
                quantity + entry["quantity"],
            )
        for voucher, (minor, quantity) in moved.items():
            purse = self.purses[voucher]
            purse.money -= minor
            purse.quantity -= quantity
            assert purse.money >= 0 and purse.quantity >= 0, "posted more than the voucher held"
            assert purse.money >= purse.available >= 0, "the rest of the voucher is not covered"
        attempt.moved = dict(moved)
        attempt.amount = sum(minor for minor, _ in moved.values())
        self.payable[merchant] += attempt.amount
        self.redeemed[record.digest] = attempt.amount
        said = record.payload["content"]
        self.sales[record.digest] = Sale(
            merchant,
            record.payload["occurred_at"],
            outcome["recorded_at"],
            [line["quantity"] for line in said["basket"]],
            {
                (entry["line"], entry["voucher"]): (
                    entry["quantity"], entry["programme_minor"], entry["beneficiary_minor"],
                )
                for entry in said["allocation"]
            },
        )  # fmt: skip
        self._check_moved(outcome, attempt, currency=self._currency)

    def _check_moved(self, outcome: dict[str, Any], attempt: Attempt, *, currency: str) -> None:
        assert outcome["currency"] == currency
        assert outcome["amount_minor"] == attempt.amount, "another amount than was booked"
        states = [self._state(v, *attempt.moved[v]) for v in sorted(attempt.moved)]
        assert outcome["vouchers"] == states, "another voucher state than the book's"

    def _state(self, voucher: str, minor: int, quantity: int) -> dict[str, Any]:
        purse = self.purses[voucher]
        available_minor, available_quantity = purse.shown()
        return {
            "voucher": voucher,
            "amount_minor": minor,
            "quantity": quantity,
            "unit": purse.unit,
            "from_allotment_minor": 0,
            "from_allotment_quantity": 0,
            "available_minor": available_minor,
            "available_quantity": available_quantity,
        }

    def _nothing_back(self, outcome: dict[str, Any], why: str) -> None:
        said = (
            outcome["result"],
            outcome.get("amount_minor"),
            outcome.get("currency"),
            outcome.get("vouchers"),
        )
        assert said == ("reversed", 0, None, []), f"{why}: {said}"

    def _mismatch(self, outcome: dict[str, Any]) -> None:
        self.alarms["id_content_mismatch"] += 1
        said = (outcome["result"], outcome.get("refusal", {}).get("code"))
        assert said == ("refused", "id_content_mismatch"), f"other content under one id: {said}"

    # ── held against the tables ────────────────────────────────────────────────────────────────

    def check(self, tables: Tables) -> None:
        """INV-1 and INV-2 over everything that the ledger stores."""
        self._check_records(tables)
        self._check_held(tables)
        self._check_attempts(tables)
        self._check_postings(tables)
        self._check_balances(tables)
        self._check_sums(tables)

    def _check_records(self, tables: Tables) -> None:
        stored = {row["digest"]: row for row in tables["records"]}
        assert len(stored) == len(tables["records"]), "a record has two final outcomes"
        assert {d: row["outcome"] for d, row in stored.items()} == self.outcomes, (
            "not exactly the outcomes that were answered"
        )
        for digest, row in stored.items():
            record = self.records[digest]
            said = self._verified(record, row["outcome"])
            assert (row["result"], row["recorded_at"]) == (said["result"], said["recorded_at"])
            assert (row["terminal"], row["id"]) == record.key
        kept = {row["digest"]: row["jws"] for row in tables["record_bytes"]}
        assert kept.keys() == stored.keys(), "signed bytes without outcome, or the other way"
        for digest, jws in kept.items():
            assert sha256(bytes(jws).rsplit(b".", 1)[0]) == digest, "other bytes than were signed"
        noted = {
            (row["terminal"], row["incarnation"], row["sequence"]): row["digest"]
            for row in tables["terminal_notes"]
        }
        assert noted == self.notes, "not exactly the numbers that arrived"
        for row in tables["terminal_progress"]:
            chain = (row["terminal"], row["incarnation"])
            assert not self.undecided_before(*chain, row["decided_to"] + 1), "remembered too far"
        assert Counter(row["kind"] for row in tables["alarms"]) == self.alarms

    def _check_held(self, tables: Tables) -> None:
        rows = tables["held_records"]
        assert {row["digest"]: row["outcome"] for row in rows} == self.held, "not what was held"
        assert len(rows) == len(self.held), "held twice"
        for row in rows:
            is_ruled = row["digest"] in self.ruled
            assert is_ruled == (row["resolved_at"] is not None) == (row["decision"] is not None)
            kept = (row["jws"], row["proof"], row["beneficiary"])
            assert kept == (None, None, None) if is_ruled else row["jws"] is not None
            if not is_ruled:
                assert row["digest"] not in self.outcomes, "held, and decided by nobody"

    def _check_attempts(self, tables: Tables) -> None:
        held = {
            (row["terminal"], row["id"]): (
                row["state"],
                row["content_sha256"],
                row["record_sha256"],
                row["posting"],
            )
            for row in tables["attempts"]
        }
        assert len(held) == len(tables["attempts"])
        assert held == {
            key: (a.state, a.content, a.record_sha256, a.record_sha256 if a.moved else None)
            for key, a in self.attempts.items()
        }, "attempts stand elsewhere than their outcomes say"
        first_uses = [(row["iss"], row["jti_sha256"]) for row in tables["visits"]]
        assert len(first_uses) == len(set(first_uses)), "a token has two first uses"

    def _check_postings(self, tables: Tables) -> None:
        by_kind: dict[str, set[str]] = defaultdict(set)
        for row in tables["postings"]:
            assert row["posting"] not in by_kind[row["kind"]], "posted twice"
            by_kind[row["kind"]].add(row["posting"])
        assert by_kind["redeem"] == self.redeemed.keys(), "not exactly the posted redemptions"
        for kind, made in self.undone.items():
            assert by_kind[kind] == made.keys(), f"not exactly the {kind} postings"
        sums: Counter[tuple[str, str]] = Counter()
        legs: set[str] = set()
        paid: Counter[str] = Counter()
        for row in tables["entries"]:
            assert type(row["amount"]) is int and row["amount"] != 0, "a leg of nothing"
            sums[row["posting"], row["unit"]] += row["amount"]
            legs.add(row["posting"])
            if row["account"] == "payable":
                paid[row["posting"]] += row["amount"]
        assert not any(sums.values()), "a posting does not sum to zero in each unit"
        assert legs == set().union(*by_kind.values()), "legs without posting, or none"
        expected = dict(self.redeemed)
        for made in self.undone.values():
            expected |= {digest: -amount for digest, amount in made.items() if amount}
        assert dict(paid) == expected, "the merchant is not owed what was posted"
        lines: Counter[str] = Counter()
        for row in tables["lines"]:
            lines[row["posting"]] += row["programme_minor"]
        assert dict(lines) == self.redeemed, "the lines do not add up to their posting"
        self._check_came_back(tables)

    def _check_came_back(self, tables: Tables) -> None:
        returned: Counter[tuple[str, int]] = Counter()
        for row in tables["returned_lines"]:
            assert row["posting"] in self.undone["refund"], "came back with no refund"
            returned[row["original"], row["line"]] += row["quantity"]
        assert returned == Counter(
            {
                (digest, line): quantity
                for digest, sale in self.sales.items()
                for line, quantity in sale.back.items()
            }
        ), "not exactly the lines that came back"
        names = {row["posting"] for row in tables["postings"] if row["kind"] == "forfeit"}
        ended: dict[str, list[Any]] = {name: ["", 0, 0] for name in names}
        for row in tables["entries"]:
            if row["posting"] in names and row["account"] in ("available", "saved"):
                forfeit = ended[row["posting"]]
                forfeit[0] = row["holder"]
                forfeit[1 if row["unit"] == self._currency else 2] -= row["amount"]
        assert Counter(map(tuple, ended.values())) == self.forfeits, "not exactly what ended"

    def _check_balances(self, tables: Tables) -> None:
        summed: Counter[tuple[str, str]] = Counter()
        for row in tables["entries"]:
            if row["account"] in ("available", "saved"):
                what = row["account"] if row["unit"] == self._currency else "quantity"
                summed[row["holder"], what] += row["amount"]
        held = {row["voucher"]: row for row in tables["vouchers"]}
        assert held.keys() == self.purses.keys()
        for voucher, row in held.items():
            purse = self.purses[voucher]
            balances = (row["available_minor"], row["saved_minor"], row["available_quantity"])
            assert all(type(n) is int and n >= 0 for n in balances), "a balance below zero"
            assert balances == tuple(
                summed[voucher, what] for what in ("available", "saved", "quantity")
            ), "a balance is not the sum of its entries"
            assert row["expires_at"] == purse.expires_at, "ends at another time"
            assert balances == (purse.available, purse.saved, purse.quantity), (
                f"another balance than the model's: {balances} for {purse}"
            )

    def _check_sums(self, tables: Tables) -> None:
        money: Counter[str] = Counter()
        goods: Counter[str] = Counter()
        for row in tables["entries"]:
            if row["unit"] == self._currency:
                money[row["account"]] += row["amount"]
            else:
                goods[row["unit"]] += row["amount"]
        assert -money["funder"] == self.funded, "funded is not what funders gave"
        [programme] = tables["programmes"]
        balances = (programme["unreserved_minor"], programme["loss_reserve_minor"])
        assert balances == (money["unreserved"], money["loss_reserve"]), "stored apart from entries"
        assert all(type(n) is int and n >= 0 for n in balances), "a programme's balance below zero"
        assert self.funded == (
            money["unreserved"]
            + money["loss_reserve"]
            + money["lost"]
            + self.issued
            - self.returned
        ), "funded = unreserved + loss_reserve + lost + issued - returned"
        assert self.issued == self.returned + sum(
            money[account] for account in ("available", "allotted", "payable", "saved")
        ), "issued = available + allotted + redeemed + saved + returned"
        assert money["payable"] == sum(self.payable.values())
        assert not any(goods.values()), "goods out of nothing"


def _later(at: str, seconds: int) -> str:
    moment = datetime.fromisoformat(at) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
