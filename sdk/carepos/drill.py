"""An outage played: what a till could sell if the network went now.

Pack, journal and rules are the real ones, with the cable pulled out: nobody is asked, nothing is
sold and nothing is written, so it can be done beside a running till.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from carepos import evidence, ids, key_change, pack, readiness, rules, token
from carepos.client import Client, Transport
from carepos.clock_ratchet import ClockRatchet
from carepos.disk_room import Room
from carepos.errors import Malformed, Refused, Unreachable
from carepos.journal_view import JournalView
from carepos.pack_keeper import PackKeeper
from carepos.readiness import Readiness
from carepos.refusals import Refusal
from carepos.rules import Situation
from carepos.scan import Holder, PinTried, Scanner
from carepos.shelf import Shelves
from carepos.voucher import Programme, Voucher


@dataclass(frozen=True, slots=True)
class Could:
    """What somebody could use of one programme: the vouchers as far as this till may give of them,
    or why it may give nothing."""

    programme: Programme
    vouchers: tuple[Voucher, ...]
    refusal: Refusal | None


class Drill:
    """One till's, for once: `pin_tried` counts a card's PIN; without it none may be given."""

    def __init__(
        self,
        folder: Path,
        journal: JournalView,
        ratchet: ClockRatchet,
        *,
        pin_tried: PinTried | None = None,
    ) -> None:
        key, self._enrolled = key_change.load_terminal(folder)
        keys, terminal = self._enrolled.ledger_keys.keys, self._enrolled.terminal
        ledger = self._enrolled.ledger_keys.ledger
        client = Client(_CableOut(), terminal=terminal, ledger=ledger, key=key, now=ratchet.now)
        self._journal = journal
        self._ratchet = ratchet
        self._takes_pins = pin_tried is not None
        self._packs = PackKeeper(
            folder,
            terminal=terminal,
            keys=keys,
            client=client,
            now=ratchet.now,
            heard=lambda signed: None,
            held=pack.kept(folder, terminal=terminal, keys=keys),
            incarnation=journal.about()["incarnation"],
        )
        self._scanner = Scanner(
            terminal=terminal,
            keys=keys,
            packs=self._packs,
            journal=journal,
            pin_tried=pin_tried or _no_pin,
            client=client,
            now=ratchet.now,
            heard=_deaf,
            learn_time=lambda: False,
        )
        self._shelves = Shelves(journal, self._packs, ratchet, stopped_for=journal.stopped_for)

    def readiness(self, disk: Room) -> Readiness:
        """As `readiness.of`, by the pack as it lies on the disk now."""
        return readiness.of(self._packs.held, self._journal, self._ratchet, disk)

    def seals(self) -> bool:
        """Whether evidence can be sealed to the ledger's key."""
        held = self._packs.held
        if held is None or held.evidence_key is None:
            return False
        an_id = ids.new_attempt_id(0, self._ratchet.now(), os.urandom)
        try:
            evidence.seal(
                "drill", key=held.evidence_key, terminal=self._enrolled.terminal, attempt_id=an_id
            )
        except Malformed:
            return False
        return True

    def could_use(self, code: str, pin: str | None = None) -> tuple[Could, ...]:
        """What whoever presents this code could use without a network, by programme.

        Raises Refused where the code is no good without one (pin_required of a card without its
        PIN, holder_not_in_pack, …); Unreachable where there is no pack to say so.
        """
        assert pin is None or self._takes_pins
        holder = self._scanner.scan(code, pin)
        held = self._packs.get()
        return tuple(
            self._could(holder, each, held)
            for each in held.programmes.values()
            if any(voucher.programme == each.programme for voucher in holder.vouchers)
        )

    def _could(self, holder: Holder, programme: Programme, held: pack.Pack) -> Could:
        asked = Situation(
            programme=programme,
            products=held.product_lists[programme.product_list],
            vouchers={},
            beneficiary=holder.beneficiary,
            store=self._enrolled.store,
            at=self._ratchet.now(),
            lines=(),
            acted=None,
        )
        refusal = token.issuer_refusal(holder.identity, programme) or token.fitness_refusal(
            holder.identity, programme, pin_proved=holder.pin_proved
        )
        try:
            situation = self._shelves.situation(holder, programme, asked)
        except Refused as refused:
            return Could(programme, (), refusal or refused.refusal)
        refusal = refusal or rules.propose(situation).refusal
        vouchers = tuple(
            each for each in situation.vouchers.values() if _can_give(each, situation.at)
        )
        if refusal is None and not vouchers:
            refusal = Refusal("allotment_exceeded")
        return Could(programme, () if refusal is not None else vouchers, refusal)


def _can_give(voucher: Voucher, at: datetime) -> bool:
    holds = voucher.available_minor if voucher.terms is None else voucher.available_quantity
    return holds > 0 and not voucher.frozen and voucher.starts_at <= at < voucher.expires_at


class _CableOut(Transport):
    """The way to a ledger that nobody goes."""

    def __init__(self) -> None:
        super().__init__("http://drill.invalid")

    def call(self, method: str, target: str, **more: Any) -> tuple[int, Mapping[str, str], bytes]:
        raise Unreachable("a drill asks nobody")


def _no_pin(card: str, *, right: bool) -> int:
    raise AssertionError("a PIN that nobody counts")


def _deaf(signed: object, *, fresh: bool = False) -> None:
    """Nobody speaks."""
