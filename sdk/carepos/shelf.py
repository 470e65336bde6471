"""What a holder's vouchers may give at this till without the ledger, as pack and journal have it.

Reads only: the till sells by it (`acceptor`), and a drill tells what it could sell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from carepos import offline, put_back, set_aside
from carepos.clock_ratchet import ClockRatchet
from carepos.errors import Refused
from carepos.households import Household
from carepos.journal_view import JournalView
from carepos.offline import Allotted, OfflineState
from carepos.outcome import HeldReason
from carepos.pack_keeper import PackKeeper
from carepos.refusals import Refusal
from carepos.rules import Situation
from carepos.scan import Holder
from carepos.set_aside import Taken
from carepos.voucher import Programme, Voucher


@dataclass(frozen=True, slots=True)
class Shelf:
    """One holder's vouchers of one programme, and what the till knows of itself."""

    beneficiary: str
    vouchers: Mapping[str, Voucher]
    state: OfflineState


class Shelves:
    """One till's. `stopped_for` says why the ledger stopped it, if it did."""

    def __init__(
        self,
        journal: JournalView,
        packs: PackKeeper,
        ratchet: ClockRatchet,
        *,
        stopped_for: Callable[[], HeldReason | None],
    ) -> None:
        self._journal = journal
        self._stopped_for = stopped_for
        self._packs = packs
        self._ratchet = ratchet

    def of(self, holder: Holder, programme: Programme, own: str | None = None) -> Shelf:
        """What the pack and the journal say now of a holder's vouchers of a programme, without what
        was noted for the attempt `own`. Raises Refused (holder_not_in_pack)."""
        held, now = self._packs.held, self._ratchet.now()
        household = self._packs.household(holder.identity.iss, holder.identity.sub)
        if held is None or held.households is None or household is None:
            raise Refused(Refusal("holder_not_in_pack"))
        taken = [t for v in household.vouchers for t in self._journal.taken_of(v.voucher, own)]
        told = set_aside.vouchers_of(household, held.households.kinds, taken, held.issued_at)
        rule, beyond_minor = programme.offline, 0
        if rule is not None and rule.floor is not None:
            since = now - timedelta(seconds=rule.floor.window_s)
            beyond_minor = self._journal.beyond_of(
                household.beneficiary, programme.programme, since
            )
        stored_minor, stored_count = self._journal.stored(programme.programme)
        state = OfflineState(
            rule,
            allotted=self._left(household, taken, now),
            # The time is never before what the ledger signed and the hours that ran since.
            pack_age_s=int((now - held.issued_at).total_seconds()),
            is_clock_behind=self._ratchet.is_wrong,
            is_acting=holder.identity.acting is not None,
            beyond_minor=beyond_minor,
            stored_minor=stored_minor,
            stored_count=stored_count,
        )
        own_vouchers = {v.voucher: v for v in told if v.programme == programme.programme}
        return Shelf(household.beneficiary, own_vouchers, state)

    def situation(self, holder: Holder, programme: Programme, asked: Situation) -> Situation:
        """`asked` with the holder's vouchers as far as this till may give of them without the
        ledger. Raises Refused where it may not give at all."""
        self.must_be_able(holder)
        shelf = self.of(holder, programme)
        refusal = offline.refusal(shelf.vouchers, (), shelf.state)
        if refusal is not None:
            raise Refused(refusal)
        return self.situated(shelf, asked)

    def must_be_able(self, holder: Holder) -> None:
        """Raises Refused: terminal_revoked or terminal_forked at a till that the ledger stopped,
        for nothing that it sells is booked but by hand, and terminal_forked at one that was put
        back and has forgotten what it sold (`put_back`); token_expired for a code that was good
        when it was scanned and is not any more, for the ledger will judge it by the time of the
        sale."""
        stopped = self._stopped_for()
        if stopped is not None:
            raise Refused(Refusal(stopped))
        if put_back.holding_back(self._journal):
            raise Refused(Refusal("terminal_forked"))
        if self._ratchet.now() >= holder.identity.expires_at:
            raise Refused(Refusal("token_expired"))

    def situated(self, shelf: Shelf, asked: Situation) -> Situation:
        """`asked` as of now, with what the shelf may give."""
        return replace(
            asked,
            vouchers=offline.offered(shelf.vouchers, shelf.state),
            beneficiary=shelf.beneficiary,
            at=self._ratchet.now(),
        )

    def left(self, household: Household) -> tuple[Allotted, ...]:
        """What this till's allotments of a household still hold and may be spent now."""
        taken = [t for v in household.vouchers for t in self._journal.taken_of(v.voucher)]
        return self._left(household, taken, self._ratchet.now())

    def _left(
        self, household: Household, taken: Sequence[Taken], now: datetime
    ) -> tuple[Allotted, ...]:
        held = self._packs.held
        if held is None or held.households is None:
            return ()
        returned = self._journal.returned_allotments()
        return set_aside.left(household.vouchers, held.households.dates, taken, returned, now)
