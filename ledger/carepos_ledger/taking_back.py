"""Void, refund and reversal on one shelf: what stands of a sale, and what takes it back.

Why not, is decided by the rules that tills know too (`carepos.undo`); here is what they look at and
what is booked. All undo of one sale together never exceeds what it posted.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from carepos import undo
from carepos.keys import digest
from carepos.record import Record
from carepos.refusals import Refusal
from carepos.undo import Refund, Void
from carepos.voucher import Programme, Terms
from carepos_ledger import accounts
from carepos_ledger.accounts import Balance, Entry
from carepos_ledger.shelf import Command, Posted, Posting, Shelf


class TakingBack:
    """Decides and books undo on `shelf`; `now` is the ledger's clock."""

    def __init__(self, shelf: Shelf, now: datetime) -> None:
        self._shelf = shelf
        self._now = now

    def undecided_before(self, record: Record) -> list[int]:
        """Numbers before this record that are not decided: an undo waits for them."""
        return [
            sequence
            for sequence, of in self._shelf.waiting.get(record.digest, [])
            if of is None or of not in self._shelf.outcomes
        ]

    def original(self, command: Command, wish: Void | Refund) -> Posted | Refusal:
        """The booked sale that is meant, or why there is none."""
        original = wish.original
        known = self._shelf.attempts.get((original.terminal, original.id))
        if known is None or known.record_sha256 != original.record_sha256:
            return Refusal("original_unknown")
        if self._shelf.merchants.get(original.terminal) != command.terminal.merchant:
            # Of somebody else's till it is not even said that there was a sale.
            return Refusal("original_unknown")
        if known.posting is None or known.state != "posted":
            return Refusal("original_not_booked")
        posted = self._shelf.posted[known.posting]
        return posted if posted.kind == "redeem" else Refusal("original_unknown")

    def refusal(self, command: Command, wish: Void | Refund, posted: Posted) -> Refusal | None:
        """Why the sale can't be taken back so, by the rules."""
        programme = self._shelf.programmes[posted.programme]
        sold = self._shelf.sold.get(posted.posting)
        if isinstance(wish, Void):
            if sold is None:  # the signed bytes are gone: it is long ago
                return Refusal("void_too_late")
            return undo.void_refusal(
                sold,
                programme,
                occurred_at=command.record.occurred_at,
                now=self._now,
                reason=wish.reason,
            )
        if sold is None:
            return Refusal("refund_too_late")
        # A voucher that covered nothing of its sale is not read; no line of such a sale comes back.
        parts = () if sold.is_short else sold.allocation
        terms = {part.voucher: self._terms(part.voucher) for part in parts}
        refusal = undo.refund_refusal(sold, programme, terms, wish.lines, now=self._now)
        if refusal is not None:
            return refusal
        if (wish.parts, wish.currency) != (undo.parts_of(sold, wish.lines), sold.currency):
            return Refusal("proposal_changed")
        return None

    def take_back(self, command: Command, posted: Posted, *, kind: str) -> list[Entry]:
        """Book what still stands of a sale back whole (`kind` void or reversal).

        Returns the legs that are undone, as a sale posts them.
        """
        entries = accounts.reversed_entries(posted.left())
        touched = _vouchers(entries)
        balances = [self._shelf.holdings[voucher].balance for voucher in sorted(touched)]
        self._book(command, kind, posted, entries + accounts.evened(balances, entries))
        if (sold := self._shelf.sold.get(posted.posting)) is not None:
            self._shelf.sold[posted.posting] = replace(sold, undone=True)
        return accounts.reversed_entries(entries)

    def refund(self, command: Command, refund: Refund, posted: Posted) -> list[Entry]:
        """Book the refund's parts back; returns their legs, as the sale posted them."""
        programme = self._shelf.programmes[posted.programme]
        vouchers = sorted({part.voucher for part in refund.parts})
        for voucher in vouchers:
            if self._is_over(voucher):
                # What a cap saved stays: what comes back may cost it.
                balance = replace(self._shelf.holdings[voucher].balance, saved_minor=0)
                self._forfeit(command, balance, posted.programme, "before")
        entries = accounts.refund(
            [self._shelf.holdings[voucher].balance for voucher in vouchers],
            refund.parts,
            posted.merchant,
            posted.programme,
        )
        self._book(command, "refund", posted, entries)
        self._shelf.new_returned.append((posted, command))
        self._note_returned(posted, refund)
        for voucher in vouchers:
            if self._is_over(voucher):
                self._grace(command, voucher, programme)
        return accounts.reversed_entries(entries)

    def _book(self, command: Command, kind: str, posted: Posted, entries: list[Entry]) -> None:
        shelf = self._shelf
        shelf.apply(entries)
        record = command.record
        made = Posting(
            record.digest, kind, posted.programme, record.bucket, command, entries, posted
        )
        shelf.new_postings.append(made)
        shelf.posted[posted.posting] = replace(posted, undone=(*posted.undone, *entries))
        shelf.posted[made.posting] = replace(
            posted, posting=made.posting, kind=kind, entries=entries, undone=()
        )

    def _note_returned(self, posted: Posted, refund: Refund) -> None:
        sold = self._shelf.sold[posted.posting]
        returned = dict(sold.refunded)
        for line in refund.lines:
            returned[line.line] = returned.get(line.line, 0) + line.quantity
        gone = not self._shelf.posted[posted.posting].left()
        self._shelf.sold[posted.posting] = replace(sold, refunded=returned, undone=gone)

    # ── vouchers that are over ─────────────────────────────────────────────────────────────────

    def _terms(self, voucher: str) -> Terms | None:
        return self._shelf.holdings[voucher].voucher.terms

    def _is_over(self, voucher: str) -> bool:
        """Expired, or of somebody who was erased: nobody can use what it holds."""
        held = self._shelf.holdings[voucher].voucher
        return self._now >= held.expires_at or voucher in self._shelf.ownerless

    def _grace(self, command: Command, voucher: str, programme: Programme) -> None:
        """What was refunded into an expired voucher can be used a while, or goes back too."""
        grace = timedelta(seconds=0 if programme.refunds is None else programme.refunds.grace_s)
        if not grace or voucher in self._shelf.ownerless:
            balance = self._shelf.holdings[voucher].balance
            self._forfeit(command, balance, programme.programme, "after")
            return
        until = self._now + grace
        held = self._shelf.holdings[voucher]
        self._shelf.holdings[voucher] = replace(
            held, voucher=replace(held.voucher, expires_at=until)
        )
        self._shelf.new_expiry[command.record.bucket, voucher] = until

    def _forfeit(self, command: Command, balance: Balance, programme: str, when: str) -> None:
        """This much of a voucher goes back to what the programme has not reserved."""
        entries = accounts.forfeit(balance, programme)
        if not entries:
            return
        self._shelf.apply(entries)
        name = f"carepos/forfeit/v1|{balance.voucher}|{when}|{command.record.digest}"
        posting = digest(name.encode("ascii"))
        self._shelf.new_postings.append(
            Posting(posting, "forfeit", programme, command.record.bucket, None, entries)
        )


def _vouchers(entries: list[Entry]) -> set[str]:
    return {entry.holder for entry in entries if accounts.is_vouchers(entry.account)}
