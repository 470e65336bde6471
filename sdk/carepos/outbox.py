"""What of a till's journal the ledger may not have, and the ways in which it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carepos import holding
from carepos.acceptor import Acceptor
from carepos.corrector import Corrector
from carepos.forwarder import Answers, Forwarder, Parcel
from carepos.journal import Journal
from carepos.journal_view import Attempt
from carepos.ledgers_word import LedgersWord
from carepos.record import ALONE, Record, envelope


class Outbox:
    """One till's: records that are nobody's redemption, sales that left without the ledger's word,
    what takes sales back. (A sale that is being made or asked about is `settler`'s.)"""

    def __init__(
        self,
        journal: Journal,
        forwarder: Forwarder,
        acceptor: Acceptor,
        corrector: Corrector,
        word: LedgersWord,
    ) -> None:
        self._journal = journal
        self._forwarder = forwarder
        self._acceptor = acceptor
        self._corrector = corrector
        self._word = word

    def forward(self, through: int | None = None, *, undos: bool = True) -> dict[int, str]:
        """Send what is stored, up to this number where one is given; by number, why one is not
        decided. `undos`: voids and refunds too, which wait for all before them."""

        def waiting() -> list[Parcel]:
            found = self.waiting(undos=undos)
            return [each for each in found if through is None or each.sequence <= through]

        return self._forwarder.forward(waiting)

    def forward_behind(self, own: Parcel) -> str | None:
        """Send this parcel with whatever must go before it; why it is not decided."""
        problems = self._forwarder.forward(
            lambda: [*(p for p in self.waiting() if p.sequence < own.sequence), own]
        )
        return problems.get(own.sequence)

    def forward_again(self, held: Attempt) -> str | None:
        """Send a sale that the ledger holds once more; why it is not decided."""
        parcel = self._acceptor.parcel(held)
        return self._forwarder.forward(lambda: [parcel]).get(parcel.sequence)

    def forward_plain(self) -> str | None:
        """Send all that is stored; why not, if one that is nobody's redemption was not accepted."""
        problems = self.forward(undos=False)
        waiting = [each.sequence for each in self._journal.unanswered(*ALONE)]
        return next((problems[each] for each in reversed(waiting) if each in problems), None)

    def take(self, answers: Answers) -> dict[int, str | None]:
        """As `Forwarder.take`, of all that waits."""
        return self._forwarder.take(self.waiting, answers)

    def waiting(self, *, undos: bool = True) -> list[Parcel]:
        """All of it, whether or not its time has come."""
        plain = [self._plain_parcel(each) for each in self._journal.unanswered(*ALONE)]
        taking_back = self._corrector.waiting() if undos else []
        return [*plain, *self._acceptor.waiting(), *taking_back]

    def _plain_parcel(self, written: Record) -> Parcel:
        return Parcel(
            (written,),
            (envelope(written),),
            lambda results: self._keep_plain(written, results[0]),
        )

    def _keep_plain(self, written: Record, result: Mapping[str, Any]) -> str | None:
        found, problem = self._word.read(written, result)
        if found is not None and found.reason is not None:
            # Sent again until it is decided.
            self._journal.keep_held(found)
            return holding.sentence(found.reason, "en")
        if found is not None:
            self._journal.keep_outcome(written, found)
        return problem
