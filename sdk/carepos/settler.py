"""A sale whose outcome is not known: asked about, sent again, reversed, until the ledger has said.

What may happen next is in `attempt`; here the till does it. Nothing is guessed: without a signed
answer the sale stays as it is, and its journal notes that one was asked for in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from carepos import attempt
from carepos.attempt import State
from carepos.client import Client
from carepos.errors import NotDecided, Unreachable
from carepos.forwarder import Answers
from carepos.journal import Journal
from carepos.journal_view import Attempt
from carepos.ledgers_word import LedgersWord
from carepos.outbox import Outbox
from carepos.outcome import Outcome
from carepos.record import Kind, Record, envelope

ANSWERED_AS: Final[Mapping[State, Kind]] = {
    "unknown": "redeem",
    "interrupted": "redeem",
    "reversing": "reversal",
    "filling": "redeem",
    "held": "accept_offline",
}
"""By the state of a sale that no parcel carries: the record whose outcome it waits for."""


class Settler:
    """One till's. The caller holds the lock of the sale. All raise NotWritten where the answer
    could not be written down; then it is asked for again."""

    def __init__(self, journal: Journal, client: Client, word: LedgersWord, outbox: Outbox) -> None:
        self._journal = journal
        self._client = client
        self._word = word
        self._outbox = outbox

    def settle(self, sale: Attempt, problem: str | None = None) -> tuple[Attempt, str | None]:
        """Follow the table as far as the network allows; where the sale stands then, and why it is
        not decided."""
        for _ in range(4):  # query, reversal, fill: no attempt needs more steps
            state = sale.state
            if state in attempt.ASKS_LEDGER:
                sale, problem = self.ask(sale)
            elif state == "held":
                # Who is held may read nothing: sent again, it is answered with what people decided.
                problem = self._outbox.forward_again(sale)
                sale = self._journal.attempt(sale.id)
            elif state in ("reversing", "filling"):
                kind: Literal["reversal", "redeem"] = (
                    "reversal" if state == "reversing" else "redeem"
                )
                sale, problem = self._deliver(sale, self._journal.record_of(sale, kind))
            if sale.state == state:
                break
        return sale, problem

    def ask(self, sale: Attempt) -> tuple[Attempt, str | None]:
        """Query the ledger for an attempt; apply what it signed about its redeem record."""
        written = self._journal.record_of(sale)
        if self._journal.stopped_for() is not None or self._word.held_for(written) is not None:
            # Who is held may read nothing. Sent again, the record is answered with what was decided
            # of it before, or people decided since; nothing is booked by that.
            return self._deliver(sale, written)
        try:
            answers, jti = self._client.ask(sale.id)
        except (Unreachable, NotDecided) as error:
            return self._journal.advance(sale.id, "no_answer"), str(error)
        return self._take(sale, *self._word.answered(written, answers, request=jti))

    def _deliver(self, sale: Attempt, written: Record) -> tuple[Attempt, str | None]:
        """Send one record of an attempt; apply its outcome."""
        try:
            results = self._client.send([envelope(written)])
        except (Unreachable, NotDecided) as error:
            return self._journal.advance(sale.id, "no_answer"), str(error)
        return self._take(sale, *self._word.read(written, results[0]))

    def _take(
        self, sale: Attempt, found: Outcome | None, problem: str | None
    ) -> tuple[Attempt, str | None]:
        if found is None:
            return self._journal.advance(sale.id, "no_answer"), problem
        return self._word.apply(sale, found), None

    def take_answers(self, sale: Attempt, answers: Answers) -> dict[int, str | None]:
        """Apply what `answers` say of a sale that is not just forwarded (`ANSWERED_AS`); by number
        of each record that they answer, why the answer was not believed, else None."""
        taken: dict[int, str | None] = {}
        while (kind := ANSWERED_AS.get(sale.state)) is not None:
            before, written = sale.state, self._journal.record_of(sale, kind)
            result = answers.of(written)
            if result is None:
                break
            found, problem = self._word.read(written, result)
            if found is None:
                taken[written.sequence] = problem
                break
            is_old = found.jws in self._journal.outcomes_of(written.sequence)
            if is_old and found.result == "held":
                break
            if sale.state == "held" and found.result != "held":
                own = self._journal.record_of(sale)
                if not self._journal.is_decided(own.sequence):
                    # The same word decided both, and neither counts alone.
                    of_sale, problem = self._word.read(own, answers.of(own) or {})
                    if of_sale is None or of_sale.result == "held":
                        taken[own.sequence] = problem or "what became of the sale is missing"
                        break
                    sale = self._word.apply(sale, of_sale)
                    taken[own.sequence] = None
            sale = self._word.apply(sale, found)
            taken[written.sequence] = None
            if sale.state == before:
                break
        return taken
