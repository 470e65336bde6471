"""Whether a till could sell if the network went now, for how long and how much.

The pack's households are sealed, so what they may buy is the ledger's word in the pack, less what
this journal took since (docs/offline.md §5). Nothing is asked and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from carepos import put_back
from carepos.clock_ratchet import ClockRatchet
from carepos.disk_room import Room
from carepos.journal_view import JournalView
from carepos.offline_rule import OfflineRule
from carepos.pack import Pack
from carepos.set_aside import UNCERTAINTY
from carepos.voucher import Programme

Why = Literal[
    "terminal_revoked",
    "terminal_forked",
    "terminal_suspended",
    "put_back",
    "clock_wrong",
    "disk_failed",
    "disk_full",
    "no_pack",
    "pack_damaged",
    "no_households",
    "nobody_at_home",
    "offline_not_allowed",
    "pack_old",
    "no_evidence_key",
    "nothing_set_aside",
    "stored_full",
]
"""Why a till could sell nothing without a network, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Amount:
    """So many minor units of a currency."""

    currency: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What of a programme left without the ledger's word and has no final outcome, against the
    limits of the pack's rules; None where those are not known."""

    programme: str
    name: str
    currency: str
    count: int
    amount_minor: int
    most_count: int | None
    most_minor: int | None

    @property
    def left_minor(self) -> int | None:
        """What may still be stored; None without a limit."""
        if self.most_count is None or self.most_minor is None:
            return None
        return max(0, self.most_minor - self.amount_minor) if self.count < self.most_count else 0


@dataclass(frozen=True, slots=True)
class Readiness:
    """`until`: when the first of its limits ends it, None where it is not ready. `households`: how
    many are at home in this shop. `sums`: what is set aside for them all and not sold yet, at most.
    `room`: how much may be stored before it must go up, where limits are narrower less than that.
    """

    why_not: tuple[Why, ...]
    until: datetime | None
    households: int
    sums: tuple[Amount, ...]
    room: tuple[Amount, ...]
    stored: tuple[Stored, ...]

    @property
    def is_ready(self) -> bool:
        return not self.why_not


def of(held: Pack | None, journal: JournalView, ratchet: ClockRatchet, disk: Room) -> Readiness:
    """As things stand now."""
    now, rules = ratchet.now(), _rules(held, ratchet.now())
    told = None if held is None else held.households
    if told is not None and told.incarnation != journal.about().get("incarnation"):
        told = None  # a pack of another journal opens to nobody here
    stored = stored_of(held, journal)
    room = _room(stored, rules)
    sums = () if held is None or told is None else _sums(held, journal)
    why: list[Why] = []
    stopped = journal.not_served_for()
    if stopped is not None:
        why.append(stopped)
    if put_back.holding_back(journal):
        why.append("put_back")
    if ratchet.is_wrong:
        why.append("clock_wrong")
    if disk.state == "failed":
        why.append("disk_failed")
    if disk.state == "full":
        why.append("disk_full")
    if held is None:
        return Readiness((*why, "no_pack"), None, 0, (), (), stored)
    until = _until(held, rules)
    households = 0 if told is None else told.count
    if not held.is_whole:
        why.append("pack_damaged")
    elif told is None:
        if stopped is None:  # who is suspended is given none, and asking again brings none
            why.append("no_households")
    elif not households:
        why.append("nobody_at_home")
    if not rules:
        why.append("offline_not_allowed")
    elif until is not None and until <= now:
        why.append("pack_old")
    if told is not None and held.evidence_key is None:
        why.append("no_evidence_key")
    by_floor = any(rule.floor is not None for _, rule in rules)
    told_nothing = held.allotted is not None and not any(each.amount_minor for each in sums)
    if households and rules and told_nothing and not by_floor:
        why.append("nothing_set_aside")
    if rules and not any(each.amount_minor for each in room):
        why.append("stored_full")
    return Readiness(
        tuple(why),
        None if why else until,
        households,
        sums,
        room,
        stored,
    )


def stored_of(held: Pack | None, journal: JournalView) -> tuple[Stored, ...]:
    """Of every programme that may store sales or has some stored, in order of its id."""
    programmes: Mapping[str, Programme] = {} if held is None else held.programmes
    found = {name for name, each in programmes.items() if each.offline is not None}
    kept = journal.stored_by_programme()
    made = []
    for name in sorted(found | kept.keys()):
        programme, own = programmes.get(name), kept.get(name)
        rule = None if programme is None else programme.offline
        made.append(
            Stored(
                name,
                name if programme is None else programme.name,
                own.currency if own is not None else programmes[name].currency,
                0 if own is None else own.count,
                0 if own is None else own.amount_minor,
                None if rule is None else rule.stored_count,
                None if rule is None else rule.stored_sum_minor,
            )
        )
    return tuple(made)


def _rules(held: Pack | None, now: datetime) -> list[tuple[Programme, OfflineRule]]:
    """The programmes that may be redeemed without a network now."""
    return [
        (each, each.offline)
        for each in ({} if held is None else held.programmes).values()
        if each.offline is not None
        and each.stores
        and not each.paused
        and each.starts_at <= now < each.ends_at
    ]


def _until(held: Pack, rules: Sequence[tuple[Programme, OfflineRule]]) -> datetime | None:
    """When the first programme's pack is too old, or the last allotment is over."""
    ends = [held.issued_at + timedelta(seconds=rule.pack_age_s) for _, rule in rules]
    if held.households is not None and held.households.dates:
        ends.append(max(spend for spend, _ in held.households.dates) - UNCERTAINTY)
    return min(ends, default=None)


def _sums(held: Pack, journal: JournalView) -> tuple[Amount, ...]:
    drawn = journal.drawn_since(held.issued_at)
    return tuple(
        Amount(currency, max(0, minor - drawn.get(currency, 0)))
        for currency, minor in sorted((held.allotted or {}).items())
    )


def _room(
    stored: Sequence[Stored], rules: Sequence[tuple[Programme, OfflineRule]]
) -> tuple[Amount, ...]:
    running = {programme.programme for programme, _ in rules}
    found: dict[str, int] = {}
    for each in stored:
        if each.programme in running:
            found[each.currency] = found.get(each.currency, 0) + (each.left_minor or 0)
    return tuple(Amount(*each) for each in sorted(found.items()))
