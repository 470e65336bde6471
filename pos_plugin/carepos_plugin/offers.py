"""Offers on the screen: shown once, redeemed at most once, gone after a while.

They live in memory only, because each holds a scanned code (INV-10). A sale has one offer: the next
scan ends it, whatever comes of that scan, so that nobody pays from the voucher of the customer
before. A redeemed offer forgets the code at once and remembers only what became of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from carepos import Offer, Sale
from carepos.ids import RandomBytes
from carepos.keys import b64

MOST: Final = 200
"""Offers held at once; the oldest that is not at work makes room."""


@dataclass(slots=True)
class Held:
    """One offer, locked by `working` while it is redeemed.

    `sale` is what became of it; without `offer` and `sale` it is over.
    """

    id: str
    checkout: str
    offer: Offer | None
    until: float
    sale: Sale | None = None
    working: threading.Lock = field(default_factory=threading.Lock)

    def __repr__(self) -> str:
        return f"Held({self.id})"


class OfferBook:
    """The offers of one till. `life_s` counts from the scan; safe to use from several threads."""

    def __init__(
        self, *, life_s: float, monotonic: Callable[[], float], random_bytes: RandomBytes
    ) -> None:
        self._life_s = life_s
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._held: dict[str, Held] = {}
        self._mutex = threading.Lock()

    def put(self, checkout: str, offer: Offer) -> str | None:
        """The offer's id; None while another customer's offer for this sale is being redeemed.

        A double scan that offers the same again keeps its id.
        """
        with self._mutex:
            self._forget_expired()
            until = self._monotonic() + self._life_s
            for before in self._open(checkout):
                if before.offer is not None and _same(before.offer, offer):
                    # In place: it may be in the middle of being redeemed.
                    before.offer, before.until = offer, until
                    return before.id
                if before.working.locked():
                    return None
                self._end(before)
            if len(self._held) >= MOST:
                # No more are at work than the server has threads, so there is one.
                self._end(next(h for h in self._held.values() if not h.working.locked()))
            made = Held(b64(self._random_bytes(16)), checkout, offer, until)
            self._held[made.id] = made
            return made.id

    def get(self, offer_id: str) -> Held | None:
        """None when there is none of this id any more."""
        with self._mutex:
            self._forget_expired()
            return self._held.get(offer_id)

    def end(self, checkout: str) -> None:
        """The sale's offer can't be redeemed any more, unless it is being redeemed."""
        with self._mutex:
            for held in self._open(checkout):
                if not held.working.locked():
                    self._end(held)

    def offer_of(self, held: Held) -> Offer | None:
        """To be asked with `held.working` taken: from then on no scan can end the offer."""
        with self._mutex:
            return held.offer

    def spend(self, held: Held, sale: Sale) -> None:
        """Note what became of the offer and forget the code in it."""
        with self._mutex:
            held.sale = sale
            held.offer = None

    def forget_expired(self) -> None:
        """Called every so often, so that no code stays in memory over night."""
        with self._mutex:
            self._forget_expired()

    def __len__(self) -> int:
        return len(self._held)

    def _open(self, checkout: str) -> list[Held]:
        return [h for h in self._held.values() if h.checkout == checkout and h.offer is not None]

    def _end(self, held: Held) -> None:
        del self._held[held.id]
        held.offer = None

    def _forget_expired(self) -> None:
        now = self._monotonic()
        for held in list(self._held.values()):
            # A second click while the first is at work must find what the first is doing.
            if held.until <= now and not held.working.locked():
                self._end(held)


def _same(one: Offer, other: Offer) -> bool:
    """Whether the same code was offered the same for the same goods."""
    return (
        one.holder.identity.token_sha256 == other.holder.identity.token_sha256
        and one.programme == other.programme
        and one.situation.lines == other.situation.lines
        and one.proposal.allocation == other.proposal.allocation
    )
