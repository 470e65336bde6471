"""The ledger under everything that tills may send, in any order, held against the model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from carepos import clock
from carepos.basket import Entry, Line
from carepos.errors import Malformed
from carepos.outcome import Outcome
from carepos.product import Unit
from carepos.record import Record
from carepos.undo import Original, Refund, ReturnedLine
from carepos_ledger.book import POINTS
from carepos_ledger.settlement import Settlement
from tests.ledger.rig import (
    ENDS,
    MILK,
    RICE,
    RULES,
    Envelope,
    Holder,
    Rig,
    Signer,
    code,
    open_rig,
)
from tests.properties.ledger_model import TABLES, Answer, LedgerModel, Opened
from tests.properties.rounds import histories

MERCHANT = "zhou"
FUNDED_MINOR = 900_000_000
BUCKETS = (7, 1033)
UNDO_S = RULES["undo_window_s"]
WINDOW_S = 5 * 86_400

# Caps that do not divide, because that is where a minor unit could be lost or made.
ITEMS: tuple[dict[str, Any], ...] = (
    {"unit": "g", "cap_minor": 1_000, "fixed_minor": 0, "cap_quantity": 500},
    {"unit": "piece", "cap_minor": 3, "fixed_minor": 0, "cap_quantity": 2},
    {"unit": "piece", "cap_minor": 10, "fixed_minor": 0, "cap_quantity": 3},
    {"unit": "piece", "cap_minor": 1_500, "fixed_minor": 1, "cap_quantity": 1},
    {"unit": "g", "cap_minor": 1_001, "fixed_minor": 7, "cap_quantity": 500},
)

profile = settings.get_profile(settings.get_current_profile_name())
picks = st.integers(0, 99)
shares = st.integers(1, 10)


class Boom(Exception):
    """The ledger's process dies here."""


def portion(amount: int, taken: int, sold: int) -> int:
    """What `taken` of `sold` is worth by largest remainder, ties to the part that is taken."""
    part, remainder = divmod(amount * taken, sold)
    return part + (1 if 2 * remainder >= sold else 0)


class LedgerMachine(RuleBasedStateMachine):
    """Three tills of one merchant, the third at a shop that takes no part; and two that lose
    nothing, so that what they undo waits for nothing: one sells, the other only takes back.

    Who wins a race is not the same twice, so preconditions look only at what was sent, never at
    what was answered.
    """

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        rig.empty()
        rig.settle_in(FUNDED_MINOR)
        rig.programmes.put_programme({**RULES, "refunds": {"window_s": WINDOW_S, "grace_s": 0}})
        self.model = LedgerModel(rig.keyring.signing.public.x)
        self.model.fund(FUNDED_MINOR)
        self.settlement = Settlement(rig.database, rig.keyring, rig.now)
        self.paid_minor = 0
        self.tills = [rig.signer(), rig.signer(), rig.signer("zhou-far")]
        self.copied = rig.signer()
        self.copy = replace(self.copied)
        self.copies_sent: list[Envelope] = []
        self.seller, self.desk = rig.signer(), rig.signer("zhou-far")
        self.suspended: set[str] = set()
        self.holders: list[Holder] = []
        self.sent: list[tuple[Holder, Envelope]] = []
        self.waiting: list[Envelope] = []
        self.undos: list[tuple[Signer, Record, Record]] = []
        self.used_tokens: list[tuple[Holder, Signer, str]] = []
        self.ended = False
        self.issue([12_000])
        self.issue([777, 1], 17)
        self.issue([9_001], 23, terms_n=2, days=1)

    # ── what the rules are made of ─────────────────────────────────────────────────────────────

    def issue(
        self,
        amounts: Sequence[int],
        *quantities: int,
        terms_n: int = 1,
        days: int | None = None,
    ) -> Holder:
        """A household with a value voucher per amount and an item voucher per quantity; all end
        in `days`, if told."""
        ends = ENDS if days is None else clock.to_text(self.rig.now() + timedelta(days=days))
        rows: list[Mapping[str, Any]] = [{"amount_minor": amount} for amount in amounts]
        for n, quantity in enumerate(quantities):
            terms = ITEMS[(terms_n + n) % len(ITEMS)]
            whole = quantity * terms["cap_quantity"] if terms["fixed_minor"] else quantity
            kind = "fixed_price" if terms["fixed_minor"] else "item"
            rows.append({"kind": kind, "quantity": whole, "terms": terms})
        rows = [{**row, "expires_at": ends} for row in rows]
        holder = self.rig.holder(*rows, bucket=BUCKETS[len(self.holders) % 2])
        for voucher, row in zip(holder.vouchers, rows, strict=True):
            self.model.issue(
                voucher,
                expires_at=ends,
                amount=row.get("amount_minor", 0),
                quantity=row.get("quantity", 0),
                terms=row.get("terms"),
            )
        self.holders.append(holder)
        return holder

    def plan(
        self, holder: Holder, share: int, price: int, over: int, beyond: int
    ) -> tuple[list[Line], list[Entry], bool]:
        """A basket and who pays what: `share` tenths of each voucher, `over` more goods on the
        line than the voucher pays for, `beyond` more than it holds. The bool: whether it fits."""
        lines: list[Line] = []
        entries: list[Entry] = []
        values = [v for v in holder.vouchers if self.model.purses[v].unit is None]
        for voucher in holder.vouchers:
            purse = self.model.purses[voucher]
            if purse.unit is None:
                minor = max(1, purse.money * share // 10) + beyond
                lines.append(Line(MILK, 1, "piece", minor + over))
                entries.append(Entry(len(lines), voucher, 0, minor, 0))
                continue
            taken = max(1, purse.quantity * share // 10) + beyond
            if purse.fixed:
                taken = max(purse.per, taken - taken % purse.per)
            sold, amount = taken + over, price * (taken + over) // purse.per
            covered = portion(amount, taken, sold)
            cap, fixed = purse.cap * taken // purse.per, purse.fixed * taken // purse.per
            pays = max(0, min(covered, cap) - fixed)
            if pays == 0:
                continue
            unit: Unit = "g" if purse.unit == "g" else "piece"
            lines.append(Line(RICE, sold, unit, amount))
            entries.append(Entry(len(lines), voucher, taken, pays, covered - pays))
            if amount > covered and values:
                # What the item voucher left of the line goes to the last value voucher.
                entries.append(Entry(len(lines), values[-1], 0, amount - covered, 0))
        taken_of: dict[str, list[int]] = {}
        for entry in entries:
            totals = taken_of.setdefault(entry.voucher, [0, 0])
            totals[0] += entry.programme_minor
            totals[1] += entry.quantity
        fits = all(
            minor <= self.model.purses[v].money and quantity <= self.model.purses[v].quantity
            for v, (minor, quantity) in taken_of.items()
        )
        return lines, entries, fits

    def make(
        self, till: Signer, holder: Holder, share: int, *, beyond: int = 0, **changes: Any
    ) -> tuple[Envelope, bool]:
        basket, allocation, fits = self.plan(
            holder, share, changes.pop("price", 9), changes.pop("over", 0), beyond
        )
        envelope = self.rig.redeem(till, holder, basket=basket, allocation=allocation, **changes)
        return envelope, fits

    def send(self, *envelopes: Envelope | Record) -> list[str]:
        """Send one batch and tell the model; a word per answer: result, refusal or problem."""
        answers = self.rig.send(*envelopes)
        texts = [e.jws if isinstance(e, Record) else str(e["record"]) for e in envelopes]
        pairs = list(zip(texts, map(_told, answers), strict=True))
        self.model.deliver(MERCHANT, pairs)
        return [code(answer) for answer in answers]

    def expected(self, till: Signer, fits: bool, envelope: Envelope) -> str:
        """What a well-made redemption with a fresh token must be answered."""
        if till.terminal in self.suspended:
            return "terminal_suspended"
        if self.ended:
            return "programme_ended"
        if till is self.tills[2]:
            return "store_not_in_programme"
        if self.is_over(self.rig.read(envelope).redeem.allocation):
            return "voucher_expired"
        return "posted" if fits else "balance_insufficient"

    def is_over(self, entries: Sequence[Entry]) -> bool:
        at = clock.to_text(self.rig.now())
        return any(at >= self.model.purses[entry.voucher].expires_at for entry in entries)

    def expected_undo(self, undo: Record, sale: Record) -> str:
        """What a well-made void, or a refund reckoned on what is left, must be answered."""
        if undo.terminal in self.suspended:
            return "terminal_suspended"
        if self.model.undecided_before(undo.terminal, undo.incarnation, undo.sequence):
            return "sequence_gap"
        known = self.model.attempts.get((sale.terminal, sale.id))
        if known is None or known.record_sha256 != sale.digest:
            return "original_unknown"
        if known.state != "posted":
            return "original_not_booked"
        held = self.model.sales[sale.digest]
        age = self.rig.now() - datetime.fromisoformat(held.recorded_at)
        if not held.stands or (undo.kind == "void" and held.back):
            return "already_undone"
        if undo.kind == "void":
            late = undo.occurred_at - sale.occurred_at >= timedelta(seconds=UNDO_S)
            late |= held.settled or age >= timedelta(seconds=UNDO_S)
            return "void_too_late" if late else "posted"
        if age >= timedelta(seconds=WINDOW_S):
            return "refund_too_late"
        assert isinstance(undo.content, Refund)
        if any(
            held.back[line.line] + line.quantity > held.quantities[line.line - 1]
            for line in undo.content.lines
        ):
            return "refund_exceeds"
        for part in undo.content.parts:
            purse = self.model.purses[part.voucher]
            if purse.fixed and part.quantity % purse.per:
                return "refund_not_whole"
        return "posted"

    def refund_of(
        self, desk: Signer, sale: Record, n: int, share: int, beyond: int = 0
    ) -> Record | None:
        """Some of what is left of one line, or of all of them; none where that moves nothing."""
        held = self.model.sales.get(sale.digest)
        back = Counter[int]() if held is None else held.back
        numbered = list(enumerate(sale.redeem.basket, 1))
        chosen = numbered if n % 3 == 0 else [numbered[n % len(numbered)]]
        lines = []
        for number, line in chosen:
            left = line.quantity - back[number]
            if left:
                lines.append((number, max(1, left * share // 10)))
        with suppress(Malformed):
            made = desk.sequence, desk.prev
            if not beyond:
                return desk.refund(sale, *lines, before=back)
            more = tuple(ReturnedLine(line, sale.redeem.basket[line - 1].quantity + beyond)
                         for line, _ in lines)  # fmt: skip
            return desk.refund(sale, *lines, before=back, lines=more)
        assert (desk.sequence, desk.prev) == made
        return None

    def undo(self, signer: Signer, undo: Record, sale: Record) -> None:
        expected = self.expected_undo(undo, sale)
        [word] = self.send(undo)
        assert word == expected, (undo.kind, word, expected)
        self.undos.append((signer, undo, sale))

    def pick(self, n: int) -> tuple[Signer, Holder]:
        # The shop that takes no part is met now and then only.
        till = self.tills[2] if n % 10 == 9 else self.tills[n % 2]
        return till, self.holders[n // 2 % len(self.holders)]

    def original(self, n: int) -> tuple[Holder, Envelope, Record, Signer]:
        holder, envelope = self.sent[n % len(self.sent)]
        record = self.rig.read(envelope)
        till = next(till for till in (*self.tills, self.seller) if till.terminal == record.terminal)
        return holder, envelope, record, till

    # ── issue, redeem ──────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.holders) < 6)
    @rule(amount=st.integers(1, 20_000), quantity=st.integers(1, 40), terms_n=picks)
    def another_household(self, amount: int, quantity: int, terms_n: int) -> None:
        days = None if terms_n % 2 else 1 + terms_n % 3
        self.issue([amount], quantity, quantity + 1, terms_n=terms_n, days=days)

    @rule(n=picks, share=shares, price=st.integers(1, 2_000), over=st.integers(0, 3))
    def redeem(self, n: int, share: int, price: int, over: int) -> None:
        till, holder = self.pick(n)
        envelope, fits = self.make(till, holder, share, price=price, over=over)
        [word] = self.send(envelope)
        assert word == self.expected(till, fits, envelope)
        self.sent.append((holder, envelope))
        if word == "posted":
            self.used_tokens.append((holder, till, str(envelope["token"])))

    @rule(n=picks, beyond=st.integers(1, 5))
    def redeem_too_much(self, n: int, beyond: int) -> None:
        till, holder = self.pick(n)
        envelope, fits = self.make(till, holder, 10, beyond=beyond)
        [word] = self.send(envelope)
        assert word == self.expected(till, fits, envelope)
        self.sent.append((holder, envelope))

    # ── the same id again ──────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.sent)
    @rule(n=picks, bare=st.booleans())
    def retry_the_same_bytes(self, n: int, bare: bool) -> None:
        _, envelope, record, _ = self.original(n)
        if bare and record.digest in self.model.outcomes:
            # The token is gone after a restart; a known record needs none.
            envelope = {"record": envelope["record"]}
        self.send(envelope)

    @precondition(lambda self: self.sent)
    @rule(n=picks, share=shares)
    def same_id_other_content(self, n: int, share: int) -> None:
        holder, _, record, till = self.original(n)
        envelope, _ = self.make(till, holder, share, attempt_id=record.id, over=1)
        self.send(envelope)

    @precondition(lambda self: self.sent)
    @rule(n=picks)
    def same_id_same_content_in_another_record(self, n: int) -> None:
        holder, _, record, till = self.original(n)
        redeem = record.redeem
        envelope = self.rig.redeem(
            till,
            holder,
            attempt_id=record.id,
            basket=redeem.basket,
            allocation=redeem.allocation,
            checkout="another",
        )
        self.send(envelope)

    @precondition(lambda self: self.sent)
    @rule(n=picks, share=shares)
    def another_tills_id(self, n: int, share: int) -> None:
        holder, _, record, till = self.original(n)
        other = self.tills[0] if till is self.tills[1] else self.tills[1]
        known = (other.terminal, record.id) in self.model.attempts
        envelope, fits = self.make(other, holder, share, attempt_id=record.id)
        [word] = self.send(envelope)
        if not known:
            assert word == self.expected(other, fits, envelope)

    # ── reversals ──────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.sent)
    @rule(n=picks)
    def reverse(self, n: int) -> None:
        _, _, record, till = self.original(n)
        [word] = self.send(till.reversal(record))
        attempt = self.model.attempts[record.terminal, record.id]
        assert word == "reversed" or attempt.record_sha256 != record.digest

    @rule(n=picks, share=shares)
    def reverse_before_the_original(self, n: int, share: int) -> None:
        till, holder = self.pick(n)
        envelope, _ = self.make(till, holder, share)
        record = self.rig.read(envelope)
        assert self.send(till.reversal(record)) == ["reversed"]
        assert self.send(envelope) == ["reversed"]
        self.sent.append((holder, envelope))

    @precondition(lambda self: self.sent)
    @rule(n=picks, m=picks)
    def reverse_with_another_digest(self, n: int, m: int) -> None:
        _, _, record, till = self.original(n)
        _, _, other, _ = self.original(m)
        self.send(till.reversal(record, record_sha256=other.digest))

    # ── tokens ─────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.holders) > 2)
    @rule(n=picks)
    def token_of_another_family(self, n: int) -> None:
        till, holder = self.pick(n)
        for other in self.holders:
            if other is not holder:
                envelope = self.rig.redeem(
                    till, other, 1, allocation=[Entry(1, holder.voucher, 0, 1, 0)]
                )
                [word] = self.send(envelope)
                allowed = {
                    "voucher_not_yours",
                    "voucher_unknown",
                    self.expected(till, False, envelope),
                }
                assert word in allowed - {"balance_insufficient", "voucher_expired"}

    @rule(n=picks)
    def token_replayed_at_another_till(self, n: int) -> None:
        if not self.used_tokens:
            return
        holder, till, text = self.used_tokens[n % len(self.used_tokens)]
        other = self.tills[0] if till is self.tills[1] else self.tills[1]
        [word] = self.send(self.rig.redeem(other, holder, 1, token_text=text))
        assert word in ("token_replayed", "token_expired", "terminal_suspended")

    @rule(n=picks)
    def token_expired(self, n: int) -> None:
        till, holder = self.pick(n)
        self.rig.now.forward(minutes=-11)
        text = self.rig.token(holder)
        self.rig.now.forward(minutes=11)
        [word] = self.send(self.rig.redeem(till, holder, 1, token_text=text))
        assert word in ("token_expired", "terminal_suspended")

    # ── tills ──────────────────────────────────────────────────────────────────────────────────

    @rule(n=st.integers(0, 1))
    def suspend_or_let_in(self, n: int) -> None:
        terminal = self.tills[n].terminal
        if terminal in self.suspended:
            self.rig.terminals.set_status(terminal, "active")
            self.suspended.remove(terminal)
        else:
            self.rig.terminals.set_status(terminal, "suspended")
            self.suspended.add(terminal)

    @rule(n=st.integers(0, 1))
    def day_report(self, n: int) -> None:
        till = self.tills[n]
        report = till.day_report()
        numbers = {k[2] for k in self.model.notes if k[:2] == (till.terminal, till.incarnation)}
        [word] = self.send(report)
        if till.terminal in self.suspended:
            assert word == "terminal_suspended"
        elif numbers >= set(range(1, report.sequence)):
            assert word == "posted"
        else:
            assert word == "sequence_gap"

    # ── a till and its copy ────────────────────────────────────────────────────────────────────

    @rule()
    def a_till_is_copied(self) -> None:
        if self.copied.terminal in self.model.forked:
            self.copied = self.rig.signer()
        self.copy = replace(self.copied)

    @rule(n=picks, share=shares, of_copy=st.booleans(), undo=st.booleans(), late=st.booleans())
    def till_or_copy_sells(self, n: int, share: int, of_copy: bool, undo: bool, late: bool) -> None:
        till, holder = self.copy if of_copy else self.copied, self.holders[n % len(self.holders)]
        envelope, _ = self.make(till, holder, share)
        batch: list[Envelope] = [envelope]
        if undo:
            batch.append({"record": till.reversal(self.rig.read(envelope)).jws})
        self.copies_sent += batch
        if late:
            self.waiting += batch
        else:
            self.send(*batch)

    @precondition(lambda self: self.copies_sent)
    @rule(n=picks, bare=st.booleans())
    def till_or_copy_sends_again(self, n: int, bare: bool) -> None:
        envelope = self.copies_sent[n % len(self.copies_sent)]
        known = self.model.outcomes.keys() | self.model.held.keys()
        if bare and self.rig.read(envelope).digest in known:
            envelope = {"record": envelope["record"]}
        self.send(envelope)

    @rule(n=picks, post=st.booleans(), point=st.sampled_from(["", "written", "committed"]))
    def a_person_decides(self, n: int, post: bool, point: str) -> None:
        waiting = [e for e in self.copies_sent if self._waits(self.rig.read(e).digest)]
        if not waiting:
            return
        record = self.rig.read(waiting[n % len(waiting)])

        def reached(name: str) -> None:
            if name == point:
                raise Boom

        if point:
            with pytest.raises(Boom):
                self.rig.rule_on(record, post=post, book=self.rig.new_book(reached))
            self.rig.new_book()
        if point != "committed":
            if point:
                self.model.check(self.rig.tables(TABLES))
            assert self.rig.rule_on(record, post=post) == "changed"
        assert self.rig.rule_on(record, post=post) == "exists"
        [answer] = self.rig.send(record)
        assert isinstance(answer, Outcome)
        self.model.rule(MERCHANT, record.jws, answer.jws, post=post)

    def _waits(self, digest: str) -> bool:
        return digest in self.model.held and digest not in self.model.ruled

    # ── batches, races, crashes, time ──────────────────────────────────────────────────────────

    @rule(n=picks, share=shares, undo=st.sampled_from(["", "reversal", "void", "refund"]))
    def write_without_sending(self, n: int, share: int, undo: str) -> None:
        till, holder = self.pick(n)
        envelope, _ = self.make(till, holder, share)
        self.sent.append((holder, envelope))
        self.waiting.append(envelope)
        sale = self.rig.read(envelope)
        if undo == "reversal":
            self.waiting.append({"record": till.reversal(sale).jws})
        elif undo == "void":
            self.waiting.append({"record": till.void(sale).jws})
        elif undo and (refund := self.refund_of(till, sale, n, share)) is not None:
            self.waiting.append({"record": refund.jws})

    @precondition(lambda self: len(self.waiting) > 1 and self.sent)
    @rule(seed=st.randoms(use_true_random=False), again=st.integers(0, 4))
    def send_a_batch(self, seed: random.Random, again: int) -> None:
        batch = [
            *self.waiting,
            *seed.choices(self.waiting, k=again),
            *(envelope for _, envelope in seed.choices(self.sent, k=again)),
            *(
                {"record": undo.jws}
                for _, undo, _ in seed.sample(self.undos, min(again, len(self.undos)))
            ),
        ]
        if seed.random() < 0.5:
            seed.shuffle(batch)
        self.waiting = []
        self.send(*batch)

    @rule(n=picks, amounts=st.lists(st.integers(1, 12_000), min_size=2, max_size=4))
    def race_for_one_voucher(self, n: int, amounts: list[int]) -> None:
        holder = self.holders[n % len(self.holders)]
        tills = [till for till in self.tills[:2] if till.terminal not in self.suspended]
        if not tills or self.ended or self.is_over([Entry(1, holder.voucher, 0, 1, 0)]):
            return
        envelopes = [
            self.rig.redeem(tills[m % len(tills)], holder, amount)
            for m, amount in enumerate(amounts)
        ]
        envelopes.append(envelopes[0])
        before = self.rig.balance(holder.voucher)[0]
        answers = self.rig.side_by_side(envelopes)
        self.model.race(
            MERCHANT,
            [(e["record"], _told(a)) for e, a in zip(envelopes, answers, strict=True)],
        )
        assert answers[0] == answers[-1]
        after = self.rig.balance(holder.voucher)[0]
        posted = 0
        for amount, answer in zip(amounts, answers, strict=False):
            if code(answer) == "posted":
                posted += amount
            else:
                assert (code(answer), amount > after) == ("balance_insufficient", True)
        assert posted == before - after <= before

    @rule(n=picks, share=shares, point=st.sampled_from(POINTS), again=st.booleans())
    def die_at_a_point(self, n: int, share: int, point: str, again: bool) -> None:
        till, holder = self.pick(n)
        envelope, fits = self.make(till, holder, share)

        def reached(name: str) -> None:
            if name == point:
                raise Boom

        book = self.rig.new_book(reached)
        with pytest.raises(Boom):
            self.rig.send(envelope, book=book)
        self.rig.new_book()
        self.sent.append((holder, envelope))
        self.model.note(envelope["record"])
        if point != "committed":
            self.model.check(self.rig.tables(TABLES))
            if not again:
                return
        [word] = self.send(envelope)
        assert word == self.expected(till, fits, envelope)

    @rule(minutes=st.integers(1, 14))
    def time_passes(self, minutes: int) -> None:
        self.rig.now.forward(minutes=minutes)

    @rule(days=st.integers(1, 2))
    def days_pass(self, days: int) -> None:
        self.rig.now.forward(days=days)

    # ── void and refund ────────────────────────────────────────────────────────────────────────

    @rule(n=picks, share=shares, price=st.integers(1, 2_000), over=st.integers(0, 3))
    def sell_where_nothing_is_lost(self, n: int, share: int, price: int, over: int) -> None:
        holder = self.holders[n % len(self.holders)]
        envelope, fits = self.make(self.seller, holder, share, price=price, over=over)
        [word] = self.send(envelope)
        assert word == self.expected(self.seller, fits, envelope)
        self.sent.append((holder, envelope))

    @precondition(lambda self: self.sent)
    @rule(n=picks)
    def void(self, n: int) -> None:
        _, _, sale, till = self.original(n)
        self.undo(till, till.void(sale), sale)

    @precondition(lambda self: self.sent)
    @rule(n=picks, m=picks, share=shares, own=st.booleans())
    def refund(self, n: int, m: int, share: int, own: bool) -> None:
        _, _, sale, till = self.original(n)
        signer = till if own else self.desk
        refund = self.refund_of(signer, sale, m, share)
        if refund is not None:
            self.undo(signer, refund, sale)

    @precondition(lambda self: self.sent)
    @rule(n=picks, m=picks, beyond=st.integers(1, 3))
    def refund_too_much(self, n: int, m: int, beyond: int) -> None:
        _, _, sale, _ = self.original(n)
        refund = self.refund_of(self.desk, sale, m, 10, beyond)
        if refund is not None:
            self.undo(self.desk, refund, sale)

    @precondition(lambda self: self.undos)
    @rule(n=picks, same=st.booleans())
    def an_undo_again(self, n: int, same: bool) -> None:
        """The same bytes; or the same id in another record, with the content of before or not."""
        signer, undo, sale = self.undos[n % len(self.undos)]
        if same:
            self.send(undo)
        elif undo.kind == "void":
            self.send(signer.void(sale, undo.id, approved_by="c09"))
        elif (other := self.refund_of(signer, sale, n, 10)) is not None:
            assert isinstance(other.content, Refund)
            signer.sequence, signer.prev = other.sequence - 1, other.prev
            self.send(signer.sign(replace(other.content, cashier="c09"), undo.id))

    @precondition(lambda self: self.sent)
    @rule(n=picks)
    def undo_with_another_digest(self, n: int) -> None:
        _, _, sale, _ = self.original(n)
        original = Original(sale.terminal, sale.id, Opened.of(self.sent[0][1]["record"]).digest)
        refund = self.refund_of(self.desk, sale, 0, 10)
        if refund is None or original.record_sha256 == sale.digest:
            return
        assert isinstance(refund.content, Refund)
        self.desk.sequence, self.desk.prev = refund.sequence - 1, refund.prev
        wrong = self.desk.sign(replace(refund.content, original=original), self.desk.undo_id(sale))
        [word] = self.send(wrong)
        assert word in ("original_unknown", "sequence_gap")

    @precondition(lambda self: self.sent)
    @rule(n=picks, m=picks)
    def race_to_undo(self, n: int, m: int) -> None:
        """Two tills give back the same piece, and the one that sold it voids it, all at once."""
        _, _, sale, till = self.original(n)
        both = (self.desk, self.rig.signer())
        refunds = [self.refund_of(desk, sale, 1 + 3 * (m % 5), 1) for desk in both]
        undos = [refund for refund in refunds if refund is not None]
        if till is self.seller:
            undos.append(till.void(sale))
        answers: dict[str, Answer] = {}
        while missing := [undo for undo in undos if undo.digest not in answers]:
            found = self.rig.side_by_side([{"record": undo.jws} for undo in missing])
            for undo, answer in zip(missing, found, strict=True):
                if code(answer) not in ("in_flight", "try_again"):
                    answers[undo.digest] = _told(answer)

        def place(undo: Record) -> tuple[bool, list[int]]:
            """Whatever was booked came before what found it booked; of two equal refunds the
            one that found less on the vouchers was first."""
            said = answers[undo.digest].outcome
            outcome = {} if said is None else Opened.of(said).payload
            if outcome.get("result") != "posted":
                return True, []
            vouchers = outcome["vouchers"]
            return False, [v["available_minor"] + v["available_quantity"] for v in vouchers]

        told = [(undo.jws, answers[undo.digest]) for undo in sorted(undos, key=place)]
        self.model.deliver(MERCHANT, told)

    @rule()
    def close_the_batches(self) -> None:
        """What was paid is what the book owes; from then on no void."""
        for batch in self.settlement.close():
            self.paid_minor += batch.net_minor
        assert self.paid_minor == self.model.settle(), "the batches pay another sum"

    @rule(grace_s=st.sampled_from([0, 3_600, 3 * 86_400]))
    def another_grace(self, grace_s: int) -> None:
        self.rig.programmes.put_programme(
            {**RULES, "refunds": {"window_s": WINDOW_S, "grace_s": grace_s}}
        )
        self.model.grace_s = grace_s

    @precondition(lambda self: not self.ended and len(self.sent) > 12)
    @rule()
    def the_programme_ends(self) -> None:
        self.rig.now.forward(days=300)
        self.ended = True

    @invariant()
    def the_book_holds(self) -> None:
        self.model.check(self.rig.tables(TABLES))


def _told(answer: Outcome | str) -> Answer:
    return Answer(problem=answer) if isinstance(answer, str) else Answer(outcome=answer.jws)


def test_the_ledger_holds_its_promises_in_every_order(database_url: str, tmp_path: Path) -> None:
    """INV-1 and INV-2 hold after every step of every history: an id posts at most once, the same
    content has the same answer, nothing is below zero, every posting balances in each unit."""
    with open_rig(database_url, tmp_path, settled=False) as rig:
        run_state_machine_as_test(
            lambda: LedgerMachine(rig),  # type: ignore[arg-type]  # any maker will do
            settings=settings(
                profile, max_examples=histories(database_url, 8), stateful_step_count=40
            ),
        )


@pytest.fixture
def machine(database_url: str, tmp_path: Path) -> Iterator[LedgerMachine]:
    """A machine driven by hand."""
    with open_rig(database_url, tmp_path, settled=False) as rig:
        driven = LedgerMachine(rig)
        yield driven
        driven.model.check(rig.tables(TABLES))


moves = st.lists(
    st.one_of(
        st.tuples(st.just("redeem"), st.integers(1, 6), st.integers(1, 12)),
        st.tuples(st.just("reverse"), st.integers(0, 20), st.just(0)),
    ),
    min_size=3,
    max_size=14,
)


@given(terms_n=st.integers(0, len(ITEMS) - 1), quantity=st.integers(5, 30), moves=moves)
@settings(
    max_examples=profile.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_goods_come_back_in_whatever_order_they_were_taken(
    machine: LedgerMachine, terms_n: int, quantity: int, moves: list[tuple[str, int, int]]
) -> None:
    """A reversal gives back exactly what was taken, also when other redemptions of the voucher
    came in between and its cap does not divide: every one is applied, nothing is below zero."""
    holder = machine.issue([], quantity, terms_n=terms_n)
    till, made, batch = machine.tills[0], [], []
    purse = replace(machine.model.purses[holder.voucher])
    for move, n, price in moves:
        if move == "redeem":
            taken = n * (purse.per if purse.fixed else 1)
            cap, fixed = purse.cap * taken // purse.per, purse.fixed * taken // purse.per
            amount = price * taken
            pays = max(0, min(amount, cap) - fixed)
            if pays:
                envelope = machine.rig.redeem(
                    till,
                    holder,
                    basket=[Line(RICE, taken, "g" if purse.unit == "g" else "piece", amount)],
                    allocation=[Entry(1, holder.voucher, taken, pays, amount - pays)],
                )
                made.append(envelope)
                batch.append(envelope)
        elif made:
            record = machine.rig.read(made[n % len(made)])
            batch.append({"record": till.reversal(record).jws})
    if batch:
        answers = machine.send(*batch)
        assert {*answers} <= {"posted", "reversed", "balance_insufficient", "price_below_fixed"}
    left = machine.model.purses[holder.voucher]
    balance = machine.rig.balance(holder.voucher)
    assert balance == (left.available, left.saved, left.quantity)


def test_the_model_reads_a_record_as_it_was_signed(database_url: str, tmp_path: Path) -> None:
    """The checker's own reading of digest and content agrees with what the ledger stores."""
    with open_rig(database_url, tmp_path) as rig:
        envelope = rig.redeem(rig.signer(), rig.holder())
        read, opened = rig.read(envelope), Opened.of(envelope["record"])
        assert (opened.digest, opened.content_sha256) == (read.digest, read.content_sha256)
