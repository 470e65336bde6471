"""What could be redeemed for a basket: the programmes that a holder has vouchers of, and the rules.

Takes nothing. Where the ledger answered, its vouchers are offered; where it did not, what this till
may give by itself (docs/offline.md §6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from carepos import rules, token
from carepos.acceptor import Acceptor
from carepos.basket import Line, lines_from_json
from carepos.clock import Clock
from carepos.errors import Refused
from carepos.pack import Pack
from carepos.pack_keeper import PackKeeper
from carepos.refusals import Refusal
from carepos.rules import Acted, Situation
from carepos.sale import Offer
from carepos.scan import Holder
from carepos.voucher import Programme


class Proposer:
    """One till's; `store` is where it stands."""

    def __init__(
        self, packs: PackKeeper, acceptor: Acceptor, *, store: Callable[[], str], now: Clock
    ) -> None:
        self._packs = packs
        self._acceptor = acceptor
        self._store = store
        self._now = now

    def propose(self, holder: Holder, lines: Sequence[Line], programme: str | None) -> Offer:
        """The offer of one programme; without `programme`, of the one whose usable voucher expires
        first. Raises Refused (voucher_unknown, other_programme), Malformed for a bad basket,
        Unreachable while there is no pack."""
        basket = _checked(lines)
        held = self._packs.get()
        offers = [
            self._offer(holder, each, held, basket)
            for each in held.programmes.values()
            if programme in (None, each.programme)
            and any(v.programme == each.programme for v in holder.vouchers)
        ]
        if not offers:
            # The wrong code of a wallet is told apart from one that holds nothing.
            if not holder.vouchers:
                raise Refused(Refusal("voucher_unknown"))
            raise Refused(Refusal("other_programme"), programmes=_names(holder, held))
        return min(offers, key=_preference)

    def _offer(
        self, holder: Holder, programme: Programme, held: Pack, lines: tuple[Line, ...]
    ) -> Offer:
        own = {v.voucher: v for v in holder.vouchers if v.programme == programme.programme}
        situation = Situation(
            programme=programme,
            products=held.product_lists[programme.product_list],
            vouchers=own,
            beneficiary=holder.beneficiary,
            store=self._store(),
            at=self._now(),
            lines=lines,
            acted=None
            if holder.identity.acting is None
            else holder.acted.get(programme.programme, Acted(0, 0)),
        )
        refusal = token.issuer_refusal(holder.identity, programme) or token.fitness_refusal(
            holder.identity, programme, pin_proved=holder.pin_proved
        )
        if refusal is not None:
            nothing = rules.nothing(situation, refusal)
            return Offer(holder, programme, situation, nothing)
        if holder.household is not None:
            return self._without_the_ledger(holder, programme, situation)
        return Offer(holder, programme, situation, rules.propose(situation))

    def _without_the_ledger(
        self, holder: Holder, programme: Programme, situation: Situation
    ) -> Offer:
        """The same rules over what this till may give by itself."""
        try:
            situation = self._acceptor.situation(holder, programme, situation)
            proposal = rules.propose(situation)
            if proposal.refusal is not None or not proposal.allocation:
                return Offer(holder, programme, situation, proposal)
            accepting = self._acceptor.accepting(holder, programme, situation, proposal.allocation)
        except Refused as refused:
            nothing = rules.nothing(situation, refused.refusal)
            return Offer(holder, programme, situation, nothing)
        return Offer(holder, programme, situation, proposal, accepting.liability)


def _names(holder: Holder, held: Pack) -> list[str]:
    """The names of the programmes that somebody holds vouchers of, as the pack has them."""
    return [
        known.name if (known := held.programmes.get(programme)) is not None else programme
        for programme in sorted({voucher.programme for voucher in holder.vouchers})
    ]


def _checked(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Lines as if they had come over the wire, so that a caller's slip is found here."""
    return lines_from_json([{**line.to_json(), "description": line.description} for line in lines])


def _preference(offer: Offer) -> tuple[bool, datetime]:
    """Offers that redeem something first, then the one whose used voucher expires first."""
    held = offer.situation.vouchers
    used = {entry.voucher for entry in offer.proposal.allocation} or held.keys()
    return offer.refusal is not None, min(held[voucher].expires_at for voucher in used)
