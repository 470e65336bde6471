"""When a till asks again about what is open: soon at first, then ever less often, never in step.

From what was asked before and what came of it, which the journal knows, to the next time. So a
restart neither hammers nor forgets, and 50 tills that find the network again do not arrive
together. What a cashier asks for is asked at once and is no matter of this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from carepos import attempt, correction
from carepos.attempt import Event, State
from carepos.journal_view import Attempt, JournalView, Undo

FIRST_S: Final = 2.0
LONGEST_S: Final = 180.0
STEADY_S: Final = 60.0
"""Between two answers that decide nothing yet, as of a till that is suspended."""

ASKING: Final[frozenset[State]] = attempt.ASKS_LEDGER | {"reversing", "filling", "held"}
"""States in which a till by itself asks or sends again."""

_NOT_ASKED: Final[frozenset[Event | correction.Event]] = frozenset(
    {"restart", "reverse_chosen", "goods_handed_over", "goods_kept"}
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to the ledger, and whether an answer with its signature came."""

    at: datetime
    heard: bool


def asked(events: Iterable[tuple[Event | correction.Event, datetime]]) -> list[Asked]:
    """The questions among the events of an attempt, or of what takes it back, in their order."""
    return [Asked(at, event != "no_answer") for event, at in events if event not in _NOT_ASKED]


def next_try(
    before: Sequence[Asked],
    now: datetime,
    *,
    random: float,
    heard_at: datetime | None = None,
) -> datetime:
    """When to ask again; `now` or earlier: it is due.

    Each question in vain doubles the window, from two seconds to three minutes; the next falls
    anywhere in it (full jitter), by `random`, 0 ≤ r < 1, drawn once for each of them. `heard_at`:
    when the ledger last signed anything, about whatever: what was in vain before that counts no
    more. A clock that was put back behind the last question makes it due.
    """
    if not before or before[-1].at > now:
        return now
    last, missed = before[-1], 0
    if last.heard:
        return last.at + timedelta(seconds=STEADY_S * (1 + random) / 2)
    for each in reversed(before):
        if each.heard or (heard_at is not None and each.at < heard_at):
            break
        missed += 1
    window_s = min(FIRST_S * 2.0 ** min(missed - 1, 60), LONGEST_S) if missed else 0
    return last.at + timedelta(seconds=random * window_s)


def of_attempt(
    journal: JournalView, sale: Attempt, now: datetime, *, heard_at: datetime | None = None
) -> datetime | None:
    """When a till asks about this attempt again by what its journal knows; None where it waits for
    nobody, or for a person."""
    if sale.state not in ASKING:
        return None
    return _of(sale.id, journal.events_of(sale.id), now, heard_at)


def of_undo(
    journal: JournalView, of: Undo, now: datetime, *, heard_at: datetime | None = None
) -> datetime | None:
    """As `of_attempt`, of a void or refund, which is sent until it is decided."""
    if of.state != "waiting":
        return None
    return _of(of.id, journal.events_of_undo(of.id), now, heard_at)


def _of(
    an_id: str,
    events: Iterable[tuple[Event | correction.Event, datetime]],
    now: datetime,
    heard_at: datetime | None,
) -> datetime:
    before = asked(events)
    return next_try(before, now, random=share(an_id, len(before)), heard_at=heard_at)


def share(*facts: object) -> float:
    """A number 0 ≤ r < 1 that is the same for the same facts: after a restart nothing is drawn
    anew, and two tills draw differently."""
    text = "carepos/backoff/v1|" + "|".join(map(str, facts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2.0**48
