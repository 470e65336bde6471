"""The ledger's word as it reaches a till: its time, its outcomes, and what they make of a sale.

Whatever the ledger signed passes here, whichever way it came: only what is verified and bound to
the till's own record counts, and each word carries a time that the till's clock is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from carepos import attempt, clock_ratchet, holding, outcome, signed_time, slip
from carepos.client import Client
from carepos.clock import Clock
from carepos.clock_ratchet import ClockRatchet
from carepos.errors import ClockSkew, Malformed, NotDecided, Unreachable
from carepos.journal import Journal
from carepos.journal_view import Attempt
from carepos.keys import Keys
from carepos.outcome import HeldReason, Outcome
from carepos.record import Record
from carepos.unknown_key import may_ask


class LedgersWord:
    """One till's. `keys` are the ledger's; `decided` is told of an attempt that no longer waits for
    an answer to its first sending."""

    def __init__(
        self,
        journal: Journal,
        client: Client,
        ratchet: ClockRatchet,
        *,
        keys: Keys,
        now: Clock,
        reached: Callable[[str], None],
        decided: Callable[[str], object],
    ) -> None:
        self._journal = journal
        self._client = client
        self._ratchet = ratchet
        self._keys = keys
        self._now = now
        self._reached = reached
        self._decided = decided
        self._heard_at: datetime | None = None
        self._asked_time_at: datetime | None = None

    # ── its time ───────────────────────────────────────────────────────────────────────────────

    @property
    def heard_at(self) -> datetime | None:
        """When the ledger was last heard over the network, since the till was opened."""
        return self._heard_at

    def heard(self, signed: datetime, *, fresh: bool = False) -> None:
        """Told every time under a signature of the ledger that was verified."""
        self._ratchet.heard(signed, fresh=fresh)
        self._heard_at = self._now()
        if fresh:
            self._journal.let_in(signed)

    @contextmanager
    def carried(self) -> Iterator[None]:
        """What is read inside was carried here by hand, and says nothing of the network."""
        before = self._heard_at
        try:
            yield
        finally:
            self._heard_at = before

    def skewed(self, error: ClockSkew, request: str) -> bool:
        """Whether the till knows the time now, after the ledger said that its clock is wrong."""
        try:
            at = signed_time.read(error.server_time, request=request, keys=self._keys)
        except Malformed:
            return False
        error.ahead_s = self._ratchet.ahead_s(at)
        self.heard(at, fresh=True)
        error.is_doubtful = self._ratchet.standing().doubtful == at
        return abs(self._now() - at) < clock_ratchet.TOLERANCE

    def learn_time(self) -> bool:
        """Whether the till reckons with another time, after asking a ledger that it had not yet
        heard; at most once in five minutes."""
        before = self._now()
        if self._ratchet.is_known() or not may_ask(self._asked_time_at, before):
            return False
        self._asked_time_at = before
        with suppress(Unreachable, NotDecided):
            self._client.greet()
        return abs(self._now() - before) > clock_ratchet.TOLERANCE

    # ── its outcomes ───────────────────────────────────────────────────────────────────────────

    def read(self, written: Record, result: Mapping[str, Any]) -> tuple[Outcome | None, str | None]:
        """The bound outcome in a result (`{"outcome"}` or `{"problem"}`), or why there is none."""
        accepted = None
        if written.kind == "accept_offline":
            accepted = self._journal.record_of(self._journal.attempt(written.id)).redeem
        found, problem = outcome.read_result(result, written, keys=self._keys, accepted=accepted)
        if found is not None:
            self.heard(found.recorded_at)
        return found, problem

    def answered(
        self, written: Record, answers: Sequence[object], *, request: str
    ) -> tuple[Outcome | None, str | None]:
        """What the ledger says of a sale that it was asked about: the outcome of this record, or
        that it has none; or why neither is believed. `answers` are the signed texts, the oldest
        first, `request` names the question."""
        for answer in reversed(answers):  # of one that was held the newest word counts
            try:
                found = outcome.read_bound(answer, written, keys=self._keys)
            except Malformed:
                continue  # of another record of the attempt, or not the ledger's word
            self.heard(found.recorded_at)
            return found, None
        try:
            absent = outcome.read_not_found(
                answers[0],
                an_id=written.id,
                terminal=written.terminal,
                request=request,
                keys=self._keys,
            )
        except Malformed as error:
            return None, str(error)
        self.heard(absent.recorded_at, fresh=True)
        return absent, None

    def apply(self, of: Attempt, found: Outcome) -> Attempt:
        """Write down what an outcome makes of a sale. Raises WrongState, NotWritten."""
        event = attempt.event_of(found)
        final = None
        if event in ("sale_posted", "accept_posted") and attempt.step(of.state, event).to in (
            "confirmed",
            "goods_asked",
        ):
            final = slip.with_outcome(of.slip, found)
        moved = self._journal.advance(of.id, event, outcome=found, slip=final)
        self._reached("outcome_written")
        if moved.state not in ("open", "unknown"):
            self._decided(of.id)
        return moved

    def held_for(self, written: Record) -> HeldReason | None:
        """Why people are to decide a record that the ledger has; None where that is not so."""
        return holding.reason_of(self._journal, written, keys=self._keys)
